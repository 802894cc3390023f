"""Registries behind TLS with a private authority: trusted when its certificate is where Docker keeps them, else not."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.errors import InvalidArgument, Upstream
from api.types.auth import AuthConfig
from tests.unit.images.archives import two_layers
from tests.unit.images.conftest import Host
from tests.unit.images.registry_server import RegistryServer
from worker.engine.images.certificates import tls_context
from worker.engine.images.names import parse
from worker.engine.images.progress import silent
from worker.engine.images.registry import RegistryConfig, endpoints
from worker.engine.images.service import ImageService

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and whiteouts need root")]
NAME = "registry.test"


@dataclass
class Authority:
    """A certificate authority made for the test."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _certificate("authority", key, key, "authority", authority=True))

    def issue(self, name: str, certificate: Path, key: Path) -> None:
        """Write a certificate for `name`, and its key."""
        own = ec.generate_private_key(ec.SECP256R1())
        issued = _certificate(name, own, self.key, "authority", authority=False)
        certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def write(self, path: Path) -> None:
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, issuer: str, *, authority: bool
) -> x509.Certificate:
    def called(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(called(issuer), called(name), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer, hashes.SHA256())


@pytest.fixture
def authority() -> Authority:
    return Authority.make()


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that is no loopback address to the client, which would trust that without a certificate."""
    import socket

    real = socket.getaddrinfo

    def resolve(host: object, *args: object, **kwargs: object) -> object:
        return real("127.0.0.1" if host == NAME else host, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return NAME


@pytest.fixture
async def registry(authority: Authority, name: str, tmp_path: Path) -> AsyncIterator[RegistryServer]:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    authority.issue(name, certificate, key)
    server = RegistryServer()
    server.name = name
    server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.tls.load_cert_chain(certificate, key)
    async with server:
        server.add("app", "v1", two_layers())
        yield server


@pytest.fixture
def service(host: Host, tmp_path: Path) -> ImageService:
    return ImageService(host.store, RegistryConfig(certificates=tmp_path / "certs.d", retry_delay_s=0.01))


def own(tmp_path: Path, registry: RegistryServer) -> Path:
    directory = tmp_path / "certs.d" / registry.host
    directory.mkdir(parents=True)
    return directory


async def test_an_unknown_authority_is_not_trusted(host: Host, service: ImageService, registry: RegistryServer) -> None:
    with pytest.raises(Upstream, match="certificate verify failed"):
        await service.pull(f"{registry.host}/app:v1")
    assert registry.requests == []
    assert await host.files() == (set(), set())


async def test_a_known_one_is_and_without_a_restart(
    service: ImageService, registry: RegistryServer, authority: Authority, tmp_path: Path
) -> None:
    authority.write(own(tmp_path, registry) / "ca.crt")
    registry.tokens_needed, registry.password = True, "secret"
    auth = AuthConfig(username="user", password="secret")
    image = await service.pull(f"{registry.host}/app:v1", auth)
    await service.tag(image, f"{registry.host}/app", "v2")
    await service.push(f"{registry.host}/app", "v2", auth, silent)
    assert ("app", "v2") in registry.manifests


async def test_a_registry_that_asks_who_we_are(
    service: ImageService, registry: RegistryServer, authority: Authority, tmp_path: Path
) -> None:
    directory = own(tmp_path, registry)
    authority.write(directory / "ca.crt")
    assert registry.tls is not None
    registry.tls.verify_mode = ssl.CERT_REQUIRED
    registry.tls.load_verify_locations(directory / "ca.crt")
    with pytest.raises(Upstream):
        await service.pull(f"{registry.host}/app:v1")
    authority.issue("we", directory / "client.cert", directory / "client.key")
    assert await service.pull(f"{registry.host}/app:v1")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"client.cert": b""}, "missing key client.key for client certificate client.cert"),
        ({"client.key": b""}, "missing client certificate client.cert for key client.key"),
        ({"ca.crt": b"nonsense"}, "ca.crt"),
    ],
)
def test_files_that_can_not_be_used_are_named(tmp_path: Path, files: dict[str, bytes], told: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgument, match=told):
        tls_context(tmp_path, verify=True)


def test_each_registry_has_a_directory_of_its_own() -> None:
    config = RegistryConfig(certificates=Path("/c"), mirrors=["https://mirror:5000"], insecure=["plain:5000"])

    def places(name: str) -> list[Path | None]:
        return [endpoint.certificates for endpoint in endpoints(parse(name), config)]

    assert places("example.com/app") == [Path("/c/example.com")]
    assert places("example.com:444/app") == [Path("/c/example.com:444")]
    assert places("plain:5000/app") == [Path("/c/plain:5000"), None]
    assert places("busybox") == [Path("/c/mirror:5000"), Path("/c/docker.io")]

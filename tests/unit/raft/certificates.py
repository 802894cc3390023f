"""A throw-away authority for tests, so that the real mutual TLS path is used."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVER_NAME = "swarm-manager"


@dataclass(frozen=True)
class Identity:
    key: bytes
    certificate: bytes
    root: bytes

    def server(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials([(self.key, self.certificate)], self.root, True)

    def channel(self, addr: str, options: list[tuple[str, object]]) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self.root, self.key, self.certificate)
        options = [*options, ("grpc.ssl_target_name_override", SERVER_NAME)]
        return grpc.aio.secure_channel(addr, credentials, options=options)


class Authority:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self._root = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None), [])

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraints: x509.BasicConstraints,
        names: list[x509.GeneralName],
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(constraints, critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, node_id: str, role: str = "swarm-manager") -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [
            (NameOID.COMMON_NAME, node_id),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            (NameOID.ORGANIZATION_NAME, "cluster"),
        ]
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        certificate = self._sign(subject, key, constraints, [x509.DNSName(SERVER_NAME)])
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Identity(private, certificate.public_bytes(pem), self._root.public_bytes(pem))

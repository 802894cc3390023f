"""Who this node is: its certificate, key and root, and the directory they live in.

`<data-root>/swarm/certificates/` holds `swarm-node.crt`, `swarm-node.key` and `swarm-root-ca.crt`, mode 0600. A pair is
replaced so that a crash at any moment leaves a certificate with its key (and the certificate for renewal in one file
with it): the new key is laid beside the old one, the
certificate's rename is the commit, and `load` finishes what a crash interrupted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from base.clock import NS
from ca.certificates import BACKDATE_NS, ROLE_PREFIX, is_authority, same_key
from ca.rotation import issuer_among
from ca.tokens import root_digest

_PEM_END = b"-----END CERTIFICATE-----"
CERTIFICATE, KEY, NEXT_KEY, ROOT = "swarm-node.crt", "swarm-node.key", "swarm-node.key.next", "swarm-root-ca.crt"


@dataclass(frozen=True)
class Identity:
    """A node's proof of being itself."""

    node_id: str
    role: str
    """`worker` or `manager`."""
    cluster_id: str
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    root_pem: bytes = b""
    renewal_pem: bytes = b""
    """For the same key; see `ca.certificates.issue_renewal`."""
    intermediates_pem: bytes = b""
    """Shown along with either; see `ca.rotation`."""

    @classmethod
    def from_pem(
        cls,
        certificate_pem: bytes,
        key_pem: bytes,
        root_pem: bytes,
        renewal_pem: bytes = b"",
        intermediates_pem: bytes = b"",
    ) -> Identity:
        """Read id, role and cluster from the certificate. Raises ValueError when it is no node certificate."""
        subject = x509.load_pem_x509_certificate(certificate_pem).subject
        values = [
            str(attribute.value)
            for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME)
            for attribute in subject.get_attributes_for_oid(oid)
        ]
        if len(values) != 3 or not values[1].startswith(ROLE_PREFIX):
            raise ValueError("not a node certificate")
        role = values[1].removeprefix(ROLE_PREFIX)
        names = (values[0], role, values[2])
        return cls(*names, certificate_pem, key_pem, root_pem, renewal_pem, intermediates_pem)

    @property
    def shown_pem(self) -> bytes:
        """What a client shows: its certificate, and what a manager needs that does not know its signer yet."""
        return self.certificate_pem + self.intermediates_pem

    @property
    def chain_pem(self) -> bytes:
        """What a server shows: also the roots, so that a joiner can recognise its own by digest."""
        return self.shown_pem + self.root_pem

    @property
    def root_digest(self) -> str:
        """Of the root that signed the certificate itself; empty when that is none of ours."""
        issuer = issuer_among(self.root_pem, self.certificate_pem)
        return root_digest(issuer.public_bytes(Encoding.PEM)) if issuer is not None else ""

    @property
    def issued_ns(self) -> int:
        """When the certificate was made (not the backdated time it is valid from)."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        return int(certificate.not_valid_before_utc.timestamp()) * NS + BACKDATE_NS

    @property
    def expires_ns(self) -> int:
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        return int(certificate.not_valid_after_utc.timestamp()) * NS


def _split(pem: bytes) -> list[bytes]:
    return [part.lstrip(b"\n") + _PEM_END + b"\n" for part in pem.split(_PEM_END)[:-1]]


def blocks(pem: bytes) -> frozenset[bytes]:
    """The certificates of a bundle, each in PEM, to compare bundles."""
    return frozenset(_split(pem))


def _parted(pem: bytes) -> tuple[bytes, bytes, bytes]:
    """The node's certificate, the one for renewal and the intermediate ones behind it (empty if there are none)."""
    parts = _split(pem)
    kinds = [is_authority(x509.load_pem_x509_certificate(part)) for part in parts]
    renewal = [part for part, above in zip(parts[1:], kinds[1:], strict=True) if not above]
    intermediates = [part for part, above in zip(parts[1:], kinds[1:], strict=True) if above]
    return b"".join(parts[:1]), b"".join(renewal), b"".join(intermediates)


class IdentityStore:
    """The certificates directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, identity: Identity) -> None:
        """Durable on return."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._replace(ROOT, identity.root_pem)
        self._replace(NEXT_KEY, identity.key_pem)
        self._replace(CERTIFICATE, identity.certificate_pem + identity.renewal_pem + identity.intermediates_pem)
        (self._directory / NEXT_KEY).rename(self._directory / KEY)
        self._sync_directory()

    def save_roots(self, roots_pem: bytes) -> None:
        """Trust these from now on; they include the one that signed the node's certificate. Durable on return."""
        self._replace(ROOT, roots_pem)

    def load(self) -> Identity | None:
        """The stored identity; None if there is none. Raises ValueError when the files don't belong together."""
        try:
            certificate, renewal, intermediates = _parted((self._directory / CERTIFICATE).read_bytes())
            root = (self._directory / ROOT).read_bytes()
        except FileNotFoundError:
            return None
        for name in (KEY, NEXT_KEY):
            path = self._directory / name
            key = path.read_bytes() if path.exists() else b""
            if key and same_key(certificate, key):
                self._settle(name)
                return Identity.from_pem(certificate, key, root, renewal, intermediates)
        raise ValueError(f"{self._directory}: no key for the node certificate")

    def remove(self) -> None:
        """Forget who we were (`docker swarm leave`)."""
        for name in (CERTIFICATE, KEY, NEXT_KEY, ROOT):
            (self._directory / name).unlink(missing_ok=True)

    def _settle(self, name: str) -> None:
        if name == NEXT_KEY:
            (self._directory / NEXT_KEY).rename(self._directory / KEY)
            self._sync_directory()
        else:
            (self._directory / NEXT_KEY).unlink(missing_ok=True)

    def _replace(self, name: str, content: bytes) -> None:
        temporary = self._directory / f".{name}.tmp"
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(self._directory / name)
        self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

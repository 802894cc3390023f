"""Making certificates: the root, node leaves, join authorities and what they sign. Pure but for fresh keys.

Shape of a leaf: CN is the node id, OU the role (`swarm-worker`, `swarm-manager`), O the cluster id; CN and OU are also
its DNS names, so a client that asks for the name `swarm-manager` talks to no worker. What a join authority signs can
sign nothing (path length 0); below a root there may be one authority, the next root (ca/rotation.py).

Joining is mutual TLS as well. gRPC's server demands a client certificate or none at all, so a joiner brings one from
the *join authority*: a key pair that token holder and managers both derive from the token's secret.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.errors import InvalidArgument
from api.types.objects import RootCA
from base.clock import NS
from base.logs import Secret

WORKER, MANAGER = "worker", "manager"
ROLES = (WORKER, MANAGER)
ROLE_PREFIX, JOIN_PREFIX = "swarm-", "swarm-join-"
RENEW_UNIT = "swarm-renew"

HOUR_NS = 3600 * NS
DAY_NS = 24 * HOUR_NS
BACKDATE_NS = 2 * HOUR_NS
"""Certificates are valid from two hours ago: clocks of nodes may differ by an hour."""
ROOT_LIFE_NS = 20 * 365 * DAY_NS
LEAF_LIFE_NS = 90 * DAY_NS
"""Docker's default of `NodeCertExpiry`."""
LEAF_LIFE_MIN_NS = HOUR_NS
JOIN_LEAF_LIFE_NS = 2 * HOUR_NS
RENEWAL_LIFE_NS = 5 * 365 * DAY_NS
"""How long a node may have been off and still come back by itself."""
assert LEAF_LIFE_MIN_NS < LEAF_LIFE_NS < RENEWAL_LIFE_NS < ROOT_LIFE_NS

_KEY_BEGIN = b"-----BEGIN PRIVATE KEY"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its private key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


def create_root(now_ns: int) -> RootCA:
    """A new self-signed P-256 root for a cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _authority("swarm-ca", key, now_ns, path_length=1)
    return RootCA(certificate_pem=certificate.public_bytes(Encoding.PEM), key_pem=key_pem(key))


def read_root(path: Path) -> RootCA:
    """A root that the operator brings: certificate and P-256 key in one PEM file. Raises InvalidArgument."""
    try:
        content = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(content)
        certificate.verify_directly_issued_by(certificate)
    except (OSError, ValueError, TypeError, InvalidSignature) as error:
        raise InvalidArgument(f"{path}: no self-signed certificate: {error}") from None
    pem, key = certificate.public_bytes(Encoding.PEM), load_key(content[max(content.find(_KEY_BEGIN), 0) :])
    if not same_key(pem, key_pem(key)):
        raise InvalidArgument(f"{path}: the key is not the certificate's")
    return RootCA(certificate_pem=pem, key_pem=key_pem(key))


def cross_signed(old: RootCA, new: RootCA, now_ns: int) -> bytes:
    """The new root's name and key, certified by the old root, PEM. Raises InvalidArgument when that one can't."""
    above = x509.load_pem_x509_certificate(old.certificate_pem)
    if above.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0:
        raise InvalidArgument("the present root allows no authority below it (path length 0): it can't be replaced")
    below = x509.load_pem_x509_certificate(new.certificate_pem)
    signer = load_key(old.key_pem)
    builder = _builder(below.subject, above.subject, load_key(new.key_pem).public_key(), now_ns, ROOT_LIFE_NS)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(authority, critical=False).add_extension(_usage(signs=True), critical=True)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def issue(
    root: RootCA, public_key: ec.EllipticCurvePublicKey, *, node_id: str, role: str, cluster_id: str, now_ns: int,
    life_ns: int = LEAF_LIFE_NS,
) -> bytes:  # fmt: skip
    """A node's certificate, PEM.

    Args:
        role: `worker` or `manager`.
        life_ns: from now on; 0 means the default, less than an hour is refused.
    """
    assert role in ROLES, role
    if life_ns and life_ns < LEAF_LIFE_MIN_NS:
        raise InvalidArgument("minimum certificate expiry is 1h0m0s")
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role == MANAGER:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    leaf = _leaf(
        signer=load_key(root.key_pem),
        issuer=x509.load_pem_x509_certificate(root.certificate_pem).subject,
        public_key=public_key,
        name=node_id,
        unit=ROLE_PREFIX + role,
        organization=cluster_id,
        usages=usages,
        now_ns=now_ns,
        life_ns=life_ns or LEAF_LIFE_NS,
    )
    return leaf.public_bytes(Encoding.PEM)


def issue_renewal(
    root: RootCA, public_key: ec.EllipticCurvePublicKey, *, node_id: str, cluster_id: str, now_ns: int
) -> bytes:
    """What a node shows when its certificate has expired, PEM: only the CA takes it, and asks who may come."""
    leaf = _leaf(
        signer=load_key(root.key_pem),
        issuer=x509.load_pem_x509_certificate(root.certificate_pem).subject,
        public_key=public_key,
        name=node_id,
        unit=RENEW_UNIT,
        organization=cluster_id,
        usages=[ExtendedKeyUsageOID.CLIENT_AUTH],
        now_ns=now_ns,
        life_ns=RENEWAL_LIFE_NS,
    )
    return leaf.public_bytes(Encoding.PEM)


# --- join authorities --------------------------------------------------------------------------------------------


def join_authority_key(secret: Secret, digest: str, role: str) -> ec.EllipticCurvePrivateKey:
    """The key pair that a token's secret stands for: HKDF-SHA256 of it, bound to cluster and role.

    48 bytes reduced modulo the group order leave a bias below 2^-128.
    """
    assert role in ROLES, role
    hkdf = HKDF(hashes.SHA256(), length=48, salt=digest.encode(), info=f"shoal join authority 1 {role}".encode())
    scalar = int.from_bytes(hkdf.derive(secret.encode()), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def join_authority(secret: Secret, digest: str, role: str, now_ns: int) -> x509.Certificate:
    """The join authority's own certificate: what a manager puts beside the root in what it trusts."""
    return _authority(_join_name(role), join_authority_key(secret, digest, role), now_ns)


def join_leaf(secret: Secret, digest: str, role: str, now_ns: int) -> KeyPair:
    """What a joiner shows: a short-lived certificate that only a holder of the token can make."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _leaf(
        signer=join_authority_key(secret, digest, role),
        issuer=_name(_join_name(role)),
        public_key=key.public_key(),
        name=f"join-{role}",
        unit=JOIN_PREFIX + role,
        organization="",
        usages=[ExtendedKeyUsageOID.CLIENT_AUTH],
        now_ns=now_ns,
        life_ns=JOIN_LEAF_LIFE_NS,
    )
    return KeyPair(leaf.public_bytes(Encoding.PEM), key_pem(key))


def _join_name(role: str) -> str:
    return f"shoal join {role}"


# --- keys and requests -------------------------------------------------------------------------------------------


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises InvalidArgument unless it is an elliptic-curve private key."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise InvalidArgument("not a private key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidArgument("not an elliptic-curve private key")
    return key


def same_key(certificate_pem: bytes, private_pem: bytes) -> bool:
    """Whether a certificate is for this private key."""
    ours = load_key(private_pem).public_key()
    theirs = x509.load_pem_x509_certificate(certificate_pem).public_key()
    return _spki(ours) == (_spki(theirs) if isinstance(theirs, ec.EllipticCurvePublicKey) else b"")


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign certificates."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signing request, PEM. It names nobody: names are the CA's decision."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose signature proves that the asker has the private one.

    Raises: InvalidArgument, naming what is wrong with the request.
    """
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        valid, key = csr.is_signature_valid, csr.public_key()
    except Exception as error:
        raise InvalidArgument("csr_pem: not a certificate signing request") from error
    if not valid:
        raise InvalidArgument("csr_pem: the signature does not match its key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidArgument("csr_pem: only P-256 keys are accepted")
    return key


# --- building ----------------------------------------------------------------------------------------------------


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _time(ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ns // NS, datetime.UTC)


def _name(common: str, unit: str = "", organization: str = "") -> x509.Name:
    parts = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.ORGANIZATIONAL_UNIT_NAME, unit)]
    attributes = [x509.NameAttribute(oid, value) for oid, value in parts if value]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now_ns: int, life_ns: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now_ns - BACKDATE_NS))
        .not_valid_after(_time(now_ns + life_ns))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority(common: str, key: ec.EllipticCurvePrivateKey, now_ns: int, *, path_length: int = 0) -> x509.Certificate:
    name = _name(common)
    builder = _builder(name, name, key.public_key(), now_ns, ROOT_LIFE_NS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    return builder.add_extension(_usage(signs=True), critical=True).sign(key, hashes.SHA256())


def _leaf(
    *, signer: ec.EllipticCurvePrivateKey, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, name: str,
    unit: str, organization: str, usages: list[x509.ObjectIdentifier], now_ns: int, life_ns: int,
) -> x509.Certificate:  # fmt: skip
    builder = _builder(_name(name, unit, organization), issuer, public_key, now_ns, life_ns)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.DNSName(unit)])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        builder.add_extension(names, critical=False)
        .add_extension(authority, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(signer, hashes.SHA256())
    )

"""Certificates and who may sign them: derivation, issuance, and the check that a role comes from its own authority."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from api.errors import Forbidden, InvalidArgument, Unauthorized
from api.types.objects import Cluster
from ca import certificates as certs
from ca.authorities import Authorities
from ca.tokens import new_tokens, parse_token

NOW = 1_790_000_000_000_000_000
ROOT = certs.create_root(NOW)
CLUSTER = Cluster(id="cluster1", root_ca=ROOT, join_tokens=new_tokens(ROOT.certificate_pem), removed_nodes=["gone"])
AUTHORITIES = Authorities.of(CLUSTER, NOW)


def node(node_id: str = "node1", role: str = "worker", cluster_id: str = "cluster1", root: object = None) -> bytes:
    return certs.issue(
        root or ROOT,  # type: ignore[arg-type]
        certs.new_key().public_key(),
        node_id=node_id,
        role=role,
        cluster_id=cluster_id,
        now_ns=NOW,
    )


def check(pem: bytes, now_ns: int = NOW) -> None:
    AUTHORITIES.check(x509.load_pem_x509_certificate(pem), now_ns)


def joiner(token_text: str, role: str, label: str = "") -> bytes:
    """A leaf signed with the authority that `token_text` gives for `role`, in the name of `label`'s."""
    token = parse_token(token_text)
    signer = certs.join_authority_key(token.secret, token.digest, role)
    return forged(signer, f"swarm-join-{label or role}", issuer=f"shoal join {label or role}")


def forged(signer: ec.EllipticCurvePrivateKey, unit: str, issuer: str, organization: str = "cluster1") -> bytes:
    names = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.ORGANIZATIONAL_UNIT_NAME, unit)]
    subject = x509.Name([*(x509.NameAttribute(*name) for name in names), x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    start = datetime.datetime.fromtimestamp(NOW / 1e9, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(certs.new_key().public_key())
        .serial_number(1)
        .not_valid_before(start - datetime.timedelta(hours=1))
        .not_valid_after(start + datetime.timedelta(hours=1))
        .sign(signer, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


# --- derivation ----------------------------------------------------------------------------------------------------


def public(secret: str, digest: str, role: str) -> ec.EllipticCurvePublicNumbers:
    return certs.join_authority_key(certs.Secret(secret), digest, role).public_key().public_numbers()


def test_the_same_secret_gives_the_same_authority_and_any_change_another() -> None:
    base = public("s" * 25, "d" * 50, "worker")
    assert public("s" * 25, "d" * 50, "worker") == base
    others = [public("t" * 25, "d" * 50, "worker"), public("s" * 25, "e" * 50, "worker")]
    others.append(public("s" * 25, "d" * 50, "manager"))
    assert all(other != base for other in others)


def test_the_derivation_is_pinned() -> None:
    """Joiners and managers of different versions must derive the same key from one token."""
    x = public("s" * 25, "d" * 50, "worker").x
    assert f"{x:064x}" == "a81890196eee6dbd58c84951a728bba14ba9d21f4270893d03c932746aaa226d"


# --- issuance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["worker", "manager"])
def test_a_leaf_says_who_it_is_and_can_sign_nothing(role: str) -> None:
    leaf = x509.load_pem_x509_certificate(node(role=role))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node1", f"swarm-{role}"]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (x509.oid.ExtendedKeyUsageOID.SERVER_AUTH in usages) == (role == "manager")


def test_authorities_sign_leaves_only() -> None:
    token = parse_token(CLUSTER.join_tokens.worker)
    join = certs.join_authority(token.secret, token.digest, "worker", NOW)
    for authority, below in ((join, 0), (x509.load_pem_x509_certificate(ROOT.certificate_pem), 1)):
        limits = authority.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (limits.critical, limits.value.ca, limits.value.path_length) == (True, True, below)


def test_a_life_under_an_hour_is_refused() -> None:
    key = certs.new_key().public_key()
    with pytest.raises(InvalidArgument, match="minimum certificate expiry"):
        certs.issue(ROOT, key, node_id="n", role="worker", cluster_id="c", now_ns=NOW, life_ns=certs.HOUR_NS - 1)


def test_only_the_public_key_of_a_request_is_read_and_it_must_be_proven() -> None:
    key = certs.new_key()
    pem = certs.request(key)
    assert certs.requested_key(pem).public_numbers() == key.public_key().public_numbers()
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(InvalidArgument, match="csr_pem"):
        certs.requested_key(x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM))
    with pytest.raises(InvalidArgument, match="csr_pem: not a"):
        certs.requested_key(b"nonsense")
    weak = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    other = weak.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(InvalidArgument, match="P-256"):
        certs.requested_key(other)


# --- who may say what ----------------------------------------------------------------------------------------------


def test_true_certificates_are_believed() -> None:
    check(node())
    check(node(role="manager"))
    check(joiner(CLUSTER.join_tokens.worker, "worker"))
    check(joiner(CLUSTER.join_tokens.manager, "manager"))


@pytest.mark.parametrize("unit", ["swarm-manager", "swarm-worker", "swarm-join-manager", "", "root"])
@pytest.mark.parametrize("issuer", ["shoal join worker", "shoal join manager", "swarm-ca"])
def test_a_worker_token_makes_nothing_but_worker_joiners(unit: str, issuer: str) -> None:
    token = parse_token(CLUSTER.join_tokens.worker)
    signer = certs.join_authority_key(token.secret, token.digest, "worker")
    with pytest.raises(Unauthorized):
        check(forged(signer, unit or "none", issuer))


def test_a_worker_secret_under_the_managers_label_is_nothing() -> None:
    with pytest.raises(Unauthorized):
        check(joiner(CLUSTER.join_tokens.worker, "manager"))
    with pytest.raises(Unauthorized):
        check(joiner(CLUSTER.join_tokens.worker, "worker", label="manager"))


def test_another_root_of_the_same_name_is_nothing() -> None:
    with pytest.raises(Unauthorized):
        check(node(role="manager", root=certs.create_root(NOW)))


def test_a_nodes_own_key_signs_nothing() -> None:
    key = certs.new_key()
    with pytest.raises(Unauthorized):
        check(forged(key, "swarm-manager", "swarm-ca"))
    with pytest.raises(Unauthorized):
        check(forged(key, "swarm-manager", "node1"))


def test_another_cluster_a_removed_node_and_a_past_certificate_are_refused() -> None:
    with pytest.raises(Unauthorized, match="another swarm"):
        check(node(cluster_id="cluster2"))
    with pytest.raises(Forbidden, match="removed"):
        check(node(node_id="gone"))
    with pytest.raises(Unauthorized, match="time"):
        check(node(), now_ns=NOW + certs.LEAF_LIFE_NS + 1_000_000_000)
    with pytest.raises(Unauthorized, match="time"):
        check(node(), now_ns=NOW - certs.BACKDATE_NS - certs.HOUR_NS)
    for skew_ns in (certs.HOUR_NS, -certs.HOUR_NS):
        check(node(), now_ns=NOW + skew_ns)  # clocks may differ by so much


def test_being_verified_once_does_not_outlive_the_certificate() -> None:
    pem = node(node_id="later")
    check(pem)
    with pytest.raises(Unauthorized, match="time"):
        check(pem, now_ns=NOW + certs.LEAF_LIFE_NS + 1_000_000_000)


def test_a_certificate_that_names_two_roles_is_refused() -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "x"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-join-worker"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager"),
        ]
    )
    token = parse_token(CLUSTER.join_tokens.worker)
    template = x509.load_pem_x509_certificate(joiner(CLUSTER.join_tokens.worker, "worker"))
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(template.issuer)
        .public_key(certs.new_key().public_key())
        .serial_number(2)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
        .sign(certs.join_authority_key(token.secret, token.digest, "worker"), hashes.SHA256())
    )
    with pytest.raises(Unauthorized, match="twice"):
        check(leaf.public_bytes(Encoding.PEM))

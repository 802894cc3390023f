"""Who may vouch for what: the root for nodes, each join authority for joiners of its own role, nobody else at all.

The handshake accepts a chain to any trusted authority; this check binds the certificate's OU to the authority that
really signed it. It is the line between holding a worker's token and being a manager.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from api.errors import Forbidden, Unauthorized
from api.types.objects import Cluster
from base.clock import NS
from ca import rotation
from ca.certificates import (
    JOIN_PREFIX,
    MANAGER,
    RENEW_UNIT,
    ROLE_PREFIX,
    ROLES,
    WORKER,
    is_authority,
    join_authority,
)
from ca.tokens import parse_token

_BELOW_ROOT = frozenset({RENEW_UNIT, *(ROLE_PREFIX + role for role in ROLES)})
INTERMEDIATES_MAX = 4
VERIFIED_MAX = 10_000
"""Certificates remembered as verified; more and the memory starts anew."""


class Authorities:
    """What a manager trusts at one moment. Replaced as a whole when the cluster changes."""

    def __init__(
        self, cluster_id: str, root_pem: bytes, joins: dict[str, x509.Certificate], removed: frozenset[str]
    ) -> None:
        self.cluster_id = cluster_id
        self.removed = removed
        self._joins = joins
        self._root_pem = root_pem
        self._roots = x509.load_pem_x509_certificates(root_pem)
        self._signers = {JOIN_PREFIX + role: [certificate] for role, certificate in joins.items()}
        self._signers |= dict.fromkeys(_BELOW_ROOT, self._roots)
        self._verified: set[bytes] = set()

    @classmethod
    def of(cls, cluster: Cluster, now_ns: int) -> Authorities:
        """From the cluster object: root, both tokens' join authorities, removed nodes."""
        tokens = {WORKER: cluster.join_tokens.worker, MANAGER: cluster.join_tokens.manager}
        joins = {}
        for role, text in tokens.items():
            if text:
                token = parse_token(text)
                joins[role] = join_authority(token.secret, token.digest, role, now_ns)
        return cls(cluster.id, rotation.trusted(cluster), joins, frozenset(cluster.removed_nodes))

    @classmethod
    def root_only(cls, cluster_id: str, root_pem: bytes) -> Authorities:
        """For a manager that has not read the cluster yet: nodes are known by the root (or two of them, while one
        replaces the other), nobody can join through it."""
        return cls(cluster_id, root_pem, {}, frozenset())

    def bundle(self) -> bytes:
        """All of them in PEM: the trust anchors of the handshake."""
        return self._root_pem + b"".join(join.public_bytes(Encoding.PEM) for join in self._joins.values())

    def check(self, certificate: x509.Certificate, now_ns: int, chain_pem: bytes = b"") -> None:
        """Believe a caller's certificate or raise. `chain_pem` is what the caller showed along with it.

        Raises:
            Unauthorized: its role is not one that the signer may give, the signer is unknown, or its time is over.
            Forbidden: the node was removed from the swarm.
        """
        role = _only(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
        node_id = _only(certificate, NameOID.COMMON_NAME)
        if not _valid_at(certificate, now_ns):
            raise Unauthorized("the certificate is not valid at this time")
        if role.startswith(ROLE_PREFIX) and not role.startswith(JOIN_PREFIX):
            if _only(certificate, NameOID.ORGANIZATION_NAME) != self.cluster_id:
                raise Unauthorized("the certificate is of another swarm")
            if node_id in self.removed:
                raise Forbidden(f"node {node_id} was removed from the swarm")
        self._check_signer(certificate, role, chain_pem)

    def _check_signer(self, certificate: x509.Certificate, role: str, chain_pem: bytes) -> None:
        # The role is part of the signed bytes, so one fingerprint stands for one (role, signer) pair.
        fingerprint = certificate.fingerprint(hashes.SHA256())
        if fingerprint in self._verified:
            return
        signers = self._signers.get(role)
        if signers is None:
            raise Unauthorized(f"no authority of this swarm gives the role {role!r}")
        if role in _BELOW_ROOT:
            signers = [*signers, *self._next_roots(chain_pem)]
        if not any(rotation.issued_by(certificate, signer) for signer in signers):
            raise Unauthorized(f"the certificate's signer may not give the role {role!r}")
        if len(self._verified) >= VERIFIED_MAX:
            self._verified.clear()
        self._verified.add(fingerprint)

    def _next_roots(self, chain_pem: bytes) -> list[x509.Certificate]:
        """The authorities in a chain that our root itself certified: the next root, of which this manager has not heard
        yet. Whoever has its certificate from there may be the one who brings the news."""
        try:
            chain = x509.load_pem_x509_certificates(chain_pem)[: INTERMEDIATES_MAX + 1] if chain_pem else []
        except ValueError:
            return []
        return [each for each in chain if is_authority(each) and any(rotation.issued_by(each, r) for r in self._roots)]


def _only(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(oid)
    if len(values) > 1:
        raise Unauthorized("the certificate names its holder twice")
    return str(values[0].value) if values else ""


def _valid_at(certificate: x509.Certificate, now_ns: int) -> bool:
    now = now_ns / NS
    return certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp()

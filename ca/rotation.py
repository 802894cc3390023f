"""Replacing the swarm's root of trust: what a cluster signs with and trusts meanwhile, and when it is over. Pure.

1. `begun`: a new root, and the new root's key certified by the old root (cross-signed), are written to the cluster.
   From here on the new key signs. Who trusts only the old root believes its certificates by the cross-signed one,
   which travels with them; nobody needs to hear of the change before anybody else.
2. Every node hears of the second root, trusts both, and fetches a certificate of the new key (with a new renewal
   certificate). It says in its description which root its certificate is of.
3. `finished`: once all nodes have said so, the old root and the join tokens that name it are replaced. Nodes forget the
   old root when they hear of that.

All state is in the cluster and node objects, so whoever leads goes on where the last leader was.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from api.errors import Conflict
from api.types.objects import Cluster, JoinTokens, Node, RootCA, RootRotation
from ca.certificates import create_root, cross_signed
from ca.tokens import new_tokens, root_digest


def begun(cluster: Cluster, now_ns: int) -> Cluster:
    """Step 1, with a fresh key.

    Raises Conflict while a rotation is under way or external CAs sign; InvalidArgument when the present root is one
    that allows no authority below it.
    """
    if cluster.root_rotation is not None:
        raise Conflict("the swarm's root is being replaced already")
    if cluster.spec.ca_config.external_cas:
        raise Conflict("certificates are signed by an external CA: the swarm's root can't be replaced from here")
    fresh = create_root(now_ns)
    rotation = RootRotation(root_ca=fresh, cross_signed_pem=cross_signed(cluster.root_ca, fresh, now_ns), began=now_ns)
    return msgspec.structs.replace(cluster, root_rotation=rotation)


def signer(cluster: Cluster) -> RootCA:
    """What signs certificates now."""
    return cluster.root_rotation.root_ca if cluster.root_rotation is not None else cluster.root_ca


def intermediates(cluster: Cluster) -> bytes:
    """What goes with a certificate so that all believe it, PEM."""
    return cluster.root_rotation.cross_signed_pem if cluster.root_rotation is not None else b""


def trusted(cluster: Cluster) -> bytes:
    """The roots that nodes believe, PEM."""
    new = cluster.root_rotation.root_ca.certificate_pem if cluster.root_rotation is not None else b""
    return cluster.root_ca.certificate_pem + new


def waiting_for(cluster: Cluster, nodes: Iterable[Node]) -> list[Node]:
    """The nodes that have not said yet that they use a certificate of the new root."""
    if cluster.root_rotation is None:
        return []
    digest = root_digest(cluster.root_rotation.root_ca.certificate_pem)
    return [node for node in nodes if node.description is None or node.description.root_digest != digest]


def finished(cluster: Cluster, nodes: Iterable[Node]) -> Cluster | None:
    """Step 3, with new tokens; None while it is not its time, or no rotation is under way."""
    if cluster.root_rotation is None or waiting_for(cluster, nodes):
        return None
    root = cluster.root_rotation.root_ca
    tokens = new_tokens(root.certificate_pem)
    plain = JoinTokens(worker=str(tokens.worker), manager=str(tokens.manager))  # the codec takes plain text only
    return msgspec.structs.replace(cluster, root_ca=root, join_tokens=plain, root_rotation=None)


def issuer_among(roots_pem: bytes, certificate_pem: bytes) -> x509.Certificate | None:
    """The root of a bundle whose key signed the certificate itself."""
    leaf = x509.load_pem_x509_certificate(certificate_pem)
    return next((root for root in x509.load_pem_x509_certificates(roots_pem) if issued_by(leaf, root)), None)


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` itself signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True

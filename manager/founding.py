"""The first objects of a new swarm: its root of trust, its tokens, and its first manager."""

from __future__ import annotations

from dataclasses import dataclass

from api.types.objects import Certificate, Cluster, JoinTokens, ManagerStatus, Node, RootCA
from api.types.swarm import NodeSpec, SwarmSpec
from base.clock import Clock
from base.ids import swarm_id
from ca import rotation
from ca.certificates import create_root, issue, issue_renewal, key_pem, new_key
from ca.identity import Identity
from ca.tokens import new_tokens
from manager.controlapi import validate
from manager.controlapi.defaults import filled


@dataclass(frozen=True)
class Founding:
    """What `Manager` writes into an empty store, and the first manager's own identity."""

    cluster: Cluster
    node: Node
    identity: Identity


def found(spec: SwarmSpec, addr: str, clock: Clock, root: RootCA | None = None) -> Founding:
    """A new swarm whose first manager can be reached at `addr` (host:port), with a root of its own or a given one.

    Raises InvalidArgument or NotSupported for a spec that makes no sense; nothing is written anywhere.
    """
    spec = filled(spec)
    validate.swarm_spec(spec)
    now = clock.now_ns()
    root = root or create_root(now)
    tokens = new_tokens(root.certificate_pem)
    tokens = JoinTokens(worker=str(tokens.worker), manager=str(tokens.manager))  # the codec takes plain text only
    cluster = Cluster(id=swarm_id(), spec=spec, root_ca=root, join_tokens=tokens)
    identity = own_identity(cluster, swarm_id(), now)
    node = Node(
        id=identity.node_id,
        spec=NodeSpec(role="manager", availability="active"),
        role="manager",
        manager_status=ManagerStatus(addr=addr),
        certificate=Certificate(role="manager", certificate_pem=identity.certificate_pem, state="issued"),
    )
    return Founding(cluster, node, identity)


def own_identity(cluster: Cluster, node_id: str, now_ns: int) -> Identity:
    """A manager's identity that whoever holds the root key gives itself."""
    root, key = rotation.signer(cluster), new_key()
    certificate = issue(
        root,
        key.public_key(),
        node_id=node_id,
        role="manager",
        cluster_id=cluster.id,
        now_ns=now_ns,
        life_ns=cluster.spec.ca_config.node_cert_expiry,
    )
    renewal = issue_renewal(root, key.public_key(), node_id=node_id, cluster_id=cluster.id, now_ns=now_ns)
    return Identity.from_pem(
        certificate, key_pem(key), rotation.trusted(cluster), renewal, rotation.intermediates(cluster)
    )

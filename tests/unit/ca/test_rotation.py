"""One root replaces another: the plan, step by step, and that nobody is shut out at any of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from api.errors import Conflict, InvalidArgument, ShoalError, Unauthorized
from api.rpc.client import call
from api.rpc.swarm_methods import CA_GET_ROOT
from api.types.dispatch import GetRootCARequest
from api.types.objects import Cluster, Node, NodeDescription
from api.types.swarm import CAConfig, ExternalCA
from ca import certificates as certs
from ca import rotation
from ca.authorities import Authorities
from ca.client import join, renew
from ca.identity import Identity, IdentityStore, blocks
from ca.tls import ServerTls, channel
from ca.tokens import parse_token, root_digest
from tests.unit.ca.swarm import CLOCK, Manager, new_cluster, new_identity

replace = msgspec.structs.replace


def rotating() -> Cluster:
    return rotation.begun(new_cluster(), CLOCK.now_ns())


def node(name: str, root_pem: bytes = b"") -> Node:
    return Node(id=name, description=NodeDescription(root_digest=root_digest(root_pem) if root_pem else ""))


def test_it_ends_when_every_node_has_followed_with_new_tokens_and_without_the_old_root() -> None:
    cluster = rotating()
    assert cluster.root_rotation is not None
    old, new = cluster.root_ca.certificate_pem, cluster.root_rotation.root_ca.certificate_pem
    nodes = [node("followed", new), node("behind", old), node("silent"), Node(id="unheard")]
    assert [each.id for each in rotation.waiting_for(cluster, nodes)] == ["behind", "silent", "unheard"]
    for left in range(len(nodes), 1, -1):
        assert rotation.finished(cluster, nodes[:left]) is None
    done = rotation.finished(cluster, nodes[:1])
    assert done is not None
    assert (done.root_ca.certificate_pem, done.root_rotation) == (new, None)
    tokens = [parse_token(text) for text in (done.join_tokens.worker, done.join_tokens.manager)]
    assert {token.digest for token in tokens} == {root_digest(new)}
    assert rotation.finished(done, nodes) is None, "nothing is under way"
    again = rotation.begun(done, CLOCK.now_ns())
    assert again.root_rotation is not None, "the new root can be replaced as well"


def test_one_at_a_time_not_with_external_authorities_and_not_below_a_root_that_forbids_it() -> None:
    with pytest.raises(Conflict, match="already"):
        rotation.begun(rotating(), CLOCK.now_ns())
    cluster = new_cluster()
    external = CAConfig(external_cas=[ExternalCA(protocol="cfssl", url="https://ca")])
    with pytest.raises(Conflict, match="external"):
        rotation.begun(replace(cluster, spec=replace(cluster.spec, ca_config=external)), CLOCK.now_ns())
    key = certs.new_key()
    low = certs._authority("low", key, CLOCK.now_ns())
    pem = low.public_bytes(certs.Encoding.PEM)
    narrow = replace(cluster, root_ca=replace(cluster.root_ca, certificate_pem=pem, key_pem=certs.key_pem(key)))
    with pytest.raises(InvalidArgument, match="path length 0"):
        rotation.begun(narrow, CLOCK.now_ns())


async def speaks(addr: str, identity: Identity) -> bool:
    connection = channel(addr, identity, identity.root_pem)
    try:
        await call(connection, CA_GET_ROOT, GetRootCARequest(), timeout=5)
        return True
    except ShoalError:
        return False
    finally:
        await connection.close(None)


async def test_at_every_step_old_and_new_nodes_and_joiners_are_let_in() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        old = await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        # Step 1: the cluster knows of the new root, no node does, the manager's own certificate is an old one.
        manager.change(root_rotation=rotation.begun(manager.cluster(), CLOCK.now_ns()).root_rotation)
        assert await speaks(addr, old)
        between = await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        assert len(blocks(between.root_pem)) == 2
        assert between.root_digest != old.root_digest
        # Step 2: the manager has a certificate of the new root; who knows only the old one believes it.
        own = new_identity(
            replace(manager.cluster(), root_ca=rotation.signer(manager.cluster())), "manager", manager.identity.node_id
        )
        chain = rotation.intermediates(manager.cluster())
        own = Identity.from_pem(
            own.certificate_pem, own.key_pem, rotation.trusted(manager.cluster()), intermediates_pem=chain
        )
        manager.tls.update(identity=own)
        assert await speaks(addr, old)
        assert await speaks(addr, between)
        fresh = await renew(addr, old)
        assert (fresh.node_id, fresh.root_digest) == (old.node_id, between.root_digest)
        assert (await join(addr, manager.cluster().join_tokens.manager, CLOCK)).role == "manager"
        # Step 3: the old root is gone; nodes that have not heard of that yet are as good as the others.
        nodes = [node(each.node_id, rotation.signer(manager.cluster()).certificate_pem) for each in (fresh, between)]
        done = rotation.finished(manager.cluster(), nodes)
        assert done is not None
        manager.change(root_ca=done.root_ca, join_tokens=done.join_tokens, root_rotation=None)
        assert not await speaks(addr, old)
        assert await speaks(addr, fresh)
        assert await speaks(addr, Identity.from_pem(fresh.certificate_pem, fresh.key_pem, done.root_ca.certificate_pem))
        late = await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        assert blocks(late.root_pem) == blocks(done.root_ca.certificate_pem)


async def test_a_manager_that_has_not_heard_yet_believes_the_next_root_but_nobody_below_it() -> None:
    """Certificates of the new root come with one that the old root gave: so the news can reach everybody."""
    behind, ahead = Manager(), rotating()
    behind._cluster = replace(ahead, root_rotation=None)
    behind.identity = new_identity(behind.cluster())
    behind.tls = ServerTls(behind.identity, Authorities.of(behind.cluster(), CLOCK.now_ns()), CLOCK)
    new = new_identity(replace(ahead, root_ca=rotation.signer(ahead)))
    async with behind.serving() as addr:
        told = Identity.from_pem(
            new.certificate_pem, new.key_pem, rotation.trusted(ahead), intermediates_pem=rotation.intermediates(ahead)
        )
        assert await speaks(addr, told)
        alone = Identity.from_pem(new.certificate_pem, new.key_pem, rotation.trusted(ahead))
        assert not await speaks(addr, alone)


def test_an_intermediate_that_is_a_nodes_certificate_gives_no_role() -> None:
    cluster = new_cluster()
    signer = new_identity(cluster)
    below = replace(cluster.root_ca, certificate_pem=signer.certificate_pem, key_pem=signer.key_pem)
    forged = new_identity(replace(cluster, root_ca=below))
    authorities = Authorities.of(cluster, CLOCK.now_ns())
    leaf = certs.x509.load_pem_x509_certificate(forged.certificate_pem)
    with pytest.raises(Unauthorized, match="signer may not"):
        authorities.check(leaf, CLOCK.now_ns(), forged.certificate_pem + signer.certificate_pem)


def test_an_identity_with_all_its_certificates_is_kept(tmp_path: Path) -> None:
    cluster = rotating()
    plain = new_identity(replace(cluster, root_ca=rotation.signer(cluster)))
    renewal = new_identity(cluster).certificate_pem
    identity = Identity.from_pem(
        plain.certificate_pem, plain.key_pem, rotation.trusted(cluster), renewal, rotation.intermediates(cluster)
    )
    store = IdentityStore(tmp_path)
    store.save(identity)
    assert store.load() == identity
    store.save_roots(rotation.signer(cluster).certificate_pem)
    loaded = store.load()
    assert loaded is not None
    assert blocks(loaded.root_pem) == blocks(rotation.signer(cluster).certificate_pem)
    assert loaded.root_digest == identity.root_digest

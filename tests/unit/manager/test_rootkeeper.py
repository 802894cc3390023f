"""The root's replacement is carried on by whoever leads, wherever the last leader was interrupted."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from api.errors import Conflict
from api.types.objects import Cluster, Node, NodeDescription
from base.clock import SystemClock
from base.supervise import TaskOwner
from ca import rotation
from ca.certificates import create_root
from ca.tokens import root_digest
from manager import operations as ops
from manager.rootkeeper import RootKeeper
from manager.store.proposer import MemoryProposer
from manager.store.store import Store
from manager.store.transitions import Component

CLOCK = SystemClock()
NAMES = ("one", "two", "three")


def cluster_of(store: Store) -> Cluster:
    cluster = store.view().cluster()
    assert cluster is not None
    return cluster


async def new_store() -> Store:
    store, proposer = Store(CLOCK), MemoryProposer()
    proposer.apply = store.apply
    store.bind(proposer)
    root = create_root(CLOCK.now_ns())
    await store.update(Component.MANAGER, lambda batch: batch.put(Cluster(id="c", root_ca=root)))
    for name in NAMES:
        await store.update(Component.MANAGER, lambda batch, name=name: batch.put(Node(id=name)))  # type: ignore[misc]
    return store


async def leads_for_a_moment(store: Store) -> None:
    """A leader that is interrupted once it has nothing more to do."""
    owner = TaskOwner("leader")
    owner.spawn(RootKeeper(store).run(), name="root")
    index = -1
    while index != store.view().index:
        index = store.view().index
        for _ in range(20):
            await asyncio.sleep(0)
    await owner.close()


async def follow(store: Store, name: str, digest: str) -> None:
    node = store.view().get(Node, name)
    assert node is not None
    told = msgspec.structs.replace(node, description=NodeDescription(root_digest=digest))
    await store.update(Component.MANAGER, lambda batch: batch.put(told))


async def test_every_step_may_be_another_leaders() -> None:
    store = await new_store()
    await leads_for_a_moment(store)
    assert cluster_of(store).root_rotation is None, "nobody asked for it"
    await RootKeeper(store).begin(ops.RotateRoot())
    with pytest.raises(Conflict, match="already"):
        await RootKeeper(store).begin(ops.RotateRoot())
    new = rotation.signer(cluster_of(store))
    for name in NAMES:
        await leads_for_a_moment(store)
        assert cluster_of(store).root_rotation is not None
        await follow(store, name, root_digest(new.certificate_pem))
    assert cluster_of(store).root_rotation is not None, "nobody led when the last one followed"
    await leads_for_a_moment(store)
    assert (cluster_of(store).root_rotation, cluster_of(store).root_ca) == (None, new)
    tokens = cluster_of(store).join_tokens
    await leads_for_a_moment(store)
    assert cluster_of(store).join_tokens == tokens, "it ends once"


async def test_a_node_that_is_removed_is_waited_for_no_more() -> None:
    store = await new_store()
    await RootKeeper(store).begin(ops.RotateRoot())
    new = rotation.signer(cluster_of(store))
    for name in NAMES[1:]:
        await follow(store, name, root_digest(new.certificate_pem))
    await leads_for_a_moment(store)
    gone = store.view().get(Node, NAMES[0])
    assert gone is not None
    await store.update(Component.MANAGER, lambda batch: batch.delete(gone))
    await leads_for_a_moment(store)
    assert cluster_of(store).root_ca == new

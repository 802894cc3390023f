"""When certificates are renewed, and that a refusal is not the end of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.errors import Unavailable
from ca.certificates import DAY_NS
from ca.client import join, renew_any
from ca.identity import Identity
from ca.renewer import RETRY_FIRST_S, RETRY_MAX_S, Renewer, renewal_at, retry_after_s
from tests.unit.ca.swarm import CLOCK, Manager, new_cluster, new_identity

CLUSTER = new_cluster()


def test_the_point_is_between_half_and_four_fifths_of_life() -> None:
    assert renewal_at(1_000, 2_000, 0.0) == 1_500
    assert renewal_at(1_000, 2_000, 0.5) == 1_650
    assert 1_799 <= renewal_at(1_000, 2_000, 0.999_999) <= 1_800


def test_retries_wait_longer_up_to_a_limit() -> None:
    waits = [retry_after_s(failures) for failures in range(1, 100)]
    assert waits[0] == RETRY_FIRST_S
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_MAX_S


def test_life_is_counted_from_the_issue_not_from_the_backdated_start() -> None:
    identity = new_identity(CLUSTER, "worker")
    assert abs(identity.issued_ns - CLOCK.now_ns()) < 60_000_000_000
    assert abs(identity.expires_ns - identity.issued_ns - 90 * DAY_NS) <= 1_000_000_000


class Clock:
    """Wall time that a test sets."""

    def __init__(self, now_ns: int) -> None:
        self.now = now_ns

    def now_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e9


class Node:
    """Renews with a CA of this process; says when the new identity is in use."""

    def __init__(self, now_ns: int) -> None:
        self.first = new_identity(CLUSTER, "worker", "node1")
        self.role = "worker"
        self.errors: list[Exception] = []
        self.asked = 0
        self.renewed: list[Identity] = []
        self.news = asyncio.Condition()
        self.renewer = Renewer(self.first, self._renew, self._use, Clock(now_ns), random.Random(1))

    async def _renew(self, identity: Identity) -> Identity:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return new_identity(CLUSTER, self.role, identity.node_id)

    async def _use(self, identity: Identity) -> None:
        async with self.news:
            self.renewed.append(identity)
            self.news.notify_all()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5), self.news:
            await self.news.wait_for(lambda: len(self.renewed) >= count)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self.renewer.run())
            yield
            work.cancel()


async def test_a_fresh_certificate_is_left_alone_and_an_old_one_renewed() -> None:
    fresh = Node(CLOCK.now_ns())
    async with fresh.running():
        await asyncio.sleep(0.01)
    assert fresh.asked == 0
    old = Node(CLOCK.now_ns() + 80 * DAY_NS)
    async with old.running():
        await old.until(1)
    assert old.renewer.identity == old.renewed[-1] != old.first


async def test_another_role_is_fetched_at_once() -> None:
    node = Node(CLOCK.now_ns())
    async with node.running():
        node.role = "manager"
        node.renewer.role_wanted("manager")
        await node.until(1)
        node.renewer.role_wanted("manager")
        await asyncio.sleep(0.01)
    assert [identity.role for identity in node.renewed] == ["manager"]


async def test_a_manager_that_lags_is_asked_again_but_not_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ca.renewer.RETRY_FIRST_S", 0.05)
    node = Node(CLOCK.now_ns())
    async with node.running():
        node.renewer.role_wanted("manager")
        await node.until(1)
        await asyncio.sleep(0.01)
        assert node.asked == 1
        node.role = "manager"
        await node.until(2)
    assert node.renewer.identity.role == "manager"


async def test_refusals_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ca.renewer.RETRY_FIRST_S", 0.001)
    node = Node(CLOCK.now_ns() + 80 * DAY_NS)
    node.errors = [Unavailable("no leader"), Unavailable("no leader")]
    async with node.running():
        await node.until(1)
    assert node.asked == 3


async def test_any_manager_that_is_there_will_do() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        identity = await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        assert (await renew_any(["127.0.0.1:1", addr], identity)).node_id == identity.node_id
    with pytest.raises(Unavailable, match="no manager is known"):
        await renew_any([], identity)
    with pytest.raises(Unavailable):
        await renew_any(["127.0.0.1:1"], identity)

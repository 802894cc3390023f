"""Who owns what runs in the background, and what is done in turn."""

from __future__ import annotations

import asyncio
import gc

import pytest

from base.locks import KeyedLocks
from base.supervise import TaskOwner


async def test_one_key_is_taken_in_turn_and_others_do_not_wait() -> None:
    locks = KeyedLocks()
    inside: set[str] = set()
    most = 0

    async def work(key: str) -> None:
        nonlocal most
        async with locks.of(key):
            assert key not in inside
            inside.add(key)
            most = max(most, len(inside))
            await asyncio.sleep(0)
            inside.remove(key)

    await asyncio.gather(*(work(key) for key in ("a", "b", "c") for _ in range(20)))
    assert most == 3
    gc.collect(0)
    assert not locks._locks, "what nobody holds is forgotten"


async def test_draining_waits_for_what_comes_meanwhile_and_closing_cancels() -> None:
    owner = TaskOwner("test")
    done: list[str] = []

    async def first() -> None:
        await asyncio.sleep(0)
        owner.spawn(second(), name="second")
        done.append("first")

    async def second() -> None:
        await asyncio.sleep(0)
        done.append("second")

    owner.spawn(first(), name="first")
    await owner.drain()
    assert done == ["first", "second"]
    waiting = owner.spawn(asyncio.Event().wait(), name="for ever")
    assert owner.names() == ["test/for ever"]
    await owner.close()
    assert waiting.cancelled()
    refused = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="test is closed"):
        owner.spawn(refused, name="late")

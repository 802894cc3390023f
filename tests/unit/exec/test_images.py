"""When a task's image is pulled, and that nobody waits for a registry in vain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.errors import NotFound, Upstream
from api.types.auth import AuthConfig
from worker.exec import images
from worker.exec.images import FRESH_S, SILENT_S, TaskImages


class Store:
    """An image store with a registry that does as a test says."""

    def __init__(self, *here: str) -> None:
        self.here = set(here)
        self.pulls: list[str] = []
        self.fails: Exception | None = None
        self.answers_after = 0.0
        self.downloads_for = 0.0

    async def resolve(self, reference: str) -> object:
        if reference not in self.here:
            raise NotFound(f"No such image: {reference}")
        return None

    async def pull(self, reference: str, auth: AuthConfig | None = None, progress: Any = None) -> str:
        self.pulls.append(reference)
        await asyncio.sleep(self.answers_after)
        if self.fails is not None:
            raise self.fails
        if progress is not None:
            progress({"status": "Pulling from x"})
        await asyncio.sleep(self.downloads_for)
        self.here.add(reference)
        return "sha256:1"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_what_is_missing_is_pulled_and_why_it_can_not_be_is_told() -> None:
    store = Store()
    await TaskImages(store).ensure("a", None)
    assert store.pulls == ["a"]
    store.fails = Upstream("no route to host")
    with pytest.raises(NotFound, match=r"No such image: b \(no route to host\)"):
        await TaskImages(store).ensure("b", None)


async def test_a_tag_is_asked_for_again_once_for_all_who_start_together() -> None:
    store, clock = Store("a:1"), Clock()
    found = TaskImages(store, clock)
    await asyncio.gather(*(found.ensure("a:1", None) for _ in range(20)))
    assert store.pulls == ["a:1"]
    clock.now += FRESH_S + 1
    await found.ensure("a:1", None)
    assert store.pulls == ["a:1", "a:1"]


@pytest.mark.parametrize("reference", ["a@sha256:" + "0" * 64, "sha256:" + "0" * 64])
async def test_what_can_not_move_is_not_asked_for(reference: str) -> None:
    store = Store(reference)
    await TaskImages(store).ensure(reference, None)
    assert store.pulls == []


async def test_a_registry_that_refuses_is_left_alone_for_a_while() -> None:
    store, clock = Store("a"), Clock()
    store.fails = Upstream("down")
    found = TaskImages(store, clock)
    await found.ensure("a", None)
    clock.now += FRESH_S + 1
    await found.ensure("a", None)
    assert len(store.pulls) == 1
    clock.now += SILENT_S
    await found.ensure("a", None)
    assert len(store.pulls) == 2


async def test_a_registry_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ASK_S", 0.05)
    store = Store("a")
    store.answers_after = 60
    async with asyncio.timeout(10):
        await TaskImages(store).ensure("a", None)


async def test_a_download_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ASK_S", 0.05)
    store = Store("a")
    store.downloads_for = 0.3
    loop = asyncio.get_running_loop()
    began = loop.time()
    await TaskImages(store).ensure("a", None)
    assert loop.time() - began >= 0.3


async def test_a_task_that_is_told_to_stop_is_not_held() -> None:
    store = Store("a")
    store.answers_after = 60
    found = TaskImages(store)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await found.ensure("a", None)
    store.answers_after = 0
    await found.ensure("a", None)
    assert len(store.pulls) == 2

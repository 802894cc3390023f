"""The event bus: order, replay, filters, and what becomes of a slow reader."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from api.errors import Unavailable
from base.clock import NS
from tests.unit.engine.conftest import Bench
from tests.unit.engine.fakes import FakeClock
from worker.engine.events import bus as event_bus
from worker.engine.events.bus import EventBus, Subscription

ATTRIBUTES = {"name": "web", "image": "busybox:latest", "tier": "db"}


async def drain(subscription: Subscription) -> list[dict[str, Any]]:
    subscription.close()
    return [msgspec.json.decode(msgspec.json.encode(message)) async for message in subscription]


def publish_all(bus: EventBus) -> None:
    bus.publish("image", "pull", "busybox:latest", {"name": "busybox"})
    bus.publish("container", "create", "c1" * 32, ATTRIBUTES)
    bus.publish("container", "exec_create: ls", "c2" * 32, {"name": "other", "image": "img"})
    bus.publish("network", "connect", "n1" * 32, {"name": "bridge", "type": "bridge", "container": "c1" * 32})
    bus.publish("volume", "mount", "data", {"driver": "local"})
    bus.publish("daemon", "reload", "engine", {"name": "host"})


@pytest.mark.promise("misc.events.b19", "misc.events.b20", "misc.events.b21", "misc.events.b22")
async def test_the_shape_of_a_message() -> None:
    bus = EventBus(FakeClock())
    publish_all(bus)
    image, container, _, network, *_ = await drain(bus.subscribe(since_ns=0))
    for message in (image, container, network):
        assert message["timeNano"] // NS == message["time"]
        assert set(message["Actor"]) == {"ID", "Attributes"}
    assert (image["status"], image["id"], "from" in image) == ("pull", "busybox:latest", False)
    assert (container["status"], container["id"], container["from"]) == ("create", "c1" * 32, "busybox:latest")
    assert (container["Type"], container["Action"]) == ("container", "create")
    assert container["Actor"] == {"ID": "c1" * 32, "Attributes": ATTRIBUTES}
    assert not {"status", "id", "from"} & set(network)


@pytest.mark.promise(
    "misc.events.b10",
    "misc.events.b11",
    "misc.events.b12",
    "misc.events.b13",
    "misc.events.b14",
    "misc.events.b15",
    "misc.events.b16",
    "misc.events.b17",
)
@pytest.mark.parametrize(
    ("filters", "actions"),
    [
        ({"container": ["web"]}, ["create"]),
        ({"container": ["c1c1"]}, ["create"]),
        ({"container": ["web", "other"]}, ["create", "exec_create: ls"]),
        ({"event": ["create", "mount"]}, ["create", "mount"]),
        ({"event": ["exec_create"]}, ["exec_create: ls"]),
        ({"image": ["busybox"]}, ["pull", "create"]),
        ({"image": ["busybox:latest"]}, ["pull", "create"]),
        ({"label": ["tier"]}, ["create"]),
        ({"label": ["tier=web"]}, []),
        ({"type": ["network", "volume"]}, ["connect", "mount"]),
        ({"volume": ["data"]}, ["mount"]),
        ({"network": ["bridge"]}, ["connect"]),
        ({"daemon": ["host"]}, ["reload"]),
        ({"type": ["container"], "container": ["other"]}, ["exec_create: ls"]),
    ],
)
async def test_filters(filters: dict[str, list[str]], actions: list[str]) -> None:
    bus = EventBus(FakeClock())
    publish_all(bus)
    assert [message["Action"] for message in await drain(bus.subscribe(0, None, filters))] == actions


@pytest.mark.promise("misc.events.b7")
async def test_since_replays_and_then_follows() -> None:
    clock = FakeClock()
    bus = EventBus(clock)
    bus.publish("volume", "create", "old", {})
    moment = clock.now_ns()
    bus.publish("volume", "create", "known", {})
    reader = bus.subscribe(since_ns=moment)
    bus.publish("volume", "create", "new", {})
    assert [message["Actor"]["ID"] for message in await drain(reader)] == ["known", "new"]
    assert [message["Actor"]["ID"] for message in await drain(bus.subscribe())] == []


@pytest.mark.promise("misc.events.b8")
async def test_until_ends_the_stream() -> None:
    clock = FakeClock()
    bus = EventBus(clock)
    bus.publish("volume", "create", "one", {})
    moment = clock.now_ns()
    bus.publish("volume", "create", "two", {})
    reader = bus.subscribe(until_ns=moment)
    async with asyncio.timeout(2):
        assert [message.actor.id async for message in reader] == ["one"]
    assert bus.subscriber_count() == 0


async def test_times_never_go_back() -> None:
    clock = FakeClock()
    bus = EventBus(clock)
    bus.publish("volume", "create", "a", {})
    clock.advance(-5)
    bus.publish("volume", "create", "b", {})
    first, second = await drain(bus.subscribe(since_ns=0))
    assert first["timeNano"] < second["timeNano"]


async def test_a_slow_reader_gets_what_was_kept_and_then_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_bus, "BACKLOG_MESSAGES", 3)
    bus = EventBus(FakeClock())
    slow, quick = bus.subscribe(), bus.subscribe(filters={"type": ["image"]})
    for number in range(5):
        bus.publish("volume", "create", str(number), {})
    assert [(await anext(slow)).actor.id for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(Unavailable, match="behind"):
        await anext(slow)
    assert bus.subscriber_count() == 1
    quick.close()


@pytest.mark.promise("misc.events.b23", "misc.events.b24", "misc.events.b25")
async def test_what_containers_tell(bench: Bench) -> None:
    reader = bench.events.subscribe()
    container_id = await bench.run("web", labels={"tier": "db"})
    await bench.containers.resize(container_id, 46, 204)
    bench.runtime.processes[container_id].ends(3)
    assert await bench.containers.wait(container_id) == 3
    by_action = {message["Action"]: message["Actor"]["Attributes"] for message in await drain(reader)}
    common = {"name": "web", "image": "busybox", "tier": "db"}
    assert by_action == {
        "create": common,
        "start": common,
        "resize": common | {"height": "46", "width": "204"},
        "die": common | {"exitCode": "3"},
    }

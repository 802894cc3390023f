"""What is done to one container's networks at the same moment is done in turn, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.errors import NotFound
from api.types.endpoint import EndpointSettings
from api.types.network import NetworkCreate
from tests.integration.networking import alone, controller, links, request
from worker.engine.networks.controller import NetworkController
from worker.engine.syscalls import netns

pytestmark = pytest.mark.root
ROUNDS = 12


@pytest.fixture(autouse=True)
def _namespaces(tmp_path: Path) -> Iterator[None]:
    yield
    for path in (tmp_path / "run/netns").glob("*"):
        netns.remove(path)


async def detach_later(networks: NetworkController, container_id: str, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await networks.detach(container_id)


def test_a_container_that_ends_while_it_is_connected_leaves_nothing(tmp_path: Path) -> None:
    """Its end comes at a different moment of the connect in each round."""

    async def body() -> None:
        async with controller(tmp_path) as networks:
            await networks.create(NetworkCreate(name="blue"))
            before = links()
            for round_ in range(ROUNDS):
                wish = request(tmp_path, "web")
                await networks.attach(wish)

                done = await asyncio.gather(
                    networks.connect(wish.container_id, "blue", EndpointSettings()),
                    detach_later(networks, wish.container_id, round_ / 1000),
                    return_exceptions=True,
                )
                assert isinstance(done[0], EndpointSettings | NotFound), done[0]
                assert await networks.sandbox(wish.container_id) is None
                assert networks.inspect("blue").containers == {}
                with pytest.raises(NotFound):
                    await networks.disconnect(wish.container_id, "blue")
            await networks.remove("blue")  # no address of it is in use
        assert len(links()) == len(before) - 1

    alone(body)


def test_two_attaches_of_one_container_leave_one_place(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            wish = request(tmp_path, "web")
            places = await asyncio.gather(*(networks.attach(wish) for _ in range(4)))
            now = await networks.sandbox(wish.container_id)
            assert now is not None
            assert now in places
            assert len(list((tmp_path / "run/netns").iterdir())) == 1
            await networks.detach(wish.container_id)
            assert list((tmp_path / "run/netns").iterdir()) == []

    alone(body)

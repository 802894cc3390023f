"""Published ports, and the step from NEW to PENDING."""

from __future__ import annotations

import asyncio

import msgspec

from api.types.objects import Endpoint, Service, Task, TaskState
from api.types.swarm import EndpointSpec, PortConfig, ServiceSpec
from manager.allocator.loop import Allocator
from manager.allocator.ports import DYNAMIC_MAX, DYNAMIC_MIN, Exhausted, allocate, is_allocated, ports_of
from manager.store.store import Batch
from manager.store.transitions import Component
from tests.unit.manager.test_store import new_store


def published(*ports: PortConfig, service_id: str = "a", endpoint: Endpoint | None = None) -> Service:
    spec = ServiceSpec(name=service_id, endpoint_spec=EndpointSpec(ports=list(ports)))
    return Service(id=service_id, spec=spec, endpoint=endpoint)


def numbers(endpoint: Endpoint | Exhausted) -> list[int]:
    assert isinstance(endpoint, Endpoint)
    return [port.published_port for port in endpoint.ports]


def test_open_ports_come_from_the_range_and_named_ones_stay() -> None:
    service = published(PortConfig(target_port=80), PortConfig(target_port=81, published_port=DYNAMIC_MIN))
    assert numbers(allocate(service, set())) == [DYNAMIC_MIN + 1, DYNAMIC_MIN]
    assert numbers(allocate(service, {("tcp", DYNAMIC_MIN + 1), ("udp", DYNAMIC_MIN + 2)}))[0] == DYNAMIC_MIN + 2


def test_a_port_keeps_its_number_over_an_update() -> None:
    had = Endpoint(ports=[PortConfig(target_port=80, published_port=30_500)])
    service = published(PortConfig(target_port=80), PortConfig(target_port=81), endpoint=had)
    assert numbers(allocate(service, set())) == [30_500, DYNAMIC_MIN]


def test_a_full_range_is_said() -> None:
    taken = {("tcp", number) for number in range(DYNAMIC_MIN, DYNAMIC_MAX + 1)}
    assert allocate(published(PortConfig(target_port=80)), taken) == Exhausted("tcp")


def test_an_endpoint_fulfils_its_spec_or_not() -> None:
    port = PortConfig(target_port=80)
    service = published(port)
    endpoint = allocate(service, set())
    assert isinstance(endpoint, Endpoint)
    done = msgspec.structs.replace(service, endpoint=endpoint)
    assert not is_allocated(service)
    assert is_allocated(done)
    assert not is_allocated(published(port, PortConfig(target_port=81), endpoint=endpoint))
    assert not is_allocated(published(PortConfig(target_port=80, published_port=8080), endpoint=endpoint))
    assert not is_allocated(published(PortConfig(target_port=80, protocol="udp"), endpoint=endpoint))
    assert ports_of([done]) == {("tcp", DYNAMIC_MIN)}
    assert ports_of([done], but="a") == set()


async def test_tasks_become_pending_with_their_services_endpoint() -> None:
    store, _ = new_store()

    def change(batch: Batch) -> None:
        batch.put(published(PortConfig(target_port=80)))
        batch.put(published(PortConfig(target_port=80), service_id="b"))
        batch.put(Task(id="t", service_id="a", slot=1))

    await store.update(Component.ORCHESTRATOR, change)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(Allocator(store).run())
        async with store.watch(("tasks",)) as watch:
            while not store.view().tasks_in_state(TaskState.PENDING):
                await asyncio.wait_for(watch.next(), 5)
        loop.cancel()
    task = store.view().all(Task)[0]
    assert task.endpoint is not None
    assert task.endpoint == store.view().all(Service)[0].endpoint
    ports = [numbers(service.endpoint) for service in store.view().all(Service) if service.endpoint is not None]
    assert sorted(ports) == [[DYNAMIC_MIN], [DYNAMIC_MIN + 1]]

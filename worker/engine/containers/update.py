"""POST /containers/{id}/update: new limits and restart policy, live if it runs. All of it or nothing."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from api.errors import Conflict, InvalidArgument
from api.types.container import HostConfig, UpdateBody, WarningsAnswer
from worker.engine.containers.hostconfig import NO_KERNEL_MEMORY, resources_ok
from worker.engine.containers.kit import Kit
from worker.engine.containers.plan import resources
from worker.engine.containers.restart import check_policy
from worker.engine.containers.states import Status
from worker.engine.runtime.host import memory_nodes
from worker.engine.runtime.spec import oci_resources, warnings

_FIELDS = (
    "blkio_weight",
    "cpu_shares",
    "cpu_period",
    "cpu_quota",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_swap",
    "memory_reservation",
    "memory_swappiness",
    "pids_limit",
)


class Updater:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def update(self, ref: str, body: UpdateBody) -> WarningsAnswer:
        """A 0, "" or absent field stays as it is. Raises InvalidArgument; Conflict if it is being removed."""
        container = self._kit.store.get(ref)
        found: list[str] = []
        async with container.lock:
            if container.record.status in (Status.REMOVING, Status.DEAD):
                raise Conflict(f"Container {container.id} is marked for removal and cannot be updated")
            before = container.record.host_config
            if body.restart_policy is not None and body.restart_policy.name:
                check_policy(body.restart_policy)
            try:
                after = merge(before, body)
            except InvalidArgument as error:
                raise InvalidArgument(f"Cannot update container {container.id}: {error.message}") from None
            resources_ok(after, os.sched_getaffinity(0), found, memory_nodes())
            if body.kernel_memory:
                found.append(NO_KERNEL_MEMORY)
            found += warnings(resources(after), self._kit.host)
            if container.running and _limits(after) != _limits(before):
                await self._kit.runtime.update(container.id, oci_resources(resources(after), self._kit.host))
            await self._kit.store.save(container, host_config=after)
        self._kit.events.publish("container", "update", container.id, container.attributes())
        return WarningsAnswer(warnings=found)


def merge(host: HostConfig, body: UpdateBody) -> HostConfig:
    """The host configuration with what the body sets; its restart policy has been checked. Raises InvalidArgument."""
    changes: dict[str, Any] = {name: getattr(body, name) for name in _FIELDS if getattr(body, name)}
    if body.memory and host.memory_swap > 0 and not body.memory_swap and body.memory > host.memory_swap:
        raise InvalidArgument(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if body.restart_policy is not None and body.restart_policy.name:
        changes["restart_policy"] = body.restart_policy
    return msgspec.structs.replace(host, **changes)


def _limits(host: HostConfig) -> list[Any]:
    return [getattr(host, name) for name in _FIELDS]

"""An engine of dictionaries that behaves as the Protocol says, with faults a test can order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from api.errors import NotFound, ShoalError
from api.types.dataplane import OverlayChange
from api.types.objects import Task
from worker.exec.step import Observation, Phase


@dataclass
class Box:
    """One container."""

    id: str
    phase: Phase = Phase.CREATED
    exit_code: int = 0
    health: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """It ended, or its health is another."""


class FakeEngine:
    """Satisfies worker.exec.controller.TaskEngine. `calls` is the record of what was asked, in order."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.calls: list[tuple[str, str]] = []
        self.graces: list[int] = []
        self.errors: dict[str, list[ShoalError]] = {}
        self.pull_held = asyncio.Event()
        self.pull_held.set()
        self.networks: list[OverlayChange] = []
        self.made = 0
        self.start_exit_code = 0
        """Of a container that could not be started."""
        self.health = ""
        """Of new containers; empty: they have no health check."""

    def fail(self, call: str, *errors: ShoalError) -> None:
        """The next calls of this name raise these, one each."""
        self.errors.setdefault(call, []).extend(errors)

    def exit(self, task_id: str, code: int) -> None:
        """The container's process ends by itself."""
        box = self.boxes[task_id]
        assert box.phase is Phase.RUNNING
        box.phase, box.exit_code = Phase.EXITED, code
        box.changed.set()

    def judge(self, task_id: str, health: str) -> None:
        """The container's health check comes to another opinion."""
        self.boxes[task_id].health = health
        self.boxes[task_id].changed.set()

    async def apply_networks(self, change: OverlayChange) -> bool:
        self.networks.append(change)
        return True

    def _call(self, name: str, subject: str) -> None:
        self.calls.append((name, subject))
        if self.errors.get(name):
            raise self.errors[name].pop(0)

    def _box(self, container_id: str) -> tuple[str, Box]:
        for task_id, box in self.boxes.items():
            if box.id == container_id:
                return task_id, box
        raise NotFound(f"No such container: {container_id}")

    async def observe(self, task: Task) -> Observation:
        if self.errors.get("observe"):
            raise self.errors["observe"].pop(0)
        box = self.boxes.get(task.id)
        if box is None:
            return Observation(Phase.ABSENT)
        running = box.phase is Phase.RUNNING
        health = (box.health or self.health) if running else ""
        return Observation(box.phase, box.id, 7 if running else 0, box.exit_code, health=health)

    async def prepare(self, task: Task) -> None:
        self._call("prepare", task.id)
        await self.pull_held.wait()
        assert task.id not in self.boxes, "prepared twice"
        self.made += 1
        self.boxes[task.id] = Box(f"container-{self.made}")

    async def start(self, container_id: str) -> None:
        task_id, box = self._box(container_id)
        box.exit_code = self.start_exit_code
        self._call("start", task_id)
        box.exit_code = 0
        assert box.phase is Phase.CREATED, "started twice"
        box.phase = Phase.RUNNING

    async def wait(self, container_id: str) -> None:
        _, box = self._box(container_id)
        await box.changed.wait()
        if box.phase is Phase.RUNNING:
            box.changed.clear()

    async def stop(self, container_id: str, grace_ns: int) -> None:
        task_id, box = self._box(container_id)
        self._call("stop", task_id)
        self.graces.append(grace_ns)
        if box.phase is Phase.RUNNING:
            self.exit(task_id, 143)

    async def remove(self, container_id: str) -> None:
        task_id, _ = self._box(container_id)
        self._call("remove", task_id)
        del self.boxes[task_id]

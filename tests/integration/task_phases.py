"""One life of a node's executor on the real engine, as a process of its own that the test may kill.

`python -m tests.integration.task_phases run|again DIRECTORY`: prints the task statuses as JSON, then `run` waits to be
killed. Meant to run in a network and mount namespace of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from api.types.dispatch import AssignmentsMessage
from api.types.objects import Task, TaskState, TaskStatus
from api.types.swarm import ContainerSpec, Mount, TaskSpec
from base.clock import SystemClock
from daemon.config import Config
from daemon.engine import Engine
from daemon.tasks import task_engine
from worker.agent.storage import AgentStorage
from worker.agent.tasks import TaskManager
from worker.engine.syscalls.mountns import enter_private_mount_namespace


def task(task_id: str, desired: TaskState, **spec: object) -> Task:
    container = ContainerSpec(**{"image": "busybox", "stop_grace_period": 500_000_000, **spec})  # type: ignore[arg-type]
    return Task(
        id=task_id, service_name="web", slot=1, desired_state=desired, spec=TaskSpec(container_spec=container),
        status=TaskStatus(state=TaskState.ASSIGNED),
    )  # fmt: skip


def assigned(desired: TaskState) -> list[Task]:
    return [
        task("sleeper", desired, args=["sleep", "1000"]),
        task("failing", desired, args=["sh", "-c", "exit 3"]),
        task("done", desired, args=["true"]),
        task("unstartable", desired, command=["/nope"]),
        task("no-image", desired, image="127.0.0.1:9/nope:latest"),
        task("with-volume", desired, args=["sh", "-c", "echo hi > /v/f"], mounts=[Mount(source="data", target="/v")]),
        task("bad-mount", desired, mounts=[Mount(type="bind", source="relative", target="/v")]),
    ]


async def settle(tasks: TaskManager, ends: set[TaskState], others: dict[str, TaskState]) -> dict[str, TaskStatus]:
    """Wait until every task is in one of the states `ends`, or in the one named in `others`."""
    async with asyncio.timeout(60):
        while True:
            statuses = tasks.statuses()
            if all(
                status.state is others[task_id] if task_id in others else status.state in ends
                for task_id, status in statuses.items()
            ):
                return statuses
            await asyncio.sleep(0.02)


def tell(statuses: dict[str, TaskStatus], **more: object) -> None:
    found = {
        task_id: [status.state.label, status.err, status.exit_code, status.container_id, status.pid]
        for task_id, status in statuses.items()
    }
    print(json.dumps({"statuses": found, **more}), flush=True)


async def main(phase: str, directory: Path) -> None:
    clock = SystemClock()
    engine = Engine(Config(data_root=directory / "data", exec_root=directory / "run"), clock)
    await engine.start_up()
    storage = AgentStorage(directory)
    await storage.open()
    tasks = TaskManager(storage, task_engine(engine), clock)
    await tasks.start_up()
    ended = {TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED}
    if phase == "run":
        await tasks.assign(
            AssignmentsMessage(complete=True, sequence=0, index=1, update_tasks=assigned(TaskState.RUNNING))
        )
        tell(await settle(tasks, ended, {"sleeper": TaskState.RUNNING}))
        await asyncio.sleep(600)
    adopted = dict(tasks.statuses())
    await tasks.assign(
        AssignmentsMessage(complete=True, sequence=0, index=2, update_tasks=assigned(TaskState.SHUTDOWN))
    )
    stopped = await settle(tasks, ended, {"sleeper": TaskState.SHUTDOWN})
    tell({"adopted": adopted["sleeper"], **stopped})
    await tasks.assign(AssignmentsMessage(complete=True, sequence=0, index=3))
    async with asyncio.timeout(60):
        while tasks.statuses():
            await asyncio.sleep(0.02)
    tell({}, left=[item.id for item in await engine.containers.list(all=True)])
    await tasks.close()
    await storage.close()
    await engine.close()


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    enter_private_mount_namespace()
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))

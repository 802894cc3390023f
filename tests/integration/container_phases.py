"""One life of the engine's containers, as a process of its own that the test may kill.

`python -m tests.integration.container_phases run|again DIRECTORY`: prints what it saw as JSON; `run` then waits to be
killed. Meant to run in a network, mount and pid namespace of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from api.types.container import CreateBody, HostConfig, LogConfig, RestartPolicy
from api.types.stream import LogOptions
from api.wire.stdcopy import Deframer
from base.clock import SystemClock
from daemon.config import Config
from daemon.engine import Engine
from worker.engine.containers.engine import Containers
from worker.engine.syscalls.mountns import enter_private_mount_namespace

COUNT = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.02; done"
EVERYTHING = LogOptions(stdout=True, stderr=True)


class Sink:
    """A client's connection that keeps what it is sent."""

    def __init__(self, typed: list[bytes]) -> None:
        self.typed = typed
        self.seen = b""

    async def read(self) -> bytes:
        return self.typed.pop(0) if self.typed else b""

    async def write(self, data: bytes) -> None:
        self.seen += data

    async def write_eof(self) -> None: ...

    async def close(self) -> None: ...

    async def wait_lost(self) -> None:
        await asyncio.Event().wait()


async def start(containers: Containers, name: str, script: str, **host: Any) -> str:
    body = CreateBody(image="busybox", cmd=["sh", "-c", script], host_config=HostConfig(**host))
    container_id = (await containers.create(name, body)).id
    await containers.start(container_id)
    return container_id


async def log_of(containers: Containers, name: str) -> str:
    deframer = Deframer()
    pieces = [data async for cut in containers.logs(name, EVERYTHING) for _, data in deframer.receive_data(cut)]
    return b"".join(pieces).decode()


async def first_life(containers: Containers) -> dict[str, Any]:
    await start(containers, "counter", COUNT)
    await start(containers, "brief", "sleep 1; exit 9")
    await start(containers, "always", "sleep 1000", restart_policy=RestartPolicy(name="always"))
    await containers.create("never", CreateBody(image="busybox"))
    await start(containers, "quiet", "echo unseen", log_config=LogConfig(type="none"))
    await start(containers, "writer", "echo new > /new; rm /etc/group; echo w > /v/file", binds=["data:/v"])
    assert await containers.wait("writer") == 0
    return {
        "changes": [[change.path, change.kind] for change in await containers.changes("writer")],
        "exported": sum([len(piece) async for piece in await containers.export("writer")]),
        "pid": containers.get("counter").record.pid,
    }


async def second_life(containers: Containers) -> dict[str, Any]:
    from api.types.stream import AttachOptions

    statuses = {name: containers.get(name).record.status for name in ("counter", "always", "never")}
    seen = {"statuses": statuses, "brief": await containers.wait("brief"), "pid": containers.get("counter").record.pid}
    session = await containers.attach("counter", AttachOptions(stream=True, stdout=True))
    sink = Sink([])
    async with asyncio.TaskGroup() as group:
        group.create_task(session.run(sink))
        await asyncio.sleep(0.3)
        await containers.stop("counter", 0)
    numbers = [int(line.split()[1]) for line in (await log_of(containers, "counter")).splitlines()]
    seen |= {"gapless": numbers == list(range(1, len(numbers) + 1)), "lines": len(numbers), "attached": len(sink.seen)}
    for container in await containers.list(all=True):
        await containers.remove(container.id, force=True, volumes=True)
    return seen


async def main(phase: str, directory: Path) -> None:
    engine = Engine(Config(data_root=directory / "data", exec_root=directory / "run"), SystemClock())
    await engine.start_up()
    if phase == "run":
        print(json.dumps(await first_life(engine.containers)), flush=True)
        await asyncio.sleep(600)
    seen = await second_life(engine.containers)
    await engine.close()
    left = [str(path) for path in (directory / "data/containers").iterdir()]
    left += [str(path) for kind in ("bundles", "m", "x", "netns") for path in (directory / "run" / kind).glob("*")]
    left += [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{directory}/data/containers" in line
    ]
    print(json.dumps(seen | {"left": left}), flush=True)


if __name__ == "__main__":
    enter_private_mount_namespace(Path(sys.argv[2]) / "run")
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))

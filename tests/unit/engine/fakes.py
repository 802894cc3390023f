"""Small, honest stand-ins for the parts that containers stand on: they keep state and refuse what the real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from api.errors import Conflict, NotFound, ShoalError
from api.types.endpoint import EndpointSettings
from base.clock import NS
from worker.engine.parts import (
    STDOUT,
    ContainerPlan,
    Exit,
    ImageView,
    LogEnd,
    NetworkRequest,
    ProcessIO,
    Sandbox,
    VolumeView,
)


class FakeClock:
    """Time that moves only when told, but never stands still between two readings."""

    def __init__(self) -> None:
        self.ns = 1_700_000_000 * NS

    def now_ns(self) -> int:
        self.ns += 1
        return self.ns

    def monotonic(self) -> float:
        return self.ns / NS

    def advance(self, seconds: float) -> None:
        self.ns += int(seconds * NS)


class FakeStream:
    def __init__(self, process: FakeProcess) -> None:
        self.process = process
        self.output: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = False
        self.log_end: LogEnd | None = None

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while (data := await self.output.get()) is not None:
            yield STDOUT, data

    async def write(self, data: bytes) -> None:
        self.process.typed += data

    async def close_stdin(self) -> None:
        self.process.stdin_closed = True

    async def close(self) -> None:
        self.closed = True


class FakeProcess:
    """A process that does what the test tells it to."""

    def __init__(self, pid: int, clock: FakeClock) -> None:
        self.pid = pid
        self.clock = clock
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.streams: list[FakeStream] = []
        self.typed = b""
        self.stdin_closed = False
        self.size = (0, 0)

    async def wait(self) -> Exit:
        return await asyncio.shield(self.exit)

    async def attach(self) -> FakeStream:
        if self.exit.done():
            raise Conflict("the process has ended")
        self.streams.append(FakeStream(self))
        return self.streams[-1]

    async def resize(self, height: int, width: int) -> None:
        self.size = (height, width)

    def says(self, data: bytes) -> None:
        for stream in self.streams:
            stream.output.put_nowait(data)

    def ends(self, code: int, *, oom: bool = False) -> None:
        if not self.exit.done():
            self.exit.set_result(Exit(code, self.clock.now_ns(), oom))
            for stream in self.streams:
                stream.output.put_nowait(None)


class FakeRuntime:
    """`obeys`: signals that end a process, each with 128 + its number."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.processes: dict[str, FakeProcess] = {}
        self.plans: list[ContainerPlan] = []
        self.started: list[str] = []
        self.signals: list[int] = []
        self.obeys = {9, 15}
        self.refuses: ShoalError | None = None
        self.paused: set[str] = set()
        self.updates: list[dict[str, Any]] = []
        self.execs: list[dict[str, Any]] = []

    def expect(self) -> None:
        pass

    async def create(self, plan: ContainerPlan) -> FakeProcess:
        if self.refuses is not None:
            raise self.refuses
        self.plans.append(plan)
        self.processes[plan.id] = FakeProcess(1000 + len(self.plans), self.clock)
        return self.processes[plan.id]

    async def start(self, container_id: str) -> None:
        self.started.append(container_id)

    async def adopt(self, container_id: str, io: ProcessIO, exit_file: Path) -> FakeProcess | None:
        return self.processes.get(container_id)

    async def kill(self, container_id: str, signal: int) -> None:
        process = self.processes.get(container_id)
        if process is None or process.exit.done():
            raise NotFound("no process runs")
        self.signals.append(signal)
        if signal in self.obeys:
            process.ends(128 + signal)

    async def pause(self, container_id: str) -> None:
        self.paused.add(container_id)

    async def resume(self, container_id: str) -> None:
        self.paused.discard(container_id)

    async def pids(self, container_id: str) -> list[int]:
        return [1]

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        self.updates.append(resources)

    async def delete(self, container_id: str) -> None:
        self.processes.pop(container_id, None)

    async def exec(self, container_id: str, exec_id: str, process: dict[str, Any], io: ProcessIO) -> FakeProcess:
        self.execs.append(process)
        made = FakeProcess(2000, self.clock)
        self.processes[f"exec {exec_id}"] = made
        return made

    async def adopt_exec(self, container_id: str, exec_id: str) -> FakeProcess | None:
        return self.processes.get(f"exec {exec_id}")

    async def forget_exec(self, container_id: str, exec_id: str) -> None:
        self.processes.pop(f"exec {exec_id}", None)

    async def known(self) -> list[str]:
        return [key for key in self.processes if not key.startswith("exec ")]


class FakeImages:
    def __init__(self, layer: Path) -> None:
        self.layer = layer
        self.config: dict[str, Any] = {"Cmd": ["sh"], "Env": ["PATH=/bin", "FROM=image"]}
        self.holds: set[tuple[str, str]] = set()

    async def resolve(self, reference: str) -> ImageView:
        if reference.partition(":")[0] not in ("busybox", "sha256"):
            raise NotFound(f"No such image: {reference}:latest")
        return ImageView("sha256:" + "b" * 64, self.config, [self.layer])

    async def hold(self, image_id: str, holder: str) -> None:
        self.holds.add((image_id, holder))

    async def release(self, image_id: str, holder: str) -> None:
        self.holds.discard((image_id, holder))

    async def reconcile(self, holders: Collection[str]) -> None:
        self.holds = {(image, holder) for image, holder in self.holds if holder in holders}


class FakeNetworks:
    def __init__(self) -> None:
        self.attached: dict[str, NetworkRequest] = {}
        self.refuses: ShoalError | None = None
        self.kept: list[str] = []
        self.joined: dict[str, EndpointSettings] = {}
        """On top of the bridge, for every sandbox."""

    async def check(self, request: NetworkRequest) -> None:
        if request.mode == "nosuch":
            raise NotFound("network nosuch not found")

    async def attach(self, request: NetworkRequest) -> Sandbox:
        if self.refuses is not None:
            raise self.refuses
        await self.check(request)
        self.attached[request.container_id] = request
        sandbox = await self.sandbox(request.container_id)
        assert sandbox is not None
        return sandbox

    async def detach(self, container_id: str) -> None:
        self.attached.pop(container_id, None)

    async def sandbox(self, container_id: str) -> Sandbox | None:
        request = self.attached.get(container_id)
        if request is None:
            return None
        bridge = EndpointSettings(network_id="e" * 64, ip_address="172.17.0.2", ip_prefix_len=16)
        ports = {key: list(request.ports.get(key, [])) or None for key in [*request.exposed, *request.ports]}
        files = [request.directory / name for name in ("hosts", "hostname", "resolv.conf")]
        return Sandbox(Path("/run/ns"), {"bridge": bridge, **self.joined}, ports, *files, sandbox_id="5" * 64)

    async def reconcile(self, running: Sequence[str]) -> None:
        self.kept = list(running)

    async def connect(self, container_id: str, network: str, settings: EndpointSettings) -> EndpointSettings:
        return settings

    async def disconnect(self, container_id: str, network: str, *, force: bool = False) -> None:
        return None


class FakeVolumes:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.volumes: set[str] = set()
        self.holds: set[tuple[str, str]] = set()
        self.mounted: set[tuple[str, str]] = set()

    async def ensure(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> VolumeView:
        driver = driver or "local"
        if driver != "local":
            raise NotFound(f'plugin "{driver}" not found')
        name = name or f"anonymous{len(self.volumes)}"
        created = name not in self.volumes
        self.volumes.add(name)
        (self.directory / name).mkdir(parents=True, exist_ok=True)
        return VolumeView(name, driver, self.directory / name, created)

    async def mount(self, name: str, holder: str) -> Path:
        self.mounted.add((name, holder))
        return self.directory / name

    async def unmount(self, name: str, holder: str) -> None:
        self.mounted.discard((name, holder))

    async def hold(self, name: str, holder: str) -> None:
        self.holds.add((name, holder))

    async def release(self, name: str, holder: str) -> None:
        self.holds.discard((name, holder))

    async def reconcile(self, holders: Collection[str], users: Collection[str]) -> None:
        self.holds = {(name, holder) for name, holder in self.holds if holder in holders}
        self.mounted = {(name, user) for name, user in self.mounted if user in users}

    async def remove(self, name: str) -> None:
        if any(held == name for held, _ in self.holds):
            raise Conflict(f"volume is in use: {name}")
        self.volumes.discard(name)

"""Starting a container: root, volumes, network, process, in this order, and all of it back if one step fails.

A start is durable once the record says running; a crash before that leaves things the next start of the daemon
removes, because nobody was told that it runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from api.errors import Conflict, Internal, InvalidArgument, ShoalError
from worker.engine.containers import links
from worker.engine.containers.hostconfig import throttled
from worker.engine.containers.inroot import copy_up, make_directories, read_text
from worker.engine.containers.kit import Kit, Layout
from worker.engine.containers.plan import Surroundings, process_io, settings
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.rootfs import Rootfs
from worker.engine.containers.shipping import Shipping
from worker.engine.containers.states import Status
from worker.engine.containers.store import Container
from worker.engine.parts import ContainerPlan, NetworkRequest, Process
from worker.engine.runtime import users
from worker.engine.runtime.host import DeviceNode, all_devices, device_node
from worker.engine.runtime.spec import Throttle, build
from worker.engine.syscalls.sharing import share_mount

log = logging.getLogger(__name__)

_NOT_RUNNING = {
    "pid": "container {0} is not running",
    "ipc": "can't join IPC of container {0}: container {0} is not running",
    "net": "cannot join network of a non running container: {0}",
}

EXIT_NOT_FOUND, EXIT_NOT_EXECUTABLE, EXIT_FAILED = 127, 126, 128


class Starter:
    """Brings one container from not running to running. The caller holds its lock."""

    def __init__(
        self, kit: Kit, rootfs: Rootfs, shipping: Shipping, started: Callable[[Container, Process], None]
    ) -> None:
        self._kit = kit
        self._shipping = shipping
        self._rootfs = rootfs
        self._started = started
        """Called when it runs, to watch for its end."""

    async def start(self, container: Container) -> None:
        """Start it. On failure everything is undone, the record tells exit code and error, and the error is raised."""
        kit = self._kit
        kit.runtime.expect()
        await container.settled.wait()
        try:
            async with contextlib.AsyncExitStack() as undo:
                process = await self._create(container, undo)
                await self._hand_out(container, process)
                await kit.runtime.start(container.id)
                await kit.store.save(
                    container,
                    status=Status.RUNNING,
                    pid=process.pid,
                    exit_code=0,
                    error="",
                    oom_killed=False,
                    started_ns=kit.clock.now_ns(),
                    finished_ns=container.record.finished_ns,
                    on_no_network=False,
                    manually_stopped=False,
                    mounts=[mount.filled() for mount in container.record.mounts],
                )
                undo.pop_all()
        except ShoalError as error:
            await self._failed(container, error)
            raise
        except OSError as error:
            failure = Internal(f"failed to start container {container.record.name}: {error}")
            await self._failed(container, failure)
            raise failure from error
        container.process = process
        container.begin_run()
        kit.events.publish("container", "start", container.id, container.attributes())
        self._started(container, process)

    async def _create(self, container: Container, undo: contextlib.AsyncExitStack) -> Process:
        """Everything up to a created process; `undo` takes it back."""
        kit, record = self._kit, container.record
        await self._shipping.check(record)
        image = await kit.images.resolve(record.image_id)
        await self._rootfs.mount(record.id, image.layers)
        undo.push_async_callback(_quietly, "unmount root", self._rootfs.unmount, record.id)
        sources = await self._sources(record, undo)
        around = await self._look_up(record, sources, undo)
        spec = build(settings(record, kit.layout, around, kit.host), kit.host)
        plan = ContainerPlan(
            id=record.id,
            bundle=kit.layout.bundle(record.id),
            spec=spec,
            io=process_io(record, kit.layout),
            exit_file=kit.layout.exit_file(record.id),
        )
        process = await kit.runtime.create(plan)
        undo.push_async_callback(_quietly, "delete container", kit.runtime.delete, record.id)
        if around.ipc_owner:  # POSIX shared memory is files: it is shared by sharing the mount
            await kit.disk.run(share_mount, around.ipc_owner, process.pid, "/dev/shm")
        return process

    async def _sources(self, record: ContainerRecord, undo: contextlib.AsyncExitStack) -> dict[str, Path]:
        """Mount the volumes, make missing bind sources; destination -> host path."""
        kit = self._kit
        root = kit.layout.merged(record.id)
        sources: dict[str, Path] = {}
        for mount in record.mounts:
            if mount.type == "volume":
                sources[mount.destination] = path = await kit.volumes.mount(mount.name, record.id)
                undo.push_async_callback(_quietly, "unmount volume", kit.volumes.unmount, mount.name, record.id)
                if mount.copy_up:
                    await kit.disk.run(copy_up, root, mount.destination, path)
            else:
                sources[mount.destination] = path = Path(mount.source)
                await kit.disk.run(_bind_source, path)
        return sources

    async def _look_up(
        self, record: ContainerRecord, sources: dict[str, Path], undo: contextlib.AsyncExitStack
    ) -> Surroundings:
        kit, wish = self._kit, record.host_config
        # One job: each change of thread costs as much as all of this.
        identity, devices, throttles = await kit.disk.run(_prepare, record, kit.layout)
        pid_ns = self._namespace(wish.pid_mode, "pid")
        ipc_ns = self._namespace(wish.ipc_mode, "ipc")
        linked = await self._linked(record)
        sandbox = await kit.networks.attach(self.request(record, linked=linked))
        undo.push_async_callback(_quietly, "detach network", kit.networks.detach, record.id)
        return Surroundings(
            identity=identity,
            sandbox=sandbox,
            sources=sources,
            devices=devices,
            throttles=throttles,
            link_env=[line for each in linked for line in links.variables(record.name, each)],
            pid_ns=pid_ns,
            ipc_ns=ipc_ns,
            ipc_owner=int(ipc_ns.split("/")[2]) if ipc_ns.startswith("/") else 0,
        )

    def request(
        self, record: ContainerRecord, *, checking: bool = False, linked: Sequence[links.Linked] = ()
    ) -> NetworkRequest:
        """What the container asks of the network. Raises Conflict if it joins one that does not run (which does not
        matter yet when it is only being checked)."""
        config, wish = record.config, record.host_config
        mode = "none" if config.network_disabled else wish.network_mode
        join = None
        if mode.startswith("container:") and not checking:
            join = Path(self._namespace(mode, "net"))
        return NetworkRequest(
            container_id=record.id,
            container_name=record.name,
            hostname=config.hostname,
            domainname=config.domainname,
            mode=mode,
            join=join,
            endpoints=record.endpoints,
            ports={port: bindings or [] for port, bindings in (wish.port_bindings or {}).items()},
            exposed=sorted(config.exposed_ports or {}),
            publish_all=wish.publish_all_ports,
            dns=[server for server in wish.dns or [] if server],
            dns_search=[domain for domain in wish.dns_search or [] if domain],
            dns_options=[option for option in wish.dns_options or [] if option],
            extra_hosts=[*(wish.extra_hosts or []), *map(links.host_entry, linked)],
            mac_address=config.mac_address,
            directory=self._kit.layout.directory(record.id),
        )

    async def _linked(self, record: ContainerRecord) -> list[links.Linked]:
        """The containers it links to on the default bridge. Raises Conflict for one that does not run."""
        wish = record.host_config
        found = []
        for name, alias in map(links.parse_link, (wish.links or []) if links.on_default_bridge(wish) else []):
            other = self._kit.store.get(name)
            if not other.running:
                raise Conflict(
                    f"Cannot link to a non running container: /{other.record.name} AS /{record.name}/{alias}"
                )
            sandbox = await self._kit.networks.sandbox(other.id)
            endpoint = sandbox.endpoints.get("bridge") if sandbox is not None else None
            config = other.record.config
            ports = [*(config.exposed_ports or {}), *(other.record.host_config.port_bindings or {})]
            found.append(
                links.Linked(
                    alias=alias,
                    id=other.id,
                    name=other.record.name,
                    hostname=config.hostname,
                    address=endpoint.ip_address if endpoint is not None else "",
                    env=tuple(config.env or []),
                    ports=tuple(dict.fromkeys(ports)),
                )
            )
        return found

    def _namespace(self, mode: str, kind: str) -> str:
        """A namespace mode as the runtime takes it: "", `host`, or a path."""
        if not mode.startswith("container:"):
            return mode if mode == "host" else ""
        other = self._kit.store.get(mode.removeprefix("container:"))
        if not other.running:
            raise Conflict(_NOT_RUNNING[kind].format(other.id))
        return f"/proc/{other.record.pid}/ns/{kind}"

    async def _hand_out(self, container: Container, process: Process) -> None:
        """Attachers that came first are connected before the process can write a byte."""
        waiting, container.pending = container.pending, []
        for future in waiting:
            if not future.done():
                future.set_result(await process.attach())

    async def _failed(self, container: Container, error: ShoalError) -> None:
        code = exit_code_of(error.message)
        kit = self._kit
        await kit.store.save(container, pid=0, exit_code=code, error=error.message)
        waiting, container.pending = container.pending, []
        for future in waiting:
            if not future.done():
                future.set_exception(Conflict(f"container {container.id} did not start: {error.message}"))
        kit.events.publish("container", "die", container.id, container.attributes(exitCode=str(code)))


def exit_code_of(message: str) -> int:
    """The exit code a failed start leaves, as clients derive it from the same words."""
    if "executable file not found" in message or "no such file or directory" in message:
        return EXIT_NOT_FOUND
    if "permission denied" in message or "is a directory" in message:
        return EXIT_NOT_EXECUTABLE
    return EXIT_FAILED


async def _quietly(what: str, step: Callable[..., Awaitable[None]], *args: object) -> None:
    """One step back; its own failure is logged, so that the other steps are still taken."""
    try:
        await step(*args)
    except (ShoalError, OSError) as error:
        log.warning("undoing a failed start: step failed step=%s error=%s", what, error)


def _prepare(
    record: ContainerRecord, layout: Layout
) -> tuple[users.Identity, list[DeviceNode], dict[str, list[Throttle]]]:
    """Who it runs as and the devices it uses; its working directory and a fresh bundle are made."""
    config, wish, root = record.config, record.host_config, layout.merged(record.id)
    passwd, group = read_text(root, "/etc/passwd"), read_text(root, "/etc/group")
    identity = users.resolve(config.user, passwd, group, wish.group_add or [])
    if config.working_dir not in ("", "/"):
        make_directories(root, config.working_dir)
    _mount_points(record, root)
    layout.exit_file(record.id).unlink(missing_ok=True)
    layout.bundle(record.id).mkdir(parents=True, exist_ok=True)
    return identity, _devices(record), _throttles(throttled(wish))


def _mount_points(record: ContainerRecord, root: Path) -> None:
    """Directories to mount on, as dockerd leaves them in the container; the runtime would make them sticky."""
    wanted = [mount.destination for mount in record.mounts if mount.type == "volume" or os.path.isdir(mount.source)]
    for path in [*wanted, *(record.host_config.tmpfs or {})]:
        with contextlib.suppress(InvalidArgument, OSError):  # what is wrong with it, the runtime says better
            make_directories(root, path)


def _bind_source(path: Path) -> None:
    """A bind's host directory is made if it is missing (v1.24 Binds)."""
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except FileExistsError:
        return
    except OSError as error:
        raise InvalidArgument(
            f"error while creating mount source path '{path}': mkdir {path}: {error.strerror}"
        ) from error


def _devices(record: ContainerRecord) -> list[DeviceNode]:
    wish = record.host_config
    nodes = all_devices() if wish.privileged else []
    wanted = [
        device_node(device.path_on_host, device.path_in_container, device.cgroup_permissions or "rwm")
        for device in wish.devices or []
    ]
    replaced = {node.path for node in wanted}
    return [node for node in nodes if node.path not in replaced] + wanted


def _throttles(wanted: dict[str, list[tuple[str, int]]]) -> dict[str, list[Throttle]]:
    return {
        name: [Throttle(node.major, node.minor, value) for node, value in ((device_node(path), n) for path, n in each)]
        for name, each in wanted.items()
    }

"""A lab as an object: what the command line, the end-to-end tests and the benchmarks drive.

Every method leaves the state file true; `down` works from any state, also after a crash of the lab command itself.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from lab import cgroups, engines, hosts, network
from lab import state as states
from lab.paths import DISK, ROOT, RUN, LabError, base_environment, disk_dir, program, run_dir
from lab.state import Engine, Host, Process, State, alive
from lab.wait import until

REGISTRY_CONFIG = """\
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}
http: {addr: "0.0.0.0:5000"}
"""


class Lab:
    """One lab, by name."""

    def __init__(self, name: str = "lab") -> None:
        if not name.replace("-", "").isalnum() or len(name) > 24:
            raise LabError(f"not a lab name: {name!r} (letters, digits and dashes, at most 24)")
        self.name = name

    # ---- life ----

    def up(
        self,
        *,
        managers: int = 3,
        workers: int = 2,
        engine: Engine = "shoald",
        registry: bool = True,
        daemon_args: Sequence[str] = (),
        timeout_s: float = 60.0,
    ) -> None:
        """Make the hosts and start their engines; returns when every engine answers /_ping. On failure: `down`."""
        if os.geteuid() != 0:
            raise LabError("a lab needs root: namespaces, mounts and cgroups are made")
        if managers + workers < 1:
            raise LabError("a lab has at least one host")
        if run_dir(self.name).exists():
            raise LabError(f"lab {self.name} is already up: script/lab --name {self.name} down")
        plan = [("manager", f"m{n}", n) for n in range(1, managers + 1)]
        plan += [("worker", f"w{n}", n) for n in range(1, workers + 1)]
        members = {
            name: Host(name=name, role=role, address=network.address(role, n))  # type: ignore[arg-type]
            for role, name, n in plan
        }
        try:
            states.save(State(name=self.name, engine=engine, daemon_args=tuple(daemon_args), hosts=members))
            self._power_on_switch()
            if registry:
                self._power_on_registry()
            for name in members:
                self._power_on(name)
            for name in members:
                self._start_engine(name)
            for name in members:
                self.wait_ping(name, timeout_s=timeout_s)
        except BaseException:
            if not os.environ.get("SHOAL_LAB_KEEP"):
                self.down()
            raise

    def down(self) -> None:
        """Remove every trace: processes, namespaces (with their links and mounts), cgroups, directories."""
        cgroups.kill(self.name)
        cgroups.remove(self.name)
        for directory, parent in ((run_dir(self.name), RUN), (disk_dir(self.name), DISK)):
            _remove_tree(directory)
            with contextlib.suppress(OSError):  # other labs
                parent.rmdir()

    # ---- hosts ----

    def state(self) -> State:
        """What is known of the lab."""
        return states.load(self.name)

    def host(self, name: str) -> Host:
        """One host (the registry too, by the name `registry`)."""
        state = self.state()
        extra = {h.name: h for h in (state.registry, state.switch) if h is not None}
        found = state.hosts.get(name) or extra.get(name)
        if found is None:
            raise LabError(f"no host {name} in lab {self.name} (there are {', '.join(state.hosts)})")
        return found

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """`argv` turned into a command that runs inside the host; use it with `environment()`."""
        return hosts.joined(self.name, self.host(host), argv)

    def environment(self) -> dict[str, str]:
        """Environment for commands inside a host: DOCKER_HOST names its engine."""
        base = base_environment()
        return base | {
            "DOCKER_HOST": f"unix://{engines.SOCKETS[self.state().engine]}",
            "PATH": f"{base['PATH']}:{program('docker').parent}",
        }

    def run(self, host: str, *argv: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside a host and collect its output."""
        return subprocess.run(
            self.command(host, argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=timeout_s,
            check=False,
        )

    def socket(self, host: str) -> Path:
        """The host's API socket, usable from the machine."""
        return engines.socket_outside(hosts.host_run(self.name, host), self.state().engine)

    def docker(self, host: str, *args: str, timeout_s: float = 60.0) -> str:
        """Run the docker CLI against a host; returns its output. LabError with its words if it fails."""
        done = subprocess.run(
            [str(program("docker")), "-H", f"unix://{self.socket(host)}", *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=base_environment(),
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"docker {' '.join(args)} on {host}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def log(self, host: str) -> Path:
        """The log file of the host's engine."""
        return hosts.host_log(self.name, self.host(host).name)

    def wait_ping(self, host: str, *, timeout_s: float = 60.0) -> None:
        """Until the host's engine answers /_ping; LabError at the deadline or when the engine ended."""
        path = self.socket(host)

        def look() -> bool:
            if ping(path):
                return True
            if not alive(self.host(host).daemon):
                raise LabError(f"the engine of {host} ended:\n{self.log(host).read_text(errors='replace')[-3000:]}")
            return False

        until(look, timeout_s=timeout_s, what=f"the engine of {host} to answer (log: {self.log(host)})")

    # ---- faults ----

    def kill(self, host: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to the host's engine alone; with SIGKILL, wait until it is gone."""
        daemon = self.host(host).daemon
        if daemon is None or not alive(daemon):
            raise LabError(f"the engine of {host} does not run")
        os.kill(daemon.pid, number)
        if number == signal.SIGKILL:
            until(lambda: not alive(daemon), timeout_s=10, what=f"the engine of {host} to end")

    def power_off(self, host: str) -> None:
        """Power loss: engine and containers end at once, links and mounts are gone, the disk stays."""
        self.host(host)
        hosts.end(self.name, host)

        def off(state: State) -> State:
            gone = msgspec.structs.replace(state.hosts[host], init=None, daemon=None)
            return msgspec.structs.replace(state, hosts=state.hosts | {host: gone})

        self._change(off)

    def stop(self, host: str, *, timeout_s: float = 20.0) -> None:
        """Stop the host's engine in good order (SIGTERM). Containers of shoald run on."""
        daemon = self.host(host).daemon
        if not alive(daemon):
            return
        self.kill(host, signal.SIGTERM)
        until(lambda: not alive(daemon), timeout_s=timeout_s, what=f"the engine of {host} to stop")

    def start(
        self, host: str, *, program: Sequence[str] = (), env: dict[str, str] | None = None, timeout_s: float = 60.0
    ) -> None:
        """Start the host (if it is off) and its engine (if it is not running); returns when it answers.

        A registry that was killed starts too, and answers a moment later.
        `program` stands in for the engine's own for this one time, `env` is added to its environment.
        """
        current = self.host(host)
        if alive(current.init) and alive(current.daemon):
            raise LabError(f"the engine of {host} already runs")
        if current.role == "registry":
            self._start_registry(current)
            return
        if not alive(current.init):
            hosts.end(self.name, host)  # cgroups a crash may have left
            self._power_on(host)
        self._start_engine(host, program, env or {})
        self.wait_ping(host, timeout_s=timeout_s)

    def partition(self, left: Sequence[str], right: Sequence[str], *, one_way: bool = False) -> None:
        """Part two groups of hosts (adds to earlier partitions)."""
        for name in (*left, *right):
            self.host(name)
        fresh = network.cuts_between(left, right, one_way=one_way)
        self._cut(lambda state: tuple(sorted({*state.cuts, *fresh})))

    def heal(self, left: Sequence[str] = (), right: Sequence[str] = ()) -> None:
        """Take partitions away: those between two groups, or all."""
        gone = set(network.cuts_between(left, right)) if left else None
        self._cut(lambda state: () if gone is None else tuple(c for c in state.cuts if c not in gone))

    # ---- inside ----

    def _known(self) -> dict[str, str]:
        state = self.state()
        return {h.name: h.address for h in state.hosts.values()} | {"registry": network.REGISTRY}

    def _power_on_switch(self) -> None:
        init = hosts.spawn(self.name, "switch", known={})
        switch = Host(name="switch", role="switch", address=network.GATEWAY, init=init)
        self._change(lambda state: msgspec.structs.replace(state, switch=switch))
        network.make_switch(self.name, switch)

    def _power_on_registry(self) -> None:
        init = hosts.spawn(self.name, "registry", known=self._known())
        registry = Host(name="registry", role="registry", address=network.REGISTRY, init=init)
        network.plug(self.name, self.host("switch"), registry)
        (hosts.host_lib(self.name, "registry") / "config.yml").write_text(REGISTRY_CONFIG)
        self._start_registry(registry)
        seed = [sys.executable, "-I", str(ROOT / "lab" / "image.py"), engines.MIRROR]
        hosts.run_in(self.name, registry, seed)

    def _start_registry(self, registry: Host) -> None:
        argv = [str(program("docker-registry")), "serve", "/var/lib/config.yml"]
        running = msgspec.structs.replace(registry, daemon=hosts.start_in(self.name, registry, argv))
        self._change(lambda state: msgspec.structs.replace(state, registry=running))

    def _power_on(self, name: str) -> None:
        init = hosts.spawn(self.name, name, known=self._known())
        self._set(name, init=init, daemon=None)
        network.plug(self.name, self.host("switch"), self.host(name))

    def _start_engine(self, name: str, program: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        state = self.state()
        launch = engines.launch(state.engine, state.daemon_args, mirror=state.registry is not None)
        argv = [*program, *launch.argv[1:]] if program else [*launch.argv]
        if env:  # inside the host only: what is preloaded there must leave nothing on the machine
            argv = ["env", *(f"{key}={value}" for key, value in env.items()), *argv]
        self._set(name, daemon=hosts.start_in(self.name, self.host(name), argv, env=launch.env))

    def _set(self, name: str, **fields: Process | None) -> None:
        def changed(state: State) -> State:
            host = msgspec.structs.replace(state.hosts[name], **fields)
            return msgspec.structs.replace(state, hosts=state.hosts | {name: host})

        self._change(changed)

    def _cut(self, change: Callable[[State], tuple[states.Cut, ...]]) -> None:
        state = self._change(lambda s: msgspec.structs.replace(s, cuts=change(s)))
        network.apply_cuts(self.name, self.host("switch"), state.cuts)

    def _change(self, change: Callable[[State], State]) -> State:
        """Read, change and write the state file with no other lab command between."""
        with (run_dir(self.name) / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = change(self.state())
            states.save(state)
            return state


@contextlib.contextmanager
def running(
    name: str,
    *,
    managers: int = 1,
    workers: int = 0,
    engine: Engine = "shoald",
    registry: bool = True,
    daemon_args: Sequence[str] = (),
) -> Iterator[Lab]:
    """A lab (no swarm) for the time of a `with` block; an old one of that name is removed first."""
    lab = Lab(name)
    lab.down()
    lab.up(managers=managers, workers=workers, engine=engine, registry=registry, daemon_args=daemon_args)
    try:
        yield lab
    finally:
        lab.down()


def ping(path: Path) -> bool:
    """Whether an engine answers GET /_ping with 200 on this unix socket."""
    import socket

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(2.0)
            link.connect(str(path))
            link.sendall(b"GET /_ping HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
            return link.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def _remove_tree(path: Path) -> None:
    """Remove a directory tree; retried for a moment, since mounts of a killed host go a little later than it."""
    deadline = time.monotonic() + 10
    while path.exists():
        try:
            shutil.rmtree(path)
        except OSError as error:
            if time.monotonic() > deadline:
                raise LabError(f"{path} cannot be removed: {error}") from error
            time.sleep(0.05)

"""Making, entering and ending one host: namespaces, cgroups, private directories.

A host is its process 1 (`init.py`): when that is killed the kernel ends every process in the host and drops its mounts
and links, which is what "power loss" means here. Its disk (`disk_dir/<host>/lib`) stays.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import cgroups
from lab.paths import ROOT, LabError, base_environment, disk_dir, make_directory, run_dir
from lab.state import Host, Process, alive, born
from lab.wait import until

NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")


def host_run(lab: str, host: str) -> Path:
    """The host's /run as the machine sees it (its sockets can be used from here)."""
    return run_dir(lab) / host / "run"


def host_lib(lab: str, host: str) -> Path:
    """The host's /var/lib as the machine sees it."""
    return disk_dir(lab) / host / "lib"


def host_log(lab: str, host: str) -> Path:
    """Log of the host's engine (or registry)."""
    return disk_dir(lab) / host / "daemon.log"


def spawn(lab: str, host: str, *, known: dict[str, str]) -> Process:
    """Switch a host on: fresh /run, kept /var/lib, new namespaces. `known`: names and addresses for /etc/hosts."""
    for hidden in ("/run", "/var/lib"):
        if ROOT.is_relative_to(hidden) or Path(sys.prefix).is_relative_to(hidden):
            raise LabError(f"hosts have a {hidden} of their own: the project must not lie below it ({ROOT})")
    binds = _directories(lab, host, known)
    entered = cgroups.create(lab, host)
    plan = json.dumps(
        {
            "hostname": host,
            "binds": binds,
            "cgroups": [{"name": h.mount.name, "options": h.options, "v2": h.v2} for h in cgroups.hierarchies()],
        }
    )
    init = [sys.executable, "-I", "-S", str(ROOT / "lab" / "init.py"), plan]
    command = _entering(entered, ["unshare", *NAMESPACES, "--propagation", "slave", "--fork", "--", *init])
    errors = run_dir(lab) / host / "init.log"
    with errors.open("wb") as log:
        # setsid --fork: the host outlives us and is nobody's child to wait for.
        launcher = subprocess.Popen(
            ["setsid", "--fork", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=base_environment(),
        )
        # Up to the line only: `unshare` stays as the host's parent and keeps the pipe open.
        with launcher:
            assert launcher.stdout is not None
            line = launcher.stdout.readline()
    if not line.strip():
        raise LabError(f"host {host} did not start: {errors.read_text().strip()}")
    pid = int(line)
    for directory in cgroups.entries(lab, host):  # v2: unshare itself must leave the host's root cgroup
        if directory.name == cgroups.V2_LEAF:
            _move_all(directory.parent, directory)
    return Process(pid=pid, born=born(pid))


def joined(lab: str, host: Host, argv: Sequence[str]) -> list[str]:
    """`argv` turned into a command that runs inside the host (its namespaces and its cgroup)."""
    if host.init is None or not alive(host.init):
        raise LabError(f"host {host.name} is off: script/lab start {host.name}")
    enter = ["nsenter", "--target", str(host.init.pid)]
    enter += ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--", *argv]
    return _entering(cgroups.entries(lab, host.name), enter)


def run_in(lab: str, host: Host, argv: Sequence[str], *, env: dict[str, str] | None = None) -> str:
    """Run a command inside a host and return its output; LabError with its words if it fails."""
    done = subprocess.run(
        joined(lab, host, argv),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=base_environment() | (env or {}),
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"on {host.name}: {shlex.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def start_in(lab: str, host: Host, argv: Sequence[str], *, env: dict[str, str] | None = None) -> Process:
    """Start a long-running program inside a host, its output appended to the host's log; returns the program itself."""
    pid_file = host_run(lab, host.name) / "lab-daemon.pid"
    pid_file.unlink(missing_ok=True)
    # The shell notes its number (inside the host) and becomes the program.
    noted = ["sh", "-c", 'echo $$ >/run/lab-daemon.pid.new; mv /run/lab-daemon.pid.new /run/lab-daemon.pid; exec "$@"']
    with host_log(lab, host.name).open("ab") as log:
        subprocess.run(
            ["setsid", "--fork", *joined(lab, host, [*noted, "sh", *argv])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=base_environment() | (env or {}),
            check=True,
        )
    return _find(lab, host.name, pid_file)


def end(lab: str, host: str) -> None:
    """Power loss: everything in the host ends at once, its cgroups go; its disk stays."""
    cgroups.kill(lab, host)
    cgroups.remove(lab, host)


def _find(lab: str, host: str, pid_file: Path) -> Process:
    """Translate the number a program has inside its host into the machine's."""

    def look() -> Process | None:
        if not pid_file.exists():
            return None
        inner = pid_file.read_text().strip()
        for pid in cgroups.processes(lab, host):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
                if len(numbers) == 2 and numbers[1] == inner:
                    return Process(pid=pid, born=born(pid))
            except (FileNotFoundError, ProcessLookupError):
                continue
        tail = host_log(lab, host).read_text(errors="replace")[-2000:]
        raise LabError(f"on {host}: the program ended at once:\n{tail}")

    return until(look, timeout_s=10, what=f"the program on {host} to start")


def _entering(directories: Sequence[Path], argv: Sequence[str]) -> list[str]:
    """`argv` behind a shell that first puts itself into these cgroups."""
    moves = "".join(f"echo $$ >{shlex.quote(str(d / 'cgroup.procs'))} && " for d in directories)
    return ["sh", "-c", f'{moves}exec "$@"', "sh", *argv]


def _move_all(source: Path, target: Path) -> None:
    for pid in (source / "cgroup.procs").read_text().split():
        (target / "cgroup.procs").write_text(pid)


def _directories(lab: str, host: str, known: dict[str, str]) -> list[tuple[str, str]]:
    """Prepare the host's private directories and files; returns what is bound where, in order."""
    run, lib, etc = host_run(lab, host), host_lib(lab, host), run_dir(lab) / host / "etc"
    shutil.rmtree(run, ignore_errors=True)
    for directory in (run, lib, etc):
        make_directory(directory)
    (run / "lock").mkdir()
    hosts = "127.0.0.1 localhost\n::1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in known.items())
    # Nobody answers there: a look-up fails at once instead of after a time-out.
    files = {"hostname": f"{host}\n", "hosts": hosts, "resolv.conf": "nameserver 10.99.0.1\noptions timeout:1\n"}
    binds = []
    for name, content in files.items():
        target = Path(os.path.realpath(f"/etc/{name}"))
        if target.is_relative_to("/run"):  # a link into /run (systemd-resolved): it goes into the host's own /run
            inside = run / target.relative_to("/run")
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_text(content)
        elif target.exists():
            (etc / name).write_text(content)
            binds.append((str(etc / name), str(target)))
    return [*binds, (str(lib), "/var/lib"), (str(run), "/run")]

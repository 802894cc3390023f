"""Process 1 of a lab host: lays out the host's private view of the system, then reaps orphans until it is killed.

Run as a file by `python -I -S` inside fresh namespaces (see hosts.py); only the standard library, nothing of the
project. The plan comes as JSON in argv[1]. When all is laid out it writes its process id *as the machine sees it* to
stdout and closes it; an error goes to stderr and ends it.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 2, 4, 8, 4096, 16384
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); OSError names the target."""
    if _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def drop_inherited() -> None:
    """Detach the copies of other people's namespaces and container roots, which would keep theirs from ending."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind in ("nsfs", "overlay") and where != "/":
            _libc.umount2(where.encode().decode("unicode_escape").encode(), MNT_DETACH)


def lay_out_cgroups(hierarchies: list[dict[str, object]]) -> None:
    """Mount the hierarchies afresh: inside the cgroup namespace the host's subtree looks like the root."""
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if any(h["v2"] for h in hierarchies):
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe)
        leaf = Path("/sys/fs/cgroup/system")
        leaf.mkdir(exist_ok=True)
        for pid in Path("/sys/fs/cgroup/cgroup.procs").read_text().split():
            if pid != "0":
                (leaf / "cgroup.procs").write_text(pid)
        # `unshare`, our parent, sits in the host's root too and is invisible here: the launcher moves it.
        return
    mount("tmpfs", "/sys/fs/cgroup", "tmpfs", safe, "mode=755,size=1m")
    for hierarchy in hierarchies:
        name = str(hierarchy["name"])
        options = [str(option) for option in hierarchy["options"]]  # type: ignore[attr-defined]
        os.mkdir(f"/sys/fs/cgroup/{name}")
        named = any(option.startswith("name=") for option in options)
        mount("cgroup", f"/sys/fs/cgroup/{name}", "cgroup", safe, ",".join((["none"] if named else []) + options))
        for option in options:
            if not named and option != name:
                os.symlink(name, f"/sys/fs/cgroup/{option}")


def lay_out(plan: dict[str, object]) -> None:
    """Everything a host has for itself."""
    socket.sethostname(str(plan["hostname"]))
    drop_inherited()
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    lay_out_cgroups(plan["cgroups"])  # type: ignore[arg-type]
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for source, target in plan["binds"]:  # type: ignore[attr-defined]
        mount(source, target, flags=MS_BIND)


def main() -> None:
    """Lay out, report, reap."""
    # The old /proc is still mounted: it shows our number outside.
    outer = os.readlink("/proc/self")
    handled = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    lay_out(json.loads(sys.argv[1]))
    os.chdir("/")
    os.write(1, f"{outer}\n".encode())
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    while signal.sigwait(handled) == signal.SIGCHLD:
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            continue


if __name__ == "__main__":
    main()

"""The daemon's own mount namespace on machines with "hybrid" cgroups.

crun refuses to run where /sys/fs/cgroup/unified is mounted beside v1 controllers. There the daemon takes a mount
namespace of its own and unmounts it, before it has any thread; monitors and containers inherit the view. A restarted
daemon joins the namespace in which the monitors of its containers and plugins still live, because their overlay mounts
are only visible there. Where cgroups are pure v1 or v2 nothing is done.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_REC, MS_SLAVE = 0x4000, 0x80000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MNT_DETACH = 2
UNIFIED = Path("/sys/fs/cgroup/unified")
MONITORS = ("m/*/monitor.pid", "p/m/*/monitor.pid")
"""Of containers and of plugins, below the exec root."""
_libc = ctypes.CDLL(None, use_errno=True)


def enter_private_mount_namespace(exec_root: Path | None = None) -> bool:
    """Call first thing in `main`, before any thread. `exec_root` is where monitors of an earlier daemon may live.

    Returns:
        Whether the process is in a namespace of its own now.

    Raises:
        OSError: the kernel refuses (no CAP_SYS_ADMIN).
    """
    monitor = _live_monitor(exec_root) if exec_root is not None else None
    if monitor is not None:
        return _join(monitor)
    if not is_hybrid():
        return False
    if _libc.unshare(CLONE_NEWNS) != 0:
        raise _error("unshare(CLONE_NEWNS)")
    # Mounts of the machine still arrive here, ours stay here.
    if _libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None) != 0:
        raise _error("mount(MS_SLAVE) /")
    if _libc.umount2(os.fsencode(UNIFIED), MNT_DETACH) != 0:
        raise _error(f"umount {UNIFIED}")
    # crun makes plain directories in what it takes for the v2 hierarchy: let them be in a tmpfs of our own.
    if _libc.mount(b"tmpfs", os.fsencode(UNIFIED), b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"mode=755") != 0:
        raise _error(f"mount(tmpfs) {UNIFIED}")
    return True


def is_hybrid() -> bool:
    """Whether cgroup v2 is mounted beside v1 controllers."""
    return (UNIFIED / "cgroup.controllers").exists() and not Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _live_monitor(exec_root: Path) -> int | None:
    """The pid of any monitor of this exec root that lives in another mount namespace than ours."""
    ours = os.stat("/proc/self/ns/mnt").st_ino
    for file in [file for pattern in MONITORS for file in exec_root.glob(pattern)]:
        try:
            pid = int(file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"zygote.py" in command and os.stat(f"/proc/{pid}/ns/mnt").st_ino != ours:
                return pid
        except (OSError, ValueError):
            continue  # it has ended
    return None


def _join(pid: int) -> bool:
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNS) != 0:
            raise _error(f"setns of process {pid}")
    finally:
        os.close(fd)
    return True


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")

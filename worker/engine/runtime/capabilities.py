"""Which capabilities a container's process gets: Docker's default set, what is added and dropped, and never more
than the daemon itself may hand out. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from api.errors import InvalidArgument

ALL: tuple[str, ...] = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)
"""By number: the index is the bit in /proc/<pid>/status."""

DEFAULT: tuple[str, ...] = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)


def from_mask(mask: int) -> frozenset[str]:
    """The names of the bits in a capability mask (the `Cap...` lines of /proc/<pid>/status)."""
    return frozenset(name for bit, name in enumerate(ALL) if mask >> bit & 1)


def choose(
    *,
    privileged: bool = False,
    add: Iterable[str] = (),
    drop: Iterable[str] = (),
    bounding: Collection[str] = ALL,
) -> tuple[str, ...]:
    """The set of a container's process, by `HostConfig.Privileged`, `CapAdd` and `CapDrop`.

    Names come with or without `CAP_`, in any case; ALL stands for every one. What is not in `bounding` is left out:
    the kernel would refuse it.

    Raises:
        InvalidArgument: a name is no capability.
    """
    if privileged:
        return tuple(name for name in ALL if name in bounding)
    added, dropped = _normalise("CapAdd", add), _normalise("CapDrop", drop)
    base = set(DEFAULT)
    if "ALL" in dropped:
        base = set()
    if "ALL" in added:
        base = set(ALL)
    chosen = (base - dropped) | ((added - {"ALL"}) - (dropped - {"ALL"}))
    return tuple(name for name in ALL if name in chosen and name in bounding)


def _normalise(field: str, names: Iterable[str]) -> set[str]:
    result = set()
    for name in names:
        upper = name.upper()
        full = upper if upper == "ALL" or upper.startswith("CAP_") else "CAP_" + upper
        if full != "ALL" and full not in ALL:
            raise InvalidArgument(f'invalid {field}: unknown capability: "{full}"')
        result.add(full)
    return result

"""The default seccomp profile, as Docker's gates it: what is not named is refused with EPERM, what acts on namespaces,
mounts, modules or clocks needs the capability that goes with it, `clone` may make no namespace, `clone3` (whose
flags a filter can't see) answers ENOSYS so that libraries fall back to `clone`. Pure, but for reading its own data.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

EPERM, ENOSYS = 1, 38
_NAMESPACE_FLAGS = 0x7E020000
"""NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_AF_VSOCK = 40
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, 32-bit Linux, both with UNAME26, and the query."""


@cache
def _table() -> tuple[tuple[str, ...], Mapping[str, tuple[str, ...]]]:
    content = json.loads(Path(__file__).with_name("seccomp.json").read_text())
    return tuple(content["allow"]), {name: tuple(calls) for name, calls in content["by_capability"].items()}


def profile(capabilities: Collection[str]) -> dict[str, Any]:
    """The OCI `linux.seccomp` object for a process with these capabilities (`CAP_...` names)."""
    return _profile(frozenset(capabilities))


@cache
def _profile(capabilities: frozenset[str]) -> dict[str, Any]:
    always, gated = _table()
    names = set(always)
    for capability, calls in gated.items():
        if capability in capabilities:
            names.update(calls)
    rules: list[dict[str, Any]] = [{"names": sorted(names), "action": "SCMP_ACT_ALLOW"}]
    rules.append(_compare("socket", 0, _AF_VSOCK, "SCMP_CMP_NE"))
    rules += [_compare("personality", 0, value, "SCMP_CMP_EQ") for value in _PERSONALITIES]
    if "clone" not in names:
        rules.append(_compare("clone", 0, _NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ", 0))
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }


def _compare(name: str, index: int, value: int, operator: str, second: int = 0) -> dict[str, Any]:
    argument = {"index": index, "value": value, "valueTwo": second, "op": operator}
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]}

"""The default profile, and the cache of its compiled form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker.engine.runtime import capabilities, seccomp
from worker.engine.runtime.bpf_cache import ANNOTATION, BpfCache


def allowed(caps: tuple[str, ...]) -> set[str]:
    """Calls that are allowed whatever their arguments."""
    rules = seccomp.profile(caps)["syscalls"]
    return {
        name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule for name in rule["names"]
    }


@pytest.mark.parametrize(
    "name",
    [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "pivot_root",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "kexec_load",
        "init_module",
        "reboot",
        "swapon",
        "open_by_handle_at",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "clone",
        "clone3",
        "settimeofday",
        "fsopen",
        "move_mount",
    ],
)
def test_dangerous_calls_need_more_than_the_default_capabilities(name: str) -> None:
    assert name not in allowed(capabilities.DEFAULT)


@pytest.mark.parametrize(
    "name", ["read", "execve", "fork", "openat2", "futex", "ptrace", "chroot", "fchmodat2", "statx"]
)
def test_everyday_calls_are_allowed(name: str) -> None:
    assert name in allowed(capabilities.DEFAULT)


def test_keys_stay_closed_to_everyone() -> None:
    assert not {"keyctl", "add_key", "request_key", "userfaultfd", "io_uring_setup"} & allowed(capabilities.ALL)


@pytest.mark.parametrize(
    ("capability", "call"),
    [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_BPF", "bpf"),
    ],
)
def test_capabilities_open_their_calls(capability: str, call: str) -> None:
    assert call in allowed((capability,))
    assert call not in allowed(())


def test_clone_is_masked_and_clone3_is_not_there_without_sys_admin() -> None:
    rules = seccomp.profile(capabilities.DEFAULT)["syscalls"]
    clone = [rule for rule in rules if rule["names"] == ["clone"]]
    assert [rule["args"][0]["op"] for rule in clone] == ["SCMP_CMP_MASKED_EQ"]
    assert clone[0]["args"][0]["value"] == 0x7E020000
    clone3 = [rule for rule in rules if rule["names"] == ["clone3"]]
    assert clone3 == [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    assert {"clone", "clone3"} <= allowed(("CAP_SYS_ADMIN",))


def spec_with(profile: dict[str, Any]) -> dict[str, Any]:
    return {"linux": {"seccomp": profile}, "annotations": {"own": "1"}}


def test_a_compiled_program_is_found_again_by_the_next_daemon_and_only_for_its_profile(tmp_path: Path) -> None:
    cache = BpfCache(tmp_path / "cache", "crun version 1")
    profile = seccomp.profile(capabilities.DEFAULT)
    wanted = spec_with(profile)
    key = cache.apply(wanted)
    assert key
    assert wanted == spec_with(profile)
    compiled = tmp_path / "seccomp.bpf"
    compiled.write_bytes(b"12345678" * 3)
    cache.keep(key, compiled)

    later = BpfCache(tmp_path / "cache", "crun version 1")
    assert later.apply(wanted) == ""
    assert wanted["annotations"] == {"own": "1", ANNOTATION: "MTIzNDU2NzgxMjM0NTY3ODEyMzQ1Njc4"}
    # A runtime that does not know the annotation must refuse every call, not allow it.
    assert wanted["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}
    assert seccomp.profile(capabilities.DEFAULT) == profile
    assert later.apply(spec_with(seccomp.profile(()))) not in ("", key)
    assert BpfCache(tmp_path / "cache", "crun version 2").apply(spec_with(profile)) not in ("", key)


def test_other_runtimes_and_damaged_programs_use_no_cache(tmp_path: Path) -> None:
    wanted = spec_with(seccomp.profile(()))
    assert BpfCache(tmp_path, "runc version 1").apply(wanted) == ""
    assert wanted["annotations"] == {"own": "1"}
    cache = BpfCache(tmp_path, "crun version 1")
    key = cache.apply(wanted)
    cache.keep(key, tmp_path / "nothing")
    (tmp_path / "odd").write_bytes(b"123")
    cache.keep(key, tmp_path / "odd")
    assert cache.apply(wanted) == key
    assert cache.apply({"linux": {}}) == ""

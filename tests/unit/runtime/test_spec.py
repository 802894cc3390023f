"""The OCI specification: Docker's defaults, and nothing beyond what the daemon has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.errors import InvalidArgument
from worker.engine.runtime import capabilities, spec
from worker.engine.runtime.host import DeviceNode, Host

HOST = Host()
PROCESS = spec.ProcessSettings(["sh"])
SETTINGS = spec.ContainerSettings(id="c1", process=PROCESS, rootfs=Path("/r"), netns=Path("/n"), hostname="box")


def build(host: Host = HOST, **changes: Any) -> dict[str, Any]:
    return spec.build(replace(SETTINGS, **changes), host)


def mount_at(built: dict[str, Any], target: str) -> dict[str, Any]:
    found = [mount for mount in built["mounts"] if mount["destination"] == target]
    assert len(found) == 1, target
    return dict(found[0])


def namespaces(built: dict[str, Any]) -> dict[str, str | None]:
    return {item["type"]: item.get("path") for item in built["linux"]["namespaces"]}


def test_defaults_are_dockers() -> None:
    built = build()
    assert built["root"] == {"path": "/r", "readonly": False}
    assert built["hostname"] == "box"
    assert built["process"]["capabilities"]["effective"] == list(capabilities.DEFAULT)
    assert len(capabilities.DEFAULT) == 14
    assert "/proc/kcore" in built["linux"]["maskedPaths"]
    assert "/proc/sys" in built["linux"]["readonlyPaths"]
    assert built["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert built["linux"]["cgroupsPath"] == "/shoal/c1"
    assert "ro" in mount_at(built, "/sys")["options"]
    assert "size=67108864" in mount_at(built, "/dev/shm")["options"]
    assert namespaces(built) == {"mount": None, "pid": None, "ipc": None, "uts": None, "network": "/n"}
    assert built["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}


def test_privileged_opens_devices_masks_and_cgroups() -> None:
    built = build(privileged=True)
    assert "maskedPaths" not in built["linux"]
    assert "readonlyPaths" not in built["linux"]
    assert "seccomp" not in built["linux"]
    assert built["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "rw" in mount_at(built, "/sys")["options"]


def test_shared_namespaces() -> None:
    built = build(netns=None, pid_ns="host", ipc_ns="host", uts_ns="/proc/7/ns/uts")
    assert namespaces(built) == {"mount": None, "uts": "/proc/7/ns/uts"}
    assert "hostname" not in built
    assert mount_at(built, "/dev/shm")["source"] == "/dev/shm"
    # A sysfs of one's own needs a network namespace of one's own.
    assert mount_at(built, "/sys")["type"] == "bind"


def test_a_wished_mount_replaces_the_default_at_its_place() -> None:
    built = build(mounts=[spec.Mount("/dev/shm", type="tmpfs", options=("size=1m",))])
    assert mount_at(built, "/dev/shm")["options"] == ["size=1m"]


def test_mounts_are_sorted_so_that_none_hides_another() -> None:
    built = build(mounts=[spec.Mount("/a/b/c", "/1"), spec.Mount("/a", "/2")])
    targets = [mount["destination"] for mount in built["mounts"]]
    assert targets.index("/a") < targets.index("/a/b/c")
    assert mount_at(built, "/a")["options"] == ["rbind"]


@pytest.mark.parametrize(("option", "propagation"), [("rshared", "shared"), ("rslave", "rslave"), ("rprivate", None)])
def test_shared_mounts_open_the_roots_propagation(option: str, propagation: str | None) -> None:
    built = build(mounts=[spec.Mount("/a", "/1", options=("rbind", option))])
    assert built["linux"].get("rootfsPropagation") == propagation


def test_capabilities_never_exceed_the_daemons() -> None:
    host = Host(capabilities=frozenset({"CAP_CHOWN"}))
    assert build(host)["process"]["capabilities"]["bounding"] == ["CAP_CHOWN"]


def test_another_user_than_root_starts_without_capabilities_in_force() -> None:
    built = spec.process(replace(PROCESS, user=spec.User(1000, 1000, (5,))), HOST)
    assert built["capabilities"]["effective"] == []
    assert built["capabilities"]["bounding"] == list(capabilities.DEFAULT)
    assert built["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [5]}


def test_rlimits_are_lowered_to_the_daemons_hard_limit() -> None:
    weak = Host(capabilities=frozenset(), hard_limits={"nofile": 20000})
    limits = (spec.Rlimit("nofile", 1024, 1048576), spec.Rlimit("nproc", -1, -1))
    built = spec.process(replace(PROCESS, rlimits=limits), weak)
    assert built["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 20000},
        {"type": "RLIMIT_NPROC", "soft": 2**64 - 1, "hard": 2**64 - 1},
    ]
    strong = spec.process(replace(PROCESS, rlimits=limits[:1]), replace(HOST, hard_limits={"nofile": 20000}))
    assert strong["rlimits"][0]["hard"] == 1048576


def test_oom_score_is_not_lowered_below_the_daemons() -> None:
    process = replace(PROCESS, oom_score_adj=-500)
    assert spec.process(process, Host(oom_score_adj_min=0))["oomScoreAdj"] == 0
    assert spec.process(process, HOST)["oomScoreAdj"] == -500


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"args": []}, "No command specified"),
        ({"cwd": "tmp"}, "needs to be an absolute path"),
        ({"rlimits": [spec.Rlimit("nope", 1, 1)]}, "invalid ulimit type: nope"),
        ({"rlimits": [spec.Rlimit("core", 2, 1)]}, "less than or equal to hard limit"),
    ],
)
def test_bad_processes_are_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        spec.process(replace(PROCESS, **change), HOST)


@pytest.mark.parametrize("rule", ["", "c 1:3", "x 1:3 r", "c 1 r", "c 1:3 q", "c a:3 r"])
def test_bad_device_rules_are_refused(rule: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid device cgroup rule"):
        build(device_rules=[rule])


def test_devices_are_made_and_allowed() -> None:
    built = build(devices=[DeviceNode("/dev/fuse", "c", 10, 229)], device_rules=["b 8:* r"])
    assert built["linux"]["devices"][0]["path"] == "/dev/fuse"
    rules = built["linux"]["resources"]["devices"]
    assert {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"} in rules
    assert {"allow": True, "type": "b", "major": 8, "access": "r"} in rules


def test_resources() -> None:
    wanted = spec.Resources(memory=100, cpu_quota=50000, cpu_shares=2, pids_limit=7, cpuset_cpus="0", blkio_weight=300)
    host = Host(blkio_weight=False)
    assert spec.oci_resources(wanted, host) == {
        "memory": {"limit": 100, "swap": 200},
        "cpu": {"quota": 50000, "shares": 2, "cpus": "0"},
        "pids": {"limit": 7},
    }
    assert spec.warnings(wanted, host) == [
        "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
    ]
    assert spec.oci_resources(spec.Resources(memory=100, memory_swap=-1), host)["memory"]["swap"] == -1
    assert spec.oci_resources(spec.Resources(), host) == {}
    assert spec.warnings(spec.Resources(), host) == []


def test_environment_has_dockers_defaults_which_entries_replace_or_remove() -> None:
    found = spec.environment(["A=1", "PATH=/x", "A=2", "TERM"], hostname="box", tty=True)
    assert found == ["PATH=/x", "HOSTNAME=box", "A=2"]


@pytest.mark.parametrize(
    ("add", "drop", "present", "absent"),
    [
        (["NET_ADMIN"], [], ["CAP_NET_ADMIN", "CAP_CHOWN"], []),
        (["cap_net_admin"], ["ALL"], ["CAP_NET_ADMIN"], ["CAP_CHOWN"]),
        (["ALL"], ["SYS_ADMIN"], ["CAP_BPF"], ["CAP_SYS_ADMIN"]),
        ([], ["chown"], ["CAP_KILL"], ["CAP_CHOWN"]),
    ],
)
def test_choose_capabilities(add: list[str], drop: list[str], present: list[str], absent: list[str]) -> None:
    chosen = capabilities.choose(add=add, drop=drop)
    assert set(present) <= set(chosen)
    assert not set(absent) & set(chosen)


def test_unknown_capabilities_are_named() -> None:
    with pytest.raises(InvalidArgument, match='invalid CapAdd: unknown capability: "CAP_FLY"'):
        capabilities.choose(add=["fly"])


def test_privileged_has_all_the_daemon_has() -> None:
    assert capabilities.choose(privileged=True, bounding={"CAP_KILL", "CAP_BPF"}) == ("CAP_KILL", "CAP_BPF")
    assert capabilities.from_mask(0b100001) == {"CAP_CHOWN", "CAP_KILL"}

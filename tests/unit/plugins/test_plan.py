"""The specification of a plugin's container, where its files are, and when it is started again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.errors import InvalidArgument
from tests.unit.plugins.test_config import IN_THE_WILD, LEAST, read
from worker.engine.plugins.instance import DELAY_MAX_S, FIRST_DELAY_S, delay_s
from worker.engine.plugins.plan import Place, build
from worker.engine.plugins.records import Overrides, PluginRecord
from worker.engine.runtime.host import DeviceNode, Host

PLACE = Place(Path("/lib/plugins/installed/p1"), Path("/run/plugins/p1"))
RECORD = PluginRecord(id="f" * 64, name="vendor/ssh", tag="latest", artifact="sha256:x")


def spec(document: dict[str, Any], *devices: DeviceNode, sources: dict[str, str] | None = None) -> dict[str, Any]:
    record = PluginRecord(
        id=RECORD.id, name="p", tag="latest", artifact="", overrides=Overrides(sources=sources or {}, args=("-v",))
    )
    return build(record, read(document), PLACE, devices, Host())


def mounts(made: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {mount["destination"]: (mount["source"], mount["options"]) for mount in made["mounts"]}


def test_a_plugin_of_the_wild() -> None:
    made = spec(IN_THE_WILD, DeviceNode("/dev/fuse", "c", 10, 229), sources={"sshkey": "/root/.ssh"})
    found = mounts(made)
    assert found["/run/docker/plugins"] == ("/run/plugins/p1", ["rbind", "rprivate"])
    assert found["/mnt/volumes"] == ("/lib/plugins/installed/p1/propagated-mount", ["rbind", "rw", "rshared"])
    assert found["/mnt/state"] == ("/var/lib/docker/plugins/", ["rbind"])
    assert found["/root/.ssh"] == ("/root/.ssh", ["rbind"])
    assert found["/etc/resolv.conf"][1] == ["rbind", "ro"]
    assert made["process"]["args"] == ["/docker-volume-sshfs", "-v"]
    assert "DEBUG=0" in made["process"]["env"]
    assert made["process"]["env"][0].startswith("PATH=")
    assert "CAP_SYS_ADMIN" in made["process"]["capabilities"]["effective"]
    assert made["linux"]["rootfsPropagation"] == "shared"
    assert not any(space["type"] == "network" for space in made["linux"]["namespaces"])
    assert made["linux"]["devices"][0]["path"] == "/dev/fuse"
    assert made["linux"]["cgroupsPath"] == f"/shoal/{RECORD.id}"


def test_one_that_asks_for_nothing_has_nothing() -> None:
    made = spec(LEAST)
    assert {"type": "network"} in made["linux"]["namespaces"], "a network namespace of its own, and empty"
    assert {"type": "pid"} in made["linux"]["namespaces"]
    assert "CAP_SYS_ADMIN" not in made["process"]["capabilities"]["bounding"]
    assert made["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "/etc/resolv.conf" not in mounts(made)
    assert "rootfsPropagation" not in made["linux"]
    assert made["process"]["cwd"] == "/"


def test_namespaces_and_devices_of_the_host() -> None:
    made = spec(LEAST | {"pidhost": True, "ipchost": True, "linux": {"allowalldevices": True}})
    assert not {"pid", "ipc"} & {space["type"] for space in made["linux"]["namespaces"]}
    assert made["linux"]["resources"]["devices"][-1] == {"allow": True, "type": "a", "access": "rwm"}


@pytest.mark.parametrize("source", [None, "", "relative"])
def test_a_bind_needs_a_source(source: str | None) -> None:
    with pytest.raises(InvalidArgument, match=r"mount 'key': the source .* is not an absolute path"):
        spec(LEAST | {"mounts": [{"name": "key", "destination": "/key", "type": "bind", "source": source}]})


def test_a_capability_that_is_none() -> None:
    with pytest.raises(InvalidArgument, match="unknown capability"):
        spec(LEAST | {"linux": {"capabilities": ["CAP_FLY"]}})


@pytest.mark.parametrize(
    ("path", "propagated", "found"),
    [
        ("", "/mnt", ""),
        ("/mnt/a", "/mnt", "/lib/plugins/installed/p1/propagated-mount/a"),
        ("/mnt", "/mnt", "/lib/plugins/installed/p1/propagated-mount"),
        ("/mntx/a", "/mnt", "/lib/plugins/installed/p1/rootfs/mntx/a"),
        ("/mnt/a", "", "/lib/plugins/installed/p1/rootfs/mnt/a"),
        ("/mnt/../../../etc", "/mnt", "/lib/plugins/installed/p1/rootfs/etc"),
        ("/../../etc", "", "/lib/plugins/installed/p1/rootfs/etc"),
    ],
)
def test_where_the_host_finds_a_plugins_path(path: str, propagated: str, found: str) -> None:
    assert PLACE.on_host(path, propagated) == found


def test_each_start_in_vain_is_followed_by_a_longer_wait() -> None:
    delays = [delay_s(failures) for failures in range(30)]
    assert delays[0] == FIRST_DELAY_S
    assert delays == sorted(delays)
    assert delays[-1] == DELAY_MAX_S

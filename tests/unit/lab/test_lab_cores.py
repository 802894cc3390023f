"""The lab's pure parts: which cgroup hierarchies hosts get, what a partition drops, what an image is made of."""

import io
import json
import tarfile

import pytest

from lab.cgroups import parse_mountinfo
from lab.cli import _sides
from lab.image import archive, build, digest
from lab.lab import Lab
from lab.network import address, cuts_between, hardware_address, ruleset
from lab.paths import LabError
from lab.state import Cut

HYBRID = """\
30 24 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 24 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd
32 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct
33 24 0:30 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
34 24 0:30 / /mnt/again rw,nosuid - cgroup cgroup rw,memory
35 24 0:31 / /tmp rw - ext4 /dev/vda rw
"""
UNIFIED = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_hybrid_gives_hosts_the_old_hierarchies_once_each() -> None:
    found = {str(h.mount): h.options for h in parse_mountinfo(HYBRID)}
    assert found == {
        "/sys/fs/cgroup/systemd": ("name=systemd",),
        "/sys/fs/cgroup/cpu,cpuacct": ("cpu", "cpuacct"),
        "/sys/fs/cgroup/memory": ("memory",),
    }


def test_unified_alone_is_used() -> None:
    (only,) = parse_mountinfo(UNIFIED)
    assert only.v2
    assert str(only.mount) == "/sys/fs/cgroup"


def test_a_partition_cuts_both_ways_unless_told_otherwise() -> None:
    assert cuts_between(["m1", "m2"], ["w1"]) == [Cut("m1", "w1"), Cut("m2", "w1"), Cut("w1", "m1"), Cut("w1", "m2")]
    assert cuts_between(["m1"], ["w1"], one_way=True) == [Cut("m1", "w1")]
    with pytest.raises(LabError, match="m1 stands on both sides"):
        cuts_between(["m1"], ["w1", "m1"])


def test_the_ruleset_replaces_what_was_there_and_drops_only_the_cuts() -> None:
    text = ruleset([Cut("w1", "m1")])
    assert text.startswith("table bridge lab {}\ndelete table bridge lab\n")
    assert text.count("drop") == 1
    assert 'iifname "w1" oifname "m1" drop' in text
    assert "drop" not in ruleset([])


def test_addresses_never_meet() -> None:
    hosts = [address(role, n) for role in ("manager", "worker") for n in range(1, 81)]
    assert len({*hosts, "10.99.0.1", "10.99.0.250"}) == 162
    assert len({hardware_address(ip) for ip in hosts}) == 160
    with pytest.raises(LabError):
        address("worker", 81)


def test_sides_of_a_partition_from_the_command_line() -> None:
    assert _sides(["m1,w2", "/", "m2"]) == (["m1", "w2"], ["m2"])
    assert _sides(["m1/w1,w2"]) == (["m1"], ["w1", "w2"])
    for bad in (["m1"], ["/", "m1"], ["m1", "m2"]):
        with pytest.raises(LabError):
            _sides(bad)


@pytest.mark.parametrize("bad", ["", "a/b", "..", "x" * 25])
def test_a_lab_name_cannot_leave_its_directory(bad: str) -> None:
    with pytest.raises(LabError, match="not a lab name"):
        Lab(bad)


def test_the_image_is_reproducible_and_its_digests_agree() -> None:
    image = build()
    assert image == build()
    manifest = json.loads(image.manifest)
    assert manifest["layers"][0]["digest"] == digest(image.packed)
    assert json.loads(image.config)["rootfs"]["diff_ids"] == [digest(image.layer)]
    with tarfile.open(fileobj=io.BytesIO(archive(image, "busybox:latest"))) as tar:
        (entry,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        assert set(tar.getnames()) == {entry["Config"], "layer.tar", "manifest.json"}

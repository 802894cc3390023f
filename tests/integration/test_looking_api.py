"""Looking at containers over HTTP: lists, logs, processes, changes, statistics, and changing limits while they run."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lab.wait import until
from tests.integration.shoald import Api, unframed

pytestmark = pytest.mark.root

ITEM = "containers.list.response.[]"
ENDPOINT = f"{ITEM}.NetworkSettings.Networks.<network>"


def names(listed: list[dict[str, Any]]) -> list[str]:
    return [one["Names"][0].removeprefix("/") for one in listed]


@pytest.mark.promise(
    *(f"{ITEM}.{name}" for name in ("Id", "Names[]", "Image", "ImageID", "Command", "Created", "State", "Status")),
    *(f"{ITEM}.{name}" for name in ("Ports[]", "Ports[].PrivatePort", "Ports[].PublicPort", "Ports[].Type", "Labels")),
    *(f"{ITEM}.{name}" for name in ("Labels.<label>", "SizeRw", "SizeRootFs", "HostConfig", "HostConfig.NetworkMode")),
    *(f"{ITEM}.{name}" for name in ("NetworkSettings", "NetworkSettings.Networks", "Mounts[]")),
    *(f"{ITEM}.Mounts[].{name}" for name in ("Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation")),
    ENDPOINT,
    *(f"{ENDPOINT}.{name}" for name in ("IPAMConfig", "Links", "Aliases", "NetworkID", "EndpointID", "Gateway")),
    *(f"{ENDPOINT}.{name}" for name in ("IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address")),
    *(f"{ENDPOINT}.{name}" for name in ("GlobalIPv6PrefixLen", "MacAddress")),
    "containers.list.b7",
    "containers.list.query.size",
)
def test_an_item_of_the_list(api: Api) -> None:
    host = {"Binds": ["data:/data:ro"], "PortBindings": {"80/tcp": [{"HostPort": "8081"}]}}
    started = int(time.time())
    one = api.run("one", "sh", "-c", "echo 12345 > /file; sleep 1000", host=host, Labels={"tier": "web"})
    while api.exec(one, "test", "-s", "/file")[0]:
        pass
    (item,) = api.ok("GET", "/containers/json")
    assert "SizeRw" not in item
    (item,) = api.ok("GET", "/containers/json", size=1)
    inspected = api.inspect(one)
    assert item["Id"] == one
    assert item["Names"] == ["/one"]
    assert item["Image"] == "busybox"
    assert item["ImageID"] == inspected["Image"]
    assert item["Command"].startswith("sh -c ")
    assert started - 2 <= item["Created"] <= time.time()
    assert item["State"] == "running"
    assert item["Status"].startswith(("Up ", "Less"))
    assert item["Labels"] == {"tier": "web"}
    assert item["SizeRw"] >= 6
    assert item["SizeRootFs"] > 1_000_000
    assert item["HostConfig"] == {"NetworkMode": "default"}
    (port,) = item["Ports"]
    assert (port["PrivatePort"], port["PublicPort"], port["Type"]) == (80, 8081, "tcp")
    (mount,) = item["Mounts"]
    assert (mount["Name"], mount["Destination"], mount["Driver"]) == ("data", "/data", "local")
    assert (mount["Mode"], mount["RW"], mount["Source"].endswith("/data/_data")) == ("ro", False, True)
    assert mount["Propagation"] == ""
    (endpoint,) = item["NetworkSettings"]["Networks"].values()
    assert endpoint == inspected["NetworkSettings"]["Networks"]["bridge"]
    assert endpoint["IPAddress"].startswith(endpoint["Gateway"].rpartition(".")[0].rpartition(".")[0])
    assert (endpoint["IPAMConfig"], endpoint["Links"], endpoint["Aliases"]) == (None, None, None)
    assert (endpoint["IPPrefixLen"], len(endpoint["EndpointID"]), len(endpoint["NetworkID"])) == (16, 64, 64)
    assert (endpoint["IPv6Gateway"], endpoint["GlobalIPv6Address"], endpoint["GlobalIPv6PrefixLen"]) == ("", "", 0)
    assert re.fullmatch(r"02:42(:[0-9a-f]{2}){4}", endpoint["MacAddress"])


@pytest.mark.promise(
    *(f"containers.list.query.{name}" for name in ("all", "limit", "since", "before", "filters")),
    *(f"containers.list.query.filters.{name}" for name in ("exited", "status", "label", "isolation", "ancestor")),
    *(f"containers.list.query.filters.{name}" for name in ("before", "since", "volume", "network")),
    "containers.list.b13",
)
def test_what_is_listed(api: Api) -> None:
    api.ok("POST", "/networks/create", {"Name": "blue"})
    api.ok("POST", "/images/busybox/tag", repo="other", tag="v1")
    try:
        first = api.create("first", Labels={"a": "1", "b": "2"})
        api.run("second", "sh", "-c", "exit 3", host={"Binds": ["vol:/at"]})
        api.ok("POST", "/containers/second/wait")
        third = api.run("third", host={"NetworkMode": "blue"}, Labels={"a": "2"})
        api.run("fourth", host={"Binds": ["vol:/elsewhere"]}, Image="other:v1")
        api.ok("POST", "/containers/fourth/pause")

        def listed(**query: Any) -> list[str]:
            return names(api.ok("GET", "/containers/json", **query))

        def found(name: str, *values: str) -> list[str]:
            return listed(all=1, filters={name: list(values)})

        assert listed() == listed(all=0) == ["fourth", "third"]
        for yes in ("1", "True", "true"):
            assert listed(all=yes) == ["fourth", "third", "second", "first"]
        assert listed(limit=3) == ["fourth", "third", "second"]
        assert listed(since=first) == ["fourth", "third", "second"]
        assert listed(before=third) == ["second", "first"]
        assert found("exited", "3") == ["second"]
        assert found("status", "created") == ["first"]
        assert found("status", "exited", "paused") == ["fourth", "second"]
        assert found("label", "a") == ["third", "first"]
        assert found("label", "a=1") == ["first"]
        assert found("label", "a", "b") == ["first"]
        assert "fourth" in found("ancestor", "other:v1")
        assert found("before", "second") == ["first"]
        assert found("since", "second") == ["fourth", "third"]
        assert found("volume", "vol") == ["fourth", "second"]
        assert found("volume", "/at") == ["second"]
        assert found("network", "blue") == ["third"]
        network = api.ok("GET", "/networks/blue")["Id"]
        assert found("network", network) == ["third"]
        assert found("isolation", "default") == ["fourth", "third", "second", "first"]
        assert found("isolation", "hyperv") == []
        for bad in ({"odd": ["x"]}, {"status": ["odd"]}, {"exited": ["x"]}, {"since": ["nobody"]}):
            assert api("GET", "/containers/json", filters=bad).status in (400, 404), bad
        assert api("GET", "/containers/json", filters="{").status == 400
        assert api("GET", "/containers/json", limit="x").status == 400
        # The list of lists that older clients send as a map of maps.
        assert listed(all=1, filters={"status": {"created": True}}) == ["first"]
    finally:
        api.ok("POST", "/containers/fourth/unpause")
        api.clear()
        api.ok("DELETE", "/images/other:v1")


@pytest.mark.promise(
    *(f"containers.top.b{n}" for n in (1, 2, 4)),
    "containers.top.status.200",
    "containers.top.status.404",
    "containers.top.query.ps_args",
    "containers.top.response.Titles[]",
    "containers.top.response.Processes[][]",
)
def test_top(api: Api) -> None:
    api.run("one", "sh", "-c", "sleep 1001 & exec sleep 1000")

    def commands() -> list[str]:
        return sorted(row[-1] for row in api.ok("GET", "/containers/one/top")["Processes"])

    until(lambda: commands() == ["sleep 1000", "sleep 1001"], timeout_s=20, what="the shell to have become a sleep")
    shown = api.ok("GET", "/containers/one/top")
    assert shown["Titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert api.ok("GET", "/containers/one/top", ps_args="-ef")["Titles"] == shown["Titles"]
    assert str(api.inspect("one")["State"]["Pid"]) in [row[1] for row in shown["Processes"]]
    other = api("GET", "/containers/one/top", ps_args="-o pid,comm")
    if other.status == 200:  # this host has a ps
        assert other.value["Titles"] == ["PID", "COMMAND"]
        assert {row[1] for row in other.value["Processes"]} == {"sleep"}
    assert api("GET", "/containers/nobody/top").status == 404
    api.create("idle")
    assert api("GET", "/containers/idle/top").status == 409


@pytest.mark.promise(
    *(f"containers.logs.b{n}" for n in (3, 5, 8, 9, 10)),
    *(f"containers.logs.status.{code}" for code in (101, 200, 404)),
    *(f"containers.logs.query.{name}" for name in ("details", "follow", "stdout", "stderr", "since", "timestamps")),
    "containers.logs.query.tail",
)
def test_logs(api: Api) -> None:
    api.run("one", "sh", "-c", "echo out1; echo err1 >&2; sleep 1.2; echo out2; echo err2 >&2")
    followed = api("GET", "/containers/one/logs", stdout=1, stderr=1, follow=1)  # to its end
    assert sorted(unframed(followed.body)) == [(1, b"out1\n"), (1, b"out2\n"), (2, b"err1\n"), (2, b"err2\n")]

    def logs(**query: Any) -> bytes:
        return b"".join(data for _, data in unframed(api("GET", "/containers/one/logs", **query).body))

    assert api("GET", "/containers/one/logs").status == 400
    assert api("GET", "/containers/one/logs", stdout=0, stderr=0).status == 400
    assert (logs(stdout=1), logs(stderr=1)) == (b"out1\nout2\n", b"err1\nerr2\n")
    assert logs(stdout=1, tail=1) == b"out2\n"
    assert logs(stdout=1, tail=0) == b""
    assert logs(stdout=1, tail="all") == logs(stdout=1, tail="odd") == b"out1\nout2\n"
    stamped = logs(stdout=1, timestamps=1).decode().splitlines()
    assert [line.split(" ", 1)[1] for line in stamped] == ["out1", "out2"]
    stamps = [line.split(" ", 1)[0] for line in stamped]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)
    last = datetime.fromisoformat(stamps[1][:26] + "+00:00").timestamp()
    assert logs(stdout=1, since=int(last)) in (b"out2\n", b"out1\nout2\n")
    assert logs(stdout=1, since=f"{last - 0.5:.6f}") == b"out2\n"
    assert logs(stdout=1, since=0) == b"out1\nout2\n"
    assert logs(stdout=1, since=int(last) + 100) == b""
    assert api("GET", "/containers/one/logs", stdout=1, since="odd").status == 400
    assert api("GET", "/containers/nobody/logs", stdout=1).status == 404
    head = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
    with api.taken("GET", "/containers/one/logs", stdout=1, head=head) as stream:
        assert stream.status == 101
        assert b"Connection: Upgrade\r\nUpgrade: tcp\r\n" in stream.head
        assert stream.rest() == api("GET", "/containers/one/logs", stdout=1).body
    log = {"Type": "json-file", "Config": {"labels": "tier", "env": "COLOR"}}
    told = api.run("told", "echo", "x", host={"LogConfig": log}, Labels={"tier": "web", "b": "2"}, Env=["COLOR=blue"])
    api.ok("POST", f"/containers/{told}/wait")
    assert unframed(api("GET", "/containers/told/logs", stdout=1, details=1).body) == [(1, b"COLOR=blue,tier=web x\n")]
    assert unframed(api("GET", "/containers/told/logs", stdout=1).body) == [(1, b"x\n")]
    assert logs(stdout=1, details=1) == b" out1\n out2\n"


@pytest.mark.promise(
    "containers.changes.status.200",
    "containers.changes.status.404",
    "containers.changes.response.[].Path",
    "containers.changes.response.[].Kind",
    "containers.export.status.200",
    "containers.export.status.404",
)
def test_changes_and_export(api: Api) -> None:
    script = "echo new > /new; rm /etc/group; rm -rf /home; mkdir /home; ln -s /etc/passwd /link; mkfifo /pipe"
    api.run("one", "sh", "-c", script)
    api.ok("POST", "/containers/one/wait")
    found = {change["Path"]: change["Kind"] for change in api.ok("GET", "/containers/one/changes")}
    assert found == {"/etc": 0, "/etc/group": 2, "/home": 0, "/link": 1, "/new": 1, "/pipe": 1}
    exported = api("GET", "/containers/one/export")
    with tarfile.open(fileobj=io.BytesIO(exported.body)) as tar:
        inside = {member.name: member for member in tar.getmembers()}
    assert inside["new"].size == 4
    assert (inside["link"].linkname, inside["pipe"].isfifo()) == ("/etc/passwd", True)
    assert "etc/group" not in inside
    assert "bin/busybox" in inside
    for what in ("changes", "export"):
        assert api("GET", f"/containers/nobody/{what}").status == 404


CPU = ("cpu_usage", "cpu_usage.percpu_usage[]", "cpu_usage.usage_in_usermode", "cpu_usage.total_usage")
CPU += ("cpu_usage.usage_in_kernelmode", "system_cpu_usage", "throttling_data", "throttling_data.periods")
CPU += ("throttling_data.throttled_periods", "throttling_data.throttled_time")

COUNTERS = tuple(f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "dropped", "errors", "packets"))
KINDS = ("cache", "rss", "rss_huge", "mapped_file", "writeback", "pgpgin", "pgpgout", "pgfault", "pgmajfault")
KINDS += ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")
MEMORY = ("hierarchical_memory_limit", *KINDS, *(f"total_{kind}" for kind in KINDS))


@pytest.mark.promise(
    *(f"containers.stats.b{n}" for n in range(1, 10)),
    "containers.stats.status.200",
    "containers.stats.status.404",
    "containers.stats.query.stream",
    *(f"containers.stats.response.{kind}_stats" for kind in ("cpu", "precpu", "blkio")),
    *(f"containers.stats.response.{kind}_stats.{name}" for kind in ("cpu", "precpu") for name in CPU),
    *(f"containers.stats.response.memory_stats.{name}" for name in ("max_usage", "usage", "failcnt", "limit", "stats")),
    *(f"containers.stats.response.memory_stats.stats.{name}" for name in MEMORY),
    *(f"containers.stats.response.{name}" for name in ("read", "pids_stats", "pids_stats.current", "memory_stats")),
    *(f"containers.stats.response.networks{name}" for name in ("", ".<interface>")),
    *(f"containers.stats.response.networks.<interface>.{name}" for name in COUNTERS),
)
def test_stats(api: Api) -> None:
    api.run("busy", "sh", "-c", "while true; do true; done", host={"Memory": 64 << 20, "CpuQuota": 20000})
    one = api("GET", "/containers/busy/stats", stream="false").value
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z", one["read"])
    memory = one["memory_stats"]
    assert 0 < memory["usage"] <= memory["max_usage"] <= memory["limit"] == 64 << 20
    assert memory["failcnt"] == 0
    assert one["networks"].keys() == {"eth0"}
    assert one["networks"]["eth0"].keys() == set(COUNTERS)
    assert all(isinstance(value, int) for value in one["networks"]["eth0"].values())
    if Path("/sys/fs/cgroup/memory").is_dir():  # the names of cgroup v1, as in the document
        assert memory["stats"].keys() >= set(MEMORY)
        assert memory["stats"]["hierarchical_memory_limit"] == 64 << 20
    assert one["pids_stats"]["current"] >= 1
    assert isinstance(one["blkio_stats"], dict)
    with api.taken("GET", "/containers/busy/stats") as stream:
        body = b""
        while body.count(b"precpu_stats") < 3:
            body += stream.read(1)
        body += stream.until(b"\r\n")
    documents = [json.loads(line) for line in body.split(b"\r\n") if line.startswith(b"{")]
    first, second = documents[-2:]
    assert second["precpu_stats"]["cpu_usage"] == first["cpu_stats"]["cpu_usage"]
    assert second["precpu_stats"] != second["cpu_stats"]
    for cpu in (second["cpu_stats"], second["precpu_stats"]):
        usage = cpu["cpu_usage"]
        assert usage["total_usage"] > 0
        assert usage["usage_in_usermode"] + usage["usage_in_kernelmode"] > 0
        assert sum(usage["percpu_usage"]) <= usage["total_usage"] * 1.01 + 1
        assert cpu["system_cpu_usage"] > usage["total_usage"]
        assert cpu["throttling_data"]["periods"] >= cpu["throttling_data"]["throttled_periods"] > 0
        assert cpu["throttling_data"]["throttled_time"] > 0
    spent = second["cpu_stats"]["cpu_usage"]["total_usage"] - first["cpu_stats"]["cpu_usage"]["total_usage"]
    assert 0 < spent < 1e9 * 0.6  # a fifth of a CPU for about a second
    assert api("GET", "/containers/nobody/stats").status == 404
    api.create("idle")
    assert api("GET", "/containers/idle/stats", stream="0").value["cpu_stats"]["cpu_usage"]["total_usage"] == 0


UPDATE = "containers.update.body."


@pytest.mark.promise(
    *(f"{UPDATE}{name}" for name in ("BlkioWeight", "CpuShares", "CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems")),
    *(f"{UPDATE}{name}" for name in ("Memory", "MemorySwap", "MemoryReservation", "KernelMemory", "RestartPolicy")),
    *(f"{UPDATE}RestartPolicy.{name}" for name in ("MaximumRetryCount", "Name")),
    "containers.update.b1",
    "containers.update.b2",
    *(f"containers.update.status.{code}" for code in (200, 400, 404)),
    "containers.update.response.Warnings[]",
)
def test_update(api: Api) -> None:
    one = api.run("one", host={"Memory": 64 << 20})
    body: dict[str, Any] = {
        "CpuShares": 300,
        "CpuPeriod": 100000,
        "CpuQuota": 50000,
        "CpusetCpus": "0",
        "CpusetMems": "0",
        "Memory": 96 << 20,
        "MemorySwap": 256 << 20,
        "MemoryReservation": 48 << 20,
        "RestartPolicy": {"MaximumRetryCount": 4, "Name": "on-failure"},
    }
    changed = api("POST", "/containers/one/update", body)
    assert (changed.status, changed.value) == (200, {"Warnings": []})
    shown = api.inspect(one)["HostConfig"]
    for key, value in body.items():
        assert shown[key] == value, key
    limit = api.exec(
        one, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max"
    )
    assert limit[1].splitlines()[-1] == str(96 << 20)
    cpus = api.exec(one, "sh", "-c", "cat /sys/fs/cgroup/cpuset/cpuset.cpus || cat /sys/fs/cgroup/cpuset.cpus")
    assert cpus[1].splitlines()[-1] == "0"
    warned = api.ok("POST", "/containers/one/update", {"KernelMemory": 50 << 20, "BlkioWeight": 300})["Warnings"]
    assert any("kernel memory" in text for text in warned)
    assert api.inspect(one)["HostConfig"]["BlkioWeight"] == 300
    for bad in (
        {"Memory": 1},
        {"CpuQuota": 5},
        {"BlkioWeight": 5},
        {"RestartPolicy": {"Name": "odd"}},
        {"Memory": "x"},
    ):
        assert api("POST", "/containers/one/update", bad).status == 400, bad
    assert api.inspect(one)["HostConfig"]["Memory"] == 96 << 20
    assert api("POST", "/containers/nobody/update", {"CpuShares": 5}).status == 404

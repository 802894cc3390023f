"""What each field of "Create a container" does, seen from inside the container, on a real daemon."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.shoald import Api

pytestmark = pytest.mark.root

BODY = "containers.create.body."
HOST = f"{BODY}HostConfig."


def group(api: Api, container: str, v1: str, v2: str) -> str:
    """A cgroup file as the container sees its own, by its v1 or its v2 name."""
    script = f"cat /sys/fs/cgroup/*/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}"
    return api.exec(container, "sh", "-c", script)[1].strip()


def knows(path: str) -> bool:
    """Whether this machine's cgroups have a file."""
    return bool(list(Path("/sys/fs/cgroup").glob(path)))


@pytest.mark.promise(
    *(f"{BODY}{name}" for name in ("Hostname", "Domainname", "User", "Env", "Labels", "Cmd", "Entrypoint", "Image")),
    *(f"{BODY}{name}" for name in ("WorkingDir", "Volumes", "ExposedPorts", "StopSignal", "Tty", "HostConfig")),
    *(f"{BODY}{name}" for name in ("AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin")),
    *(f"containers.create.b{n}" for n in (5, 11, 22, 23)),
    "containers.create.response.Warnings[]",
)
def test_the_process_and_its_surroundings(api: Api) -> None:
    body = {
        "Image": "busybox",
        "Hostname": "here",
        "Domainname": "example.org",
        "User": "1000:1001",
        "Env": ["A=1", "B=two words"],
        "Labels": {"tier": "web"},
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["hostname; hostname -f; id -u; id -g; echo $A $B; pwd; test -t 1 && echo tty; sleep 1000"],
        "WorkingDir": "/usr/deep/down",
        "Volumes": {"/vol": {}},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "StopSignal": "SIGKILL",
        "Tty": True,
        "OpenStdin": True,
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": False,
    }
    made = api("POST", "/containers/create", body, name="/my_Box-1.x")
    assert (made.status, made.value["Warnings"]) == (201, [])
    api.ok("POST", "/containers/my_Box-1.x/start")
    with api.taken("POST", "/containers/my_Box-1.x/attach", logs=1, stream=1, stdout=1) as stream:
        seen = stream.until(b"tty\r\n").decode().split("\r\n")
    assert seen == ["here", "here.example.org", "1000", "1001", "1 two words", "/usr/deep/down", "tty", ""]
    shown = api.inspect("my_Box-1.x")
    assert shown["Name"] == "/my_Box-1.x"
    config = shown["Config"]
    for key, value in body.items():
        if key != "Env":
            assert config[key] == value, key
    assert set(body["Env"]) <= set(config["Env"])
    (mount,) = shown["Mounts"]
    assert (mount["Destination"], mount["Driver"], mount["RW"]) == ("/vol", "local", True)
    assert set(shown["NetworkSettings"]["Ports"]) == {"80/tcp", "53/udp"}
    assert api("POST", "/containers/my_Box-1.x/stop", t=30).status == 204  # SIGKILL at once, not after 30 s
    assert api.inspect("my_Box-1.x")["State"]["ExitCode"] == 137

    number = api.create("", StopSignal=9)
    assert api.inspect(number)["Config"]["StopSignal"] in (9, "9")
    assert api.inspect(api.create(""))["Config"].get("StopSignal", "SIGTERM") in ("", "SIGTERM")
    text = api.create("", "x", Cmd="echo one", Entrypoint="/bin/sh")
    assert (api.inspect(text)["Path"], api.inspect(text)["Args"]) == ("/bin/sh", ["echo one"])
    for wrong in ("a b", "ä", "-a", "a"):
        assert api("POST", "/containers/create", {"Image": "busybox"}, name=wrong).status == 400, wrong
    for bad in ({"Hostname": "no host"}, {"ExposedPorts": {"80/icmp": {}}}, {"ExposedPorts": {"x/tcp": {}}}):
        assert api("POST", "/containers/create", {"Image": "busybox"} | bad).status == 400, bad


@pytest.mark.promise(
    *(f"{HOST}{name}" for name in ("Binds", "Tmpfs", "VolumesFrom", "VolumeDriver", "ReadonlyRootfs", "ShmSize")),
    *(f"containers.create.b{n}" for n in (24, 25, 26, 27, 47, 64)),
)
def test_mounts(api: Api, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    host = {
        "Binds": [f"{tmp_path}:/rw", f"{tmp_path}:/ro:ro", "named:/named"],
        "Tmpfs": {"/scratch": "rw,noexec,nosuid,size=1024k"},
        "VolumeDriver": "local",
        "ReadonlyRootfs": True,
        "ShmSize": 8 << 20,
    }
    script = (
        "cat /ro/file; touch /ro/x || echo ro; touch /rw/x && echo rw; echo v > /named/f; touch /root/x || echo root; "
        "df -k /scratch | tail -1; df -k /dev/shm | tail -1; grep ' /scratch ' /proc/mounts"
    )
    container = api.run("first", "sh", "-c", script, host=host)
    api.ok("POST", "/containers/first/wait")
    text = api("GET", "/containers/first/logs", stdout=1).body.decode(errors="replace")
    for wanted in ("from the host", "ro\n", "rw\n", "root\n"):
        assert wanted in text
    scratch, shm, options = [line[8:] if ord(line[0]) < 3 else line for line in text.splitlines()[-3:]]
    assert (scratch.split()[1], shm.split()[1]) == ("1024", "8192")
    assert {"noexec", "nosuid", "rw"} <= set(options.split()[3].split(","))
    assert (tmp_path / "x").exists()
    assert api.ok("GET", "/volumes/named")["Driver"] == "local"
    assert api.output("cat", "/named/f", host={"VolumesFrom": [container]}) == "v\n"
    again = api.output("sh", "-c", "touch /named/x || echo no", host={"VolumesFrom": ["first:ro"]})
    assert again.endswith("no\n")
    for bad in (["relative/path:/x"], ["/x:relative"], ["named:relative"], [f"{tmp_path}:/x:odd"]):
        assert api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Binds": bad}}).status == 400, bad
    assert api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"ShmSize": -1}}).status == 400
    odd = api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"VolumesFrom": ["nobody"]}})
    assert odd.status in (400, 404)


@pytest.mark.promise(
    *(f"{HOST}{name}" for name in ("Memory", "MemorySwap", "MemoryReservation", "KernelMemory", "MemorySwappiness")),
    *(f"{HOST}{name}" for name in ("CpuShares", "CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems", "PidsLimit")),
    *(f"{HOST}{name}" for name in ("CpuPercent", "IOMaximumBandwidth", "IOMaximumIOps", "OomKillDisable")),
    *(f"{HOST}{name}" for name in ("OomScoreAdj", "Ulimits", "Ulimits.Name", "Ulimits.Soft", "Ulimits.Hard")),
    *(f"containers.create.b{n}" for n in (29, 31, 32, 37, 40)),
)
def test_limits(api: Api) -> None:
    host: dict[str, Any] = {
        "Memory": 64 << 20,
        "MemorySwap": 128 << 20,
        "MemoryReservation": 32 << 20,
        "MemorySwappiness": 60,
        "CpuShares": 512,
        "CpuPeriod": 50000,
        "CpuQuota": 25000,
        "CpusetCpus": "0",
        "CpusetMems": "0",
        "PidsLimit": 77,
        "OomKillDisable": True,
        "OomScoreAdj": 400,
        "Ulimits": [{"Name": "nofile", "Soft": 1000, "Hard": 2000}],
    }
    one = api.run("", host=host)
    assert group(api, one, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert group(api, one, "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    if knows("memory/memory.memsw.limit_in_bytes"):
        assert group(api, one, "memory.memsw.limit_in_bytes", "-") == str(128 << 20)
    if knows("memory/memory.swappiness"):
        assert group(api, one, "memory.swappiness", "-") == "60"
    if knows("memory/memory.oom_control"):
        assert "oom_kill_disable 1" in group(api, one, "memory.oom_control", "-")
    if knows("cpu/cpu.shares"):
        assert group(api, one, "cpu.shares", "-").splitlines()[0] == "512"
        assert group(api, one, "cpu.cfs_quota_us", "-").splitlines()[0] == "25000"
        assert group(api, one, "cpu.cfs_period_us", "-").splitlines()[0] == "50000"
    else:
        assert group(api, one, "-", "cpu.max") == "25000 50000"
    assert group(api, one, "cpuset.cpus", "cpuset.cpus") == "0"
    assert group(api, one, "cpuset.mems", "cpuset.mems") == "0"
    assert group(api, one, "pids.max", "pids.max") == "77"
    assert api.exec(one, "cat", "/proc/1/oom_score_adj")[1] == "400\n"
    limits = api.exec(one, "cat", "/proc/1/limits")[1]
    assert re.search(r"Max open files +1000 +2000 ", limits)
    shown = api.inspect(one)["HostConfig"]
    for key, value in host.items():
        assert shown[key] == value, key

    unlimited = api.run("", host={"PidsLimit": -1, "Memory": 64 << 20, "MemorySwap": -1})
    assert group(api, unlimited, "pids.max", "pids.max") == "max"
    ignored = {"CpuPercent": 5, "IOMaximumBandwidth": 1, "IOMaximumIOps": 1, "KernelMemory": 50 << 20}
    warned = api.ok("POST", "/containers/create", {"Image": "busybox", "HostConfig": ignored})["Warnings"]
    assert len(warned) == 2
    assert any("Windows" in text for text in warned)
    assert any("kernel memory" in text for text in warned)
    for bad in (
        {"Memory": 1},
        {"MemorySwap": 128 << 20},
        {"Memory": 64 << 20, "MemorySwap": 32 << 20},
        {"Memory": 64 << 20, "MemoryReservation": 128 << 20},
        {"MemorySwappiness": 101},
        {"CpuPeriod": 5},
        {"CpuQuota": 5},
        {"CpuShares": -1},
        {"CpusetCpus": "4096"},
        {"CpusetCpus": "x"},
        {"OomScoreAdj": 1001},
        {"Ulimits": [{"Name": "odd", "Soft": 1, "Hard": 1}]},
        {"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]},
    ):
        refused = api("POST", "/containers/create", {"Image": "busybox", "HostConfig": bad})
        assert refused.status == 400, (bad, refused.body)


DEVICES = ("BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps")


@pytest.mark.promise(
    *(f"{HOST}{name}" for name in DEVICES),
    *(f"{HOST}{name}.{part}" for name in DEVICES for part in ("Path", "Rate")),
    f"{HOST}BlkioWeight",
    f"{HOST}BlkioWeightDevice",
    f"{HOST}BlkioWeightDevice.Path",
    f"{HOST}BlkioWeightDevice.Weight",
    *(f"containers.create.b{n}" for n in (33, 34, 35)),
)
def test_block_io(api: Api) -> None:
    disk = next((str(path) for path in Path("/dev").glob("[vs]d?")), None)
    if disk is None:
        pytest.skip("this machine has no disk to limit")
    number = os.stat(disk).st_rdev
    device = f"{os.major(number)}:{os.minor(number)}"
    host: dict[str, Any] = {
        name: [{"Path": disk, "Rate": (n + 1) * 10000 if n % 2 else str((n + 1) * 10000)}]
        for n, name in enumerate(DEVICES)
    }
    one = api.run("", host=host)
    files = ("read_bps", "write_bps", "read_iops", "write_iops")
    if knows("blkio/blkio.throttle.read_bps_device"):
        for n, name in enumerate(files):
            assert group(api, one, f"blkio.throttle.{name}_device", "-") == f"{device} {(n + 1) * 10000}"
    else:
        assert "rbps=10000 wbps=20000 riops=30000 wiops=40000" in group(api, one, "-", "io.max")
    weights = {"BlkioWeight": 300, "BlkioWeightDevice": [{"Path": disk, "Weight": 200}]}
    made = api.ok("POST", "/containers/create", {"Image": "busybox", "HostConfig": weights})
    if knows("blkio/blkio.weight") or knows("cgroup.controllers"):
        assert made["Warnings"] == []
    else:
        assert len(made["Warnings"]) == 2
        assert all("weight" in text for text in made["Warnings"])
    for bad in ({"BlkioWeight": 9}, {"BlkioWeight": 1001}, {DEVICES[0]: [{"Path": disk, "Rate": "many"}]}):
        assert api("POST", "/containers/create", {"Image": "busybox", "HostConfig": bad}).status == 400, bad


@pytest.mark.promise(
    *(f"{HOST}{name}" for name in ("PidMode", "UsernsMode", "CapAdd", "CapDrop", "GroupAdd", "Privileged")),
    *(f"{HOST}{name}" for name in ("Devices", "Devices.PathOnHost", "Devices.PathInContainer", "SecurityOpt")),
    *(f"{HOST}{name}" for name in ("Devices.CgroupPermissions", "Sysctls", "CgroupParent", "StorageOpt")),
    *(f"containers.create.b{n}" for n in (38, 39, 46, 50, 57, 62, 63)),
)
def test_rights_and_namespaces(api: Api) -> None:
    one = api.run("one", host={"CgroupParent": "shoal-test-parent"})
    assert "/shoal-test-parent/" in api.exec(one, "cat", "/proc/1/cgroup")[1] or knows("cgroup.controllers")
    own = api.exec(one, "readlink", "/proc/self/ns/pid")[1]
    joined = api.run("", host={"PidMode": "container:one"})
    assert api.exec(joined, "readlink", "/proc/self/ns/pid")[1] == own
    assert "sleep 1000" in api.exec(joined, "ps")[1]
    hosts = api.run("", host={"PidMode": "host"})
    assert api.exec(hosts, "readlink", "/proc/self/ns/pid")[1] != own
    assert "daemon.main" in api.exec(hosts, "ps")[1]

    script = (
        "id -G; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; cat /proc/sys/net/ipv4/ip_forward"
    )
    host: dict[str, Any] = {
        "CapDrop": ["ALL"],
        "CapAdd": ["NET_ADMIN"],
        "GroupAdd": ["7", "8"],
        "SecurityOpt": ["no-new-privileges", "label=disable"],
        "Sysctls": {"net.ipv4.ip_forward": "0"},
        "UsernsMode": "host",
    }
    lines = api.output("sh", "-c", script, host=host).splitlines()
    assert {"7", "8"} <= set(lines[0].split())
    assert int(lines[1].split()[1], 16) == 1 << 12
    assert (lines[2].split()[1], lines[3]) == ("1", "0")
    plain = api.output("grep", "CapEff", "/proc/self/status").split()[1]
    bounding = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd"))
    every = api.output("sh", "-c", "grep CapEff /proc/self/status; ls /dev | wc -l", host={"Privileged": True})
    assert int(every.split()[1], 16) == int(bounding.split()[1], 16)
    assert int(plain, 16) < int(every.split()[1], 16)
    assert int(every.split()[2]) > 15

    device = {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/nil", "CgroupPermissions": "r"}
    script = "head -c 3 /dev/nil | wc -c; echo x > /dev/nil || echo refused"
    assert api.output("sh", "-c", script, host={"Devices": [device]}).startswith("3\n")
    for bad in (
        {"PidMode": "odd"},
        {"UsernsMode": "odd"},
        {"CapAdd": ["ODD"]},
        {"Sysctls": {"kernel.panic": "1"}},
        {"SecurityOpt": ["odd=1"]},
        {"StorageOpt": {"size": "120G"}},
    ):
        refused = api("POST", "/containers/create", {"Image": "busybox", "HostConfig": bad})
        assert refused.status in (400, 501), (bad, refused.body)
    gone = api.create("", host={"Devices": [device | {"PathOnHost": "/dev/nope"}]})
    assert api("POST", f"/containers/{gone}/start").status in (400, 500)


@pytest.mark.promise(
    *(f"{HOST}{name}" for name in ("NetworkMode", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "Links")),
    f"{BODY}NetworkDisabled",
    f"{BODY}MacAddress",
    f"{BODY}NetworkingConfig",
    f"{BODY}NetworkingConfig.EndpointsConfig",
    f"{BODY}NetworkingConfig.EndpointsConfig.<network>",
    f"{BODY}NetworkingConfig.EndpointsConfig.<network>.IPAMConfig",
    f"{BODY}NetworkingConfig.EndpointsConfig.<network>.IPAMConfig.IPv4Address",
    f"{BODY}NetworkingConfig.EndpointsConfig.<network>.Links",
    f"{BODY}NetworkingConfig.EndpointsConfig.<network>.Aliases",
    *(f"containers.create.b{n}" for n in (21, 28, 48, 58, 59)),
    "containers.remove.b4",
    "containers.remove.query.link",
)
def test_the_network(api: Api) -> None:
    host: dict[str, Any] = {
        "Dns": ["192.0.2.53"],
        "DnsOptions": ["ndots:3"],
        "DnsSearch": ["example.org"],
        "ExtraHosts": ["other:192.0.2.9"],
    }
    script = "cat /etc/resolv.conf /etc/hosts; cat /sys/class/net/eth0/address"
    seen = api.output("sh", "-c", script, host=host, MacAddress="02:42:ac:11:00:77")
    for wanted in ("nameserver 192.0.2.53", "options ndots:3", "search example.org", "192.0.2.9\tother"):
        assert wanted in seen
    assert seen.splitlines()[-1] == "02:42:ac:11:00:77"
    listed = ("ls", "/sys/class/net")
    assert "eth0" in api.output(*listed, host={"NetworkMode": "bridge"})
    assert "eth0" not in api.output(*listed, host={"NetworkMode": "none"})
    assert "eth0" not in api.output(*listed, NetworkDisabled=True)
    own = api.run("own", Env=["COLOR=blue", "PATH=/bin"], ExposedPorts={"80/tcp": {}})
    mine = api.exec(own, "readlink", "/proc/self/ns/net")[1]
    joined = api.run("", host={"NetworkMode": "container:own"})
    assert api.exec(joined, "readlink", "/proc/self/ns/net")[1] == mine
    assert api.output("readlink", "/proc/self/ns/net", host={"NetworkMode": "host"}) != mine
    assert api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": "nope"}}).status < 500

    linked = api.run("linked", host={"Links": ["own:db", "own"]})
    address = api.inspect(own)["NetworkSettings"]["IPAddress"]
    env = api.exec(linked, "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ")[1].splitlines()
    assert {
        f"DB_PORT=tcp://{address}:80",
        f"DB_PORT_80_TCP_ADDR={address}",
        "DB_NAME=/linked/db",
        "DB_ENV_COLOR=blue",
        "OWN_NAME=/linked/own",
    } <= set(env)
    assert not any(line.startswith("DB_ENV_PATH") for line in env)
    assert api.exec(linked, "ping", "-c1", "-W2", "db")[0] == 0
    assert api.inspect("linked")["HostConfig"]["Links"] == ["/own:/linked/db", "/own:/linked/own"]
    assert api("DELETE", "/containers/linked/db", link=1).status == 204
    assert api.inspect("linked")["HostConfig"]["Links"] == ["/own:/linked/own"]
    assert api("DELETE", "/containers/linked/db", link=1).status == 404
    for bad in (["a:b:c"], ["nobody:x"]):
        assert api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Links": bad}}).status == 400

    api.ok("POST", "/networks/create", {"Name": "blue", "IPAM": {"Config": [{"Subnet": "10.77.0.0/24"}]}})
    api.run("server", host={"NetworkMode": "blue"})
    wish = {"IPAMConfig": {"IPv4Address": "10.77.0.33"}, "Aliases": ["nick"], "Links": ["server:boss"]}
    api.run("fixed", host={"NetworkMode": "blue"}, NetworkingConfig={"EndpointsConfig": {"blue": wish}})
    found = api.inspect("fixed")["NetworkSettings"]["Networks"]["blue"]
    assert (found["IPAddress"], "nick" in found["Aliases"]) == ("10.77.0.33", True)
    assert api.exec("server", "ping", "-c1", "-W2", "nick")[0] == 0
    assert api.exec("fixed", "ping", "-c1", "-W2", "boss")[0] == 0
    assert api.exec("server", "ping", "-c1", "-W2", "boss")[0] != 0


@pytest.mark.promise(
    f"{HOST}PortBindings",
    f"{HOST}PortBindings.<port>/<protocol>",
    f"{HOST}PortBindings.<port>/<protocol>.HostPort",
    f"{HOST}PublishAllPorts",
    *(f"containers.create.b{n}" for n in (42, 43, 44, 45)),
)
def test_ports(api: Api) -> None:
    one = api.run("one", host={"PortBindings": {"80/tcp": [{"HostPort": "8080"}], "53/udp": [{"HostPort": "5353"}]}})
    assert api.inspect(one)["NetworkSettings"]["Ports"]["80/tcp"][0] == {"HostIp": "0.0.0.0", "HostPort": "8080"}
    taken = api.create("", host={"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}})
    refused = api("POST", f"/containers/{taken}/start")
    assert (refused.status, "port is already allocated" in refused.message) == (500, True)
    wrong = {"PortBindings": {"80/tcp": [{"HostPort": 80}]}}
    assert api("POST", "/containers/create", {"Image": "busybox", "HostConfig": wrong}).status == 400

    every = api.run("every", host={"PublishAllPorts": True}, ExposedPorts={"80/tcp": {}, "53/udp": {}})
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = api.inspect(every)["NetworkSettings"]["Ports"]
    numbers = [int(ports[key][0]["HostPort"]) for key in ("80/tcp", "53/udp")]
    assert all(low <= number <= high for number in numbers)
    api.ok("POST", "/containers/every/stop", t=0)
    assert not any((api.inspect(every)["NetworkSettings"]["Ports"] or {}).values())
    other = api.run("", host={"PortBindings": {"1/tcp": [{"HostPort": str(numbers[0])}]}})  # free while it is stopped
    api.ok("POST", "/containers/every/start")
    again = int(api.inspect(every)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
    assert low <= again <= high
    assert again != numbers[0]
    api.ok("DELETE", f"/containers/{other}", force=1)


@pytest.mark.promise(
    *(f"{HOST}{name}" for name in ("RestartPolicy", "RestartPolicy.Name", "RestartPolicy.MaximumRetryCount")),
    *(f"{HOST}{name}" for name in ("LogConfig", "LogConfig.Type", "LogConfig.Config")),
    f"{BODY}StdinOnce",
    "containers.create.b8",
    "containers.create.b60",
    "containers.logs.b2",
)
def test_restarts_logs_and_stdin(api: Api) -> None:
    policy = {"Name": "on-failure", "MaximumRetryCount": 2}
    failing = api.run("failing", "sh", "-c", "echo try; exit 3", host={"RestartPolicy": policy})
    assert api.ok("POST", "/containers/failing/wait") == {"StatusCode": 3}
    assert api.inspect(failing)["RestartCount"] == 2
    assert api("GET", "/containers/failing/logs", stdout=1).body.count(b"try") == 3
    for name, count in (("odd", 0), ("always", 2), ("on-failure", -1)):
        bad = {"Name": name, "MaximumRetryCount": count}
        refused = api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"RestartPolicy": bad}})
        assert refused.status == 400, bad

    small = {"Type": "json-file", "Config": {"max-size": "10k", "max-file": "2"}}
    much = api.run("", "seq", "-w", "10000", host={"LogConfig": small})
    api.ok("POST", f"/containers/{much}/wait")
    lines = [line[-5:] for line in api("GET", f"/containers/{much}/logs", stdout=1).body.splitlines()]
    assert lines[-1] == b"10000"
    assert 10 < len(lines) < 1000
    none = api.run("", "echo", "unseen", host={"LogConfig": {"Type": "none"}})
    refused = api("GET", f"/containers/{none}/logs", stdout=1)
    assert "does not support reading" in refused.body.decode()
    for kind in ("awslogs", "splunk", "etwlogs", "odd"):
        refused = api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": kind}}})
        assert (refused.status, kind in refused.message) == (400, True)

    once = api.create("", "sh", "-c", "cat; echo end", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    with api.taken("POST", f"/containers/{once}/attach", stream=1, stdin=1, stdout=1) as stream:
        api.ok("POST", f"/containers/{once}/start")
        stream.send(b"typed\n")
        stream.until(b"typed\n")
    assert api.ok("POST", f"/containers/{once}/wait") == {"StatusCode": 0}  # its stdin ended with the client


@pytest.mark.promise(
    f"{BODY}Healthcheck",
    *(f"{BODY}Healthcheck.{name}" for name in ("Test", "Interval", "Timeout", "Retries", "StartPeriod")),
    "containers.create.b15",
)
def test_health(api: Api) -> None:
    second = 1_000_000_000
    check = {"Test": ["CMD-SHELL", "test -e /ok && echo fine"], "Interval": second // 10, "Retries": 2}
    api.run(
        "well",
        "sh",
        "-c",
        "touch /ok; sleep 1000",
        Healthcheck=check | {"Timeout": 5 * second, "StartPeriod": 1_000_000},
    )
    api.run("ill", Healthcheck=check)
    api.run(
        "slow",
        Healthcheck={"Test": ["CMD", "sleep", "60"], "Interval": second // 10, "Timeout": second // 10, "Retries": 1},
    )
    api.run("none", Healthcheck={"Test": ["NONE"]})
    wanted = {"well": "healthy", "ill": "unhealthy", "slow": "unhealthy"}
    for name, status in wanted.items():
        deadline = time.monotonic() + 20
        while api.inspect(name)["State"]["Health"]["Status"] != status:
            assert time.monotonic() < deadline, (name, api.inspect(name)["State"]["Health"])
            time.sleep(0.05)
    log = api.inspect("well")["State"]["Health"]["Log"][-1]
    assert (log["ExitCode"], log["Output"]) == (0, "fine\n")
    assert "timeout" in api.inspect("slow")["State"]["Health"]["Log"][0]["Output"]
    assert "Health" not in api.inspect("none")["State"]
    (ill,) = api.ok("GET", "/containers/json", filters={"health": ["unhealthy"], "name": ["ill"]})
    assert "unhealthy" in ill["Status"]
    bad = {"Test": ["CMD", "true"], "Interval": 5}
    assert api("POST", "/containers/create", {"Image": "busybox", "Healthcheck": bad}).status == 400

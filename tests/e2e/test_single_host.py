"""Everything a user does on one host, by the docker CLI."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.lab import Lab
from lab.paths import LabError
from lab.wait import until
from tests.e2e.client import Docker, fetch


@pytest.mark.promise("containers.wait.b2", "containers.create.b1")
def test_run_gives_output_exit_status_and_leaves_nothing(docker: Docker) -> None:
    done = docker.run("run", "--rm", "busybox", "sh", "-c", "echo to-out; echo to-err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "to-out\n", "to-err\n")
    until(lambda: docker.ok("ps", "-aq") == "", timeout_s=10, what="the container to be removed")


def test_run_passes_stdin_and_sees_its_end(docker: Docker) -> None:
    text = "".join(f"line {n}\n" for n in range(5000))
    done = docker.run("run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end", stdin=text)
    assert (done.code, done.out) == (0, text + "end\n")


@pytest.mark.promise("containers.resize.b1", "containers.attach.b9", "containers.create.b7")
def test_a_shell_on_a_terminal(docker: Docker) -> None:
    with docker.terminal("run", "--rm", "-it", "busybox", "sh") as shell:
        shell.expect(r"/ # ")
        shell.type("echo $((6*7))\r")
        shell.expect(r"\b42\b")
        shell.resize(31, 97)

        def sized() -> bool:
            shell.type("stty size\r")
            return shell.expect(r"(\d+) (\d+)\r\n").groups() == ("31", "97")

        until(sized, timeout_s=10, what="the new size to reach the container")
        shell.type("exit 3\r")
        assert shell.wait() == 3


@pytest.mark.promise("containers.create.b41")
def test_a_published_port_is_reachable_from_everywhere(single: Lab, docker: Docker) -> None:
    docker.ok("run", "-d", "-p", "8080:80", "--name", "web", "busybox", "httpd", "-f", "-h", "/etc")
    address = single.host("m1").address
    for where, url in (
        ("m1", f"http://{address}:8080/passwd"),
        ("m1", "http://127.0.0.1:8080/passwd"),
        ("registry", f"http://{address}:8080/passwd"),  # another machine
    ):

        def fetched(where: str = where, url: str = url) -> bool:
            return fetch(single, where, url).startswith("root:")

        until(fetched, timeout_s=15, what=f"{url} from {where}")
    assert docker.ok("port", "web", "80/tcp").splitlines()[0] == "0.0.0.0:8080"
    (row,) = docker.rows("ps")
    assert row["Names"] == "web"
    assert "0.0.0.0:8080->80/tcp" in row["Ports"]
    docker.ok("rm", "-f", "web")
    assert fetch(single, "m1", "http://127.0.0.1:8080/passwd") == ""


@pytest.mark.promise("containers.list.b1", "containers.list.b2", "containers.stop.b1", "containers.remove.b1")
def test_the_life_of_a_container(docker: Docker) -> None:
    identity = docker.ok("run", "-d", "--name", "life", "busybox", "sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait")
    assert len(identity) == 64
    assert [row["Names"] for row in docker.rows("ps")] == ["life"]
    assert docker.state("life")["Running"] is True
    docker.ok("stop", "-t", "10", "life")
    state = docker.state("life")
    assert (state["Running"], state["Status"], state["ExitCode"]) == (False, "exited", 5)
    assert docker.ok("ps", "-q") == ""
    assert [row["State"] for row in docker.rows("ps", "-a")] == ["exited"]
    docker.ok("start", "life")
    assert docker.state("life")["Running"] is True
    assert "running" in docker.bad("rm", "life").err
    docker.ok("rm", "-f", "life")
    assert docker.ok("ps", "-aq") == ""


@pytest.mark.promise("containers.kill.b2", "containers.kill.b3")
def test_kill_sends_the_signal_that_was_asked_for(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "victim", "busybox", "sh", "-c", "trap 'exit 9' USR1; sleep 1000 & wait")
    docker.ok("kill", "-s", "USR1", "victim")
    assert docker.ok("wait", "victim") == "9"
    docker.ok("start", "victim")
    docker.ok("kill", "victim")
    assert docker.ok("wait", "victim") == "137"


@pytest.mark.promise("containers.logs.b1", "containers.logs.b4", "containers.logs.b6", "containers.logs.b7")
def test_logs_are_kept_and_followed(docker: Docker) -> None:
    script = "for n in 1 2 3; do echo out $n; echo err $n >&2; sleep 0.3; done"
    docker.ok("run", "-d", "--name", "talker", "busybox", "sh", "-c", script)
    followed = docker.run("logs", "-f", "talker")
    assert followed.out == "out 1\nout 2\nout 3\n"
    assert followed.err == "err 1\nerr 2\nerr 3\n"
    assert docker.run("logs", "--tail", "2", "talker") == docker.run("logs", "--tail", "2", "talker")
    last = docker.run("logs", "--tail", "1", "talker")
    assert (last.out + last.err).count("\n") == 1
    assert docker.run("logs", "-t", "talker").out.splitlines()[0].endswith("Z out 1")


@pytest.mark.promise("exec.start.b3", "exec.start.b4")
def test_exec(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    done = docker.run("exec", "box", "sh", "-c", "echo in; echo bad >&2; exit 4")
    assert (done.code, done.out, done.err) == (4, "in\n", "bad\n")
    assert docker.run("exec", "-i", "box", "cat", stdin="hello").out == "hello"
    with docker.terminal("exec", "-it", "box", "sh") as shell:
        shell.expect(r"/ # ")
        shell.type("tty; exit 6\r")
        shell.expect(r"/dev/")
        assert shell.wait() == 6
    missing = docker.run("exec", "box", "nosuchprogram")
    assert missing.code in (126, 127)
    assert "nosuchprogram" in missing.out


@pytest.mark.promise("images.create.b1", "images.create.b3")
def test_pull_from_the_registry(docker: Docker) -> None:
    reference = "10.99.0.250:5000/library/busybox:1.35"
    assert "Downloaded newer image" in docker.ok("pull", reference)
    assert "up to date" in docker.ok("pull", reference)
    assert docker.ok("run", "--rm", reference, "echo", "pulled") == "pulled"
    # No registry is named: the mirror answers for docker.io.
    docker.ok("pull", "alpine")
    names = {f"{row['Repository']}:{row['Tag']}" for row in docker.rows("images")}
    assert {"busybox:latest", "alpine:latest", reference} <= names
    docker.ok("rmi", reference, "alpine")
    assert "alpine" not in docker.ok("images")


@pytest.mark.promise(
    "misc.events.b3", "misc.events.response.events.image.pull", "misc.events.response.events.image.push"
)
def test_events_of_pull_and_push(docker: Docker) -> None:
    """The other events of images are in tests/integration/test_streams_api.py."""
    since = f"{time.time():.6f}"
    pulled, pushed = "10.99.0.250:5000/library/busybox:1.35", "10.99.0.250:5000/mine/told:v2"
    docker.ok("pull", pulled)
    docker.ok("tag", pulled, pushed)
    docker.ok("push", pushed)
    docker.ok("rmi", pushed, pulled)
    seen = docker.ok("events", "--since", since, "--until", f"{time.time():.6f}", "--format", "{{json .}}")
    events = [event for line in seen.splitlines() if (event := json.loads(line))["Type"] == "image"]
    told = {event["Action"]: event["Actor"] for event in events}
    assert (told["pull"]["ID"], told["pull"]["Attributes"]["name"]) == (pulled, pulled.rpartition(":")[0])
    assert (told["push"]["ID"], told["push"]["Attributes"]["name"]) == (pushed, pushed.rpartition(":")[0])
    assert {"tag", "untag"} <= told.keys()


def test_the_built_in_image_is_there_without_a_registry(docker: Docker) -> None:
    assert "busybox" in {row["Repository"] for row in docker.rows("images")}


@pytest.mark.promise("networks.list.b1")
def test_networks_and_names(single: Lab, docker: Docker) -> None:
    rows = {row["Name"]: row["Driver"] for row in docker.rows("network", "ls")}
    assert {"bridge": "bridge", "host": "host", "none": "null"}.items() <= rows.items()
    docker.ok("run", "-d", "--name", "net", "--hostname", "h1", "busybox", "sleep", "1000")
    address = docker.inspect("net")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert docker.ok("exec", "net", "hostname") == "h1"
    assert f"{address}\th1" in docker.ok("exec", "net", "cat", "/etc/hosts")
    assert "nameserver" in docker.ok("exec", "net", "cat", "/etc/resolv.conf")
    # Out by NAT: the registry sees the host, not the container.
    request = "printf 'GET /v2/ HTTP/1.0\\r\\n\\r\\n' | nc -w 5 10.99.0.250 5000"
    assert docker.ok("exec", "net", "sh", "-c", request).startswith("HTTP/1.0 200")
    assert json.loads(docker.ok("network", "inspect", "bridge"))[0]["Name"] == "bridge"


def test_limits_reach_the_kernel(single: Lab, docker: Docker) -> None:
    limits = ("-m", "64m", "--cpu-period", "100000", "--cpu-quota", "50000", "--pids-limit", "77")
    docker.ok("run", "-d", "--name", "small", *limits, "busybox", "sleep", "1000")
    pid = docker.state("small")["Pid"]

    def limit(controller: str, old: str, new: str) -> str:
        script = (
            f"path=$(grep -E '^[0-9]+:([^:]*,)?{controller}[,:]' /proc/{pid}/cgroup | cut -d: -f3); "
            f'if [ -n "$path" ]; then cat "/sys/fs/cgroup/{controller}$path/{old}"; '
            f'else cat "/sys/fs/cgroup$(grep ^0:: /proc/{pid}/cgroup | cut -d: -f3)/{new}"; fi'
        )
        done = single.run("m1", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[0]

    assert limit("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert limit("pids", "pids.max", "pids.max") == "77"
    assert limit("cpu", "cpu.cfs_quota_us", "cpu.max") == "50000"


def test_the_container_is_confined(docker: Docker) -> None:
    status = docker.ok("run", "--rm", "busybox", "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"].strip() == "00000000a80425fb"  # Docker's fourteen
    assert fields["Seccomp"].strip() == "2"
    assert docker.run("run", "--rm", "busybox", "mount", "-t", "tmpfs", "x", "/mnt").code != 0
    assert docker.ok("run", "--rm", "busybox", "cat", "/proc/keys") == ""


@pytest.mark.promise("misc.version.status.200", "misc.info.status.200", "misc.ping.status.200")
def test_version_info_ping(single: Lab, docker: Docker) -> None:
    versions = json.loads(docker.ok("version", "--format", "{{json .}}"))
    assert versions["Client"]["ApiVersion"] == "1.24"
    assert versions["Server"]["ApiVersion"] == "1.24"
    info = json.loads(docker.ok("info", "--format", "{{json .}}"))
    assert info["Name"] == "m1"
    assert info["Driver"] == "overlay2"
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    answer = docker.http("GET", "/_ping")
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["api-version"] == "1.24"
    assert docker.http("HEAD", "/_ping").status == 200


def test_events_tell_the_story_in_order(docker: Docker) -> None:
    since = docker.ok("run", "--rm", "busybox", "date", "+%s")
    docker.ok("run", "--name", "told", "busybox", "true")
    docker.ok("rm", "told")
    until_time = str(int(docker.ok("run", "--rm", "busybox", "date", "+%s")) + 1)
    filters = ("--filter", "container=told", "--since", since, "--until", until_time)
    names = [
        json.loads(line)["Action"] for line in docker.ok("events", *filters, "--format", "{{json .}}").splitlines()
    ]
    assert [n for n in names if n in ("create", "start", "die", "destroy")] == ["create", "start", "die", "destroy"]


def test_a_volume_outlives_its_container(docker: Docker) -> None:
    docker.ok("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/file")
    assert docker.ok("run", "--rm", "-v", "data:/d", "busybox", "cat", "/d/file") == "kept"
    docker.ok("volume", "rm", "data")
    assert "data" not in docker.ok("volume", "ls", "-q").split()


def test_many_at_once_leave_nothing(single: Lab, docker: Docker) -> None:
    def kernel() -> dict[str, str]:
        pid = single.host("m1").daemon.pid  # type: ignore[union-attr]
        mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
        return {
            "links": single.run("m1", "sh", "-c", "ip -br link | cut -d' ' -f1 | sort").stdout,
            "mounts": "\n".join(sorted(line.split()[1] for line in mounts if " /var/lib" in line or " /run" in line)),
            "cgroups": single.run("m1", "find", "/sys/fs/cgroup", "-type", "d").stdout,
            "processes": single.run("m1", "sh", "-c", "busybox ps -o comm | grep -cE 'crun|true'").stdout,
            "disk": single.run("m1", "ls", "/var/lib/shoal/containers").stdout,
        }

    docker.ok("run", "--rm", "busybox", "true")  # what the first container makes for good (a parent cgroup) is there
    before = kernel()
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: docker.run("run", "--rm", "busybox", "echo", str(n)), range(40)))
    assert [(d.code, d.out) for d in done] == [(0, f"{n}\n") for n in range(40)]
    with contextlib.suppress(LabError):
        until(lambda: kernel() == before, timeout_s=15, what="nothing to be left")
    assert kernel() == before

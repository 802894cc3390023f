"""kill -9 of the daemon and power loss of its host: containers run on, or come back to a true record."""

from __future__ import annotations

import pytest

from lab.lab import Lab
from lab.wait import until
from tests.e2e.client import Docker, fetch

COUNT = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.05; done"


def _numbers(text: str) -> list[int]:
    return [int(line) for line in text.split()]


@pytest.fixture
def counter(docker: Docker) -> str:
    docker.ok("run", "-d", "--name", "counter", "-p", "8090:80", "busybox", "sh", "-c", f"httpd -h /etc; {COUNT}")
    until(lambda: len(docker.ok("logs", "counter").split()) > 3, timeout_s=10, what="the counter to count")
    return "counter"


def test_containers_outlive_their_daemon(single: Lab, docker: Docker, counter: str) -> None:
    pid = docker.state(counter)["Pid"]
    before = _numbers(docker.ok("logs", counter))[-1]
    single.kill("m1")
    assert single.run("m1", "kill", "-0", str(pid)).returncode == 0
    log = f"/var/lib/shoal/containers/{_whole_id(single)}"
    until(
        lambda: single.run("m1", "sh", "-c", f"cat {log}/*json.log").stdout.count("\n") > before + 10,
        timeout_s=10,
        what="the log to grow without a daemon",
    )
    single.start("m1")
    state = docker.state(counter)
    assert (state["Running"], state["Pid"]) == (True, pid)
    numbers = _numbers(docker.ok("logs", counter))
    assert numbers == list(range(1, len(numbers) + 1)), "a line was lost or doubled"
    assert numbers[-1] > before + 10
    with docker.start("attach", "--no-stdin", "--sig-proxy=false", counter) as attached:
        assert attached.stdout is not None
        assert int(attached.stdout.readline()) > numbers[-1]
        attached.kill()
    assert docker.ok("exec", counter, "echo", "still") == "still"
    assert fetch(single, "m1", "http://127.0.0.1:8090/passwd").startswith("root:")
    with docker.start("wait", counter) as waiting:
        docker.ok("stop", "-t", "1", counter)
        assert waiting.communicate(timeout=15)[0].strip() == "137"


def test_an_exit_while_the_daemon_is_down_is_not_lost(single: Lab, docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "leaver", "busybox", "sh", "-c", "until [ -e /go ]; do sleep 0.05; done; exit 5")
    pid = docker.state("leaver")["Pid"]
    single.kill("m1")
    assert single.run("m1", "touch", f"/proc/{pid}/root/go").returncode == 0
    until(lambda: single.run("m1", "kill", "-0", str(pid)).returncode != 0, timeout_s=10, what="the container to end")
    single.start("m1")
    until(lambda: docker.state("leaver")["Status"] == "exited", timeout_s=10, what="the exit to be known")
    assert docker.state("leaver")["ExitCode"] == 5
    assert docker.ok("wait", "leaver") == "5"


def test_a_graceful_restart_keeps_containers_too(single: Lab, docker: Docker, counter: str) -> None:
    pid = docker.state(counter)["Pid"]
    single.stop("m1")
    single.start("m1")
    assert docker.state(counter)["Pid"] == pid
    numbers = _numbers(docker.ok("logs", counter))
    assert numbers == list(range(1, len(numbers) + 1))


def test_after_a_power_loss_nothing_claims_to_run(single: Lab, docker: Docker, counter: str) -> None:
    single.power_off("m1")
    single.start("m1")
    state = docker.state(counter)
    assert (state["Running"], state["Status"]) == (False, "exited")
    assert "counter" in docker.ok("ps", "-a")
    docker.ok("start", counter)
    assert docker.state(counter)["Running"] is True
    assert docker.ok("run", "--rm", "busybox", "echo", "works") == "works"


@pytest.mark.promise("exec.inspect.b3", "exec.inspect.response.ExitCode", "exec.inspect.response.Running")
def test_execs_outlive_their_daemon(single: Lab, docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    docker.ok("run", "-d", "--name", "brief", "busybox", "sh", "-c", "until [ -e /go ]; do sleep 0.05; done")

    def made(container: str, script: str, *, start: bool = True) -> str:
        wish = {"Cmd": ["sh", "-c", script], "User": "0", "AttachStdout": False}
        found = str(docker.http("POST", f"/v1.24/containers/{container}/exec", wish).value["Id"])
        if start:
            assert docker.http("POST", f"/v1.24/exec/{found}/start", {"Detach": True}).status == 200
        return found

    def state(which: str) -> tuple[bool, int | None]:
        answer = docker.http("GET", f"/v1.24/exec/{which}/json")
        return answer.value["Running"], answer.value["ExitCode"]

    wait = "until [ -e /%s ]; do sleep 0.05; done; exit %d"
    before, meanwhile, after = made("box", "exit 3"), made("box", wait % ("one", 4)), made("box", wait % ("two", 5))
    unstarted, orphan = made("box", "exit 6", start=False), made("brief", "sleep 1000")
    until(lambda: state(before) == (False, 3), timeout_s=10, what="the first exec to end")
    pids = {name: docker.state(name)["Pid"] for name in ("box", "brief")}
    single.kill("m1")
    for name, file in (("box", "one"), ("brief", "go")):
        assert single.run("m1", "touch", f"/proc/{pids[name]}/root/{file}").returncode == 0
    gone = ["sh", "-c", f"! kill -0 {pids['brief']} 2>/dev/null"]
    until(lambda: single.run("m1", *gone).returncode == 0, timeout_s=10, what="the container to end")
    single.start("m1")
    assert state(before) == (False, 3)
    until(lambda: state(meanwhile) == (False, 4), timeout_s=10, what="the exit without daemon to be known")
    until(lambda: state(orphan) == (False, 137), timeout_s=10, what="the exec whose container ended to be over")
    assert (state(after), state(unstarted)) == ((True, None), (False, None))
    assert docker.http("GET", f"/v1.24/exec/{after}/json").value["ProcessConfig"]["user"] == "0"
    assert sorted(docker.inspect("box")["ExecIDs"]) == sorted([after, unstarted])
    docker.ok("exec", "box", "touch", "/two")
    until(lambda: state(after) == (False, 5), timeout_s=10, what="the exec that was adopted to end")
    assert docker.http("POST", f"/v1.24/exec/{unstarted}/start", {"Detach": True}).status == 200
    until(lambda: state(unstarted) == (False, 6), timeout_s=10, what="the exec of before to run")
    assert docker.http("POST", f"/v1.24/exec/{before}/start", {"Detach": True}).status == 409
    docker.ok("rm", "-f", "box", "brief")
    assert docker.http("GET", f"/v1.24/exec/{after}/json").status == 404
    assert single.run("m1", "sh", "-c", "ls /run/shoal/execs /run/shoal/x").stdout.split() == [
        "/run/shoal/execs:",
        "/run/shoal/x:",
    ]


def test_killed_again_and_again_the_daemon_comes_back(single: Lab, docker: Docker) -> None:
    """kill -9 in the middle of creating and removing containers leaves records that agree with the kernel."""
    for attempt in range(5):
        with docker.start("run", "-d", "--name", f"mid{attempt}", "busybox", "sleep", "1000") as client:
            single.kill("m1")
            client.communicate(timeout=15)
        single.start("m1")
        for row in docker.rows("ps", "-a"):
            state = docker.state(row["ID"])
            alive = bool(state["Pid"]) and single.run("m1", "kill", "-0", str(state["Pid"])).returncode == 0
            assert state["Running"] == alive, row
        left = docker.ok("ps", "-aq").split()
        if left:
            docker.ok("rm", "-f", *left)
        mounts = single.run(
            "m1", "sh", "-c", f"grep -c ' /var/lib/shoal/.*overlay' /proc/{_inner(single)}/mounts"
        ).stdout
        assert mounts.strip() == "0"
        assert single.run("m1", "ls", "/var/lib/shoal/containers").stdout.split() == []


def _whole_id(single: Lab) -> str:
    (only,) = single.run("m1", "ls", "/var/lib/shoal/containers").stdout.split()
    return only


def _inner(single: Lab) -> str:
    return single.run("m1", "cat", "/run/lab-daemon.pid").stdout.strip()

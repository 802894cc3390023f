"""Remote log drivers against receivers that are real: what they get, and that nothing is lost when either end dies."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab.lab import Lab
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.log_receivers import TCP_PORT, UDP_PORT, Receiver, rsyslog, small

GELF_PORT, FLUENTD_PORT = 12201, 24224
SPEAK = "echo hello world; sleep 0.2; echo trouble >&2; printf 'no end'"
COUNT = "n=0; while [ $n -lt %d ]; do n=$((n+1)); echo $n; sleep 0.01; done"
GATE = COUNT + "; until [ -e /go ]; do sleep 0.05; done; while [ $n -lt %d ]; do n=$((n+1)); echo $n; sleep 0.01; done"
"""Quiet in between. Without acknowledgements, what a receiver has and did not look at dies with it: only its absence is
a test of us."""


def run(docker: Docker, name: str, script: str, *options: str, **log_options: str) -> None:
    """A container whose log goes elsewhere; `driver` names the driver."""
    driver = log_options.pop("driver")
    flags = [f"--log-opt={key.replace('_', '-')}={value}" for key, value in log_options.items()]
    docker.ok("run", "-d", "--name", name, f"--log-driver={driver}", *flags, *options, "busybox", "sh", "-c", script)


def numbers(receiver: Receiver, field: str) -> list[int]:
    return [int(found[field]) for found in receiver.received() if str(found.get(field, "")).strip().isdecimal()]


def counted(receiver: Receiver, field: str, last: int) -> None:
    """All numbers to `last` arrive, in order but for those that a broken connection made come again."""
    until(lambda: last in numbers(receiver, field), timeout_s=30, what=f"the receiver to hear of {last}")
    found = numbers(receiver, field)
    assert sorted(set(found)) == list(range(1, last + 1)), "a line was lost"


def absent(docker: Docker, name: str, receiver: Receiver) -> None:
    """The receiver is killed, lines are written without it, and it comes back."""
    receiver.kill()
    docker.ok("exec", name, "touch", "/go")
    time.sleep(0.5)
    receiver.start()


def test_syslog_reaches_a_real_rsyslogd(single: Lab, docker: Docker, tmp_path: Path) -> None:
    udp = f"udp://127.0.0.1:{UDP_PORT}"
    with rsyslog(single, tmp_path) as receiver:
        run(docker, "one", SPEAK, driver="syslog", syslog_address=udp, tag="one/{{.Name}}")
        run(docker, "two", SPEAK, driver="syslog", syslog_address=f"tcp://127.0.0.1:{TCP_PORT}",
            syslog_format="rfc5424", syslog_facility="local3", tag="two")  # fmt: skip
        run(docker, "three", SPEAK, driver="syslog", syslog_address=f"unixgram://{tmp_path}/log.sock", tag="three")
        until(lambda: len(receiver.received()) >= 9, timeout_s=15, what="nine lines")
        lines = receiver.received()
    for tag, facility in (("one/one", "daemon"), ("two", "local3"), ("three", "daemon")):
        own = [line for line in lines if line["tag"].partition("[")[0].rstrip(":") == tag]
        assert {line["facility"] for line in own} == {facility}
        found = [(line["text"].strip(), line["severity"]) for line in own]
        assert found == [("hello world", "6"), ("trouble", "3"), ("no end", "6")]
    # `docker logs` reads what the lines were sent from.
    assert docker.ok("logs", "two").splitlines() == ["hello world", "no end"]


def test_no_line_is_lost_when_the_daemon_or_the_receiver_is_killed(single: Lab, docker: Docker, tmp_path: Path) -> None:
    with rsyslog(single, tmp_path) as receiver:
        options = {"driver": "syslog", "syslog_address": f"tcp://127.0.0.1:{TCP_PORT}", "tag": "count"}
        run(docker, "count", GATE % (300, 400), **options)
        until(lambda: len(numbers(receiver, "text")) > 20, timeout_s=15, what="the first lines")
        single.kill("m1")
        time.sleep(1)  # lines of a time without daemon
        single.start("m1")
        heard = max(numbers(receiver, "text"))
        until(lambda: max(numbers(receiver, "text")) > heard, timeout_s=15, what="more lines after the restart")
        counted(receiver, "text", 300)
        absent(docker, "count", receiver)
        counted(receiver, "text", 400)
        assert docker.ok("wait", "count") == "0"
        assert len(numbers(receiver, "text")) < 600, "few come twice"


def test_lines_of_a_container_that_ended_without_daemon_are_sent(single: Lab, docker: Docker, tmp_path: Path) -> None:
    with rsyslog(single, tmp_path) as receiver:
        options = {"driver": "syslog", "syslog_address": f"unixgram://{tmp_path}/log.sock"}
        run(docker, "brief", f"sleep 0.5; {COUNT % 50}", **options)
        pid = docker.state("brief")["Pid"]
        single.kill("m1")
        gone = lambda: single.run("m1", "kill", "-0", str(pid)).returncode != 0  # noqa: E731
        until(gone, timeout_s=15, what="the container to end")
        assert numbers(receiver, "text") == []
        single.start("m1")
        counted(receiver, "text", 50)
        docker.ok("rm", "brief")


def test_gelf(single: Lab, docker: Docker, tmp_path: Path) -> None:
    label = ["--label", "tier=db"]
    with small(single, tmp_path, "gelf-udp", GELF_PORT) as udp, small(single, tmp_path, "gelf-tcp", GELF_PORT) as tcp:
        address = f"udp://127.0.0.1:{GELF_PORT}"
        run(docker, "packets", f"{SPEAK}; seq 1 4000 | tr '\\n' ' '", *label, driver="gelf", gelf_address=address,
            labels="tier")  # fmt: skip
        until(lambda: len(udp.received()) >= 4, timeout_s=15, what="four messages")
        first, second, *_ = udp.received()
        assert (first["short_message"], first["level"], first["_tier"]) == ("hello world", 6, "db")
        assert (second["short_message"], second["level"], second["_container_name"]) == ("trouble", 3, "packets")
        text = "".join(found["short_message"] for found in udp.received()[2:])
        assert text == "no end" + " ".join(map(str, range(1, 4001))) + " ", "the long line came whole"

        run(docker, "stream", GATE % (100, 200), driver="gelf", gelf_address=f"tcp://127.0.0.1:{GELF_PORT}")
        counted(tcp, "short_message", 100)
        absent(docker, "stream", tcp)
        counted(tcp, "short_message", 200)


@pytest.mark.parametrize("ack", ["true", "false"])
def test_fluentd(single: Lab, docker: Docker, tmp_path: Path, ack: str) -> None:
    with small(single, tmp_path, "fluentd", FLUENTD_PORT) as receiver:
        script = COUNT % 150 if ack == "true" else GATE % (100, 150)
        run(docker, "flow", f"echo begin; echo trouble >&2; {script}", "-e", "COLOR=red", driver="fluentd",
            fluentd_address=f"127.0.0.1:{FLUENTD_PORT}", fluentd_request_ack=ack, env="COLOR", tag="{{.Name}}",
            fluentd_retry_wait="200ms")  # fmt: skip
        if ack == "true":
            until(lambda: len(numbers(receiver, "log")) > 20, timeout_s=15, what="the first lines")
            receiver.kill()
            receiver.start()
        else:
            counted(receiver, "log", 100)
            absent(docker, "flow", receiver)
        counted(receiver, "log", 150)
        first = next(found for found in receiver.received() if found["log"] == "begin")
        assert (first["tag"], first["container_name"], first["source"]) == ("flow", "/flow", "stdout")
        assert (first["COLOR"], abs(first["time"] - time.time()) < 60) == ("red", True)


def test_a_receiver_that_is_not_there_keeps_a_container_from_starting(docker: Docker) -> None:
    flags = ["--log-driver=syslog", "--log-opt=syslog-address=tcp://127.0.0.1:1"]
    docker.ok("create", "--name", "mute", *flags, "busybox", "true")
    failed = docker.run("start", "mute")
    words = "failed to initialize logging driver: dial tcp 127.0.0.1:1: connect: connection refused"
    assert failed.code == 1
    assert words in failed.err
    assert (docker.state("mute")["ExitCode"], docker.state("mute")["Error"]) == (128, words)
    flags = ["--log-driver=fluentd", "--log-opt=fluentd-address=127.0.0.1:1", "--log-opt=fluentd-async=true"]
    docker.ok("run", "-d", "--name", "waits", *flags, "busybox", "echo", "hello")
    until(lambda: docker.run("logs", "waits").out == "hello\n", timeout_s=10, what="the line")
    flags = ["--log-driver=syslog", "--log-opt=syslog-address=udp://127.0.0.1:9", "--log-opt=cache-disabled=true"]
    docker.ok("run", "--name", "unread", *flags, "busybox", "true")
    refused = docker.run("logs", "unread")
    assert "configured logging driver does not support reading" in refused.err

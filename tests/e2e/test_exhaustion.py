"""What a client or a container may throw at the engine without keeping others from being served; and nothing is left
after many containers.

SHOAL_CYCLES sets the number of create/start/remove cycles (40).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.lab import Lab, ping, running
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.conftest import RUN
from tests.e2e.reality import differences

CYCLES = int(os.environ.get("SHOAL_CYCLES", "40"))
PROMPT_S = 3.0
"""A ping while something bad goes on: generous, for a machine that does other things, too."""
MIB = 1 << 20


@pytest.fixture(scope="module")
def _lab() -> Iterator[Lab]:
    with running(f"{RUN}-hard", registry=False) as lab:
        yield lab


@pytest.fixture
def hard(_lab: Lab) -> Iterator[Lab]:
    yield _lab
    docker = Docker(_lab.socket("m1"))
    if left := docker.ok("ps", "-aq").split():
        docker.ok("rm", "-f", *left)


def engine_pid(lab: Lab) -> int:
    daemon = lab.host("m1").daemon
    assert daemon is not None
    return daemon.pid


def memory(lab: Lab) -> int:
    """Bytes the engine has in memory now."""
    lines = Path(f"/proc/{engine_pid(lab)}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def assert_prompt(lab: Lab) -> None:
    began = time.monotonic()
    assert ping(lab.socket("m1"))
    assert time.monotonic() - began < PROMPT_S


def connect(lab: Lab) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(20)
    link.connect(str(lab.socket("m1")))
    return link


def answer_to(link: socket.socket, piece: bytes) -> bytes:
    """What the other side answers while it is sent the same again and again, until it closes; it has ten seconds."""
    answer, deadline = b"", time.monotonic() + 10
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < deadline:
            readable, writable, _ = select.select([link], [link], [], 1)
            if readable:
                data = link.recv(65536)
                if not data:
                    return answer
                answer += data
            if writable:
                link.sendall(piece)
        raise AssertionError("the connection was never closed")
    return answer


def rest(link: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := link.recv(65536):
            data += piece
    return data


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * (2 * MIB),
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Big: " + b"x" * (2 * MIB),
        b"GET /_ping HTTP/1.1\r\nHost: x\r\n" + b"X-Many: y\r\n" * 200_000,
    ],
    ids=["a giant request line", "a giant header", "endless headers"],
)
def test_giant_heads(hard: Lab, head: bytes) -> None:
    before = memory(hard)
    with connect(hard) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(head)
            link.sendall(b"\r\n\r\n")
        answer = rest(link)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:200]
    assert_prompt(hard)
    assert memory(hard) - before < 32 * MIB


@pytest.mark.parametrize("path", ["/containers/create", "/networks/create", "/volumes/create", "/auth", "/swarm/init"])
def test_endless_bodies(hard: Lab, path: str) -> None:
    """A JSON body that never ends is refused long before it fills the memory."""
    before = memory(hard)
    with connect(hard) as link:
        head = f"POST /v1.24{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        link.sendall(head.encode() + b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"Name":"\r\n')
        assert b" 400 " in answer_to(link, b"10000\r\n" + b"x" * 65536 + b"\r\n")
    assert_prompt(hard)
    assert memory(hard) - before < 48 * MIB


IDLE = 1000
STREAMS = {
    "events": b"GET /v1.24/events HTTP/1.1\r\nHost: x\r\n\r\n",
    "logs": b"GET /v1.24/containers/quiet/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "attach": b"POST /v1.24/containers/quiet/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    "a request that never ends": b"GET /v1.24/info HTTP/1.1\r\nHo",
}


def test_a_thousand_idle_streams(hard: Lab) -> None:
    docker = Docker(hard.socket("m1"))
    docker.ok(
        "run", "-d", "--name", "quiet", "busybox", "sh", "-c", "while ! test -e /go; do sleep 0.1; done; echo gone"
    )
    before, used = docker.http("GET", "/v1.24/info").value, memory(hard)
    with contextlib.ExitStack() as stack:
        links = {name: [stack.enter_context(connect(hard)) for _ in range(IDLE // 4)] for name in STREAMS}
        for name, question in STREAMS.items():
            for link in links[name]:
                link.sendall(question)
        for name in ("events", "logs", "attach"):
            for link in links[name]:
                assert link.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 101"), name
        assert docker.http("GET", "/v1.24/info").value["NEventsListener"] >= before["NEventsListener"] + IDLE // 4
        assert_prompt(hard)
        assert docker.ok("run", "--rm", "busybox", "echo", "served") == "served"
        print(f"{IDLE} idle streams take {(memory(hard) - used) / MIB:.1f} MiB")
        # None of them has been forgotten.
        docker.ok("exec", "quiet", "touch", "/go")
        for name in ("logs", "attach"):
            for link in links[name]:
                assert b"gone\n" in rest(link), name
        assert_prompt(hard)
    docker.ok("rm", "-f", "quiet")
    until(
        lambda: docker.http("GET", "/v1.24/info").value["NFd"] <= before["NFd"] + 2,
        timeout_s=20,
        what="what gone clients held to be given back",
    )


def test_a_log_line_of_a_hundred_megabytes(hard: Lab) -> None:
    docker = Docker(hard.socket("m1"))
    before = memory(hard)
    command = "head -c 100000000 /dev/zero | tr '\\0' x; echo; echo end"
    docker.ok("run", "-d", "--name", "long", "busybox", "sh", "-c", command)
    while docker.state("long")["Running"]:
        assert_prompt(hard)
        time.sleep(0.2)
    assert docker.ok("logs", "--tail", "1", "long") == "end"
    assert_prompt(hard)
    with docker.start("logs", "long") as logs:
        assert logs.stdout is not None
        size = 0
        while piece := logs.stdout.read(MIB):
            size += len(piece)
    assert size == 100_000_000 + len("\nend\n")
    assert memory(hard) - before < 64 * MIB


def test_a_fork_bomb(hard: Lab) -> None:
    docker = Docker(hard.socket("m1"))
    bomb = "bomb() { bomb | bomb & }; while true; do bomb; done"
    docker.ok("run", "-d", "--name", "bomb", "--pids-limit", "40", "--cpu-quota", "50000", "busybox", "sh", "-c", bomb)
    for _ in range(10):
        assert_prompt(hard)
        time.sleep(0.1)
    assert docker.ok("run", "--rm", "busybox", "echo", "served") == "served"
    docker.ok("rm", "-f", "bomb")
    until(lambda: not differences(hard, docker), timeout_s=10, what="nothing to be left of the bomb")


def test_nothing_is_left_after_many_containers(hard: Lab) -> None:
    docker = Docker(hard.socket("m1"))

    def cycle(number: int) -> None:
        body = {"Image": "busybox", "Cmd": ["true"], "Volumes": {"/data": {}}}
        made = docker.http("POST", "/v1.24/containers/create", body)
        assert made.status == 201, made.body
        path = f"/v1.24/containers/{made.value['Id']}"
        assert docker.http("POST", f"{path}/start").status == 204
        assert docker.http("POST", f"{path}/wait").value["StatusCode"] == 0
        assert docker.http("DELETE", f"{path}?v=1").status == 204

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(cycle, range(10)))  # what is made once is there
        before, used = docker.http("GET", "/v1.24/info").value, memory(hard)
        list(threads.map(cycle, range(CYCLES)))
    until(lambda: not differences(hard, docker), timeout_s=10, what="nothing to be left")

    def same() -> bool:
        after = docker.http("GET", "/v1.24/info").value
        return all(int(after[key]) <= int(before[key]) for key in ("NFd", "NGoroutines"))

    until(same, timeout_s=10, what="file descriptors and tasks to be given back")
    growth = memory(hard) - used
    print(f"{CYCLES} cycles: the engine grew by {growth / MIB:.1f} MiB to {memory(hard) / MIB:.1f} MiB")
    assert growth < 10 * MIB

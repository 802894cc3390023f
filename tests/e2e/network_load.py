"""A steady rate of requests, with new connections or with kept ones, and the application that answers them.

The application is strict: when it is told to stop it closes its listening socket at once. A connection that is led to
it after that is refused, and counts as failed. Who has a kept connection gets one last answer that says it is to be
closed. It has a health check, so its tasks run only once they listen.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from lab.lab import Lab
from tests.e2e.test_swarm import HOSTS, cli, wait_running

PYTHON_MOUNTS = [f"--mount=type=bind,source={path},target={path},readonly" for path in ("/usr", "/lib", "/lib64")]
IMAGE = "strict:1"
HEALTH = "HEALTHCHECK --interval=500ms --timeout=5s --retries=9 CMD wget -q -O /dev/null http://127.0.0.1/"
SERVER = """
import asyncio, os, signal, socket
ending, here = asyncio.Event(), set()
async def serve(reader, writer):
    here.add(writer)
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            last = b"Connection: close\\r\\n" if ending.is_set() else b""
            body = socket.gethostname().encode()
            writer.write(b"HTTP/1.1 200 OK\\r\\n%sContent-Length: %d\\r\\n\\r\\n%s" % (last, len(body), body))
            await writer.drain()
            if last:
                break
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        here.discard(writer)
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 80, backlog=1000)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    await ending.wait()
    server.close()
    for _ in range(80):
        if not here:
            break
        await asyncio.sleep(0.1)
asyncio.run(main())
os._exit(0)
"""
CLIENT = """
import asyncio, json, sys, threading, time
plan = json.loads(sys.argv[1])
good, bad, slowest, begun, told = 0, [], 0.0, time.monotonic(), threading.Event()
def listen():
    sys.stdin.read()
    told.set()
threading.Thread(target=listen, daemon=True).start()
async def ask(reader, writer):
    writer.write(b"GET / HTTP/1.1\\r\\nHost: app\\r\\n\\r\\n")
    head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
    return b"connection: close" in head
async def turn(target, kept):
    if not kept:
        kept[:] = await asyncio.open_connection(*target)
    if await ask(*kept) or not plan["keep"]:
        kept.pop().close()
        kept.clear()
async def worker(number):
    global good, slowest
    period = plan["workers"] / plan["rate"]
    target = plan["targets"][number % len(plan["targets"])]
    kept, due = [], time.monotonic() + period * number / plan["workers"]
    while not told.is_set():
        await asyncio.sleep(max(0, due - time.monotonic()))
        due = max(due + period, time.monotonic() - period)
        sent = time.monotonic()
        try:
            async with asyncio.timeout(10):
                await turn(target, kept)
            good += 1
            slowest = max(slowest, time.monotonic() - sent)
        except Exception as error:
            where = "asked" if kept else "not connected"
            bad.append(f"{time.strftime('%X')} sent at {sent - begun:.2f} s to {target[0]}, {where}: {error!r}")
            kept.clear()
async def main():
    await asyncio.gather(*map(worker, range(plan["workers"])))
asyncio.run(main())
print(json.dumps({"good": good, "bad": bad, "slowest_s": slowest, "per_s": good / (time.monotonic() - begun)}))
"""


def app(lab: Lab, name: str, *args: str, replicas: int) -> None:
    """A service of the strict application; all hosts get its image."""
    for host in HOSTS:
        docker = cli(lab, host)
        if not docker.ok("image", "ls", "-q", IMAGE):
            made = docker.ok("create", "busybox").strip()
            docker.ok("commit", "--change", HEALTH, made, IMAGE)
            docker.ok("rm", made)
    cli(lab).ok(
        "service", "create", "--name", name, "--replicas", str(replicas), *PYTHON_MOUNTS, *args,
        IMAGE, "/usr/bin/python3", "-I", "-c", SERVER,
    )  # fmt: skip
    wait_running(lab, name, replicas)


class Load:
    """Requests at a steady rate from a host, from now until `result`."""

    def __init__(
        self,
        lab: Lab,
        host: str,
        *targets: tuple[str, int],
        rate: float = 100,
        keep: bool = False,
        inside: int | None = None,
    ) -> None:
        """
        Args:
            targets: (address, port), turn by turn.
            keep: connections are kept as long as the server likes.
            inside: ask from the network namespace of this process of the host.
        """
        self._what = f"{'kept' if keep else 'new'} connections from {host} to {targets}"
        plan = {"targets": targets, "rate": rate, "keep": keep, "workers": max(4, int(rate / 8))}
        enter = ["nsenter", "-t", str(inside), "-n"] if inside is not None else []
        argv = [*enter, sys.executable, "-I", "-c", CLIENT, json.dumps(plan)]
        self._process = subprocess.Popen(
            lab.command(host, argv), stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=lab.environment()
        )

    def result(self) -> dict[str, Any]:
        """`good`: how many were answered; `bad`: a line for each that was not; `per_s`; `slowest_s`."""
        out, _ = self._process.communicate(timeout=30)  # with its input at an end it stops
        return dict(json.loads(out))

    def clean(self, at_least: int) -> dict[str, Any]:
        """The result, of which nothing may have failed."""
        found = self.result()
        assert not found["bad"], f"{self._what}: {len(found['bad'])} failed: {found['bad'][:20]}"
        assert found["good"] >= at_least, f"{self._what}: {found}"
        return found

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

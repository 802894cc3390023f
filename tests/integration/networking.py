"""A network controller of the test's own on the real kernel, and what speaks through the networks it makes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

from pyroute2 import IPRoute

from worker.engine.networks.controller import NetworkController
from worker.engine.parts import NetworkRequest, Sandbox
from worker.engine.records import Records
from worker.engine.syscalls import netns


class Heard:
    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def publish(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        self.all.append((f"{kind} {action}", attributes["name"]))


def alone(body: Callable[[], Awaitable[None]]) -> None:
    """Run the test body in a network namespace of its own, loopback up."""

    def inside() -> None:
        with IPRoute() as ip:
            ip.link("set", index=1, state="up")
        asyncio.run(body())  # type: ignore[arg-type]

    netns.in_new(inside)


@contextlib.asynccontextmanager
async def controller(root: Path, heard: Heard | None = None) -> AsyncIterator[NetworkController]:
    records = Records(root / "engine.db")
    await records.open()
    made = NetworkController(records, root / "run", root / "data", heard or Heard())
    await made.start_up()
    try:
        yield made
    finally:
        await made.close()
        await records.close()


def request(root: Path, name: str, mode: str = "default", **more: object) -> NetworkRequest:
    directory = root / name
    directory.mkdir(exist_ok=True)
    return NetworkRequest(
        container_id=(name * 64)[:64],
        container_name=name,
        hostname=name,
        mode=mode,
        directory=directory,
        **more,  # type: ignore[arg-type]
    )


@contextlib.contextmanager
def echo(sandbox: Sandbox, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[None]:
    """A server in the sandbox that answers what it got, with the client's address before."""
    assert sandbox.netns is not None
    server = netns.call(sandbox.netns, lambda: socket.socket(socket.AF_INET, kind))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", port))
    server.settimeout(10)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                if kind == socket.SOCK_DGRAM:
                    data, peer = server.recvfrom(100)
                    server.sendto(peer[0].encode() + b" " + data, peer)
                else:
                    client, peer = server.accept()
                    with client:
                        client.sendall(peer[0].encode() + b" " + client.recv(100))

    if kind == socket.SOCK_STREAM:
        server.listen()
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def ask(address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM, timeout: float = 3) -> str:
    """Say hello from the calling thread's namespace; what came back."""
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(timeout)
        client.connect((address, port))
        client.sendall(b"hello")
        return client.recv(100).decode()


async def ask_from(sandbox: Sandbox, address: str, port: int, timeout: float = 3) -> str:
    assert sandbox.netns is not None
    return await asyncio.to_thread(netns.call, sandbox.netns, lambda: ask(address, port, timeout=timeout))


async def ask_here(address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> str:
    return await asyncio.to_thread(ask, address, port, kind)


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-j", "link"]))}


def sole_address(sandbox: Sandbox) -> str:
    (endpoint,) = sandbox.endpoints.values()
    return endpoint.ip_address

"""`shoald debug QUESTION [-H unix:///path]`: an operator's question to the daemon that runs here.

`network-check`: how the data plane of swarm networks stands. `rebalance`: which tasks of the swarm would move to even
out the load, on a manager; nothing is moved.
"""

from __future__ import annotations

import argparse
import http.client
import socket
from collections.abc import Sequence

import msgspec

from api.errors import InvalidArgument, Unavailable
from api.server.routers.debug import NetworkCheck, RootCaStatus, ServiceMoves, TaskMove
from ca.tokens import root_digest
from daemon.config import DEFAULT_HOST, split_host
from daemon.membership import Membership
from worker.engine.networks.controller import NetworkController

TIMEOUT_S = 60.0


class Debug:
    """Satisfies `api.server.routers.debug.DebugBackend`."""

    def __init__(self, networks: NetworkController, membership: Membership) -> None:
        self._networks = networks
        self._membership = membership

    async def network_check(self) -> NetworkCheck:
        report = await self._networks.check_data_plane()
        return NetworkCheck(
            desired_index=report.desired_index,
            applied_index=report.applied_index,
            lag=max(report.desired_index - report.applied_index, 0),
            repairs=list(report.repairs),
            failures=list(report.failures),
        )

    async def rebalance(self) -> list[ServiceMoves]:
        previews, names = self._membership.manager().rebalance_preview()
        return [
            ServiceMoves(
                service=each.service.spec.name,
                moves_per_minute=each.moves_a_minute,
                moves=[
                    TaskMove(
                        slot=move.task.slot, task=move.task.id, source=names[move.source], target=names[move.target]
                    )
                    for move in each.moves
                ],
            )
            for each in previews
        ]

    async def root_ca(self) -> RootCaStatus:
        cluster, waiting = await self._membership.manager().control.root_rotation()
        return RootCaStatus(
            digest=root_digest(cluster.root_ca.certificate_pem),
            rotating=cluster.root_rotation is not None,
            waiting_for=[node.description.hostname if node.description else node.id for node in waiting],
        )

    async def rotate_root_ca(self) -> None:
        await self._membership.manager().control.rotate_root()


def main(words: Sequence[str]) -> str:
    """The answer as indented JSON. Raises as `ask`."""
    parser = argparse.ArgumentParser(prog="shoald debug", description="Ask the daemon that runs on this host.")
    parser.add_argument("question", choices=["network-check", "rebalance"])
    parser.add_argument("-H", "--host", default=DEFAULT_HOST, help="unix socket of the daemon")
    given = parser.parse_args(list(words))
    return msgspec.json.format(ask(given.host, given.question), indent=2).decode()


def ask(host: str, question: str) -> bytes:
    """The daemon's answer in JSON. Raises InvalidArgument (also in the daemon's words), Unavailable (none answers)."""
    kind, path, _ = split_host(host)
    if kind != "unix":
        raise InvalidArgument(f"{host}: only a unix socket can be asked")
    connection = _UnixConnection(path)
    try:
        connection.request("POST", f"/debug/{question}")
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise Unavailable(f"no daemon answers at {host}: {error}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise InvalidArgument(str(msgspec.json.decode(body).get("message", "")))
    return body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("shoald", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)

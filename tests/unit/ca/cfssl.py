"""A CA that speaks cfssl's protocol over HTTP, with the swarm's root key: what an operator would run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from api.types.objects import RootCA
from base.clock import SystemClock
from ca import certificates as certs


class Cfssl:
    """`spoil` changes node id, role or cluster before signing: a CA that can't be trusted."""

    def __init__(self, root: RootCA) -> None:
        self.root = root
        self.requests: list[dict[str, Any]] = []
        self.spoil: Callable[[dict[str, Any]], dict[str, Any]] = lambda named: named
        self.says: dict[str, Any] | None = None

    async def _sign(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.requests.append(asked)
        if self.says is not None:
            return web.json_response(self.says, status=400)
        (names,) = asked["subject"]["names"]
        named = {
            "node_id": asked["subject"]["CN"],
            "role": names["OU"].removeprefix("swarm-"),
            "cluster_id": names["O"],
            "public_key": certs.requested_key(asked["certificate_request"].encode()),
        }
        assert asked["hosts"] == [named["node_id"], names["OU"]]
        pem = certs.issue(self.root, now_ns=SystemClock().now_ns(), **self.spoil(named))
        return web.json_response({"success": True, "result": {"certificate": pem.decode()}, "errors": []})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/api/v1/cfssl/sign", self._sign)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            yield f"http://127.0.0.1:{port}/api/v1/cfssl/sign"
        finally:
            await runner.cleanup()

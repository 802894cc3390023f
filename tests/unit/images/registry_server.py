"""A registry in the test's own loop: it speaks the distribution protocol over real sockets, and fails on demand."""

from __future__ import annotations

import base64
import json
import ssl
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from aiohttp import web

from tests.unit.images.archives import TestImage, digest_of

Fault = Callable[[web.Request, int], web.StreamResponse | None]


class RegistryServer:
    """`async with RegistryServer() as registry:` then `registry.add("name", "tag", image)`."""

    def __init__(self) -> None:
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.authorizations: list[str] = []
        self.tokens_needed = False
        self.password = ""
        """When set: basic authentication as `user`, at the token service too."""
        self.identity = ""
        """When set: only this refresh token gets an access token."""
        self.fault: Fault | None = None
        """Asked first, with the request and how often this path was asked for before."""
        self.ranges = True
        self.tls: ssl.SSLContext | None = None
        """Set before it starts: it speaks HTTPS, under any name of this machine."""
        self.name = "127.0.0.1"
        self._seen: Counter[str] = Counter()

    async def __aenter__(self) -> RegistryServer:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("GET", "/token", self._token)
        app.router.add_route("POST", "/token", self._exchange)
        app.router.add_route("*", "/v2/{rest:.*}", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def host(self) -> str:
        return f"{self.name}:{self.port}"

    def add(self, name: str, tag: str, image: TestImage) -> str:
        """Publish an image; returns its manifest digest."""
        self.blobs[image.id] = image.config
        for blob in image.blobs():
            self.blobs[digest_of(blob)] = blob
        return self.add_manifest(name, tag, image.manifest(), "application/vnd.docker.distribution.manifest.v2+json")

    def add_manifest(self, name: str, tag: str, raw: bytes, media_type: str) -> str:
        digest = digest_of(raw)
        self.manifests[name, tag] = self.manifests[name, digest] = (raw, media_type)
        return digest

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()

    async def _token(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"GET /token {request.query.get('scope', '')}")
        if self.identity or (self.password and request.headers.get("Authorization") != self._basic()):
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "bad password"}]}, status=401)
        return web.json_response({"token": "a-token"})

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != self.identity:
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "bad token"}]}, status=401)
        return web.json_response({"access_token": "a-token"})

    def _challenge(self, request: web.Request) -> web.Response | None:
        sent = request.headers.get("Authorization", "")
        self.authorizations.append(sent)
        if self.tokens_needed and sent != "Bearer a-token":
            scheme = "https" if self.tls else "http"
            realm = f'Bearer realm="{scheme}://{self.host}/token",service="test"'
            return web.json_response(
                {"errors": [{"code": "UNAUTHORIZED", "message": "log in"}]},
                status=401,
                headers={"WWW-Authenticate": realm},
            )
        if self.password and not self.tokens_needed and sent != self._basic():
            return web.json_response(
                {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                status=401,
                headers={"WWW-Authenticate": 'Basic realm="test"'},
            )
        return None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.fault is not None:
            seen = self._seen[request.path]
            self._seen[request.path] += 1
            answer = self.fault(request, seen)
            if answer is not None:
                return answer
        refused = self._challenge(request)
        if refused is not None:
            return refused
        rest = request.match_info["rest"]
        if request.method in ("POST", "PUT"):
            return await self._receive(request, rest)
        for kind, serve in (("/manifests/", self._manifest), ("/blobs/", self._blob), ("/tags/", self._tags)):
            if kind in rest:
                name, _, what = rest.partition(kind)
                return serve(request, name, what)
        return web.json_response({})

    async def _receive(self, request: web.Request, rest: str) -> web.StreamResponse:
        """Uploads: a location, then the blob; a manifest is refused while a blob it names is missing."""
        data = await request.read()
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": f"/v2/{rest}some-upload?state=a%2Fb"})
        if "/blobs/" in rest:
            if digest_of(data) != request.query["digest"] or request.query["state"] != "a/b":
                return web.json_response({"errors": [{"code": "DIGEST_INVALID", "message": "wrong"}]}, status=400)
            self.blobs[request.query["digest"]] = data
            return web.Response(status=201)
        name, _, tag = rest.partition("/manifests/")
        manifest = json.loads(data)
        if any(part["digest"] not in self.blobs for part in [manifest["config"], *manifest["layers"]]):
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]}, status=400)
        self.add_manifest(name, tag, data, request.content_type)
        return web.Response(status=201)

    def _manifest(self, _request: web.Request, name: str, what: str) -> web.StreamResponse:
        found = self.manifests.get((name, what))
        if found is None:
            code = "MANIFEST_UNKNOWN" if any(known == name for known, _ in self.manifests) else "NAME_UNKNOWN"
            message = "manifest unknown" if code == "MANIFEST_UNKNOWN" else "repository name not known to registry"
            return web.json_response({"errors": [{"code": code, "message": message}]}, status=404)
        return web.Response(body=found[0], content_type=found[1])

    def _blob(self, request: web.Request, _name: str, what: str) -> web.StreamResponse:
        data = self.blobs.get(what)
        if data is None:
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]}, status=404)
        asked = request.headers.get("Range", "")
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            return web.Response(body=data[start:], status=206)
        return web.Response(body=data)

    def _tags(self, _request: web.Request, name: str, _what: str) -> web.StreamResponse:
        tags = sorted(tag for known, tag in self.manifests if known == name and not tag.startswith("sha256:"))
        return web.json_response({"name": name, "tags": tags})

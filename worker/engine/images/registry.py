"""Client of the registry protocol (OCI distribution spec 1.1; Docker's token authentication).

Invariant: a blob or manifest asked for by digest is handed on only if it has that digest. Credentials go to the
registry they are meant for and to the token service it names: never to a mirror, and never from a verified registry
down to plain HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from api.errors import NotFound, ShoalError, Unauthorized, Upstream
from api.types.auth import AuthConfig
from worker.engine.images import limits
from worker.engine.images.certificates import DIRECTORY, tls_context
from worker.engine.images.manifest import ACCEPTED
from worker.engine.images.names import DEFAULT_DOMAIN, Reference

T = TypeVar("T")
log = logging.getLogger(__name__)
_HUB = URL("https://registry-1.docker.io")
_CONNECT_TIMEOUT_S = 15
_READ_TIMEOUT_S = 60
_RETRY_DELAY_MAX_S = 30
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True)
class RegistryConfig:
    """How registries are reached."""

    mirrors: Sequence[str] = ()
    """Base URLs tried first for docker.io, in order."""
    insecure: Sequence[str] = ()
    """`host[:port]` or CIDR: TLS is not verified and plain HTTP is used when there is no TLS. Loopback always is."""
    certificates: Path = DIRECTORY
    """A directory for each registry with certificates of its own; see `certificates`."""
    retry_delay_s: float = 1.0
    """Before the second attempt; it doubles from there."""


@dataclass(frozen=True)
class Endpoint:
    """One place to ask for a repository."""

    base: URL
    mirror: bool = False
    verify: bool = True
    certificates: Path | None = None
    """The directory of its own certificates."""


class RegistryError(Upstream):
    """An answer of a registry that is no success; `explain` decides what users see."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.status = status


def is_insecure(host: str, port: int | None, configured: Sequence[str]) -> bool:
    """Whether a registry may be used without verified TLS."""
    name = f"{host}:{port}" if port else host
    if host == "localhost" or name in configured or host in configured:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in (*_LOOPBACK, *configured):
        try:
            if address in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False


def endpoints(reference: Reference, config: RegistryConfig) -> list[Endpoint]:
    """Where to ask for a repository, in order."""
    if reference.domain == DEFAULT_DOMAIN:
        mirrors = [
            Endpoint(URL(mirror), mirror=True, certificates=config.certificates / URL(mirror).authority)
            for mirror in config.mirrors
        ]
        return [*mirrors, Endpoint(_HUB, certificates=config.certificates / DEFAULT_DOMAIN)]
    url = URL(f"https://{reference.domain}")
    own = config.certificates / reference.domain
    if is_insecure(url.host or "", url.explicit_port, config.insecure):
        plain = Endpoint(URL(f"http://{reference.domain}"), verify=False)
        return [Endpoint(url, verify=False, certificates=own), plain]
    return [Endpoint(url, certificates=own)]


def parse_challenge(header: str) -> tuple[str, Mapping[str, str]]:
    """Scheme (lower case) and parameters of a WWW-Authenticate header."""
    scheme, _, rest = header.partition(" ")
    return scheme.lower(), dict(_CHALLENGE.findall(rest))


class Repository:
    """A session with one endpoint for one repository. Use as an async context manager."""

    def __init__(
        self, endpoint: Endpoint, path: str, auth: AuthConfig | None, retry_delay_s: float, actions: str = "pull"
    ) -> None:
        self.endpoint = endpoint
        self._path = path
        self._auth = None if endpoint.mirror or auth is None or auth.empty() else auth
        self._retry_delay_s = retry_delay_s
        self._actions = actions
        self._authorization = ""
        self._login = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | bool = endpoint.verify
        self._answered = False
        self.identity_token = ""
        """What the token service gave to use in place of the password; asked for without a repository only."""

    async def __aenter__(self) -> Repository:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_TIMEOUT_S, connect=None, sock_read=_READ_TIMEOUT_S
        )
        if self.endpoint.certificates is not None and self.endpoint.base.scheme == "https":
            self._tls = await asyncio.to_thread(tls_context, self.endpoint.certificates, verify=self.endpoint.verify)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "shoal"},
            # A proxy (HTTPS_PROXY) is for the world outside: mirrors and insecure registries are on the local network.
            trust_env=self.endpoint.verify and not self.endpoint.mirror,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def url(self, rest: str) -> URL:
        """An URL below this repository."""
        base = str(self.endpoint.base).rstrip("/")
        return URL(f"{base}/v2/{self._path}/{rest}")

    # --- requests ---

    @asynccontextmanager
    async def request(
        self, method: str, url: URL, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, logged in when the registry asks for it. Raises RegistryError for a status of 400 or more,
        Upstream when it can't be reached."""
        for attempt in (1, 2):
            used = self._authorization
            async with self._send(method, url, headers, data) as response:
                if response.status == 401 and attempt == 1:
                    challenge = response.headers.get("WWW-Authenticate", "")
                else:
                    if response.status >= 400:
                        raise await _error_of(response)
                    yield response
                    return
            await self._log_in(challenge, used)

    @asynccontextmanager
    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str] | None, data: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "use `async with`"
        sent = dict(headers or {})
        # Blob uploads and redirects may lead elsewhere: our credentials stay with the registry's own origin.
        if self._authorization and url.origin() == self.endpoint.base.origin():
            sent["Authorization"] = self._authorization
        try:
            async with self._session.request(method, url, headers=sent, data=data, ssl=self._tls) as response:
                self._answered = True
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Upstream(f'{method.capitalize()} "{url}": {str(error) or type(error).__name__}') from error

    async def _log_in(self, challenge: str, used: str) -> None:
        scheme, fields = parse_challenge(challenge)
        async with self._login:
            if self._authorization != used:
                return  # another request has logged in meanwhile
            if self._auth is not None and self._auth.registrytoken:
                self._authorization = f"Bearer {str.__str__(self._auth.registrytoken)}"
            elif scheme == "basic":
                if self._auth is None:
                    raise Unauthorized("no basic auth credentials")
                self._authorization = _basic(self._auth)
            elif scheme == "bearer" and "realm" in fields:
                self._authorization = "Bearer " + await self._token(fields)
            else:
                raise Unauthorized(f"registry asks for an unknown kind of authentication: {challenge!r}")

    async def _token(self, fields: Mapping[str, str]) -> str:
        """A token from the service the registry names (Docker "Token Authentication Specification")."""
        assert self._session is not None
        realm = URL(fields["realm"])
        if realm.scheme not in ("http", "https") or (self.endpoint.base.scheme == "https" and realm.scheme == "http"):
            raise Unauthorized(f"registry names a token service that is not safe: {realm}")
        scope = fields.get("scope") or (f"repository:{self._path}:{self._actions}" if self._path else "")
        query = {"service": fields.get("service", ""), **({"scope": scope} if scope else {})}
        auth = self._auth
        try:
            if auth is not None and auth.identitytoken:
                form = {"grant_type": "refresh_token", "refresh_token": str.__str__(auth.identitytoken)}
                form |= {"client_id": "shoal", **query}
                pending = self._session.post(realm, data=form, ssl=self._tls)
            else:
                headers = {"Authorization": _basic(auth)} if auth is not None and auth.username else {}
                if headers and not self._path and auth is not None:
                    query |= {"account": auth.username, "client_id": "shoal", "offline_token": "true"}
                pending = self._session.get(realm.update_query(query), headers=headers, ssl=self._tls)
            async with pending as response:
                if response.status >= 400:
                    error = await _error_of(response)
                    raise Unauthorized(f"unauthorized: {error.message}") if response.status in (401, 403) else error
                body = msgspec.json.decode(await response.content.read(limits.MANIFEST_MAX))
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error_:
            raise Upstream(f"token service {realm}: {str(error_) or type(error_).__name__}") from error_
        token = body.get("token") or body.get("access_token") if isinstance(body, dict) else None
        if not isinstance(token, str) or not token:
            raise Unauthorized(f"token service {realm} gave no token")
        refresh = body.get("refresh_token")
        self.identity_token = refresh if isinstance(refresh, str) else ""
        return token

    async def retried(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` until it succeeds, fails for good, or the attempts are used up."""
        delay = self._retry_delay_s
        attempt = 1
        while True:
            try:
                return await work()
            except RegistryError as error:
                if error.status not in _TRANSIENT or attempt == limits.DOWNLOAD_TRIES:
                    raise
                log.info("registry asks for patience status=%d attempt=%d", error.status, attempt)
            except Upstream:
                # A registry that never answered is not asked five times: the next endpoint may be quicker.
                if attempt == limits.DOWNLOAD_TRIES or not self._answered:
                    raise
            attempt += 1
            await asyncio.sleep(min(delay, _RETRY_DELAY_MAX_S))
            delay *= 2

    # --- what pulls need ---

    async def manifest(self, reference: str) -> tuple[bytes, str, str]:
        """Manifest or index by tag or digest: (its bytes, media type, digest). Raises RegistryError."""

        async def fetch() -> tuple[bytes, str, str]:
            headers = {"Accept": ", ".join(ACCEPTED)}
            async with self.request("GET", self.url(f"manifests/{reference}"), headers) as response:
                raw = await small_body(response, limits.MANIFEST_MAX, "manifest")
                return raw, response.content_type, "sha256:" + hashlib.sha256(raw).hexdigest()

        raw, media_type, digest = await self.retried(fetch)
        if reference.startswith("sha256:") and digest != reference:
            raise Upstream(f"manifest verification failed for digest {reference}")
        return raw, media_type, digest

    async def small_blob(self, digest: str, size_max: int) -> bytes:
        """A blob that fits in memory, verified."""

        async def fetch() -> bytes:
            async with self.request("GET", self.url(f"blobs/{digest}")) as response:
                return await small_body(response, size_max, "blob")

        raw: bytes = await self.retried(fetch)
        if "sha256:" + hashlib.sha256(raw).hexdigest() != digest:
            raise Upstream(f"filesystem layer verification failed for digest {digest}")
        return raw

    @asynccontextmanager
    async def open_blob(self, digest: str, offset: int) -> AsyncIterator[tuple[aiohttp.StreamReader, int]]:
        """A blob's bytes from `offset`, and where the answer really begins (0 when ranges are not supported)."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.request("GET", self.url(f"blobs/{digest}"), headers) as response:
            yield response.content, offset if response.status == 206 else 0

    # --- what pushes need ---

    async def check(self) -> None:
        """Whether there is a registry at all, before anything is told or sent."""

        async def ask() -> None:
            base = str(self.endpoint.base).rstrip("/")
            async with self.request("GET", URL(f"{base}/v2/")):
                pass

        await self.retried(ask)

    async def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob already."""
        try:
            async with self.request("HEAD", self.url(f"blobs/{digest}")):
                return True
        except RegistryError as error:
            if error.status == 404:
                return False
            raise

    async def upload(
        self, digest: str, size: int, content: Callable[[], AsyncIterator[bytes]], elsewhere: str = ""
    ) -> bool:
        """Upload a blob; `content` gives its bytes afresh for each attempt.

        Args:
            elsewhere: a repository of the same registry that may have it, for the registry to take it from there.

        Returns: False when the registry did, and nothing was sent.
        """

        async def send() -> bool:
            start = self.url("blobs/uploads/")
            if elsewhere:
                start = start.update_query({"mount": digest, "from": elsewhere})
            async with self.request("POST", start, {"Content-Length": "0"}) as response:
                if response.status == 201 and elsewhere:
                    return False
                where = response.url.join(URL(response.headers["Location"], encoded=True))
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            async with self.request("PUT", where.update_query(digest=digest), headers, content()):
                return True

        return await self.retried(send)

    async def put_manifest(self, tag: str, raw: bytes, media_type: str) -> str:
        """Publish a manifest under a tag; returns its digest."""

        async def send() -> None:
            async with self.request("PUT", self.url(f"manifests/{tag}"), {"Content-Type": media_type}, raw):
                pass

        await self.retried(send)
        return "sha256:" + hashlib.sha256(raw).hexdigest()

    async def tags(self) -> list[str]:
        """All tags of the repository, page by page."""
        found: list[str] = []
        url: URL | None = self.url("tags/list")
        while url is not None:
            async with self.request("GET", url) as response:
                body = msgspec.json.decode(await small_body(response, limits.MANIFEST_MAX, "tag list"))
                found += [tag for tag in (body.get("tags") or []) if isinstance(tag, str)]
                link = response.links.get("next")
                url = response.url.join(URL(str(link["url"]))) if link else None
        return found


def _basic(auth: AuthConfig) -> str:
    pair = f"{auth.username}:{str.__str__(auth.password)}"
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")


async def small_body(response: aiohttp.ClientResponse, size_max: int, what: str) -> bytes:
    """The whole body. Raises Upstream when it is larger than `size_max` bytes."""
    raw = bytearray()
    async for chunk in response.content.iter_chunked(limits.CHUNK):
        raw += chunk
        if len(raw) > size_max:
            raise Upstream(f"{what} is larger than {size_max} bytes")
    return bytes(raw)


async def _error_of(response: aiohttp.ClientResponse) -> RegistryError:
    """The registry's own words, as Docker prints them: `manifest unknown: manifest unknown`."""
    try:
        body = msgspec.json.decode(await response.content.read(64 * 1024))
        first = body["errors"][0]
        code = str(first.get("code", "")).lower().replace("_", " ")
        return RegistryError(response.status, code, str(first.get("message", "")))
    except (aiohttp.ClientError, msgspec.DecodeError, LookupError, TypeError, AttributeError):
        return RegistryError(response.status, "", f"received unexpected HTTP status: {response.status}")


def explain(error: ShoalError, reference: Reference) -> ShoalError:
    """A registry's refusal of a manifest in the words clients know."""
    if isinstance(error, Unauthorized) or (isinstance(error, RegistryError) and error.status in (401, 403)):
        return NotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            f"'docker login': {error.message}"
        )
    if not isinstance(error, RegistryError):
        return error
    if error.status == 404 and error.message.startswith("name unknown"):
        return NotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            "'docker login': denied: requested access to the resource is denied"
        )
    if error.status == 404:
        return NotFound(f"manifest for {reference.familiar()} not found: {error.message}")
    return Upstream(error.message)

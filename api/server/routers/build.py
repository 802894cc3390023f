"""Building and committing (v1.24 "Build image from a Dockerfile", "Create a new image from a container's changes")."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from api.errors import InvalidArgument
from api.server.http import Route, flag, integer, read_json, reply, text
from api.server.routers.image import Drives, Report, streamed
from api.types import lenient
from api.types.auth import AuthConfig
from api.types.build import BuildOptions, CommitAnswer, CommitOptions
from api.types.container import ContainerConfig, Ulimit

_CHUNK = 1 << 20
T = TypeVar("T")


class BuildBackend(Protocol):
    """What is asked of the engine's builder."""

    async def build(self, options: BuildOptions, body: AsyncIterator[bytes], report: Report) -> str: ...

    async def commit(self, options: CommitOptions) -> str: ...


def routes(backend: BuildBackend, drives: Drives) -> list[Route]:
    """The build and commit endpoints."""

    async def build(request: web.Request) -> web.StreamResponse:
        options = build_options(request)
        body = request.content.iter_chunked(_CHUNK)
        return await streamed(request, drives, lambda report: backend.build(options, body, report))

    async def commit(request: web.Request) -> web.StreamResponse:
        present = request.can_read_body
        config = await read_json(request, ContainerConfig, optional=True) if present else ContainerConfig()
        options = CommitOptions(
            container=text(request, "container"),
            repository=text(request, "repo"),
            tag=text(request, "tag"),
            comment=text(request, "comment"),
            author=text(request, "author"),
            pause=flag(request, "pause", default=True),
            changes=_changes(request),
            config=None if config == ContainerConfig() else config,
        )
        return reply(request, CommitAnswer(id=await backend.commit(options)), 201)

    return [
        Route("POST", "/build", build, cancellable=True),
        Route("POST", "/commit", commit),
    ]


def _changes(request: web.Request) -> list[str]:
    """Every `changes` may hold several lines."""
    return [line for change in request.query.getall("changes", []) for line in change.split("\n") if line.strip()]


def build_options(request: web.Request) -> BuildOptions:
    """The query and headers of a build. Raises InvalidArgument naming the parameter."""
    forced = flag(request, "forcerm")
    return BuildOptions(
        tags=request.query.getall("t", []),
        dockerfile=text(request, "dockerfile"),
        remote=text(request, "remote"),
        target=text(request, "target"),
        quiet=flag(request, "q"),
        no_cache=flag(request, "nocache"),
        pull=flag(request, "pull"),
        remove=forced or text(request, "rm") == "" or flag(request, "rm"),
        force_remove=forced,
        build_args=_json(request, "buildargs", "build args", dict[str, str | None]) or {},
        labels=_json(request, "labels", "labels", dict[str, str]) or {},
        memory=_number(request, "memory"),
        memory_swap=_number(request, "memswap", -1),
        cpu_shares=_number(request, "cpushares"),
        cpu_period=_number(request, "cpuperiod"),
        cpu_quota=_number(request, "cpuquota", -1),
        cpuset_cpus=text(request, "cpusetcpus"),
        cpuset_mems=text(request, "cpusetmems"),
        cgroup_parent=text(request, "cgroupparent"),
        shm_size=_shm_size(request),
        network_mode=text(request, "networkmode"),
        extra_hosts=[host for text_ in request.query.getall("extrahosts", []) for host in text_.split(",") if host],
        ulimits=_json(request, "ulimits", "ulimits", list[Ulimit]) or [],
        auths=_auths(request),
    )


def _number(request: web.Request, name: str, least: int = 0) -> int:
    value = integer(request, name, 0) or 0
    if value < least:
        raise InvalidArgument(f"invalid value for {name}: {value}")
    return value


def _shm_size(request: web.Request) -> int:
    """0 is the default, as for a container; the CLI sends it so."""
    value = integer(request, "shmsize", 0) or 0
    if value < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    return value


def _json(request: web.Request, name: str, what: str, kind: type[T]) -> T | None:
    value = text(request, name)
    if not value or value == "null":
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"error reading {what}: {error}") from None


def _auths(request: web.Request) -> dict[str, AuthConfig]:
    """`X-Registry-Config`: base64 (either alphabet) of a map from registry to login."""
    header = request.headers.get("X-Registry-Config", "")
    if not header:
        return {}
    try:
        raw: Any = base64.urlsafe_b64decode(header.replace("+", "-").replace("/", "_") + "=" * (-len(header) % 4))
        return lenient.decode(raw, dict[str, AuthConfig])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidArgument(f"invalid X-Registry-Config header: {error}") from None

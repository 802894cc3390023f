"""Searching for images (v1.24 "Search images"): the search of an index, or a registry's catalog where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from yarl import URL

from api.errors import InvalidArgument, ShoalError, Upstream
from api.types.auth import AuthConfig
from api.types.image import SearchResult
from worker.engine.images import limits
from worker.engine.images.names import DEFAULT_DOMAIN, Reference
from worker.engine.images.registry import Endpoint, RegistryConfig, RegistryError, Repository, endpoints, small_body

LIMIT_MAX = 100
_INDEX = URL("https://index.docker.io")


class _Found(msgspec.Struct, kw_only=True):
    name: str
    description: str | None = ""
    is_official: bool = False
    is_automated: bool = False
    star_count: int = 0


class _Answer(msgspec.Struct, kw_only=True):
    results: list[_Found] = []


def check_filters(filters: Mapping[str, Sequence[str]]) -> tuple[int, bool | None, bool | None]:
    """(least stars, is-automated, is-official). Raises InvalidArgument naming the filter."""
    stars = 0
    for value in filters.get("stars", ()):
        if not value.isdecimal():
            raise InvalidArgument(f"Invalid filter 'stars={value}'")
        stars = max(stars, int(value))
    return stars, _truth(filters, "is-automated"), _truth(filters, "is-official")


def _truth(filters: Mapping[str, Sequence[str]], name: str) -> bool | None:
    found: bool | None = None
    for value in filters.get(name, ()):
        if value.lower() not in ("true", "false", "1", "0"):
            raise InvalidArgument(f"Invalid filter '{name}={value}'")
        found = value.lower() in ("true", "1")
    return found


async def search(
    term: str,
    limit: int,
    filters: Mapping[str, Sequence[str]],
    auth: AuthConfig | None,
    config: RegistryConfig,
) -> list[SearchResult]:
    """What an index knows of `term`; `host/term` asks that registry.

    Raises: InvalidArgument (term, limit, filters), Upstream when the index can't be reached.
    """
    if not term:
        raise InvalidArgument("term is missing: nothing to search for")
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidArgument(f"Limit {limit} is outside the range of [1, {LIMIT_MAX}]")
    stars, automated, official = check_filters(filters)
    host, slash, rest = term.partition("/")
    domain = host if slash and ("." in host or ":" in host or host == "localhost") else DEFAULT_DOMAIN
    found = await _ask(domain, rest if domain != DEFAULT_DOMAIN else term, limit, auth, config)
    return [
        SearchResult(
            name=one.name,
            description=one.description or "",
            is_official=one.is_official,
            is_automated=one.is_automated,
            star_count=one.star_count,
        )
        for one in found
        if one.star_count >= stars
        and (automated is None or one.is_automated is automated)
        and (official is None or one.is_official is official)
    ][:limit]


async def _ask(domain: str, term: str, limit: int, auth: AuthConfig | None, config: RegistryConfig) -> Sequence[_Found]:
    refused: ShoalError = Upstream(f"no registry at {domain}")
    places = [Endpoint(_INDEX)] if domain == DEFAULT_DOMAIN else endpoints(Reference(domain, ""), config)
    for endpoint in places:
        try:
            async with Repository(endpoint, "", auth, config.retry_delay_s) as session:
                try:
                    return await _index(session, term, limit)
                except RegistryError as error:
                    if error.status != 404 or domain == DEFAULT_DOMAIN:
                        raise
                    return await _catalog(session, domain, term)
        except ShoalError as error:
            refused = error
    raise refused


async def _index(session: Repository, term: str, limit: int) -> Sequence[_Found]:
    url = session.endpoint.base.with_path("/v1/search").with_query(q=term, n=str(limit))
    async with session.request("GET", url) as response:
        raw = await small_body(response, limits.MANIFEST_MAX, "search result")
    try:
        return msgspec.json.decode(raw, type=_Answer).results
    except msgspec.DecodeError as error:
        raise Upstream(f"{url}: the index gave no list of results: {error}") from error


async def _catalog(session: Repository, domain: str, term: str) -> Sequence[_Found]:
    """All repositories of a registry whose name has the term, page by page."""
    url: URL | None = session.endpoint.base.with_path("/v2/_catalog")
    found: list[_Found] = []
    while url is not None and len(found) < LIMIT_MAX:
        async with session.request("GET", url) as response:
            body: Any = msgspec.json.decode(await small_body(response, limits.MANIFEST_MAX, "catalog"))
            names = body.get("repositories") if isinstance(body, dict) else None
            found += [_Found(name=f"{domain}/{name}") for name in names or () if isinstance(name, str) and term in name]
            link = response.links.get("next")
            url = response.url.join(URL(str(link["url"]))) if link else None
    return found

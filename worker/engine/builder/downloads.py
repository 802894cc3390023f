"""Files from the web, for ADD and for remote contexts."""

from __future__ import annotations

import email.utils
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from api.errors import InvalidArgument, Upstream
from base.offload import Pool

_CHUNK = 1 << 20
_FILE_NAME = re.compile(r'filename="?([^";]+)"?')


@dataclass(frozen=True)
class Downloaded:
    """A file that was fetched."""

    name: str
    """What the server or the address calls it; "" when neither says."""
    modified_ns: int = 0
    """0 when the server does not say."""


def is_web_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


async def download(address: str, target: Path, disk: Pool, wait_s: float = 60) -> Downloaded:
    """Fetch an http(s) address into a new file.

    Raises: InvalidArgument for an address that is none, Upstream when it can't be had.
    """
    try:
        url = URL(address)
    except ValueError as error:
        raise InvalidArgument(f"{address}: {error}") from None
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=wait_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session,
            session.get(url) as response,
        ):
            if response.status >= 400:
                raise Upstream(f'Get "{address}": {response.status} {response.reason}')
            with open(target, "xb") as file:
                async for data in response.content.iter_chunked(_CHUNK):
                    await disk.run(file.write, data)
            return Downloaded(_name(response), _modified_ns(response))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Upstream(f'Get "{address}": {_reason(error)}') from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _name(response: aiohttp.ClientResponse) -> str:
    match: Callable[[str], re.Match[str] | None] = _FILE_NAME.search
    found = match(response.headers.get("Content-Disposition", ""))
    name = posixpath.basename(found[1] if found else response.url.path)
    return "" if name in (".", "..", "/") else name


def _modified_ns(response: aiohttp.ClientResponse) -> int:
    try:
        when = email.utils.parsedate_to_datetime(response.headers.get("Last-Modified", ""))
    except ValueError:
        return 0
    return int(when.timestamp()) * 1_000_000_000

"""Logging in to a registry: are these credentials good, and is there a token to use in their stead (POST /auth)."""

from __future__ import annotations

from api.errors import InvalidArgument, ShoalError, Unauthorized, Upstream
from api.types.auth import AuthConfig
from worker.engine.images import names
from worker.engine.images.names import DEFAULT_DOMAIN, Reference
from worker.engine.images.registry import RegistryConfig, RegistryError, Repository, endpoints

_HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io")


def registry_of(server: str) -> str:
    """The registry that a server address (`https://index.docker.io/v1/`, `host:5000`) stands for.

    Raises InvalidArgument naming it.
    """
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    if host in _HUB_NAMES:
        return DEFAULT_DOMAIN
    try:
        names.parse(f"{host}/x" if "." in host or ":" in host else f"{host}:443/x")
    except InvalidArgument:
        raise InvalidArgument(f"invalid serveraddress: {server!r}") from None
    return host


async def log_in(auth: AuthConfig, config: RegistryConfig) -> str:
    """Try the credentials; returns an identity token, or "" when the registry gives none.

    Raises: Unauthorized for wrong credentials, Upstream when the registry can't be reached, InvalidArgument.
    """
    domain = registry_of(auth.serveraddress)
    refused: ShoalError = Upstream(f"no registry at {domain}")
    for endpoint in endpoints(Reference(domain, ""), config):
        if endpoint.mirror:
            continue
        try:
            async with Repository(endpoint, "", auth, config.retry_delay_s) as session:
                await session.check()
                return session.identity_token
        except RegistryError as error:
            if error.status in (401, 403):
                words = error.message or "incorrect username or password"
                raise Unauthorized(f'Get "{endpoint.base}/v2/": {words}') from error
            refused = error
        except Upstream as error:
            refused = error
    raise refused

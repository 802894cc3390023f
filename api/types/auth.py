"""Registry credentials as clients send them (`X-Registry-Auth`, POST /auth). Secrets stay masked in logs."""

from __future__ import annotations

import base64
import binascii

import msgspec

from api.errors import InvalidArgument
from api.types import lenient
from base.logs import Secret


class AuthConfig(msgspec.Struct, kw_only=True):
    """What a client knows of one registry: a user and password, or a token (v1.24 "Create an image")."""

    username: str = ""
    password: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    """An OAuth2 refresh token: exchanged for an access token at the registry's token service."""
    registrytoken: str = ""
    """A bearer token, sent as it is."""

    def __post_init__(self) -> None:
        self.password = Secret(self.password)
        self.identitytoken = Secret(self.identitytoken)
        self.registrytoken = Secret(self.registrytoken)

    def empty(self) -> bool:
        """True when there is nothing to log in with."""
        return not (self.username or self.identitytoken or self.registrytoken)


def decode_auth(header: str) -> AuthConfig | None:
    """An `X-Registry-Auth` value: base64 (either alphabet) of an AuthConfig; None when it is empty or says nothing.

    Raises InvalidArgument for what is neither.
    """
    if not header:
        return None
    try:
        raw = base64.urlsafe_b64decode(header.replace("+", "-").replace("/", "_") + "=" * (-len(header) % 4))
        config = lenient.decode(raw, AuthConfig)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidArgument(f"invalid X-Registry-Auth header: {error}") from None
    return None if config == AuthConfig() else config

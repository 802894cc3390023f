"""Credentials as clients send them."""

import base64

import pytest

from api.errors import InvalidArgument
from api.types.auth import AuthConfig, decode_auth


def header(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_a_null_counts_as_absent() -> None:
    # docker-compose 1.29 sends every login with an email of null.
    assert decode_auth(header('{"username": "u", "email": null}')) == AuthConfig(username="u")
    assert decode_auth(header('{"username": null}')) is None


@pytest.mark.parametrize("text", ["null", "[]", '{"username": 1}', "{"])
def test_what_is_no_login_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="X-Registry-Auth"):
        decode_auth(header(text))

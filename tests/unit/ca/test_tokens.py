"""Join tokens: their shape, and that a mistake is told without repeating the secret."""

import re

import pytest

from api.errors import InvalidArgument
from ca.certificates import create_root
from ca.tokens import new_token, new_tokens, parse_token, root_digest

ROOT = create_root(1_700_000_000_000_000_000).certificate_pem


def test_tokens_share_the_digest_and_differ_in_the_secret() -> None:
    tokens = new_tokens(ROOT)
    worker, manager = parse_token(tokens.worker), parse_token(tokens.manager)
    assert worker.digest == manager.digest == root_digest(ROOT)
    assert worker.secret != manager.secret
    assert re.fullmatch(r"SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}", tokens.worker)


def test_the_digest_is_of_this_root_alone() -> None:
    other = create_root(1_700_000_000_000_000_000).certificate_pem
    assert root_digest(ROOT) != root_digest(other)
    assert root_digest(ROOT) == root_digest(ROOT + other), "only the first certificate counts"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "SWMTKN-2-" + "a" * 50 + "-" + "b" * 25,
        "SWMTKN-1-" + "a" * 49 + "-" + "b" * 25,
        "SWMTKN-1-" + "a" * 50 + "-" + "b" * 26,
        "SWMTKN-1-" + "A" * 50 + "-" + "b" * 25,
    ],
)
def test_a_malformed_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid join token$"):
        parse_token(text)


def test_a_secret_does_not_print() -> None:
    token = new_token(ROOT)
    assert str(token) not in repr(token)
    parsed = parse_token(token)
    assert str(parsed.secret) not in repr(parsed)

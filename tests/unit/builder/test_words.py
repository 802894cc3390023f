"""Words of a Dockerfile: quotes, escapes, variables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidArgument
from worker.engine.builder import words
from worker.engine.builder.dockerfile import words_of

ENV = {"A": "1", "B": "two words", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A", "1"), ("${A}x", "1x"), ("x$A-y", "x1-y"), ("$NONE", ""), ("${NONE:-d}", "d"), ("${A:-d}", "1"),
        ("${A:+yes}", "yes"), ("${NONE:+yes}", ""), ("${EMPTY:-d}", "d"), ("${NONE:-$A}", "1"),
        ("${NONE:-${B}}", "two words"),
        ("'$A'", "$A"), ('"$A"', "1"), (r"\$A", "$A"), (r'"\$A"', "$A"), (r"a\ b", "a b"), ('"a\\b"', "a\\b"),
        ("$", "$"), ("a$", "a$"), ("$$A", "A"), ("'it'\"s\"", "its"), ("", ""),
    ],
)  # fmt: skip
def test_expand(text: str, value: str) -> None:
    assert words.expand(text, ENV) == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80 443/tcp", ["80", "443/tcp"]), ("$B", ["two", "words"]), ('"$B"', ["two words"]) , ("$NONE", []),
        ("a$B c", ["atwo", "words", "c"]), ("'a b' c", ["a b", "c"]),
    ],
)  # fmt: skip
def test_split(text: str, found: list[str]) -> None:
    assert words.split(text, ENV) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [("${A", "missing ':'"), ("'a", "single-quote"), ('"a', "double-quote"), ("${A:?x}", "unsupported modifier"),
     ("${", "missing '}'"), ("${}", "bad substitution")],
)  # fmt: skip
def test_what_can_not_be_read_is_named(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match="failed to process") as caught:
        words.expand(text, ENV)
    assert told in caught.value.message


def test_another_escape_character() -> None:
    assert words.expand("`$A c:\\dir", ENV, "`") == "$A c:\\dir"


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (words.expand, words.split):
        try:
            read(text, ENV)
        except InvalidArgument:
            pass


@given(st.text(alphabet=st.characters(blacklist_characters="'\"\\$", blacklist_categories=["Cs"])))
def test_text_without_marks_stands_for_itself(text: str) -> None:
    assert words.expand(text, {}) == text
    assert words_of(text) == text.split()

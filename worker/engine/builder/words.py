"""Words as Dockerfiles write them: quotes, escapes, and variables. Pure.

`expand` gives one word, `split` a list (an unquoted variable may become several words, or none). The rules are those
of the Dockerfile reference, "Environment replacement": `$name`, `${name}`, `${name:-word}`, `${name:+word}`.
"""

from __future__ import annotations

from collections.abc import Mapping

from api.errors import InvalidArgument
from worker.engine.builder.gowords import quoted

_SPECIAL = "@*#?-!$0123456789"


def expand(text: str, env: Mapping[str, str], escape: str = "\\") -> str:
    """The text with variables replaced and quotes removed. Raises InvalidArgument naming the text."""
    return _Scanner(text, env, escape).run()[0]


def split(text: str, env: Mapping[str, str], escape: str = "\\") -> list[str]:
    """The words of the text, variables replaced, quotes removed. Raises InvalidArgument naming the text."""
    return _Scanner(text, env, escape).run()[1]


class _Scanner:
    def __init__(self, text: str, env: Mapping[str, str], escape: str) -> None:
        self._text = text
        self._env = env
        self._escape = escape
        self._at = 0
        self._words: list[str] = []
        self._word: list[str] | None = None

    def run(self) -> tuple[str, list[str]]:
        result = self._until("")
        self._end_word()
        return result, self._words

    # --- words ---

    def _add(self, text: str, *, quoted: bool) -> None:
        if quoted:
            self._word = [*(self._word or []), text]
            return
        for char in text:
            if char.isspace():
                self._end_word()
            else:
                self._word = [*(self._word or []), char]

    def _end_word(self) -> None:
        if self._word is not None:
            self._words.append("".join(self._word))
        self._word = None

    # --- characters ---

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _bad(self, why: str) -> InvalidArgument:
        return InvalidArgument(f"failed to process {quoted(self._text)}: {why}")

    def _until(self, stop: str) -> str:
        """Read up to `stop` (which is consumed) or, without one, to the end."""
        result: list[str] = []
        while char := self._peek():
            if stop and char == stop:
                self._at += 1
                return "".join(result)
            quoted = True
            if char == "'":
                piece = self._single()
            elif char == '"':
                piece = self._double()
            elif char == "$":
                piece, quoted = self._variable(), False
            else:
                self._at += 1
                piece, quoted = char, False
                if char == self._escape:
                    if not self._peek():
                        break
                    piece, quoted = self._next(), True
            result.append(piece)
            if not stop:
                self._add(piece, quoted=quoted)
        if stop:
            raise self._bad(f"unexpected end of statement while looking for matching {stop}")
        return "".join(result)

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise self._bad("unexpected end of statement while looking for matching single-quote")
        piece = self._text[self._at + 1 : end]
        self._at = end + 1
        return piece

    def _double(self) -> str:
        self._at += 1
        result: list[str] = []
        while char := self._peek():
            if char == '"':
                self._at += 1
                return "".join(result)
            if char == "$":
                result.append(self._variable())
                continue
            self._at += 1
            if char == self._escape and self._peek() in ('"', "$", self._escape) and self._peek():
                char = self._next()
            result.append(char)
        raise self._bad("unexpected end of statement while looking for matching double-quote")

    def _name(self) -> str:
        start = self._at
        first = self._peek()
        if first.isalpha() or first == "_":
            while (char := self._peek()).isalnum() or char == "_":
                self._at += 1
        elif first.isdigit():
            while self._peek().isdigit():
                self._at += 1
        elif first and first in _SPECIAL:
            self._at += 1
        return self._text[start : self._at]

    def _variable(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            return self._env.get(name, "") if name else "$"
        self._at += 1
        if not self._peek():
            raise self._bad("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise self._bad("syntax error: bad substitution")
        value = self._env.get(self._name(), "")
        char = self._next()
        if char == "}":
            return value
        if char != ":":
            raise self._bad("missing ':' in substitution")
        modifier = self._next()
        word = self._until("}")
        if modifier == "-":
            return value or word
        if modifier == "+":
            return word if value else ""
        raise self._bad(f"unsupported modifier ({modifier}) in substitution")

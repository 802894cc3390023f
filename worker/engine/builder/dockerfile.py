"""Reading a Dockerfile: directives, logical lines, instructions with their flags and arguments. Pure.

Invariant: what `parse` returns is well formed: the instruction exists, its flags are its own, it has as many arguments
as it needs. What depends on variables or on files is found out when the step runs. Texts of errors are dockerd's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from api.errors import InvalidArgument

_DIRECTIVE = re.compile(r"^#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_BLANK = re.compile(r"[\t\v\f\r ]+")
_HEREDOC = re.compile(r"(?<!<)<<-?\s*[\"']?[A-Za-z_]\w*")
_ONBUILD = re.compile(r"^\s*ONBUILD\s*", re.IGNORECASE)

FLAGS: dict[str, tuple[str, ...]] = {
    "ADD": ("chown",),
    "COPY": ("chown", "from"),
    "FROM": ("platform",),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "retries"),
    "RUN": ("mount", "network", "security"),
}
INSTRUCTIONS = frozenset(
    {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER",
     "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)  # fmt: skip
_JSON_OR_TEXT = frozenset({"CMD", "ENTRYPOINT", "RUN", "SHELL", "HEALTHCHECK"})
_JSON_OR_WORDS = frozenset({"ADD", "COPY", "VOLUME"})
_ONE_TEXT = frozenset({"MAINTAINER", "STOPSIGNAL", "USER", "WORKDIR"})


@dataclass(frozen=True)
class Instruction:
    """One instruction as written."""

    name: str
    """Upper case."""
    args: tuple[str, ...]
    """JSON elements, words, one text, or NAME=VALUE words as written (quotes and variables still in them)."""
    text: str
    """The whole logical line, as shown."""
    line: int
    """Where it begins, from 1."""
    json: bool = False
    """The arguments came as a JSON array."""
    flags: dict[str, str] = field(default_factory=dict)
    literal: bool = False
    """Made by us (labels of the request): nothing in it is a variable."""


@dataclass(frozen=True)
class Dockerfile:
    """A whole file."""

    instructions: tuple[Instruction, ...]
    escape: str = "\\"


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile. Raises InvalidArgument naming the line."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    escape = _directives(lines)
    found: list[Instruction] = []
    for number, logical in _logical_lines(lines, escape):
        try:
            found.append(parse_instruction(logical, number, escape))
        except InvalidArgument as error:
            if found and "unknown instruction" in error.message and _has_heredoc(found[-1]):
                hint = f"{error.message} (heredocs, as in line {found[-1].line}, need BuildKit, which is not offered)"
                raise InvalidArgument(hint) from None
            raise
    if not found:
        raise InvalidArgument("failed to parse Dockerfile: file with no instructions")
    return Dockerfile(tuple(found), escape)


def _has_heredoc(instruction: Instruction) -> bool:
    return instruction.name in ("RUN", "ADD", "COPY") and _HEREDOC.search(instruction.text) is not None


def _directives(lines: list[str]) -> str:
    """The escape character. Directives stand at the top, before anything else."""
    seen: dict[str, str] = {}
    for line in lines:
        match = _DIRECTIVE.match(line.strip())
        if match is None or match[1].lower() not in ("escape", "syntax", "check"):
            break
        name, value = match[1].lower(), match[2]
        if name in seen:
            raise InvalidArgument(f"failed to parse Dockerfile: only one {name} parser directive can be used")
        if name == "escape" and value not in ("\\", "`"):
            raise InvalidArgument(f"failed to parse Dockerfile: invalid escape token '{value}' does not match ` or \\")
        seen[name] = value
    return seen.get("escape", "\\")


def _logical_lines(lines: list[str], escape: str) -> Iterator[tuple[int, str]]:
    mark = re.escape(escape)
    continued = re.compile(rf"(^|[^{mark}]){mark}[ \t]*$")
    pending, start = "", 0
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        if stripped.startswith("#") or not stripped:
            continue
        if not start:
            start, line = number, line.lstrip()
        joined = continued.sub(r"\1", line)
        pending += joined
        if joined == line:
            yield start, pending.strip()
            pending, start = "", 0
    if start:
        yield start, pending.strip()


def parse_instruction(text: str, line: int, escape: str = "\\") -> Instruction:
    """One logical line. Raises InvalidArgument naming the line."""
    name, *more = _BLANK.split(text, maxsplit=1)
    name = name.upper()
    if name not in INSTRUCTIONS:
        raise _bad(line, f"unknown instruction: {name}")
    flags, rest = _flags(name, more[0].strip() if more else "", line, escape)
    json, args = _arguments(name, rest, escape)
    instruction = Instruction(name, tuple(args), text, line, json, flags)
    _check(instruction)
    if name == "ONBUILD":
        _check_trigger(instruction, escape)
    return instruction


def _bad(line: int, why: str) -> InvalidArgument:
    return InvalidArgument(f"dockerfile parse error line {line}: {why}")


def _flags(name: str, rest: str, line: int, escape: str) -> tuple[dict[str, str], str]:
    """Leading `--key=value` words; `--` alone ends them."""
    flags: dict[str, str] = {}
    while rest.startswith("--"):
        word = words_of(rest, escape)[0]
        after = rest[len(word) :].lstrip()
        if word == "--":
            return flags, after
        key, equals, value = word[2:].partition("=")
        if key not in FLAGS.get(name, ()):
            raise _bad(line, f"Unknown flag: {key}")
        if not equals:
            raise _bad(line, f"Missing a value on flag: {key}")
        if key in flags:
            raise _bad(line, f"Duplicate flag specified: {key}")
        flags[key], rest = value, after
    return flags, rest


def _arguments(name: str, rest: str, escape: str) -> tuple[bool, list[str]]:
    if not rest:
        return False, []
    if name in _JSON_OR_TEXT or name in _JSON_OR_WORDS:
        body, kind = rest, ""
        if name == "HEALTHCHECK":
            kind, _, body = rest.partition(" ")
            body = body.strip()
        listed = json_list(body)
        prefix = [kind] if kind else []
        if listed is not None:
            return True, prefix + listed
        return False, prefix + (_BLANK.split(rest) if name in _JSON_OR_WORDS else [body] if body else [])
    if name in ("ENV", "LABEL"):
        return False, pairs(name, rest, escape)
    if name in ("ARG", "EXPOSE", "FROM"):
        return False, words_of(rest, escape) if name == "ARG" else _BLANK.split(rest)
    return False, [rest]


def json_list(text: str) -> list[str] | None:
    """A JSON array of strings; None for what is none. Raises InvalidArgument for an array of other things."""
    if not text.startswith("["):
        return None
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    if not all(isinstance(item, str) for item in found):
        raise InvalidArgument(
            "failed to parse Dockerfile: when using JSON array syntax, arrays must be comprised of strings only"
        )
    return list(found)


def words_of(text: str, escape: str = "\\") -> list[str]:
    """Words as they are written: blanks within quotes or after an escape do not part them."""
    found: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'":
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if word:
                found.append(word)
            word = ""
            at += 1
            continue
        word += char
        at += 1
    return [*found, word] if word else found


def pairs(name: str, rest: str, escape: str = "\\") -> list[str]:
    """NAME=VALUE words of ENV and LABEL, as written; the old form `NAME VALUE ...` is one of them."""
    words = words_of(rest, escape)
    if words and "=" not in words[0]:
        key, _, value = _BLANK.sub(" ", rest, count=1).partition(" ")
        if not value:
            raise InvalidArgument(f"failed to parse Dockerfile: {name} must have two arguments")
        return [f"{key}={value}"]
    for word in words:
        if "=" not in word:
            raise InvalidArgument(
                f'failed to parse Dockerfile: Syntax error - can\'t find = in "{word}". Must be of the form: name=value'
            )
    return words


def trigger_of(onbuild: Instruction) -> str:
    """What an ONBUILD holds for later."""
    return _ONBUILD.sub("", onbuild.text)


def _check_trigger(instruction: Instruction, escape: str) -> None:
    text = trigger_of(instruction)
    word = _BLANK.split(text, maxsplit=1)[0].upper()
    if word == "ONBUILD":
        raise _bad(instruction.line, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if word in ("MAINTAINER", "FROM"):
        raise _bad(instruction.line, f"{word} isn't allowed as an ONBUILD trigger")
    parse_instruction(text, instruction.line, escape)


def _check(instruction: Instruction) -> None:
    """The number of arguments."""
    name, args, line = instruction.name, instruction.args, instruction.line
    if name in ("ADD", "COPY") and len(args) < 2:
        if not args:
            raise _bad(line, f"{name} requires at least two arguments")
        why = "but only one was provided. Destination could not be determined"
        raise _bad(line, f"{name} requires at least two arguments, {why}")
    if name in _ONE_TEXT and not args:
        raise _bad(line, f"{name} requires exactly one argument")
    if name == "FROM" and not (len(args) == 1 or (len(args) == 3 and args[1].lower() == "as")):
        raise _bad(line, "FROM requires either one or three arguments")
    if name == "SHELL" and not instruction.json:
        raise _bad(line, "SHELL requires the arguments to be in JSON form" if args else "SHELL requires at least one "
                   "argument")  # fmt: skip
    if name in ("ARG", "ENV", "EXPOSE", "LABEL", "ONBUILD", "VOLUME", "HEALTHCHECK", "SHELL") and not args:
        raise _bad(line, f"{name} requires at least one argument")
    if name in ("ARG", "ENV", "LABEL") and any(word.startswith("=") for word in args):
        raise _bad(line, f"{name} names can not be blank")
    if name == "RUN" and instruction.flags:
        flag = next(iter(instruction.flags))
        raise _bad(line, f"the --{flag} option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to "
                   "learn how to build images with BuildKit enabled")  # fmt: skip

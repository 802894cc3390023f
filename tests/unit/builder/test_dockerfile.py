"""Reading Dockerfiles: lines, directives, instructions, stages."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidArgument
from worker.engine.builder.dockerfile import parse, trigger_of
from worker.engine.builder.stages import find, plan


def read(text: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.name, each.args) for each in parse(text).instructions]


def test_lines() -> None:
    text = '\ufeff# a comment\n\nfrom busybox\nRUN a && \\\n  # within\n\n  b \\\\\nCOPY ["a b", "/c/"]\r\nCMD echo \\'
    assert read(text) == [
        ("FROM", ("busybox",)),
        ("RUN", ("a &&   b \\\\",)),
        ("COPY", ("a b", "/c/")),
        ("CMD", ("echo",)),
    ]
    assert [each.line for each in parse(text).instructions] == [3, 4, 8, 9]


def test_directives() -> None:
    found = parse("# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN dir c:\\ `\n  x\n")
    assert found.escape == "`"
    assert found.instructions[1].args == ("dir c:\\   x",)
    assert parse("# a comment\n# escape=`\nFROM a\n").escape == "\\", "a directive after a comment is a comment"
    with pytest.raises(InvalidArgument, match="invalid escape token 'x'"):
        parse("# escape=x\nFROM a\n")


@pytest.mark.parametrize(
    ("line", "name", "args", "json"),
    [
        ('CMD ["a", "b"]', "CMD", ("a", "b"), True),
        ('CMD ["a", "b]', "CMD", ('["a", "b]',), False),
        ("ENV a=1 b='x y' c=d\\ e", "ENV", ("a=1", "b='x y'", "c=d\\ e"), False),
        ("ENV a  b c", "ENV", ("a=b c",), False),
        ("HEALTHCHECK --retries=3 CMD curl  x", "HEALTHCHECK", ("CMD", "curl  x"), False),
        ('HEALTHCHECK CMD ["curl", "x"]', "HEALTHCHECK", ("CMD", "curl", "x"), True),
        ("VOLUME /a /b", "VOLUME", ("/a", "/b"), False),
        ("WORKDIR a b", "WORKDIR", ("a b",), False),
        ("ARG a=1 b", "ARG", ("a=1", "b"), False),
    ],
)
def test_arguments(line: str, name: str, args: tuple[str, ...], json: bool) -> None:
    (found,) = parse(line).instructions
    assert (found.name, found.args, found.json) == (name, args, json)


def test_flags() -> None:
    (copy,) = parse("COPY --from=one --chown=1:2 a b").instructions
    assert (copy.flags, copy.args) == ({"from": "one", "chown": "1:2"}, ("a", "b"))
    (plain,) = parse("COPY -- --a b").instructions
    assert plain.args == ("--a", "b")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FRM a", "line 1: unknown instruction: FRM"), ("FROM a\n\nCOPY x", "line 3: COPY requires at least two"),
        ("COPY --what=1 a b", "Unknown flag: what"), ("COPY --from a b", "Missing a value on flag: from"),
        ("COPY --from=a --from=b a b", "Duplicate flag specified: from"), ("FROM a b", "either one or three"),
        ("SHELL sh", "SHELL requires the arguments to be in JSON form"), ("CMD [1]", "comprised of strings only"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"), ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD COPY x", "COPY requires at least two"), ("ENV =x", "ENV names can not be blank"),
        ("RUN --mount=type=bind x", "requires BuildKit"), ("RUN <<EOF\necho\nEOF", "heredocs, as in line 1"),
        ("", "file with no instructions"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(told)):
        parse(text)


def test_triggers_keep_their_words() -> None:
    (onbuild,) = parse("onbuild  RUN echo $x").instructions
    assert trigger_of(onbuild) == "RUN echo $x"


@given(st.lists(st.sampled_from(["FROM a", "RUN x \\", "# c", "", "ENV a='b", "COPY --x", "[", '"', "CMD [", "\\"])))
def test_any_file_is_read_or_refused(lines: list[str]) -> None:
    try:
        parse("\n".join(lines))
    except InvalidArgument:
        pass


THREE = "ARG V=1\nFROM a AS First\nRUN x\nFROM b\nFROM c as first\nCMD y\n"


def test_stages() -> None:
    todo = plan(parse(THREE), "", {"k": "v", "a": "b"})
    assert [stage.name for stage in todo.stages] == ["first", "", "first"]
    assert [step.text for step in todo.stages[-1].steps] == ["CMD y", "LABEL a=b", "LABEL k=v"]
    assert todo.total == 1 + 2 + 1 + 4
    assert find(todo.stages, "FIRST") is todo.stages[2], "the latest stage of a name"
    assert find(todo.stages, "1") is todo.stages[1]
    assert find(todo.stages, "3") is None


@pytest.mark.parametrize(
    ("text", "target", "told"),
    [
        ("RUN x\n", "", "no build stage in current context"), ("ARG a\n", "", "no build stage in current context"),
        ("FROM a\n", "x", "failed to reach build target x"), ("FROM a AS 1x\n", "", "invalid name for build stage"),
        ("FROM a\nHEALTHCHECK --interval=x CMD y\n", "", 'invalid duration "x"'),
        ("FROM a\nHEALTHCHECK NONE x\n", "", "takes no arguments"),
    ],
)  # fmt: skip
def test_stages_that_can_not_be(text: str, target: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(told)):
        plan(parse(text), target, {})


def test_a_target_ends_the_plan() -> None:
    assert len(plan(parse(THREE), "1", {}).stages) == 2

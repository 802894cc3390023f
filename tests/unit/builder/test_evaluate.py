"""What instructions do to a configuration, the build's arguments, the cache's key, and words of history."""

from __future__ import annotations

from typing import Any

import pytest

from api.errors import InvalidArgument
from worker.engine.builder.arguments import BuildArguments
from worker.engine.builder.cache import find_cached
from worker.engine.builder.changes import apply_changes
from worker.engine.builder.dockerfile import parse
from worker.engine.builder.evaluate import State, empty_config, evaluate
from worker.engine.builder.globs import Ignored, component_matcher
from worker.engine.builder.gowords import duration, parse_duration, rune
from worker.engine.images.model import HistoryEntry, ImageConfig, ImageRecord, Index


def after(text: str, **given: str) -> tuple[dict[str, Any], list[str]]:
    """The configuration after a stage's instructions, and what history says of the last."""
    state = State(empty_config(), BuildArguments(given))
    said: list[str] = []
    for instruction in parse(text).instructions:
        state.config, said = evaluate(instruction, state)
    return state.config, said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ENV A=1 B='x y'", ["#(nop) ", "ENV A=1 B=x y"]),
        ("CMD echo hi", ["#(nop) ", 'CMD ["/bin/sh" "-c" "echo hi"]']),
        ("EXPOSE 80 53/udp 443", ["#(nop) ", "EXPOSE 443 53/udp 80"]),
        ("VOLUME /a /b", ["#(nop) ", "VOLUME [/a /b]"]),
        ("WORKDIR a/../b", ["#(nop) WORKDIR /b"]),
        ("HEALTHCHECK --interval=90s --retries=2 CMD x", ["#(nop) ", "HEALTHCHECK &{[\"CMD-SHELL\" \"x\"] \"1m30s\" "
                                                          "\"0s\" \"0s\" '\\x02'}"]),
        ("ARG a=1 b", ["#(nop) ", "ARG a=1 b"]),
    ],
)  # fmt: skip
def test_history_says(text: str, said: list[str]) -> None:
    assert after(text)[1] == said


def test_commands_and_entry_points() -> None:
    config, _ = after('SHELL ["/bin/ash", "-e"]\nCMD one\nENTRYPOINT ["two"]')
    assert (config["Cmd"], config["Entrypoint"]) == (["/bin/ash", "-e", "one"], ["two"])
    config["Cmd"] = ["inherited"]
    state = State(config, BuildArguments({}))
    assert evaluate(parse('ENTRYPOINT ["x"]').instructions[0], state)[0]["Cmd"] is None, "not set in this stage"


def test_environment_keeps_its_order() -> None:
    assert after("ENV A=1 B=2\nENV A=3 C=$B")[0]["Env"] == ["A=3", "B=2", "C=2"]


def test_work_directories_are_joined() -> None:
    assert after("WORKDIR /a\nENV d=b\nWORKDIR $d/./c\nWORKDIR ..")[0]["WorkingDir"] == "/a/b"


def test_arguments_win_over_defaults_and_lose_to_the_environment() -> None:
    assert after("ARG v=1\nENV w=$v", v="9")[0]["Env"] == ["w=9"]
    assert after("ARG v=1\nENV w=$v")[0]["Env"] == ["w=1"]
    assert after("ENV v=e\nARG v=1\nENV w=$v", v="9")[0]["Env"] == ["v=e", "w=e"]
    assert after("ENV w=$v", v="9")[0]["Env"] == ["w="], "an argument nobody declared"


def test_arguments_before_the_first_stage() -> None:
    arguments = BuildArguments({"given": "g", "unknown": "u", "http_proxy": "p"})
    arguments.declare_meta("V", "1")
    assert arguments.meta() == {"V": "1", "http_proxy": "p"}
    arguments.begin_stage()
    assert arguments.allowed({}) == {"http_proxy": "p"}, "a stage sees only what it declares"
    arguments.declare("V", None)
    arguments.declare("given", None)
    assert arguments.allowed({}) == {"V": "1", "given": "g", "http_proxy": "p"}
    assert not arguments.in_history("http_proxy")
    assert arguments.unused() == ["unknown"]


def test_a_health_check_keeps_what_it_does_not_say() -> None:
    config, _ = after("HEALTHCHECK --interval=5s --retries=2 CMD a\nHEALTHCHECK --interval=7s CMD b")
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "b"], "Interval": 7_000_000_000, "Retries": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [("EXPOSE x", "Invalid containerPort: x"), ("EXPOSE 80/x", "Invalid proto: x"), ("STOPSIGNAL NO", "Invalid signal"),
     ("VOLUME $none", "can not be an empty string"), ("ENV $none=1", "names can not be blank")],
)  # fmt: skip
def test_values_that_can_not_be(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        after(text)


def test_changes_are_a_choice_of_instructions() -> None:
    assert apply_changes({"Env": ["A=1"]}, ["ENV B=$A", "CMD x"]) == {
        "Env": ["A=1", "B=1"],
        "Cmd": ["/bin/sh", "-c", "x"],
    }
    assert apply_changes({"Env": None}, [" "]) == {"Env": None}
    with pytest.raises(InvalidArgument, match="copy is not a valid change command"):
        apply_changes({}, ["COPY a b"])


def _index(*images: tuple[str, str, dict[str, Any], str]) -> Index:
    index = Index()
    for image, parent, container_config, created in images:
        config = ImageConfig(created=created, container_config=container_config, history=[HistoryEntry()])
        index.put_image(ImageRecord(id=image, parent=parent), config)
    return index


def test_the_cache_finds_the_newest_of_the_same_step() -> None:
    step = {"Cmd": ["x"], "Env": ["A=1"], "Labels": None, "Hostname": "one"}
    index = _index(
        ("old", "base", step, "2020-01-01T00:00:00Z"),
        ("new", "base", step | {"Hostname": "two"}, "2021-01-01T00:00:00Z"),
        ("other", "base", step | {"Env": ["A=2"]}, "2022-01-01T00:00:00Z"),
        ("elsewhere", "another", step, "2023-01-01T00:00:00Z"),
    )
    assert find_cached(index, "base", {"Cmd": ["x"], "Env": ["A=1"], "Image": "base"}) == "new"
    for key, value in (("Cmd", ["y"]), ("Env", []), ("User", "me"), ("Shell", ["sh"]), ("WorkingDir", "/w"),
                       ("Healthcheck", {"Test": ["NONE"]}), ("StopSignal", "9"), ("OnBuild", ["RUN x"])):  # fmt: skip
        assert find_cached(index, "base", step | {key: value}) is None, key


@pytest.mark.parametrize(
    ("text", "ns", "shown"),
    [("5s", 5_000_000_000, "5s"), ("1h0m0.5s", 3_600_500_000_000, "1h0m0.5s"), ("300ms", 300_000_000, "300ms"),
     ("1.5m", 90_000_000_000, "1m30s"), ("0", 0, "0s"), ("2us", 2_000, "2µs")],
)  # fmt: skip
def test_durations(text: str, ns: int, shown: str) -> None:
    assert parse_duration(text) == ns
    assert duration(ns) == shown


@pytest.mark.parametrize("text", ["", "5", "s", "1s2", "-", "1 s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


def test_runes() -> None:
    assert [rune(number) for number in (0, 3, 10, 48, 127)] == [r"'\x00'", r"'\x03'", r"'\n'", "'0'", r"'\x7f'"]


@pytest.mark.parametrize(
    ("lines", "left_out", "kept"),
    [
        (["*.log", "# c", ""], ["a.log"], ["d/a.log", "# c"]),
        (["**/*.log", "!keep.log"], ["a.log", "d/e/a.log"], ["keep.log", "x"]),
        (["build/", "!build/keep"], ["build", "build/x"], ["build/keep", "rebuild"]),
        (["/a?c"], ["abc"], ["ac", "d/abc"]), (["[ab]"], ["a"], ["c"]),
        (["Dockerfile", ".dockerignore"], ["Dockerfile", ".dockerignore"], ["x"]),
    ],
)  # fmt: skip
def test_ignored(lines: list[str], left_out: list[str], kept: list[str]) -> None:
    ignored = Ignored(lines)
    assert [path for path in left_out if not ignored(path)] == []
    assert [path for path in kept if ignored(path)] == []


def test_patterns_of_names() -> None:
    assert component_matcher("f*.[ch]")("foo.c")
    assert not component_matcher("f*")("d/f")
    assert component_matcher(r"\*")("*")
    with pytest.raises(InvalidArgument, match="syntax error in pattern"):
        component_matcher("[a")

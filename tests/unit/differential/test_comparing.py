"""The differential tests' own logic: a difference must be seen, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.differential import compare, normal, scenario
from tests.differential.compare import Outcome
from tests.differential.scenario import BadScenario, Kind, Known, Step

ID, OTHER_ID = "3f" * 32, "a0" * 32


def outcome(out: str = "", err: str = "", code: int = 0) -> Outcome:
    return Outcome(code, out, err)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (f"{ID}\n", f"{OTHER_ID}\n"),
        (f"container:{ID}", f"container:{OTHER_ID}"),
        ("5ab345575558 busybox", "db4dabf52451 busybox"),
        ("Up 3 seconds", "Up Less than a second"),
        ("2 minutes ago", "About a minute ago"),
        ("2026-11-23T15:48:24.123456789Z", "2026-11-23T15:49:01Z"),
        ("172.17.0.2 h", "172.18.0.33 h"),
        ("172.19.0.0/16", "192.168.144.0/20"),
        ("02:42:ac:11:00:02", "02:42:ac:11:00:03"),
        ("/var/lib/docker/volumes/v/_data", "/var/lib/shoal/volumes/v/_data"),
        ("A      B", "A         B"),
        (f'[{{"Id": "{ID}", "Pid": 5}}]', f'[{{"Id": "{OTHER_ID}", "Pid": 77}}]'),
        ('{"Mounts": [{"Destination": "/a"}, {"Destination": "/b"}]}', '{"Mounts": [{"Destination": "/b"}, '
         '{"Destination": "/a"}]}'),
    ],
)  # fmt: skip
def test_what_differs_between_any_two_runs_is_no_difference(left: str, right: str) -> None:
    assert compare.differences(1, outcome(left), outcome(right)) == []


@pytest.mark.parametrize(
    ("left", "right", "place"),
    [
        ("a\n", "a", "1.out"),
        (f"sha256:{ID}", f"sha256:{OTHER_ID}", "1.out"),
        ("0001-01-01T00:00:00Z", "2026-11-23T15:49:01Z", "1.out"),
        ("Up 3 seconds", "Up 3 seconds (Paused)", "1.out"),
        ("10.0.0.1", "10.0.0.2", "1.out"),
        ('{"a": null}', "{}", "1.json/a"),
        ('{"a": 1}', '{"a": true}', "1.json/a"),
        ('{"a": 0}', '{"a": ""}', "1.json/a"),
        ('{"Pid": 0}', '{"Pid": 5}', "1.json/Pid"),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', "1.json/a/0"),
        ('{"a": []}', '{"a": null}', "1.json/a"),
        ('{"a": {"b": "x"}}', '{"a": {"b": "y"}}', "1.json/a/b"),
    ],
)
def test_what_a_user_could_tell_is_a_difference(left: str, right: str, place: str) -> None:
    assert compare.differences(1, outcome(left), outcome(right))[0].place == place


def test_status_and_both_streams_are_compared() -> None:
    found = compare.differences(3, outcome("a", "b", 1), outcome("c", "d", 2))
    assert [each.place for each in found] == ["3.code", "3.out", "3.err"]


def test_known_differences_are_told_from_bugs() -> None:
    steps = [Step("one"), Step("two"), Step("set-up", compared=False)]
    ours = [outcome('{"a": 1, "b": {"c": 1}}'), outcome("x", code=1), outcome("p")]
    theirs = [outcome('{"a": 2, "b": {"c": 2}}'), outcome("y", code=0), outcome("q")]
    known = [
        Known("1.json/a", "meant"),
        Known("2.*", "open", Kind.OPEN),
        Known("9.out", "gone"),
        Known("9.err", "now and then", Kind.CHANCE),
    ]
    verdict = compare.judge(steps, ours, theirs, known)
    assert [each.place for each in verdict.bugs] == ["1.json/b/c"]
    assert [each.reason for each in verdict.open] == ["open"]
    assert [each.reason for each in verdict.stale] == ["gone"]
    assert compare.judge(steps, ours, theirs, known, [Known("**/b/*", "everywhere")]).bugs == ()


@pytest.mark.parametrize(
    ("pattern", "place", "covered"),
    [
        ("1.json/*/b", "1.json/a/b", True),
        ("1.json/*/b", "1.json/a/x/b", False),
        ("1.json/**", "1.json/a/x/b", True),
        ("1.*", "1.code", True),
        ("1.*", "1.json/a", False),
        ("1.**", "1.json/a", True),
        ("1.out", "11.out", False),
    ],
)
def test_patterns_of_places(pattern: str, place: str, covered: bool) -> None:
    assert Known(pattern, "x").covers(place) is covered


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "noun.txt").write_text(
        "# words\n=== one\n@alone\n- set up\n$ docker ps \\\n  -a\n~ 1.out -- because\n! 2.err -- owed\n=== two\n$ x\n"
    )
    one, two = scenario.load(tmp_path)
    assert (one.id, one.alone, two.alone) == ("noun: one", True, False)
    assert one.steps == (Step("set up", compared=False), Step("docker ps   -a"))
    assert [(each.place, each.kind) for each in one.known] == [("1.out", Kind.MEANT), ("2.err", Kind.OPEN)]
    assert one.tag != two.tag


@pytest.mark.parametrize(
    "text",
    [
        "$ x\n",
        "=== one\nx\n",
        "=== one\n",
        "=== one\n$ x\n=== one\n$ x\n",
        "=== one\n$ x\n~ 1.out\n",
        "=== one\n$ x \\\n",
    ],
)
def test_a_file_that_can_not_be_read_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "noun.txt").write_text(text)
    with pytest.raises(BadScenario):
        scenario.load(tmp_path)


def test_there_are_scenarios_enough() -> None:
    assert len(scenario.load()) >= 150
    assert scenario.everywhere()


def test_json_is_only_what_is_json_as_a_whole() -> None:
    assert normal.parse("[oops] text") is None
    assert normal.parse('{"a": 1}\n\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    assert normal.parse("5") is None

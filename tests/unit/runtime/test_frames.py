"""The wire between daemon and monitor, and the runtime's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import Internal, InvalidArgument, NotFound
from worker.engine.runtime import frames
from worker.engine.runtime.cgroups import _counter_file
from worker.engine.runtime.crun import failure


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=200)), max_size=10),
    st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_survive_any_chopping(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    content = b"".join(frames.frame(kind, payload) for kind, payload in sent)
    parser = frames.Parser()
    received = []
    position = turn = 0
    while position < len(content):
        size = cuts[turn % len(cuts)]
        received += parser.feed(content[position : position + size])
        position, turn = position + size, turn + 1
    assert received == sent


def test_a_payload_beyond_the_limit_is_no_frame() -> None:
    with pytest.raises(frames.FrameError):
        frames.Parser().feed(frames.HEADER.pack(1, frames.MAX_PAYLOAD + 1))


PROCESS = {"args": ["foo"], "cwd": "/nope"}


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        (
            "executable file `foo` not found in $PATH: No such file or directory",
            InvalidArgument,
            'OCI runtime create failed: exec: "foo": executable file not found in $PATH: unknown',
        ),
        ("open executable: Permission denied", InvalidArgument, 'exec: "foo": permission denied'),
        ("exec: Operation not permitted", InvalidArgument, 'exec: "foo": permission denied'),
        ("chdir: No such file or directory", InvalidArgument, 'chdir to cwd ("/nope")'),
        ("mount `/a` to `/b`: Not a directory", InvalidArgument, "Not a directory"),
        ("write cgroup.procs: Device or resource busy", Internal, "Device or resource busy"),
    ],
)
def test_the_runtimes_words_become_dockers(words: str, kind: type[Exception], text: str) -> None:
    found = failure("create", words, PROCESS)
    assert type(found) is kind
    assert text in found.message


def test_an_exec_in_a_container_that_went_is_not_found() -> None:
    assert type(failure("exec", "container `x` does not exist", PROCESS)) is NotFound


def test_where_out_of_memory_kills_are_counted() -> None:
    v1 = "9:memory:/shoal/c1\n1:name=systemd:/\n0::/shoal/c1\n"
    assert _counter_file(v1, "/cg") == "/cg/memory/shoal/c1/memory.oom_control"
    assert _counter_file("0::/shoal/c1\n", "/cg") == "/cg/shoal/c1/memory.events"
    assert _counter_file("1:name=systemd:/\n", "/cg") == ""

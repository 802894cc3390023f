"""The sans-IO forms: any split of bytes gives the same events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidArgument
from api.wire import filters, head, stdcopy, versions

frames = st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=300)), max_size=8)


@pytest.mark.promise("containers.attach.b15")
@given(frames, st.lists(st.integers(1, 20)))
def test_frames_survive_any_split(pieces: list[tuple[int, bytes]], cuts: list[int]) -> None:
    wire = b"".join(stdcopy.frame(stream, data) for stream, data in pieces)
    deframer = stdcopy.Deframer()
    found = []
    at = 0
    for cut in [*cuts, len(wire)]:
        found += deframer.receive_data(wire[at : at + cut])
        at += cut
    assert found == pieces


@pytest.mark.promise("containers.attach.b11", "containers.attach.b13", "containers.attach.b14")
def test_a_frame_head_is_eight_bytes_with_a_big_endian_length() -> None:
    assert stdcopy.frame(2, b"x" * 258) == b"\x02\x00\x00\x00\x00\x00\x01\x02" + b"x" * 258


def test_a_broken_frame_head_is_refused() -> None:
    with pytest.raises(ValueError, match="not a stream frame"):
        list(stdcopy.Deframer().receive_data(b"HTTP/1.1"))


ATTACH = (
    b"POST /v1.24/containers/abc/attach?stdin=1&stream=1 HTTP/1.1\r\nHost: x\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
)


def test_an_attach_is_cut_behind_its_head() -> None:
    found = head.cut(ATTACH + b"typed ahead")
    assert found is not None
    assert found.head_bytes == len(ATTACH)
    assert found.body_bytes == 0
    assert b"\r\nX-Upgrade: tcp\r\n" in found.head
    assert b"Connection" not in found.head


def test_an_exec_start_without_upgrade_keeps_its_body() -> None:
    request = b"POST /exec/abc/start HTTP/1.1\r\nContent-Type: application/json\r\ncontent-length: 17\r\n\r\n"
    found = head.cut(request + b'{"Detach": false}')
    assert found is not None
    assert (found.head_bytes, found.body_bytes) == (len(request), 17)
    assert found.head == request


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /v1.24/containers/json HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1.24/containers/abc/start HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /exec/abc/start HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /exec/abc/start HTTP/1.1\r\nHost: x\r\n",
    ],
)
def test_other_requests_are_left_alone(request_head: bytes) -> None:
    assert head.cut(request_head) is None


def test_filters_come_in_two_forms() -> None:
    assert filters.parse('{"type":{"custom":true,"builtin":false},"name":["a","b"]}') == {
        "type": ["custom"],
        "name": ["a", "b"],
    }


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": [1]}'])
def test_malformed_filters_are_named(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filters"):
        filters.parse(text)


def test_an_unknown_filter_is_named() -> None:
    with pytest.raises(InvalidArgument, match="Invalid filter 'colour'"):
        filters.parse('{"colour": ["red"]}', {"name"})


def test_label_filters_match_keys_and_values() -> None:
    labels = {"a": "1", "b": ""}
    assert filters.matches_labels(["a", "b"], labels)
    assert filters.matches_labels(["a=1", "b="], labels)
    assert not filters.matches_labels(["a=2"], labels)
    assert not filters.matches_labels(["a", "c"], labels)


@pytest.mark.promise("general.version-prefix.b1", "general.version-prefix.b2")
def test_versions_are_split_off() -> None:
    assert versions.split("/v1.24/info") == ((1, 24), "/info")
    assert versions.split("/info") == (versions.NEWEST, "/info")
    assert versions.split("/volumes/v1.24") == (versions.NEWEST, "/volumes/v1.24")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1.50/info", "client version 1.50 is too new. Maximum supported API version is 1.24"),
        (
            "/v1.18/info",
            "client version 1.18 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version",
        ),
    ],
)
def test_other_versions_are_refused(path: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        versions.split(path)
    assert caught.value.message == message


def test_newer_keys_are_turned_down() -> None:
    body = {"Version": "1", "MinAPIVersion": "1.24"}
    assert versions.turn_down("VersionInfo", body, (1, 24)) == {"Version": "1"}
    assert versions.turn_down("VersionInfo", body, (1, 25)) == body

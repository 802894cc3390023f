"""Log drivers: options as dockerd 20.10 takes and refuses them, wire formats, connections, and places in a log."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.errors import InvalidArgument
from api.types.container import LogConfig
from worker.engine.logs.drivers import connections, formats, options
from worker.engine.logs.drivers.about import About, chosen, tag
from worker.engine.logs.drivers.driver import Driver
from worker.engine.logs.jsonfile import PART_BYTES, JsonFileLog
from worker.engine.logs.reader import LogLine, LogReader

ABOUT = About(
    id="0123456789abcdef" * 4,
    name="web",
    image="busybox",
    image_id="sha256:4003b238407484f88235ae9d09c24cb0fe675481b85dd2e3c4abed052f595784",
    command="sh -c true",
    created="2026-11-23T17:43:18.136044825Z",
    hostname="m1",
    pid=3,
    tag="0123456789ab",
    extra={"x": "1", "my.label": "a\nb"},
)
AT_NS = 1_795_455_798_695_123_456
OUT, ERR = LogLine("stdout", AT_NS, b"hello world\n"), LogLine("stderr", AT_NS, b"err\n")
EMPTY = LogLine("stdout", AT_NS, b"\n")
GELF = {"gelf-address": "udp://127.0.0.1:2"}
TCP = {"gelf-address": "tcp://127.0.0.1:2"}


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("syslog", {"x": "y"}, "unknown log opt 'x' for syslog log driver"),
        ("syslog", {"max-size": "1k"}, "unknown log opt 'max-size' for syslog log driver"),
        ("syslog", {"syslog-address": "foo"}, "syslog-address should be in form proto://address, got foo"),
        ("syslog", {"syslog-address": "foo://h"}, "syslog-address should be in form proto://address, got foo://h"),
        ("syslog", {"syslog-address": "unix:///none"}, "stat /none: no such file or directory"),
        ("syslog", {"syslog-address": "tcp://h:99999"}, "syslog-address: tcp://h:99999"),
        ("syslog", {"syslog-address": "tcp+tls://h:1"}, "tcp+tls is not supported"),
        ("syslog", {"syslog-facility": "foo"}, "invalid syslog facility"),
        ("syslog", {"syslog-facility": "24"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "foo"}, "Invalid syslog format"),
        ("syslog", {"labels-regex": "("}, "labels-regex: '(' is no regular expression"),
        ("syslog", {"mode": "foo"}, "logger: logging mode not supported: foo"),
        ("syslog", {"max-buffer-size": "1m"}, "max-buffer-size option is only supported with 'mode=non-blocking'"),
        ("syslog", {"cache-disabled": "x"}, "invalid value for option cache-disabled: x"),
        ("syslog", {"cache-max-size": "x"}, "invalid value for cache-max-size: 'x'"),
        ("gelf", {}, "gelf-address is a required parameter"),
        ("gelf", {"gelf-address": "foo"}, "gelf-address should be in form proto://address, got foo"),
        ("gelf", {"gelf-address": "udp://h"}, "gelf: please provide gelf-address as proto://host:port"),
        ("gelf", {"gelf-address": "unix:///x"}, "gelf: endpoint needs to be TCP or UDP"),
        ("gelf", GELF | {"x": "y"}, 'unknown log opt "x" for gelf log driver'),
        (
            "gelf",
            GELF | {"gelf-compression-type": "foo"},
            'unknown value "foo" for log opt "gelf-compression-type" for gelf log driver',
        ),
        (
            "gelf",
            GELF | {"gelf-compression-level": "12"},
            'unknown value "12" for log opt "gelf-compression-level" for gelf log driver',
        ),
        ("gelf", GELF | {"gelf-tcp-max-reconnect": "3"}, '"gelf-tcp-max-reconnect" is only valid for TCP'),
        ("gelf", TCP | {"gelf-tcp-max-reconnect": "-1"}, '"gelf-tcp-max-reconnect" must be a positive integer'),
        ("gelf", TCP | {"gelf-tcp-reconnect-delay": "x"}, '"gelf-tcp-reconnect-delay" must be a positive integer'),
        ("gelf", TCP | {"gelf-compression-type": "gzip"}, "compression is only supported on UDP"),
        ("fluentd", {"x": "y"}, "unknown log opt 'x' for fluentd log driver"),
        ("fluentd", {"fluentd-address": "h:bar"}, 'invalid fluentd-address h:bar: strconv.Atoi: parsing "bar"'),
        ("fluentd", {"fluentd-address": "udp://h:2"}, "unsupported scheme udp in fluentd-address"),
        ("fluentd", {"fluentd-async": "x"}, 'strconv.ParseBool: parsing "x": invalid syntax'),
        (
            "fluentd",
            {"fluentd-async": "1", "fluentd-async-connect": "1"},
            "cannot specify both 'fluentd-async' and 'fluentd-async-connect",
        ),
        ("fluentd", {"fluentd-buffer-limit": "x"}, "invalid size: 'x'"),
        ("fluentd", {"fluentd-retry-wait": "x"}, 'time: invalid duration "x"'),
        ("fluentd", {"fluentd-max-retries": "x"}, 'strconv.ParseUint: parsing "x": invalid syntax'),
        ("journald", {"x": "y"}, "unknown log opt 'x' for journald log driver"),
        ("json-file", {"syslog-format": "rfc5424"}, "unknown log opt 'syslog-format' for json-file log driver"),
        ("nosuch", {}, "no log driver named 'nosuch' is registered"),
    ],
)
def test_options_that_are_refused(kind: str, config: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        options.log_config(LogConfig(type=kind, config=config))
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("syslog", {}),
        ("syslog", {"syslog-address": "udp://127.0.0.1", "syslog-facility": "23", "mode": "non-blocking"}),
        ("syslog", {"mode": "non-blocking", "max-buffer-size": "1m", "cache-max-size": "1m", "cache-max-file": "2"}),
        ("gelf", {**GELF, "gelf-compression-level": "-1", "tag": "{{.Name}}", "env-regex": "^A"}),
        ("gelf", {**TCP, "gelf-tcp-max-reconnect": "3", "gelf-tcp-reconnect-delay": "2"}),
        ("fluentd", {"fluentd-address": "unix:///tmp/x", "fluentd-retry-wait": "1m30s", "fluentd-max-retries": "5"}),
        ("fluentd", {"fluentd-address": "host", "fluentd-async": "true", "fluentd-buffer-limit": "8MB"}),
        ("json-file", {"cache-disabled": "1", "max-size": "1m"}),
        ("none", {}),
    ],
)
def test_options_that_are_taken(kind: str, config: dict[str, str]) -> None:
    assert options.log_config(LogConfig(type=kind, config=config)) == LogConfig(type=kind, config=config)


def test_the_daemon_s_default() -> None:
    default = LogConfig(type="syslog", config={"syslog-facility": "mail", "tag": "d"})
    assert options.log_config(LogConfig(), default) == default
    merged = options.log_config(LogConfig(type="syslog", config={"tag": "own"}), default)
    assert merged.config == {"syslog-facility": "mail", "tag": "own"}
    assert options.log_config(LogConfig(type="json-file"), default).config == {}


def test_what_can_be_read_and_how_much_is_kept() -> None:
    assert options.readable(LogConfig(type="syslog", config={}))
    assert not options.readable(LogConfig(type="syslog", config={"cache-disabled": "true"}))
    assert not options.readable(LogConfig(type="none"))
    assert options.log_file_limits(LogConfig(type="gelf", config=GELF)) == (20 << 20, 5)
    assert options.log_file_limits(LogConfig(type="json-file", config={})) == (0, 1)


def test_tags() -> None:
    found = tag("{{.ImageName}}/{{ .Name }}/{{.ID}}/{{.ImageID}}/{{.DaemonName}}", ABOUT)
    assert found == "busybox/web/0123456789ab/sha256:4003b/docker"
    assert tag("", ABOUT) == "0123456789ab"
    for template, words in (
        ("{{.Foo}}", 'template: log-tag:1:2: executing "log-tag" at <.Foo>: can\'t evaluate field Foo in type'),
        ("{{", "template: log-tag:1: unclosed action"),
        ('{{index .X "y"}}', "only fields can be used"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            tag(template, ABOUT)
        assert words in caught.value.message


def test_labels_and_variables_are_chosen_by_name_and_by_pattern() -> None:
    labels, env = {"tier": "db", "com.a": "1", "no": "2"}, ["FOO=bar", "FOX=b=c", "X=1"]
    wanted = {"labels": "tier,absent", "labels-regex": r"^com\.", "env": "X", "env-regex": "^FO"}
    assert chosen(wanted, labels, env) == {"tier": "db", "com.a": "1", "FOO": "bar", "FOX": "b=c", "X": "1"}


# --- formats: the bytes are those of a dockerd 20.10 -----------------------------------------------------------------


@pytest.fixture
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_utc")
def test_syslog() -> None:
    default = formats.Syslog({}, ABOUT)
    assert default.messages(OUT) == [b"<30>Nov 23 17:43:18 0123456789ab[3]: hello world\n"]
    assert default.messages(ERR) == [b"<27>Nov 23 17:43:18 0123456789ab[3]: err\n"]
    assert default.messages(EMPTY) == []
    bsd = formats.Syslog({"syslog-format": "rfc3164", "syslog-facility": "local3"}, ABOUT)
    assert bsd.messages(OUT) == [b"<158>Nov 23 17:43:18 m1 0123456789ab[3]: hello world\n"]
    new = formats.Syslog({"syslog-format": "rfc5424"}, ABOUT)
    assert new.messages(OUT) == [b"<30>1 2026-11-23T17:43:18Z m1 0123456789ab 3 0123456789ab - hello world\n"]
    micro = formats.Syslog({"syslog-format": "rfc5424micro"}, ABOUT)
    assert micro.messages(OUT)[0].startswith(b"<30>1 2026-11-23T17:43:18.695123Z m1 ")


def test_gelf() -> None:
    [message] = formats.Gelf({}, ABOUT, udp=False).messages(OUT)
    assert message.endswith(b"\0")
    assert json.loads(message[:-1]) == {
        "version": "1.1",
        "host": "m1",
        "short_message": "hello world",
        "timestamp": 1795455798.695,
        "level": 6,
        "_command": "sh -c true",
        "_container_id": ABOUT.id,
        "_container_name": "web",
        "_created": ABOUT.created,
        "_image_id": ABOUT.image_id,
        "_image_name": "busybox",
        "_tag": "0123456789ab",
        "_x": "1",
        "_my.label": "a\nb",
    }
    for kind, opened in (("gzip", gzip.decompress), ("zlib", zlib.decompress), ("none", bytes)):
        config = {"gelf-compression-type": kind}
        [packet] = formats.Gelf(config, ABOUT, udp=True).messages(ERR)
        assert json.loads(opened(packet))["level"] == 3
    assert formats.Gelf({}, ABOUT, udp=True).messages(EMPTY) == []


def test_a_long_gelf_message_goes_in_chunks() -> None:
    gelf = formats.Gelf({"gelf-compression-type": "none"}, ABOUT, udp=True)
    packets = gelf.messages(LogLine("stdout", AT_NS, b"7" * 16000))
    again = gelf.messages(LogLine("stdout", AT_NS, b"7" * 16000))
    assert all(len(packet) <= formats.GELF_CHUNK_BYTES + 12 for packet in packets)
    assert {packet[:2] for packet in packets} == {b"\x1e\x0f"}
    assert len({packet[2:10] for packet in packets}) == 1
    assert packets[0][2:10] != again[0][2:10], "each message has an id of its own"
    assert [(packet[10], packet[11]) for packet in packets] == [(n, len(packets)) for n in range(len(packets))]
    assert json.loads(b"".join(packet[12:] for packet in packets))["short_message"] == "7" * 16000
    assert gelf.messages(LogLine("stdout", AT_NS, b"7" * 200_000)) == [], "more than 128 chunks can't be"


def test_fluentd() -> None:
    [message] = formats.Fluentd({}, ABOUT).messages(OUT)
    name, moment, record, option = msgspec.msgpack.decode(message)
    assert (name, moment, option) == ("0123456789ab", AT_NS // 10**9, {})
    assert record == {
        "container_id": ABOUT.id,
        "container_name": "/web",
        "source": "stdout",
        "log": "hello world",
        "x": "1",
        "my.label": "a\nb",
    }
    [message] = formats.Fluentd({"fluentd-sub-second-precision": "1", "fluentd-request-ack": "1"}, ABOUT).messages(OUT)
    _, moment, _, option = msgspec.msgpack.decode(message)
    assert (moment.code, int.from_bytes(moment.data[:4], "big"), int.from_bytes(moment.data[4:], "big")) == (
        0,
        AT_NS // 10**9,
        695_123_456,
    )
    assert option == {"chunk": formats.chunk_name(ABOUT.id, AT_NS)}


def test_fluentd_is_told_of_parts() -> None:
    fluentd = formats.Fluentd({}, ABOUT)
    lines = [b"a" * PART_BYTES, b"b" * PART_BYTES, b"c\n", b"whole\n", b"end without newline"]
    records = [msgspec.msgpack.decode(fluentd.messages(LogLine("stdout", AT_NS, data))[0])[2] for data in lines]
    assert [record.get("partial_ordinal") for record in records] == ["1", "2", "3", None, None]
    assert [record.get("partial_last") for record in records] == ["false", "false", "true", None, None]
    assert len({record.get("partial_id") for record in records[:3]}) == 1


def test_journald() -> None:
    [message] = formats.Journald(ABOUT).messages(OUT)
    assert b"\nMESSAGE=hello world\n" in message
    assert b"\nPRIORITY=6\n" in message
    assert b"CONTAINER_ID=0123456789ab\n" in message
    assert b"\nMY_LABEL\n\x03\0\0\0\0\0\0\0a\nb\n" in message
    [part] = formats.Journald(ABOUT).messages(LogLine("stderr", AT_NS, b"a" * PART_BYTES))
    assert b"\nCONTAINER_PARTIAL_MESSAGE=true\n" in part
    assert b"\nPRIORITY=3\n" in part


# --- connections -----------------------------------------------------------------------------------------------------


async def test_tcp_counts_as_sent_what_the_receiver_has() -> None:
    heard = bytearray()
    hold, over = asyncio.Event(), asyncio.Event()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        while data := await reader.read(65536):
            heard.extend(data)
        writer.close()
        over.set()

    server = await asyncio.start_server(receive, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    link = await connections.connect("tcp", "127.0.0.1", port)
    big = b"x" * 50_000_000
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(link.send([big, b"end"]))
        await asyncio.sleep(0.2)
        assert not sending.done(), "the receiver can't have it yet"
        hold.set()
    link.close()
    await over.wait()
    assert len(heard) == len(big) + 3
    server.close()


async def test_a_receiver_that_hung_up_is_noticed_before_more_is_sent() -> None:
    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    link = await connections.connect("tcp", "127.0.0.1", server.sockets[0].getsockname()[1])
    with pytest.raises(OSError):  # noqa: PT012 - the second comes as soon as the end was seen
        while True:
            await link.send([b"line\n"])
            await asyncio.sleep(0.01)
    link.close()
    server.close()


async def test_acknowledgements_are_waited_for(tmp_path: Path) -> None:
    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = msgspec.msgpack.decode(await reader.read(65536))
        if message[2]["log"] != "unheard":
            writer.write(msgspec.msgpack.encode({"ack": message[3]["chunk"]}))
            await reader.read(1)
        writer.close()

    server = await asyncio.start_unix_server(receive, str(tmp_path / "s"))
    driver = Driver("fluentd", {"fluentd-address": f"unix://{tmp_path}/s", "fluentd-request-ack": "true"}, ABOUT)
    link = await driver.connect()
    await link.send(*driver.encode([OUT]))
    link.close()
    link = await driver.connect()
    with pytest.raises(OSError):
        await link.send(*driver.encode([LogLine("stdout", AT_NS, b"unheard\n")]))
    link.close()
    server.close()


async def test_nobody_there() -> None:
    gelf = "gelf: cannot connect to GELF endpoint: 127.0.0.1"
    refused = "connect: connection refused"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for kind, config, words in (
            ("syslog", {"syslog-address": f"tcp://127.0.0.1:{port}"}, f"dial tcp 127.0.0.1:{port}: {refused}"),
            ("gelf", {"gelf-address": f"tcp://127.0.0.1:{port}"}, f"{gelf}:{port} dial"),
            ("fluentd", {"fluentd-address": f"127.0.0.1:{port}"}, f"dial tcp 127.0.0.1:{port}: {refused}"),
            ("syslog", {"syslog-address": "unixgram:///nonexistent"}, "dial unixgram /nonexistent: connect: no such"),
        ):  # fmt: skip
            with pytest.raises(OSError) as caught:
                await Driver(kind, config, ABOUT).connect()
            assert words in str(caught.value.strerror)


async def test_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "JOURNAL", str(tmp_path / "socket"))
    driver = Driver("journald", {"tag": "{{.Name}}"}, ABOUT)
    with pytest.raises(OSError, match="journald is not enabled on this host"):
        await driver.connect()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        link = await driver.connect()
        await link.send(*driver.encode([OUT]))
        fields = dict(line.split(b"=", 1) for line in receiver.recv(65536).splitlines() if b"=" in line)
        assert (fields[b"MESSAGE"], fields[b"CONTAINER_TAG"], fields[b"PRIORITY"]) == (b"hello world", b"web", b"6")
        link.close()


async def test_the_host_s_own_syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOCAL_SYSLOG", (str(tmp_path / "absent"), str(tmp_path / "log")))
    driver = Driver("syslog", {}, ABOUT)
    with pytest.raises(OSError, match="Unix syslog delivery error"):
        await driver.connect()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        link = await driver.connect()
        await link.send(*driver.encode([OUT]))
        assert receiver.recv(65536).endswith(b"0123456789ab[3]: hello world\n")
        link.close()


async def test_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        link = await connections.connect("udp", "127.0.0.1", receiver.getsockname()[1])
        await link.send([b"one", b"two"])
        assert [receiver.recv(100), receiver.recv(100)] == [b"one", b"two"]
    for _ in range(3):
        await link.send([b"into the void"])
        await asyncio.sleep(0.01)
    link.close()


# --- places in a log -------------------------------------------------------------------------------------------------


def numbers(reader: LogReader) -> list[int]:
    found = []
    while lines := reader.read():
        found += [int(line.data) for line in lines]
    return found


def writing(path: Path, **limits: Any) -> JsonFileLog:
    return JsonFileLog(str(path), **limits)


def test_a_reader_goes_on_where_another_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = writing(path, max_bytes=2000, max_files=5)
    for number in range(30):
        log.write(1, b"%d\n" % number)
    first = LogReader(path)
    assert numbers(first) == list(range(30))
    cursor = msgspec.json.decode(msgspec.json.encode(first.cursor()), type=type(first.cursor()))
    first.close()
    for number in range(30, 75):
        log.write(1, b"%d\n" % number)
    second = LogReader(path)
    assert second.resume(cursor)
    assert numbers(second) == list(range(30, 75))
    second.close()
    log.close()


def test_a_place_that_was_rotated_away_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = writing(path, max_bytes=500, max_files=2)
    log.write(1, b"0\n")
    reader = LogReader(path)
    assert numbers(reader) == [0]
    cursor = reader.cursor()
    reader.close()
    assert cursor is not None
    for number in range(1, 40):
        log.write(1, b"%d\n" % number)
    late = LogReader(path)
    assert not late.resume(cursor)
    left = numbers(late)
    assert left == list(range(left[0], 40))
    late.close()
    log.close()

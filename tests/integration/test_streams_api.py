"""Attach (taken-over connections and websockets), exec, the verbs on running containers, and the events they leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import aiohttp
import pytest

from tests.integration.shoald import Api, unframed

pytestmark = pytest.mark.root

ECHO = ("sh", "-c", "echo ready; echo problem >&2; while read line; do echo got $line; done; echo end")
UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


def till(seconds: float = 20.0) -> Any:
    """Yields until the time is over, then fails the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.03)
    raise AssertionError("it did not come to be in time")


def ready(api: Api, name: str, text: bytes = b"ready") -> None:
    for _ in till():
        if text in api("GET", f"/containers/{name}/logs", stdout=1, stderr=1).body:
            return


@pytest.mark.promise(
    *(f"containers.attach.b{n}" for n in (2, 4, 16)),
    "containers.attach.status.400",
    *(f"containers.attach.query.{name}" for name in ("detachKeys", "logs", "stream", "stdin", "stdout", "stderr")),
    "containers.create.b8",
    "further.docker-run.b1",
    "further.docker-run.b2",
    "further.docker-run.b3",
    "further.docker-run.b4",
    "further.docker-run.b5",
    "further.docker-run.status.404",
    "further.hijacking.b2",
)
def test_attach(api: Api) -> None:
    missing = api("POST", "/containers/create", {"Image": "no-such-image"})
    assert (missing.status, "No such image" in missing.message) == (404, True)
    api.run("one", *ECHO, OpenStdin=True)
    ready(api, "one", b"problem")
    path = "/containers/one/attach"
    assert api("POST", path).status == 400
    assert api("POST", path, logs=0, stream=0).status == 400
    assert api("POST", path, stream=1, stdout=1, detachKeys="ctrl-nope").status == 400
    for query, wanted in (
        ({"stdout": 1}, [(1, b"ready\n")]),
        ({"stderr": "true"}, [(2, b"problem\n")]),
        ({}, []),
        ({"stdout": 0}, []),
    ):
        with api.taken("POST", path, head=UPGRADE, logs=1, stream=0, **query) as stream:
            assert stream.status == 101
            assert unframed(stream.rest()) == wanted
    with api.taken("POST", path, stream=1, stdin=1, stdout=1) as deaf, api.taken("POST", path, stream=1) as nothing:
        with api.taken("POST", path, head=UPGRADE, logs=1, stream=1, stdin=1, stdout=1, stderr=1) as stream:
            assert sorted(unframed(stream.read(8 + 6 + 8 + 8))) == [(1, b"ready\n"), (2, b"problem\n")]
            stream.send(b"words\n")
            assert stream.read(8 + 10) == b"\x01\0\0\0\0\0\0\x0agot words\n"
        with api.taken("POST", path, stream=1, stdin=1) as silent:
            silent.send(b"more\n")
        assert deaf.read(18 + 17) == b"\x01\0\0\0\0\0\0\x0agot words\n\x01\0\0\0\0\0\0\x09got more\n"
        api.ok("POST", "/containers/one/kill")
        assert (deaf.rest(), nothing.rest()) == (b"", b"")

    api.run("tty", "sh", "-c", "echo ready; cat", Tty=True, OpenStdin=True)
    ready(api, "tty")
    with api.taken("POST", "/containers/tty/attach", stream=1, stdin=1, stdout=1, detachKeys="ctrl-a,x") as stream:
        stream.send(b"in\r")
        stream.until(b"in\r\n")
        stream.send(b"\x01x")
        stream.rest()  # detached: the connection ends, the container does not
    assert api.inspect("tty")["State"]["Running"]


@pytest.mark.promise(
    *(f"containers.attach-ws.b{n}" for n in range(1, 6)),
    *(f"containers.attach-ws.status.{code}" for code in (200, 400, 404)),
    *(f"containers.attach-ws.query.{name}" for name in ("detachKeys", "logs", "stream", "stdin", "stdout", "stderr")),
)
def test_attach_by_websocket(api: Api) -> None:
    api.run("one", *ECHO, OpenStdin=True)
    api.run("tty", "cat", Tty=True, OpenStdin=True)
    ready(api, "one", b"problem")

    async def body() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(api.path))) as session:

            def opened(name: str, **query: Any) -> Any:
                return session.ws_connect(f"http://shoal{api.url(f'/containers/{name}/attach/ws', query)}")

            async with opened("one", logs=0, stream=1, stdin=1, stdout=1, stderr=1) as everything:
                await everything.send_str("text\n")
                assert (await everything.receive()).data == "got text\n"
                await everything.send_bytes(b"bytes\n")
                assert (await everything.receive()).data == "got bytes\n"
                async with opened("one", logs=1, stdout=1) as past:
                    seen = "".join([message.data async for message in past])
                    assert seen == "ready\ngot text\ngot bytes\n"
                async with opened("one", logs=1, stderr=1) as past:
                    assert [message.data async for message in past] == ["problem\n"]
                async with opened("one", stream=1, stdin=1) as silent:
                    await silent.send_str("quiet\n")
                    assert (await everything.receive()).data == "got quiet\n"
                await asyncio.to_thread(api.ok, "POST", "/containers/one/kill")
                assert (await everything.receive()).type is aiohttp.WSMsgType.CLOSE
            async with opened("tty", stream=1, stdin=1, stdout=1, detachKeys="ctrl-a") as keys:
                await keys.send_bytes(b"x\r")
                assert "x" in (await keys.receive()).data
                await keys.send_bytes(b"\x01")
                while (await keys.receive()).type is not aiohttp.WSMsgType.CLOSE:
                    pass
            for name, query, status in (("nobody", {"stream": 1}, 404), ("one", {}, 400), ("one", {"logs": 0}, 400)):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await opened(name, **query)
                assert refused.value.status == status

    asyncio.run(body())
    assert api.inspect("tty")["State"]["Running"]
    assert api("GET", "/containers/tty/attach/ws", stream=1).status == 400


@pytest.mark.promise(
    *(f"exec.create.b{n}" for n in range(3, 8)),
    *(f"exec.create.body.{name}" for name in ("AttachStdin", "AttachStdout", "AttachStderr", "DetachKeys", "Tty")),
    *(f"exec.create.body.{name}" for name in ("Cmd", "Privileged", "User")),
    "exec.create.response.Id",
    "exec.create.response.Warnings[]",
    *(f"exec.start.b{n}" for n in (1, 2, 5, 6)),
    "exec.start.status.200",
    "exec.start.status.409",
    "exec.start.body.Detach",
    "exec.start.body.Tty",
    *(f"exec.resize.b{n}" for n in (1, 2)),
    "exec.resize.status.201",
    "exec.resize.query.h",
    "exec.resize.query.w",
    "exec.inspect.b1",
    *(f"exec.inspect.response.{name}" for name in ("CanRemove", "ContainerID", "DetachKeys", "ExitCode", "ID")),
    *(
        f"exec.inspect.response.{name}"
        for name in ("OpenStderr", "OpenStdin", "OpenStdout", "ProcessConfig", "Running")
    ),
    *(
        f"exec.inspect.response.ProcessConfig.{name}"
        for name in ("arguments[]", "entrypoint", "privileged", "tty", "user")
    ),
)
def test_exec(api: Api) -> None:
    one = api.run("one")

    def made(**body: Any) -> str:
        answer = api("POST", "/containers/one/exec", {"AttachStdout": True, "AttachStderr": True} | body)
        assert answer.status == 201
        assert len(answer.value["Id"]) == 64
        assert answer.value["Warnings"] == []
        return str(answer.value["Id"])

    both = made(Cmd=["sh", "-c", "echo out; echo err >&2; exit 4"])
    before = api.ok("GET", f"/exec/{both}/json")
    assert (before["Running"], before["ExitCode"], before["ContainerID"]) == (False, None, one)
    started = api("POST", f"/exec/{both}/start", {"Detach": False, "Tty": False})
    assert (started.status, sorted(unframed(started.body))) == (200, [(1, b"out\n"), (2, b"err\n")])
    after = api.ok("GET", f"/exec/{both}/json")
    assert (after["ID"], after["Running"], after["ExitCode"]) == (both, False, 4)
    assert (after["OpenStdin"], after["OpenStdout"], after["OpenStderr"], after["CanRemove"]) == (
        False,
        True,
        True,
        False,
    )
    config = after["ProcessConfig"]
    assert (config["entrypoint"], config["arguments"]) == ("sh", ["-c", "echo out; echo err >&2; exit 4"])
    assert (config["tty"], config["privileged"]) == (False, False)
    only = api("POST", f"/exec/{made(Cmd=['sh', '-c', 'echo out; echo err >&2'], AttachStdout=False)}/start", {})
    assert unframed(only.body) == [(2, b"err\n")]
    assert unframed(api("POST", f"/exec/{made(Cmd='hostname')}/start", {}).body) == [(1, f"{one[:12]}\n".encode())]
    for user, shown in (("nobody", "65534 65534"), ("nobody:bin", "65534 2"), ("7", "7 0"), ("7:8", "7 8")):
        command = ["sh", "-c", "echo $(id -u) $(id -g)"]
        item = made(Cmd=command, User=user)
        assert unframed(api("POST", f"/exec/{item}/start", {}).body) == [(1, f"{shown}\n".encode())]
        assert api.ok("GET", f"/exec/{item}/json")["ProcessConfig"]["user"] == user
    caps = ["grep", "CapEff", "/proc/self/status"]
    plain, more = (
        int(unframed(api("POST", f"/exec/{made(Cmd=caps, Privileged=privileged)}/start", {}).body)[0][1].split()[1], 16)
        for privileged in (False, True)
    )
    assert plain & more == plain < more

    detached = made(Cmd=["sh", "-c", "sleep 0.5; echo done > /done"])
    assert api("POST", f"/exec/{detached}/start", {"Detach": True}).body == b""
    assert api.ok("GET", f"/exec/{detached}/json")["Running"]
    for _ in till():
        if api.exec("one", "cat", "/done")[1] == "done\n":
            break

    tty = made(Cmd=["sh", "-c", "stty size; read x; stty size; cat"], Tty=True, AttachStdin=True, DetachKeys="ctrl-a")
    with api.taken("POST", f"/exec/{tty}/start", {"Tty": True}, head=UPGRADE) as stream:
        assert stream.status == 101
        stream.until(b"\r\n")
        assert api("POST", f"/exec/{tty}/resize", h=33, w=99).status == 201
        stream.send(b"\r")
        assert b"33 99" in stream.until(b"33 99\r\n")
        stream.send(b"\x01")
        stream.rest()
    shown = api.ok("GET", f"/exec/{tty}/json")
    assert (shown["Running"], shown["ProcessConfig"]["tty"], shown["OpenStdin"]) == (True, True, True)
    piped = made(Cmd=["sleep", "100"])
    assert api("POST", f"/exec/{piped}/resize", h=1, w=1).status >= 400  # not started
    api.ok("POST", f"/exec/{piped}/start", {"Detach": True})
    assert api("POST", f"/exec/{piped}/resize", h=1, w=1).status >= 400  # no tty
    assert api("POST", f"/exec/{tty}/resize", h="x", w=1).status == 400
    assert api("POST", f"/exec/{'0' * 64}/start", {}).status == 404
    assert api("POST", f"/exec/{both}/start", {}).status == 409
    waiting = made(Cmd=["true"])
    api.ok("POST", "/containers/one/pause")
    assert api("POST", f"/exec/{waiting}/start", {}).status == 409
    api.ok("POST", "/containers/one/unpause")


@pytest.mark.promise(
    "containers.resize.status.404",
    "containers.resize.query.h",
    "containers.resize.query.w",
    "containers.start.b3",
    "containers.start.query.detachKeys",
    "containers.stop.query.t",
    "containers.restart.b2",
    "containers.restart.query.t",
    "containers.kill.query.signal",
    "containers.rename.query.name",
    "containers.remove.b5",
    "containers.remove.status.400",
    "containers.remove.query.v",
    "containers.remove.query.force",
)
def test_verbs(api: Api) -> None:
    stubborn = ("sh", "-c", "trap 'echo asked' TERM USR1; echo ready; while true; do sleep 0.05; done")
    api.create("one", *stubborn, Tty=True)
    assert api("POST", "/containers/one/start", detachKeys="ctrl-a").status == 204
    ready(api, "one")
    begun = time.monotonic()
    api.ok("POST", "/containers/one/restart", t=1)
    assert 1 <= time.monotonic() - begun < 8
    ready(api, "one", b"asked")
    assert api("POST", "/containers/one/resize", h=21, w=87).status == 200
    assert api.exec("one", "sh", "-c", "stty size < /proc/1/fd/0")[1] == "21 87\n"
    assert api("POST", "/containers/nobody/resize", h=1, w=1).status == 404
    assert api("POST", "/containers/one/resize", h=1).status == 400
    assert api("POST", "/containers/one/rename", name="two").status == 204
    assert api.inspect("two")["Name"] == "/two"
    for signal in ("SIGUSR1", "USR1", 10):
        count = api("GET", "/containers/two/logs", stdout=1).body.count(b"asked")
        assert api("POST", "/containers/two/kill", signal=signal).status == 204
        for _ in till():
            if api("GET", "/containers/two/logs", stdout=1).body.count(b"asked") > count:
                break
    assert api("POST", "/containers/two/kill", signal="ODD").status == 400
    begun = time.monotonic()
    api.ok("POST", "/containers/two/stop", t=1)
    assert 1 <= time.monotonic() - begun < 8
    assert api.inspect("two")["State"]["ExitCode"] == 137
    assert api("POST", "/containers/two/stop", t="x").status == 400
    api.ok("POST", "/containers/two/start")
    api.ok("POST", "/containers/two/kill")  # answers when it has ended
    assert not api.inspect("two")["State"]["Running"]

    for remove, left in ((0, 1), (1, 0)):
        api.run("three", Volumes={"/v": {}})
        assert api("DELETE", "/containers/three", force=0).status == 409
        assert api("DELETE", "/containers/three", force=1, v=remove).status == 204
        assert len(api.ok("GET", "/volumes")["Volumes"]) == left
        api.clear()
        assert api("GET", "/containers/three/json").status == 404
    assert api("DELETE", "/containers/db", link=1).status == 400


@pytest.mark.promise("containers.attach.query.logs", "containers.attach.query.stream")
@pytest.mark.parametrize("tty", [False, True])
def test_log_and_stream_join_without_gap_or_repeat(api: Api, tty: bool) -> None:
    """A writer that never pauses, and lines that are half written when the client comes."""
    script = "n=0; while true; do n=$((n+1)); printf $n; [ $((n % 7)) = 0 ] && sleep 0.01; echo ,; done"
    api.run("one", "sh", "-c", script, Tty=tty, host={"LogConfig": {"Config": {"max-size": "1m", "max-file": "9"}}})
    ready(api, "one", b"50,")
    for _ in range(8):
        query = {"logs": 1, "stream": 1, "stdout": 1, "stderr": 1}
        with api.taken("POST", "/containers/one/attach", head=UPGRADE, **query) as stream:
            seen = bytearray()
            ended = time.monotonic() + 0.3
            while time.monotonic() < ended:
                head = b"" if tty else stream.read(8)
                seen += stream.read(1 if tty else int.from_bytes(head[4:], "big"))
        found = seen.decode().replace("\r", "").split(",\n")[:-1]
        assert found == [str(number) for number in range(1, len(found) + 1)]
        assert len(found) > 50


EVENT = "misc.events.response."
CONTAINER = ("attach", "create", "destroy", "detach", "die", "exec_create", "exec_detach", "exec_start", "export")
CONTAINER += ("health_status", "kill", "pause", "rename", "resize", "restart", "start", "stop", "top", "unpause")
CONTAINER += ("update", "oom", "commit")


@pytest.mark.promise(
    *(f"misc.events.b{n}" for n in (1, 4, 5, 9, 26, 27)),
    "misc.events.status.200",
    "misc.events.query.since",
    "misc.events.query.until",
    "misc.events.query.filters",
    *(
        f"misc.events.query.filters.{name}"
        for name in ("container", "event", "image", "label", "type", "volume", "network")
    ),
    *(f"{EVENT}{name}" for name in ("status", "id", "Type", "Action", "Actor", "Actor.ID", "Actor.Attributes", "time")),
    *(f"{EVENT}{name}" for name in ("timeNano", "from")),
    *(
        f"{EVENT}Actor.Attributes.{name}"
        for name in ("name", "<container label>", "image", "container", "type", "height")
    ),
    *(f"{EVENT}Actor.Attributes.{name}" for name in ("width", "exitCode")),
    *(f"{EVENT}events.container.{name}" for name in CONTAINER),
    *(f"{EVENT}events.volume.{name}" for name in ("create", "mount", "unmount", "destroy")),
    *(f"{EVENT}events.network.{name}" for name in ("create", "connect", "disconnect", "destroy")),
)
def test_events(api: Api) -> None:
    since = f"{time.time():.6f}"
    api.ok("POST", "/networks/create", {"Name": "blue"})
    with api.taken("GET", "/events", filters={"type": ["container"]}) as live:
        check = {"Test": ["CMD", "true"], "Interval": 100_000_000}
        host = {"NetworkMode": "blue", "Binds": ["vol:/v"]}
        one = api.create("one", "cat", host=host, Tty=True, OpenStdin=True, Labels={"tier": "web"}, Healthcheck=check)
        with api.taken("POST", "/containers/one/attach", stream=1, stdin=1, stdout=1) as stream:
            api.ok("POST", "/containers/one/start")
            api.ok("POST", "/containers/one/resize", h=20, w=70)
            stream.send(b"\x10\x11")
            stream.rest()
        live.until(b"health_status: healthy")
    made = api.ok(
        "POST", "/containers/one/exec", {"Cmd": ["cat"], "Tty": True, "AttachStdin": True, "AttachStdout": True}
    )
    with api.taken("POST", f"/exec/{made['Id']}/start", {"Tty": True}, head=UPGRADE) as stream:
        stream.send(b"\x10\x11")
        stream.rest()
    api.ok("GET", "/containers/one/top")
    for verb in ("pause", "unpause"):
        api.ok("POST", f"/containers/one/{verb}")
    api.ok("POST", "/containers/one/update", {"CpuShares": 300})
    api.ok("POST", "/containers/one/rename", name="two")
    api("GET", "/containers/two/export")
    api.ok("POST", "/commit", {}, container="two", repo="made")
    api.ok("POST", "/containers/two/restart", t=0)
    api.ok("POST", "/containers/two/stop", t=0)
    api.ok("DELETE", "/containers/two")
    hungry = api.run("hungry", "sh", "-c", "head -c 200000000 /dev/zero | tail", host={"Memory": 16 << 20})
    api.ok("POST", "/containers/hungry/wait")
    api.ok("DELETE", "/volumes/vol")
    api.ok("DELETE", "/images/made")
    api.ok("DELETE", "/containers/hungry")
    api.ok("DELETE", "/networks/blue")

    def events(**filters: list[str]) -> list[dict[str, Any]]:
        answer = api("GET", "/events", since=since, until=f"{time.time():.6f}", filters=filters)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        return [json.loads(line) for line in answer.body.splitlines()]

    def actions(**filters: list[str]) -> list[str]:
        return [event["Action"].partition(":")[0] for event in events(**filters)]

    everything = events()
    assert all(event["timeNano"] >= float(since) * 1e9 for event in everything)
    assert everything[0]["Actor"]["Attributes"]["name"] == "blue", "what was before is not told"
    assert [event["timeNano"] for event in everything] == sorted(event["timeNano"] for event in everything)
    for event in everything:
        assert event["time"] == event["timeNano"] // 1_000_000_000
        assert event["Actor"].keys() == {"ID", "Attributes"}
        if event["Type"] == "container":
            assert (event["status"], event["id"]) == (event["Action"], event["Actor"]["ID"])
            assert event["from"] == "busybox"
        elif event["Type"] == "network":
            assert "status" not in event
    assert set(CONTAINER) <= set(actions(type=["container"]))
    lived = events(container=[one])
    first = lived[0]["Actor"]["Attributes"]
    assert (first["name"], first["image"], first["tier"]) == ("one", "busybox", "web")
    of_run = [e for e in everything if e["Type"] in ("container", "network") and "exec" not in e["Action"]]
    short = ["create", "create", "attach", "connect", "start", "resize"]  # the network's own create, then the run
    assert [e["Action"] for e in of_run][:6] == short
    resized = next(e for e in lived if e["Action"] == "resize")["Actor"]["Attributes"]
    assert (resized["height"], resized["width"]) == ("20", "70")
    assert [e["Actor"]["Attributes"]["exitCode"] for e in lived if e["Action"] == "die"] == ["137", "137"]
    joined = next(e for e in everything if e["Action"] == "connect")["Actor"]["Attributes"]
    assert (joined["container"], joined["name"], joined["type"]) == (one, "blue", "bridge")
    assert Counter(actions(type=["volume"])) == {"create": 1, "mount": 2, "unmount": 2, "destroy": 1}
    assert set(actions(type=["network"], network=["blue"])) == {"create", "connect", "disconnect", "destroy"}
    assert actions(event=["rename"]) == ["rename"]
    assert set(actions(volume=["vol"])) == {"create", "mount", "unmount", "destroy"}
    assert {event["Actor"]["ID"] for event in events(label=["tier=web"], type=["container"])} == {one}
    assert events(label=["tier=nope"]) == []
    assert {event["Actor"]["ID"] for event in events(image=["busybox"], type=["container"])} >= {one, hungry}
    assert "oom" in actions(container=["hungry"])
    assert actions(event=["oom", "rename"], container=["hungry"]) == ["oom"]


@pytest.mark.promise(*(f"{EVENT}events.image.{name}" for name in ("delete", "import", "load", "save", "tag", "untag")))
def test_events_of_images(api: Api) -> None:
    since = f"{time.time():.6f}"
    api.ok("POST", "/images/busybox/tag", repo="other", tag="v1")
    saved = api("GET", "/images/other:v1/get").body
    api.ok("DELETE", "/images/other:v1")
    assert api("POST", "/images/load", saved).status == 200
    api.create("one")
    exported = api("GET", "/containers/one/export").body
    assert api("POST", "/images/create", exported, fromSrc="-", repo="flat").status == 200
    api.ok("DELETE", "/images/flat")
    api.ok("DELETE", "/images/other:v1")
    answer = api("GET", "/events", since=since, until=f"{time.time():.6f}", filters={"type": ["image"]})
    actions = [json.loads(line)["Action"] for line in answer.body.splitlines()]
    assert Counter(actions).keys() >= {"tag", "save", "untag", "load", "import", "delete"}
    for line in answer.body.splitlines():
        event = json.loads(line)
        assert (event["status"], event["id"]) == (event["Action"], event["Actor"]["ID"])

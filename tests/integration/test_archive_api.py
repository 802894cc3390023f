"""Archives out of and into containers over HTTP, and a container that tries to lead them astray."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from lab.unixhttp import Answer
from tests.integration.shoald import Api

pytestmark = pytest.mark.root

CALLS = int(os.environ.get("SHOAL_ARCHIVE_CALLS", "450"))
"""GET, PUT and HEAD of archives while the container swaps what they lead to."""
STAT = "x-docker-container-path-stat"
SETUP = "mkdir -p /d/e; echo x > /d/e/x; ln -s /d/e /ln; ln -s /nowhere /dang; echo v > /v/v; exec sleep 1000"


def names(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        return tar.getnames()


def packed(**files: bytes | None) -> bytes:
    """A tar; None is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data or b""))
    return buffer.getvalue()


def stat_of(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    return dict(json.loads(base64.b64decode(answer.headers[STAT], validate=True)))


@pytest.mark.promise(
    *(f"containers.archive-get.b{n}" for n in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13)),
    *(f"containers.archive-get.status.{code}" for code in (200, 400, 404)),
    "containers.archive-get.query.path",
    "containers.archive-stat.b1",
    "containers.archive-stat.b2",
    *(f"containers.archive-stat.status.{code}" for code in (200, 400, 404)),
    "containers.archive-stat.query.path",
    *(
        f"containers.archive-{verb}.response.X-Docker-Container-Path-Stat.{field}"
        for verb in ("get", "stat")
        for field in ("name", "size", "mode", "mtime", "linkTarget")
    ),
)
@pytest.mark.parametrize("running", [True, False])
def test_archives_out(api: Api, running: bool, tmp_path: Path) -> None:
    (tmp_path / "bound").write_text("bound")
    api.run("box", "sh", "-c", SETUP, host={"Binds": ["vol:/v", f"{tmp_path}:/b:ro"]})
    while api.exec("box", "test", "-e", "/v/v")[0]:
        pass
    if not running:
        api.ok("POST", "/containers/box/stop", t=0)
    path = "/containers/box/archive"
    for shown in ("/d", "d", "/../d"):
        assert names(api("GET", path, path=shown)) == ["d", "d/e", "d/e/x"]
    assert names(api("GET", path, path="/d/.")) == [".", "./e", "./e/x"]
    assert names(api("GET", path, path="/ln/")) == ["ln", "ln/x"]
    assert names(api("GET", path, path="/ln")) == ["ln"]
    assert names(api("GET", path, path="/v")) == ["v", "v/v"]
    assert names(api("GET", path, path="/b/bound")) == ["bound"]
    assert "/etc/hosts" in names(api("GET", path, path="/"))

    found = stat_of(api("HEAD", path, path="/d/e/x"))
    assert found.pop("mtime").endswith("Z")
    assert found == {"name": "x", "size": 2, "mode": 0o644, "linkTarget": ""}
    assert stat_of(api("HEAD", path, path="/root"))["mode"] == 2147484096
    assert stat_of(api("HEAD", path, path="/tmp"))["mode"] == 1 << 31 | 1 << 20 | 0o777
    assert stat_of(api("HEAD", path, path="/ln"))["linkTarget"] == "/d/e"
    assert stat_of(api("HEAD", path, path="/dang"))["linkTarget"] == "/nowhere"
    for one in ("/d", "/ln", "/v/v", "/"):
        got, head = api("GET", path, path=one), api("HEAD", path, path=one)
        assert got.headers[STAT] == head.headers[STAT]
        assert head.body == b""
        assert " " not in base64.b64decode(head.headers[STAT]).decode()

    for method in ("GET", "HEAD"):
        assert api(method, path).status == 400
        assert api(method, path, path="").status == 400
        assert api(method, path, path="/d/e/x/").status == 400
        assert api(method, path, path="/d/e/x/.").status == 400
        assert api(method, path, path="/nope").status == 404
        assert api(method, "/containers/nobody/archive", path="/").status == 404
        for system in ("/proc/cpuinfo", "/sys/kernel", "/dev/null"):
            assert api(method, path, path=system).status == 404
    assert api("GET", path).message == "bad parameter: path cannot be empty"


@pytest.mark.promise(
    *(f"containers.archive-put.b{n}" for n in range(1, 11)),
    *(f"containers.archive-put.status.{code}" for code in (200, 400, 403, 404)),
    "containers.archive-put.query.path",
    "containers.archive-put.query.noOverwriteDirNonDir",
    "containers.archive-put.body._stream",
)
@pytest.mark.parametrize("running", [True, False])
def test_archives_in(api: Api, running: bool) -> None:
    api.run("box", "sh", "-c", SETUP, host={"Binds": ["vol:/v", "vol:/ro:ro"]})
    while api.exec("box", "test", "-e", "/v/v")[0]:
        pass
    if not running:
        api.ok("POST", "/containers/box/stop", t=0)
    path = "/containers/box/archive"
    data = packed(**{"new": None, "new/file": b"12345", "plain": b"p"})
    assert api("PUT", path, data, path="/d").status == 200
    assert names(api("GET", path, path="d/new")) == ["new", "new/file"]
    assert api("PUT", path, data, path="d/e").status == 200
    assert names(api("GET", path, path="/ln/plain")) == ["plain"]
    assert api("PUT", path, data, path="/ln").status == 200  # the directory it leads to
    assert api("PUT", path, data, path="/v").status == 200
    assert "v/plain" in names(api("GET", path, path="/v"))

    assert api("PUT", path, data).status == 400
    assert api("PUT", path, data, path="").status == 400
    assert api("PUT", path, data, path="/d/e/x").message == "extraction point is not a directory: /d/e/x"
    assert api("PUT", path, data, path="/nope").status == 404
    assert api("PUT", "/containers/nobody/archive", data, path="/").status == 404
    assert api("PUT", path, b"no tar" * 200, path="/d").status == 400

    flat = packed(new=b"file where a directory is")
    deep = packed(plain=None)
    for one in (flat, deep):
        refused = api("PUT", path, one, path="/d", noOverwriteDirNonDir="1")
        assert (refused.status, "cannot overwrite" in refused.message) == (400, True)
    assert api("PUT", path, flat, path="/d", noOverwriteDirNonDir="false").status == 200
    assert names(api("GET", path, path="/d/new")) == ["new"]
    refused = api("PUT", path, data, path="/ro")
    assert (refused.status, refused.message) == (403, "mounted volume is marked read-only")


def test_a_readonly_root(api: Api) -> None:
    api.create("box", host={"ReadonlyRootfs": True, "Binds": ["vol:/v"]})
    refused = api("PUT", "/containers/box/archive", packed(a=b"1"), path="/tmp")
    assert (refused.status, refused.message) == (403, "container rootfs is marked read-only")
    assert api("PUT", "/containers/box/archive", packed(a=b"1"), path="/v").status == 200


def test_a_new_containers_volume_is_filled_first(api: Api) -> None:
    api.create("box", Volumes={"/etc": {}})
    found = names(api("GET", "/containers/box/archive", path="/etc"))
    assert {"etc/passwd", "etc/group"} <= set(found)
    api.ok("POST", "/containers/box/start")
    assert api.exec("box", "cat", "/etc/passwd")[1].startswith("root:")


SWAP = """
mkdir -p /real /t; echo inside > /real/secret
while true; do
  ln -s /host/../../../../../../HOST /t/x; mv -T /t/x /t/here 2>/dev/null; rm -rf /t/here
  mkdir /t/here; echo inside > /t/here/secret; rm -rf /t/here
done
"""


@pytest.mark.timeout(60 + CALLS // 5)
def test_a_container_that_swaps_links_never_shows_the_host(api: Api, tmp_path: Path) -> None:
    """What lies on the host at the link's target is neither read nor written, nor told of."""
    outside = "outside of all containers"
    (tmp_path / "secret").write_text(outside)
    api.run("box", "sh", "-c", SWAP.replace("HOST", str(tmp_path)))
    path, seen = "/containers/box/archive", 0
    for n in range(CALLS // 3):
        head = api("HEAD", path, path="/t/here/secret")
        assert head.status in (200, 404)
        if head.status == 200:
            assert stat_of(head)["size"] != len(outside)
        got = api("GET", path, path="/t/here/secret" if n % 2 else "/t")
        assert b"outside" not in got.body
        put = api("PUT", path, packed(planted=b"p"), path="/t/here")
        seen += put.status == 200
        assert put.status in (200, 400, 404), put.body
        assert sorted(os.listdir(tmp_path)) == ["secret"]
    assert seen
    assert (tmp_path / "secret").read_text() == outside


def test_archives_are_told(api: Api) -> None:
    api.create("box")
    api.ok("GET", "/containers/box/json")
    assert names(api("GET", "/containers/box/archive", path="/etc/passwd")) == ["passwd"]
    assert api("PUT", "/containers/box/archive", packed(a=b"1"), path="/tmp").status == 200
    now = time.time()
    body = api("GET", "/events", since=now - 30, until=now, filters={"container": ["box"]}).body
    actions = [json.loads(line)["Action"] for line in body.splitlines()]
    assert actions[-2:] == ["archive-path", "extract-to-dir"]

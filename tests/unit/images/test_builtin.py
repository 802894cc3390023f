"""The built-in busybox: registered once, runnable layout, the same id everywhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.unit.images.conftest import Host
from worker.engine.images.builtin import ensure_busybox

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs Debian's busybox-static"),
]


async def test_busybox_can_be_resolved_and_has_a_shell(host: Host) -> None:
    image = await ensure_busybox(host.store, BUSYBOX)
    assert image is not None
    view = await host.store.resolve("busybox")
    assert view.id == image
    assert view.config["Cmd"] == ["sh"]
    (layer,) = view.layers
    assert (layer / "bin/sh").stat().st_ino == (layer / "bin/busybox").stat().st_ino
    assert stat.S_IMODE((layer / "tmp").stat().st_mode) == 0o1777
    assert (layer / "etc/passwd").read_text().startswith("root:x:0:0:")
    assert (layer / "bin").stat().st_uid == 0


async def test_the_same_binary_gives_the_same_id(host: Host, tmp_path: Path) -> None:
    first = await ensure_busybox(host.store, BUSYBOX)
    other = Host(tmp_path / "other")
    await other.open()
    second = await ensure_busybox(other.store, BUSYBOX)
    await other.shut()
    assert first == second


async def test_an_image_of_that_name_is_left_alone(host: Host) -> None:
    first = await ensure_busybox(host.store, BUSYBOX)
    seen = await host.files()
    assert await ensure_busybox(host.store, Path("/nonexistent")) == first
    assert await host.files() == seen


async def test_it_is_there_after_a_restart(host: Host) -> None:
    image = await ensure_busybox(host.store, BUSYBOX)
    await host.shut()
    store = await host.open()
    view = await store.resolve("busybox:latest")
    assert view.id == image
    assert (view.layers[0] / "bin/ls").exists()


async def test_a_missing_binary_is_no_failure(host: Host) -> None:
    assert await ensure_busybox(host.store, Path("/nonexistent")) is None

"""Volumes whose options ask for a mount, on a real kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from api.errors import InvalidArgument
from api.types.volume import VolumeCreate
from tests.unit.volumes.test_volumes import Heard
from worker.engine.records import Records
from worker.engine.volumes.store import VolumeStore

pytestmark = pytest.mark.root


async def test_a_tmpfs_volume_is_there_while_somebody_uses_it(tmp_path: Path) -> None:
    records = Records(tmp_path / "engine.db")
    await records.open()
    store = VolumeStore(records, tmp_path, Heard())
    await store.start_up()
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=64k,nosuid"}
    await store.create(VolumeCreate(name="ram", driver_opts=options))
    path = await store.mount("ram", "c1")
    assert await store.mount("ram", "c2") == path
    (path / "file").write_text("x")
    await store.close()

    store = VolumeStore(records, tmp_path, Heard())  # the daemon was restarted, both containers ran on
    await store.start_up()
    await store.unmount("ram", "c1")
    assert (path / "file").read_text() == "x"
    await store.unmount("ram", "c2")
    assert list(path.iterdir()) == []
    await store.remove("ram")
    await store.close()
    await records.close()


async def test_a_bind_volume_shows_the_directory_and_never_removes_it(tmp_path: Path) -> None:
    records = Records(tmp_path / "engine.db")
    await records.open()
    store = VolumeStore(records, tmp_path, Heard())
    await store.start_up()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("there")
    bind = {"type": "none", "device": str(tmp_path / "source"), "o": "bind"}
    await store.create(VolumeCreate(name="bound", driver_opts=bind))
    path = await store.mount("bound", "c1")
    assert (path / "file").read_text() == "there"
    await store.unmount("bound", "c1")
    assert list(path.iterdir()) == []
    await store.remove("bound")
    assert (tmp_path / "source/file").read_text() == "there"

    await store.create(VolumeCreate(name="bad", driver_opts={**bind, "device": str(tmp_path / "nowhere")}))
    with pytest.raises(InvalidArgument, match=r"failed to mount local volume: .* no such file or directory"):
        await store.mount("bad", "c1")
    await store.remove("bad")
    await store.close()
    await records.close()


async def test_finishing_a_removal_never_walks_into_a_mount(tmp_path: Path) -> None:
    records = Records(tmp_path / "engine.db")
    await records.open()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    half_removed = tmp_path / "volumes/.removing-1/_data"
    half_removed.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(tmp_path / "precious"), str(half_removed)], check=True)
    store = VolumeStore(records, tmp_path, Heard())
    await store.start_up()
    assert (tmp_path / "precious/file").read_text() == "x"
    assert not (tmp_path / "volumes/.removing-1").exists()
    await store.close()
    await records.close()

"""Roots of containers on the kernel's overlayfs: one mount over an upper directory, and nobody waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from base.offload import Pool
from worker.engine.containers.kit import Layout
from worker.engine.containers.rootfs import MAX_BEHIND, Rootfs

pytestmark = pytest.mark.root


@pytest.fixture
async def roots(tmp_path: Path) -> AsyncIterator[Rootfs]:
    layout = Layout(tmp_path / "lib", tmp_path / "run")
    layout.containers.mkdir(parents=True)
    disk = Pool("disk", 2)
    roots = Rootfs(layout, disk)
    await roots.start_up()
    yield roots
    await roots.close()
    disk.close()
    assert not mounts(tmp_path), "what was mounted is gone once it is closed"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "layer"
    path.mkdir()
    (path / "file").write_text("image")
    return path


def mounts(below: Path) -> list[str]:
    return [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f" {below}" in line]


async def test_a_root_mounted_again_at_once_is_one_mount_with_what_was_written(
    roots: Rootfs, layer: Path, tmp_path: Path
) -> None:
    await roots.create("a")
    for turn in range(20):
        root = await roots.mount("a", [layer])
        assert mounts(tmp_path) == [str(root)]
        assert (root / "file").read_text() == ("image" if turn == 0 else str(turn - 1))
        (root / "file").write_text(str(turn))
        await roots.unmount("a")


async def test_the_last_of_several_users_unmounts(roots: Rootfs, layer: Path, tmp_path: Path) -> None:
    await roots.create("a")
    async with roots.mounted("a", [layer]) as first:
        async with roots.mounted("a", [layer]):
            assert mounts(tmp_path) == [str(first)]
        assert (first / "file").read_text() == "image"
    await roots.close()
    assert mounts(tmp_path) == []


async def test_more_are_removed_than_may_wait(roots: Rootfs, layer: Path, tmp_path: Path) -> None:
    ids = [f"c{number}" for number in range(MAX_BEHIND + 8)]
    for each in ids:
        await roots.create(each)
    await asyncio.gather(*(roots.mount(each, [layer]) for each in ids))
    async with asyncio.timeout(60):
        await asyncio.gather(*(roots.remove(each) for each in ids))
        await roots.close()
    assert mounts(tmp_path) == []
    assert list((tmp_path / "lib/containers").iterdir()) == []


async def test_a_root_whose_process_was_adopted_is_mounted_afresh_for_its_next_run(
    roots: Rootfs, layer: Path, tmp_path: Path
) -> None:
    await roots.create("a")
    roots.keep("a")
    await roots.unmount("a")
    root = await roots.mount("a", [layer])
    assert mounts(tmp_path) == [str(root)]
    assert (root / "file").read_text() == "image"
    await roots.unmount("a")

"""Removing and copying whole trees by descriptors."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from worker.engine.syscalls.tree import copy_tree, remove_tree


def test_removal_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    doomed = tmp_path / "doomed"
    (doomed / "a/b").mkdir(parents=True)
    (doomed / "a/b/f").touch()
    (doomed / "link").symlink_to(tmp_path / "kept")
    remove_tree(doomed)
    assert not doomed.exists()
    assert (tmp_path / "kept/file").exists()
    remove_tree(doomed)  # nothing there: nothing happens


def test_removal_of_a_tree_deeper_than_descriptors_reach(tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    fd = os.open(doomed, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(400):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(doomed)
    assert not doomed.exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
def test_a_copy_is_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_bytes(b"x" * 100)
    os.chown(source / "d/f", 5, 6)
    os.chmod(source / "d/f", 0o4711)
    os.utime(source / "d/f", ns=(1, 2))
    os.link(source / "d/f", source / "hard")
    (source / "soft").symlink_to("/nowhere")
    os.mknod(source / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.chown(source, 9, 9)
    target.mkdir()
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    copy_tree(*fds)
    for fd in fds:
        os.close(fd)
    info = (target / "d/f").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns) == (0o4711, 5, 6, 2)
    assert info.st_ino == (target / "hard").stat().st_ino
    assert os.readlink(target / "soft") == "/nowhere"
    assert (target / "null").stat().st_rdev == os.makedev(1, 3)
    assert target.stat().st_uid == 9

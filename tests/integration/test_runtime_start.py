"""What makes a start quick is really so on this kernel, and harmless where it can't be."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from worker.engine.runtime import sealed
from worker.engine.runtime.grace import GracePeriod, own_procs

pytestmark = pytest.mark.root


def test_the_runtime_starts_once_from_its_sealed_copy() -> None:
    path = sealed.copy("crun")
    fd = int(path.rpartition("/")[2])
    try:
        assert _loads(path, fd) == 1
        assert _loads("crun", fd) == 2, "it no longer copies itself: the sealed copy saves nothing"
    finally:
        os.close(fd)


def _loads(program: str, fd: int) -> int:
    """How often the dynamic loader worked for one call."""
    environment = {**os.environ, "LD_DEBUG": "statistics"}
    done = subprocess.run([program, "list"], pass_fds=[fd], env=environment, capture_output=True, text=True, check=True)
    return done.stderr.count("total startup time in dynamic loader")


def test_nobody_can_write_to_the_sealed_copy() -> None:
    path = sealed.copy("crun")
    fd = int(path.rpartition("/")[2])
    try:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize("program", ["no-such-program", "/nonexistent/crun"])
def test_what_cannot_be_copied_is_used_as_it_is(program: str) -> None:
    assert sealed.copy(program) == program


def test_a_script_is_used_as_it_is(tmp_path: Path) -> None:
    script = tmp_path / "runtime"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert sealed.copy(str(script)) == str(script)


async def test_the_grace_period_leaves_the_daemon_in_its_cgroup() -> None:
    before = Path("/proc/self/cgroup").read_text()
    grace = GracePeriod()
    await asyncio.gather(grace.run(), grace.run())
    await grace.run()
    assert Path("/proc/self/cgroup").read_text() == before
    grace.close()


async def test_without_a_cgroup_to_write_to_nothing_happens(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("5:freezer:/somewhere\n0::/else\n")
    assert own_procs(membership, tmp_path) is None
    grace = GracePeriod(tmp_path, membership)
    await grace.run()
    grace.close()


def test_its_own_cgroup_is_found_in_either_version(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("5:cpu,cpuacct:/a\n0::/b\n")
    unified = tmp_path / "b/cgroup.procs"
    unified.parent.mkdir()
    unified.touch()
    assert own_procs(membership, tmp_path) == unified
    older = tmp_path / "cpu,cpuacct/a/cgroup.procs"
    older.parent.mkdir(parents=True)
    older.touch()
    assert own_procs(membership, tmp_path) == older

"""A plugin's mounts on the real kernel: seen by the host, gone when it is disabled, and never walked through."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.wait import until
from worker.engine.plugins import roots
from worker.engine.plugins.plan import Place
from worker.engine.syscalls import mountns, mounts

pytestmark = pytest.mark.root


@pytest.fixture(params=[False, True], ids=["plain", "behind a link"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    real = tmp_path / "real"
    real.mkdir()
    root = real
    if request.param:
        root = tmp_path / "link"
        root.symlink_to(real)
    place = Place(root / "home", root / "sockets")
    yield place
    roots.take_down(place)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "layer"
    path.mkdir()
    (path / "file").write_text("of the layer")
    return path


def test_made_once_and_taken_down(place: Place, layer: Path) -> None:
    for _ in range(2):
        roots.prepare(place, [layer], propagated=True)
    assert roots.mounts_below(place.home) == [place.merged, place.propagated]
    assert (place.merged / "file").read_text() == "of the layer"
    (place.merged / "written").write_text("x")
    # What the plugin mounts is seen by the host: another mount namespace stands for the plugin's.
    script = f"mkdir {place.propagated}/v && mount -t tmpfs tmpfs {place.propagated}/v && touch {place.propagated}/v/f"
    subprocess.run(["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script], check=True)
    assert (place.propagated / "v/f").exists()

    roots.take_down(place)
    roots.take_down(place)
    assert roots.mounts_below(place.home) == []
    assert list((place.propagated / "v").iterdir()) == []
    roots.prepare(place, [layer], propagated=False)
    assert (place.merged / "written").read_text() == "x", "what it wrote stays"


def test_removal_does_not_walk_into_what_is_mounted(place: Place, layer: Path, tmp_path: Path) -> None:
    roots.prepare(place, [layer], propagated=True)
    roots.clear_sockets(place)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("kept")
    (place.propagated / "bound").mkdir()
    mounts.bind(precious, place.propagated / "bound")
    roots.remove(place)
    assert (precious / "data").read_text() == "kept"
    assert not place.home.exists()
    assert not place.sockets.exists()
    assert roots.mounts_below(tmp_path) == []
    roots.remove(place)


def test_an_old_socket_answers_to_nobody(place: Place) -> None:
    roots.clear_sockets(place)
    (place.sockets / "old.sock").touch()
    roots.clear_sockets(place)
    assert list(place.sockets.iterdir()) == []
    place.sockets.rmdir()


def test_a_plugin_alone_leads_a_new_daemon_to_the_mounts_of_the_old(tmp_path: Path) -> None:
    assert mountns._live_monitor(tmp_path) is None
    script = "exec -a zygote.py sleep 100"
    with subprocess.Popen(["unshare", "--mount", "bash", "-c", script]) as monitor:
        try:
            command = Path(f"/proc/{monitor.pid}/cmdline")
            until(lambda: command.read_bytes().startswith(b"zygote.py"), timeout_s=10, what="the monitor")
            (tmp_path / "p/m/0123456789ab").mkdir(parents=True)
            (tmp_path / "p/m/0123456789ab/monitor.pid").write_text(str(monitor.pid))
            assert mountns._live_monitor(tmp_path) == monitor.pid
        finally:
            monitor.kill()

"""Layers out of upper directories and back, and COPY: what arrives, as whom, and that nothing leads outside."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.errors import InvalidArgument
from api.types.auth import AuthConfig
from worker.engine.builder import copying
from worker.engine.builder.difftar import write_layer
from worker.engine.builder.job import login_for
from worker.engine.images.extract import ExtractOptions, extract
from worker.engine.images.names import DEFAULT_DOMAIN

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and whiteouts need root")]


def layer_of(upper: Path) -> tuple[bytes, int]:
    """The archive, and how many entries it has."""
    sink = io.BytesIO()
    entries = write_layer(upper, sink).entries
    return sink.getvalue(), entries


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """What overlayfs keeps: a new file, a removed one, a replaced directory, links, an attribute, a device."""
    top = tmp_path / "upper"
    (top / "dir/replaced").mkdir(parents=True)
    (top / "file").write_bytes(b"x" * 1_500_000)
    os.chown(top / "file", 12, 34)
    (top / "file").chmod(0o4755)
    os.utime(top / "file", ns=(0, 1_600_000_000_000_000_000))
    os.link(top / "file", top / "dir/hard")
    (top / "dir/link").symlink_to("/etc/passwd")
    os.setxattr(top / "file", "user.note", b"kept")
    os.setxattr(top / "dir/replaced", "trusted.overlay.opaque", b"y")
    os.setxattr(top / "dir", "trusted.overlay.origin", b"secret")
    os.mknod(top / "dir/gone", stat.S_IFCHR, os.makedev(0, 0))
    os.mkfifo(top / "pipe")
    (top / ("n" * 200)).write_text("long")
    return top


def test_a_layer_comes_back_as_it_was(upper: Path, tmp_path: Path) -> None:
    raw, entries = layer_of(upper)
    assert entries == 9
    assert layer_of(upper)[0] == raw, "the same content is the same layer"
    assert b".wh.gone" in raw
    assert b"secret" not in raw
    back = tmp_path / "back"
    back.mkdir()
    root = os.open(back, os.O_RDONLY | os.O_DIRECTORY)
    extract(io.BytesIO(raw), root, ExtractOptions(whiteouts=True))
    os.close(root)
    info = (back / "file").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), info.st_mtime) == (12, 34, 0o4755, 1_600_000_000)
    assert (back / "dir/hard").samefile(back / "file")
    assert os.readlink(back / "dir/link") == "/etc/passwd"
    assert os.getxattr(back / "file", "user.note") == b"kept"
    assert os.getxattr(back / "dir/replaced", "trusted.overlay.opaque") == b"y"
    gone = (back / "dir/gone").stat()
    assert (stat.S_ISCHR(gone.st_mode), gone.st_rdev) == (True, 0)
    assert stat.S_ISFIFO((back / "pipe").stat().st_mode)
    assert (back / ("n" * 200)).read_text() == "long"


def test_an_empty_layer_has_no_entries(tmp_path: Path) -> None:
    assert layer_of(tmp_path) == (bytes(1024), 0)


@pytest.fixture
def roots(tmp_path: Path) -> Iterator[tuple[int, int, Path]]:
    """A context and a new root."""
    context, target = tmp_path / "context", tmp_path / "root"
    (context / "dir/below").mkdir(parents=True)
    (context / "dir/below/leaf").write_text("leaf")
    (context / "one.txt").write_text("1")
    (context / "two.txt").write_text("2")
    (context / "out").symlink_to("/etc")
    (context / "dir/link").symlink_to("/etc/passwd")
    (target / "etc").mkdir(parents=True)
    (target / "real").mkdir()
    (target / "alias").symlink_to("/real")
    (target / "climb").symlink_to("../../../../real")
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (context, target)]
    yield descriptors[0], descriptors[1], target
    for descriptor in descriptors:
        os.close(descriptor)


def put(roots: tuple[int, int, Path], text: str, destination: str, owner: tuple[int, int] = (0, 0)) -> None:
    for source in copying.find_sources(roots[0], text, what="COPY", unpack=False, from_context=True):
        copying.copy(source, roots[1], destination, owner)


def test_copy(roots: tuple[int, int, Path]) -> None:
    root = roots[2]
    put(roots, "one.txt", "/a/b/file", (5, 6))
    assert (root / "a/b/file").read_text() == "1"
    assert [(root / path).stat().st_uid for path in ("a", "a/b/file")] == [5, 5]
    put(roots, "*.txt", "/many/")
    assert sorted(os.listdir(root / "many")) == ["one.txt", "two.txt"]
    put(roots, "dir", "/alias/new", (7, 8))
    assert (root / "real/new/below/leaf").read_text() == "leaf"
    assert (root / "real/new/below").stat().st_gid == 8
    assert os.readlink(root / "real/new/link") == "/etc/passwd"
    put(roots, "two.txt", "/climb/two")
    assert (root / "real/two").read_text() == "2"


@pytest.mark.parametrize("text", ["../context/one.txt", "..", "dir/../../x"])
def test_no_source_lies_outside(roots: tuple[int, int, Path], text: str) -> None:
    with pytest.raises(InvalidArgument, match="forbidden path outside the build context"):
        put(roots, text, "/x")


@pytest.mark.parametrize("text", ["out/passwd", "nothing", "dir/link"])
def test_links_of_the_context_end_in_it(roots: tuple[int, int, Path], text: str) -> None:
    with pytest.raises(InvalidArgument, match="file not found in build context"):
        put(roots, text, "/x")
    assert not (roots[2] / "x").exists()


def test_a_file_in_the_way_is_named(roots: tuple[int, int, Path]) -> None:
    put(roots, "one.txt", "/taken")
    with pytest.raises(InvalidArgument, match="/taken: a file is in the way"):
        put(roots, "two.txt", "/taken/below")


def test_the_digest_is_of_names_modes_and_content(roots: tuple[int, int, Path], tmp_path: Path) -> None:
    def digest(text: str) -> str:
        return copying.combined_digest(
            copying.find_sources(roots[0], text, what="COPY", unpack=False, from_context=True)
        )

    before, single = digest("dir"), digest("one.txt")
    leaf = tmp_path / "context/dir/below/leaf"
    os.utime(leaf, (1, 1))
    assert digest("dir") == before
    leaf.chmod(0o600)
    assert digest("dir") != before
    changed = digest("dir")
    leaf.rename(leaf.with_name("leaf2"))
    assert digest("dir") != changed
    assert single.startswith("file:")
    assert digest("*.txt").startswith("multi:")


@pytest.mark.promise("images.build.b27", "images.build.b28")
def test_logins_by_registry() -> None:
    hub, other = AuthConfig(username="hub"), AuthConfig(username="other")
    auths = {"https://index.docker.io/v1/": hub, "docker.example.com": other, "https://old.example.com/v1/": other}
    assert login_for(DEFAULT_DOMAIN, auths) is hub
    assert login_for("docker.example.com", auths) is other
    assert login_for("old.example.com", auths) is other
    assert login_for("docker.example.com:5000", auths) is None

"""Unpacking archives: faithful to good ones, and not one byte outside of the root for hostile ones."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.errors import InvalidArgument
from tests.unit.images.archives import member, tar
from worker.engine.images import limits
from worker.engine.images.extract import ExtractOptions, extract
from worker.engine.images.tarstream import TarReader
from worker.engine.syscalls.tree import remove_tree

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and xattrs need root")]

LINK, SYMLINK, DIRECTORY = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE
CHARACTER, FIFO = tarfile.CHRTYPE, tarfile.FIFOTYPE
LAYER = ExtractOptions(whiteouts=True)


class Place:
    """A root to extract into, with a secret next to it that nothing may touch."""

    def __init__(self, directory: Path) -> None:
        self.outside = directory
        self.root = directory / "root"
        self.root.mkdir()
        (directory / "secret").write_text("untouched")
        os.utime(directory / "secret", (1, 1))
        self.before = self.seen_outside()

    def seen_outside(self) -> list[tuple[str, int, int, float]]:
        found = []
        for path in sorted(self.outside.iterdir()):
            if path != self.root:
                info = path.lstat()
                found.append((str(path), info.st_mode, info.st_nlink, info.st_mtime))
        return found

    def extract(self, archive: bytes, options: ExtractOptions = LAYER) -> None:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            extract(io.BytesIO(archive), fd, options)
        finally:
            os.close(fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    assert place.seen_outside() == place.before
    remove_tree(place.root)  # some are too deep for pytest's own removal


def absolute(place: Place) -> str:
    return str(place.outside)


HOSTILE = {
    "dotdot": lambda place: tar(member("../secret", b"x")),
    "dotdot inside": lambda place: tar(member("a/../../secret", b"x")),
    "hard link up": lambda place: tar(member("l", type=LINK, linkname="../secret"), member("l", b"x")),
    "hard link through a link": lambda place: tar(
        member("d", type=SYMLINK, linkname=".."), member("l", type=LINK, linkname="d/secret")
    ),
    "hard link to an absolute path": lambda place: tar(
        member("l", type=LINK, linkname=absolute(place) + "/secret"), member("l", b"x")
    ),
    "through a relative link": lambda place: tar(
        member("d", type=SYMLINK, linkname="../"), member("d/secret", b"x")
    ),
    "through an absolute link": lambda place: tar(
        member("d", type=SYMLINK, linkname=absolute(place)), member("d/secret", b"x")
    ),
    "through a chain of links": lambda place: tar(
        member("a", type=DIRECTORY),
        member("a/b", type=SYMLINK, linkname=".."),
        member("c", type=SYMLINK, linkname="a/b/.."),
        member("c/secret", b"x"),
    ),
    "over a link to a file": lambda place: tar(
        member("f", type=SYMLINK, linkname="../secret"), member("f", b"x")
    ),
    "directory over a link": lambda place: tar(
        member("d", type=SYMLINK, linkname=absolute(place)), member("d", type=DIRECTORY, mode=0o777),
        member("d/new", b"x"),
    ),
    "attributes through a link": lambda place: tar(
        member("f", type=SYMLINK, linkname="../secret", mode=0o777, uid=1000)
    ),
    "magic link": lambda place: tar(
        member("p", type=SYMLINK, linkname="/proc/self/cwd"), member("p/secret-two", b"x")
    ),
    "whiteout up": lambda place: tar(member("../.wh.secret")),
    "whiteout through a link": lambda place: tar(
        member("d", type=SYMLINK, linkname=".."), member("d/.wh.secret")
    ),
    "whiteout of dotdot": lambda place: tar(member(".wh..."), member("x/.wh...")),
    "whiteout of dot": lambda place: tar(member(".wh..")),
    "opaque through a link": lambda place: tar(
        member("d", type=SYMLINK, linkname=".."), member("d/.wh..wh..opq")
    ),
    "NUL in a PAX path": lambda place: tar(member("x", pax_headers={"path": "a\0/../../secret"})),
    "deep": lambda place: tar(member("/".join("d" * 1 for _ in range(400)) + "/../" * 3 + "f", b"x")),
    "root as a link": lambda place: tar(member("./", type=SYMLINK, linkname=".."), member("secret2", b"x")),
    "device for the disk over a link": lambda place: tar(
        member("d", type=SYMLINK, linkname=".."), member("d/disk", type=CHARACTER, devmajor=1, devminor=3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_written_outside(place: Place, name: str) -> None:
    """The check is the fixture's; whether the archive is refused or confined is up to the extractor."""
    with contextlib.suppress(InvalidArgument):
        place.extract(HOSTILE[name](place))


@pytest.mark.parametrize("name", ["dotdot", "dotdot inside", "hard link up", "whiteout up", "whiteout of dotdot"])
def test_what_climbs_out_is_refused_by_name(place: Place, name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"(points outside of its root|invalid whiteout)"):
        place.extract(HOSTILE[name](place))


def test_links_are_resolved_inside(place: Place) -> None:
    place.extract(tar(member("real", type=DIRECTORY, mode=0o755), member("d", type=SYMLINK, linkname="/real"),
                      member("d/f", b"x")))  # fmt: skip
    assert (place.root / "real/f").read_bytes() == b"x"


def test_attributes_are_kept(place: Place) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    archive = tar(
        member("dir", type=DIRECTORY, mode=0o1777, uid=7, gid=8),
        member("dir/f", b"abc", mode=0o4755, uid=1, gid=2,
               pax_headers={"SCHILY.xattr.security.capability": capability.decode("latin-1"),
                            "mtime": "1500000000.25"}),
        member("dir/s", type=SYMLINK, linkname="nowhere", uid=3, gid=4),
        member("dir/h", type=LINK, linkname="dir/f"),
        member("null", type=CHARACTER, devmajor=1, devminor=3, mode=0o666),
        member("pipe", type=FIFO, mode=0o600),
    )  # fmt: skip
    place.extract(archive)
    directory, file = (place.root / "dir").stat(), (place.root / "dir/f").stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_uid, directory.st_gid) == (0o1777, 7, 8)
    assert directory.st_mtime == 1_500_000_000
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid, file.st_nlink) == (0o4755, 1, 2, 2)
    assert file.st_mtime_ns == 1_500_000_000_250_000_000
    assert os.getxattr(place.root / "dir/f", "security.capability")[:4] == capability[:4]
    link = (place.root / "dir/s").lstat()
    assert (link.st_uid, os.readlink(place.root / "dir/s")) == (3, "nowhere")
    assert (place.root / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((place.root / "pipe").stat().st_mode)


class TestWhiteouts:
    def is_whiteout(self, path: Path) -> bool:
        info = path.lstat()
        return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0

    def opaque(self, path: Path) -> bool:
        return "trusted.overlay.opaque" in os.listxattr(path)

    def test_a_deleted_file(self, place: Place) -> None:
        place.extract(tar(member("etc/.wh.gone")))
        assert self.is_whiteout(place.root / "etc/gone")

    def test_an_opaque_directory(self, place: Place) -> None:
        place.extract(tar(member("d", type=DIRECTORY, mode=0o755), member("d/.wh..wh..opq"), member("d/f", b"x")))
        assert self.opaque(place.root / "d")
        assert os.listdir(place.root / "d") == ["f"]

    @pytest.mark.parametrize("first", [True, False])
    def test_a_directory_that_replaces_what_it_hides(self, place: Place, first: bool) -> None:
        mark, new = member(".wh.d"), member("d", type=DIRECTORY, mode=0o755)
        place.extract(tar(*((mark, new) if first else (new, mark))))
        assert self.opaque(place.root / "d")

    def test_a_file_wins_over_its_own_mark(self, place: Place) -> None:
        place.extract(tar(member("f", b"x"), member(".wh.f")))
        assert (place.root / "f").read_bytes() == b"x"

    def test_bookkeeping_of_aufs_is_no_content(self, place: Place) -> None:
        place.extract(tar(member(".wh..wh.plnk/1.2", b"x"), member(".wh..wh.aufs", b"")))
        assert os.listdir(place.root) == []

    def test_overlay_attributes_are_not_taken_from_archives(self, place: Place) -> None:
        forged = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.kept": "1"}
        place.extract(tar(member("f", b"", pax_headers=forged)))
        assert "trusted.overlay.redirect" not in os.listxattr(place.root / "f")

    def test_marks_are_plain_files_outside_of_layers(self, place: Place) -> None:
        place.extract(tar(member(".wh.f", b"x")), ExtractOptions())
        assert (place.root / ".wh.f").read_bytes() == b"x"


def test_later_members_replace_earlier_ones(place: Place) -> None:
    place.extract(tar(member("x/y/z", b"deep"), member("x", b"file now"), member("x", b"again")))
    assert (place.root / "x").read_bytes() == b"again"


def test_a_hard_link_to_itself_keeps_the_file(place: Place) -> None:
    place.extract(tar(member("f", b"x"), member("f", type=LINK, linkname="f")))
    assert (place.root / "f").read_bytes() == b"x"


def test_kinds_can_be_protected(place: Place) -> None:
    (place.root / "d").mkdir()
    (place.root / "f").touch()
    with pytest.raises(InvalidArgument, match="cannot overwrite directory 'd' with non-directory"):
        place.extract(tar(member("d", b"x")), ExtractOptions(keep_kinds=True))
    with pytest.raises(InvalidArgument, match="cannot overwrite non-directory 'f' with directory"):
        place.extract(tar(member("f", type=DIRECTORY)), ExtractOptions(keep_kinds=True))


def test_one_owner_for_all(place: Place) -> None:
    place.extract(tar(member("a/b", b"x", uid=1, gid=1)), ExtractOptions(owner=(5, 6)))
    for path in ("a", "a/b"):
        assert (place.root / path).stat().st_uid == 5


class TestDamage:
    def test_a_cut_archive_names_the_member(self, place: Place) -> None:
        with pytest.raises(InvalidArgument, match="unexpected end of archive in 'big'"):
            place.extract(tar(member("big", b"x" * 5000))[:2000])

    def test_a_wrong_checksum(self, place: Place) -> None:
        archive = bytearray(tar(member("first"), member("second")))
        archive[512 + 1] ^= 0x40
        with pytest.raises(InvalidArgument, match="after 'first': wrong checksum"):
            place.extract(bytes(archive))

    def test_no_tar_at_all(self, place: Place) -> None:
        with pytest.raises(InvalidArgument):
            place.extract(b"\x7fELF" + os.urandom(4000))

    def test_a_huge_extended_header(self) -> None:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, limits.PAX_MAX + 1
        with pytest.raises(InvalidArgument, match="extended header"):
            list(TarReader(io.BytesIO(header.tobuf(tarfile.USTAR_FORMAT))))

    def test_a_path_that_is_too_long(self) -> None:
        with pytest.raises(InvalidArgument, match=f"longer than {limits.PATH_MAX}"):
            list(TarReader(io.BytesIO(tar(member("a/" * 3000 + "f")))))

    def test_a_name_that_is_too_long_for_the_file_system(self, place: Place) -> None:
        with pytest.raises(InvalidArgument, match="failed to extract 'nnnn"):
            place.extract(tar(member("n" * 300, b"x")))

    def test_sparse_members_are_refused_clearly(self) -> None:
        with pytest.raises(InvalidArgument, match="unhandled tar header type"):
            list(TarReader(io.BytesIO(tar(member("s", pax_headers={"GNU.sparse.major": "1"})))))


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes_is_read_alike(format_: int) -> None:
    output = io.BytesIO()
    wanted = [
        "short",
        "d/" * 60 + "prefix",
        *(["l" * 200 + "/" + "n" * 120] if format_ != tarfile.USTAR_FORMAT else []),
    ]
    with tarfile.open(fileobj=output, mode="w", format=format_) as archive:
        for name in wanted:
            info, data = member(name, b"data", uid=70000, mode=0o640)
            archive.addfile(info, io.BytesIO(data))
    reader = TarReader(io.BytesIO(output.getvalue()))
    found = [(one.name, one.uid, one.mode, one.size, reader.read(100)) for one in reader]
    assert found == [(name, 70000, 0o640, 4, b"data") for name in wanted]

"""The corpus of hostile archives against everything that unpacks one: `docker cp`, build contexts, ADD, load, import.

Each is refused or confined: never a server error, and never a trace outside of the directory it was for.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.shoald import Api
from tests.unit.images.archives import digest_of, files
from tests.unit.images.test_extract import HOSTILE

ROOTS = {"diff", "upper", "merged", "files", "work", "_data"}
"""Directories whose content belongs to users."""
PLANTED = {"secret", "secret-two", "secret2", "disk", "new"}


class Outside:
    """What the corpus aims at: a directory of the machine with a secret."""

    def __init__(self, directory: Path) -> None:
        self.outside = directory
        (directory / "secret").write_text("untouched")
        os.utime(directory / "secret", (1, 1))
        self.before = self.seen()

    def seen(self) -> list[tuple[str, int, int, float]]:
        found = [(path, path.lstat()) for path in sorted(self.outside.iterdir())]
        return [(path.name, info.st_mode, info.st_nlink, info.st_mtime) for path, info in found]


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path)


def planted(data_root: Path) -> list[str]:
    """Names of the corpus that lie where only the engine writes."""
    found = []
    for directory, below, names in os.walk(data_root):
        below[:] = [name for name in below if name not in ROOTS]
        found += [f"{directory}/{name}" for name in (*names, *below) if name in PLANTED]
    return found


def into_container(path: str) -> Callable[[Api, bytes], int]:
    return lambda api, archive: api("PUT", "/containers/box/archive", archive, path=path).status


def as_context(api: Api, archive: bytes) -> int:
    """The members, then a Dockerfile that copies all of them: with its end cut off, a tar goes on."""
    whole = archive.rstrip(b"\0")
    whole += bytes(-len(whole) % 512) + files({"Dockerfile": b"FROM scratch\nCOPY . /x\n"})
    return api("POST", "/build", whole).status


def added(api: Api, archive: bytes) -> int:
    text = b"FROM busybox\nADD hostile.tar /x/\nADD hostile.tar /\n"
    return api("POST", "/build", files({"Dockerfile": text, "hostile.tar": archive})).status


def loaded(api: Api, archive: bytes) -> int:
    config: dict[str, Any] = {"architecture": "amd64", "os": "linux"}
    config["rootfs"] = {"type": "layers", "diff_ids": [digest_of(archive)]}
    manifest = [{"Config": "config.json", "RepoTags": ["hostile:v1"], "Layers": ["layer.tar"]}]
    parts = {"layer.tar": archive, "config.json": json.dumps(config).encode()}
    return api("POST", "/images/load", files({**parts, "manifest.json": json.dumps(manifest).encode()})).status


def imported(api: Api, archive: bytes) -> int:
    return api("POST", "/images/create", archive, fromSrc="-", repo="hostile").status


WAYS: dict[str, Callable[[Api, bytes], int]] = {
    "into a directory": into_container("/tmp"),
    "into the root": into_container("/"),
    "as a context": as_context,
    "added by a build": added,
    "loaded": loaded,
    "imported": imported,
}


@pytest.mark.parametrize("way", WAYS)
def test_hostile_archives(api: Api, outside: Outside, way: str) -> None:
    api.run("box")
    for name, make in HOSTILE.items():
        status = WAYS[way](api, make(outside))  # type: ignore[arg-type]
        assert status in (200, 400), f"{name}: {status}"
        assert outside.seen() == outside.before, name
        assert planted(api.path.parent / "lib") == [], name
    assert api("GET", "/_ping").status == 200


@pytest.mark.parametrize("way", ["into a directory", "as a context", "loaded"])
def test_an_archive_that_never_ends_its_headers(api: Api, way: str) -> None:
    """A header of a gigabyte, members without end in a small space: refused soon, in little memory."""
    api.run("box")
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 30
    before = time.monotonic()
    assert WAYS[way](api, entry.tobuf() + bytes(1 << 20)) in (200, 400)
    nested = io.BytesIO()
    with tarfile.open(fileobj=nested, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("/".join(["d"] * 1200)))
    assert WAYS[way](api, nested.getvalue()) in (200, 400)
    assert time.monotonic() - before < 20

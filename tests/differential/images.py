"""Images for the scenarios, the same bytes on both engines."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any

from lab.image import Image, archive, build, digest

FULL = "shapes:full"
"""Sets every default an image can set."""
SLIM = "shapes:slim"
"""Has a volume and an entry point, but no shell configuration of its own."""


def archives() -> list[bytes]:
    """Archives for `docker load`: busybox, and two images that set defaults."""
    base = build()
    full = _configured(
        base,
        {
            "User": "app",
            "Env": ["PATH=/usr/bin:/bin", "FROM_IMAGE=yes", "EMPTY="],
            "Entrypoint": ["/bin/echo", "entry"],
            "Cmd": ["default", "words"],
            "WorkingDir": "/srv/work",
            "Labels": {"org.shape": "full", "empty": ""},
            "Volumes": {"/srv/data": {}},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "StopSignal": "SIGUSR1",
        },
    )
    slim = _configured(base, {"Cmd": ["sh"], "Env": None, "Volumes": {"/srv/data": {}}})
    return [archive(base, "busybox:latest"), archive(full, FULL), archive(slim, SLIM)]


def _configured(base: Image, config: dict[str, Any]) -> Image:
    """The image with one more layer of users and data, and this configuration."""
    layer = _layer()
    document = json.loads(base.config)
    document["config"] = config
    # One layer in the archive: the base's content is in it too.
    merged = _merged(base.layer, layer)
    document["rootfs"]["diff_ids"] = [digest(merged)]
    return Image(layer=merged, packed=b"", config=json.dumps(document).encode())


def _merged(first: bytes, second: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        with tarfile.open(fileobj=io.BytesIO(second)) as tar:
            late = set(tar.getnames())
        for source, skipped in ((first, late), (second, set[str]())):
            with tarfile.open(fileobj=io.BytesIO(source)) as tar:
                for member in tar:
                    if member.name not in skipped:
                        out.addfile(member, tar.extractfile(member) if member.isfile() else None)
    return buffer.getvalue()


def _layer() -> bytes:
    buffer = io.BytesIO()
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/srv/work:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/home:/bin/false\n",
        "etc/group": "root:x:0:\napps:x:1001:\nextra:x:1002:app\nmore:x:1003:app,nobody\nnogroup:x:65534:\n",
        "srv/data/file": "from the image\n",
        "srv/data/sub/inner": "inner\n",
    }
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("srv", "srv/data", "srv/data/sub", "srv/work"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.uid, member.gid = (1000, 1001) if name != "srv" else (0, 0)
            tar.addfile(member)
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("srv/link")
        link.type, link.linkname = tarfile.SYMTYPE, "data/file"
        tar.addfile(link)
    return buffer.getvalue()


def identity(image: Image) -> str:
    """The image's id."""
    return "sha256:" + hashlib.sha256(image.config).hexdigest()

"""The built-in image: `busybox:latest`, made from Debian's busybox-static, so that a first `docker run` works offline.

Deterministic: the same binary always gives the same image id, on every host of a swarm.
"""

from __future__ import annotations

import asyncio
import io
import logging
import tarfile
from pathlib import Path

from api.errors import Unavailable
from worker.engine.images import names
from worker.engine.images.model import minimal_config
from worker.engine.images.store import ImageStore

log = logging.getLogger(__name__)
REFERENCE = "busybox:latest"
_CREATED = "2020-01-01T00:00:00Z"
_MTIME = 1577836800
_LIST_TIMEOUT_S = 20
_DIRECTORIES = {"bin": 0o755, "etc": 0o755, "home": 0o755, "root": 0o700, "tmp": 0o1777, "usr": 0o755}
_SUBDIRECTORIES = {"usr/bin": 0o755, "usr/sbin": 0o755, "var": 0o755, "var/spool": 0o755, "var/www": 0o755}
_FILES = {
    "etc/group": "root:x:0:\ndaemon:x:1:\nbin:x:2:\ntty:x:5:\nmail:x:8:\nwww-data:x:33:\nnobody:x:65534:\n",
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        "bin:x:2:2:bin:/bin:/bin/false\n"
        "mail:x:8:8:mail:/var/spool/mail:/bin/false\n"
        "www-data:x:33:33:www-data:/var/www:/bin/false\n"
        "nobody:x:65534:65534:nobody:/home:/bin/false\n"
    ),
    "etc/shadow": "root:*:::::::\ndaemon:*:::::::\nbin:*:::::::\nmail:*:::::::\nwww-data:*:::::::\nnobody:*:::::::\n",
}


def busybox_layer(binary: bytes, applets: list[str]) -> bytes:
    """The layer as an uncompressed tar: the binary, a hard link for each applet, and the files programs look for."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.size = kind, mode, len(data)
            member.linkname, member.mtime = link, _MTIME
            archive.addfile(member, io.BytesIO(data))

        for name, mode in sorted({**_DIRECTORIES, **_SUBDIRECTORIES}.items()):
            add(name + "/", tarfile.DIRTYPE, mode)
        add("bin/busybox", tarfile.REGTYPE, 0o755, binary)
        for applet in sorted(set(applets) - {"busybox"}):
            add(f"bin/{applet}", tarfile.LNKTYPE, 0o755, link="bin/busybox")
        add("usr/bin/env", tarfile.SYMTYPE, 0o777, link="../../bin/env")
        for name, text in sorted(_FILES.items()):
            add(name, tarfile.REGTYPE, 0o600 if name == "etc/shadow" else 0o644, text.encode())
    return output.getvalue()


async def _applets(binary: Path) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        binary, "--list", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_LIST_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Unavailable(f"{binary} --list does not answer") from None
    if process.returncode != 0:
        raise Unavailable(f"{binary} --list failed with status {process.returncode}")
    return [line for line in output.decode("ascii").split() if "/" not in line]


async def ensure_busybox(store: ImageStore, binary: Path) -> str | None:
    """Register `busybox:latest` unless there is one. Returns the image id, or None when the binary is missing."""
    found = store.index.find(REFERENCE)
    if found is not None:
        return found
    try:
        content = await store.disk.run(binary.read_bytes)
    except FileNotFoundError:
        log.warning("no built-in busybox image: binary is missing path=%s", binary)
        return None
    layer = await store.disk.run(busybox_layer, content, await _applets(binary))
    async with store.ingest() as ingestion:
        added = await ingestion.add_layer(await ingestion.put(layer))
        config = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
        raw = minimal_config(config, [added.diff_id], _CREATED, "Shoal's built-in busybox")
        return await ingestion.register(raw, [names.parse(REFERENCE).tagged()])

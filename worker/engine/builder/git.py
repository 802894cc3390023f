"""Contexts from Git repositories: `git://…`, `git@…`, `github.com/…`, `http(s)://….git`, each with `#REF:DIRECTORY`.

The machine's own git does it, told to ask nobody anything and to follow no path on this host.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from api.errors import InvalidArgument, NotSupported, Upstream

_GIT = re.compile(r"^(git://|git@|github\.com/|ssh://|https?://[^#]+\.git(#|$))")
_SAFE_REF = re.compile(r"[\w][\w./+@-]*")
_LIMITS = ("-c", "protocol.allow=never", "-c", "protocol.http.allow=always", "-c", "protocol.https.allow=always",
           "-c", "protocol.git.allow=always", "-c", "protocol.ssh.allow=always")  # fmt: skip


@dataclass(frozen=True)
class GitSource:
    """A repository, what to take of it, and where the context lies in it."""

    url: str
    ref: str = "HEAD"
    directory: str = ""


def is_git(remote: str) -> bool:
    return _GIT.match(remote) is not None


def parse(remote: str) -> GitSource:
    """Raises InvalidArgument for a ref that can't be one."""
    url, _, fragment = remote.partition("#")
    ref, _, directory = fragment.partition(":")
    if url.startswith("github.com/"):
        url = f"https://{url}"
    if ref and not _SAFE_REF.fullmatch(ref):
        raise InvalidArgument(f"invalid refspec: {ref}")
    return GitSource(url, ref or "HEAD", directory.strip("/"))


async def fetch(source: GitSource, target: Path) -> None:
    """The files of the ref in `target`, an empty directory. Raises NotSupported without git, Upstream."""
    git = shutil.which("git")
    if git is None:
        raise NotSupported(f"unable to use {source.url} as a context: git is not installed on this host")
    await _run(git, target, "init", "--quiet")
    try:
        await _run(git, target, *_LIMITS, "fetch", "--quiet", "--depth", "1", source.url, source.ref)
    except Upstream:  # servers that only hand out files know no shallow fetch
        await _run(git, target, *_LIMITS, "fetch", "--quiet", source.url, source.ref)
    await _run(git, target, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    await asyncio.to_thread(shutil.rmtree, target / ".git")


async def _run(git: str, directory: Path, *args: str) -> None:
    # No settings of this host, of root, or of the repository itself.
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    environment = proxies | {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    }
    process = await asyncio.create_subprocess_exec(
        git,
        *args,
        cwd=directory,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _out, err = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise Upstream(f"error fetching: {err.decode(errors='replace').strip()}")

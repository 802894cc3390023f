"""GET /containers/{id}/top: the container's processes as `ps` shows them.

The system's own ps is run, with a pid column added if the arguments hide it, and its lines are narrowed to the
container's pids; where there is no ps, the default columns are read from /proc.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from api.errors import Conflict, InvalidArgument
from api.types.container import TopAnswer
from worker.engine.containers.kit import Kit

DEFAULT_ARGS = "-ef"
TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
PS_TIMEOUT_S = 10
_DAY_S = 86400


class Top:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def top(self, ref: str, ps_args: str = "") -> TopAnswer:
        """Raises Conflict if it does not run, InvalidArgument for arguments ps refuses."""
        container = self._kit.store.get(ref)
        if not container.running:
            raise Conflict(f"Container {container.id} is not running")
        pids = await self._kit.runtime.pids(container.id)
        arguments = ps_args.split() or [DEFAULT_ARGS]
        binary = shutil.which("ps")
        if arguments == [DEFAULT_ARGS] or binary is None:
            if arguments != [DEFAULT_ARGS]:
                raise InvalidArgument(f"ps_args: only {DEFAULT_ARGS} works on this host, which has no ps")
            answer = await self._kit.disk.run(from_proc, pids)
        else:
            answer = parse_ps(await _run_ps(binary, arguments), pids)
        self._kit.events.publish("container", "top", container.id, container.attributes())
        return answer


async def _run_ps(binary: str, arguments: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        binary,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "COLUMNS": "4096"},
    )
    try:
        async with asyncio.timeout(PS_TIMEOUT_S):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise InvalidArgument("ps does not end") from None
    if process.returncode != 0:
        first = errors.decode(errors="replace").strip().partition("\n")[0]
        raise InvalidArgument(f"ps: {first}")
    return output.decode(errors="replace")


def parse_ps(output: str, pids: Collection[int]) -> TopAnswer:
    """The lines of these pids; the last column takes the rest of its line. Raises InvalidArgument without PID."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) == len(titles) and fields[column].isdecimal() and int(fields[column]) in pids:
            rows.append([field.strip() for field in fields])
    return TopAnswer(titles=titles, processes=rows)


def from_proc(pids: Sequence[int], proc: Path = Path("/proc")) -> TopAnswer:
    """The columns of `ps -ef`, without running ps."""
    ticks = os.sysconf("SC_CLK_TCK")
    boot = time.time() - float((proc / "uptime").read_text().split()[0])
    rows = []
    for pid in sorted(pids):
        try:
            rows.append(_row(proc / str(pid), ticks, boot))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return TopAnswer(titles=list(TITLES), processes=rows)


def _row(directory: Path, ticks: int, boot: float) -> list[str]:
    text = (directory / "stat").read_text(errors="replace")
    comm, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    used_s = (int(fields[11]) + int(fields[12])) / ticks
    started = boot + int(fields[19]) / ticks
    age_s = max(time.time() - started, 0.0)
    command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    stamp = "%H:%M" if age_s < _DAY_S else "%b%d"
    uid = directory.stat().st_uid
    return [
        _user(uid),
        directory.name,
        fields[1],
        str(int(100 * used_s / age_s) if age_s else 0),
        time.strftime(stamp, time.localtime(started)),
        _tty(int(fields[4])),
        time.strftime("%H:%M:%S", time.gmtime(used_s)),
        command or f"[{comm}]",
    ]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _tty(device: int) -> str:
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:
        return f"pts/{minor + (major - 136) * 256}"
    return f"tty{minor}" if major == 4 else "?"

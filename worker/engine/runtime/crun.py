"""How the OCI runtime program is called, and what its words become for the user."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from api.errors import Conflict, Internal, InvalidArgument, NotFound, ShoalError


class Crun:
    """One runtime binary with its state root. `argv_*` only build command lines: the monitors run them."""

    def __init__(self, binary: str, root: Path) -> None:
        self.binary = binary
        self.root = root

    async def version(self) -> str:
        """All lines of `--version`; Internal if the binary can't be run."""
        try:
            code, output = await _run([self.binary, "--version"])
        except OSError as error:
            raise Internal(f"the OCI runtime {self.binary} can't be run: {error.strerror}") from error
        if code != 0:
            raise Internal(f"{self.binary} --version: {output}")
        return output

    def argv_create(self, container_id: str, bundle: Path, directory: Path, *, tty: bool) -> list[str]:
        console = ["--console-socket", str(directory / "console")] if tty else []
        return [
            *self._base(directory / "log"),
            *("create", "--bundle", str(bundle), "--pid-file", str(directory / "pid"), *console, container_id),
        ]

    def argv_start(self, container_id: str, directory: Path) -> list[str]:
        return [*self._base(directory / "log"), "start", container_id]

    def argv_exec(self, container_id: str, directory: Path, *, tty: bool) -> list[str]:
        console = ["--console-socket", str(directory / "console")] if tty else []
        return [
            *self._base(directory / "log"),
            *("exec", "--detach", "--process", str(directory / "process.json")),
            *("--pid-file", str(directory / "pid"), *console, container_id),
        ]

    def argv_delete(self, container_id: str) -> list[str]:
        return [self.binary, "--root", str(self.root), "delete", "--force", container_id]

    def _base(self, log: Path) -> list[str]:
        return [self.binary, "--root", str(self.root), "--log", str(log), "--log-format", "json"]

    async def delete(self, container_id: str) -> None:
        """Kill and remove what the runtime knows of it; Internal if something stays."""
        if not (self.root / container_id).exists():
            return
        code, output = await _run(self.argv_delete(container_id))
        if code != 0 and (self.root / container_id).exists():
            raise Internal(f"cannot remove container {container_id}: {output}")

    async def update(self, container_id: str, resources: Path) -> None:
        code, output = await _run(
            [self.binary, "--root", str(self.root), "update", "--resources", str(resources), container_id]
        )
        if code != 0:
            raise Conflict(f"Cannot update container {container_id}: {output}")

    def known(self) -> list[str]:
        return [entry.name for entry in self.root.iterdir() if entry.is_dir()] if self.root.is_dir() else []


async def _run(argv: Sequence[str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    code = process.returncode
    return (0 if code is None else code), output.decode(errors="replace").strip()


_NO_EXECUTABLE = re.compile(r"executable file [`'\"]?(?P<name>.*?)[`'\"]? not found|^exec(ve)? .*No such file")


def failure(action: str, words: str, process: dict[str, Any]) -> ShoalError:
    """The error for what crun said when it could not create (`action` create) or exec.

    Docker's texts: the docker CLI maps `executable file not found` to exit code 127, `permission denied` to 126.
    """
    args = process.get("args") or [""]
    head = f"OCI runtime {action} failed: "
    lowered = words.lower()
    if _NO_EXECUTABLE.search(words):
        where = "no such file or directory" if "/" in args[0] else "executable file not found in $PATH"
        return InvalidArgument(f'{head}exec: "{args[0]}": {where}: unknown')
    if "open executable" in lowered or lowered.startswith("exec"):
        # A directory is refused as "operation not permitted"; clients look for Docker's word.
        reason = words.rsplit(": ", 1)[-1].lower().replace("operation not permitted", "permission denied")
        return InvalidArgument(f'{head}exec: "{args[0]}": {reason}: unknown')
    if "chdir" in lowered or "cwd" in lowered:
        reason = words.rsplit(": ", 1)[-1].lower()
        return InvalidArgument(
            f'{head}chdir to cwd ("{process.get("cwd")}") set in config.json failed: {reason}: unknown'
        )
    if action == "exec" and ("does not exist" in lowered or "not running" in lowered):
        return NotFound(f"{head}{words}: unknown")
    if "not a directory" in lowered or "permission denied" in lowered or "no such file or directory" in lowered:
        return InvalidArgument(f"{head}{words}: unknown")
    return Internal(f"{head}{words}: unknown")

"""A sealed copy of the OCI runtime in memory: no container can write to the program that made it.

crun and runc protect themselves from containers (CVE-2019-5736) by starting once more from such a copy, at each call.
Started from one to begin with they see that and save the second start. Standard library only: the zygote uses it.
"""

from __future__ import annotations

import fcntl
import os

MFD_EXEC = 0x10
"""Asked for since Linux 6.3, unknown before."""
F_ADD_SEALS = 1033
SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE: the very set the runtimes look for."""
ELF = b"\x7fELF"


def copy(program: str) -> str:
    """A path that executes a sealed copy of `program` (a path, or a name on PATH) in this process and its children;
    `program` itself where that can't be: it is not found, it is a script, or the kernel has no such files."""
    try:
        with open(_find(program), "rb") as file:
            content = file.read()
        if not content.startswith(ELF):
            return program
        fd = _memory_file(os.path.basename(program))
        with open(fd, "wb", closefd=False) as target:
            target.write(content)
        fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    except OSError:
        return program
    return f"/proc/self/fd/{fd}"


def _find(program: str) -> str:
    if "/" in program:
        return program
    places = [os.path.join(place, program) for place in os.get_exec_path()]
    return next((path for path in places if os.access(path, os.X_OK)), program)


def _memory_file(name: str) -> int:
    flags = os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC
    try:
        return os.memfd_create(name, flags | MFD_EXEC)
    except OSError:
        return os.memfd_create(name, flags)

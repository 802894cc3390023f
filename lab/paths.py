"""Where a lab keeps things and finds its programs: the one place that knows.

Invariant: every path a lab makes lies below `run_dir(name)`, `disk_dir(name)` or the cgroup `CGROUP/<name>`, so that
`down` can remove it without knowing how far `up` came.
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV_BIN = Path(sys.prefix) / "bin"

# Unix socket paths stay under 108 bytes: keep these short.
RUN = Path("/run/shoal-lab")
DISK = Path("/var/lib/shoal-lab")
CGROUP = "shoal-lab"
PARENT_TRIES = 20


class LabError(Exception):
    """Something the person at the keyboard can understand and act upon."""


def run_dir(lab: str) -> Path:
    """State file, sockets and each host's /run; gone after a reboot, as the lab is."""
    return RUN / lab


def disk_dir(lab: str) -> Path:
    """Each host's /var/lib and logs; survives the power loss of a host, not `lab down`."""
    return DISK / lab


def program(name: str) -> Path:
    """Path of a program: the machine's own if it has one, else the one unpacked in .tools. LabError if neither."""
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS / "bin"))
    if found is None:
        raise LabError(f"{name} not found: run script/bootstrap --test")
    return Path(found)


def tool(name: str) -> Path:
    """Path of a program that must be the unpacked one (a machine's own dockerd would be another version)."""
    path = TOOLS / "bin" / name
    if not path.exists():
        raise LabError(f"{path} is missing: run script/bootstrap --test")
    return path


def tool_environment() -> dict[str, str]:
    """Environment in which the unpacked programs find each other and their libraries."""
    libraries = [str(path) for top in ("usr/lib", "lib") for path in sorted((TOOLS / "root" / top).glob("*-linux-gnu"))]
    plugins = next((TOOLS / "root/usr/lib").glob("*-linux-gnu/xtables"), None)
    environment = {
        "PATH": f"{TOOLS / 'bin'}:{base_environment()['PATH']}",
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
    if plugins is not None:
        environment["XTABLES_LIBDIR"] = str(plugins)
    return environment


def base_environment() -> dict[str, str]:
    """The little of the caller's environment that a host inherits: no proxies, no DOCKER_* settings."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    for directory in ("/usr/local/sbin", "/usr/sbin", "/sbin"):
        if directory not in path.split(":"):
            path += f":{directory}"
    return {
        "PATH": path,
        "HOME": os.environ.get("HOME", "/root"),
        "TERM": os.environ.get("TERM", "dumb"),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
    }


def make_directory(directory: Path) -> None:
    """With its parents. The ones that labs share may be taken away meanwhile, by a lab that thinks itself the last."""
    for _ in range(PARENT_TRIES):
        with contextlib.suppress(FileNotFoundError):
            directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            return
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)

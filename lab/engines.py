"""How each engine is started on a lab host: Shoal's own, or a real dockerd to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.network import REGISTRY
from lab.paths import VENV_BIN, tool, tool_environment
from lab.state import Engine

MIRROR = f"http://{REGISTRY}:5000"


@dataclass(frozen=True)
class Launch:
    """A command line, its environment and the API socket inside the host."""

    argv: tuple[str, ...]
    env: dict[str, str]
    socket: str


SOCKETS: dict[Engine, str] = {"shoald": "/run/shoal/shoal.sock", "dockerd": "/run/docker.sock"}


def launch(engine: Engine, extra: Sequence[str] = (), *, mirror: bool = True) -> Launch:
    """How to start the engine; `mirror`: use the lab's registry."""
    socket = SOCKETS[engine]
    registry = ("--registry-mirror", MIRROR, "--insecure-registry", f"{REGISTRY}:5000") if mirror else ()
    common = ("-H", f"unix://{socket}", *registry, *extra)
    if engine == "shoald":
        return Launch(argv=(str(VENV_BIN / "shoald"), *common), env={}, socket=socket)
    private = ("--data-root", "/var/lib/docker", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid")
    return Launch(argv=(str(tool("dockerd")), *private, *common), env=tool_environment(), socket=socket)


def socket_outside(run: Path, engine: Engine) -> Path:
    """The API socket as the machine sees it, given the host's /run as the machine sees it."""
    return run / SOCKETS[engine].removeprefix("/run/")

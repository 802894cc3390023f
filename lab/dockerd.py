"""A real dockerd (Debian's, unpacked by script/bootstrap --test) in a lab host of its own, for tests and benchmarks.

The machine's own docker, if any, is neither used nor disturbed: dockerd, containerd and runc run in namespaces, with
their data below the lab's directories.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lab.image import archive, build
from lab.lab import Lab, running
from lab.paths import base_environment, program


@contextlib.contextmanager
def dockerd(name: str = "dockerd") -> Iterator[Lab]:
    """A lab of one host `m1` that runs dockerd 20.10, with `busybox` loaded, for the time of a `with` block."""
    with running(name, engine="dockerd", registry=False) as lab:
        load(lab.socket("m1"), archive(build(), "busybox:latest"))
        yield lab


def load(socket: Path, tar: bytes) -> None:
    """`docker load` from memory."""
    command = [str(program("docker")), "-H", f"unix://{socket}", "load", "-q"]
    subprocess.run(command, input=tar, check=True, capture_output=True, env=base_environment(), timeout=60)

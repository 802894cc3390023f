"""Brings up both engines, each on a lab host of its own, with the same images."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.dockerd import load
from lab.lab import running
from lab.state import Engine as Kind
from tests.differential.images import archives
from tests.differential.run import Engine


@contextlib.contextmanager
def arena(name: str) -> Iterator[tuple[Engine, Engine]]:
    """dockerd and shoald, in that order, for the time of a `with` block. LabError if one can't be had."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="differ-")))
        kinds: tuple[Kind, Kind] = ("dockerd", "shoald")

        def up(kind: Kind) -> Engine:
            # shoald has a registry as well: both hosts are the same.
            lab = running(f"{name}-{kind[0]}", engine=kind)
            engine = Engine(stack.enter_context(lab).socket("m1"), scratch / kind)
            prepare(engine)
            return engine

        with ThreadPoolExecutor(2) as pool:
            theirs, ours = pool.map(up, kinds)
        yield theirs, ours


def prepare(engine: Engine) -> None:
    """The directories and images the scenarios rely on."""
    (engine.scratch / "config").mkdir(parents=True)
    for tar in archives():
        load(engine.socket, tar)

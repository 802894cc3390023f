"""Drivers that the engine runs itself, beside those on sockets: which one a name means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from api.errors import NotFound
from worker.engine.volumes.plugins import Address, Finder, Plugin


class Two:
    """`acme/vols:latest` is enabled, `acme/off:latest` is not."""

    def __init__(self) -> None:
        self.waited: list[str] = []

    def volume_drivers(self) -> Sequence[str]:
        return ["acme/vols:latest"]

    def driver_name(self, text: str) -> str:
        return "acme/vols:latest" if text in ("acme/vols", "acme/vols:latest") else text

    def find(self, text: str) -> Plugin | None:
        if text.startswith("acme/off"):
            raise NotFound(f"plugin {text} is disabled")
        if self.driver_name(text) != "acme/vols:latest":
            return None
        return Plugin("acme/vols:latest", Address(socket=Path("/none")), home=Path("/home"), handshake=False)

    async def ready(self, text: str) -> None:
        self.waited.append(text)


async def test_managed_ones_come_first_and_need_no_handshake(tmp_path: Path) -> None:
    (tmp_path / "little.sock").touch()
    managed = Two()
    finder = Finder([tmp_path], [], managed)
    assert finder.names() == ["acme/vols:latest", "little"]
    assert finder.driver_name("acme/vols") == "acme/vols:latest"
    assert finder.driver_name("little") == "little"
    found = await finder.driver("acme/vols")
    assert (found.name, found.home, await found.activate()) == ("acme/vols:latest", Path("/home"), True)
    assert managed.waited == ["acme/vols"]
    assert finder.find("little").home is None
    for name, text in (("acme/off", "is disabled"), ("other", 'plugin "other" not found')):
        with pytest.raises(NotFound, match=text):
            finder.find(name)


def test_without_any(tmp_path: Path) -> None:
    finder = Finder([tmp_path], [])
    assert (finder.names(), list(finder.managed_names()), finder.driver_name("x")) == ([], [], "x")

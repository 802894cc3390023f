"""What is kept of an installed plugin."""

from __future__ import annotations

from api.types.base import Record

TABLE = "plugins"


class Overrides(Record, kw_only=True, frozen=True):
    """What a user set, over what the plugin's configuration says; by the names it gives there."""

    env: dict[str, str] = {}
    sources: dict[str, str] = {}
    """Of mounts."""
    paths: dict[str, str] = {}
    """Of devices."""
    args: tuple[str, ...] | None = None


class PluginRecord(Record, kw_only=True, frozen=True):
    id: str
    name: str
    """Of the repository, as users write it: `vendor/plugin`."""
    tag: str
    artifact: str
    """Digest of its configuration: its id in the artifact store."""
    enabled: bool = False
    """It shall run: now, and after every restart of the daemon."""
    overrides: Overrides = Overrides()

    @property
    def full_name(self) -> str:
        """`vendor/plugin:latest`: the name of its drivers, too."""
        return f"{self.name}:{self.tag}"

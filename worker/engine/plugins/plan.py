"""How a plugin is run: the OCI specification of its container and where its files are. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from api.errors import InvalidArgument
from worker.engine.parts import ProcessIO
from worker.engine.plugins import settings
from worker.engine.plugins.config import SOCKETS, PluginConfig
from worker.engine.plugins.records import PluginRecord
from worker.engine.runtime import capabilities, spec
from worker.engine.runtime.host import DeviceNode, Host

LOG_BYTES_MAX = 1 << 20
LOG_FILES_MAX = 2
SHORT = 12
"""Of an id in the paths of sockets, which end at 107 bytes."""
ALL_DEVICES = "a *:* rwm"


@dataclass(frozen=True)
class Place:
    """The files of one plugin."""

    home: Path
    """`<data-root>/plugins/installed/<id>`."""
    sockets: Path
    """`<exec-root>/plugins/<short id>`: the plugin's own /run/docker/plugins."""

    @property
    def upper(self) -> Path:
        return self.home / "upper"

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def merged(self) -> Path:
        return self.home / "rootfs"

    @property
    def propagated(self) -> Path:
        """What the plugin mounts in its PropagatedMount is seen here."""
        return self.home / "propagated-mount"

    @property
    def log(self) -> Path:
        return self.home / "output.log"

    @property
    def exit_file(self) -> Path:
        return self.home / "exit.json"

    @property
    def bundle(self) -> Path:
        return self.home / "bundle"

    def on_host(self, path: str, propagated_mount: str) -> str:
        """Where the host finds what a plugin calls `path`, never outside of its own root; "" stays ""."""
        if not path:
            return ""
        inside = PurePosixPath("/", posixpath.normpath("/" + path).lstrip("/"))
        if propagated_mount and inside.is_relative_to(propagated_mount):
            return str(self.propagated / inside.relative_to(propagated_mount))
        return str(self.merged / inside.relative_to("/"))


def process_io(place: Place) -> ProcessIO:
    """Output goes to a log of its own, of a bounded size."""
    return ProcessIO(log_path=place.log, log_max_bytes=LOG_BYTES_MAX, log_max_files=LOG_FILES_MAX)


def build(
    record: PluginRecord, config: PluginConfig, place: Place, devices: Sequence[DeviceNode], host: Host
) -> dict[str, Any]:
    """The content of the plugin's config.json for the OCI runtime.

    Args:
        devices: the nodes of its devices, as the host has them.

    Raises: InvalidArgument for a mount without a source, an unknown capability.
    """
    wanted = capabilities.choose(add=config.all_capabilities, bounding=host.capabilities)
    overrides = record.overrides
    return spec.build(
        spec.ContainerSettings(
            id=record.id,
            process=spec.ProcessSettings(
                args=[*config.entrypoint, *settings.arguments(config, overrides)],
                env=spec.environment(settings.environment(config, overrides)),
                cwd=config.work_dir or "/",
                user=spec.User(config.user.uid, config.user.gid),
                capabilities=wanted,
            ),
            rootfs=place.merged,
            mounts=_mounts(record, config, place),
            new_netns=config.network.type != "host",
            pid_ns="host" if config.pid_host else "",
            ipc_ns="host" if config.ipc_host else "",
            hostname=record.id[:SHORT],
            devices=devices,
            device_rules=[ALL_DEVICES] if config.linux.allow_all_devices else [],
        ),
        host,
    )


def _mounts(record: PluginRecord, config: PluginConfig, place: Place) -> list[spec.Mount]:
    mounts = [spec.Mount(SOCKETS, str(place.sockets), options=("rbind", "rprivate"))]
    if config.network.type == "host":
        mounts += [spec.Mount(file, file, options=("rbind", "ro")) for file in ("/etc/hosts", "/etc/resolv.conf")]
    if config.propagated_mount:
        options = ("rbind", "rw", "rshared")
        mounts.append(spec.Mount(config.propagated_mount, str(place.propagated), options=options))
    for mount in settings.mounts(config, record.overrides):
        kind = mount.type or "bind"
        if kind == "bind" and not (mount.source or "").startswith("/"):
            raise InvalidArgument(
                f"mount {mount.name or mount.destination!r}: the source {mount.source or ''!r} is not an absolute path"
            )
        mounts.append(spec.Mount(mount.destination, mount.source or "", kind, tuple(mount.options or ())))
    return mounts

"""What a plugin says of itself: the config.json of its artifact, its casing read leniently, its meaning strictly. Pure.

Keys are matched in any case, as Go does and as plugins in the wild rely on; keys of the first plugin format
(`Capabilities` and `Devices` at the top) mean the same as those below `Linux`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from api.errors import InvalidArgument, NotSupported

VOLUME_DRIVER = "docker.volumedriver/1.0"
SUPPORTED = (VOLUME_DRIVER,)
SOCKETS = "/run/docker/plugins"
"""Where a plugin finds the directory for its socket."""
NETWORKS = ("", "null", "none", "host")
_TYPE = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*/[0-9.]+")
_SOCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")


class _Part(msgspec.Struct, kw_only=True, frozen=True, rename=lambda name: name.replace("_", "")):
    """Keys are the names in lower case, without underscores."""


class Interface(_Part, kw_only=True, frozen=True):
    types: list[str] = []
    socket: str = ""


class User(_Part, kw_only=True, frozen=True):
    uid: int = 0
    gid: int = 0


class Network(_Part, kw_only=True, frozen=True):
    type: str = ""


class Setting(_Part, kw_only=True, frozen=True):
    """What all that can be set have in common."""

    name: str = ""
    description: str = ""
    settable: list[str] | None = None
    """The parts of it that can be set: `value`, `source`, `path`."""


class Mount(Setting, kw_only=True, frozen=True):
    source: str | None = None
    destination: str = ""
    type: str = ""
    options: list[str] | None = None


class Env(Setting, kw_only=True, frozen=True):
    value: str | None = None
    """None: the variable is not in the environment."""


class Args(Setting, kw_only=True, frozen=True):
    value: list[str] = []


class Device(Setting, kw_only=True, frozen=True):
    path: str | None = None


class Linux(_Part, kw_only=True, frozen=True):
    capabilities: list[str] = []
    allow_all_devices: bool = False
    devices: list[Device] = []


class PluginConfig(_Part, kw_only=True, frozen=True):
    manifest_version: str = "v0"
    description: str = ""
    documentation: str = ""
    interface: Interface = Interface()
    entrypoint: list[str] = []
    work_dir: str = ""
    user: User = User()
    network: Network = Network()
    ipc_host: bool = False
    pid_host: bool = False
    propagated_mount: str = ""
    """A directory of the plugin whose mounts the host sees."""
    linux: Linux = Linux()
    capabilities: list[str] = []
    """Of the first format."""
    devices: list[Device] = []
    """Of the first format."""
    mounts: list[Mount] = []
    env: list[Env] = []
    args: Args = Args()

    @property
    def all_capabilities(self) -> Sequence[str]:
        return [*self.linux.capabilities, *self.capabilities]

    @property
    def all_devices(self) -> Sequence[Device]:
        return [*self.linux.devices, *self.devices]


def parse(raw: bytes) -> PluginConfig:
    """A plugin's configuration. Raises InvalidArgument that names the field which is wrong."""
    try:
        config = msgspec.convert(_folded(msgspec.json.decode(raw)), PluginConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"invalid plugin config: {error}") from None
    _check(config)
    return config


def _folded(value: Any) -> Any:
    """Keys in lower case, and what is null left out."""
    if isinstance(value, dict):
        return {key.lower(): _folded(item) for key, item in value.items() if item is not None}
    return [_folded(item) for item in value] if isinstance(value, list) else value


def _check(config: PluginConfig) -> None:
    if not config.entrypoint:
        raise InvalidArgument("invalid plugin config: Entrypoint is empty")
    if not config.interface.types:
        raise InvalidArgument("invalid plugin config: Interface.Types is empty")
    for each in config.interface.types:
        if not _TYPE.fullmatch(each):
            raise InvalidArgument(
                f"invalid plugin config: Interface.Types: {each!r} is not <prefix>.<capability>/<version>"
            )
    if not _SOCKET.fullmatch(config.interface.socket):
        raise InvalidArgument(f"invalid plugin config: Interface.Socket: {config.interface.socket!r} is no file name")
    if config.work_dir and not config.work_dir.startswith("/"):
        raise InvalidArgument(f"invalid plugin config: WorkDir: {config.work_dir!r} is not an absolute path")
    if config.propagated_mount and not _is_place(config.propagated_mount):
        raise InvalidArgument(
            f"invalid plugin config: PropagatedMount: {config.propagated_mount!r} is not an absolute path below /"
        )
    for mount in config.mounts:
        if not _is_place(mount.destination):
            raise InvalidArgument(
                f"invalid plugin config: Mounts: {mount.name!r} has no absolute destination: {mount.destination!r}"
            )
    for env in config.env:
        if not env.name or "=" in env.name:
            raise InvalidArgument(f"invalid plugin config: Env: {env.name!r} can't be the name of a variable")


def _is_place(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and path.strip("/") != ""


def check_supported(name: str, config: PluginConfig) -> None:
    """Whether this engine can run the plugin and has a use for it. Raises NotSupported, naming what it can't do."""
    for each in config.interface.types:
        if each not in SUPPORTED:
            raise NotSupported(
                f"plugin {name}: interface {each} is not supported: this engine uses plugins as volume drivers "
                f"({VOLUME_DRIVER}) only"
            )
    if config.network.type not in NETWORKS:
        raise NotSupported(
            f"plugin {name}: network type {config.network.type!r} is not supported: a plugin has the host's network, "
            "or none"
        )

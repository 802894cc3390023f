"""Plugins as clients see them (v1.24 section 3.6): `Manifest` is what the plugin says, `Config` how it is set up."""

from __future__ import annotations

import msgspec

from api.types.base import Api


class PluginPrivilege(Api):
    """Something a plugin asks of the host."""

    name: str = ""
    description: str = ""
    value: list[str] | None = None


class PluginInterface(Api):
    types: list[str] = []
    socket: str = ""


class PluginNetwork(Api):
    type: str = ""


class PluginUser(Api, omit_defaults=True):
    uid: int = msgspec.field(name="UID", default=0)
    gid: int = msgspec.field(name="GID", default=0)


class PluginMount(Api):
    name: str = ""
    description: str = ""
    settable: list[str] | None = None
    source: str | None = None
    destination: str = ""
    type: str = ""
    options: list[str] | None = None


class PluginDevice(Api):
    name: str = ""
    description: str = ""
    settable: list[str] | None = None
    path: str | None = None


class PluginEnv(Api):
    name: str = ""
    description: str = ""
    settable: list[str] | None = None
    value: str | None = None


class PluginArgs(Api):
    name: str = ""
    description: str = ""
    settable: list[str] | None = None
    value: list[str] = []


class PluginManifest(Api, kw_only=True):
    manifest_version: str = "v0"
    description: str = ""
    documentation: str = ""
    interface: PluginInterface
    entrypoint: list[str] = []
    workdir: str = ""
    user: PluginUser
    network: PluginNetwork
    capabilities: list[str] | None = None
    mounts: list[PluginMount] = []
    devices: list[PluginDevice] = []
    env: list[PluginEnv] = []
    args: PluginArgs


class PluginSettings(Api):
    """The `Config` of an answer."""

    mounts: list[PluginMount] = []
    env: list[str] = []
    args: list[str] | None = None
    devices: list[PluginDevice] | None = None


class PluginInfo(Api, kw_only=True):
    """One installed plugin."""

    id: str = msgspec.field(name="Id")
    name: str
    tag: str
    active: bool
    config: PluginSettings
    manifest: PluginManifest

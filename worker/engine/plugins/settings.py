"""How a plugin is set up: its configuration's defaults, and what a user set over them, part by part. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from msgspec.structs import replace

from api.errors import InvalidArgument
from worker.engine.plugins.config import Device, Mount, PluginConfig, Setting
from worker.engine.plugins.records import Overrides

S = TypeVar("S", bound=Setting)


def environment(config: PluginConfig, overrides: Overrides) -> list[str]:
    """`NAME=value` of every variable that has one."""
    values = {env.name: overrides.env.get(env.name, env.value) for env in config.env}
    return [f"{name}={value}" for name, value in values.items() if value is not None]


def arguments(config: PluginConfig, overrides: Overrides) -> list[str]:
    return list(config.args.value if overrides.args is None else overrides.args)


def mounts(config: PluginConfig, overrides: Overrides) -> list[Mount]:
    return [replace(mount, source=overrides.sources.get(mount.name, mount.source)) for mount in config.mounts]


def devices(config: PluginConfig, overrides: Overrides) -> list[Device]:
    return [replace(device, path=overrides.paths.get(device.name, device.path)) for device in config.all_devices]


def changed(config: PluginConfig, overrides: Overrides, wishes: Sequence[str]) -> Overrides:
    """`overrides` with more of them: `NAME=value`, `NAME.source=/path`, `NAME.path=/dev/...`; values of `args` are
    words. Raises InvalidArgument for what the plugin does not have, or does not let users set."""
    for wish in wishes:
        key, equals, value = wish.partition("=")
        if not equals or not key:
            raise InvalidArgument(f"invalid plugin setting {wish!r}: it is not NAME=value")
        name, _, part = key.partition(".")
        overrides = _one(config, overrides, name, part, value)
    return overrides


def _one(config: PluginConfig, overrides: Overrides, name: str, part: str, value: str) -> Overrides:
    if (env := _named(config.env, name)) is not None:
        _settable(env, part, "value")
        return replace(overrides, env={**overrides.env, name: value})
    if (mount := _named(config.mounts, name)) is not None:
        _settable(mount, part, "source")
        return replace(overrides, sources={**overrides.sources, name: value})
    if (device := _named(config.all_devices, name)) is not None:
        _settable(device, part, "path")
        return replace(overrides, paths={**overrides.paths, name: value})
    if config.args.name == name:
        _settable(config.args, part, "value")
        return replace(overrides, args=tuple(value.split()))
    raise InvalidArgument(f'setting "{name}" not found in the plugin configuration')


def _named(some: Sequence[S], name: str) -> S | None:
    return next((each for each in some if each.name == name), None)


def _settable(setting: Setting, part: str, only: str) -> None:
    """`only` is the one part that this kind of setting has; it is meant when none is named."""
    if (part or only) != only:
        raise InvalidArgument(f'"{setting.name}" has no part "{part}" that could be set, only "{only}"')
    if only not in (setting.settable or ()):
        raise InvalidArgument(f'"{setting.name}" is not settable')

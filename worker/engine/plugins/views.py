"""A plugin as clients see it (v1.24 section 3.6). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import asdict

from api.types.plugin import (
    PluginArgs,
    PluginDevice,
    PluginEnv,
    PluginInfo,
    PluginInterface,
    PluginManifest,
    PluginMount,
    PluginNetwork,
    PluginSettings,
    PluginUser,
)
from worker.engine.plugins import settings
from worker.engine.plugins.config import Device, Mount, PluginConfig
from worker.engine.plugins.records import PluginRecord


def shown(record: PluginRecord, config: PluginConfig) -> PluginInfo:
    """List and inspect answer the same."""
    overrides = record.overrides
    return PluginInfo(
        id=record.id,
        name=record.name,
        tag=record.tag,
        active=record.enabled,
        config=PluginSettings(
            mounts=_mounts(settings.mounts(config, overrides)),
            env=settings.environment(config, overrides),
            args=settings.arguments(config, overrides) or None,
            devices=_devices(settings.devices(config, overrides)) or None,
        ),
        manifest=_manifest(config),
    )


def _manifest(config: PluginConfig) -> PluginManifest:
    return PluginManifest(
        manifest_version=config.manifest_version,
        description=config.description,
        documentation=config.documentation,
        interface=PluginInterface(types=config.interface.types, socket=config.interface.socket),
        entrypoint=config.entrypoint,
        workdir=config.work_dir,
        user=PluginUser(uid=config.user.uid, gid=config.user.gid),
        network=PluginNetwork(type=config.network.type),
        capabilities=list(config.all_capabilities) or None,
        mounts=_mounts(config.mounts),
        devices=_devices(config.all_devices),
        env=[PluginEnv(**asdict(env)) for env in config.env],
        args=PluginArgs(**asdict(config.args)),
    )


def _mounts(some: Sequence[Mount]) -> list[PluginMount]:
    return [PluginMount(**asdict(mount)) for mount in some]


def _devices(some: Sequence[Device]) -> list[PluginDevice]:
    return [PluginDevice(**asdict(device)) for device in some]

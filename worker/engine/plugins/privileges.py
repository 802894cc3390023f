"""What a plugin asks of the host: the answer to its installation, to be read before it is enabled. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from api.types.plugin import PluginPrivilege
from worker.engine.plugins.config import PluginConfig

_ISOLATED = ("", "null", "none", "bridge")


def privileges(config: PluginConfig) -> list[PluginPrivilege]:
    """One entry for each permission beyond those of any container, in Docker's words."""
    wanted: list[tuple[str, str, Sequence[str]]] = []
    if config.network.type not in _ISOLATED:
        wanted.append(("network", "permissions to access a network", [config.network.type]))
    if config.ipc_host:
        wanted.append(("host ipc namespace", "allow access to host ipc namespace", ["true"]))
    if config.pid_host:
        wanted.append(("host pid namespace", "allow access to host pid namespace", ["true"]))
    wanted += [("mount", "host path to mount", [mount.source]) for mount in config.mounts if mount.source]
    wanted += [("device", "host device to access", [device.path]) for device in config.all_devices if device.path]
    if config.linux.allow_all_devices:
        wanted.append(("allow-all-devices", "allow 'rwm' access to all devices", ["true"]))
    if config.all_capabilities:
        text = "list of additional capabilities required"
        wanted.append(("capabilities", text, list(config.all_capabilities)))
    return [PluginPrivilege(name=name, description=text, value=list(value)) for name, text, value in wanted]

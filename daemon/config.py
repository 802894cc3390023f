"""What the daemon is told: dockerd's flag names and daemon.json keys, merged once, checked, then frozen.

A value may come from a flag or from the file, not from both (as with dockerd). Unknown keys and flags are errors.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from api.errors import InvalidArgument
from daemon import VERSION

DEFAULT_HOST = "unix:///run/shoal/shoal.sock"
DEFAULT_CONFIG_FILE = Path("/etc/shoal/daemon.json")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True)
class Option:
    """One setting: its flags, its key in daemon.json, and how it is read."""

    key: str
    flags: tuple[str, ...]
    help: str
    kind: str = "text"
    """`text`, `switch`, `list` or `map` (a repeated `key=value`)."""


OPTIONS: tuple[Option, ...] = (
    Option("hosts", ("-H", "--host"), "listen on unix:///path or tcp://address:port; may be repeated", "list"),
    Option("data-root", ("--data-root", "-g", "--graph"), "where images, containers and swarm state are kept"),
    Option("exec-root", ("--exec-root",), "where sockets and the state of running containers are kept"),
    Option("pidfile", ("-p", "--pidfile"), "file that holds the daemon's process id"),
    Option("group", ("-G", "--group"), "group that may use the unix sockets"),
    Option("log-level", ("-l", "--log-level"), f"one of {', '.join(LOG_LEVELS)}"),
    Option("debug", ("-D", "--debug"), "log everything", "switch"),
    Option("labels", ("--label",), "key=value label of this engine; may be repeated", "list"),
    Option("bridge", ("-b", "--bridge"), "name of the default bridge"),
    Option("bip", ("--bip",), "address of the default bridge, as 172.17.0.1/16"),
    Option("mtu", ("--mtu",), "MTU of container networks"),
    Option("dns", ("--dns",), "DNS server for containers; may be repeated", "list"),
    Option("dns-opts", ("--dns-opt",), "DNS option for containers; may be repeated", "list"),
    Option("dns-search", ("--dns-search",), "DNS search domain for containers; may be repeated", "list"),
    Option("default-address-pools", ("--default-address-pool",), "base=10.10.0.0/16,size=24; may be repeated", "list"),
    Option("registry-mirrors", ("--registry-mirror",), "URL of a mirror of docker.io; may be repeated", "list"),
    Option("insecure-registries", ("--insecure-registry",), "registry without TLS; may be repeated", "list"),
    Option("log-driver", ("--log-driver",), "default log driver of containers"),
    Option("log-opts", ("--log-opt",), "default log driver option; may be repeated", "map"),
    Option("runtime", ("--runtime",), "OCI runtime: a name on the PATH or a path (crun by default)"),
    Option("cgroup-parent", ("--cgroup-parent",), "cgroup that holds the containers' cgroups"),
    Option("live-restore", ("--live-restore",), "accepted: containers always outlive the daemon", "switch"),
    Option("api-cors-header", ("--api-cors-header",), "origin that browsers may call the API from"),
    Option("swarm-root-ca", ("--swarm-root-ca",), "PEM file with certificate and key of the root of a new swarm"),
    Option("swarm-default-advertise-addr", ("--swarm-default-advertise-addr",), "address or interface other nodes use"),
)
RELOADED = ("log_level", "labels", "registry_mirrors", "insecure_registries")
"""Fields of `Config` that SIGHUP reads anew; all others are read once, at start."""
REFUSED = ("--tls", "--tlsverify", "--tlscacert", "--tlscert", "--tlskey")
"""dockerd's flags whose silent absence would be dangerous: named, with the reason (docs/limits.md)."""


@dataclass(frozen=True)
class AddressPool:
    base: str
    size: int


@dataclass(frozen=True)
class Config:
    """The daemon's settings; see OPTIONS for their meaning."""

    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    data_root: Path = Path("/var/lib/shoal")
    exec_root: Path = Path("/run/shoal")
    pidfile: Path | None = None
    group: str = ""
    log_level: str = "info"
    labels: tuple[str, ...] = ()
    bridge: str = "shoal0"
    bip: str = ""
    mtu: int = 1500
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    default_address_pools: tuple[AddressPool, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)
    runtime: str = "crun"
    cgroup_parent: str = "shoal"
    api_cors_header: str = ""
    swarm_default_advertise_addr: str = ""
    swarm_root_ca: Path | None = None


def load(argv: Sequence[str]) -> Config:
    """Read flags and the configuration file.

    Raises:
        InvalidArgument: naming the flag or key that is wrong.
        SystemExit: for --help, --version and unknown flags.
    """
    parser = _parser()
    given = {key: value for key, value in vars(parser.parse_args(argv)).items() if value not in (None, False)}
    path = Path(given.pop("config_file", None) or DEFAULT_CONFIG_FILE)
    settings = _read_file(path, required=path != DEFAULT_CONFIG_FILE)
    flags = {key.replace("_", "-"): value for key, value in given.items()}
    if refused := next((key for key in flags if f"--{key}" in REFUSED), None):
        raise InvalidArgument(f"--{refused}: the API is not served over TLS yet; use a unix socket or an SSH tunnel")
    if both := sorted(set(settings) & set(flags)):
        raise InvalidArgument(f"given both as a flag and in {path}: {', '.join(both)}")
    return _check({**settings, **flags})


def reloaded(present: Config, read: Config) -> tuple[Config, list[str]]:
    """After SIGHUP: the settings from now on, and the names of those that changed but wait for a restart."""
    changed = replace(present, **{name: getattr(read, name) for name in RELOADED})
    waiting = [each.name for each in fields(Config) if getattr(changed, each.name) != getattr(read, each.name)]
    return changed, waiting


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shoald", description="Container engine and swarm node.")
    parser.add_argument("-v", "--version", action="version", version=f"Shoal version {VERSION}")
    parser.add_argument("--config-file", help=f"daemon configuration file (default {DEFAULT_CONFIG_FILE})")
    for option in OPTIONS:
        if option.kind == "switch":
            parser.add_argument(*option.flags, dest=option.key.replace("-", "_"), action="store_true", help=option.help)
        else:
            action = "store" if option.kind == "text" else "append"
            parser.add_argument(*option.flags, dest=option.key.replace("-", "_"), action=action, help=option.help)
    for flag in REFUSED:
        parser.add_argument(flag, nargs="?", const="true", help=argparse.SUPPRESS)
    return parser


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        settings = msgspec.json.decode(path.read_bytes() or b"{}", type=dict[str, Any])
    except FileNotFoundError:
        if required:
            raise InvalidArgument(f"unable to configure the daemon with file {path}: no such file") from None
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidArgument(f"unable to configure the daemon with file {path}: {error}") from None
    known = {option.key: option for option in OPTIONS}
    for key, value in settings.items():
        if key not in known:
            raise InvalidArgument(f"{path}: the following directives don't match any configuration option: {key}")
        expected = {"text": (str, int), "switch": (bool,), "list": (list,), "map": (dict,)}[known[key].kind]
        if not isinstance(value, expected):
            raise InvalidArgument(f"{path}: {key} must be a {known[key].kind}")
    return settings


def _check(settings: dict[str, Any]) -> Config:
    debug = bool(settings.pop("debug", False))
    settings.pop("live-restore", None)
    values: dict[str, Any] = {key.replace("-", "_"): value for key, value in settings.items()}
    for key in ("data_root", "exec_root", "pidfile", "swarm_root_ca"):
        if key in values:
            values[key] = Path(os.path.abspath(values[key]))
    if "default_address_pools" in values:
        values["default_address_pools"] = tuple(_pool(item) for item in values["default_address_pools"])
    if isinstance(values.get("log_opts"), list):
        values["log_opts"] = dict(item.partition("=")[::2] for item in values["log_opts"])
    if "mtu" in values:
        values["mtu"] = _number("mtu", values["mtu"])
    for key, value in values.items():
        if isinstance(value, list):
            values[key] = tuple(str(item) for item in value)
    if debug:
        values["log_level"] = "debug"
    config = Config(**values)
    if config.log_level not in LOG_LEVELS:
        raise InvalidArgument(f"log-level: {config.log_level!r} is not one of {', '.join(LOG_LEVELS)}")
    for host in config.hosts:
        split_host(host)
    for label in config.labels:
        if "=" not in label:
            raise InvalidArgument(f"label: bad attribute format: {label}")
    if config.bip:
        try:
            ipaddress.ip_interface(config.bip)
        except ValueError as error:
            raise InvalidArgument(f"bip: {error}") from None
    return config


def _number(key: str, value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidArgument(f"{key}: {value!r} is not a whole number") from None


def _pool(item: Any) -> AddressPool:
    if isinstance(item, str):
        item = dict(part.partition("=")[::2] for part in item.split(","))
    try:
        pool = AddressPool(base=str(ipaddress.ip_network(item["base"])), size=int(item["size"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"default-address-pools: needs base and size: {error}") from None
    if pool.size < ipaddress.ip_network(pool.base).prefixlen:
        raise InvalidArgument(f"default-address-pools: size {pool.size} is larger than its base {pool.base}")
    return pool


def split_host(host: str) -> tuple[str, str, int]:
    """`unix:///path` as ("unix", path, 0), `tcp://address:port` as ("tcp", address, port). Raises InvalidArgument."""
    scheme, separator, rest = host.partition("://")
    if not separator:
        raise InvalidArgument(f"hosts: {host!r} must begin with unix:// or tcp://")
    if scheme == "unix" and rest.startswith("/"):
        if len(os.fsencode(rest)) > 107:
            raise InvalidArgument(f"hosts: the socket path {rest} is longer than 107 bytes")
        return "unix", rest, 0
    if scheme == "tcp":
        address, _, port = rest.rstrip("/").rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise InvalidArgument(f"hosts: {host!r} needs a port")
        return "tcp", address.strip("[]") or "127.0.0.1", int(port)
    raise InvalidArgument(f"hosts: {host!r} is neither unix:///path nor tcp://address:port")

"""What a container will run: the client's configuration completed by its image's. Pure (v1.24 "Create a container")."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from api.errors import InvalidArgument
from api.types.container import ContainerConfig, CreateBody, Empty, HealthConfig
from worker.engine.containers.binds import check_destination
from worker.engine.containers.signals import parse_signal

HOSTNAME_LENGTH_MAX = 63
HEALTH_TIME_NS_MIN = 1_000_000
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def merge_config(body: CreateBody, image: Mapping[str, Any]) -> ContainerConfig:
    """The configuration that is kept. `image` is the `config` object of the image's JSON.

    Raises InvalidArgument naming the field.
    """
    entrypoint, cmd = _command(body, image)
    config = ContainerConfig(
        hostname=body.hostname,
        domainname=body.domainname,
        user=body.user or str(image.get("User") or ""),
        attach_stdin=body.attach_stdin,
        attach_stdout=body.attach_stdout,
        attach_stderr=body.attach_stderr,
        exposed_ports=_set({*_ports(image.get("ExposedPorts") or {}), *_ports(body.exposed_ports or {})}),
        tty=body.tty,
        open_stdin=body.open_stdin,
        stdin_once=body.stdin_once,
        env=merge_env(body.env or [], image.get("Env") or []),
        cmd=cmd,
        healthcheck=_health(body.healthcheck, image.get("Healthcheck")),
        image=body.image,
        volumes=_set(_volumes({**(image.get("Volumes") or {}), **(body.volumes or {})})),
        working_dir=_directory(body.working_dir or str(image.get("WorkingDir") or "")),
        entrypoint=entrypoint,
        network_disabled=body.network_disabled,
        mac_address=body.mac_address,
        on_build=body.on_build,
        labels={**(image.get("Labels") or {}), **(body.labels or {})},
        stop_signal=body.stop_signal or str(image.get("StopSignal") or ""),
    )
    check_config(config)
    return config


def check_config(config: ContainerConfig) -> None:
    """Raises InvalidArgument for what no container can have."""
    if config.hostname and (len(config.hostname) > HOSTNAME_LENGTH_MAX or not _HOSTNAME.fullmatch(config.hostname)):
        raise InvalidArgument(f"invalid hostname format: {config.hostname}")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        parse_signal(config.stop_signal)
    for entry in config.env or []:
        if not entry or entry.startswith("=") or "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry}")
    if not command_line(config):
        raise InvalidArgument("No command specified")


def command_line(config: ContainerConfig) -> list[str]:
    """Entrypoint and command as one argument list."""
    return [*(config.entrypoint or []), *(config.cmd or [])]


def as_list(words: list[str] | str | None) -> list[str] | None:
    """A command given as one string is one word."""
    return [words] if isinstance(words, str) else words


def _command(body: CreateBody, image: Mapping[str, Any]) -> tuple[list[str] | None, list[str] | None]:
    """An entrypoint of the client's own drops the image's command; one empty word drops the image's entrypoint."""
    entrypoint, cmd = as_list(body.entrypoint), as_list(body.cmd)
    if not entrypoint:
        cmd = cmd or image.get("Cmd")
        entrypoint = image.get("Entrypoint") if entrypoint is None else entrypoint
    if entrypoint == [""]:
        entrypoint = None
    return list(entrypoint) if entrypoint else None, list(cmd) if cmd else None


def merge_env(own: Iterable[str], inherited: Iterable[str]) -> list[str]:
    """`own` wins by name; a name without `=` stays (it removes the variable at start)."""
    own = list(own)
    names = {entry.partition("=")[0] for entry in own}
    return own + [entry for entry in inherited if entry.partition("=")[0] not in names]


def parse_port(text: str) -> list[str]:
    """`80`, `80/udp` or `8000-8002/tcp` as single `port/protocol` keys. Raises InvalidArgument."""
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"Invalid port specification: {text!r}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise InvalidArgument(f"Invalid port specification: {text!r}")
    protocol = (match[3] or "tcp").lower()
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _ports(ports: Iterable[str]) -> list[str]:
    return [key for text in ports for key in parse_port(text)]


def _directory(path: str) -> str:
    """Cleaned; a relative one stays as it is, to be refused."""
    return posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else path


def _volumes(volumes: Iterable[str]) -> list[str]:
    return [check_destination(path, path, "volume") for path in volumes]


def _set(keys: Iterable[str]) -> dict[str, Empty] | None:
    return {key: Empty() for key in sorted(keys)} or None


def _health(own: HealthConfig | None, image: Mapping[str, Any] | None) -> HealthConfig | None:
    """Zero fields inherit the image's; the test `NONE` stays, and means there is none."""
    inherited = msgspec.convert(image, HealthConfig) if image else None
    if own is None:
        return inherited
    _check_health(own)
    if inherited is None:
        return own
    fields = {name: getattr(own, name) or getattr(inherited, name) for name in HealthConfig.__struct_fields__}
    return HealthConfig(**fields)


def _check_health(health: HealthConfig) -> None:
    for field, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
    ):
        if value != 0 and value < HEALTH_TIME_NS_MIN:
            raise InvalidArgument(f"{field} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")
    kind = health.test[0] if health.test else ""
    if kind not in ("", "NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"Healthcheck.Test: unknown type {kind!r}: it is NONE, CMD or CMD-SHELL")

"""Dockerfile instructions that `docker import --change` (and commit) may apply to an image's configuration. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

import msgspec

from api.errors import InvalidArgument

_PORT = re.compile(r"\d{1,5}(-\d{1,5})?(/(tcp|udp|sctp))?")


def _json_list(rest: str) -> list[str] | None:
    if not rest.startswith("["):
        return None
    try:
        return msgspec.json.decode(rest, type=list[str])
    except msgspec.DecodeError:
        return None


def _pairs(name: str, rest: str) -> list[tuple[str, str]]:
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise InvalidArgument(f"{name}: {error}") from error
    if words and "=" not in words[0]:
        if len(words) < 2:
            raise InvalidArgument(f"{name} must have two arguments")
        return [(words[0], rest.split(None, 1)[1])]
    pairs = [word.partition("=") for word in words]
    if any(not equals or not key for key, equals, _value in pairs):
        raise InvalidArgument(f"Syntax error - can't find = in {rest!r}. Must be of the form: name=value")
    return [(key, value) for key, _equals, value in pairs]


def apply_changes(config: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """`config` with instructions applied. Raises InvalidArgument naming the instruction."""
    result = dict(config)
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        name, rest = word.upper(), rest.strip()
        if not rest:
            raise InvalidArgument(f"{name or 'change'} requires at least one argument")
        _apply(result, name, rest)
    return result


def _apply(config: dict[str, Any], name: str, rest: str) -> None:
    if name in ("CMD", "ENTRYPOINT"):
        key = "Cmd" if name == "CMD" else "Entrypoint"
        config[key] = _json_list(rest) or ["/bin/sh", "-c", rest]
    elif name == "ENV":
        added = _pairs(name, rest)
        kept = [item for item in config.get("Env") or [] if item.partition("=")[0] not in dict(added)]
        config["Env"] = kept + [f"{key}={value}" for key, value in added]
    elif name == "LABEL":
        config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs(name, rest))}
    elif name == "EXPOSE":
        ports = rest.split()
        for port in ports:
            if not _PORT.fullmatch(port):
                raise InvalidArgument(f"invalid containerPort: {port}")
        named: dict[str, Any] = {port if "/" in port else f"{port}/tcp": {} for port in ports}
        config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **named}
    elif name == "VOLUME":
        config["Volumes"] = {**(config.get("Volumes") or {}), **{p: {} for p in _json_list(rest) or rest.split()}}
    elif name in ("USER", "WORKDIR", "STOPSIGNAL"):
        config[{"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}[name]] = rest
    elif name == "ONBUILD":
        config["OnBuild"] = [*(config.get("OnBuild") or []), rest]
    else:
        raise InvalidArgument(f"{name} is not a valid change command")

"""What a client may ask of a container's streams: values between routers and engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LogOptions:
    """GET /containers/{id}/logs."""

    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    since_ns: int = 0
    until_ns: int = 0
    """0: no end."""
    tail: int = -1
    """Lines from the end; -1 is all."""


@dataclass(frozen=True)
class AttachOptions:
    """POST /containers/{id}/attach."""

    logs: bool = False
    stream: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    detach_keys: str = ""
    raw: bool = False
    """Both outputs as they are, without frames (websockets)."""

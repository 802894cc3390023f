"""Identifiers in Docker's shapes. All randomness for names comes from here, from the kernel."""

from __future__ import annotations

import secrets

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
SWARM_ID_LENGTH = 25


def hex_id() -> str:
    """64 hex digits: a container, network, exec or layer id. Never all digits in its short form,
    so that a short id is never taken for a number."""
    while True:
        text = secrets.token_hex(32)
        if not text[:12].isdecimal():
            return text


def short_id(full: str) -> str:
    """The 12 digits that clients show; a `sha256:` prefix is dropped."""
    return full.removeprefix("sha256:")[:12]


def base36(number: int, width: int) -> str:
    """A non-negative number in base 36, left-padded with zeros to `width`."""
    digits = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_BASE36[digit])
    return "".join(reversed(digits)).rjust(width, "0")


def swarm_id() -> str:
    """25 characters of base 36 (128 bits): a node, service, task, cluster or session id."""
    return base36(secrets.randbits(128), SWARM_ID_LENGTH)

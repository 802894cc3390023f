"""Logging set-up: one line an event, key=value, with the context (request, task, node) of the asyncio task."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

_CHATTY = frozenset({"aiohttp", "asyncio", "grpc", "pyroute2"})
"""Libraries whose details are not ours to print."""

_context: ContextVar[str] = ContextVar("log_context", default="")


class Secret(str):
    """A token or key: prints as a mask, so that it never lands in a log or a traceback by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(***)"


def add_context(**fields: str) -> None:
    """Put fields on every later line that this asyncio task logs."""
    extra = " ".join(f"{key}={value}" for key, value in fields.items())
    _context.set(f"{_context.get()} {extra}".strip())


class _ContextFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING and record.name.partition(".")[0] in _CHATTY:
            return False
        context = _context.get()
        record.context = f" {context}" if context else ""
        return True


def set_up(level: str) -> None:
    """Log to stderr at `level` (debug, info, warn, error, fatal: dockerd's names)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_ContextFilter())
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s%(context)s", "%Y-%m-%dT%H:%M:%S")
    )
    logging.getLogger().handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Change the level from now on."""
    names = {"warn": "WARNING", "fatal": "CRITICAL"}
    logging.getLogger().setLevel(names.get(level, level.upper()))

"""`shoald ca rotate`, `shoald ca status`: a manager replaces the swarm's root certificate and key (ca/rotation.py)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from api.server.routers.debug import RootCaStatus
from daemon.config import DEFAULT_HOST
from daemon.debug import ask


def main(words: Sequence[str]) -> str:
    """What to tell the user. Raises InvalidArgument in the daemon's words, Unavailable when none answers."""
    parser = argparse.ArgumentParser(prog="shoald ca", description="The swarm's root certificate, on a manager.")
    parser.add_argument("command", choices=["rotate", "status"])
    parser.add_argument("-H", "--host", default=DEFAULT_HOST, help="unix socket of the daemon")
    given = parser.parse_args(list(words))
    question = "rotate-root-ca" if given.command == "rotate" else "root-ca"
    status = msgspec.json.decode(ask(given.host, question), type=RootCaStatus)
    if not status.rotating:
        return f"root {status.digest}; no rotation is under way"
    waiting = ", ".join(status.waiting_for) or "nobody: it ends now"
    return f"root {status.digest} is being replaced; nodes without a new certificate: {waiting}"

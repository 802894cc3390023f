"""Tells the service manager that started us when the daemon serves (sd_notify(3)), so that `Type=notify` units wait.

Invariant: no process that we start inherits the manager's socket: an OCI runtime would hand it on to its container.
A notification that can't be sent is no reason to end: it is logged, and the daemon serves on.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


class ServiceManager:
    """Whoever named a NOTIFY_SOCKET in our environment; nobody, if there is none. Made before anything is started."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def tell(self, message: str) -> None:
        """Send `READY=1` or `STOPPING=1`."""
        if not self._address.startswith(("/", "@")):
            return
        # An @ stands for the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                link.setblocking(False)
                link.sendto(message.encode(), address)
        except OSError as error:
            log.warning("the service manager was not told %s: %s", message, error)

"""Mutual TLS for gRPC: the server's credentials (reloaded as the cluster changes) and channels to managers.

A client trusts the root alone and asks for the name `swarm-manager`, which only managers' certificates carry; so no
worker and no token holder can pose as a manager.
"""

from __future__ import annotations

import threading

import grpc
from cryptography import x509

from api.rpc.client import CHANNEL_OPTIONS
from base.clock import Clock
from ca.authorities import Authorities
from ca.certificates import KeyPair
from ca.identity import Identity

MANAGER_NAME = "swarm-manager"


class ServerTls:
    """A manager's side. `credentials` for `add_secure_port`, `verify` for `api.rpc.server.service`; `update` as often
    as identity or cluster change: new handshakes see it at once, and every call of old connections is verified anew."""

    def __init__(self, identity: Identity, authorities: Authorities, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # the fetcher runs in gRPC's threads
        self._identity = identity
        self._authorities = authorities
        self._version = 0

    @property
    def credentials(self) -> grpc.ServerCredentials:
        """For one port; a further port (or a server started again) takes them anew."""
        with self._lock:
            shown, initial = self._version, self._configuration()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Asked at each handshake; None means that nothing changed."""
            nonlocal shown
            with self._lock:
                if shown == self._version:
                    return None
                shown = self._version
                return self._configuration()

        return grpc.dynamic_ssl_server_credentials(initial, fetch, require_client_authentication=True)

    def update(self, *, identity: Identity | None = None, authorities: Authorities | None = None) -> None:
        """Show another certificate, or trust other authorities, from now on."""
        with self._lock:
            self._identity = identity or self._identity
            self._authorities = authorities or self._authorities
            self._version += 1

    def verify(self, certificate: x509.Certificate, chain_pem: bytes = b"") -> None:
        """The `Verify` of every service on this port. Raises Unauthorized or Forbidden."""
        self._authorities.check(certificate, self._clock.now_ns(), chain_pem)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self._identity.key_pem, self._identity.chain_pem)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=self._authorities.bundle())


def channel(addr: str, identity: Identity | KeyPair, root_pem: bytes, *, name: str = MANAGER_NAME) -> grpc.aio.Channel:
    """A channel to a manager at `host:port`, as `identity`, believing only in the roots of `root_pem`.

    Args:
        name: who must be at the other end: the role, or a node id to reach that very node.
    """
    shown = identity.shown_pem if isinstance(identity, Identity) else identity.certificate_pem
    credentials = grpc.ssl_channel_credentials(root_pem, identity.key_pem, shown)
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", name)]
    return grpc.aio.secure_channel(addr, credentials, options=options)

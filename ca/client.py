"""Joining a swarm and renewing a certificate.

A join has three steps, and trusts nothing before it has proof:
1. read the certificates that the server shows, without believing them, and find the root by the token's digest;
2. with that root as the only anchor, find out which join authority (worker or manager) the server accepts from us;
3. over gRPC with that join certificate, have a fresh public key signed, and check what comes back.

A connection that breaks before anything was asked is made again, from step 1: the token may have been rotated since.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from api.errors import Internal, InvalidArgument, Unauthorized, Unavailable
from api.rpc.client import call
from api.rpc.swarm_methods import CA_ISSUE
from api.types.dispatch import IssueCertificateRequest
from base.clock import Clock
from base.offload import Pool
from ca.certificates import (
    MANAGER,
    ROLES,
    WORKER,
    KeyPair,
    join_leaf,
    key_pem,
    new_key,
    request,
    same_key,
)
from ca.identity import Identity
from ca.tls import MANAGER_NAME, channel
from ca.tokens import Token, parse_token, root_digest

HANDSHAKE_S = 5.0
"""For each TCP connection and TLS handshake while joining."""
ISSUE_S = 20.0
"""For a certificate; longer than a leader election."""
ATTEMPTS, PAUSE_S = 4, 0.25
"""Joins under load, or while a token is rotated, lose handshakes."""
INVALID_TOKEN = "invalid join token: a valid join token is necessary to join this cluster"
CHAIN_CERTIFICATES_MAX = 10
assert HANDSHAKE_S < ISSUE_S


class _Broken(Unavailable):
    """Somebody is there, but the connection broke before anything was asked of him."""


async def join(addr: str, token: str, clock: Clock) -> Identity:
    """Become a node of the swarm that a manager at `host:port` belongs to. The role is the token's.

    Raises:
        InvalidArgument: the token is malformed, of another cluster, or not (any longer) valid there.
        Unavailable: nobody answers at `addr`, or the swarm has no leader.
    """
    parsed = parse_token(token)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await _join(addr, parsed, clock)
        except _Broken:
            if attempt == ATTEMPTS:
                raise
        await asyncio.sleep(PAUSE_S * attempt)
    raise AssertionError("the last attempt returns or raises")


async def _join(addr: str, token: Token, clock: Clock) -> Identity:
    pool = Pool("ca-join", 1)
    try:
        root_pem = await pool.run(fetch_root, addr, token.digest)
        leaf = await pool.run(_accepted_leaf, addr, token, root_pem, clock.now_ns())
    finally:
        pool.close()
    connection = channel(addr, leaf, root_pem)
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            await connection.channel_ready()  # handshakes that fail are made again until then
        return await _obtain(connection, root_pem)
    except TimeoutError:
        raise _Broken(f"{addr}: the connection breaks before it is ready") from None
    except Unauthorized:  # rotated since it was accepted
        raise InvalidArgument(INVALID_TOKEN) from None
    finally:
        await connection.close(None)


async def renew(addr: str, identity: Identity, now_ns: int = 0) -> Identity:
    """A new certificate for a new key, same node id, the role that the swarm wants the node to have now.

    Args:
        now_ns: the time; a certificate that has expired by then is not shown, the one for renewal is.

    Raises: Unavailable, Forbidden (the node was removed), or what else the manager says.
    """
    proof: Identity | KeyPair = identity
    if identity.renewal_pem and now_ns >= identity.expires_ns:
        proof = KeyPair(identity.renewal_pem + identity.intermediates_pem, identity.key_pem)
    connection = channel(addr, proof, identity.root_pem)
    try:
        fresh = await _obtain(connection, identity.root_pem)
    finally:
        await connection.close(None)
    if (fresh.node_id, fresh.cluster_id) != (identity.node_id, identity.cluster_id):
        raise Internal("the manager issued a certificate for somebody else")
    return fresh


async def renew_any(addrs: Sequence[str], identity: Identity) -> Identity:
    """`renew` with the first of these managers that is there. Raises Unavailable when none is."""
    error: Unavailable | None = None
    for addr in addrs:
        try:
            return await renew(addr, identity)
        except Unavailable as unavailable:
            error = unavailable
    raise error or Unavailable("no manager is known")


async def _obtain(connection: grpc.aio.Channel, root_pem: bytes) -> Identity:
    key = new_key()
    answer = await call(connection, CA_ISSUE, IssueCertificateRequest(csr_pem=request(key)), timeout=ISSUE_S)
    roots = answer.root_ca_pem or root_pem  # it may have been replaced; who answers was proven by a root we know
    try:
        identity = Identity.from_pem(
            answer.certificate_pem, key_pem(key), roots, answer.renewal_pem, answer.intermediates_pem
        )
        if not identity.root_digest:
            raise ValueError("signed by nobody we know")
    except ValueError as error:
        raise Internal("the manager answered with a certificate that its root did not sign") from error
    if not same_key(identity.certificate_pem, identity.key_pem) or identity.role not in ROLES:
        raise Internal("the manager answered with a certificate that is not for us")
    return identity


# --- before gRPC: plain TLS, in a thread -------------------------------------------------------------------------


def fetch_root(addr: str, digest: str) -> bytes:
    """The root certificate (PEM) that a server shows in its chain, recognised by `digest`. Blocks.

    Raises:
        InvalidArgument: the server's root is another one.
        Unavailable: nobody speaks TLS there.
    """
    context = _context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _connection(addr, context, None) as connection:
        # Public as SSLSocket.get_unverified_chain only from Python 3.13 on.
        inner: Any = connection
        shown: list[Any] = inner._sslobj.get_unverified_chain() or []
    ders = [item.public_bytes(2) if hasattr(item, "public_bytes") else item for item in shown]
    found = ""
    for der in ders[:CHAIN_CERTIFICATES_MAX]:
        try:
            pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        except ValueError as error:
            raise InvalidArgument(f"{addr} shows a certificate that can't be read") from error
        found = root_digest(pem)
        if found == digest:
            return pem
    raise InvalidArgument(f"remote CA does not match fingerprint. Expected: {digest}, got {found}")


def _accepted_leaf(addr: str, token: Token, root_pem: bytes, now_ns: int) -> KeyPair:
    """The join certificate that the server takes: for the worker or for the manager authority. Blocks."""
    for role in (WORKER, MANAGER):
        leaf = join_leaf(token.secret, token.digest, role, now_ns)
        if _accepts(addr, leaf, root_pem):
            return leaf
    raise InvalidArgument(INVALID_TOKEN)


def _accepts(addr: str, leaf: KeyPair, root_pem: bytes) -> bool:
    """Whether a handshake with this client certificate is accepted.

    In TLS 1.3 the client finishes first and learns of a refusal only when it reads. An HTTP/2 server that accepts us
    begins with SETTINGS of its own (RFC 9113 §3.4). We send nothing: data that a closing server leaves unread would
    turn its alert into a reset.
    """
    context = _context()
    context.load_verify_locations(cadata=root_pem.decode())
    with tempfile.TemporaryDirectory(prefix="shoal-join-") as directory:  # mode 0700, the key never outlives the call
        path = Path(directory) / "leaf.pem"
        path.write_bytes(leaf.certificate_pem + leaf.key_pem)
        context.load_cert_chain(path)
    with _connection(addr, context, MANAGER_NAME) as connection:
        try:
            return bool(connection.recv(1))
        except ssl.SSLError as error:
            # An alert is an answer: the server did not take the certificate. A time-out is not.
            if isinstance(error, ssl.SSLEOFError):
                raise _Broken(f"{addr} closed the connection") from error
            return False
        except OSError as error:
            raise _Broken(f"{addr} did not answer: {error}") from error


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    return context


@contextlib.contextmanager
def _connection(addr: str, context: ssl.SSLContext, name: str | None) -> Iterator[ssl.SSLSocket]:
    host, _, port = addr.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidArgument(f"remote address {addr!r} is not host:port")
    try:
        plain = socket.create_connection((host.strip("[]"), int(port)), timeout=HANDSHAKE_S)
    except (OSError, OverflowError) as error:
        raise Unavailable(f"{addr} can't be reached: {error}") from error
    with plain:
        try:
            connection = context.wrap_socket(plain, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            raise InvalidArgument(f"{addr} is not a manager of this swarm: {error.verify_message}") from error
        except OSError as error:
            raise _Broken(f"{addr}: TLS handshake failed: {error}") from error
        with connection:
            yield connection

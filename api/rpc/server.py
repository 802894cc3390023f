"""The server's side: handlers as plain coroutines, called with who is asking and the decoded message."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from api import errors
from api.rpc.faults import to_status
from api.rpc.methods import Method, Shape

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """Who calls, by the certificate that the handshake proved."""

    node_id: str
    """CN: the node's id (or the name of the join authority's holder)."""
    role: str
    """OU: `swarm-worker`, `swarm-manager`, `swarm-join-worker` or `swarm-join-manager`."""
    cluster_id: str
    """O."""
    address: str
    """As gRPC gives it: `ipv4:10.0.0.2:41234`."""


Handler = Callable[[Any, Peer], Awaitable[Any] | AsyncIterator[Any]]
"""UNARY, CLIENT_STREAM: a coroutine. SERVER_STREAM, DUPLEX: an async generator. For CLIENT_STREAM and DUPLEX the
first argument is an async iterator of requests."""


Verify = Callable[[x509.Certificate, bytes], None]
"""Called with a caller's certificate and the chain (PEM) that came with it: whether the authority that signed it may
vouch for what it says. The handshake proves only that *one* of the trusted authorities signed it; holders of a join
token command such an authority, so without this check they could name themselves managers. Raises Unauthorized or
Forbidden."""


def chain_only(certificate: x509.Certificate, chain_pem: bytes) -> None:
    """A `Verify` that adds nothing to the handshake: right only where the server trusts one authority, the root."""


def peer_of(context: grpc.aio.ServicerContext, verify: Verify) -> Peer:
    """The caller's identity, believed only after `verify`. Raises Unauthorized when there is no client certificate."""
    shown = context.auth_context()
    pem = (shown.get("x509_pem_cert") or [b""])[0]
    if not pem:
        raise errors.Unauthorized("a client certificate is required")
    certificate = x509.load_pem_x509_certificate(pem)
    verify(certificate, (shown.get("x509_pem_cert_chain") or [b""])[0])
    subject = certificate.subject

    def part(oid: x509.ObjectIdentifier) -> str:
        values = subject.get_attributes_for_oid(oid)
        if len(values) > 1:
            raise errors.Unauthorized("the certificate names its holder twice")
        return str(values[0].value) if values else ""

    return Peer(
        node_id=part(NameOID.COMMON_NAME),
        role=part(NameOID.ORGANIZATIONAL_UNIT_NAME),
        cluster_id=part(NameOID.ORGANIZATION_NAME),
        address=context.peer(),
    )


def service(
    handlers: Mapping[Method[Any, Any], tuple[frozenset[str], Handler]], *, verify: Verify
) -> grpc.GenericRpcHandler:
    """A gRPC handler for a set of methods, each with the roles (certificate OU) that may call it.

    Args:
        verify: on a manager's port always `ca.tls.ServerTls.verify`.
    """
    return _Service(
        {method.path: _bind(method, roles, handler, verify) for method, (roles, handler) in handlers.items()}
    )


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, methods: dict[str, grpc.RpcMethodHandler]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(details.method)


def _bind(method: Method[Any, Any], roles: frozenset[str], handler: Handler, verify: Verify) -> grpc.RpcMethodHandler:
    streams_in = method.shape in (Shape.CLIENT_STREAM, Shape.DUPLEX)
    streams_out = method.shape in (Shape.SERVER_STREAM, Shape.DUPLEX)

    def begin(data: Any, context: grpc.aio.ServicerContext) -> Any:
        peer = peer_of(context, verify)
        if peer.role not in roles:
            raise errors.Forbidden(f"{method.path} is not open to {peer.role or 'this certificate'}")
        message = _decoded(method, data) if streams_in else method.decode_request(data)
        return handler(message, peer)

    async def answer(data: Any, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return method.encode(await begin(data, context))
        except Exception as error:
            await _abort(context, method, error)
            raise

    async def answer_stream(data: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            # Closed here, not whenever the collector finds it: a session must end with its connection.
            async with aclosing(begin(data, context)) as messages:
                async for message in messages:
                    yield method.encode(message)
        except Exception as error:
            await _abort(context, method, error)
            raise

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[streams_in, streams_out]
    return make(answer_stream if streams_out else answer)


async def _decoded(method: Method[Any, Any], data: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for item in data:
        yield method.decode_request(item)


async def _abort(context: grpc.aio.ServicerContext, method: Method[Any, Any], error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, msgspec.ValidationError | msgspec.DecodeError):
        error = errors.InvalidArgument(f"{method.path}: {error}")
    if not isinstance(error, errors.ShoalError):
        log.error("rpc handler failed method=%s", method.path, exc_info=error)
        error = errors.Internal("internal error; see the manager's log")
    code, details = to_status(error)
    await context.abort(code, details)

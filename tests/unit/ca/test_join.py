"""Joining and renewing over real gRPC with mutual TLS: right token, wrong token, wrong root, rotation, removal."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from api.errors import Forbidden, InvalidArgument, Unauthorized, Unavailable
from api.rpc.client import call
from api.rpc.swarm_methods import CA_GET_ROOT, CA_ISSUE, CONTROL_CALL, MANAGERS
from api.types.dispatch import ForwardRequest, ForwardResponse, GetRootCARequest, IssueCertificateRequest
from api.types.objects import JoinTokens, Node
from api.types.swarm import NodeSpec
from base.ids import swarm_id
from ca import certificates as certs
from ca import client
from ca.client import fetch_root, join, renew
from ca.identity import Identity
from ca.tls import channel
from ca.tokens import new_token, parse_token
from tests.unit.ca.swarm import CLOCK, Manager, new_cluster, new_identity


@pytest.mark.parametrize("role", ["worker", "manager"])
async def test_a_token_makes_a_node_of_its_role(role: str) -> None:
    manager = Manager()
    async with manager.serving() as addr:
        identity = await join(addr, getattr(manager.cluster().join_tokens, role), CLOCK)
        assert identity.role == role
        assert identity.cluster_id == manager.cluster().id
        assert manager.nodes[identity.node_id].role == role
        assert manager.nodes[identity.node_id].certificate.certificate_pem == identity.certificate_pem
        assert re.fullmatch("[0-9a-z]{25}", identity.node_id)


async def test_a_wrong_secret_is_an_invalid_token_and_registers_nobody() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        with pytest.raises(InvalidArgument, match="invalid join token"):
            await join(addr, new_token(manager.identity.root_pem), CLOCK)
    assert manager.nodes == {}


async def test_another_root_is_recognised_before_anything_is_shown() -> None:
    manager, token = Manager(), new_cluster().join_tokens.worker
    digest = parse_token(token).digest
    async with manager.serving() as addr:
        with pytest.raises(InvalidArgument, match=f"remote CA does not match fingerprint. Expected: {digest}"):
            await join(addr, token, CLOCK)
    assert manager.nodes == {}


async def test_a_worker_of_the_swarm_can_not_pose_as_a_manager_to_a_joiner() -> None:
    """It has the root to show and a certificate of it, but not for the name `swarm-manager`."""
    manager = Manager()
    manager.identity = new_identity(manager.cluster(), "worker")
    manager.tls.update(identity=manager.identity)
    async with manager.serving() as addr:
        with pytest.raises(InvalidArgument, match="is not a manager of this swarm"):
            await join(addr, manager.cluster().join_tokens.manager, CLOCK)


async def test_rotation_ends_the_old_token_and_begins_the_new() -> None:
    manager = Manager()
    old = manager.cluster().join_tokens
    async with manager.serving() as addr:
        before = await join(addr, old.worker, CLOCK)
        fresh = new_token(manager.identity.root_pem)
        manager.change(join_tokens=JoinTokens(worker=fresh, manager=old.manager))
        with pytest.raises(InvalidArgument, match="invalid join token"):
            await join(addr, old.worker, CLOCK)
        assert (await join(addr, fresh, CLOCK)).role == "worker"
        assert (await join(addr, old.manager, CLOCK)).role == "manager"
        assert (await renew(addr, before)).node_id == before.node_id, "nodes stay nodes"


@asynccontextmanager
async def interrupted(addr: str, meet: Callable[[int], bool]) -> AsyncIterator[str]:
    """A way to `addr` on which every connection that `meet(number)` does not let pass breaks in its handshake."""
    host, _, port = addr.rpartition(":")
    numbers = itertools.count(1)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if not meet(next(numbers)):
            writer.close()
            return
        there = await asyncio.open_connection(host, int(port))
        there[1].write(b"\x16")  # how every TLS connection begins
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("broken", [1, 2, 3])
async def test_a_handshake_that_breaks_while_joining_is_made_again(broken: int) -> None:
    manager = Manager()
    async with manager.serving() as addr, interrupted(addr, lambda number: number != broken) as way:
        assert (await join(way, manager.cluster().join_tokens.worker, CLOCK)).role == "worker"
    assert len(manager.nodes) == 1


async def test_a_token_that_is_rotated_while_it_is_used_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager()
    old = manager.cluster().join_tokens
    monkeypatch.setattr(client, "HANDSHAKE_S", 1.0)

    def meet(number: int) -> bool:
        if number == 3:  # the root is known and the token accepted
            manager.change(join_tokens=JoinTokens(worker=new_token(manager.identity.root_pem), manager=old.manager))
        return True

    async with manager.serving() as addr, interrupted(addr, meet) as way:
        with pytest.raises(InvalidArgument, match="invalid join token"):
            await join(way, old.worker, CLOCK)
    assert manager.nodes == {}


async def test_a_connection_made_before_a_rotation_is_of_no_use_after_it() -> None:
    manager = Manager()
    token = parse_token(manager.cluster().join_tokens.worker)
    leaf = certs.join_leaf(token.secret, token.digest, "worker", CLOCK.now_ns())
    async with manager.serving() as addr:
        connection = channel(addr, leaf, manager.identity.root_pem)
        try:
            await call(connection, CA_GET_ROOT, GetRootCARequest(), timeout=5)
            manager.change(join_tokens=JoinTokens(worker=new_token(manager.identity.root_pem), manager=""))
            with pytest.raises(Unauthorized):
                await call(connection, CA_GET_ROOT, GetRootCARequest(), timeout=5)
        finally:
            await connection.close(None)


async def test_a_node_renews_with_a_new_key_and_the_role_that_the_store_wants() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        first = await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        second = await renew(addr, first)
        assert (second.node_id, second.role) == (first.node_id, "worker")
        assert second.key_pem != first.key_pem
        node = manager.nodes[first.node_id]
        manager.nodes[first.node_id] = msgspec.structs.replace(node, spec=NodeSpec(role="manager"))
        third = await renew(addr, second)
        assert (third.node_id, third.role) == (first.node_id, "manager")


def expired(manager: Manager, role: str = "worker") -> Identity:
    """A node whose certificate ended an hour ago."""
    cluster, key, node_id = manager.cluster(), certs.new_key(), swarm_id()
    root, then = cluster.root_ca, CLOCK.now_ns() - 2 * certs.HOUR_NS
    pem = certs.issue(
        root, key.public_key(), node_id=node_id, role=role, cluster_id=cluster.id, now_ns=then, life_ns=certs.HOUR_NS
    )
    renewal = certs.issue_renewal(root, key.public_key(), node_id=node_id, cluster_id=cluster.id, now_ns=then)
    manager.nodes[node_id] = Node(id=node_id, spec=NodeSpec(role=role), role=role)
    return Identity.from_pem(pem, certs.key_pem(key), root.certificate_pem, renewal)


@pytest.mark.parametrize("role", ["worker", "manager"])
async def test_a_node_that_was_off_when_its_certificate_expired_comes_back(role: str) -> None:
    manager = Manager()
    async with manager.serving() as addr:
        identity = expired(manager, role)
        with pytest.raises(Unavailable):
            await renew(addr, identity)  # the expired one itself passes no handshake
        fresh = await renew(addr, identity, CLOCK.now_ns())
        assert (fresh.node_id, fresh.role) == (identity.node_id, role)
        assert fresh.expires_ns > CLOCK.now_ns()
        assert fresh.renewal_pem not in (b"", identity.renewal_pem)
        # A later one may come back as well, as long as the swarm knows it.
        manager.change(removed_nodes=[identity.node_id])
        with pytest.raises(Forbidden, match="removed"):
            await renew(addr, identity, CLOCK.now_ns())


async def test_a_certificate_for_renewal_opens_nothing_else() -> None:
    manager = Manager()

    async def forward(message: object, peer: object) -> ForwardResponse:
        return ForwardResponse(result=b"")

    async with manager.serving({CONTROL_CALL: (MANAGERS, forward)}) as addr:
        identity = expired(manager, "manager")
        proof = certs.KeyPair(identity.renewal_pem, identity.key_pem)
        connection = channel(addr, proof, identity.root_pem)
        with pytest.raises(Forbidden, match="swarm-renew"):
            await call(connection, CONTROL_CALL, ForwardRequest(method="x", arguments=b""), timeout=5)
        await connection.close()


async def test_a_removed_node_is_refused() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        identity = await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        manager.change(removed_nodes=[identity.node_id])
        with pytest.raises(Forbidden, match="removed"):
            await renew(addr, identity)


async def test_a_node_that_joined_through_another_manager_just_now_is_known() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        identity = new_identity(manager.cluster(), "worker")
        manager.late.append(Node(id=identity.node_id, spec=NodeSpec(role="worker"), role="worker"))
        assert (await renew(addr, identity)).node_id == identity.node_id


async def test_a_node_that_the_store_does_not_know_is_refused() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        with pytest.raises(Forbidden, match="not part of the swarm"):
            await renew(addr, new_identity(manager.cluster(), "worker"))


async def test_a_worker_token_holder_can_not_name_itself_a_manager() -> None:
    """The handshake takes the chain, for it ends at a trusted authority; the handler must not take the role."""
    manager = Manager()
    token = parse_token(manager.cluster().join_tokens.worker)
    signer = certs.join_authority_key(token.secret, token.digest, "worker")
    honest = x509.load_pem_x509_certificate(
        certs.join_leaf(token.secret, token.digest, "worker", CLOCK.now_ns()).certificate_pem
    )
    key = certs.new_key()
    now = datetime.datetime.now(datetime.UTC)
    async with manager.serving() as addr:
        for unit in ("swarm-manager", "swarm-worker", "swarm-join-manager"):
            subject = [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, manager.cluster().id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
                x509.NameAttribute(NameOID.COMMON_NAME, manager.identity.node_id),
            ]
            leaf = (
                x509.CertificateBuilder()
                .subject_name(x509.Name(subject))
                .issuer_name(honest.issuer)
                .public_key(key.public_key())
                .serial_number(7)
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(hours=1))
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .sign(signer, hashes.SHA256())
            )
            proof = certs.KeyPair(leaf.public_bytes(Encoding.PEM), certs.key_pem(key))
            connection = channel(addr, proof, manager.identity.root_pem)
            try:
                message = IssueCertificateRequest(csr_pem=certs.request(key))
                with pytest.raises(Unauthorized, match=f"signer may not give the role '{unit}'"):
                    await call(connection, CA_ISSUE, message, timeout=5)
            finally:
                await connection.close(None)
    assert manager.nodes == {}


async def test_a_stranger_does_not_get_through_the_handshake() -> None:
    manager = Manager()
    stranger = new_identity(new_cluster())
    async with manager.serving() as addr:
        connection = channel(addr, stranger, manager.identity.root_pem)
        try:
            with pytest.raises(Unavailable):
                await call(connection, CA_GET_ROOT, GetRootCARequest(), timeout=5)
        finally:
            await connection.close(None)
        bare = grpc.aio.secure_channel(
            addr,
            grpc.ssl_channel_credentials(manager.identity.root_pem),
            options=[("grpc.ssl_target_name_override", "swarm-manager")],
        )
        try:
            with pytest.raises(Unavailable):
                await call(bare, CA_GET_ROOT, GetRootCARequest(), timeout=5)
        finally:
            await bare.close(None)


async def test_a_garbled_request_names_the_field() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        identity = await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        connection = channel(addr, identity, identity.root_pem)
        try:
            with pytest.raises(InvalidArgument, match="csr_pem"):
                await call(connection, CA_ISSUE, IssueCertificateRequest(csr_pem=b"x"), timeout=5)
        finally:
            await connection.close(None)


async def test_nobody_there_is_unavailable_and_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        addr = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(Unavailable, match=addr):
        await join(addr, new_cluster().join_tokens.worker, CLOCK)


@pytest.mark.parametrize("addr", ["", "host", ":2377", "host:port"])
def test_a_bad_address_is_an_invalid_argument(addr: str) -> None:
    with pytest.raises(InvalidArgument, match="host:port"):
        fetch_root(addr, "d" * 50)


def test_a_port_that_speaks_no_tls_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            with pytest.raises(Unavailable, match="TLS handshake failed"):
                fetch_root(f"127.0.0.1:{server.getsockname()[1]}", "d" * 50)
        finally:
            thread.join()


async def test_a_new_identity_is_shown_without_a_restart() -> None:
    manager = Manager()
    async with manager.serving() as addr:
        again = new_identity(manager.cluster(), "manager", manager.identity.node_id)
        manager.tls.update(identity=again)
        identity = await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        assert isinstance(identity, Identity)

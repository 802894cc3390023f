"""An external CA signs, and what it signs is checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.errors import InvalidArgument, Unavailable
from api.types.swarm import CAConfig, ExternalCA, SwarmSpec
from ca import certificates as certs
from ca.client import join, renew
from tests.unit.ca.cfssl import Cfssl
from tests.unit.ca.swarm import CLOCK, Manager


def configured(manager: Manager, *urls: str, **options: str) -> None:
    external = [ExternalCA(protocol="cfssl", url=url, options=options) for url in urls]
    manager.change(spec=SwarmSpec(ca_config=CAConfig(external_cas=external)))


@pytest.mark.promise(
    *(f"swarm.{entry}ExternalCA{part}" for entry in ("init.body.Spec.CAConfig.", "update.body.CAConfig.")
      for part in ("", ".Protocol", ".URL", ".Options")),
)  # fmt: skip
@pytest.mark.parametrize("role", ["worker", "manager"])
async def test_joining_and_renewing_by_an_external_ca(role: str) -> None:
    manager = Manager()
    ca = Cfssl(manager.cluster().root_ca)
    async with ca.serving() as url, manager.serving() as addr:
        configured(manager, "http://127.0.0.1:1/down", url, profile="node")
        first = await join(addr, getattr(manager.cluster().join_tokens, role), CLOCK)
        second = await renew(addr, first)
        assert (second.node_id, second.role) == (first.node_id, role)
        assert [asked["profile"] for asked in ca.requests] == ["node", "node"]
        assert manager.nodes[first.node_id].certificate.certificate_pem == second.certificate_pem


def test_a_root_that_the_operator_brings(tmp_path: Path) -> None:
    root, other = certs.create_root(CLOCK.now_ns()), certs.create_root(CLOCK.now_ns())
    path = tmp_path / "root.pem"
    path.write_bytes(root.certificate_pem + root.key_pem)
    assert certs.read_root(path) == root
    path.write_bytes(root.key_pem + root.certificate_pem)
    assert certs.read_root(path) == root
    for content in (root.certificate_pem, root.key_pem, root.certificate_pem + other.key_pem, b""):
        path.write_bytes(content)
        with pytest.raises(InvalidArgument):
            certs.read_root(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda named: named | {"role": "manager"}, "certificate is for"),
        (lambda named: named | {"node_id": "somebody"}, "certificate is for"),
        (lambda named: named | {"cluster_id": "another"}, "certificate is for"),
        (lambda named: named | {"public_key": certs.new_key().public_key()}, "another key"),
    ],
)
async def test_a_certificate_that_was_not_asked_for_is_refused(
    spoil: Callable[[dict[str, Any]], dict[str, Any]], said: str
) -> None:
    manager = Manager()
    ca = Cfssl(manager.cluster().root_ca)
    ca.spoil = spoil
    async with ca.serving() as url, manager.serving() as addr:
        configured(manager, url)
        with pytest.raises(Unavailable, match=said):
            await join(addr, manager.cluster().join_tokens.worker, CLOCK)
        assert manager.nodes == {}


async def test_another_root_and_a_refusal_are_said() -> None:
    manager = Manager()
    ca = Cfssl(certs.create_root(CLOCK.now_ns()))
    async with ca.serving() as url, manager.serving() as addr:
        configured(manager, url)
        token = manager.cluster().join_tokens.worker
        with pytest.raises(Unavailable, match="not signed by the swarm's root"):
            await join(addr, token, CLOCK)
        ca.says = {"success": False, "result": None, "errors": [{"code": 1, "message": "no such profile"}]}
        with pytest.raises(Unavailable, match="no such profile"):
            await join(addr, token, CLOCK)

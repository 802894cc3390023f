"""The certificates directory: private, atomic, and whole after a crash at any step."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ca.identity import CERTIFICATE, KEY, NEXT_KEY, ROOT, Identity, IdentityStore
from tests.unit.ca.swarm import new_cluster, new_identity

CLUSTER = new_cluster()
OLD = new_identity(CLUSTER, "worker", "node1")
NEW = new_identity(CLUSTER, "manager", "node1")


def test_what_is_saved_is_loaded_and_private(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "certificates")
    assert store.load() is None
    store.save(OLD)
    assert store.load() == OLD
    assert sorted(os.listdir(tmp_path / "certificates")) == sorted([CERTIFICATE, KEY, ROOT])
    for name in (CERTIFICATE, KEY, ROOT):
        assert (tmp_path / "certificates" / name).stat().st_mode & 0o777 == 0o600
    store.remove()
    assert store.load() is None
    assert os.listdir(tmp_path / "certificates") == []


@pytest.mark.parametrize("renames", range(5))
def test_a_crash_after_any_rename_leaves_a_whole_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    store = IdentityStore(tmp_path)
    store.save(OLD)
    rename, left = Path.rename, renames

    class Crash(Exception):
        pass

    def crashing(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crashing)
    try:
        store.save(NEW)
    except Crash:
        pass
    monkeypatch.undo()
    committed = renames >= 3
    assert store.load() == (NEW if committed else OLD)
    assert not (tmp_path / NEXT_KEY).exists(), "load finishes what the crash interrupted"
    store.save(NEW)
    assert store.load() == NEW


def test_the_certificate_for_renewal_is_kept_with_the_certificate(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path)
    both = replace(NEW, renewal_pem=OLD.certificate_pem)
    store.save(both)
    assert store.load() == both
    store.save(OLD)
    assert store.load() == OLD


def test_a_key_of_somebody_else_is_an_error(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path)
    store.save(OLD)
    (tmp_path / KEY).write_bytes(NEW.key_pem)
    with pytest.raises(ValueError, match="no key for the node certificate"):
        store.load()


def test_the_key_does_not_print() -> None:
    assert "PRIVATE" not in repr(OLD)
    assert Identity.from_pem(OLD.certificate_pem, OLD.key_pem, OLD.root_pem) == OLD

"""Backups: whole, unreadable without the key, refused when they are not what they should be, restored as one."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from api import errors
from ca.identity import IdentityStore
from daemon.backup import main, read, restore, take
from daemon.node import NodeState, read_state, write_state
from tests.unit.manager.swarm import Swarm, service_spec

SECRET = b"correct horse battery"


def settled(swarm: Swarm, root: Path) -> Path:
    """The first host's state as the daemon keeps it: below `swarm/`."""
    host = swarm.first
    assert host.directory == root / "swarm"
    IdentityStore(host.directory / "certificates").save(host.identity)
    write_state(host.directory, NodeState(listen_addr=host.addr, advertise_addr=host.addr))
    return root


async def test_a_live_manager_is_backed_up_and_begins_anew_elsewhere(
    tmp_path: Path,
) -> None:
    root, target = tmp_path / "old", tmp_path / "x.backup"
    root.mkdir()
    async with Swarm(root) as swarm:
        (root / "swarm").symlink_to(root / "m1")
        host = swarm.first
        host.directory = root / "swarm"
        settled(swarm, root)
        await host.control().create_service(service_spec(replicas=2))
        second = await swarm.add_manager("m2")
        cluster = await host.control().get_cluster()
        made = take(root, target, SECRET)
        assert target.stat().st_mode & 0o777 == 0o600
        assert cluster.join_tokens.worker.encode() not in target.read_bytes()
        await host.control().create_service(service_spec("later"))
        for each in (second, host):
            await each.kill()
        new = tmp_path / "new"
        assert restore(new, target, SECRET) == made
        state = read_state(new / "swarm")
        assert state is not None
        assert state.advertise_addr == host.addr
        host.directory = new / "swarm"
        await host.start_manager()
        services = await host.control().list_services({})
        assert [service.spec.name for service in services] == ["web"]
        assert (await host.control().get_cluster()).join_tokens == cluster.join_tokens
        assert len(host.control_raft().status().members) == 1
        with pytest.raises(errors.Conflict, match="already"):
            restore(new, target, SECRET)


async def test_what_can_not_be_trusted_is_refused(tmp_path: Path) -> None:
    root, target = tmp_path / "old", tmp_path / "x.backup"
    root.mkdir()
    async with Swarm(root) as swarm:
        await swarm.first.kill()
        (root / "m1").rename(root / "swarm")
        swarm.first.directory = root / "swarm"
        settled(swarm, root)
        take(root, target, SECRET)
        with pytest.raises(errors.InvalidArgument, match="key is wrong"):
            read(target, b"another key")
        whole = target.read_bytes()
        for spoiled in (whole[:-1], whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], whole[:20]):
            target.write_bytes(spoiled)
            with pytest.raises(errors.InvalidArgument):
                restore(tmp_path / "new", target, SECRET)
            assert not (tmp_path / "new" / "swarm").exists()
        target.write_bytes(whole)
        (tmp_path / "busy").mkdir()
        with open(tmp_path / "busy" / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(errors.Conflict, match="stop it first"):
                restore(tmp_path / "busy", target, SECRET)
        # A log that does not open is no backup, and an older file stays.
        keys = root / "swarm" / "certificates" / "swarm-raft.keys"
        keys.write_bytes(keys.read_bytes().replace(b'"number":1', b'"number":2'))
        with pytest.raises(errors.Internal, match="key"):
            take(root, target, SECRET)
        assert target.read_bytes() == whole
        assert sorted(path.name for path in tmp_path.iterdir()) == ["busy", "old", "x.backup"]


def test_the_commands_say_what_is_wrong(tmp_path: Path) -> None:
    key = tmp_path / "key"
    for content, said in ((b"short", "less than 8 bytes"), (SECRET, "no manager's state")):
        key.write_bytes(content)
        with pytest.raises(errors.ShoalError, match=said):
            main(["backup", "--offline", "--data-root", str(tmp_path), "--key-file", str(key), str(tmp_path / "b")])
    with pytest.raises(errors.Unavailable, match="does not answer"):
        main(["backup", "-H", f"unix://{tmp_path}/s", "--key-file", str(key), str(tmp_path / "b")])
    (tmp_path / "b").write_bytes(b"something else")
    with pytest.raises(errors.InvalidArgument, match="not a backup"):
        main(["restore", "--data-root", str(tmp_path / "n"), "--key-file", str(key), str(tmp_path / "b")])

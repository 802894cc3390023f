"""`shoald backup` and `shoald restore`: a manager's state in one encrypted file, and a swarm begun anew from it.

A backup is taken from a live manager without stopping it: the log is copied in one read transaction, opened with its
keys and checked record by record, and the file is read back before the command says that it is done. A restored manager
is alone: members of the old swarm count as removed, because a member that forgets what it voted for is a danger to the
others. Format: `SHOALBK1`, a salt, a nonce, then MessagePack sealed with AES-256-GCM under a key made by scrypt.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import os
import secrets
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from api.errors import Conflict, InvalidArgument, NotFound, Unavailable
from base.clock import SystemClock, rfc3339nano
from ca.identity import CERTIFICATE, KEY, ROOT, IdentityStore
from daemon.config import DEFAULT_HOST, Config, split_host
from daemon.node import NodeState, read_state, write_state
from manager.manager import CERTIFICATES, LOG_FILE
from manager.raftkeys import FILE as KEYS_FILE
from manager.recovery import check_log, found_anew

MAGIC = b"SHOALBK1"
SALT_BYTES, NONCE_BYTES = 16, 12
SECRET_BYTES_MIN = 8
BARRIER_S = 15.0
FILES = (
    LOG_FILE,
    "state.json",
    f"{CERTIFICATES}/{CERTIFICATE}",
    f"{CERTIFICATES}/{KEY}",
    f"{CERTIFICATES}/{ROOT}",
    f"{CERTIFICATES}/{KEYS_FILE}",
)


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What is inside."""

    created: int
    node_id: str
    cluster_id: str
    index: int
    """The last entry of the log."""
    files: dict[str, bytes]
    """By path below `swarm/`."""


def main(argv: Sequence[str]) -> str:
    """Run `backup …` or `restore …`; returns what to tell the user. Raises ShoalError."""
    arguments = _parser().parse_args(argv)
    secret = _secret(arguments.key_file)
    if arguments.command == "backup":
        if not arguments.offline:
            catch_up(arguments.host)
        made = take(arguments.data_root, arguments.file, secret)
        return f"backup of node {made.node_id} up to index {made.index} written to {arguments.file} and verified"
    found = restore(arguments.data_root, arguments.file, secret, arguments.advertise_addr)
    return (
        f"restored node {found.node_id} as it was at {rfc3339nano(found.created)}, as the only manager of its swarm; "
        "start shoald, then let other managers join"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shoald", description="Back up a manager's state, or begin anew from it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("backup", "copy a manager's state into an encrypted file"), ("restore", "begin anew from it")):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("file", type=Path, help="the backup")
        command.add_argument("--key-file", type=Path, required=True, help="file whose content is the passphrase or key")
        command.add_argument("--data-root", type=Path, default=Config().data_root, help="as shoald's")
    backup, restored = commands.choices["backup"], commands.choices["restore"]
    backup.add_argument("-H", "--host", default=DEFAULT_HOST, help="the manager's API (a unix socket)")
    backup.add_argument("--offline", action="store_true", help="shoald does not run: take what is on disk")
    restored.add_argument("--advertise-addr", default="", help="address:port, where it is not the old one")
    return parser


def _secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise InvalidArgument(f"--key-file: {error}") from None
    if len(secret) < SECRET_BYTES_MIN:
        raise InvalidArgument(f"--key-file: {path} holds less than {SECRET_BYTES_MIN} bytes")
    return secret


# --- taking ------------------------------------------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("shoald", timeout=BARRIER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(BARRIER_S)
        self.sock.connect(self._path)


def catch_up(host: str) -> None:
    """Afterwards this manager's log holds all that was acknowledged before: a read of the swarm waits for that.

    Raises Unavailable when the daemon does not answer or says no (no manager, no leader).
    """
    scheme, path, _ = split_host(host)
    if scheme != "unix":
        raise InvalidArgument("--host: a backup is taken on the manager itself, through its unix socket")
    with closing(_Connection(path)) as connection:
        try:
            connection.request("GET", "/v1.24/swarm")
            answer = connection.getresponse()
            body = answer.read()
        except OSError as error:
            raise Unavailable(f"shoald does not answer at {host}: {error}") from None
    if answer.status != 200:
        raise Unavailable(f"shoald can't be backed up now: {body.decode(errors='replace').strip()}")


def take(data_root: Path, target: Path, secret: bytes) -> Backup:
    """Copy, check, seal, write and read back. Leaves no file behind when it raises.

    Raises NotFound when this node is no manager, and what the log is broken by.
    """
    state_dir = data_root / "swarm"
    if not (state_dir / LOG_FILE).exists() or read_state(state_dir) is None:
        raise NotFound(f"there is no manager's state below {data_root}")
    with tempfile.TemporaryDirectory(prefix="shoal-backup-") as temporary:  # mode 0700
        copy = Path(temporary)
        (copy / CERTIFICATES).mkdir(mode=0o700)
        with closing(sqlite3.connect(f"file:{state_dir / LOG_FILE}?mode=ro", uri=True)) as database:
            database.execute("VACUUM INTO ?", (str(copy / LOG_FILE),)).close()
        for name in FILES[1:]:  # the keys after the log: a key is on disk before it is used
            try:
                (copy / name).write_bytes((state_dir / name).read_bytes())
            except FileNotFoundError:
                raise NotFound(f"{state_dir / name} is missing") from None
        backup = _checked(copy)
    sealed = seal(msgspec.msgpack.encode(backup), secret)
    target = target.absolute()
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(descriptor)
        if read(part, secret) != backup:
            raise Unavailable(f"{target} did not read back as it was written")
        part.rename(target)
    except OSError as error:
        raise Unavailable(f"the backup can't be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return backup


def _checked(copy: Path) -> Backup:
    """The copied state as a backup, once it has proven whole. Raises what is wrong with it."""
    last = check_log(copy, SystemClock())
    try:
        identity = IdentityStore(copy / CERTIFICATES).load()
    except ValueError as error:
        raise Unavailable(f"the node's certificate is just being renewed, try again: {error}") from None
    assert identity is not None, "its files were copied"
    return Backup(
        created=time.time_ns(),
        node_id=identity.node_id,
        cluster_id=identity.cluster_id,
        index=last,
        files={name: (copy / name).read_bytes() for name in FILES},
    )


# --- restoring ---------------------------------------------------------------------------------------------------


def restore(data_root: Path, source: Path, secret: bytes, advertise_addr: str = "") -> Backup:
    """Put a backup where shoald finds it, as the only manager of its swarm. All or nothing.

    Raises Conflict when the data root has a swarm already, InvalidArgument for a wrong key or a damaged file.
    """
    backup = read(source, secret)
    data_root.mkdir(parents=True, exist_ok=True)
    with open(data_root / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"shoald runs on {data_root}: stop it first") from None
        _place(data_root, source, backup, advertise_addr)
    return backup


def _place(data_root: Path, source: Path, backup: Backup, advertise_addr: str) -> None:
    state_dir, fresh = data_root / "swarm", data_root / "swarm.restored"
    if (state_dir / "state.json").exists():
        raise Conflict(f"{state_dir} is a node's state already: leave that swarm first, or name another --data-root")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        (fresh / CERTIFICATES).mkdir(parents=True, mode=0o700)
        fresh.chmod(0o700)
        for name, content in backup.files.items():
            if name not in FILES:
                raise InvalidArgument(f"{source}: unknown file {name!r}")
            (fresh / name).touch(mode=0o600)
            (fresh / name).write_bytes(content)
        state = read_state(fresh)
        if state is None:
            raise InvalidArgument(f"{source}: state.json is missing")
        state = _addressed(state, advertise_addr)
        write_state(fresh, state)
        found_anew(fresh, state.advertise_addr, SystemClock())
        for path in [*fresh.rglob("*"), fresh]:
            _sync(path)
        shutil.rmtree(state_dir, ignore_errors=True)
        fresh.rename(state_dir)
        _sync(data_root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _addressed(state: NodeState, advertise_addr: str) -> NodeState:
    state = msgspec.structs.replace(state, remote_managers=[])
    if not advertise_addr:
        return state
    host, separator, port = advertise_addr.rpartition(":")
    if not separator:
        host, port = advertise_addr, state.advertise_addr.rpartition(":")[2]
    if not host or not port.isdecimal():
        raise InvalidArgument(f"--advertise-addr: {advertise_addr!r} is not an address with an optional port")
    listen = f"0.0.0.0:{state.listen_addr.rpartition(':')[2]}"
    asked = f"{host}:{port}"
    return msgspec.structs.replace(
        state, listen_addr=listen, listen_asked="", advertise_addr=asked, advertise_asked=asked
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the file ----------------------------------------------------------------------------------------------------


def seal(data: bytes, secret: bytes) -> bytes:
    """The file's bytes."""
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    head = MAGIC + salt + nonce
    return head + AESGCM(_key(secret, salt)).encrypt(nonce, data, head)


def read(path: Path, secret: bytes) -> Backup:
    """A backup, authenticated as a whole. Raises InvalidArgument."""
    try:
        sealed = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{error}") from None
    head = sealed[: len(MAGIC) + SALT_BYTES + NONCE_BYTES]
    if not head.startswith(MAGIC):
        raise InvalidArgument(f"{path} is not a backup of shoald")
    salt, nonce = head[len(MAGIC) : -NONCE_BYTES], head[-NONCE_BYTES:]
    try:
        data = AESGCM(_key(secret, salt)).decrypt(nonce, sealed[len(head) :], head)
        return msgspec.msgpack.decode(data, type=Backup)
    except (InvalidTag, ValueError):
        raise InvalidArgument(f"{path}: the key is wrong, or the file is damaged") from None


def _key(secret: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**15, r=8, p=1).derive(secret)

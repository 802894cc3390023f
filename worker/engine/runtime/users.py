"""Whom a process runs as: `HostConfig`-style `user[:group]` looked up in the image's own passwd and group files. Pure;
reading those files safely (inside the root) is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from api.errors import InvalidArgument
from worker.engine.runtime.spec import User

MAX_ID = 2**31 - 1


@dataclass(frozen=True)
class Identity:
    """A resolved user; `home` goes into HOME when the environment has none."""

    user: User
    home: str = "/"


@dataclass(frozen=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True)
class _Group:
    name: str
    gid: int
    members: Sequence[str]


def resolve(wish: str, passwd: str, group: str, extra_groups: Sequence[str] = ()) -> Identity:
    """Resolve `user`, `uid`, `user:group`, ...; "" is root. `extra_groups` are `HostConfig.GroupAdd`.

    A number needs no entry; a name does. Without a `:group` the user's entry gives the group, and the group file the
    additional ones.

    Raises:
        InvalidArgument: `unable to find user X: no matching entries in passwd file` and the like.
    """
    user_part, colon, group_part = wish.partition(":")
    user_part = user_part or "0"
    account = _find_account(user_part, list(_accounts(passwd)))
    groups = list(_groups(group))
    if colon and group_part:
        gid = _find_gid(group_part, groups)
        additional: list[int] = []
    else:
        gid = account.gid
        additional = [entry.gid for entry in groups if account.name and account.name in entry.members]
    missing = "Unable to find group {}: no matching entries in group file"
    additional += [_find_gid(name, groups, missing) for name in extra_groups]
    # The primary group is among the additional ones: a process that changes it keeps what it denies (CVE-2022-36109).
    unique = tuple(dict.fromkeys((gid, *additional)))
    return Identity(User(account.uid, gid, unique), account.home or "/")


def _find_account(name: str, accounts: Sequence[_Account]) -> _Account:
    for account in accounts:
        if account.name == name:
            return account
    number = _number(name)
    if number is None:
        raise InvalidArgument(f"unable to find user {name}: no matching entries in passwd file")
    for account in accounts:
        if account.uid == number:
            return account
    return _Account("", number, 0, "/")


def _find_gid(name: str, groups: Sequence[_Group], text: str = "") -> int:
    for entry in groups:
        if entry.name == name:
            return entry.gid
    number = _number(name)
    if number is None:
        raise InvalidArgument(
            text.format(name) if text else f"unable to find group {name}: no matching entries in group file"
        )
    return number


def _number(text: str) -> int | None:
    """An id, None if `text` is a name.

    Raises:
        InvalidArgument: a number outside the range of ids.
    """
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        return None
    number = int(text)
    if not 0 <= number <= MAX_ID:
        raise InvalidArgument(f"uids and gids must be in range 0-{MAX_ID}")
    return number


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield stripped.split(":")


def _accounts(text: str) -> Iterator[_Account]:
    """name:password:uid:gid:comment:home:shell; malformed lines are passed over, as the C library does."""
    for row in _rows(text):
        if len(row) >= 4 and row[2].isdecimal() and row[3].isdecimal():
            yield _Account(row[0], int(row[2]), int(row[3]), row[5] if len(row) > 5 else "")


def _groups(text: str) -> Iterator[_Group]:
    for row in _rows(text):
        if len(row) >= 3 and row[2].isdecimal():
            members = row[3].split(",") if len(row) > 3 else []
            yield _Group(row[0], int(row[2]), [name.strip() for name in members if name.strip()])

"""A strict reader of tar streams: ustar, GNU long names and base-256 numbers, PAX. Forward only, constant memory.

It parses and limits; it never touches the file system (`extract` does). Every error names the member it is about.
Source: POSIX.1-2017 pax "ustar Interchange Format" and "pax Header Block"; GNU tar manual "Basic Tar Format".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from api.errors import InvalidArgument
from worker.engine.images import limits

BLOCK = 512
FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = "0123456"
_KNOWN = frozenset("0123456")
_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_GLOBAL = "L", "K", "x", "g"
_XATTR = "SCHILY.xattr."
_ID_MAX = (1 << 32) - 2
_TIME_MAX_NS = (1 << 63) - 1


class Readable(Protocol):
    """A blocking byte stream; `b""` is its end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(slots=True)
class Member:
    """One entry of an archive, as it describes itself: nothing here is safe to use as a path yet."""

    name: str
    kind: str
    """FILE, HARD_LINK, SYMLINK, ..."""
    mode: int = 0o644
    """Permission bits, 0-07777."""
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    major: int = 0
    minor: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def _text(raw: bytes) -> str:
    return os.fsdecode(raw.split(b"\0", 1)[0])


def _number(raw: bytes, what: str, name: str) -> int:
    """Octal text, or GNU's base-256 form (first bit set)."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big", signed=False) & ((1 << (len(raw) * 8 - 1)) - 1)
        if raw[0] & 0x40:  # negative: two's complement over the remaining bits
            value -= 1 << (len(raw) * 8 - 1)
        return value
    digits = raw.strip(b" \0")
    if not digits:
        return 0
    try:
        return int(digits, 8)
    except ValueError:
        raise InvalidArgument(f"invalid tar header: {what} of {name!r} is no octal number") from None


def _pax_records(raw: bytes, name: str) -> dict[str, bytes]:
    """`LENGTH KEY=VALUE\\n` records; a later one wins."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(raw) and raw[at : at + 1] != b"\0":
        space = raw.find(b" ", at, at + 20)
        digits = raw[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise InvalidArgument(f"invalid tar header: PAX record of {name!r} has no length")
        end = at + int(digits)
        equals = raw.find(b"=", space, end)
        if equals < 0 or end > len(raw) or raw[end - 1 : end] != b"\n":
            raise InvalidArgument(f"invalid tar header: PAX record of {name!r} is malformed")
        records[os.fsdecode(raw[space + 1 : equals])] = raw[equals + 1 : end - 1]
        at = end
    return records


def _decimal_ns(raw: bytes, name: str) -> int:
    text = raw.decode("ascii", "replace")
    negative, text = text.startswith("-"), text.lstrip("-")
    whole, _, fraction = text.partition(".")
    if not whole.isdigit() or len(whole) > 12 or (fraction and not fraction.isdigit()):
        raise InvalidArgument(f"invalid tar header: PAX mtime of {name!r} is no number")
    value = int(whole) * 1_000_000_000 + int((fraction + "000000000")[:9])
    return -value if negative else value


class TarReader:
    """Iterate to get members; `read` gives the data of the current one; what is not read is skipped."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._left = 0
        self._padding = 0
        self._name = ""
        self._members = 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of the current member; b"" at its end. Raises InvalidArgument when the archive ends
        in the middle of it."""
        if self._left == 0:
            return b""
        data = self._source.read(min(size, self._left))
        if not data:
            raise InvalidArgument(f"unexpected end of archive in {self._name!r}")
        self._left -= len(data)
        return data

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            data = self._source.read(size)
            if not data:
                break
            parts.append(data)
            size -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _skip(self) -> None:
        left = self._left + self._padding
        while left:
            data = self._source.read(min(left, limits.CHUNK))
            if not data:
                if left <= self._padding:
                    break  # only padding is missing: GNU tar accepts that too
                raise InvalidArgument(f"unexpected end of archive in {self._name!r}")
            left -= len(data)
        self._left = self._padding = 0

    def _header(self) -> bytes | None:
        """The next header block; None at the end of the archive."""
        block = self._exactly(BLOCK)
        if not block or not any(block):
            return None
        if len(block) < BLOCK:
            raise InvalidArgument(f"unexpected end of archive after {self._name!r}")
        checksum = _number(block[148:156], "checksum", _text(block[:100]))
        if sum(block[:148]) + 256 + sum(block[156:]) != checksum:
            raise InvalidArgument(f"invalid tar header after {self._name!r}: wrong checksum")
        return block

    def _extension(self, block: bytes) -> bytes:
        """Content of a header that describes the next member."""
        name = _text(block[:100])
        size = _number(block[124:136], "size", name)
        if not 0 <= size <= limits.PAX_MAX:
            raise InvalidArgument(f"invalid tar header: extended header {name!r} is larger than {limits.PAX_MAX}")
        content = self._exactly(size + -size % BLOCK)
        if len(content) < size:
            raise InvalidArgument(f"unexpected end of archive in {name!r}")
        return content[:size]

    def __iter__(self) -> Iterator[Member]:
        long_name = long_link = b""
        pax: dict[str, bytes] = {}
        common: dict[str, bytes] = {}
        while True:
            self._skip()
            block = self._header()
            if block is None:
                return
            flag = chr(block[156])
            if flag == _GNU_LONG_NAME:
                long_name = self._extension(block)
            elif flag == _GNU_LONG_LINK:
                long_link = self._extension(block)
            elif flag == _PAX:
                pax = _pax_records(self._extension(block), _text(block[:100]))
            elif flag == _PAX_GLOBAL:
                common |= _pax_records(self._extension(block), _text(block[:100]))
            else:
                member = self._member(block, flag, long_name, long_link, common | pax)
                long_name, long_link, pax = b"", b"", {}
                yield member

    def _member(self, block: bytes, flag: str, long_name: bytes, long_link: bytes, pax: Mapping[str, bytes]) -> Member:
        ustar = block[257:262] == b"ustar"
        raw_name = long_name or pax.get("path") or block[:100]
        name = _text(raw_name)
        if ustar and raw_name is not long_name and "path" not in pax and block[263:265] == b"00" and block[345]:
            name = _text(block[345:500]) + "/" + name
        link = _text(long_link or pax.get("linkpath") or block[157:257])
        for path in (name, link):
            if len(os.fsencode(path)) > limits.PATH_MAX:
                raise InvalidArgument(f"invalid tar header: path {path[:64]!r}... is longer than {limits.PATH_MAX}")
        if not name:
            raise InvalidArgument(f"invalid tar header after {self._name!r}: a member without a name")
        kind = FILE if flag in "\0" + "7" else flag
        if kind == FILE and name.endswith("/"):
            kind = DIRECTORY  # how tar programs before POSIX wrote directories
        if kind not in _KNOWN or any(key.startswith("GNU.sparse.") for key in pax):
            raise InvalidArgument(f"unhandled tar header type {flag!r} of {name!r}")
        self._members += 1
        if self._members > limits.MEMBERS_MAX:
            raise InvalidArgument(f"archive has more than {limits.MEMBERS_MAX} members (at {name!r})")
        member = Member(name=name, kind=kind, link=link)
        _fill_numbers(member, block, pax, ustar)
        # Only files carry data; a size on anything else is ignored, as tar programs do for links and directories.
        self._name = name
        self._left = member.size = member.size if kind == FILE else 0
        self._padding = -member.size % BLOCK
        return member


def _fill_numbers(member: Member, block: bytes, pax: Mapping[str, bytes], ustar: bool) -> None:
    name = member.name
    member.mode = _number(block[100:108], "mode", name) & 0o7777
    member.uid = _pax_int(pax, "uid", name, _number(block[108:116], "uid", name))
    member.gid = _pax_int(pax, "gid", name, _number(block[116:124], "gid", name))
    member.size = _pax_int(pax, "size", name, _number(block[124:136], "size", name))
    member.mtime_ns = (
        _decimal_ns(pax["mtime"], name) if "mtime" in pax else _number(block[136:148], "mtime", name) * 1_000_000_000
    )
    if ustar:
        member.major = _number(block[329:337], "device", name)
        member.minor = _number(block[337:345], "device", name)
    for what, value in (("uid", member.uid), ("gid", member.gid)):
        if not 0 <= value <= _ID_MAX:
            raise InvalidArgument(f"invalid tar header: {what} {value} of {name!r} is out of range")
    if not 0 <= member.size <= 1 << 50 or not -_TIME_MAX_NS <= member.mtime_ns <= _TIME_MAX_NS:
        raise InvalidArgument(f"invalid tar header: size or time of {name!r} is out of range")
    if not (0 <= member.major < 1 << 12 and 0 <= member.minor < 1 << 20):
        raise InvalidArgument(f"invalid tar header: device number of {name!r} is out of range")
    member.xattrs = {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}


def _pax_int(pax: Mapping[str, bytes], key: str, name: str, otherwise: int) -> int:
    raw = pax.get(key)
    if raw is None:
        return otherwise
    if not raw.isdigit() or len(raw) > 20:
        raise InvalidArgument(f"invalid tar header: PAX {key} of {name!r} is no number")
    return int(raw)

"""shoald with something about it altered, for the scenarios of managers: `altered.py newer|short -- FLAGS of shoald`.

`newer`: a later version whose messages and stored objects have fields that this version does not know.
`short`: node certificates may live for seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec

from api.rpc.methods import Method
from ca import certificates
from daemon.main import main
from manager.controlapi import validate
from manager.store import store

UNKNOWN = {"added_by_a_later_version": {"list": [1, "two"], "nothing": None}}


def grown(value: Any) -> Any:
    """A decoded message with a field more in itself and in what it carries of Raft."""
    if not isinstance(value, dict):
        return value
    for key, inner in value.items():
        if key == "messages":
            value[key] = [grown(each) for each in inner]
        elif key == "entries":
            value[key] = [[*entry, "added"] for entry in inner]
    return value | UNKNOWN


def newer() -> None:
    """Every message this process sends, and every object it writes, has more than this version knows of."""
    encode = Method.encode
    plain: Callable[[Any], bytes] = store.encode

    def sent(self: Method[Any, Any], message: Any) -> bytes:
        return msgspec.msgpack.encode(grown(msgspec.msgpack.decode(encode(self, message))))

    def written(item: Any) -> bytes:
        return msgspec.msgpack.encode(grown(msgspec.msgpack.decode(plain(item))))

    Method.encode = sent  # type: ignore[method-assign]
    store.encode = written  # type: ignore[misc]


def short() -> None:
    certificates.LEAF_LIFE_MIN_NS = validate.CERT_EXPIRY_MIN_NS = 1


if __name__ == "__main__":
    {"newer": newer, "short": short}[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))

"""Detach keys: the sequence that lets a client on a terminal leave without ending the process. Pure."""

from __future__ import annotations

from api.errors import InvalidArgument

DEFAULT_KEYS = b"\x10\x11"
"""ctrl-p, ctrl-q."""
_CONTROLS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> bytes:
    """`a`, `ctrl-p,ctrl-q`, ...; empty gives the default. Raises InvalidArgument."""
    if not text:
        return DEFAULT_KEYS
    return bytes(_key(word, text) for word in text.split(","))


def _key(word: str, text: str) -> int:
    if len(word) == 1 and word.isascii():
        return ord(word)
    control = word[5:].lower() if word.startswith("ctrl-") else ""
    if len(control) == 1 and control.isascii() and control.isalpha():
        return ord(control) - ord("a") + 1
    if control in _CONTROLS:
        return _CONTROLS[control]
    raise InvalidArgument(f"Invalid detach keys ({text}) provided")


class DetachScanner:
    """Finds the sequence in input, cut anywhere. What may be its beginning is held back until it is decided."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what goes to the process, whether the client detached; what follows the keys is dropped)."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            out += self._keys[: self._matched]
            self._matched = 1 if byte == self._keys[0] else 0
            if not self._matched:
                out.append(byte)
        return bytes(out), False

    def flush(self) -> bytes:
        """What was held back, when no more comes."""
        held, self._matched = self._keys[: self._matched], 0
        return held

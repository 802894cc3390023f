"""Encryption of what a member keeps on disk: AES-256-GCM, each record bound to its place in the log.

A sealed record is the number of its key (4 bytes), a nonce (12 bytes) and the ciphertext with its tag. Several keys may
be known at once, one of them seals: so a key can be rotated without writing the log anew.
"""

from __future__ import annotations

import os
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from raft.errors import StorageCorrupt

KEY_BYTES = 32
_ID_BYTES, _NONCE_BYTES = 4, 12


class Sealer(Protocol):
    """`place` is authenticated with the data: a record that was moved elsewhere does not open."""

    def seal(self, data: bytes, place: bytes) -> bytes: ...

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Raises StorageCorrupt when no known key opens it."""
        ...


class Plain:
    """No encryption: for tests of what lies above."""

    def seal(self, data: bytes, place: bytes) -> bytes:
        return data

    def open(self, sealed: bytes, place: bytes) -> bytes:
        return sealed


class KeyRing:
    """Satisfies `Sealer` with keys by number; the highest number seals."""

    def __init__(self, keys: dict[int, bytes]) -> None:
        assert keys, "a key ring has at least one key"
        assert all(len(key) == KEY_BYTES for key in keys.values())
        self._ciphers = {number: AESGCM(key) for number, key in keys.items()}
        self._current = max(keys)
        self.opened: set[int] = set()
        """Numbers of the keys that records were opened with."""

    def add(self, number: int, key: bytes) -> None:
        """A newer key, which seals from now on."""
        assert number > self._current
        self._ciphers[number] = AESGCM(key)
        self._current = number

    def seal(self, data: bytes, place: bytes) -> bytes:
        number = self._current
        nonce = os.urandom(_NONCE_BYTES)
        return number.to_bytes(_ID_BYTES, "big") + nonce + self._ciphers[number].encrypt(nonce, data, place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        number = int.from_bytes(sealed[:_ID_BYTES], "big")
        nonce, ciphertext = sealed[_ID_BYTES : _ID_BYTES + _NONCE_BYTES], sealed[_ID_BYTES + _NONCE_BYTES :]
        cipher = self._ciphers.get(number)
        if cipher is None or len(nonce) < _NONCE_BYTES:
            raise StorageCorrupt(f"the raft log is sealed with key {number}, which this node does not have")
        try:
            data = cipher.decrypt(nonce, ciphertext, place)
        except InvalidTag:
            raise StorageCorrupt(f"a record of the raft log does not open with key {number}") from None
        self.opened.add(number)
        return data

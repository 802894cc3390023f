"""libnftables in process, by ctypes. A context belongs to the network namespace of the thread that made it.

The host's context lives in one thread (`Nft`); a container's is made and freed inside `netns.call` (`apply_here`).
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from typing import Any

from api.errors import Internal
from base.offload import Pool


@cache
def _library() -> Any:
    """Raises Internal when libnftables is not installed."""
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise Internal(f"libnftables is not installed: {error}") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


class Context:
    """One libnftables context. Blocking; not thread-safe; bound to the namespace it was made in."""

    def __init__(self) -> None:
        self._library = _library()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise Internal("libnftables gave no context")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """All commands as one transaction; returns what they print. Raises Internal with libnftables' words."""
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise Internal(f"nftables: {error.decode(errors='replace').strip()}")
        return output.decode()

    def free(self) -> None:
        """Once; the context can't be used after."""
        self._library.nft_ctx_free(self._context)
        self._context = None


class Nft:
    """The host's rule set: one thread, commands in order."""

    def __init__(self) -> None:
        self._pool = Pool("nft", 1)
        self._context: Context | None = None

    async def run(self, commands: str) -> str:
        """One atomic transaction. Raises Internal; then nothing of it was applied."""
        return await self._pool.run(self._run, commands) if commands else ""

    def _run(self, commands: str) -> str:
        if self._context is None:
            self._context = Context()
        return self._context.run(commands)

    async def close(self) -> None:
        """Free the context; the rules stay in the kernel."""
        if self._context is not None:
            await self._pool.run(self._context.free)
            self._context = None
        self._pool.close()


def apply_here(commands: str) -> None:
    """Run commands in the calling thread's namespace with a context of its own. Blocking."""
    context = Context()
    try:
        context.run(commands)
    finally:
        context.free()

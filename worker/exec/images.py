"""The image of a task: pulled when it is missing, and asked for again when its tag may have moved.

As dockerd's workers do: a registry is asked for every tag before a task starts, so an update of a service brings what
the tag names by then. A registry that doesn't answer keeps nobody from starting what is here already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from api.errors import NotFound, ShoalError
from api.types.auth import AuthConfig

log = logging.getLogger(__name__)

ASK_S: Final = 5.0
"""How long a registry may take to say what a tag names, when there is an image to fall back to."""
FRESH_S: Final = 5.0
"""An answer is good for so long: the tasks of a service that start together on a node ask once."""
SILENT_S: Final = 30.0
"""A registry that didn't answer is left alone for so long, or each start of a task would wait for it."""


class ImageApi(Protocol):
    """The image store, as far as tasks need it."""

    async def resolve(self, reference: str) -> object: ...

    async def pull(self, reference: str, auth: AuthConfig | None = None, progress: Any = None) -> str: ...


@dataclass
class _Asked:
    """`until`: not to be asked again before; seconds of the clock."""

    until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class TaskImages:
    """One per engine."""

    def __init__(self, images: ImageApi, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._images = images
        self._monotonic = monotonic
        self._asked: dict[str, _Asked] = {}

    async def ensure(self, reference: str, auth: AuthConfig | None) -> None:
        """Returns when the image is here. Raises NotFound with Docker's text and why the pull failed."""
        try:
            await self._images.resolve(reference)
        except NotFound as absent:
            await self._pull(reference, auth, absent)
        else:
            if may_move(reference):
                await self._ask_again(reference, auth)

    async def _pull(self, reference: str, auth: AuthConfig | None, absent: NotFound) -> None:
        log.info("pulling image=%s", reference)
        try:
            await self._images.pull(reference, auth, None)
        except ShoalError as error:
            raise NotFound(f"{absent.message} ({error.message})") from error

    async def _ask_again(self, reference: str, auth: AuthConfig | None) -> None:
        now = self._monotonic()
        self._asked = {name: each for name, each in self._asked.items() if each.until > now or each.lock.locked()}
        asked = self._asked.setdefault(reference, _Asked())
        async with asked.lock:
            if asked.until > self._monotonic():
                return
            answered = await self._refresh(reference, auth)
            asked.until = self._monotonic() + (FRESH_S if answered else SILENT_S)

    async def _refresh(self, reference: str, auth: AuthConfig | None) -> bool:
        try:
            async with asyncio.timeout(ASK_S) as limit:
                # The first word of progress comes with the registry's answer: a download may take its time.
                await self._images.pull(reference, auth, lambda message: limit.reschedule(None))
        except (ShoalError, TimeoutError) as error:
            log.info("the image that is here is used image=%s reason=%s", reference, str(error) or "no answer")
            return False
        return True


def may_move(reference: str) -> bool:
    """Whether a name can come to mean another image: not one with a digest, nor an image's identity."""
    return "@" not in reference and not reference.startswith("sha256:")

"""Signal names and numbers as Docker takes them: `SIGTERM`, `TERM`, `15`, `RTMIN+3`. Pure."""

from __future__ import annotations

import signal

from api.errors import InvalidArgument

_NUMBERS = {member.name.removeprefix("SIG"): int(member) for member in signal.Signals}
_NUMBERS |= {f"RTMIN+{n}": signal.SIGRTMIN + n for n in range(1, 16)}
_NUMBERS |= {f"RTMAX-{n}": signal.SIGRTMAX - n for n in range(1, 15)}
SIGKILL = int(signal.SIGKILL)
SIGTERM = int(signal.SIGTERM)


def parse_signal(text: str | int) -> int:
    """The number of a signal. Raises InvalidArgument `Invalid signal: x`."""
    word = str(text).strip().upper()
    if word.isdecimal() and 0 < int(word) <= signal.SIGRTMAX:
        return int(word)
    number = _NUMBERS.get(word.removeprefix("SIG"))
    if number is None:
        raise InvalidArgument(f"Invalid signal: {text}")
    return number

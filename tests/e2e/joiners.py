"""Many nodes that join at once, without engines: `joiners.py ADDR TOKEN COUNT ROUNDS [RENEW_AT]`.

Each of them joins, as a new node each time, until it is refused or has done so ROUNDS times. Every end is a line of
JSON: `{"id": …}` of a node that was let in, `{"error": …}` of one that was refused (it does not try again), or
`{"unknown": …}`: no answer came, or no leader was there, and it may be let in or not.
"""

from __future__ import annotations

import asyncio
import json
import sys

from api.errors import ShoalError, Unavailable
from base.clock import SystemClock
from ca.client import join, renew
from ca.identity import Identity


async def one(addr: str, token: str, rounds: int, again_at: str) -> None:
    """With `again_at`, another manager renews the certificate at once."""
    for _ in range(rounds):
        try:
            identity = await join(addr, token, SystemClock())
            if again_at:
                await renewed(again_at, identity)
        except Unavailable as error:
            print(json.dumps({"unknown": error.message}), flush=True)
            continue
        except ShoalError as error:
            print(json.dumps({"error": error.message}), flush=True)
            return
        print(json.dumps({"id": identity.node_id}), flush=True)


async def renewed(addr: str, identity: Identity) -> None:
    """As a node does: a manager that can't be reached is tried again."""
    for last in (False, False, True):
        try:
            await renew(addr, identity)
            return
        except Unavailable:
            if last:
                raise
        await asyncio.sleep(1.0)


async def main() -> None:
    addr, token, count, rounds, *more = sys.argv[1:]
    async with asyncio.TaskGroup() as group:
        for _ in range(int(count)):
            group.create_task(one(addr, token, int(rounds), more[0] if more else ""))


if __name__ == "__main__":
    asyncio.run(main())

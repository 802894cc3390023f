"""`python -m tests.e2e.basic_registry PASSWORD`, run inside a lab host: a registry for `user` and the password, which
holds `app:v1`. Prints host:port, serves until its input ends."""

from __future__ import annotations

import asyncio
import sys

from tests.unit.images.archives import two_layers
from tests.unit.images.registry_server import RegistryServer


async def main(password: str) -> None:
    async with RegistryServer() as registry:
        registry.password = password
        registry.add("app", "v1", two_layers())
        print(registry.host, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

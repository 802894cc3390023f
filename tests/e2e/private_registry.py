"""`python -m tests.e2e.private_registry PASSWORD`, run inside a lab host: prints host:port, serves until killed."""

from __future__ import annotations

import asyncio
import sys

from lab import image
from tests.unit.images.registry_server import RegistryServer


async def main(password: str) -> None:
    async with RegistryServer() as registry:
        registry.password = password
        for tag in range(1, 10):
            made = image.build(str(tag))
            for blob in (made.packed, made.config):
                registry.blobs[image.digest(blob)] = blob
            registry.add_manifest("secret/busybox", str(tag), made.manifest, image.MANIFEST_TYPE)
        print(registry.host, flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

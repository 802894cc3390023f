"""Plugins as artifacts: pulled, pushed and made like images, with a store of the same kind that is theirs alone.

Invariant: an artifact is there as long as a plugin needs it, and is collected when none does; while something arrives,
nothing is collected, for what arrives belongs to no plugin yet.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from api.errors import InvalidArgument
from api.types.auth import AuthConfig
from base.clock import Clock
from base.ids import hex_id
from worker.engine.builder.difftar import write_layer
from worker.engine.images import limits
from worker.engine.images.compression import LayerReader
from worker.engine.images.extract import extract
from worker.engine.images.intake import Incoming, incoming
from worker.engine.images.manifest import PLUGIN_CONFIG
from worker.engine.images.names import Reference
from worker.engine.images.progress import Report, silent
from worker.engine.images.pull import Puller
from worker.engine.images.push import Pusher
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.store import ImageStore
from worker.engine.plugins.config import PluginConfig, parse
from worker.engine.records import Records
from worker.engine.syscalls.tree import remove_tree

CONFIG_FILE = "config.json"
ROOT = "rootfs"


class _Quiet:
    """What happens to artifacts is told as what happens to plugins."""

    def publish(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        del kind, action, actor_id, attributes


class Artifacts:
    """All of this host's."""

    def __init__(self, records: Records, root: Path, registries: RegistryConfig, clock: Clock) -> None:
        self._store = ImageStore(records, root, _Quiet(), clock)
        self._puller = Puller(self._store, registries, PLUGIN_CONFIG)
        self._pusher = Pusher(self._store, registries, PLUGIN_CONFIG)
        self._spool = root / "incoming"
        self._arriving = 0

    async def start_up(self) -> None:
        """See `ImageStore.start_up`."""
        await self._store.start_up()
        await self._store.disk.run(remove_tree, self._spool)

    async def close(self) -> None:
        await self._store.close()

    @contextlib.contextmanager
    def arrival(self) -> Iterator[None]:
        """Until the block ends nothing is collected: it makes artifacts, and plugins of them."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    async def config(self, artifact: str) -> PluginConfig:
        """What a plugin says of itself. Raises NotFound, InvalidArgument."""
        return parse(await self._store.config_bytes(artifact))

    async def layers(self, artifact: str) -> Sequence[Path]:
        """Its unpacked layers, lowest first. Raises NotFound."""
        return (await self._store.resolve(artifact)).layers

    async def pull(self, reference: Reference, auth: AuthConfig | None) -> str:
        """Bring it here; returns its digest. Raises as `Puller.pull`."""
        return await self._puller.pull(reference, auth, silent)

    async def push(self, reference: Reference, artifact: str, auth: AuthConfig | None, report: Report) -> str:
        """Raises as `Pusher.push`."""
        await self._store.add_reference(reference, artifact)
        return await self._pusher.push(reference, auth, report)

    async def make(self, body: AsyncIterator[bytes]) -> str:
        """Of an archive with `config.json` and `rootfs/`; returns its digest. Raises InvalidArgument."""
        home = self._spool / hex_id()
        disk = self._store.disk
        try:
            async with incoming(body, "plugin") as came:
                await came.thread.run(_unpack, came, home)
            document = await disk.run(_read_config, home / CONFIG_FILE)
            if not (home / ROOT).is_dir() or (home / ROOT).is_symlink():
                raise InvalidArgument(f"the plugin's archive has no directory {ROOT}")
            async with self._store.ingest() as ingestion:
                writer = self._store.blobs.writer()
                try:
                    await disk.run(write_layer, home / ROOT, writer)
                    ingestion.pin(writer.digest())
                    blob = await disk.run(writer.commit)
                finally:
                    await disk.run(writer.close)
                layer = await ingestion.add_layer(blob, blob)
                document["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id]}
                return await ingestion.register(msgspec.json.encode(document))
        finally:
            await disk.run(remove_tree, home)

    async def collect(self, needed: Collection[str]) -> None:
        """Remove what no plugin needs, unless something arrives."""
        for artifact in list(self._store.index.images):
            if not self._arriving and artifact not in needed:
                await self._store.remove(artifact, force=True)


def _unpack(came: Incoming, home: Path) -> None:
    home.mkdir(mode=0o700, parents=True)
    root = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        extract(LayerReader(came.source, threading.Event(), hashing=False), root)
    finally:
        os.close(root)


def _read_config(path: Path) -> dict[str, object]:
    """The plugin's configuration as its author wrote it, after a check, and without layers: they are ours to name."""
    try:
        if path.is_symlink() or path.stat().st_size > limits.CONFIG_MAX:
            raise InvalidArgument(f"the plugin's {CONFIG_FILE} is a link, or too large")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InvalidArgument(f"the plugin's archive has no {CONFIG_FILE}") from None
    parse(raw)
    document = msgspec.json.decode(raw, type=dict[str, object])
    return {key: value for key, value in document.items() if key.lower() != "rootfs"}

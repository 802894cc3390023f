"""What the API and the swarm executor ask of images: one method an operation, over the store, registries and archives.

Every operation leaves nothing behind when it fails or is cancelled.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import aiohttp

from api.errors import InvalidArgument, NotFound, Upstream
from api.types.auth import AuthConfig
from api.types.image import ImageHistoryItem, ImageInspect, ImageRemoved, ImageSummary, SearchResult
from base.clock import rfc3339nano
from worker.engine.builder.changes import apply_changes
from worker.engine.images import limits, names, views
from worker.engine.images.intake import gathered
from worker.engine.images.loading import Loader
from worker.engine.images.login import log_in
from worker.engine.images.model import minimal_config
from worker.engine.images.names import Reference
from worker.engine.images.progress import Message, Report, drive, silent
from worker.engine.images.pull import Puller
from worker.engine.images.push import Pusher
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.save import SavedImage, write_archive
from worker.engine.images.search import search
from worker.engine.images.store import ImageStore

T = TypeVar("T")
Body = AsyncIterator[bytes]
Chosen = dict[str, list[Reference]]
_PROGRESS_INTERVAL_S = 0.1


class ImageService:
    """Operations on images."""

    def __init__(self, store: ImageStore, registries: RegistryConfig) -> None:
        self.store = store
        self._registries = registries
        self._puller = Puller(store, registries)
        self._pusher = Pusher(store, registries)
        self._loader = Loader(store)

    # --- reading ---

    def list(
        self, filters: Mapping[str, Sequence[str]], *, every: bool = False, name: str = ""
    ) -> Sequence[ImageSummary]:
        """ "List Images"; see `views.list_images`."""
        return views.list_images(self.store.index, filters, every=every, name=name)

    def inspect(self, name: str) -> ImageInspect:
        """ "Inspect an image". Raises NotFound."""
        return views.inspect_image(self.store.index, name, self.store.layers.path)

    def history(self, name: str) -> Sequence[ImageHistoryItem]:
        """ "Get the history of an image". Raises NotFound."""
        return views.image_history(self.store.index, name)

    # --- names ---

    async def tag(self, name: str, repository: str, tag: str) -> None:
        """ "Tag an image into a repository". Raises NotFound, InvalidArgument."""
        await self.store.tag(name, repository, tag)

    async def remove(self, name: str, *, force: bool, prune: bool) -> Sequence[ImageRemoved]:
        """ "Remove an image". Raises NotFound, Conflict."""
        return await self.store.remove(name, force=force, prune=prune)

    # --- registries ---

    async def pull(self, reference: str, auth: AuthConfig | None = None, progress: Report | None = None) -> str:
        """Pull one image by name, name:tag or name@digest; returns its id.

        Args:
            progress: called with Docker's progress objects.

        Raises: InvalidArgument, NotFound, Upstream. Cancellation stops the downloads and keeps nothing.
        """
        return await self._puller.pull(names.parse(reference).tagged(), auth, progress or silent)

    async def pull_tags(self, name: str, tag: str, auth: AuthConfig | None, report: Report) -> None:
        """ "Create an image" by pulling: an empty `tag` with a bare name pulls all tags of the repository."""
        reference = names.parse(name)
        if tag or reference.tag or reference.digest:
            await self._puller.pull(names.combine(name, tag), auth, report)
            return
        tags = await self._puller.tags(reference, auth)
        if not tags:
            raise NotFound(f"no tags in repository {reference.familiar_name}")
        for each in tags:
            await self._puller.pull(reference.with_tag(each), auth, report)

    async def push(self, name: str, tag: str, auth: AuthConfig | None, report: Report) -> None:
        """ "Push an image on the registry": one tag, or all tags of the repository when none is named.

        Raises: InvalidArgument, NotFound, Upstream.
        """
        reference = names.parse(name)
        if reference.digest:
            raise InvalidArgument("cannot push a digest reference")
        if tag or reference.tag:
            await self._pusher.push(names.combine(name, tag), auth, report)
            return
        every = [names.parse(key) for key in sorted(self.store.index.references)]
        tags = [one for one in every if one.tag and one.repository == reference.repository]
        if not tags:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
        for one in tags:
            await self._pusher.push(one, auth, report)

    async def log_in(self, auth: AuthConfig) -> str:
        """ "Check auth configuration"; see `login.log_in`."""
        return await log_in(auth, self._registries)

    async def search(
        self, term: str, limit: int, filters: Mapping[str, Sequence[str]], auth: AuthConfig | None = None
    ) -> Sequence[SearchResult]:
        """ "Search images"; see `search.search`."""
        return await search(term, limit, filters, auth, self._registries)

    async def drive(self, work: Callable[[Report], Awaitable[T]], send: Callable[[Message], Awaitable[None]]) -> T:
        """See `progress.drive`."""
        return await drive(work, send)

    # --- import ---

    async def import_image(
        self, source: str, body: Body, reference: str, message: str, changes: Sequence[str], report: Report
    ) -> str:
        """ "Create an image" from a root file system archive: the body (`-`) or what an URL gives. Returns the id."""
        target = names.parse(reference).tagged() if reference else None
        if target is not None and target.digest:
            raise InvalidArgument("cannot import digest reference")
        config = apply_changes({}, changes)
        async with contextlib.AsyncExitStack() as stack:
            if source != "-":
                body = await stack.enter_async_context(_download(source, report))
            ingestion = await stack.enter_async_context(self.store.ingest())
            writer = self.store.blobs.writer()
            try:
                async for data in gathered(body):
                    await self.store.disk.run(writer.write, data)
                if not writer.size:
                    raise InvalidArgument("the archive to import is empty")
                ingestion.pin(writer.digest())
                blob = await self.store.disk.run(writer.commit)
            finally:
                await self.store.disk.run(writer.close)
            layer = await ingestion.add_layer(blob)
            created = rfc3339nano(time.time_ns())
            raw = minimal_config(config, [layer.diff_id], created, message or f"Imported from {source}")
            image = await ingestion.register(raw, [target] if target is not None else [])
        self.store.publish("import", image, target.familiar() if target is not None else image)
        report({"status": image})
        return image

    # --- archives ---

    async def load(self, body: Body, report: Report, *, quiet: bool = False) -> Sequence[str]:
        """ "Load a tarball": register every image of an archive; returns their ids."""
        return await self._loader.load(body, report, quiet=quiet)

    async def save(self, wanted: Sequence[str]) -> AsyncIterator[bytes]:
        """ "Get a tarball": the archive of images by name or id, in pieces.

        A repository name without a tag saves all of its tags. Raises NotFound before the first piece.
        """
        chosen = self._choose(wanted)
        async with self.store.ingest() as pins:
            images: list[SavedImage] = []
            for image, references in chosen.items():
                record, config = self.store.index.images[image], self.store.index.configs[image]
                layers = [self.store.index.layers[chain] for chain in record.chains]
                for layer in layers:
                    pins.pin(layer.chain)
                    pins.pin(layer.blob)
                raw = await self.store.config_bytes(image)
                blobs = [(layer, self.store.blobs.path(layer.blob)) for layer in layers]
                parent = self.store.index.ancestor(image, chosen)
                images.append(SavedImage(image, raw, config, blobs, references, parent))
            pieces = write_archive(images)
            try:
                while (piece := await self.store.disk.run(next, pieces, None)) is not None:
                    yield piece
            finally:
                # After a cancellation a thread may still be inside; then the generator ends with its last reference.
                with contextlib.suppress(ValueError):
                    pieces.close()  # type: ignore[attr-defined]
        for image in chosen:
            self.store.publish("save", image, image)

    def _choose(self, wanted: Sequence[str]) -> Chosen:
        if not wanted:
            raise InvalidArgument("no image is named")
        index = self.store.index
        chosen: Chosen = {}
        for text in wanted:
            try:
                reference = None if names.is_full_id(text) else names.parse(text)
            except InvalidArgument:
                reference = None
            tags: Sequence[Reference] = []
            if reference is not None and not reference.tag and not reference.digest:
                every = [names.parse(key) for key in sorted(index.references)]
                tags = [one for one in every if one.tag and one.repository == reference.repository]
            elif reference is not None and reference.tag and str(reference) in index.references:
                tags = [reference]
            if tags:
                for one in tags:
                    named = chosen.setdefault(index.references[str(one)], [])
                    if one not in named:
                        named.append(one)
            else:
                image = index.find(text)
                if image is None and reference is not None and (reference.tag or reference.digest):
                    raise NotFound("reference does not exist")
                if image is None:
                    raise NotFound(f"No such image: {text}")
                chosen.setdefault(image, [])
        return chosen


@contextlib.asynccontextmanager
async def _download(source: str, report: Report) -> AsyncIterator[Body]:
    url = source if "://" in source else f"http://{source}"
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"fromSrc must be - or an http URL, not {source!r}")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            if response.status >= 400:
                raise Upstream(f"Got HTTP status code >= 400: {response.status} {response.reason} ({url})")
            report({"status": f"Downloading from {url}"})
            yield response.content.iter_chunked(limits.CHUNK)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Upstream(f"{url}: {str(error) or type(error).__name__}") from error

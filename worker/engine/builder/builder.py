"""`Builder`: POST /build and POST /commit, over images, containers and the workspace.

A build's output is what the docker CLI shows: `Step 1/3 : …`, ` ---> id`, `Successfully built`. Everything that can be
found out before the first step is raised; what fails later ends the output.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from api.errors import InvalidArgument
from api.types.build import BuildOptions, CommitOptions
from api.types.container import ContainerConfig, CreateBody
from base.clock import Clock
from base.ids import short_id
from worker.engine.builder import words
from worker.engine.builder.arguments import BuildArguments
from worker.engine.builder.changes import apply_changes
from worker.engine.builder.committer import Committer, NewImage
from worker.engine.builder.context import Context, open_context
from worker.engine.builder.dockerfile import parse
from worker.engine.builder.job import Job
from worker.engine.builder.runner import BuildContainers, CommandFailed, Runner, remove_leftovers
from worker.engine.builder.stage import StageBuild
from worker.engine.builder.stages import Plan, Stage, plan
from worker.engine.builder.workspace import Workspace
from worker.engine.containers.config import merge_config
from worker.engine.containers.store import Container
from worker.engine.images import names
from worker.engine.images.ingestion import Ingestion
from worker.engine.images.names import Reference
from worker.engine.images.progress import Message, Report
from worker.engine.images.service import ImageService
from worker.engine.parts import Events

_QUIET_KEPT = 1000
"""How many messages of a quiet build are kept, to be shown if it fails."""


class Committable(BuildContainers, Protocol):
    """What commits need of containers, over what builds need."""

    def get(self, ref: str) -> Container: ...

    async def pause(self, ref: str) -> None: ...

    async def unpause(self, ref: str) -> None: ...


class Builder:
    """Builds and commits on this host."""

    def __init__(
        self,
        images: ImageService,
        containers: Committable,
        events: Events,
        data_root: Path,
        clock: Clock,
        version: str,
    ) -> None:
        self._images = images
        self._containers = containers
        self._events = events
        self._disk = images.store.disk
        self._workspace = Workspace(data_root / "builds", self._disk)
        self._committer = Committer(images.store, clock, version)

    async def start_up(self) -> None:
        """Remove what builds left that a crash cut short. Containers are up already."""
        await self._workspace.start_up()
        await remove_leftovers(self._containers)

    # --- build ---

    async def build(self, options: BuildOptions, body: AsyncIterator[bytes], report: Report) -> str:
        """Build an image; returns its id, "" when a RUN failed (then the last message says so).

        Raises: InvalidArgument, NotFound, Upstream ... Cancellation stops the running step; finished steps stay, as
        images of the cache.
        """
        tags = [_tag(text) for text in options.tags if text]
        shown: deque[Message] = deque(maxlen=_QUIET_KEPT)
        progress = shown.append if options.quiet else report
        try:
            async with open_context(
                options.remote, body, options.dockerfile, self._workspace, self._disk
            ) as context, self._images.store.ingest() as pins:  # fmt: skip
                image = await self._build(options, context, pins, progress)
            await self._tag(image, tags, progress)
        except CommandFailed as error:
            for message in shown:
                report(message)
            report({"errorDetail": {"code": error.code, "message": error.message}, "error": error.message})
            return ""
        except Exception:
            for message in shown:
                report(message)
            raise
        if options.quiet:
            report({"stream": f"{image}\n"})
        return image

    async def _build(self, options: BuildOptions, context: Context, pins: Ingestion, report: Report) -> str:
        todo = plan(parse(context.dockerfile), options.target, options.labels)
        job = Job(
            plan=todo,
            options=options,
            arguments=BuildArguments(options.build_args),
            context=context.root,
            images=self._images,
            workspace=self._workspace,
            committer=self._committer,
            runner=Runner(self._containers, options),
            pins=pins,
            disk=self._disk,
            report=report,
        )
        _declare_meta(job, todo)
        built: list[tuple[Stage, str]] = []
        for stage in todo.stages:
            built.append((stage, await StageBuild(job, stage, built).run()))
        image = built[-1][1]
        if not image:
            raise InvalidArgument("No image was generated. Is your Dockerfile empty?")
        unused = job.arguments.unused()
        if unused:
            job.say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        job.say(f"Successfully built {short_id(image)}\n")
        return image

    async def _tag(self, image: str, tags: list[Reference], report: Report) -> None:
        for tag in tags:
            await self._images.tag(image, tag.repository, tag.tag)
            report({"stream": f"Successfully tagged {tag.familiar()}\n"})

    # --- commit ---

    async def commit(self, options: CommitOptions) -> str:
        """Make an image of a container; returns its id, durable.

        Raises: NotFound (container), InvalidArgument (name, changes, configuration).
        """
        container = self._containers.get(options.container)
        target = _target(options)
        own: ContainerConfig = container.record.config
        config = _image_config(options.config or own)
        config = _merged(apply_changes(config, options.changes), _image_config(own))
        pausing = options.pause and container.running and container.record.status.value != "paused"
        if pausing:
            await self._containers.pause(container.id)
        try:
            image = await self._committer.commit(
                NewImage(
                    parent=container.record.image_id,
                    config=config,
                    container_config=_image_config(own),
                    created_by=" ".join(_words(own.cmd)),
                    upper=self._containers.upper(container.id),
                    container=container.id,
                    author=options.author,
                    comment=options.comment,
                    references=[target] if target is not None else [],
                )
            )
        finally:
            if pausing:
                await self._containers.unpause(container.id)
        extra = {"comment": options.comment, "imageID": image, "imageRef": target.familiar() if target else ""}
        self._events.publish("container", "commit", container.id, container.attributes(**extra))
        if target is not None:
            self._images.store.publish("tag", image, target.familiar())
        return image


def _tag(text: str) -> Reference:
    reference = names.parse(text).tagged()
    if reference.digest:
        raise InvalidArgument("build tag cannot contain a digest")
    return reference


def _target(options: CommitOptions) -> Reference | None:
    if not options.repository:
        return None
    target = names.combine(options.repository, options.tag)
    if target.digest:
        raise InvalidArgument("cannot commit to digest reference")
    return target


def _declare_meta(job: Job, todo: Plan) -> None:
    for instruction in todo.meta:
        job.announce(instruction)
        for word in instruction.args:
            name, equals, value = word.partition("=")
            known = job.arguments.meta()
            default = words.expand(value, known, todo.escape) if equals else None
            job.arguments.declare_meta(words.expand(name, known, todo.escape), default)


def _words(command: list[str] | str | None) -> list[str]:
    return [command] if isinstance(command, str) else command or []


def _image_config(config: ContainerConfig) -> dict[str, Any]:
    """A container's configuration as that of an image."""
    found = msgspec.to_builtins(config)
    kept = ("Healthcheck", "StopSignal", "ExposedPorts", "MacAddress", "NetworkDisabled")
    return {key: value for key, value in found.items() if value or key not in kept}


def _merged(config: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What the request leaves out is the container's, as a container completes itself from its image."""
    body = msgspec.convert({**config, "Image": config.get("Image") or ""}, CreateBody)
    return {**_image_config(merge_config(body, own)), "Hostname": config.get("Hostname", "")}

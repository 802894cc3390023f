"""One stage of a build: its base image, then its steps, each of which makes an image or finds it in the cache."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from api.errors import InvalidArgument, NotFound, ShoalError, Upstream
from base.ids import short_id
from worker.engine.builder import copying, words
from worker.engine.builder.cache import find_cached
from worker.engine.builder.committer import NewImage
from worker.engine.builder.copying import Source
from worker.engine.builder.dockerfile import Instruction, parse_instruction
from worker.engine.builder.downloads import download, is_web_address
from worker.engine.builder.evaluate import (
    DEFAULT_PATH,
    NOP,
    Config,
    State,
    command_of,
    empty_config,
    evaluate,
    join,
    shell_of,
)
from worker.engine.builder.job import Job
from worker.engine.builder.stages import Stage
from worker.engine.builder.workspace import MountedRoot
from worker.engine.containers.inroot import read_text
from worker.engine.parts import ImageView
from worker.engine.runtime.users import resolve

SCRATCH = "scratch"


class StageBuild:
    """Builds one stage; `state.image` is its result. `built` are the images of the stages before."""

    def __init__(self, job: Job, stage: Stage, built: Sequence[tuple[Stage, str]]) -> None:
        self._job = job
        self._stage = stage
        self._built = built
        job.arguments.begin_stage()
        self.state = State(empty_config(), job.arguments, escape=job.plan.escape)
        self._view: ImageView | None = None

    async def run(self) -> str:
        """All of it; returns the id of the last image, "" when nothing was made of scratch."""
        await self._begin()
        for instruction in self._stage.steps:
            self._job.announce(instruction)
            await self._step(instruction)
            self._job.say(f" ---> {short_id(self.state.image)}\n")
        return self.state.image

    # --- FROM ---

    async def _begin(self) -> None:
        job = self._job
        job.announce(self._stage.start)
        name = words.expand(self._stage.start.args[0], job.arguments.meta(), job.plan.escape)
        if not name:
            raise InvalidArgument(f"base name ({self._stage.start.args[0]}) should not be blank")
        platform = self._stage.start.flags.get("platform", "")
        if platform and words.expand(platform, job.arguments.meta()).partition("/")[0] != "linux":
            raise InvalidArgument(f"image operating system {platform!r} cannot be used on this platform")
        stage_image = self._stage_image(name, by_name_only=True)
        if name == SCRATCH and stage_image is None:
            job.say(" ---> \n")
            self._set_path()
            return
        view = await self._image(stage_image or name, pull=job.options.pull and stage_image is None)
        self._stand_on(view.id)
        self.state.config = {**empty_config(), **view.config}
        triggers = list(self.state.config.get("OnBuild") or [])
        self.state.config["OnBuild"] = None
        self.state.config["Image"] = view.id
        self._set_path()
        if triggers:
            await self._triggers(triggers)
        job.say(f" ---> {short_id(self.state.image)}\n")

    def _set_path(self) -> None:
        if "PATH" not in self.state.env():
            self.state.config["Env"] = [*(self.state.config.get("Env") or []), DEFAULT_PATH]

    async def _triggers(self, triggers: list[str]) -> None:
        plural = "" if len(triggers) == 1 else "s"
        self._job.say(f"# Executing {len(triggers)} build trigger{plural}\n")
        for text in triggers:
            try:
                instruction = parse_instruction(text, self._stage.start.line)
            except InvalidArgument as error:
                raise InvalidArgument(f"the base image has a bad ONBUILD trigger {text!r}: {error.message}") from None
            await self._step(instruction)

    def _stage_image(self, name: str, *, by_name_only: bool = False) -> str | None:
        for stage, image in reversed(self._built):
            if stage.name and stage.name == name.lower():
                return image
        if not by_name_only and name.isdecimal():
            if int(name) >= len(self._built):
                raise InvalidArgument(f"invalid from flag value {name}: index out of bounds")
            return self._built[int(name)][1]
        return None

    async def _image(self, name: str, *, pull: bool) -> ImageView:
        """An image of this host, pulled if it is not here or if that is wanted."""
        job = self._job
        if not pull:
            with contextlib.suppress(NotFound):
                return await job.images.store.resolve(name)
        return await job.images.store.resolve(await job.pull(name))

    def _stand_on(self, image: str) -> None:
        self.state.image = image
        self._view = None
        self._job.keep(image)

    # --- steps ---

    async def _step(self, instruction: Instruction) -> None:
        if instruction.name == "RUN":
            await self._run(instruction)
        elif instruction.name in ("COPY", "ADD"):
            await self._copy(instruction)
        else:
            await self._configure(instruction)

    async def _configure(self, instruction: Instruction) -> None:
        state = self.state
        config, comment = evaluate(instruction, state)
        for note in state.notes:
            self._job.say(note)
        state.notes.clear()
        state.config = config
        command = [*shell_of(config), *comment]
        if self._found_in_cache(command):
            return
        if instruction.name != "WORKDIR":
            await self._commit(command)
            return
        async with self._root() as root:
            await self._job.disk.run(_make_workdir, root.merged, config["WorkingDir"])
            await self._commit_root(command, root)

    async def _run(self, instruction: Instruction) -> None:
        state = self.state
        if not state.image:
            raise InvalidArgument("Please provide a source image with `from` prior to run")
        command = command_of(instruction, state.config)
        env = self.state.args.allowed(state.env())
        shown = sorted(f"{name}={value}" for name, value in env.items() if state.args.in_history(name))
        words_of_step = [f"|{len(shown)}", *shown, *command] if env else command
        container_config = {**state.config, "Cmd": words_of_step, "Entrypoint": None}
        if self._found_in_cache(words_of_step, container_config):
            return
        own = [*(state.config.get("Env") or []), *(f"{name}={value}" for name, value in env.items())]
        async with self._job.runner.run(state.image, command, own, self._job.report) as (container, upper):
            await self._commit(words_of_step, container_config, upper=upper, container=container)

    def _found_in_cache(self, command: list[str], container_config: Config | None = None) -> bool:
        if self._job.options.no_cache:
            return False
        wanted = container_config or {**self.state.config, "Cmd": command}
        found = find_cached(self._job.images.store.index, self.state.image, wanted)
        if found is None:
            return False
        self._job.say(" ---> Using cache\n")
        self._stand_on(found)
        self.state.config["Image"] = found
        return True

    async def _commit_root(self, command: list[str], root: MountedRoot) -> None:
        """Commit what was written to a root, which is not used after."""
        unmounted = await self._job.workspace.unmount(root)
        await self._commit(command, upper=root.upper, give=unmounted)

    async def _commit(
        self,
        command: list[str],
        container_config: Config | None = None,
        *,
        upper: Path | None = None,
        give: bool = False,
        container: str = "",
    ) -> None:
        state = self.state
        container_config = container_config or {**state.config, "Cmd": command}
        image = await self._job.committer.commit(
            NewImage(
                parent=state.image,
                config=state.config,
                container_config={**container_config, "Hostname": short_id(container)},
                created_by=" ".join(command),
                upper=upper,
                give=give,
                container=container,
                author=state.author,
            )
        )
        self._stand_on(image)
        state.config = {**state.config, "Image": image}

    @contextlib.asynccontextmanager
    async def _root(self) -> AsyncIterator[MountedRoot]:
        """A writable root over the stage's image."""
        layers: Sequence[Path] = ()
        if self.state.image:
            layers = (await self._job.images.store.resolve(self.state.image)).layers
        async with self._job.workspace.root(layers) as root:
            yield root

    # --- COPY and ADD ---

    async def _copy(self, instruction: Instruction) -> None:
        state, name = self.state, instruction.name
        *texts, target = [state.expand(text) for text in instruction.args]
        many = f"When using {name} with more than one source file, the destination must be a directory and end with a /"
        if len(texts) > 1 and not target.endswith("/"):
            raise InvalidArgument(many)
        slash = "/" if target.endswith(("/", "/.")) or target in (".", "") else ""
        destination = join(state.config.get("WorkingDir") or "/", target or ".").rstrip("/") + slash
        chown = state.expand(instruction.flags.get("chown", ""))
        async with contextlib.AsyncExitStack() as stack:
            sources = await self._sources(stack, instruction, texts)
            if not sources:
                raise InvalidArgument(f"{name} failed: no source files were specified")
            if len(sources) > 1 and not slash:
                raise InvalidArgument(many)
            flag = f"--chown={chown}" if chown else ""
            text = f"{NOP}{name} {flag}{copying.combined_digest(sources)} in {target} "
            command = [*shell_of(state.config), text]
            if self._found_in_cache(command):
                return
            async with self._root() as root:
                await self._job.disk.run(_copy_all, root.merged, sources, destination or "/", chown)
                await self._commit_root(command, root)

    async def _sources(
        self, stack: contextlib.AsyncExitStack, instruction: Instruction, texts: Sequence[str]
    ) -> list[Source]:
        job, adding = self._job, instruction.name == "ADD"
        place = job.context
        origin = self.state.expand(instruction.flags.get("from", ""))
        if origin:
            place = await self._other_image(stack, origin)
        found: list[Source] = []
        for text in texts:
            if adding and is_web_address(text):
                found.append(await self._downloaded(stack, text, instruction))
                continue
            found += await job.disk.run(
                copying.find_sources, place, text, what=instruction.name, unpack=adding, from_context=not origin
            )
        return found

    async def _other_image(self, stack: contextlib.AsyncExitStack, name: str) -> int:
        """The root of another stage or of an image, to read from."""
        image = self._stage_image(name)
        if image == "":
            raise InvalidArgument(f"invalid from flag value {name}: the stage made no image")
        try:
            view = await self._image(image or name, pull=False)
        except (NotFound, Upstream) as error:
            raise type(error)(f"invalid from flag value {name}: {error.message}") from error
        self._job.keep(view.id)
        root = await stack.enter_async_context(self._job.workspace.root(view.layers))
        fd = os.open(root.merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd

    async def _downloaded(self, stack: contextlib.AsyncExitStack, address: str, instruction: Instruction) -> Source:
        home = await stack.enter_async_context(self._job.workspace.directory())
        try:
            got = await download(address, home / "download", self._job.disk)
        except ShoalError as error:
            raise type(error)(f"ADD failed: {error.message}") from error
        if not got.name and instruction.args[-1].endswith("/"):
            raise InvalidArgument(f"cannot determine filename for source {address}")
        return await self._job.disk.run(_as_source, stack, home, got.name, got.modified_ns)


def _as_source(stack: contextlib.ExitStack | Any, home: Path, name: str, modified_ns: int) -> Source:
    file = home / "download"
    file.chmod(0o600)
    os.utime(file, ns=(modified_ns, modified_ns))
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    (source,) = copying.find_sources(fd, "download", what="ADD", unpack=False, from_context=True)
    return Source(source.root, source.path, False, source.digest, name)


def _make_workdir(merged: Path, path: str) -> None:
    root = os.open(merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        copying.make_directories(root, path, (0, 0))
    finally:
        os.close(root)


def _copy_all(merged: Path, sources: Sequence[Source], destination: str, chown: str) -> None:
    owner = _owner(chown, merged)
    root = os.open(merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for source in sources:
            copying.copy(source, root, destination, owner)
    finally:
        os.close(root)


def _owner(chown: str, merged: Path) -> tuple[int, int]:
    """User and group by name or number; a user alone stands for the group of the same name or number, too."""
    if not chown:
        return 0, 0
    user, _, group = chown.partition(":")
    text = "unable to convert uid/gid chown string to host mapping"
    passwd, groups = read_text(merged, "/etc/passwd"), read_text(merged, "/etc/group")
    try:
        uid = resolve(user, passwd, "").user.uid
    except InvalidArgument:
        raise InvalidArgument(f"{text}: can't find uid for user {user}: no such user: {user}") from None
    try:
        gid = resolve(f"0:{group or user}", passwd, groups).user.gid
    except InvalidArgument:
        raise InvalidArgument(f"{text}: can't find gid for group {group or user}: no such group: {group or user}"
                              ) from None  # fmt: skip
    return uid, gid

"""What the stages of one build share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from api.types.auth import AuthConfig
from api.types.build import BuildOptions
from base.offload import Pool
from worker.engine.builder.arguments import BuildArguments
from worker.engine.builder.committer import Committer
from worker.engine.builder.dockerfile import Instruction
from worker.engine.builder.runner import Runner
from worker.engine.builder.stages import Plan
from worker.engine.builder.workspace import Workspace
from worker.engine.images import names
from worker.engine.images.ingestion import Ingestion
from worker.engine.images.names import DEFAULT_DOMAIN
from worker.engine.images.progress import Report
from worker.engine.images.service import ImageService


@dataclass
class Job:
    """One build under way."""

    plan: Plan
    options: BuildOptions
    arguments: BuildArguments
    context: int
    """Descriptor of the context's directory."""
    images: ImageService
    workspace: Workspace
    committer: Committer
    runner: Runner
    pins: Ingestion
    """Keeps the layers of every image the build stands on until it ends."""
    disk: Pool
    report: Report
    done: int = 0

    def say(self, text: str) -> None:
        """One piece of the output."""
        self.report({"stream": text})

    def announce(self, instruction: Instruction) -> None:
        """The next step begins."""
        self.done += 1
        self.say(f"Step {self.done}/{self.plan.total} : {instruction.text}")
        self.say("\n")

    def keep(self, image: str) -> None:
        """Keep the layers of an image until the build ends, whoever removes the image."""
        record = self.images.store.index.images.get(image)
        for chain in record.chains if record is not None else ():
            self.pins.pin(chain)
            self.pins.pin(self.images.store.index.layers[chain].blob)

    async def pull(self, name: str) -> str:
        """Pull an image, with the credentials of the request for its registry; returns its id."""
        reference = names.parse(name).tagged()
        return await self.images.pull(name, login_for(reference.domain, self.options.auths), self.report)


def login_for(domain: str, auths: Mapping[str, AuthConfig]) -> AuthConfig | None:
    """The login for a registry. Keys are its name, or the address that clients once used; that of the official one is
    `https://index.docker.io/v1/` (v1.24 "Build image from a Dockerfile")."""
    for key, auth in auths.items():
        host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
        if host in ("index.docker.io", "registry-1.docker.io"):
            host = DEFAULT_DOMAIN
        if host == domain:
            return auth
    return None

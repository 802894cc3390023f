"""What a client may ask of a build and of a commit: values between routers and engine (v1.24 sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from api.types.auth import AuthConfig
from api.types.base import Api
from api.types.container import ContainerConfig, Ulimit


@dataclass(frozen=True)
class BuildOptions:
    """POST /build."""

    tags: Sequence[str] = ()
    dockerfile: str = ""
    remote: str = ""
    target: str = ""
    quiet: bool = False
    no_cache: bool = False
    pull: bool = False
    remove: bool = True
    """Remove the containers of steps that succeeded."""
    force_remove: bool = False
    """Remove the container of a step that failed, too."""
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroup_parent: str = ""
    shm_size: int = 0
    network_mode: str = ""
    extra_hosts: Sequence[str] = ()
    ulimits: Sequence[Ulimit] = ()
    auths: Mapping[str, AuthConfig] = field(default_factory=dict)
    """By registry, as clients name them (`X-Registry-Config`)."""


@dataclass(frozen=True)
class CommitOptions:
    """POST /commit."""

    container: str
    repository: str = ""
    tag: str = ""
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: Sequence[str] = ()
    config: ContainerConfig | None = None
    """Replaces the container's, which fills what it leaves out; None is the container's."""


class CommitAnswer(Api, kw_only=True):
    id: str = msgspec.field(name="Id")

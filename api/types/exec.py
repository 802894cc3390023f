"""Bodies of the exec endpoints (v1.24 section 3.3, "Exec Create" to "Exec Inspect")."""

from __future__ import annotations

import msgspec

from api.types.base import Api


class ExecBody(Api, kw_only=True):
    """POST /containers/{id}/exec."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | str | None = None


class ExecAnswer(Api, kw_only=True):
    id: str = msgspec.field(name="Id")
    warnings: list[str] = msgspec.field(default_factory=list)


class ExecStartBody(Api, kw_only=True):
    """POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False


class ProcessConfig(Api, rename=None, kw_only=True):
    """The command of an exec; the one object of the API with lower-case keys."""

    arguments: list[str]
    entrypoint: str
    privileged: bool
    tty: bool
    user: str


class ExecInspect(Api, kw_only=True):
    """GET /exec/{id}/json."""

    id: str = msgspec.field(name="ID")
    container_id: str
    can_remove: bool = False
    detach_keys: str = ""
    exit_code: int | None
    open_stderr: bool
    open_stdin: bool
    open_stdout: bool
    process_config: ProcessConfig
    running: bool
    pid: int = msgspec.field(name="Pid", default=0)

"""What an instruction does to an image's configuration. Pure: RUN, COPY, ADD and FROM, which do more, are elsewhere.

A configuration is the `config` object of an image's JSON, as Docker writes it. Every function returns a new one.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from api.errors import InvalidArgument
from worker.engine.builder import words
from worker.engine.builder.arguments import BuildArguments
from worker.engine.builder.dockerfile import Instruction, trigger_of
from worker.engine.builder.gowords import duration, parse_duration, plain_list, quoted_list, rune
from worker.engine.containers.signals import parse_signal

Config = dict[str, Any]
NOP = "#(nop) "
DEFAULT_SHELL = ["/bin/sh", "-c"]
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(\w+))?")
_HEALTH_TIME_NS_MIN = 1_000_000


def empty_config() -> Config:
    """The configuration of an image that says nothing."""
    return {
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": None,
        "Cmd": None,
        "Image": "",
        "Volumes": None,
        "WorkingDir": "",
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": None,
    }


@dataclass
class State:
    """Where a stage stands."""

    config: Config
    args: BuildArguments
    image: str = ""
    """The id of the image so far; "" before the first step of a stage from scratch."""
    author: str = ""
    cmd_set: bool = False
    """This stage has a CMD of its own, which an ENTRYPOINT then keeps."""
    escape: str = "\\"
    notes: list[str] = field(default_factory=list)
    """What the user is to be told of this step."""

    def env(self) -> dict[str, str]:
        """The image's environment."""
        return dict(entry.partition("=")[::2] for entry in self.config.get("Env") or [])

    def variables(self) -> dict[str, str]:
        """What words may name: the environment, then build arguments."""
        env = self.env()
        return {**self.args.allowed(env), **env}

    def expand(self, text: str) -> str:
        return words.expand(text, self.variables(), self.escape)


def shell_of(config: Mapping[str, Any]) -> list[str]:
    """The shell of shell forms."""
    return list(config.get("Shell") or DEFAULT_SHELL)


def command_of(instruction: Instruction, config: Mapping[str, Any]) -> list[str]:
    """The command of RUN, CMD or ENTRYPOINT in either form."""
    if instruction.json:
        return list(instruction.args)
    return [*shell_of(config), *instruction.args]


def evaluate(instruction: Instruction, state: State) -> tuple[Config, list[str]]:
    """Apply one instruction.

    Returns: the new configuration, and the words that stand for the step in history, after the shell.
    Raises: InvalidArgument with dockerd's text.
    """
    config = dict(state.config)
    comment = _APPLY[instruction.name](instruction, state, config)
    return config, [f"{NOP}{comment}"] if instruction.name == "WORKDIR" else [NOP, comment]


def _assignments(instruction: Instruction, state: State) -> list[tuple[str, str]]:
    found = []
    variables = state.variables()
    for word in instruction.args:
        key, _, value = word.partition("=")
        if not instruction.literal:
            key = words.expand(key, variables, state.escape)
            value = words.expand(value, variables, state.escape)
        if not key:
            raise InvalidArgument(f"{instruction.name} names can not be blank")
        found.append((key, value))
    return found


def _env(instruction: Instruction, state: State, config: Config) -> str:
    env = list(config.get("Env") or [])
    added = _assignments(instruction, state)
    for key, value in added:
        at = next((i for i, entry in enumerate(env) if entry.partition("=")[0] == key), len(env))
        env[at : at + 1] = [f"{key}={value}"]
    config["Env"] = env
    return "ENV " + " ".join(f"{key}={value}" for key, value in added)


def _label(instruction: Instruction, state: State, config: Config) -> str:
    added = _assignments(instruction, state)
    config["Labels"] = {**(config.get("Labels") or {}), **dict(added)}
    return "LABEL " + " ".join(f"{key}={value}" for key, value in added)


def _arg(instruction: Instruction, state: State, config: Config) -> str:
    del config
    shown = []
    for word in instruction.args:
        name, equals, value = word.partition("=")
        name = state.expand(name)
        default = state.expand(value) if equals else None
        state.args.declare(name, default)
        shown.append(f"{name}={default}" if equals else name)
    return "ARG " + " ".join(shown)


def _maintainer(instruction: Instruction, state: State, config: Config) -> str:
    del config
    state.author = instruction.args[0]
    return f"MAINTAINER {instruction.args[0]}"


def _user(instruction: Instruction, state: State, config: Config) -> str:
    config["User"] = state.expand(instruction.args[0])
    return f"USER {config['User']}"


def _workdir(instruction: Instruction, state: State, config: Config) -> str:
    config["WorkingDir"] = join(config.get("WorkingDir") or "/", state.expand(instruction.args[0]))
    return f"WORKDIR {config['WorkingDir']}"


def join(base: str, path: str) -> str:
    """An absolute, clean path: `path` as seen from `base`. Raises InvalidArgument for an empty one."""
    if not path:
        raise InvalidArgument("cannot normalize nothing")
    return "/" + posixpath.normpath(posixpath.join("/", base, path)).lstrip("/")


def _cmd(instruction: Instruction, state: State, config: Config) -> str:
    config["Cmd"] = command_of(instruction, config) if instruction.args else None
    state.cmd_set = bool(instruction.args)
    return f"CMD {quoted_list(config['Cmd'] or [])}"


def _entrypoint(instruction: Instruction, state: State, config: Config) -> str:
    config["Entrypoint"] = command_of(instruction, config) if instruction.args else None
    if not state.cmd_set:
        config["Cmd"] = None
    return f"ENTRYPOINT {quoted_list(config['Entrypoint'] or [])}"


def _expose(instruction: Instruction, state: State, config: Config) -> str:
    variables = state.variables()
    named = sorted({word for text in instruction.args for word in words.split(text, variables, state.escape)})
    ports: dict[str, Any] = {}
    for text in named:
        ports |= {key: {} for key in _ports(text)}
    config["ExposedPorts"] = dict(sorted({**(config.get("ExposedPorts") or {}), **ports}.items()))
    return "EXPOSE " + " ".join(named)


def _ports(text: str) -> list[str]:
    port, _, protocol = text.partition("/")
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"Invalid containerPort: {port}" if port or not text else f"Invalid proto: {protocol}")
    if (match[3] or "tcp").lower() not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"Invalid proto: {match[3]}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last <= 65535:
        raise InvalidArgument(f"Invalid containerPort: {port}")
    return [f"{number}/{(match[3] or 'tcp').lower()}" for number in range(first, last + 1)]


def _volume(instruction: Instruction, state: State, config: Config) -> str:
    paths = [state.expand(text).strip() for text in instruction.args]
    if not all(paths):
        raise InvalidArgument("VOLUME specified can not be an empty string")
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}
    return f"VOLUME {plain_list(paths)}"


def _stop_signal(instruction: Instruction, state: State, config: Config) -> str:
    config["StopSignal"] = state.expand(instruction.args[0])
    parse_signal(config["StopSignal"])
    return f"STOPSIGNAL {config['StopSignal']}"


def _shell(instruction: Instruction, state: State, config: Config) -> str:
    del state
    if not instruction.args:
        raise InvalidArgument("SHELL requires at least one argument")
    config["Shell"] = list(instruction.args)
    return f"SHELL {plain_list(instruction.args)}"


def _onbuild(instruction: Instruction, state: State, config: Config) -> str:
    del state
    trigger = trigger_of(instruction)
    config["OnBuild"] = [*(config.get("OnBuild") or []), trigger]
    return f"ONBUILD {trigger}"


def _healthcheck(instruction: Instruction, state: State, config: Config) -> str:
    before = config.get("Healthcheck") or {}
    if before.get("Test") and before["Test"] != ["NONE"]:
        state.notes.append(f"Note: overriding previous HEALTHCHECK: {plain_list(before['Test'])}\n")
    own = check_health(instruction)
    config["Healthcheck"] = {**before, **{key: value for key, value in own.items() if value}}
    times = " ".join(f'"{duration(own.get(key, 0))}"' for key in ("Interval", "Timeout", "StartPeriod"))
    return f"HEALTHCHECK &{{{quoted_list(own['Test'])} {times} {rune(own.get('Retries', 0))}}}"


def check_health(instruction: Instruction) -> dict[str, Any]:
    """The health check an instruction asks for, zero values included. Raises InvalidArgument naming the line."""
    kind, rest = instruction.args[0].upper(), list(instruction.args[1:])

    def bad(why: str) -> InvalidArgument:
        return InvalidArgument(f"dockerfile parse error line {instruction.line}: {why}")

    if kind == "NONE":
        if rest:
            raise bad("HEALTHCHECK NONE takes no arguments")
        return {"Test": ["NONE"]}
    if kind != "CMD":
        raise bad(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    if not rest:
        raise bad("Missing command after HEALTHCHECK CMD")
    found: dict[str, Any] = {"Test": ["CMD", *rest] if instruction.json else ["CMD-SHELL", *rest]}
    for flag, key in (("interval", "Interval"), ("timeout", "Timeout"), ("start-period", "StartPeriod")):
        try:
            value = parse_duration(instruction.flags.get(flag, "0"))
        except ValueError as error:
            raise bad(str(error)) from None
        if value and value < _HEALTH_TIME_NS_MIN:
            raise bad(f'Interval "{flag}" cannot be less than 1ms')
        found[key] = value
    retries = instruction.flags.get("retries", "0")
    if not retries.isdecimal() or (int(retries) < 1 and "retries" in instruction.flags):
        raise bad(f"--retries must be at least 1 (not {retries})")
    found["Retries"] = int(retries)
    return found


_APPLY = {
    "ARG": _arg,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}

"""Volume drivers outside the daemon: finding a plugin by name, and speaking the documented socket protocol with it.

A plugin is a socket `NAME.sock` or `NAME/NAME.sock` in /run/docker/plugins, or a file `NAME.spec` (an address) or
`NAME.json` (`Addr`, `TLSConfig`) in /etc/docker/plugins or /usr/lib/docker/plugins; or one that this engine runs itself
(worker.engine.plugins), which calls its paths by the names of its own root. It is asked anew by every call: one
that was restarted is found again, one that is gone is an error that names the address, and never a wait without end.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
import msgspec

from api.errors import Internal, InvalidArgument, NotFound
from api.types.base import Api

T = TypeVar("T")
SOCKETS = (Path("/run/docker/plugins"),)
SPECS = (Path("/etc/docker/plugins"), Path("/usr/lib/docker/plugins"))
SUFFIXES = (".spec", ".json")
CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json"
ASK_S = 10.0
"""For questions."""
ACT_S = 120.0
"""For what makes storage come and go; a plugin may have to wait for a network."""
ANSWER_BYTES_MAX = 16 << 20


class TLSConfig(Api):
    insecure_skip_verify: bool = False
    ca_file: str = msgspec.field(name="CAFile", default="")
    cert_file: str = ""
    key_file: str = ""


class Spec(Api):
    """A `.json` file."""

    addr: str
    name: str = ""
    tls_config: TLSConfig | None = msgspec.field(name="TLSConfig", default=None)


class Known(Api):
    """A volume as a plugin tells of it."""

    name: str
    mountpoint: str | None = ""
    status: dict[str, Any] | None = None
    created_at: str | None = ""


class Activation(Api):
    implements: list[str] | None = None
    err: str | None = ""


class Capabilities(Api):
    scope: str = "local"


class Answer(Api):
    """The union of all answers of VolumeDriver.*."""

    err: str | None = ""
    mountpoint: str | None = ""
    volume: Known | None = None
    volumes: list[Known] | None = None
    capabilities: Capabilities | None = None


class Refused(Internal):
    """The plugin answered, with an error of its own."""


@dataclass(frozen=True)
class Address:
    """Where a plugin listens: a unix socket, or an URL."""

    socket: Path | None = None
    url: str = ""
    tls: TLSConfig | None = None

    def __str__(self) -> str:
        return f"unix {self.socket}" if self.socket else self.url


class Plugin:
    """One volume driver."""

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        home: Path | None = None,
        on_host: Callable[[str], str] = lambda path: path,
        handshake: bool = True,
    ) -> None:
        """`home`: all it has on the host lies below it; `on_host`: where the host finds what the plugin calls so;
        `handshake`: it is asked what it is."""
        self.name = name
        self.home = home
        self._address = address
        self._on_host = on_host
        self._handshake = handshake

    async def activate(self) -> bool:
        """The handshake; whether it is a volume driver at all. Raises Internal when nobody answers."""
        if not self._handshake:
            return True
        answer = await self._post("Plugin.Activate", None, ASK_S, Activation)
        return "VolumeDriver" in (answer.implements or [])

    async def create(self, volume: str, options: Mapping[str, str]) -> None:
        await self._call("Create", {"Name": volume, "Opts": dict(options)}, ACT_S)

    async def remove(self, volume: str) -> None:
        await self._call("Remove", {"Name": volume}, ACT_S)

    async def mount(self, volume: str, holder: str) -> Path:
        """Where it is mounted for `holder`. Raises Internal when that is no absolute path."""
        answer = await self._call("Mount", {"Name": volume, "ID": holder}, ACT_S)
        path = Path(answer.mountpoint or "")
        if not path.is_absolute():
            raise Internal(f"VolumeDriver.Mount: the answer of plugin {self.name} has no path: {answer.mountpoint!r}")
        return Path(self._on_host(str(path)))

    async def unmount(self, volume: str, holder: str) -> None:
        await self._call("Unmount", {"Name": volume, "ID": holder}, ACT_S)

    async def get(self, volume: str) -> Known | None:
        """What it knows of a volume; None if it says that there is none (it has no other word for that than an
        error). Raises Internal when nobody answers."""
        try:
            return self._placed((await self._call("Get", {"Name": volume}, ASK_S)).volume)
        except Refused:
            return None

    async def path(self, volume: str) -> str:
        """Where it is or would be mounted, "" when that is not known yet."""
        try:
            return self._on_host((await self._call("Path", {"Name": volume}, ASK_S)).mountpoint or "")
        except Refused:
            return ""

    async def list(self) -> Sequence[Known]:
        found = (await self._call("List", {}, ASK_S)).volumes or []
        return [placed for each in found if (placed := self._placed(each)) is not None]

    def _placed(self, known: Known | None) -> Known | None:
        """Its mountpoint as the host has it, in place."""
        if known is not None:
            known.mountpoint = self._on_host(known.mountpoint or "")
        return known

    async def scope(self) -> str:
        """`local` or `global`; local for a plugin that does not say."""
        try:
            found = (await self._call("Capabilities", {}, ASK_S)).capabilities
        except Refused:
            return "local"
        return "global" if found is not None and found.scope == "global" else "local"

    async def _call(self, method: str, body: dict[str, Any], timeout_s: float) -> Answer:
        answer = await self._post(f"VolumeDriver.{method}", body, timeout_s, Answer)
        if answer.err:
            raise Refused(f"VolumeDriver.{method}: {answer.err}")
        return answer

    async def _post(self, method: str, body: Any, timeout_s: float, kind: type[T]) -> T:
        connector = (
            aiohttp.UnixConnector(str(self._address.socket))
            if self._address.socket
            else aiohttp.TCPConnector(ssl=_context(self._address.tls))
        )
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        url = f"{self._address.url or 'http://plugin'}/{method}"
        headers = {"Accept": CONTENT_TYPE, "Content-Type": CONTENT_TYPE}
        data = msgspec.json.encode(body) if body is not None else b""
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.post(url, data=data, headers=headers) as response,
            ):
                raw = await _read(response)
        except TimeoutError:
            raise Internal(f"plugin {self.name} at {self._address}: no answer to {method} in {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Internal(f"error looking up volume plugin {self.name}: {self._address}: {error}") from None
        return self._decode(method, response.status, raw, kind)

    def _decode(self, method: str, status: int, raw: bytes, kind: type[T]) -> T:
        try:
            if status == 200:
                return msgspec.json.decode(raw, type=kind)
            message = msgspec.json.decode(raw, type=Answer).err
        except msgspec.MsgspecError as error:
            if status == 200:
                raise Internal(f"{method}: plugin {self.name} does not speak the protocol: {error}") from None
            message = raw[:1000].decode(errors="replace").strip()
        raise Refused(f"{method}: {message or f'status {status}'}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > ANSWER_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return bytes(data)


def _context(tls: TLSConfig | None) -> ssl.SSLContext | bool:
    if tls is None:
        return True
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    if tls.insecure_skip_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file or None)
    return context


class Managed(Protocol):
    """Plugins that this engine runs itself."""

    def volume_drivers(self) -> Sequence[str]:
        """The names of those that are enabled."""
        ...

    def driver_name(self, text: str) -> str:
        """The one name of the driver that `text` names; `text` itself for one that is not managed."""
        ...

    def find(self, text: str) -> Plugin | None:
        """None when no such plugin is installed; NotFound when it can't be used."""
        ...

    async def ready(self, text: str) -> None:
        """Wait a while for one that is being started again."""
        ...


class Finder:
    """Where plugins are looked for: among the managed ones first."""

    def __init__(
        self, sockets: Sequence[Path] = SOCKETS, specs: Sequence[Path] = SPECS, managed: Managed | None = None
    ) -> None:
        self._sockets = sockets
        self._specs = specs
        self._managed = managed

    def managed_names(self) -> Sequence[str]:
        """The drivers that this engine runs itself, and that are enabled."""
        return self._managed.volume_drivers() if self._managed is not None else ()

    def driver_name(self, name: str) -> str:
        """The name that a driver is known by, whatever part of it was left out."""
        return self._managed.driver_name(name) if self._managed is not None else name

    def names(self) -> list[str]:
        """All plugins there are, of whatever kind, by name."""
        found: set[str] = set(self.managed_names())
        for directory in self._sockets:
            found |= {path.stem for pattern in ("*.sock", "*/*.sock") for path in directory.glob(pattern)}
        for directory in self._specs:
            found |= {path.stem for suffix in SUFFIXES for path in directory.glob(f"*{suffix}")}
        return sorted(found)

    def find(self, name: str) -> Plugin:
        """Raises NotFound, InvalidArgument for a file that can't be understood."""
        managed = self._managed.find(name) if self._managed is not None else None
        if managed is not None:
            return managed
        if "/" not in name and name not in ("", ".", ".."):
            for directory in self._sockets:
                for path in (directory / f"{name}.sock", directory / name / f"{name}.sock"):
                    if path.exists():
                        return Plugin(name, Address(socket=path))
            for path in (directory / f"{name}{suffix}" for directory in self._specs for suffix in SUFFIXES):
                if path.exists():
                    return Plugin(name, _read_spec(path))
        raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" not found')

    async def driver(self, name: str) -> Plugin:
        """The volume driver of this name, after the handshake. Raises as `find`; Internal when nobody answers."""
        plugin = self.find(name)
        if self._managed is not None:
            await self._managed.ready(name)
        if not await plugin.activate():
            raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" does not implement VolumeDriver')
        return plugin


def _read_spec(path: Path) -> Address:
    try:
        raw = path.read_bytes()
        spec = msgspec.json.decode(raw, type=Spec) if path.suffix == ".json" else Spec(addr=raw.decode().strip())
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise InvalidArgument(f"plugin file {path}: {error}") from None
    scheme, separator, rest = spec.addr.partition("://")
    if separator and rest and scheme == "unix":
        return Address(socket=Path(rest))
    if separator and rest and scheme in ("tcp", "http", "https"):
        secure = scheme == "https" or (scheme == "tcp" and spec.tls_config is not None)
        return Address(url=f"{'https' if secure else 'http'}://{rest.rstrip('/')}", tls=spec.tls_config)
    raise InvalidArgument(f"plugin file {path}: {spec.addr!r} is neither unix://path nor tcp://address:port")

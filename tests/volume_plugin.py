"""A little volume plugin, as a program of its own: directories below a root, over the documented socket protocol.

`python -m tests.volume_plugin SOCKET ROOT` serves until it is killed. Every call is a line of ROOT/calls.log. With FAIL
in the environment it ends at once. Options of a volume: `refuse` is an error; `hidden` has no path until it is mounted;
`tmpfs` is memory, mounted for its first user and unmounted after its last; `link` is a link to /etc; `slow` is mounted,
but told so only when ROOT/go is there.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)


class Handler(BaseHTTPRequestHandler):
    """One request; the state is on the disk, so that a restarted plugin knows its volumes."""

    root: Path

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = self.path.removeprefix("/")
        body = json.loads(raw) if raw else {}
        with (self.root / "calls.log").open("a") as calls:
            calls.write(f"{method} {body.get('Name', '')}\n")
        try:
            answer, status = self._answer(method, body), 200
        except LookupError as error:
            answer, status = {"Err": str(error.args[0])}, 500
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        del format, args

    def _answer(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        if method == "Plugin.Activate":
            return {"Implements": ["VolumeDriver"]}
        if method == "VolumeDriver.Capabilities":
            return {"Capabilities": {"Scope": "global"}}
        if method == "VolumeDriver.List":
            return {"Volumes": [self._volume(path) for path in sorted((self.root / "volumes").iterdir())]}
        place = self.root / "volumes" / body["Name"]
        if method == "VolumeDriver.Create":
            if "refuse" in (body.get("Opts") or {}):
                raise LookupError("this one I do not make")
            place.mkdir(parents=True)
            if "link" in (body.get("Opts") or {}):
                (place / "data").symlink_to("/etc")
            else:
                (place / "data").mkdir()
            (place / "options").write_text(json.dumps(body.get("Opts") or {}))
            return {"Err": ""}
        if not place.exists():
            raise LookupError(f"no volume {body['Name']} here")
        if method == "VolumeDriver.Get":
            return {"Volume": self._volume(place)}
        if method == "VolumeDriver.Path":
            return {"Mountpoint": self._volume(place)["Mountpoint"]}
        if method == "VolumeDriver.Mount":
            if self._is_memory(place) and not list(place.glob("user-*")):
                self._call(LIBC.mount(b"tmpfs", bytes(place / "data"), b"tmpfs", 0, None))
            (place / f"user-{body['ID']}").touch()
            while "slow" in json.loads((place / "options").read_text()) and not (self.root / "go").exists():
                time.sleep(0.01)
            return {"Mountpoint": str(place / "data")}
        if method == "VolumeDriver.Unmount":
            (place / f"user-{body['ID']}").unlink()
            if self._is_memory(place) and not list(place.glob("user-*")):
                self._call(LIBC.umount(bytes(place / "data")))
            return {"Err": ""}
        if method == "VolumeDriver.Remove":
            place.rename(self.root / f"removed-{body['Name']}")
            return {"Err": ""}
        raise LookupError(f"unknown method {method}")

    @staticmethod
    def _call(result: int) -> None:
        if result:
            raise LookupError(os.strerror(ctypes.get_errno()))

    @staticmethod
    def _is_memory(place: Path) -> bool:
        return "tmpfs" in json.loads((place / "options").read_text())

    def _volume(self, place: Path) -> dict[str, Any]:
        options = json.loads((place / "options").read_text())
        users = len(list(place.glob("user-*")))
        shown = str(place / "data") if users or "hidden" not in options else ""
        return {"Name": place.name, "Mountpoint": shown, "Status": {"users": users, "options": options}}


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def main() -> None:
    if os.environ.get("FAIL"):
        raise SystemExit("I was told to fail")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process of a container ignores it otherwise
    socket, Handler.root = sys.argv[1], Path(sys.argv[2])
    (Handler.root / "volumes").mkdir(parents=True, exist_ok=True)
    if os.path.exists(socket):
        os.unlink(socket)
    with Server(socket, Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()

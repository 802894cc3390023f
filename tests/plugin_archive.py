"""tests/volume_plugin.py as a plugin that an engine installs: the archive for `POST /plugins/create`.

Its root holds the program alone; Python is the machine's own, by mounts of the directories it lives in.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("volume_plugin.py")
SOCKET = "vols.sock"
DATA = "/data"
"""Its PropagatedMount."""


def config(**changes: Any) -> dict[str, Any]:
    """Its configuration; `changes` replace keys."""
    places = dict.fromkeys([sys.base_prefix, "/usr", "/lib", "/lib64"])
    kept = [place for place in places if os.path.isdir(place)]
    return {
        "Description": "a volume driver for tests",
        "Documentation": "https://docs.docker.com/engine/extend/plugins/",
        "Interface": {"Types": ["docker.volumedriver/1.0"], "Socket": SOCKET},
        "Entrypoint": [os.path.realpath(sys.executable), "-I", "/plugin.py", f"/run/docker/plugins/{SOCKET}", DATA],
        "WorkDir": "/",
        "User": {},
        "Network": {"Type": "none"},
        "Linux": {"Capabilities": ["CAP_SYS_ADMIN"], "Devices": [{"Name": "zero", "Path": "/dev/zero"}]},
        "PropagatedMount": DATA,
        "Mounts": [
            {"Name": f"m{number}", "Type": "bind", "Source": place, "Destination": place, "Options": ["rbind", "ro"]}
            for number, place in enumerate(kept)
        ]
        + [{"Name": "scratch", "Type": "tmpfs", "Source": None, "Destination": "/scratch", "Options": None}],
        "Env": [
            {"Name": "FAIL", "Description": "end at once", "Settable": ["value"], "Value": ""},
            {"Name": "FIXED", "Settable": None, "Value": "1"},
        ],
        "Args": {"Name": "args", "Description": "more arguments", "Settable": ["value"], "Value": []},
    } | changes


def archive(**changes: Any) -> bytes:
    """`config.json` and `rootfs/`, as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        raw = json.dumps(config(**changes)).encode()
        for name, data in (("config.json", raw), ("rootfs/plugin.py", PROGRAM.read_bytes())):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()

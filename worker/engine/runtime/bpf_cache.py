"""Compiled seccomp programs, kept between containers: libseccomp takes longer to compile the default profile than
crun takes for all the rest of a start.

A program is found by the hash of its profile, the machine's architecture and the runtime's version. It reaches crun
in an annotation; the stub profile that has to stand beside it refuses everything, so that a runtime which does not
know the annotation fails closed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

ANNOTATION = "run.oci.seccomp_bpf_data"
_STUB = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}


class BpfCache:
    """Programs by profile, in memory and under `directory`."""

    def __init__(self, directory: Path, version: str) -> None:
        self._directory = directory
        self._salt = f"{platform.machine()}\n{version}\n"
        self._enabled = version.startswith("crun")
        self._programs: dict[str, str] = {}

    def apply(self, spec: dict[str, Any]) -> str:
        """Put the compiled program into `spec`, if it is known.

        Returns:
            The key to `keep` the program under once the runtime has compiled it; "" if there is nothing to keep.
        """
        profile = spec.get("linux", {}).get("seccomp")
        if not self._enabled or not profile:
            return ""
        content = self._salt + json.dumps(profile, sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()
        program = self._programs.get(key) or self._load(key)
        if not program:
            return key
        spec["linux"] = spec["linux"] | {"seccomp": _STUB}
        spec["annotations"] = spec.get("annotations", {}) | {ANNOTATION: program}
        return ""

    def _load(self, key: str) -> str:
        try:
            content = (self._directory / key).read_bytes()
        except FileNotFoundError:
            return ""
        self._programs[key] = base64.b64encode(content).decode()
        return self._programs[key]

    def keep(self, key: str, compiled: Path) -> None:
        """Remember what the runtime compiled; a file that is not there or no program is passed over."""
        try:
            content = compiled.read_bytes()
        except OSError:
            return
        if not content or len(content) % 8:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / f"{key}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, self._directory / key)
        self._programs[key] = base64.b64encode(content).decode()

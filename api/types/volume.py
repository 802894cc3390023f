"""Volume requests and responses (v1.24 section 3.4)."""

from __future__ import annotations

from typing import Any

import msgspec

from api.types.base import Api


class VolumeCreate(Api):
    """Body of `POST /volumes/create`. Null stands for absent, as clients send it."""

    name: str | None = ""
    driver: str | None = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class Volume(Api):
    name: str
    driver: str
    mountpoint: str
    labels: dict[str, str] | None
    scope: str = "local"
    options: dict[str, str] | None = None
    created_at: str = ""
    status: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class VolumeList(Api):
    volumes: list[Volume]
    warnings: list[str] | None = msgspec.field(default_factory=list)

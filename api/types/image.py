"""Image requests and responses (v1.24 section 3.2)."""

from __future__ import annotations

from typing import Any

import msgspec

from api.types.base import Api


class ImageSummary(Api, kw_only=True):
    """One item of "List Images"."""

    id: str = msgspec.field(name="Id")
    parent_id: str | msgspec.UnsetType = msgspec.field(name="ParentId", default=msgspec.UNSET)
    repo_tags: list[str]
    repo_digests: list[str]
    created: int
    """Seconds since the epoch."""
    size: int
    virtual_size: int
    labels: dict[str, str]


class GraphDriver(Api, kw_only=True):
    name: str
    data: dict[str, str] | None = None


class RootFS(Api, kw_only=True):
    type: str = "layers"
    layers: list[str]


class ImageInspect(Api, kw_only=True):
    """Answer of "Inspect an image"."""

    id: str = msgspec.field(name="Id")
    repo_tags: list[str]
    repo_digests: list[str]
    parent: str
    comment: str
    created: str
    container: str
    container_config: dict[str, Any] | None
    docker_version: str
    author: str
    config: dict[str, Any]
    architecture: str
    os: str = msgspec.field(name="Os")
    size: int
    virtual_size: int
    graph_driver: GraphDriver
    root_fs: RootFS = msgspec.field(name="RootFS")


class ImageHistoryItem(Api, kw_only=True):
    """One item of "Get the history of an image", the newest first."""

    id: str = msgspec.field(name="Id")
    created: int
    created_by: str
    tags: list[str] | None
    size: int
    comment: str


class ImageRemoved(Api, kw_only=True):
    """One item of the answer of "Remove an image": exactly one of the two is set."""

    untagged: str | msgspec.UnsetType = msgspec.UNSET
    deleted: str | msgspec.UnsetType = msgspec.UNSET


class SearchResult(msgspec.Struct, kw_only=True):
    """One item of "Search images", with the keys an index uses."""

    name: str
    description: str
    is_official: bool
    is_automated: bool
    star_count: int

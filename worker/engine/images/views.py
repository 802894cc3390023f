"""What users see of images: list, inspect, history. Pure functions over the index (v1.24 section 3.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from api.errors import InvalidArgument
from api.types.image import GraphDriver, ImageHistoryItem, ImageInspect, ImageSummary, RootFS
from api.wire.filters import matches_labels
from base.clock import NS, ZERO_TIME, parse_time
from worker.engine.images.model import ImageConfig, ImageRecord, Index, labels_of
from worker.engine.images.names import Reference

FILTERS = ("dangling", "label", "before", "since", "reference")
STORAGE_DRIVER = "overlay2"
_NO_TAG, _NO_DIGEST = "<none>:<none>", "<none>@<none>"
_CONFIG_DEFAULTS: Mapping[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "NetworkDisabled": False,
    "PublishService": "",
    "MacAddress": "",
    "ExposedPorts": None,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def created_ns(config: ImageConfig) -> int:
    """When the image was made, in nanoseconds since the epoch; 0 when it does not say."""
    try:
        return max(0, parse_time(config.created or ""))
    except ValueError:
        return 0


def glob(pattern: str) -> Callable[[str], bool]:
    """Shell pattern where `*` and `?` stop at slashes, as Docker matches names. Raises InvalidArgument."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise InvalidArgument(f"invalid filter 'reference': syntax error in pattern {pattern!r}")
            inside = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(f"[{inside}]")
            at = end
        else:
            parts.append(re.escape(char))
        at += 1
    try:
        return re.compile("".join(parts)).fullmatch  # type: ignore[return-value]
    except re.error as error:
        raise InvalidArgument(f"invalid filter 'reference': syntax error in pattern {pattern!r}") from error


def _names(references: Sequence[Reference]) -> tuple[list[str], list[str]]:
    tags = [reference.familiar() for reference in references if reference.tag]
    digests = [reference.familiar() for reference in references if reference.digest]
    return tags, digests


def _dangling_filter(filters: Mapping[str, Sequence[str]]) -> bool | None:
    values = [value.lower() for value in filters.get("dangling", ())]
    if not values:
        return None
    if all(value in ("true", "1") for value in values):
        return True
    if all(value in ("false", "0") for value in values):
        return False
    raise InvalidArgument(f"Invalid filter 'dangling=[{' '.join(filters['dangling'])}]'")


def list_images(index: Index, filters: Mapping[str, Sequence[str]], *, every: bool, name: str) -> list[ImageSummary]:
    """ "List Images", the newest first.

    Args:
        every: also images that are only parents of others.
        name: the older `filter` parameter: a repository name, with or without a tag; "" is all.

    Raises: NotFound for an unknown image in `before` or `since`, InvalidArgument for a filter value that can't be.
    """
    dangling = _dangling_filter(filters)
    patterns = [glob(pattern) for pattern in [*filters.get("reference", ()), *([name] if name else [])]]
    before = [created_ns(index.configs[index.get(text)]) for text in filters.get("before", ())]
    since = [created_ns(index.configs[index.get(text)]) for text in filters.get("since", ())]
    grouped = index.references_by_image()
    found: list[tuple[int, ImageSummary]] = []
    for record in index.visible():
        config = index.configs[record.id]
        made = created_ns(config)
        if any(made >= limit for limit in before) or any(made <= limit for limit in since):
            continue
        if not matches_labels(filters.get("label", ()), labels_of(config)):
            continue
        references = grouped.get(record.id, [])
        if patterns:
            references = [one for one in references if any(m(one.familiar()) or m(one.familiar_name) for m in patterns)]
            if not references:
                continue
        tags, digests = _names(references)
        if dangling is not None and dangling is bool(tags):
            continue
        if not references and not every and index.children(record.id):
            continue
        found.append((made, _summary(index, record, config, made, tags, digests)))
    found.sort(key=lambda item: (-item[0], item[1].id))
    return [summary for _made, summary in found]


def _summary(
    index: Index, record: ImageRecord, config: ImageConfig, made: int, tags: list[str], digests: list[str]
) -> ImageSummary:
    size = index.size(record)
    if not tags and not digests:
        digests = [_NO_DIGEST]
    return ImageSummary(
        id=record.id,
        parent_id=record.parent or msgspec.UNSET,
        repo_tags=tags or [_NO_TAG],
        repo_digests=digests,
        created=made // NS,
        size=size,
        virtual_size=size,
        labels=dict(labels_of(config)),
    )


def inspect_image(index: Index, text: str, path_of: Callable[[str], Path]) -> ImageInspect:
    """ "Inspect an image". `path_of` gives the directory of a chain. Raises NotFound."""
    image = index.get(text)
    record, config = index.images[image], index.configs[image]
    tags, digests = _names(index.references_of(image))
    size = index.size(record)
    paths = [str(path_of(chain)) for chain in reversed(record.chains)]
    data = {"UpperDir": paths[0], **({"LowerDir": ":".join(paths[1:])} if paths[1:] else {})} if paths else None
    return ImageInspect(
        id=image,
        repo_tags=tags,
        repo_digests=digests,
        parent=record.parent,
        comment=config.comment or (config.history[-1].comment if config.history else ""),
        created=config.created or ZERO_TIME,
        container=config.container,
        container_config={**_CONFIG_DEFAULTS, **(config.container_config or {})},
        docker_version=config.docker_version,
        author=config.author,
        config={**_CONFIG_DEFAULTS, **(config.config or {})},
        architecture=config.architecture,
        os=config.os,
        size=size,
        virtual_size=size,
        graph_driver=GraphDriver(name=STORAGE_DRIVER, data=data),
        root_fs=RootFS(layers=list(config.rootfs.diff_ids)),
    )


def image_history(index: Index, text: str) -> list[ImageHistoryItem]:
    """ "Get the history of an image", the newest first. The steps that made an image of this host have its id.

    Raises NotFound.
    """
    image = index.get(text)
    record, config = index.images[image], index.configs[image]
    sizes = iter([index.layers[chain].size for chain in record.chains])
    items: list[ImageHistoryItem] = []
    for entry in config.history or []:
        try:
            made = max(0, parse_time(entry.created)) // NS
        except ValueError:
            made = 0
        size = 0 if entry.empty_layer else next(sizes, 0)
        items.append(
            ImageHistoryItem(
                id="<missing>", created=made, created_by=entry.created_by, tags=None, size=size, comment=entry.comment
            )
        )
    for size in sizes:  # layers the configuration has no history of
        items.append(ImageHistoryItem(id="<missing>", created=0, created_by="", tags=None, size=size, comment=""))
    items.reverse()
    for item in items:
        item.id = image
        item.tags = [one.familiar() for one in index.references_of(image) if one.tag] or None
        parent = index.images.get(index.images[image].parent)
        if parent is None or parent.removed:
            break
        image = parent.id
    return items

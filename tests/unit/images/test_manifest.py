"""Manifests that could be read in two ways are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.errors import InvalidArgument
from worker.engine.images.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, parse_manifest

PART = {"digest": "sha256:" + "a" * 64, "size": 1}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": PART, "layers": [PART]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": [PART]}


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST, ""])
def test_a_manifest(kind: str) -> None:
    assert not parse_manifest(json.dumps(MANIFEST | {"mediaType": kind}).encode(), kind).is_index


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST, ""])
def test_an_index(kind: str) -> None:
    assert parse_manifest(json.dumps(INDEX | {"mediaType": kind}).encode(), kind or "application/json").is_index


@pytest.mark.parametrize(
    ("document", "sent_as", "told"),
    [
        (MANIFEST | INDEX, "", "both manifests and layers"),
        (INDEX | {"layers": [PART]}, "", "both manifests and layers"),
        (MANIFEST | {"mediaType": OCI_INDEX}, "", "not what its media type"),
        (INDEX | {"mediaType": DOCKER_MANIFEST}, "", "not what its media type"),
        (MANIFEST | {"mediaType": OCI_MANIFEST}, DOCKER_MANIFEST, "sent as"),
        (INDEX | {"mediaType": OCI_INDEX}, OCI_MANIFEST, "sent as"),
        ({"schemaVersion": 2}, "", "no configuration"),
        (MANIFEST | {"schemaVersion": 1}, "", "schema version 1"),
    ],
)
def test_what_is_ambiguous(document: dict[str, Any], sent_as: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        parse_manifest(json.dumps(document).encode(), sent_as)

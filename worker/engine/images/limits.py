"""What the image store accepts, in one place. Bytes unless the name says otherwise."""

from __future__ import annotations

CHUNK = 1 << 20
"""Read and write size of everything that streams."""

CONFIG_MAX = 8 << 20
"""Image configuration JSON."""
MANIFEST_MAX = 4 << 20
"""Registry manifest or index."""
LAYERS_MAX = 500
"""Layers of one image: what the kernel stacks in one overlay."""

MEMBERS_MAX = 5_000_000
"""Members of one archive."""
ARCHIVE_MEMBERS_MAX = 100_000
"""Members of an archive of images, whose names are kept in memory."""
PATH_MAX = 4096
"""Length of a member's path or link target."""
PAX_MAX = 1 << 20
"""One PAX or GNU long-name header."""
METADATA_MEMBER_MAX = CONFIG_MAX
"""A JSON member of an image archive that is read into memory."""
ZSTD_WINDOW_MAX = 128 << 20
"""Memory one zstd frame may ask for."""

DOWNLOADS_PARALLEL = 3
"""Layers of one pull that download at once (Docker's default)."""
UNPACKS_PARALLEL = 2
UPLOADS_PARALLEL = 3
"""Layers of one push that upload at once."""
DOWNLOAD_TRIES = 5
"""Attempts at one blob before the pull fails; each resumes where the last one broke off."""

assert MANIFEST_MAX <= CONFIG_MAX
assert PATH_MAX < PAX_MAX

"""Image names: parsing, Docker's normal form, and the familiar form users see. Pure.

Invariant: a `Reference` is always in normal form (`docker.io/library/busybox:latest`); the familiar form
(`busybox:latest`) exists only in answers. Grammar: the distribution reference grammar that v1.24 clients follow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from api.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
NAME_LENGTH_MAX = 255

_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_ID_PREFIX = re.compile(r"(?:sha256:)?[0-9a-f]{1,64}")


@dataclass(frozen=True)
class Reference:
    """A repository, with a tag or a digest or neither (never both: a digest makes the tag meaningless)."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """`docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """`busybox`: what users write for the repository."""
        if self.domain == DEFAULT_DOMAIN:
            return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path
        return self.repository

    def _suffix(self) -> str:
        if self.digest:
            return "@" + self.digest
        return ":" + self.tag if self.tag else ""

    def __str__(self) -> str:
        return self.repository + self._suffix()

    def familiar(self) -> str:
        """`busybox:latest`: what users write."""
        return self.familiar_name + self._suffix()

    def tagged(self) -> Reference:
        """With the tag `latest` if it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        """The same repository under a tag. Raises InvalidArgument for a tag that can't be."""
        return replace(self, tag=check_tag(tag), digest="")

    def with_digest(self, digest: str) -> Reference:
        """The same repository at a digest. Raises InvalidArgument for what is no sha256 digest."""
        return replace(self, tag="", digest=check_digest(digest))


def check_tag(tag: str) -> str:
    """The tag itself, if it is one."""
    if not _TAG.fullmatch(tag):
        raise InvalidArgument(f"invalid tag format: {tag!r}")
    return tag


def check_digest(digest: str) -> str:
    """The digest itself, if it is a sha256 digest."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(f"invalid digest format: {digest!r}")
    return digest


def is_digest(text: str) -> bool:
    """True for `sha256:` and 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def is_id_prefix(text: str) -> bool:
    """True for what may be (the beginning of) an image id, with or without `sha256:`."""
    return _ID_PREFIX.fullmatch(text) is not None


def is_full_id(text: str) -> bool:
    """True for a whole image id, with or without `sha256:`."""
    return _HEX64.fullmatch(text.removeprefix("sha256:")) is not None


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        domain, path = DEFAULT_DOMAIN, name
    else:
        domain, path = first, rest
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = "library/" + path
    return domain, path


def parse(text: str) -> Reference:
    """A name as users write it, in normal form. A tag next to a digest is checked and dropped.

    Raises:
        InvalidArgument: with Docker's text (`invalid reference format` and its kin, matched by clients).
    """
    if _HEX64.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise InvalidArgument("invalid reference format")
    slash, colon = name.rfind("/"), name.rfind(":")
    tag = ""
    if colon > slash:
        name, tag = name[:colon], name[colon + 1 :]
        if not _TAG.fullmatch(tag):
            raise InvalidArgument("invalid reference format")
    domain, path = _split_domain(name)
    if not _PATH.fullmatch(path):
        if _PATH.fullmatch(path.lower()) and path != path.lower():
            raise InvalidArgument("invalid reference format: repository name must be lowercase")
        raise InvalidArgument("invalid reference format")
    if not _DOMAIN.fullmatch(domain):
        raise InvalidArgument("invalid reference format")
    if len(domain) + 1 + len(path) > NAME_LENGTH_MAX:
        raise InvalidArgument(f"repository name must not be more than {NAME_LENGTH_MAX} characters")
    return Reference(domain, path, "" if digest else tag, digest)


def combine(name: str, tag: str) -> Reference:
    """A name and the separate `tag` parameter of the API, which may also be a digest; `latest` if there is none."""
    reference = parse(name)
    if not tag:
        return reference.tagged()
    return reference.with_digest(tag) if ":" in tag else reference.with_tag(tag)

"""What removing an image means: which names go, which images go, and when it is refused. Pure.

The rules and texts are Docker's (v1.24 "Remove an image" gives only the statuses): a name given while others remain is
only untagged; an id given removes all names if they are of one repository; `force` overrides soft conflicts only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from api.errors import Conflict
from base.ids import short_id
from worker.engine.images.model import Index
from worker.engine.images.names import Reference


@dataclass
class Removal:
    """The decision. Untagging comes first, then deletion, in order."""

    image: str
    untag: list[Reference] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)


def _is_id(image_id: str, text: str) -> bool:
    """True when the user wrote (the beginning of) the id itself."""
    return image_id.startswith(text) or image_id.removeprefix("sha256:").startswith(text)


def _single(references: list[Reference]) -> bool:
    """At most one tag, and every digest belongs to the tag's repository."""
    if len(references) <= 1:
        return True
    tags = [reference for reference in references if reference.tag]
    return len(tags) == 1 and len({reference.repository for reference in references}) == 1


def plan_removal(
    index: Index, text: str, named: Reference | None, *, force: bool, prune: bool, running: Callable[[str], bool]
) -> Removal:
    """Decide what `docker rmi text` does.

    Args:
        named: `text` in normal form, if it can be a name.
        prune: also remove parents that nobody names or needs.
        running: whether a container is running.

    Raises: NotFound, Conflict.
    """
    image = index.get(text)
    references = index.references_of(image)
    plan = Removal(image)
    if not _is_id(image, text) and named is not None:
        holders = sorted(index.holds.get(image, ()))
        if not force and holders and _single(references):
            raise Conflict(
                f'conflict: unable to remove repository reference "{text}" (must force) - container '
                f"{short_id(holders[0])} is using its referenced image {short_id(image)}"
            )
        plan.untag = _with_digests(named, references)
        if len(plan.untag) < len(references):
            return plan
        if index.children(image) or (not force and holders) or any(running(holder) for holder in holders):
            return plan  # the name goes, the image stays for those who need it
    else:
        _refuse(index, image, references, force, running)
        plan.untag = references
    plan.delete = _with_parents(index, image, prune)
    return plan


def _with_digests(named: Reference, references: list[Reference]) -> list[Reference]:
    """The name itself and, when it is the last tag of its repository here, the repository's digests."""
    rest = [reference for reference in references if reference != named]
    same = [reference for reference in rest if reference.repository == named.repository]
    if named.tag and not any(reference.tag for reference in same):
        return [named, *same]
    return [named]


def _refuse(index: Index, image: str, references: list[Reference], force: bool, running: Callable[[str], bool]) -> None:
    what = f"conflict: unable to delete {short_id(image)}"
    if index.children(image):
        raise Conflict(f"{what} (cannot be forced) - image has dependent child images")
    holders = sorted(index.holds.get(image, ()))
    for holder in holders:
        if running(holder):
            raise Conflict(f"{what} (cannot be forced) - image is being used by running container {short_id(holder)}")
    if force:
        return
    if not _single(references):
        raise Conflict(f"{what} (must be forced) - image is referenced in multiple repositories")
    if holders:
        raise Conflict(f"{what} (must be forced) - image is being used by stopped container {short_id(holders[0])}")


def _with_parents(index: Index, image: str, prune: bool) -> list[str]:
    """The image, and the ancestors that only it kept alive."""
    doomed = [image]
    parent = index.images[image].parent
    while prune and parent in index.images:
        if index.references_of(parent) or index.holds.get(parent):
            break
        if any(child not in doomed for child in index.children(parent)):
            break
        doomed.append(parent)
        parent = index.images[parent].parent
    return doomed

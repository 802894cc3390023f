"""Container names: the rule, and the names we give when the user gives none. Pure but for the random choice."""

from __future__ import annotations

import re
import secrets

from api.errors import InvalidArgument

NAME_RULE = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
NAME_LENGTH_MAX = 255
_NAME = re.compile(f"{NAME_RULE}+")

_ADJECTIVES_TEXT = (
    "agile amber ample apt azure balmy bold breezy brisk calm candid civil clear cosy crisp deft deep "
    "eager early easy even fair fleet fluent fond frank fresh gentle glad golden grand handy hardy hushed "
    "ideal jaunty jolly just keen kind lively loyal lucid merry mild mellow modest neat nimble noble open "
    "patient placid plucky polite prime proud quick quiet ready rosy serene sharp silver smooth snug "
    "solid spry steady still sunny swift tidy timely trusty upbeat vivid warm wise witty young zesty"
)
_ADJECTIVES = tuple(_ADJECTIVES_TEXT.split())
_SURNAMES_TEXT = (
    "abel agnesi airy ampere anning bassi bernoulli blackwell bohr boole brahe cannon carson cauchy "
    "celsius chandra clarke cori crick daly darcy dirac ekman erdos euler fermat fisher fleming fourier "
    "frege galois gauss germain gibbs goeppert haber hadamard halley hamilton hertz hilbert hooke hubble "
    "humboldt huygens jemison joule kepler klein kowalevski kovacs lagrange laplace leavitt leibniz "
    "linnaeus lyell maxwell mayer meitner mendel mitchell nansen nernst noether ohm ostrom pauli peano "
    "planck poincare ramanujan rayleigh riemann roentgen sagan somerville stokes tesla tharp turing vera "
    "volta wallis weyl wu yalow"
)
_SURNAMES = tuple(_SURNAMES_TEXT.split())


def check_name(name: str) -> str:
    """The name without its optional leading slash. Raises InvalidArgument."""
    bare = name.removeprefix("/")
    if not _NAME.fullmatch(bare) or len(bare) > NAME_LENGTH_MAX:
        raise InvalidArgument(f"Invalid container name ({name}), only {NAME_RULE} are allowed")
    return bare


def random_name(attempt: int = 0) -> str:
    """`adjective_surname`; from the third attempt on with a number, so that some attempt is free."""
    name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_SURNAMES)}"
    return name if attempt < 2 else f"{name}{secrets.randbelow(10 ** min(attempt, 9))}"

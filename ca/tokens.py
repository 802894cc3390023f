"""Join tokens: `SWMTKN-1-<digest of the root certificate>-<secret>` (v1.24 "Initialize a new swarm").

The digest lets a joiner recognise the cluster before it trusts anything; the secret never travels (see
`ca.certificates.join_authority`). Both tokens of a cluster share the digest and differ in the secret.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from api.errors import InvalidArgument
from api.types.objects import JoinTokens
from base.ids import base36, swarm_id
from base.logs import Secret

DIGEST_LENGTH = 50
SECRET_LENGTH = 25

_TOKEN = re.compile(rf"SWMTKN-1-([0-9a-z]{{{DIGEST_LENGTH}}})-([0-9a-z]{{{SECRET_LENGTH}}})")


@dataclass(frozen=True)
class Token:
    """A join token, taken apart."""

    digest: str
    secret: Secret


def parse_token(text: str) -> Token:
    """Take a token apart. Raises InvalidArgument (which never repeats the token)."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument("invalid join token")
    return Token(digest=match.group(1), secret=Secret(match.group(2)))


def root_digest(root_pem: bytes) -> str:
    """SHA-256 of the root certificate's DER form, in base 36."""
    der = x509.load_pem_x509_certificate(root_pem).public_bytes(Encoding.DER)
    return base36(int.from_bytes(hashlib.sha256(der).digest(), "big"), DIGEST_LENGTH)


def new_token(root_pem: bytes) -> Secret:
    """A token with a fresh 128-bit secret."""
    return Secret(f"SWMTKN-1-{root_digest(root_pem)}-{swarm_id()}")


def new_tokens(root_pem: bytes) -> JoinTokens:
    """Worker and manager token of a new cluster. Rotation replaces one field by `new_token`."""
    return JoinTokens(worker=new_token(root_pem), manager=new_token(root_pem))

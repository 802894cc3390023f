"""Certificates signed by an external CA that speaks CloudFlare's cfssl protocol (v1.24 section 3.8, `ExternalCA`).

POST of `{"certificate_request", "subject", "hosts", "profile"?}` to the URL as it was configured; the answer is
`{"success": true, "result": {"certificate"}}`. The CA must sign with the swarm's root. What it returns is believed only
if it is what was asked for: our root's signature, the node's key, and the names that decide who may do what.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from api.errors import Unavailable
from api.types.swarm import ExternalCA
from ca.certificates import ROLE_PREFIX

log = logging.getLogger(__name__)

ASK_S = 5.0
ANSWER_BYTES_MAX = 64 * 1024


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    certificate: str = ""


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = False
    result: _Result | None = None
    errors: list[Any] = []


async def sign(
    authorities: Sequence[ExternalCA], csr_pem: bytes, *, node_id: str, role: str, cluster_id: str, root_pem: bytes
) -> bytes:
    """A node's certificate, PEM, from the first of the CAs that gives a right one.

    Raises Unavailable, naming the last CA and what was wrong with its answer.
    """
    unit = ROLE_PREFIX + role
    request: dict[str, Any] = {
        "certificate_request": csr_pem.decode(),
        "subject": {"CN": node_id, "names": [{"OU": unit, "O": cluster_id}]},
        "hosts": [node_id, unit],
    }
    last = "none is configured"
    for authority in authorities:
        profile = {"profile": authority.options["profile"]} if "profile" in authority.options else {}
        try:
            pem = await _ask(authority.url, request | profile)
            _check(pem, csr_pem, [node_id, unit, cluster_id], root_pem)
            return pem
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError, ValueError) as error:
            last = f"{authority.url}: {str(error) or type(error).__name__}"
            log.warning("external CA failed %s", last)
    raise Unavailable(f"no external CA signed the node's certificate: {last}")


async def _ask(url: str, request: dict[str, Any]) -> bytes:
    async with asyncio.timeout(ASK_S), aiohttp.ClientSession() as session, session.post(url, json=request) as response:
        body = await response.content.read(ANSWER_BYTES_MAX)
    answer = msgspec.json.decode(body, type=_Answer)
    if not answer.success or answer.result is None:
        raise ValueError(f"refused with status {response.status}: {answer.errors}")
    return answer.result.certificate.encode()


def _check(pem: bytes, csr_pem: bytes, names: Sequence[str], root_pem: bytes) -> None:
    """Raises ValueError."""
    certificate, request = x509.load_pem_x509_certificate(pem), x509.load_pem_x509_csr(csr_pem)
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root_pem))
    except (InvalidSignature, TypeError, ValueError):
        raise ValueError("the certificate is not signed by the swarm's root") from None
    if _key(certificate) != _key(request):
        raise ValueError("the certificate is for another key")
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME)
    found = [str(value.value) for oid in oids for value in certificate.subject.get_attributes_for_oid(oid)]
    if found != list(names):
        raise ValueError(f"the certificate is for {found}, not for {list(names)}")
    constraints = [each.value for each in certificate.extensions if isinstance(each.value, x509.BasicConstraints)]
    if any(each.ca for each in constraints):
        raise ValueError("the certificate is an authority's")
    hosts = [
        name
        for each in certificate.extensions
        if isinstance(each.value, x509.SubjectAlternativeName)
        for name in each.value.get_values_for_type(x509.DNSName)
    ]
    if sorted(hosts) != sorted(names[:2]):
        raise ValueError("the certificate has other host names than the node's id and role")


def _key(bearer: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return bearer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

"""Certificates of registries, where Docker keeps them: `/etc/docker/certs.d/HOST[:PORT]/`.

`*.crt` are authorities to trust beside the system's own, `NAME.cert` with `NAME.key` is what we show a registry that
asks who we are. They are read anew for every session, so a new file needs no restart. Blocking.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from api.errors import InvalidArgument

DIRECTORY = Path("/etc/docker/certs.d")


def tls_context(directory: Path, *, verify: bool) -> ssl.SSLContext | bool:
    """How to speak TLS with the registry whose files these are; `verify` itself, which stands for the system's own
    ways or for none, when there are none.

    Raises InvalidArgument naming the file that is missing or can't be used.
    """
    try:
        files = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return verify
    except OSError as error:
        raise InvalidArgument(f"could not read {directory}: {error.strerror}") from error
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for file in files:
        try:
            _add(context, file)
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgument(f"could not load X509 key pair or authority {file}: {error}") from error
    return context


def _add(context: ssl.SSLContext, file: Path) -> None:
    if file.suffix == ".crt":
        context.load_verify_locations(file)
    elif file.suffix == ".cert":
        key = file.with_suffix(".key")
        if not key.exists():
            raise InvalidArgument(
                f"missing key {key.name} for client certificate {file.name}. CA certificates must use the extension "
                ".crt"
            )
        context.load_cert_chain(file, key)
    elif file.suffix == ".key" and not file.with_suffix(".cert").exists():
        raise InvalidArgument(f"missing client certificate {file.with_suffix('.cert').name} for key {file.name}")

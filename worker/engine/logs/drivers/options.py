"""Log drivers and their options, checked when a container is created, with dockerd's texts. Looks at no network.

Every driver but `none` writes Docker's json-file form. For one that sends lines elsewhere that file is what is sent
from, and what `docker logs` reads unless `cache-disabled` says no.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from api.errors import InvalidArgument
from api.types.container import LogConfig

REMOTE = ("syslog", "gelf", "fluentd", "journald")
"""Drivers that send lines elsewhere."""
DRIVERS = ("json-file", "none", *REMOTE)
SPOOL_FILES, SPOOL_BYTES = 5, 20 * 1024 * 1024
"""What is kept of a remote driver's lines until they are sent, by default; dockerd's size of its cache."""

_DETAILS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_GENERAL = frozenset(
    {"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
)
_OWN: dict[str, frozenset[str]] = {
    "json-file": _DETAILS | {"max-size", "max-file"},
    "syslog": _DETAILS | {"syslog-address", "syslog-facility", "syslog-format"},
    "gelf": _DETAILS
    | {
        "gelf-address",
        "gelf-compression-type",
        "gelf-compression-level",
        "gelf-tcp-max-reconnect",
        "gelf-tcp-reconnect-delay",
    },
    "fluentd": _DETAILS
    | {
        "fluentd-address",
        "fluentd-async",
        "fluentd-async-connect",
        "fluentd-buffer-limit",
        "fluentd-max-retries",
        "fluentd-request-ack",
        "fluentd-retry-wait",
        "fluentd-sub-second-precision",
    },
    "journald": _DETAILS,
}
_TRANSPORTS = ("tcp", "tcp+tls", "udp", "unix", "unixgram")
_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+|0")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NAMED = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
FACILITIES = {name: number for number, name in enumerate(_NAMED)} | {f"local{n}": 16 + n for n in range(8)}
SYSLOG_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")


def log_config(wanted: LogConfig, default: LogConfig | None = None) -> LogConfig:
    """With the default driver filled in, and its options where `wanted` names the same driver and gives none of the
    name. Raises InvalidArgument for a driver or option we do not have."""
    kind = wanted.type or (default.type if default is not None else "") or "json-file"
    options = dict(wanted.config or {})
    if default is not None and default.type == kind:
        options = {**(default.config or {}), **options}
    if kind not in DRIVERS:
        raise InvalidArgument(f"logger: no log driver named '{kind}' is registered")
    if kind != "none":
        _general(options)
        own = {name: value for name, value in options.items() if name not in _GENERAL}
        for name in own:
            if name not in _OWN[kind]:
                quoted = f'"{name}"' if kind == "gelf" else f"'{name}'"
                raise InvalidArgument(f"unknown log opt {quoted} for {kind} log driver")
        _CHECKS[kind](own)
    return LogConfig(type=kind, config=options)


def _general(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        _size("error parsing option max-buffer-size: ", options["max-buffer-size"])
    disabled = options.get("cache-disabled", "0")
    if disabled not in _TRUE + _FALSE:
        raise InvalidArgument(f"invalid value for option cache-disabled: {disabled}")
    log_limits(options, cache=True)


def readable(config: LogConfig) -> bool:
    """Whether `docker logs` may read it."""
    if config.type == "none":
        return False
    return config.type not in REMOTE or (config.config or {}).get("cache-disabled", "0") in _FALSE


def log_limits(options: Mapping[str, str], *, cache: bool = False) -> tuple[int, int]:
    """(`max-size` in bytes, 0 for no rotation; `max-file`), or those of the cache that a remote driver sends from.
    Raises InvalidArgument."""
    prefix = "cache-" if cache else ""
    size = options.get(f"{prefix}max-size", "")
    largest = SPOOL_BYTES if cache else 0
    if size and size != "-1":
        match = _SIZE.fullmatch(size)
        if match is None or int(match[1]) == 0:
            raise InvalidArgument(f"invalid value for {prefix}max-size: {size!r}")
        largest = _bytes(match)
    files = options.get(f"{prefix}max-file", str(SPOOL_FILES) if cache else "1")
    if not files.isdecimal() or int(files) < 1:
        raise InvalidArgument(f"{prefix}max-file cannot be less than 1")
    if int(files) > 1 and not largest:
        raise InvalidArgument("max-file is only for use with max-size")
    return largest, int(files)


def log_file_limits(config: LogConfig) -> tuple[int, int]:
    """How the file of this configuration rotates: (bytes, files)."""
    return log_limits(config.config or {}, cache=config.type in REMOTE)


def _bytes(match: re.Match[str]) -> int:
    return int(match[1]) * int(1024 ** " kmgt".index(match[2].lower() or " "))


def _size(prefix: str, text: str) -> None:
    if _SIZE.fullmatch(text) is None:
        raise InvalidArgument(f"{prefix}invalid size: '{text}'")


def truth(options: Mapping[str, str], name: str) -> bool:
    """A boolean option, false when absent. Raises InvalidArgument."""
    text = options.get(name, "")
    if text and text not in _TRUE + _FALSE:
        raise InvalidArgument(f'{name}: strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def seconds(options: Mapping[str, str], name: str, default_s: float) -> float:
    """A duration in Go's form. Raises InvalidArgument."""
    text = options.get(name, "")
    if not text:
        return default_s
    if _DURATION.fullmatch(text) is None:
        raise InvalidArgument(f'{name}: time: invalid duration "{text}"')
    return sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(r"([\d.]+)(ns|us|ms|s|m|h)", text))


def _details(options: Mapping[str, str]) -> None:
    for name in ("labels-regex", "env-regex"):
        try:
            re.compile(options.get(name, ""))
        except re.error as error:
            raise InvalidArgument(f"{name}: {options[name]!r} is no regular expression: {error}") from None


# --- one driver each -------------------------------------------------------------------------------------------------


def _json_file(options: Mapping[str, str]) -> None:
    _details(options)
    log_limits(options)


def _transport(name: str, address: str) -> SplitResult:
    parts = urlsplit(address)
    if parts.scheme not in _TRANSPORTS or "://" not in address:
        raise InvalidArgument(f"{name} should be in form proto://address, got {address}")
    try:
        _ = parts.port
    except ValueError as error:
        raise InvalidArgument(f"{name}: {address}: {error}") from None
    return parts


def syslog_address(options: Mapping[str, str]) -> tuple[str, str, int]:
    """(transport, host or path, port); transport "" is the host's own syslog. Raises InvalidArgument."""
    address = options.get("syslog-address", "")
    if not address:
        return "", "", 0
    parts = _transport("syslog-address", address)
    if parts.scheme == "tcp+tls":
        raise InvalidArgument("syslog-address: tcp+tls is not supported; send to a local relay that speaks TLS")
    if parts.scheme in ("unix", "unixgram"):
        return parts.scheme, parts.path, 0
    return parts.scheme, parts.hostname or "localhost", parts.port or 514


def syslog_facility(options: Mapping[str, str]) -> int:
    """By name or number; daemon by default. Raises InvalidArgument."""
    text = options.get("syslog-facility", "") or "daemon"
    if text in FACILITIES:
        return FACILITIES[text]
    if text.isdecimal() and int(text) <= max(FACILITIES.values()):
        return int(text)
    raise InvalidArgument("invalid syslog facility")


def _syslog(options: Mapping[str, str]) -> None:
    _details(options)
    transport, path, _ = syslog_address(options)
    if transport.startswith("unix") and not os.path.exists(path):
        raise InvalidArgument(f"syslog-address: stat {path}: no such file or directory")
    syslog_facility(options)
    if options.get("syslog-format", "") not in SYSLOG_FORMATS:
        raise InvalidArgument("Invalid syslog format")


def gelf_address(options: Mapping[str, str]) -> tuple[str, str, int]:
    """(`udp` or `tcp`, host, port). Raises InvalidArgument."""
    address = options.get("gelf-address", "")
    if not address:
        raise InvalidArgument("gelf-address is a required parameter")
    parts = _transport("gelf-address", address)
    if parts.scheme not in ("udp", "tcp"):
        raise InvalidArgument("gelf: endpoint needs to be TCP or UDP")
    if not parts.hostname or not parts.port:
        raise InvalidArgument("gelf: please provide gelf-address as proto://host:port")
    return parts.scheme, parts.hostname, parts.port


def _gelf(options: Mapping[str, str]) -> None:
    _details(options)
    scheme, _, _ = gelf_address(options)
    level, kind = options.get("gelf-compression-level"), options.get("gelf-compression-type")
    if scheme == "tcp" and (level is not None or kind is not None):
        raise InvalidArgument("compression is only supported on UDP")
    if level is not None and not re.fullmatch(r"-1|[0-9]", level):
        raise InvalidArgument(f'unknown value "{level}" for log opt "gelf-compression-level" for gelf log driver')
    if kind is not None and kind not in ("gzip", "zlib", "none"):
        raise InvalidArgument(f'unknown value "{kind}" for log opt "gelf-compression-type" for gelf log driver')
    for name in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
        if name in options:
            if scheme == "udp":
                raise InvalidArgument(f'"{name}" is only valid for TCP')
            if not options[name].isdecimal():
                raise InvalidArgument(f'"{name}" must be a positive integer')


def fluentd_address(options: Mapping[str, str]) -> tuple[str, str, int]:
    """(`tcp` or `unix`, host or path, port). Raises InvalidArgument."""
    address = options.get("fluentd-address", "")
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "tcp", address
    if scheme == "unix":
        if not rest.startswith("/"):
            raise InvalidArgument(f"invalid fluentd-address {address}: path is empty")
        return "unix", rest, 0
    if scheme != "tcp":
        raise InvalidArgument(f"unsupported scheme {scheme} in fluentd-address {address}")
    host, _, port = rest.rpartition(":") if ":" in rest else (rest, "", "24224")
    if not port.isdecimal() or int(port) > 65535:
        raise InvalidArgument(f'invalid fluentd-address {address}: strconv.Atoi: parsing "{port}": invalid syntax')
    return "tcp", host or "127.0.0.1", int(port)


def _fluentd(options: Mapping[str, str]) -> None:
    _details(options)
    fluentd_address(options)
    for name in ("fluentd-async", "fluentd-async-connect", "fluentd-request-ack", "fluentd-sub-second-precision"):
        truth(options, name)
    if {"fluentd-async", "fluentd-async-connect"} <= options.keys():
        raise InvalidArgument(
            "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect"  # sic
        )
    if "fluentd-buffer-limit" in options:
        _size("fluentd-buffer-limit: ", options["fluentd-buffer-limit"])
    seconds(options, "fluentd-retry-wait", 1.0)
    retries = options.get("fluentd-max-retries", "0")
    if not retries.isdecimal():
        raise InvalidArgument(f'fluentd-max-retries: strconv.ParseUint: parsing "{retries}": invalid syntax')


_CHECKS = {"json-file": _json_file, "syslog": _syslog, "gelf": _gelf, "fluentd": _fluentd, "journald": _details}

"""`HostConfig.SecurityOpt`: what it asks for, as values. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from api.errors import InvalidArgument

_TRUE = ("", "true", "1")
_RULE_KEYS = ("names", "action", "args", "errnoRet")


@dataclass(frozen=True)
class Security:
    no_new_privileges: bool = False
    seccomp: str | Mapping[str, Any] = "default"
    """`default`, `unconfined`, or a profile in Docker's form."""


def check_security(options: Sequence[str]) -> Security:
    """Raises InvalidArgument for an option that is unknown or malformed. Labels (SELinux) and AppArmor have no
    effect on machines without them, as with Docker."""
    no_new_privileges = False
    seccomp: str | Mapping[str, Any] = "default"
    for option in options:
        name, _, value = option.partition("=") if "=" in option else option.partition(":")
        if name == "no-new-privileges" and value in (*_TRUE, "false", "0"):
            no_new_privileges = value in _TRUE
        elif name == "seccomp" and value:
            seccomp = value if value in ("unconfined", "default") else _profile(value)
        elif name in ("label", "apparmor") and value:
            continue
        else:
            number = 2 if "=" in option or ":" in option else 1
            raise InvalidArgument(f'invalid --security-opt {number}: "{option}"')
    return Security(no_new_privileges, seccomp)


def _profile(text: str) -> Mapping[str, Any]:
    try:
        profile = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"opening seccomp profile failed: {error}") from None
    if "defaultAction" not in profile:
        raise InvalidArgument("opening seccomp profile failed: defaultAction is missing")
    return profile


def oci_seccomp(profile: str | Mapping[str, Any], capabilities: Collection[str]) -> str | Mapping[str, Any]:
    """A profile in Docker's form as the OCI object: rules whose `includes`/`excludes` fit these capabilities."""
    if isinstance(profile, str):
        return profile
    rules = [rule for rule in profile.get("syscalls") or [] if _applies(rule, capabilities)]
    result: dict[str, Any] = {"defaultAction": profile["defaultAction"], "syscalls": [_rule(rule) for rule in rules]}
    if "defaultErrnoRet" in profile:
        result["defaultErrnoRet"] = profile["defaultErrnoRet"]
    if profile.get("architectures"):
        result["architectures"] = profile["architectures"]
    return result


def _applies(rule: Mapping[str, Any], capabilities: Collection[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    arches = includes.get("arches") or ["amd64"]
    return (
        all(name in capabilities for name in includes.get("caps") or [])
        and not any(name in capabilities for name in excludes.get("caps") or [])
        and "amd64" in arches
        and "amd64" not in (excludes.get("arches") or [])
    )


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    result = {key: rule[key] for key in _RULE_KEYS if rule.get(key)}
    if "name" in rule:
        result["names"] = [rule["name"]]
    return result

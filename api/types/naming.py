"""Docker's casing for JSON keys, from Python's names. One function, used by every struct of the API."""

from __future__ import annotations

_WORDS = {
    "id": "ID",
    "ids": "IDs",
    "ip": "IP",
    "ips": "IPs",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "ipam": "IPAM",
    "url": "URL",
    "cpus": "CPUs",
    "uts": "UTS",
    "pid": "PID",
    "ca": "CA",
    "cas": "CAs",
    "dns": "DNS",
    "tls": "TLS",
    "os": "OS",
    "kv": "KV",
}


def docker_name(name: str) -> str:
    """`nano_cpus` -> `NanoCPUs`, `ip_address` -> `IPAddress`. Fields that Docker spells otherwise say so themselves."""
    return "".join(_WORDS.get(word, word[:1].upper() + word[1:]) for word in name.split("_") if word)

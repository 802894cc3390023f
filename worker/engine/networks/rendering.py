"""Writes a sandbox's hosts, hostname and resolv.conf. In place: the files are bind-mounted into containers."""

from __future__ import annotations

from pathlib import Path

from worker.engine.networks import files
from worker.engine.networks.config import NetworkConfig
from worker.engine.networks.names import NameTable
from worker.engine.networks.planning import CONTAINER, HOST, gateway_endpoint
from worker.engine.networks.records import GATEWAY_NETWORK, SandboxRecord


def write_files(record: SandboxRecord, config: NetworkConfig, names: NameTable) -> None:
    """All three; a container that shares another's files has none of its own. Raises OSError."""
    if record.files_of:
        return
    directory = Path(record.directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_hosts(record, config, names)
    (directory / "hostname").write_text(record.hostname + "\n")
    (directory / "resolv.conf").write_text(resolver_text(record, config))


def write_hosts(record: SandboxRecord, config: NetworkConfig, names: NameTable) -> None:
    """Addresses change with connect and disconnect."""
    if record.files_of:
        return
    first = gateway_endpoint(record.endpoints)
    extra = [files.parse_extra_host(text, first.gateway if first else "127.0.0.1") for text in record.extra_hosts]
    if record.mode in (HOST, CONTAINER):
        text = _read(config.hosts) or files.hosts_text(())
        text += "" if text.endswith("\n") else "\n"
        text += "".join(f"{address}\t{name}\n" for address, name in extra)
    else:
        own = files.own_names(record.hostname, record.domainname)
        text = files.hosts_text(
            [
                *extra,
                *names.linked(record.endpoints),
                *(
                    (made.address, own)
                    for made in record.endpoints
                    if made.address and (made.network_name != GATEWAY_NETWORK or len(record.endpoints) == 1)
                ),
            ]
        )
    (Path(record.directory) / "hosts").write_text(text)


def resolver_text(record: SandboxRecord, config: NetworkConfig) -> str:
    """The host's resolv.conf as it is for host mode without options; else what the container can use."""
    host_text = _read(config.resolv_conf)
    asked = record.dns or record.dns_search or record.dns_options
    if record.mode in (HOST, CONTAINER) and not asked:
        return host_text
    return files.container_resolver(
        files.parse_resolv_conf(host_text),
        dns=record.dns or config.dns,
        search=record.dns_search,
        options=record.dns_options,
        embedded=record.embedded_dns,
    ).text()


def upstreams(record: SandboxRecord, config: NetworkConfig) -> tuple[str, ...]:
    """Where the embedded DNS asks on behalf of this container. It asks from the host's namespace, so the host's own
    loopback servers will do."""
    host = files.parse_resolv_conf(_read(config.resolv_conf))
    return record.dns or config.dns or host.servers or files.FALLBACK_SERVERS


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

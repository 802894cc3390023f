"""The host configuration: checked field by field, with Docker's defaults filled in. Pure (v1.24 HostConfig).

What this engine does not offer is refused by the field's name; what the machine can't keep is warned of.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import msgspec

from api.errors import InvalidArgument
from api.types.container import DEFAULT_SHM_BYTES, HostConfig, LogConfig, Resources
from api.types.endpoint import PortBinding
from worker.engine.containers.config import parse_port
from worker.engine.containers.links import parse_link
from worker.engine.containers.restart import check_policy
from worker.engine.containers.security import check_security
from worker.engine.logs.drivers.options import log_config
from worker.engine.runtime import capabilities

NO_KERNEL_MEMORY = "Your kernel does not support kernel memory limit capabilities. Limitation discarded."
MEMORY_BYTES_MIN = 6 * 1024 * 1024
"""Less does not start a process reliably; dockerd's floor."""
CPU_PERIOD_US = (1000, 1_000_000)
CPU_QUOTA_US_MIN = 1000
RUNTIMES = ("", "crun", "runc", "default")
_PORT_RANGE = re.compile(r"(?:\d{1,5}(?:-\d{1,5})?)?")
_NET_SYSCTLS = ("net.",)
_IPC_SYSCTLS = (
    "fs.mqueue.",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)


def normalise(
    host: HostConfig,
    online_cpus: Collection[int],
    memory_nodes: Collection[int] = (0,),
    log_default: LogConfig | None = None,
) -> tuple[HostConfig, list[str]]:
    """The host configuration as kept, and warnings. Raises InvalidArgument naming the field.

    `log_default`: the daemon's log driver.
    """
    warnings: list[str] = []
    resources_ok(host, online_cpus, warnings, memory_nodes)
    _refused(host)
    check_policy(host.restart_policy)
    check_security(host.security_opt or [])
    capabilities.choose(add=host.cap_add or [], drop=host.cap_drop or [])
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    _modes(host)
    _sysctls(host)
    if host.cgroup:
        warnings.append("HostConfig.Cgroup has no effect. Use CgroupParent.")
    changed = msgspec.structs.replace(
        host,
        network_mode=host.network_mode or "default",
        ipc_mode=host.ipc_mode or "shareable",
        shm_size=host.shm_size or DEFAULT_SHM_BYTES,
        log_config=log_config(host.log_config, log_default),
        port_bindings=port_bindings(host.port_bindings or {}),
        devices=host.devices or [],
        memory_swap=host.memory * 2 if host.memory > 0 and host.memory_swap == 0 else host.memory_swap,
        memory_swappiness=None if host.memory_swappiness == -1 else host.memory_swappiness,
        kernel_memory=0,
        auto_remove=False,
    )
    return changed, warnings


def resources_ok(
    limits: Resources, online_cpus: Collection[int], warnings: list[str], memory_nodes: Collection[int] = (0,)
) -> None:
    """Raises InvalidArgument with Docker's texts for limits that can't be; adds warnings."""
    _memory(limits, warnings)
    low, high = CPU_PERIOD_US
    if limits.cpu_period != 0 and not low <= limits.cpu_period <= high:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < limits.cpu_quota < CPU_QUOTA_US_MIN:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if limits.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({limits.cpu_shares}): value must be a positive integer")
    _cpuset(limits.cpuset_cpus, "cpus", online_cpus)
    _cpuset(limits.cpuset_mems, "mems", memory_nodes)
    if limits.blkio_weight != 0 and not 10 <= limits.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for name, devices in throttled(limits).items():
        for path, rate in devices:
            if not path.startswith("/") or rate <= 0:
                raise InvalidArgument(f"Blkio limit ({name}): {path!r} with {rate} is no device with a limit above 0")
    if limits.cpu_percent or limits.io_maximum_bandwidth or limits.io_maximum_iops:
        warnings.append("CpuPercent, IOMaximumBandwidth and IOMaximumIOps are for Windows daemons only. Discarded.")
    for ulimit in limits.ulimits or []:
        if ulimit.hard != -1 and (ulimit.soft > ulimit.hard or ulimit.soft == -1):
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
            )


def throttled(limits: Resources) -> dict[str, list[tuple[str, int]]]:
    """OCI's name of each list of block device limits -> (device path, limit). Raises InvalidArgument."""
    rates = {
        "throttleReadBpsDevice": limits.blkio_device_read_bps,
        "throttleWriteBpsDevice": limits.blkio_device_write_bps,
        "throttleReadIOPSDevice": limits.blkio_device_read_iops,
        "throttleWriteIOPSDevice": limits.blkio_device_write_iops,
    }
    found = {name: [(each.path, _rate(each.rate)) for each in devices or []] for name, devices in rates.items()}
    found["weightDevice"] = [(each.path, each.weight) for each in limits.blkio_weight_device or []]
    return {name: devices for name, devices in found.items() if devices}


def _rate(value: int | str) -> int:
    """A number, or one written as text."""
    if isinstance(value, str) and not value.isdecimal():
        raise InvalidArgument(f"Rate: {value!r} is no number")
    return int(value)


def _memory(limits: Resources, warnings: list[str]) -> None:
    memory, swap, reservation = limits.memory, limits.memory_swap, limits.memory_reservation
    if memory != 0 and memory < MEMORY_BYTES_MIN:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory > 0 and 0 < swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory == 0 and swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if swap < -1:
        raise InvalidArgument(f"invalid MemorySwap: {swap}: it is -1, 0 or larger than Memory")
    if reservation != 0 and reservation < MEMORY_BYTES_MIN:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if limits.memory_swappiness is not None and not -1 <= limits.memory_swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {limits.memory_swappiness}, valid memory swappiness range is 0-100")
    if limits.kernel_memory:
        warnings.append(NO_KERNEL_MEMORY)
    if limits.oom_kill_disable and memory == 0:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the "
            "system running out of resources."
        )


def parse_cpuset(text: str, field: str) -> set[int]:
    """`0-2,5` as numbers. Raises InvalidArgument."""
    found: set[int] = set()
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InvalidArgument(f"Invalid value {text} for cpuset {field}: invalid format: {part}")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


_CPUSET_WORDS = {"cpus": "CPUs", "mems": "memory nodes"}


def _ranges(numbers: Collection[int]) -> str:
    """`0-3,8` for the numbers 0, 1, 2, 3 and 8."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _cpuset(text: str, field: str, available: Collection[int]) -> None:
    if not parse_cpuset(text, field) <= set(available):
        raise InvalidArgument(
            f"Requested {_CPUSET_WORDS[field]} are not available - requested {text}, available: {_ranges(available)}"
        )


def _refused(host: HostConfig) -> None:
    for link in host.links or []:
        parse_link(link)
    for name in host.storage_opt or {}:
        if name.lower() != "size":
            raise InvalidArgument(f"Unknown option {name}")
        raise InvalidArgument("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f"Invalid isolation: \"{host.isolation}\" - linux only supports 'default'")
    if host.runtime not in RUNTIMES:
        raise InvalidArgument(f"Unknown runtime specified {host.runtime}")
    if host.userns_mode not in ("", "host"):
        raise InvalidArgument("invalid user namespace mode: " + host.userns_mode)


def _modes(host: HostConfig) -> None:
    for field, mode, words in (
        ("PID", host.pid_mode, ("", "host")),
        ("IPC", host.ipc_mode, ("", "host", "private", "shareable")),
    ):
        if mode not in words and not re.fullmatch(r"container:.+", mode):
            raise InvalidArgument(f"invalid {field} mode: {mode}")
    if host.uts_mode not in ("", "host"):
        raise InvalidArgument(f"invalid UTS mode: {host.uts_mode}")
    if host.network_mode == "container:":
        raise InvalidArgument("invalid container format container:<name|id>")


def _sysctls(host: HostConfig) -> None:
    for name in host.sysctls or {}:
        if name.startswith(_NET_SYSCTLS):
            if host.network_mode == "host":
                raise InvalidArgument(f"sysctl '{name}' is not allowed in the host's network namespace")
        elif name.startswith(_IPC_SYSCTLS):
            if host.ipc_mode == "host":
                raise InvalidArgument(f"sysctl '{name}' is not allowed in the host's ipc namespace")
        else:
            raise InvalidArgument(f"sysctl '{name}' is not whitelisted")


def port_bindings(wanted: dict[str, list[PortBinding] | None]) -> dict[str, list[PortBinding] | None]:
    """Keys as `port/protocol`. Raises InvalidArgument for a port that can't be."""
    result: dict[str, list[PortBinding] | None] = {}
    for key, bindings in wanted.items():
        for port in parse_port(key):
            for binding in bindings or []:
                _host_port(binding)
            result[port] = [*(result.get(port) or []), *(bindings or [])]
    return result


def _host_port(binding: PortBinding) -> None:
    text = binding.host_port
    numbers = [int(part) for part in text.split("-") if part.isdecimal()]
    if not _PORT_RANGE.fullmatch(text) or any(number > 65535 for number in numbers) or numbers != sorted(numbers):
        raise InvalidArgument(f'invalid port specification: "{text}"')


def exposed_and_bound(exposed: Sequence[str], bound: dict[str, list[PortBinding] | None]) -> list[str]:
    """Every `port/protocol` a container offers, sorted by number."""
    return sorted({*exposed, *bound}, key=lambda port: (int(port.partition("/")[0]), port))

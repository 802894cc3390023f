"""The host's description."""

import os

from worker.agent.description import describe, memory_bytes


def test_memory_is_read_in_bytes() -> None:
    assert memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n") == 16384 * 1024
    assert memory_bytes("") == 0


def test_a_host_has_cpus_memory_and_its_labels() -> None:
    node = describe("1.0", {"a": "b"}, [("Volume", "local"), ("Network", "bridge")])
    assert node.nano_cpus == len(os.sched_getaffinity(0)) * 1_000_000_000
    assert node.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert node.hostname == os.uname().nodename
    assert node.engine.plugins == [("Network", "bridge"), ("Volume", "local")]

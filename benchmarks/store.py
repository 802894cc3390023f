"""Snapshot and restore of a store full of small tasks, and what an object costs in memory. No Raft, no disk.

Times are of the wall and of the processor: on a busy machine only the second is the store's own.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from pathlib import Path

from benchmarks.results import keep
from benchmarks.scheduler import filled
from manager.store.memory import Memory


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def restored(data: bytes) -> tuple[int, float, float, int]:
    """In a process of its own: objects, seconds of the wall and of the processor, and bytes of memory."""
    before, wall, processor = resident(), time.perf_counter(), time.process_time()
    memory = Memory()
    memory.restore(1, data)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return sum(len(rows.by_id) for rows in memory.rows.values()), wall, processor, resident() - before


def run(objects: int) -> None:
    """Measure, print, keep."""
    nodes = 1_000
    source = filled(nodes, objects - nodes)
    wall, processor = time.perf_counter(), time.process_time()
    data = source.snapshot()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        count, restore_wall, restore_processor, memory = pool.apply(restored, (data,))
    assert count == objects
    figures: dict[str, object] = {
        "objects": objects,
        "snapshot_s": round(wall, 3),
        "snapshot_processor_s": round(processor, 3),
        "restore_s": round(restore_wall, 3),
        "restore_processor_s": round(restore_processor, 3),
        "snapshot_bytes_per_object": round(len(data) / objects),
        "memory_bytes_per_object": round(memory / objects),
    }
    for name, value in figures.items():
        print(f"{name:<28} {value}")
    print(f"kept in {keep('store', figures)}")

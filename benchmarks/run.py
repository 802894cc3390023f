#!/usr/bin/env python3
"""The front door of the benchmarks: `benchmarks/run.py start` (as root, after script/bootstrap --test).

Each benchmark prints a table and leaves its figures, with the machine's facts and the commit, in benchmarks/results/.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"


def main() -> int:
    """Choose and run one benchmark."""
    parser = argparse.ArgumentParser(description="Benchmarks of Shoal beside a real dockerd.")
    commands = parser.add_subparsers(required=True, dest="what")
    start = commands.add_parser("start", help="docker run --rm busybox true, and a service of 50 replicas")
    start.add_argument("--runs", type=int, default=30, help="docker run per engine (default 30)")
    start.add_argument("--replicas", type=int, default=50, help="tasks of the service (default 50; 0: leave it out)")
    scheduler = commands.add_parser("scheduler", help="place backlogs of tasks, with the store and without Raft")
    scheduler.add_argument("--nodes", type=int, default=1_000)
    scheduler.add_argument("--tasks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    failover = commands.add_parser("failover", help="from the death of the leader to the next write")
    failover.add_argument("--runs", type=int, default=10, help="deaths per engine (default 10)")
    failover.add_argument("--engines", nargs="+", choices=["shoald", "dockerd"], default=["shoald", "dockerd"])
    engine = commands.add_parser("engine", help="exec, containers, lists, logs, copies, memory, restart of one host")
    engine.add_argument("--quick", action="store_true", help="a fifth of the work")
    network = commands.add_parser("network", help="swarm networks: between hosts, one update among many, to every node")
    network.add_argument("--turns", type=int, default=7, help="transfers of each kind (default 7)")
    network.add_argument("--reach", type=int, default=10, help="services to wait for (default 10)")
    simulated = commands.add_parser("simulated", help="a service on simulated nodes, by a real manager over gRPC")
    simulated.add_argument("--nodes", type=int, default=100)
    simulated.add_argument("--tasks", type=int, default=1_000)
    simulated.add_argument("--services", type=int, default=1, help="that share the tasks (default 1)")
    simulated.add_argument("--rest", type=float, default=10, help="seconds of watching it at rest (default 10)")
    images = commands.add_parser("images", help="load, save, push, pull, removal, builds, memory of a large pull")
    images.add_argument("--turns", type=int, default=5, help="of each engine (default 5; builds twice as many)")
    images.add_argument("--size", type=int, default=200, help="megabytes of the image and the context (default 200)")
    images.add_argument("--memory", type=int, default=2000, help="megabytes of the large pull (default 2000; 0: none)")
    commits = commands.add_parser("commits", help="commits per second of three managers, beside etcd 3.4")
    commits.add_argument("--seconds", type=float, default=8, help="each figure (default 8)")
    commits.add_argument("--idle", type=float, default=20, help="seconds of watching idle managers (default 20)")
    store = commands.add_parser("store", help="snapshot and restore of a full store, memory of an object")
    store.add_argument("--objects", type=int, default=100_000)
    arguments = parser.parse_args()
    if Path(sys.prefix) != ROOT / ".venv":  # started by the machine's Python
        os.execv(PYTHON, [str(PYTHON), str(Path(__file__).resolve()), *sys.argv[1:]])
    sys.path.insert(0, str(ROOT))
    from benchmarks import commits as commits_benchmark
    from benchmarks import engine as engine_benchmark
    from benchmarks import failover as failover_benchmark
    from benchmarks import images as images_benchmark
    from benchmarks import network as network_benchmark
    from benchmarks import scheduler as scheduler_benchmark
    from benchmarks import simulated as simulated_benchmark
    from benchmarks import start as start_benchmark
    from benchmarks import store as store_benchmark
    from lab.paths import LabError

    try:
        if arguments.what == "commits":
            commits_benchmark.run(seconds=arguments.seconds, idle_s=arguments.idle)
        elif arguments.what == "store":
            store_benchmark.run(arguments.objects)
        elif arguments.what == "simulated":
            simulated_benchmark.run(arguments.nodes, arguments.tasks, arguments.services, arguments.rest)
        elif arguments.what == "scheduler":
            scheduler_benchmark.run(arguments.nodes, arguments.tasks)
        elif arguments.what == "engine":
            engine_benchmark.run(quick=arguments.quick)
        elif arguments.what == "images":
            images_benchmark.run(turns=arguments.turns, size_mb=arguments.size, memory_mb=arguments.memory)
        elif arguments.what == "network":
            network_benchmark.run(turns=arguments.turns, reach=arguments.reach)
        elif arguments.what == "failover":
            failover_benchmark.run(runs=arguments.runs, engines=arguments.engines)
        else:
            start_benchmark.run(runs=arguments.runs, replicas=arguments.replicas)
    except LabError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

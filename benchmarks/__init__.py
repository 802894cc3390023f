"""Benchmarks: what Shoal costs, beside a real dockerd on the same machine in the same run."""

"""A seeded simulator: virtual time, faults drawn from one seed, invariants checked at every step.

`python -m tests.simulation --seed N` runs one seed again; `--seeds A..B` runs many.
"""

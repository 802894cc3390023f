"""The scheduler: which node runs a task. `decide` is pure; `loop` reads the store and commits its decisions."""

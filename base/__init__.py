"""The leaf everything may stand on: clock, ids, task ownership, bounded threads, log context. Small on purpose."""

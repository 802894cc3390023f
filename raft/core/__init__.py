"""The Raft state machine as a pure value machine: messages and ticks in, `Ready` batches out. No I/O, no clock.

Source: Diego Ongaro, "Consensus: Bridging Theory and Practice" (2014), called "thesis" in this package.
"""

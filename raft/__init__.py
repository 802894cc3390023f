"""Raft after the thesis: a pure core, a SQLite log, a gRPC transport, and the asyncio shell that joins them."""

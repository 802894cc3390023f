"""Raft: claims of the thesis, the storage, the transport and the node."""

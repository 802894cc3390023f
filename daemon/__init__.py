"""The composition root: flags and daemon.json, start and stop, the engine's parts joined, the node's swarm life."""

VERSION = "0.1.0"

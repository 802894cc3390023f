"""Plugins: programs from a registry that serve the engine itself, run as containers that no list shows."""

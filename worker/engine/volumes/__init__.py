"""Volumes: durable directories that outlive containers."""

"""Thin bindings to single system calls; each raises OSError naming the path it was about."""

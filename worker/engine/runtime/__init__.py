"""Runs OCI containers under monitors that outlive the daemon: spec builder, zygote, monitor, crun."""

"""Container logs in Docker's json-file form: written by the monitors, read by the daemon."""

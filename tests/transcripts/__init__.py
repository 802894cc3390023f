"""Text files of commands and recorded output; see harness.py."""

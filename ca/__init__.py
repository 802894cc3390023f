"""The swarm's certificate authority: root, join tokens, node certificates, and the mutual TLS between nodes."""

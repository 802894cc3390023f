"""The single-host engine: containers, images, networks, volumes. Knows nothing of swarm."""

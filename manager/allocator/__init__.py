"""The allocator: what a service and its tasks need from the swarm's common stock before they can be scheduled."""

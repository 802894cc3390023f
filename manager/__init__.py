"""The manager: desired state in one replicated store, and the loops that make the swarm converge to it."""

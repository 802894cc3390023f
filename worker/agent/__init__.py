"""A node's side of the swarm: the session with a dispatcher, the assigned tasks, and the reports about them."""

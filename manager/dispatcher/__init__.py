"""The dispatcher: the leader's side of every node's session. Assignments go out, heartbeats and statuses come in."""

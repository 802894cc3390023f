"""The orchestrator: services become tasks, and stay so through failures, updates and nodes that come and go.

The planners are pure and level-triggered: they look at a service, its tasks and the nodes, and say what to change now;
called again after any crash they carry on. `loop` and `reaper` are the shells.
"""

"""Which role a node may have a certificate for now. Pure.

A demoted manager stays one until Raft has let it go: were it to stop before, the others could lack a majority to agree
on its removal.
"""

from __future__ import annotations

from api.types.objects import Node


def role_now(node: Node) -> str:
    """`manager` or `worker`: the wished role, but never worker while the node is a Raft member."""
    if node.manager_status is not None and node.manager_status.raft_id:
        return "manager"
    return node.spec.role or node.role

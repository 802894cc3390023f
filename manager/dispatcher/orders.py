"""One node's stream of assignments: what it was sent, and the messages that lead from there to what the store says.

Every message after the first is an increment; a long one is split, and only its last part carries the index.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from api.types.dispatch import AssignmentsMessage
from api.types.objects import Node, NodeState, Task, TaskState
from manager.dispatcher.assignments import difference, wanted
from manager.dispatcher.draining import Draining
from manager.dispatcher.networks import Needs, NetworkTruth, NodeNetworks, network_difference
from manager.store.view import View

TASKS_PER_MESSAGE = 500
"""So that an assignments message stays under the RPC's size limit."""


class Orders:
    """What one session's node has been told."""

    def __init__(self, node_id: str, truth: NetworkTruth, draining: Draining) -> None:
        self._node_id = node_id
        self._truth = truth
        self._draining = draining
        self._tasks: dict[str, Task] = {}
        self._networks = NodeNetworks()
        self._needs: Needs | None = None
        """What `_networks` was derived from."""
        self._sequence = 0
        self.held = False
        """Some order waits for other nodes: look again soon."""

    def complete(self, view: View, now_s: float) -> AssignmentsMessage:
        """Everything; the first message. A task that still serves is to run on for as long as its order is held back;
        a node that was told to stop it by an earlier stream takes no notice."""
        tasks = wanted(view.tasks_on_node(self._node_id))
        self._tasks = {task_id: _still_running(task) for task_id, task in tasks.items()}
        self._tasks = self._unheld(tasks, view, now_s)
        self._derive_networks(view)
        return AssignmentsMessage(
            complete=True,
            sequence=self._sequence,
            index=view.index,
            update_tasks=list(self._tasks.values()),
            update_networks=list(self._networks.networks.values()),
            update_services=list(self._networks.services.values()),
        )

    def next(self, view: View, now_s: float) -> list[AssignmentsMessage]:
        """The messages that bring the node up to the view; none when it is there."""
        now = self._unheld(wanted(view.tasks_on_node(self._node_id)), view, now_s)
        update, remove = difference(self._tasks, now)
        self._tasks = now
        before = self._networks
        self._derive_networks(view)
        changed, gone, services, gone_services = network_difference(before, self._networks)
        messages: list[AssignmentsMessage] = []
        while update or remove or changed or gone or services or gone_services:
            self._sequence += 1
            last = len(update) <= TASKS_PER_MESSAGE and len(services) <= TASKS_PER_MESSAGE
            messages.append(
                AssignmentsMessage(
                    complete=False,
                    sequence=self._sequence,
                    index=view.index if last else 0,
                    update_tasks=update[:TASKS_PER_MESSAGE],
                    remove_tasks=remove,
                    update_networks=changed,
                    remove_networks=gone,
                    update_services=services[:TASKS_PER_MESSAGE],
                    remove_services=gone_services,
                )
            )
            update, services = update[TASKS_PER_MESSAGE:], services[TASKS_PER_MESSAGE:]
            remove, changed, gone, gone_services = [], [], [], []
        return messages

    def _derive_networks(self, view: View) -> None:
        needs = self._truth.needs(view, self._node_id)
        if needs != self._needs:
            self._networks, self._needs = self._truth.wanted(view, needs), needs

    def _unheld(self, now: dict[str, Task], view: View, now_s: float) -> dict[str, Task]:
        """What is wanted, but for orders to stop that still wait: there the node keeps what it has."""
        self.held = False
        for task_id, task in now.items():
            before = self._tasks.get(task_id)
            if self._draining.holds(before, task, now_s, _up(view)):
                assert before is not None
                now[task_id] = before
                self.held = True
        return now


def _up(view: View) -> Iterator[str]:
    """The nodes that are there; found only when asked for, since hardly any order asks."""
    for node in view.all(Node):
        if node.status.state is NodeState.READY:
            yield node.id


def _still_running(task: Task) -> Task:
    """The order before the one to stop."""
    return replace(task, desired_state=min(task.desired_state, TaskState.RUNNING))

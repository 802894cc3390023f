"""Runs a transcript: blocks of one command a line, `----`, the recorded output, an empty line.

Commands: `members 1 2 3 [limit=N ...]`, `join N`, `elect N`, `tick N [count]`, `deliver`, `settle`, `cut A B` (one
way), `isolate N ...`, `heal`, `drop` (what is on the way), `propose N text...`, `learner N M`, `promote N M`, `remove N
M`, `read N context`, `transfer N M`, `lost N M`, `crash N`, `start N`, `compact N keep`, `state`. `#` begins a comment.
"""

from __future__ import annotations

from pathlib import Path

from api.errors import ShoalError
from raft.core.membership import AddLearner, Change, Promote, Remove
from tests.transcripts.net import Net, brief


class Transcript:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.net = Net()

    def run(self, command: str) -> list[str]:
        """The output of one command."""
        self.lines = []
        name, *words = command.split()
        try:
            getattr(self, f"do_{name}")(*words)
        except ShoalError as error:
            self.lines.append(f"  {type(error).__name__}: {error.message}")
        return self.lines or ["  (nothing)"]

    def do_members(self, *words: str) -> None:
        limits = {name: int(value) for name, _, value in (word.partition("=") for word in words) if value}
        self.net = Net(*(int(word) for word in words if "=" not in word), trace=self.lines_append, **limits)

    def lines_append(self, line: str) -> None:
        self.lines.append(line)

    def do_join(self, one: str) -> None:
        self.net.add(int(one))

    def do_elect(self, one: str) -> None:
        self.net.elect(int(one))

    def do_tick(self, one: str, count: str = "1") -> None:
        self.net.tick(int(one), int(count))

    def do_deliver(self) -> None:
        self.net.deliver()

    def do_settle(self) -> None:
        self.net.settle()

    def do_cut(self, one: str, other: str) -> None:
        self.net.cut.add((int(one), int(other)))
        self.lines.append(f"  nothing goes from {one} to {other}")

    def do_isolate(self, *ones: str) -> None:
        self.net.isolate(*map(int, ones))
        self.lines.append(f"  {' '.join(ones)} cut off")

    def do_heal(self) -> None:
        self.net.heal()
        self.lines.append("  healed")

    def do_drop(self) -> None:
        self.lines.append(f"  {len(self.net.pending)} messages lost")
        self.net.pending.clear()

    def do_propose(self, one: str, *texts: str) -> None:
        self.net.propose(int(one), *texts)

    def _change(self, one: str, change: Change) -> None:
        self.net.raft(int(one)).propose_change(change)
        self.net.work(int(one))

    def do_learner(self, one: str, other: str) -> None:
        self._change(one, AddLearner(raft_id=int(other), addr=f"m{other}"))

    def do_promote(self, one: str, other: str) -> None:
        self._change(one, Promote(raft_id=int(other)))

    def do_remove(self, one: str, other: str) -> None:
        self._change(one, Remove(raft_id=int(other)))

    def do_read(self, one: str, context: str) -> None:
        self.net.raft(int(one)).read_index(int(context))
        self.net.work(int(one))

    def do_transfer(self, one: str, other: str) -> None:
        self.net.raft(int(one)).transfer(int(other))
        self.net.work(int(one))

    def do_lost(self, one: str, other: str) -> None:
        self.net.raft(int(one)).connection_lost(int(other))
        self.net.work(int(one))

    def do_crash(self, one: str) -> None:
        self.net.cores[int(one)].up = False
        self.lines.append(f"  {one} is down")

    def do_start(self, one: str) -> None:
        self.net.cores[int(one)].start()
        self.net.work(int(one))

    def do_compact(self, one: str, keep: str) -> None:
        core = self.net.cores[int(one)]
        core.compact(int(keep))
        self.lines.append(
            f"  {one} holds snapshot {core.raft.log.snapshot.index} and entries from {core.raft.log.first}"
        )

    def do_state(self) -> None:
        for core in self.net.cores.values():
            raft = core.raft
            entries = ", ".join(brief(entry) for entry in core.stored.entries)
            self.lines.append(
                f"  {core.id}{'' if core.up else ' (down)'}: {raft.soft_state().role.value} term {raft.term}"
                f" commit {raft.log.commit} snapshot {raft.log.snapshot.index} log [{entries}]"
            )


def play(text: str) -> str:
    """The transcript with the output it has now."""
    transcript = Transcript()
    out: list[str] = []
    recorded = False
    for line in text.splitlines():
        if line == "----":
            recorded = True
        elif not line:
            recorded = False
            if out and out[-1]:
                out.append("")
        elif recorded:
            continue
        elif line.startswith("#"):
            out.append(line)
        else:
            out += [line, "----", *transcript.run(line), ""]
    return "\n".join(out).rstrip("\n") + "\n"


def transcripts() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.txt"))

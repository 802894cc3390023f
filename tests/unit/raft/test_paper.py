"""One test for each claim of the thesis that the core must keep; the section is in the docstring."""

from __future__ import annotations

from typing import TypeVar

import pytest

from api.errors import Conflict, InvalidArgument, NotFound, Unavailable
from raft.core import quorum
from raft.core.limits import Limits
from raft.core.membership import AddLearner, Membership, Promote, Remove, UpdateAddr, changed
from raft.core.messages import (
    Append,
    AppendReply,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    PreVote,
    PreVoteReply,
    Role,
    TimeoutNow,
    Vote,
    VoteReply,
)
from raft.errors import NotLeader
from tests.transcripts.net import Net

M = TypeVar("M")


def data(index: int, term: int, text: str = "") -> Entry:
    return Entry(index, term, EntryKind.DATA, text.encode())


def sent(net: Net, kind: type[M]) -> list[M]:
    return [message for message in net.pending if isinstance(message, kind)]


# Elections


def test_a_follower_campaigns_only_after_a_random_timeout() -> None:
    """§3.4: timeouts are random in [T, 2T)."""
    timeouts = set()
    for raft_id in range(1, 21):
        net = Net(raft_id, 98, 99)
        ticks = 0
        while net.raft(raft_id).soft_state().role is Role.FOLLOWER:
            net.tick(raft_id)
            ticks += 1
        timeouts.add(ticks)
    assert min(timeouts) >= 10
    assert max(timeouts) < 20
    assert len(timeouts) > 4


def test_a_member_votes_once_a_term_first_come_first_served() -> None:
    """§3.4."""
    net = Net(1, 2, 3)
    net.step(Vote(to=1, sender=2, term=2, last_index=1, last_term=1))
    net.step(Vote(to=1, sender=3, term=2, last_index=1, last_term=1))
    net.step(Vote(to=1, sender=2, term=2, last_index=1, last_term=1))
    assert [reply.granted for reply in sent(net, VoteReply)] == [True, False, True]


def test_a_vote_outlives_a_restart() -> None:
    """§3.8: term and vote are persistent."""
    net = Net(1, 2, 3)
    net.step(Vote(to=1, sender=2, term=2, last_index=1, last_term=1))
    assert net.cores[1].stored.hard_state == HardState(term=2, vote=2, commit=1)
    net.cores[1].start()
    net.pending.clear()
    net.step(Vote(to=1, sender=3, term=2, last_index=1, last_term=1))
    assert [reply.granted for reply in sent(net, VoteReply)] == [False]


def test_nothing_that_follows_from_a_vote_is_sent_before_it_is_persisted() -> None:
    """§3.8: the reply is in the batch that saves the vote, never among the early messages."""
    raft = Net(1, 2, 3).raft(1)
    raft.step(Vote(to=1, sender=2, term=2, last_index=1, last_term=1))
    assert raft.take_early() == []
    ready = raft.ready()
    assert ready.hard_state is not None
    assert [type(message) for message in ready.messages] == [VoteReply]


@pytest.mark.parametrize(
    ("last_term", "last_index", "granted"),
    [(3, 1, True), (2, 3, True), (2, 4, True), (2, 2, False), (1, 9, False)],
)
def test_votes_go_to_logs_at_least_as_up_to_date(last_term: int, last_index: int, granted: bool) -> None:
    """§3.6.1: later last term wins; with equal terms the longer log."""
    net = Net(1, 2, 3)
    net.step(Append(to=1, sender=2, term=2, prev_index=1, prev_term=1, commit=1, entries=(data(2, 2), data(3, 2))))
    net.raft(1).connection_lost(2)
    net.pending.clear()
    net.step(Vote(to=1, sender=3, term=9, last_index=last_index, last_term=last_term))
    assert [reply.granted for reply in sent(net, VoteReply)] == [granted]


def test_a_candidate_with_a_majority_leads_and_one_without_does_not() -> None:
    """§3.4."""
    net = Net(1, 2, 3, 4, 5)
    net.isolate(1, 2)
    net.tick(1, 20)
    net.settle()
    assert net.raft(1).leading is None
    net.heal()
    net.elect(1)
    assert net.raft(1).leading is not None


def test_a_candidate_yields_to_a_leader_of_its_term() -> None:
    """§3.4."""
    net = Net(1, 2, 3)
    net.raft(1).campaign(pre=False)
    net.work(1)
    assert net.raft(1).soft_state().role is Role.CANDIDATE
    net.step(Heartbeat(to=1, sender=2, term=2, commit=0))
    assert (net.raft(1).soft_state().role, net.raft(1).leader) == (Role.FOLLOWER, 2)


def test_a_higher_term_makes_a_leader_follow() -> None:
    """§3.3."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.step(AppendReply(to=1, sender=2, term=9, index=0, reject=True))
    assert (net.raft(1).soft_state().role, net.raft(1).term) == (Role.FOLLOWER, 9)


def test_messages_of_older_terms_change_nothing_and_teach_the_sender() -> None:
    """§3.3."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.pending.clear()
    net.step(Append(to=2, sender=3, term=1, prev_index=1, prev_term=1, commit=1, entries=(data(2, 1, "old"),)))
    assert net.raft(2).log.term(2) == 2
    (reply,) = sent(net, AppendReply)
    assert (reply.term, reply.to) == (2, 3)


# Pre-vote, check-quorum


def test_a_pre_vote_changes_no_term_and_no_vote() -> None:
    """§9.6."""
    net = Net(1, 2, 3)
    before = net.cores[2].stored.hard_state
    net.step(PreVote(to=2, sender=1, term=2, last_index=1, last_term=1))
    net.step(PreVote(to=2, sender=3, term=2, last_index=1, last_term=1))
    assert [reply.granted for reply in sent(net, PreVoteReply)] == [True, True]
    assert net.cores[2].stored.hard_state == before


def test_a_member_back_from_a_partition_does_not_depose_the_leader() -> None:
    """§9.6: it could not raise its term alone."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.isolate(3)
    for _ in range(100):
        net.tick(3)
        net.tick(1)
        net.tick(2)
        net.settle()
    net.heal()
    term = net.raft(1).term
    for _ in range(40):
        for raft_id in (3, 1, 2):
            net.tick(raft_id)
        net.settle()
    assert (net.raft(1).term, net.raft(3).leader) == (term, 1)


def test_who_hears_a_leader_ignores_candidates() -> None:
    """§4.2.3: a removed server can't disturb the others."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.pending.clear()
    net.step(Vote(to=2, sender=3, term=99, last_index=99, last_term=99))
    assert net.pending == []
    assert net.raft(2).term == 2


def test_a_leader_without_a_majority_steps_down() -> None:
    """§6.2: within two election timeouts."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.isolate(1)
    net.tick(1, 21)
    assert net.raft(1).leading is None
    with pytest.raises(NotLeader):
        net.propose(1, "a")


# Replication and commitment


def test_a_follower_refuses_entries_that_do_not_follow_from_its_log() -> None:
    """§3.5: the consistency check."""
    net = Net(1, 2, 3)
    net.step(Append(to=1, sender=2, term=2, prev_index=5, prev_term=2, commit=5, entries=(data(6, 2),)))
    (reply,) = sent(net, AppendReply)
    assert (reply.reject, reply.index, reply.hint_index) == (True, 5, 1)
    assert net.raft(1).log.last == 1


def test_conflicting_entries_give_way_to_the_leaders() -> None:
    """§3.5, figure 3.6: from the first conflict on."""
    net = Net(1, 2, 3)
    old = tuple(data(index, 2, f"old{index}") for index in (2, 3, 4))
    net.step(Append(to=1, sender=2, term=2, prev_index=1, prev_term=1, commit=1, entries=old))
    net.step(Append(to=1, sender=3, term=3, prev_index=2, prev_term=2, commit=1, entries=(data(3, 3, "new"),)))
    assert [entry.data for entry in net.cores[1].stored.entries[1:]] == [b"old2", b"new"]


def test_a_repeated_or_delayed_append_cuts_nothing_off() -> None:
    """§3.5: only a conflict truncates."""
    net = Net(1, 2, 3)
    entries = tuple(data(index, 2) for index in (2, 3, 4))
    net.step(Append(to=1, sender=2, term=2, prev_index=1, prev_term=1, commit=1, entries=entries))
    net.step(Append(to=1, sender=2, term=2, prev_index=1, prev_term=1, commit=1, entries=entries[:1]))
    assert net.raft(1).log.last == 4


def test_a_follower_commits_only_what_it_knows_to_match() -> None:
    """§3.5: min(leader's commit, index of the last entry of the message)."""
    net = Net(1, 2, 3)
    tail = (data(2, 1, "unsure"), data(3, 1, "unsure"))
    net.step(Append(to=1, sender=2, term=1, prev_index=1, prev_term=1, commit=1, entries=tail))
    net.step(Append(to=1, sender=3, term=2, prev_index=1, prev_term=1, commit=3, entries=()))
    assert net.raft(1).log.commit == 1


def test_conflict_hints_skip_whole_terms() -> None:
    """§3.5: one round trip a term, not one an entry."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.isolate(1)
    net.propose(1, *(f"lost{number}" for number in range(50)))
    net.elect(2)
    net.propose(2, *(f"kept{number}" for number in range(50)))
    net.settle()
    net.heal()
    net.tick(2)
    rounds = 0
    while net.data(1) != net.data(2) and rounds < 100:
        net.deliver()
        rounds += 1
        if not net.pending:
            net.tick(2)
    assert rounds <= 6


def test_an_entry_counts_once_a_majority_has_it_on_disk() -> None:
    """§3.5, §10.2.1: the leader's own disk is one of the majority, and need not be the first."""
    net = Net(1, 2, 3)
    net.elect(1)
    raft = net.raft(1)
    raft.propose(b"a")
    early = raft.take_early()
    assert {type(message) for message in early} == {Append}
    ready = raft.ready()
    index = raft.log.last
    raft.step(AppendReply(to=1, sender=2, term=2, index=index))
    assert raft.log.commit == index - 1  # the follower alone is no majority: our disk has not answered
    raft.step(AppendReply(to=1, sender=3, term=2, index=index))
    assert raft.log.commit == index  # two followers are
    raft.persisted(ready)


def test_entries_of_older_terms_are_not_committed_by_counting() -> None:
    """§3.6.2, figure 3.7: only with an entry of the leader's own term."""
    net = Net(1, 2, 3, 4, 5)
    net.elect(1)
    net.isolate(1, 2)
    net.propose(1, "old")
    net.settle()
    old = net.raft(1).log.last
    net.heal()
    net.raft(3).step(Heartbeat(to=3, sender=4, term=5, commit=0))
    net.raft(1).become_follower(6, 0)
    net.raft(1).campaign(pre=False)
    net.work(1)
    raft = net.raft(1)
    for voter in (2, 3):
        raft.step(VoteReply(to=1, sender=voter, term=7, granted=True))
    net.work(1)
    for follower in (2, 3):
        raft.step(AppendReply(to=1, sender=follower, term=7, index=old))
    assert raft.log.commit < old
    for follower in (2, 3):
        raft.step(AppendReply(to=1, sender=follower, term=7, index=raft.log.last))
    assert raft.log.commit == raft.log.last > old


def test_all_members_apply_the_same_in_the_same_order() -> None:
    """§3.6.3: state machine safety, across two leaders."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.propose(1, "a", "b")
    net.settle()
    net.elect(3)
    net.propose(3, "c")
    net.settle()
    net.tick(3)
    net.settle()
    assert [net.data(raft_id) for raft_id in (1, 2, 3)] == [["a", "b", "c"]] * 3


def test_a_new_leader_commits_what_its_predecessor_left() -> None:
    """§6.4: the no-op of its term does it without a client."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.isolate(1, 2)
    net.propose(1, "a")
    net.deliver()
    net.cores[1].up = False
    net.pending.clear()
    net.heal()
    net.elect(2)
    assert net.data(2) == ["a"]


# Membership


def test_a_membership_counts_as_soon_as_it_is_appended() -> None:
    """§4.1."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.raft(1).propose_change(Remove(raft_id=3))
    assert set(net.raft(1).membership.voters) == {1, 2}


def test_a_membership_that_is_cut_off_counts_no_more() -> None:
    """§4.1: a server falls back to the one before."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.isolate(1)
    net.raft(1).propose_change(Remove(raft_id=3))
    net.work(1)
    net.elect(2)
    net.heal()
    for _ in range(3):
        net.tick(2)
        net.settle()
    assert set(net.raft(1).membership.voters) == {1, 2, 3}


def test_one_change_at_a_time_and_none_before_the_terms_first_commit() -> None:
    """§4.1 and its correction of 2015."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.raft(1).propose_change(AddLearner(raft_id=4, addr="m4"))
    with pytest.raises(Unavailable, match="under way"):
        net.raft(1).propose_change(AddLearner(raft_id=5, addr="m5"))
    fresh = Net(1, 2, 3)
    fresh.raft(1).become_follower(2, 0)
    fresh.raft(1).campaign(pre=False)
    fresh.raft(1).step(VoteReply(to=1, sender=2, term=3, granted=True))
    with pytest.raises(Unavailable, match="under way"):
        fresh.raft(1).propose_change(AddLearner(raft_id=4, addr="m4"))


def test_a_learner_has_no_vote_and_is_promoted_when_it_has_caught_up() -> None:
    """§4.2.1."""
    net = Net(1, 2, 3, promote_lag_max=1)
    net.elect(1)
    net.raft(1).propose_change(AddLearner(raft_id=4, addr="m4"))
    net.work(1)
    net.settle()
    with pytest.raises(Unavailable, match="caught up"):
        net.raft(1).propose_change(Promote(raft_id=4))
    net.add(4)
    net.tick(1)
    net.settle()
    net.tick(4, 100)
    assert net.raft(4).soft_state().role is Role.FOLLOWER
    net.raft(1).propose_change(Promote(raft_id=4))
    net.work(1)
    net.settle()
    assert set(net.raft(4).membership.voters) == {1, 2, 3, 4}


def test_a_leader_that_removes_itself_leads_until_that_is_committed() -> None:
    """§4.2.2: and does not count itself."""
    net = Net(1, 2)
    net.elect(1)
    net.raft(1).propose_change(Remove(raft_id=1))
    net.work(1)
    assert net.raft(1).leading is not None
    net.settle()
    assert net.raft(1).leading is None
    assert net.raft(2).leading is not None


def test_a_removed_leader_may_hold_the_only_log_that_can_win() -> None:
    """§4.2.2: before its removal is committed it may still be elected."""
    net = Net(1, 2)
    net.elect(1)
    net.raft(1).propose_change(Remove(raft_id=1))
    net.work(1)
    net.pending.clear()
    net.cores[1].start()
    net.cores[2].start()
    for _ in range(60):
        net.tick(1)
        net.tick(2)
        net.settle()
    assert net.raft(2).leading is not None
    assert set(net.raft(2).membership.voters) == {2}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (AddLearner(raft_id=1, addr="x"), Conflict),
        (AddLearner(raft_id=7, addr="x"), Conflict),
        (AddLearner(raft_id=-1, addr="x"), InvalidArgument),
        (Promote(raft_id=1), Conflict),
        (Promote(raft_id=9), NotFound),
        (Remove(raft_id=9), NotFound),
        (Remove(raft_id=1), Conflict),
        (UpdateAddr(raft_id=9, addr="x"), NotFound),
    ],
)
def test_changes_that_make_no_sense_are_refused(change: AddLearner, error: type[Exception]) -> None:
    now = Membership(voters={1: "a"}, learners={2: "b"}, removed=(7,))
    with pytest.raises(error):
        changed(now, change)


# Snapshots, reads, transfer


def test_a_snapshot_that_the_log_contains_keeps_what_follows() -> None:
    """§5.1: if the log has the snapshot's last entry, the entries after it stay."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.propose(1, "a", "b", "c")
    net.settle()
    net.cores[1].compact(0)
    snapshot = net.raft(1).log.snapshot
    late = Net(2, 1, 3)
    entries = tuple(net.cores[2].stored.entries[1:])
    more = data(entries[-1].index + 1, 2, "d")
    late.step(Append(to=2, sender=1, term=2, prev_index=1, prev_term=1, commit=1, entries=(*entries, more)))
    late.step(InstallSnapshot(to=2, sender=1, term=2, snapshot=snapshot))
    assert late.raft(2).log.last == more.index
    assert late.raft(2).log.commit == snapshot.index
    assert late.data(2) == ["a", "b", "c"]


def test_a_read_waits_for_a_majority_to_confirm_the_leader() -> None:
    """§6.4."""
    net = Net(1, 2, 3)
    net.elect(1)
    raft = net.raft(1)
    raft.read_index(5)
    net.work(1)
    assert net.cores[1].reads == []
    raft.step(HeartbeatReply(to=1, sender=2, term=2, read=0))  # of a heartbeat sent before the read
    net.work(1)
    assert net.cores[1].reads == []
    raft.step(HeartbeatReply(to=1, sender=2, term=2, read=1))
    net.work(1)
    assert [(read.context, read.index) for read in net.cores[1].reads] == [(5, raft.log.commit)]


def test_a_new_leader_answers_no_read_before_its_no_op_is_committed() -> None:
    """§6.4: until then it does not know what is committed."""
    net = Net(1, 2, 3)
    raft = net.raft(1)
    raft.become_follower(2, 0)
    raft.campaign(pre=False)
    net.work(1)
    raft.step(VoteReply(to=1, sender=2, term=3, granted=True))
    net.work(1)
    raft.read_index(5)
    raft.step(HeartbeatReply(to=1, sender=2, term=3, read=1))
    net.work(1)
    assert net.cores[1].reads == []
    net.settle()
    assert [read.index for read in net.cores[1].reads] == [raft.log.commit]


def test_leadership_is_handed_to_a_member_with_the_whole_log() -> None:
    """§3.10."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.propose(1, "a")
    net.raft(1).transfer(2)
    assert sent(net, TimeoutNow) == []
    net.work(1)
    net.settle()
    assert net.raft(2).leading is not None


def test_a_handover_that_fails_is_given_up_after_an_election_timeout() -> None:
    """§3.10: the leader takes proposals again."""
    net = Net(1, 2, 3)
    net.elect(1)
    net.isolate(3)
    net.raft(1).transfer(3)
    with pytest.raises(Unavailable, match="handed over"):
        net.propose(1, "a")
    for _ in range(11):
        net.tick(1)
        net.settle()
    net.propose(1, "a")
    net.settle()
    assert net.data(1) == ["a"]


# Bounds


def test_proposals_are_bounded_one_by_one_and_together() -> None:
    net = Net(1, 2, 3, proposal_bytes_max=100, uncommitted_bytes_max=400)
    net.elect(1)
    with pytest.raises(InvalidArgument, match="101 of at most 100 bytes"):
        net.propose(1, "x" * 101)
    net.isolate(1)
    net.propose(1, "x" * 100, "x" * 100)
    with pytest.raises(Unavailable, match="too many changes"):
        net.propose(1, "x" * 100)
    net.heal()
    net.tick(1)
    net.settle()
    net.propose(1, "x" * 100)


def test_limits_that_contradict_each_other_are_refused() -> None:
    for wrong in (Limits(election_tick=2), Limits(inflight_max=0), Limits(uncommitted_bytes_max=5)):
        with pytest.raises(InvalidArgument, match="raft: "):
            wrong.validate()


@pytest.mark.parametrize(
    ("voters", "reached", "agreed"),
    [
        ((), {}, 0),
        ((1,), {1: 7}, 7),
        ((1, 2), {1: 7, 2: 3}, 3),
        ((1, 2, 3), {1: 7, 2: 3}, 3),
        ((1, 2, 3, 4), {1: 7, 2: 7, 3: 3, 4: 9}, 7),
        ((1, 2, 3), {1: 7, 9: 7, 8: 7}, 0),
    ],
)
def test_majorities(voters: tuple[int, ...], reached: dict[int, int], agreed: int) -> None:
    assert quorum.agreed_index(voters, reached) == agreed


def test_no_voters_agree_on_nothing() -> None:
    assert not quorum.has_majority((), {1, 2, 3})

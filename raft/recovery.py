"""Beginning anew with what one member has, after the majority is lost for good.

This breaks Raft's promise on purpose, and only a human may ask for it: entries that others had and this member lacks
are gone. Everything this member has on disk is kept, the uncommitted end too: its commit mark lags, so what looks
uncommitted may have been acknowledged.
"""

from __future__ import annotations

from raft.core.membership import Membership, decode, encode
from raft.core.messages import Entry, EntryKind, HardState, Stored
from raft.errors import StorageCorrupt
from raft.storage.contract import Storage


def found_anew(storage: Storage, addr: str) -> None:
    """Make the owner of this log the only voter, listening at `addr`. Durable on return.

    All other members count as removed: should one of them come back, it is told so. Run it only while nothing else uses
    the storage. Raises StorageCorrupt for a log that is broken or has no owner.
    """
    raft_id = storage.raft_id()
    if raft_id is None:
        raise StorageCorrupt("there is no raft log to begin anew from")
    stored = storage.load()
    now = _membership(stored)
    others = sorted(set(now.all()) - {raft_id})
    alone = Membership(voters={raft_id: addr}, removed=(*now.removed, *others))
    last = stored.entries[-1].index if stored.entries else stored.base_index
    term = stored.hard_state.term + 1
    entry = Entry(last + 1, term, EntryKind.CHANGE, encode(alone))
    storage.save(HardState(term=term, vote=raft_id, commit=last + 1), None, (entry,))


def _membership(stored: Stored) -> Membership:
    changes = [entry for entry in stored.entries if entry.kind is EntryKind.CHANGE]
    return decode(changes[-1].data) if changes else stored.snapshot.membership

"""The replicated store: tables of frozen objects, transactions as Raft proposals, and a queue of changes to watch.

It is the only place where the manager's loops meet. Invariant: every manager that has applied the same log holds the
same objects, because `memory.apply` reads nothing but its state and the transaction.
"""

"""Where a member's term, vote, log and snapshot survive."""

"""Is the API linearizable? Clients write and read through all managers while leaders are killed, paused and cut off."""

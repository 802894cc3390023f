"""The control API: validates what users ask for and writes it to the store; answers reads from the store."""

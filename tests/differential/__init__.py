"""The same docker commands against shoald and a real dockerd: whatever a user could tell apart is found here.

`scenario` reads the scripts of scenarios/*.txt, `run` plays them, `normal` takes away what differs between any two
runs, `compare` says what still differs, `arena` brings up both engines. See scenarios/README.md for the format.
"""

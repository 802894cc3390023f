"""A swarm to break, whatever it is made of: the lab, docker-compose or Vagrant. Scenarios are text, written once.

`scenario` reads them (pure), `steps` knows what their phrases do, `cluster` is the seam, and `drivers` are what is
behind it. `python -m lab.cluster`, or compose-test/run, plays them.
"""

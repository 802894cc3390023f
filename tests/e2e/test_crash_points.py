"""The engine kills itself at each point where something has just been made or taken away (`base.faultpoint`): what it
answered is kept, what runs is what it says, nothing is left behind, and work goes on.

Images and plugins have theirs in test_image_crashes.py and test_plugin_faults.py. SHOAL_LONG=1 takes all
points, and also the second and later times that each is reached.
"""

from __future__ import annotations

import http.client
import os
import random

import pytest

from base import faultpoint
from lab.lab import Lab
from lab.paths import LabError
from lab.state import alive
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.test_crashes import User, settled

LONG = bool(os.environ.get("SHOAL_LONG"))
ALL = sorted(
    point
    for point in faultpoint.POINTS
    if not point.startswith(("image.", "layer.", "parent.", "plugin.", "records.images.", "records.plugins."))
)
NEAR_ANOTHER = {"records.image_holds.before", "monitor.forked", "removal.volumes", "netns.removed"}
"""What they leave is what a neighbour leaves, too."""
POINTS = ALL if LONG else [each for each in ALL if each not in NEAR_ANOTHER and not each.endswith(".after")]
TIMES = (1, 2, 3, 4) if LONG else (1,)
CIRCLES = 5
"""Of a whole life; in each of them every point is reached at least once."""


class Always(random.Random):
    """Every container has a network and a port."""

    def random(self) -> float:
        return 0.0


class Driver(User):
    """A user who does everything once, in order, again and again."""

    def until_it_dies(self, point: str) -> None:
        """Fails the test if the engine does not."""
        for _ in range(CIRCLES):
            try:
                self._circle()
            except (OSError, http.client.HTTPException):
                return
        raise AssertionError(f"{point} was never reached")

    def leave_nothing(self) -> None:
        if self.container != "absent":
            self.remove()
        if self.volume == "present":
            self.toggle_volume()
        if self.network == "present":
            self.toggle_network()

    def _circle(self) -> None:
        if self.network == "absent":
            self.toggle_network()
        if self.container == "absent":
            self.create()
        if self.container == "stopped":
            self.start()
        self.toggle_connection()
        self.toggle_connection()
        self.kill()
        self.leave_nothing()


@pytest.mark.timeout(60 + 20 * len(POINTS) * len(TIMES))
def test_a_crash_at_every_point(single: Lab, docker: Docker) -> None:
    driver = Driver(0, docker, Always())
    single.kill("m1")
    last = ""
    for point in [*(f"{point}:{times}" for times in TIMES for point in POINTS), ""]:
        # A point counts from the moment that the engine is ready, and who only looks reaches none: the one that shows
        # what the last crash left is the one that dies next.
        single.start("m1", env={faultpoint.VARIABLE: point})
        try:
            settled(single, docker)
            driver.check()
        except AssertionError as error:
            raise AssertionError(f"{last}: {error}") from None
        if point:
            driver.until_it_dies(point)
            until(lambda: not alive(single.host("m1").daemon), timeout_s=10, what="the engine to end")
        last = point
    driver.leave_nothing()


def test_a_point_that_there_is_not(single: Lab) -> None:
    single.stop("m1")
    with pytest.raises(LabError, match="SHOAL_CRASH_AT: there is no point 'nowhere'"):
        single.start("m1", env={faultpoint.VARIABLE: "nowhere"})


def test_a_macvlan_network_of_which_the_parent_is_made(single: Lab, docker: Docker) -> None:
    single.kill("m1")
    single.start("m1", env={faultpoint.VARIABLE: "parent.made"})
    with pytest.raises((OSError, http.client.HTTPException)):
        docker.http("POST", "/v1.24/networks/create", {"Name": "lone", "Driver": "macvlan"})
    until(lambda: not alive(single.host("m1").daemon), timeout_s=10, what="the engine to end")
    single.start("m1")
    link = f"dm-{docker.inspect('lone')['Id'][:12]}"  # its record was written first: the network is there, and whole
    assert docker.ok("run", "--rm", "--network", "lone", "busybox", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert link in single.run("m1", "ip", "link").stdout
    docker.ok("network", "rm", "lone")
    assert link not in single.run("m1", "ip", "link").stdout

"""HostConfig.Init: pid 1 is an init that reaps orphans and hands signals on; the command is its child."""

from __future__ import annotations

import time

from tests.integration.shoald import Api

INIT = {"Init": True}


def test_an_init_is_pid_1(api: Api) -> None:
    orphan = "(sleep 0.2 & echo $! > /orphan); exec sleep 1000"
    api.run("one", "sh", "-c", orphan, host=INIT)
    seen = api.inspect("one")
    assert (seen["Path"], seen["HostConfig"]["Init"]) == ("sh", True)
    assert api.exec("one", "cat", "/proc/1/comm") == (0, "docker-init\n")
    assert api.exec("one", "touch", "/sbin/docker-init")[0] != 0, "it is mounted read-only"
    gone = (
        "until [ -s /orphan ]; do sleep 0.05; done; while [ -e /proc/$(cat /orphan) ]; do sleep 0.05; done; echo reaped"
    )
    assert api.exec("one", "sh", "-c", gone) == (0, "reaped\n")
    asked = time.monotonic()
    api.ok("POST", "/containers/one/stop", t=30)
    assert time.monotonic() - asked < 20, "sleep is not pid 1, so the signal ends it"
    assert api.inspect("one")["State"]["ExitCode"] == 143


def test_exit_codes_come_through(api: Api) -> None:
    for command, code in ((["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -9 $$"], 137), (["nosuchprogram"], 127)):
        container = api.run("", *command, host=INIT)
        assert api.ok("POST", f"/containers/{container}/wait")["StatusCode"] == code
        api.ok("DELETE", f"/containers/{container}")


def test_no_init_where_it_would_not_be_pid_1(api: Api) -> None:
    api.run("one", host=INIT | {"PidMode": "host"})
    assert api.exec("one", "sh", "-c", "ls /sbin/docker-init")[0] != 0

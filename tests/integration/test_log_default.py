"""The daemon's own log driver and options: what containers get that name none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.shoald import running


def test_containers_get_the_daemon_s_log_driver() -> None:
    address = "fluentd-address=127.0.0.1:1"
    with running(
        "--log-driver", "fluentd", "--log-opt", address, "--log-opt", "fluentd-async=true", "--log-opt", "tag=d"
    ) as api:
        assert api.ok("GET", "/info")["LoggingDriver"] == "fluentd"
        options = {"fluentd-address": "127.0.0.1:1", "fluentd-async": "true", "tag": "d"}
        api.create("one")
        assert api.inspect("one")["HostConfig"]["LogConfig"] == {"Type": "fluentd", "Config": options}
        api.create("two", host={"LogConfig": {"Type": "fluentd", "Config": {"tag": "own"}}})
        assert api.inspect("two")["HostConfig"]["LogConfig"]["Config"] == options | {"tag": "own"}
        api.create("three", host={"LogConfig": {"Type": "json-file"}})
        assert api.inspect("three")["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}


def test_options_that_are_wrong_keep_the_daemon_from_starting(tmp_path: Path) -> None:
    places = ["--data-root", str(tmp_path / "lib"), "--exec-root", str(tmp_path / "run")]
    wrong = ["--log-driver", "syslog", "--log-opt", "syslog-format=odd", "-H", f"unix://{tmp_path}/s"]
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-m", "daemon.main", *places, *wrong],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "the daemon can't run: Invalid syslog format" in done.stderr

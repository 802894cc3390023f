"""SIGHUP: the daemon reads its configuration again, says so in an event, and survives a file that is wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.shoald import Api, running


def events(api: Api, **filters: list[str]) -> list[dict[str, Any]]:
    answer = api("GET", "/events", since="1", until=f"{time.time():.6f}", filters=filters)
    return [json.loads(line) for line in answer.body.splitlines()]


@pytest.mark.promise(
    "misc.events.b6",
    "misc.events.b17",
    "misc.events.query.filters.daemon",
    "misc.events.response.events.daemon.reload",
)
def test_reload(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"labels": ["rack=1"], "mtu": 1400}))
    with running("--config-file", str(file)) as api:
        assert api.ok("GET", "/info")["Labels"] == ["rack=1"]
        file.write_text(
            json.dumps({"labels": ["rack=2"], "debug": True, "insecure-registries": ["r:5000"], "mtu": 1300})
        )
        with api.taken("GET", "/events", filters={"type": ["daemon"]}) as live:
            os.kill(api.pid, signal.SIGHUP)
            live.until(b'"Action":"reload"')
        info = api.ok("GET", "/info")
        assert (info["Labels"], info["Debug"]) == (["rack=2"], True)
        assert info["RegistryConfig"]["IndexConfigs"]["r:5000"]["Secure"] is False
        [told] = events(api, event=["reload"])
        assert (told["Type"], told["Actor"]["ID"]) == ("daemon", info["ID"])
        said = told["Actor"]["Attributes"]
        assert (said["name"], said["debug"], said["labels"]) == (info["Name"], "true", '["rack=2"]')
        assert said["insecure-registries"] == '["r:5000"]'
        for daemon in (info["ID"], info["Name"]):
            assert [event["Action"] for event in events(api, daemon=[daemon])] == ["reload"]
        assert events(api, daemon=["somebody-else"]) == []

        log = api.path.with_name("log")
        assert "settings=mtu" in log.read_text()
        file.write_text('{"labels": ["no-value"]}')
        os.kill(api.pid, signal.SIGHUP)
        deadline = time.monotonic() + 10
        while "configuration not reloaded" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert api.ok("GET", "/info")["Labels"] == ["rack=2"]
        assert len(events(api, event=["reload"])) == 1

"""Flags and daemon.json: merged, checked, and refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.errors import InvalidArgument
from daemon import config


def load(tmp_path: Path, settings: dict[str, Any] | None = None, *flags: str) -> config.Config:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps(settings or {}))
    return config.load([*flags, "--config-file", str(file)])


def test_hosts_may_be_repeated(tmp_path: Path) -> None:
    found = load(tmp_path, None, "-H", "unix:///run/x.sock", "-H", "tcp://127.0.0.1:2375")
    assert found.hosts == ("unix:///run/x.sock", "tcp://127.0.0.1:2375")


def test_the_file_fills_in_what_flags_leave_out(tmp_path: Path) -> None:
    settings = {"data-root": "/srv/shoal", "registry-mirrors": ["http://m:5000"], "live-restore": True, "mtu": 1400}
    found = load(tmp_path, settings, "--label", "a=b")
    assert found.data_root == Path("/srv/shoal")
    assert found.registry_mirrors == ("http://m:5000",)
    assert found.labels == ("a=b",)
    assert found.mtu == 1400


def test_address_pools_have_docker_s_form(tmp_path: Path) -> None:
    found = load(tmp_path, None, "--default-address-pool", "base=10.10.0.0/16,size=24")
    assert found.default_address_pools == (config.AddressPool("10.10.0.0/16", 24),)
    found = load(tmp_path, {"default-address-pools": [{"base": "10.10.0.0/16", "size": 24}]})
    assert found.default_address_pools == (config.AddressPool("10.10.0.0/16", 24),)


@pytest.mark.parametrize(
    ("settings", "flags", "words"),
    [
        ({"data-root": "/a"}, ["--data-root", "/b"], "data-root"),
        ({"colour": "red"}, [], "colour"),
        ({"labels": "a=b"}, [], "labels"),
        ({}, ["--label", "nope"], "nope"),
        ({}, ["-H", "npipe:////./pipe"], "hosts"),
        ({}, ["-H", "tcp://127.0.0.1"], "port"),
        ({}, ["-H", "unix://" + "/x" * 60], "107 bytes"),
        ({}, ["--bip", "300.1.1.1/16"], "bip"),
        ({}, ["--log-level", "loud"], "log-level"),
        ({}, ["--mtu", "big"], "mtu"),
        ({}, ["--default-address-pool", "base=10.0.0.0/24,size=16"], "default-address-pools"),
        ({}, ["--tlsverify"], "--tlsverify"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, settings: dict[str, Any], flags: list[str], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load(tmp_path, settings, *flags)
    assert words in caught.value.message


def test_a_named_file_must_exist_and_be_json(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no such file"):
        config.load(["--config-file", str(tmp_path / "none.json")])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InvalidArgument, match="unable to configure"):
        config.load(["--config-file", str(tmp_path / "bad.json")])


def test_a_reload_takes_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    before = load(tmp_path, {"labels": ["a=b"], "mtu": 1400})
    read = load(tmp_path, {"labels": ["c=d"], "debug": True, "insecure-registries": ["r:5000"], "mtu": 1300})
    after, waiting = config.reloaded(before, read)
    assert (after.labels, after.log_level, after.insecure_registries) == (("c=d",), "debug", ("r:5000",))
    assert (after.mtu, waiting) == (1400, ["mtu"])
    assert config.reloaded(after, load(tmp_path, {"mtu": 1400}))[0].labels == (), "what is gone from the file is gone"

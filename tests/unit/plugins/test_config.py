"""What a plugin says of itself: casing, both formats, what is refused, what it asks of the host, what users set."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.errors import InvalidArgument, NotSupported
from worker.engine.plugins import settings
from worker.engine.plugins.config import PluginConfig, check_supported, parse
from worker.engine.plugins.privileges import privileges
from worker.engine.plugins.records import Overrides

LEAST = {"entrypoint": ["/run"], "interface": {"types": ["docker.volumedriver/1.0"], "socket": "p.sock"}}
IN_THE_WILD = {
    "description": "sshFS plugin for Docker",
    "documentation": "https://docs.docker.com/engine/extend/plugins/",
    "entrypoint": ["/docker-volume-sshfs"],
    "env": [{"name": "DEBUG", "settable": ["value"], "value": "0"}, {"name": "EMPTY", "value": None}],
    "interface": {"socket": "sshfs.sock", "types": ["docker.volumedriver/1.0"]},
    "linux": {"capabilities": ["CAP_SYS_ADMIN"], "devices": [{"name": "fuse", "path": "/dev/fuse"}]},
    "mounts": [
        {"destination": "/mnt/state", "options": ["rbind"], "name": "state", "source": "/var/lib/docker/plugins/",
         "settable": ["source"], "type": "bind"},
        {"destination": "/root/.ssh", "options": ["rbind"], "name": "sshkey", "source": "", "settable": ["source"],
         "type": "bind"},
    ],
    "network": {"type": "host"},
    "propagatedmount": "/mnt/volumes",
    "args": {"name": "args", "settable": ["value"], "value": None},
    "somethingnew": {"of": "later"},
}  # fmt: skip
FIRST_FORMAT = {
    "ManifestVersion": "v0",
    "Entrypoint": ["plugin-no-remove", "/data"],
    "Interface": {"Types": ["docker.volumedriver/1.0"], "Socket": "plugins.sock"},
    "Capabilities": ["CAP_NET_ADMIN"],
    "Devices": [{"Name": "device", "Path": "/dev/cpu_dma_latency", "Settable": ["path"]}],
    "Workdir": "/w",
}


def read(document: dict[str, Any], **changes: Any) -> PluginConfig:
    return parse(json.dumps(document | changes).encode())


def test_keys_in_any_case() -> None:
    config = read(IN_THE_WILD)
    assert config.propagated_mount == "/mnt/volumes"
    assert config.linux.devices[0].path == "/dev/fuse"
    assert (config.mounts[0].source, config.mounts[0].settable) == ("/var/lib/docker/plugins/", ["source"])
    assert config.args.value == []
    upper = json.loads(json.dumps(IN_THE_WILD).replace('"propagatedmount"', '"PropagatedMount"'))
    assert parse(json.dumps(upper).encode()) == config


def test_the_first_format() -> None:
    config = read(FIRST_FORMAT)
    assert (config.work_dir, list(config.all_capabilities)) == ("/w", ["CAP_NET_ADMIN"])
    assert [device.path for device in config.all_devices] == ["/dev/cpu_dma_latency"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"entrypoint": []}, "Entrypoint is empty"),
        ({"entrypoint": "run"}, "Expected `array`"),
        ({"interface": {"types": [], "socket": "p.sock"}}, "Interface.Types is empty"),
        ({"interface": {"types": ["volumes"], "socket": "p.sock"}}, "'volumes' is not <prefix>.<capability>/<version>"),
        ({"interface": {"types": ["docker.volumedriver/1.0"], "socket": "../p.sock"}}, "'../p.sock' is no file name"),
        ({"interface": {"types": ["docker.volumedriver/1.0"]}}, "'' is no file name"),
        ({"workdir": "here"}, "WorkDir: 'here' is not an absolute path"),
        ({"propagatedmount": "/"}, "PropagatedMount"),
        ({"propagatedmount": "/a/../b"}, "PropagatedMount"),
        ({"mounts": [{"name": "m", "destination": "x"}]}, "Mounts: 'm' has no absolute destination"),
        ({"env": [{"name": "a=b"}]}, "Env: 'a=b'"),
    ],
)
def test_what_can_not_be(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        read(LEAST, **changes)
    assert text in error.value.message


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"null"])
def test_what_is_no_document(raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match="invalid plugin config"):
        parse(raw)


def test_what_this_engine_has_no_use_for() -> None:
    check_supported("p", read(LEAST))
    with pytest.raises(NotSupported, match=r"plugin p: interface docker\.logdriver/1\.0 is not supported"):
        check_supported("p", read(LEAST, interface={"types": ["docker.logdriver/1.0"], "socket": "p.sock"}))
    with pytest.raises(NotSupported, match="network type 'bridge'"):
        check_supported("p", read(LEAST, network={"type": "bridge"}))


def test_what_it_asks_of_the_host() -> None:
    assert privileges(read(LEAST)) == []
    asked = privileges(read(IN_THE_WILD, ipchost=True, pidhost=True, linux={"allowalldevices": True}))
    assert [(each.name, each.value) for each in asked] == [
        ("network", ["host"]),
        ("host ipc namespace", ["true"]),
        ("host pid namespace", ["true"]),
        ("mount", ["/var/lib/docker/plugins/"]),
        ("allow-all-devices", ["true"]),
    ]
    assert [(each.name, each.value) for each in privileges(read(FIRST_FORMAT))] == [
        ("device", ["/dev/cpu_dma_latency"]),
        ("capabilities", ["CAP_NET_ADMIN"]),
    ]


class TestSettings:
    def test_what_is_set_lies_over_the_defaults(self) -> None:
        config, nothing = read(IN_THE_WILD), Overrides()
        assert settings.environment(config, nothing) == ["DEBUG=0"]
        wishes = ["DEBUG=a=b", "state.source=/elsewhere", "sshkey.source=/root/.ssh", "args=-v  --fast"]
        found = settings.changed(config, nothing, wishes)
        assert settings.environment(config, found) == ["DEBUG=a=b"]
        assert [mount.source for mount in settings.mounts(config, found)] == ["/elsewhere", "/root/.ssh"]
        assert settings.arguments(config, found) == ["-v", "--fast"]
        again = settings.changed(config, found, ["DEBUG.value=1"])
        assert settings.environment(config, again) == ["DEBUG=1"]
        assert [mount.source for mount in settings.mounts(config, again)] == ["/elsewhere", "/root/.ssh"]

    def test_a_device(self) -> None:
        config = read(FIRST_FORMAT)
        found = settings.changed(config, Overrides(), ["device.path=/dev/zero"])
        assert [device.path for device in settings.devices(config, found)] == ["/dev/zero"]

    @pytest.mark.parametrize(
        ("wish", "text"),
        [
            ("DEBUG", "is not NAME=value"),
            ("=1", "is not NAME=value"),
            ("OTHER=1", 'setting "OTHER" not found in the plugin configuration'),
            ("EMPTY=1", '"EMPTY" is not settable'),
            ("state.destination=/x", 'no part "destination"'),
            ("DEBUG.source=/x", 'no part "source"'),
        ],
    )
    def test_what_can_not_be_set(self, wish: str, text: str) -> None:
        with pytest.raises(InvalidArgument) as error:
            settings.changed(read(IN_THE_WILD), Overrides(), [wish])
        assert text in error.value.message

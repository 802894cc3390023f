"""Plugins over the real API (v1.24 section 3.6): from the registry to a container's volume, and every refusal."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from lab.lab import Lab
from lab.wait import until
from tests.e2e import plugins
from tests.e2e.builds import basic_registry
from tests.e2e.client import Docker
from tests.e2e.fields import Kinds, assert_fields
from tests.e2e.fields import promises as fields_of
from tests.e2e.plugins import FULL, NAME, ask, create, inspect, installed, publish

NOTHING = type(None)
MOUNT: dict[str, Kinds] = {
    "": dict,
    ".Name": str,
    ".Description": str,
    ".Settable": (list, NOTHING),
    ".Source": (str, NOTHING),
    ".Destination": str,
    ".Type": str,
    ".Options[]": str,
}
PLUGIN: dict[str, Kinds] = {
    "Id": str,
    "Name": str,
    "Tag": str,
    "Active": bool,
    "Config": dict,
    **{f"Config.Mounts[]{path}": kinds for path, kinds in MOUNT.items() if path != ".Options[]"},
    "Config.Env[]": str,
    "Config.Args": (list, NOTHING),
    "Config.Devices": (list, NOTHING),
    "Manifest": dict,
    "Manifest.ManifestVersion": str,
    "Manifest.Description": str,
    "Manifest.Documentation": str,
    "Manifest.Interface": dict,
    "Manifest.Interface.Types[]": str,
    "Manifest.Interface.Socket": str,
    "Manifest.Entrypoint[]": str,
    "Manifest.Workdir": str,
    "Manifest.User": dict,
    "Manifest.Network": dict,
    "Manifest.Network.Type": str,
    "Manifest.Capabilities": (list, NOTHING),
    **{f"Manifest.Mounts[]{path}": kinds for path, kinds in MOUNT.items() if path != ".Options[]"},
    "Manifest.Devices[]": dict,
    "Manifest.Devices[].Name": str,
    "Manifest.Devices[].Description": str,
    "Manifest.Devices[].Settable": (list, NOTHING),
    "Manifest.Devices[].Path": str,
    "Manifest.Env[]": dict,
    "Manifest.Env[].Name": str,
    "Manifest.Env[].Description": str,
    "Manifest.Env[].Settable": (list, NOTHING),
    "Manifest.Env[].Value": str,
    "Manifest.Args": dict,
    "Manifest.Args.Name": str,
    "Manifest.Args.Description": str,
    "Manifest.Args.Settable": (list, NOTHING),
    "Manifest.Args.Value[]": str,
}
OPTIONS = ("Config.Mounts[].Options[]", "Manifest.Mounts[].Options[]")
"""Null for the tmpfs, so they are looked at apart."""
LISTED: dict[str, Kinds] = {f"[].{path}": kinds for path, kinds in PLUGIN.items()}


@pytest.fixture(autouse=True)
def _no_plugins(single: Lab, docker: Docker) -> Iterator[None]:
    yield
    plugins.clear(docker)
    plugins.check(single, docker)


@pytest.mark.promise(
    *fields_of("plugins.list", LISTED),
    *fields_of("plugins.inspect", PLUGIN),
    *(f"plugins.list.response.[].{path}" for path in OPTIONS),
    *(f"plugins.inspect.response.{path}" for path in OPTIONS),
    *(f"plugins.pull.response.[].{name}" for name in ("Name", "Description", "Value[]")),
    *(f"plugins.{name}.status.200" for name in ("list", "pull", "inspect", "enable", "disable", "remove")),
    *(f"plugins.list.b{number}" for number in range(1, 6)),
    *(f"plugins.inspect.b{number}" for number in (1, 2)),
    *(f"plugins.{name}.b{number}" for name in ("enable", "disable", "remove") for number in (1, 2)),
    "plugins.pull.query.name",
    *(f"plugins.pull.b{number}" for number in (1, 3, 7)),
)
def test_from_the_registry_to_its_end(single: Lab, docker: Docker) -> None:
    args = {"Name": "args", "Description": "", "Settable": ["value"], "Value": ["unused"]}
    publish(docker, Network={"Type": "host"}, Args=args)
    assert docker.http("GET", "/v1.24/plugins").value == []
    pulled = docker.http("POST", f"/v1.24/plugins/pull?name={NAME}")
    assert pulled.status == 200
    assert int(pulled.headers["content-length"]) == len(pulled.body)
    asked = {each["Name"]: (each["Description"], each["Value"]) for each in pulled.value}
    assert asked["network"] == ("permissions to access a network", ["host"])
    assert asked["device"] == ("host device to access", ["/dev/zero"])
    assert asked["capabilities"] == ("list of additional capabilities required", ["CAP_SYS_ADMIN"])
    assert {each["Name"] for each in pulled.value} == {"network", "device", "capabilities", "mount"}

    (listed,) = (answer := docker.http("GET", "/v1.24/plugins")).value
    assert answer.headers["content-type"] == "application/json"
    assert_fields(answer.value, LISTED)
    assert listed == inspect(docker) == inspect(docker, FULL) == inspect(docker, listed["Id"][:12])
    assert_fields(listed, PLUGIN)
    assert (listed["Name"], listed["Tag"], listed["Active"]) == (NAME, "latest", False)
    assert listed["Manifest"]["User"] == {}
    for mounts in (listed["Config"]["Mounts"], listed["Manifest"]["Mounts"]):
        bind, tmpfs = mounts[0], mounts[-1]
        assert (bind["Type"], bind["Options"], bind["Source"]) == ("bind", ["rbind", "ro"], bind["Destination"])
        assert (tmpfs["Type"], tmpfs["Options"], tmpfs["Source"]) == ("tmpfs", None, None)
    assert listed["Config"]["Env"] == ["FAIL=", "FIXED=1"]
    assert listed["Config"]["Args"] == ["unused"]

    for action in ("enable", "disable"):
        done = docker.http("POST", f"/v1.24/plugins/{NAME}/{action}")
        assert (done.status, done.body, done.headers["content-length"]) == (200, b"", "0")
        assert done.headers["content-type"] == "text/plain; charset=utf-8"
        assert inspect(docker)["Active"] is (action == "enable")
        plugins.check(single, docker)
    gone = docker.http("DELETE", f"/v1.24/plugins/{NAME}")
    assert (gone.status, gone.body) == (200, b"")
    assert docker.http("GET", "/v1.24/plugins").value == []


def test_its_volumes_in_containers(single: Lab, docker: Docker) -> None:
    with installed(docker):
        assert FULL in docker.ok("info", "--format", "{{.Plugins.Volume}}")
        docker.ok("volume", "create", "-d", NAME, "-o", "tmpfs=1", "ram")
        docker.ok("run", "-d", "--name", "first", "-v", "ram:/v", "busybox", "sh", "-c", "echo x >/v/f; sleep 99")
        until(lambda: docker.run("exec", "first", "cat", "/v/f").out == "x\n", timeout_s=10, what="the file")
        assert "tmpfs on /v type tmpfs" in docker.ok("run", "--rm", "-v", "ram:/v:ro", "busybox", "mount")
        shown = docker.http("GET", "/v1.24/volumes/ram").value
        place = f"/var/lib/shoal/plugins/installed/{inspect(docker)['Id']}/propagated-mount/volumes/ram/data"
        assert (shown["Driver"], shown["Mountpoint"], shown["Status"]["users"]) == (FULL, place, 1)
        assert single.run("m1", "cat", f"{place}/f").stdout == "x\n"
        docker.ok("rm", "-f", "first")
        assert single.run("m1", "ls", place).stdout == "", "what the plugin unmounts is unmounted on the host"

        # By --volume-driver, under the short name and the full one, it is the same driver.
        again = docker.ok("run", "--rm", "--volume-driver", FULL, "-v", "other:/v", "busybox", "echo", "ok")
        assert again == "ok"
        docker.ok("volume", "create", "-d", NAME, "other")
        assert docker.ok("volume", "ls", "-q", "-f", f"driver={FULL}").split() == ["other", "ram"]

        used = docker.http("POST", f"/v1.24/plugins/{NAME}/disable")
        assert (used.status, used.message) == (409, f"plugin {FULL} is in use by volumes - [other, ram]")
        docker.ok("volume", "rm", "ram", "other")
        docker.ok("volume", "create", "-d", NAME, "-o", "link=1", "sly")
        sly = docker.bad("run", "--rm", "-v", "sly:/v", "busybox", "ls", "/v")
        assert "the mountpoint leads out of the plugin's own root" in sly.err
        docker.ok("volume", "rm", "sly")
        ask(docker, "disable")
        lost = docker.bad("volume", "create", "-d", NAME, "third")
        assert f"plugin {FULL} is disabled" in lost.err
        assert FULL not in docker.ok("info", "--format", "{{.Plugins.Volume}}")


@pytest.mark.promise(
    *(f"plugins.{name}.status.404" for name in ("inspect", "enable", "disable", "remove")),
    *(f"plugins.{name}.status.500" for name in ("pull", "enable", "disable", "remove")),
    *(f"plugins.{name}.b{number}" for name in ("enable", "disable", "remove") for number in (3, 4)),
    "plugins.inspect.b3",
    *(f"plugins.pull.b{number}" for number in (2, 5, 6)),
)
def test_refusals(docker: Docker) -> None:
    unknown = [("GET", ""), ("GET", "/json"), ("POST", "/enable"), ("POST", "/disable"), ("DELETE", ""),
               ("POST", "/push")]  # fmt: skip
    for method, rest in unknown:
        answer = docker.http(method, f"/v1.24/plugins/no/such:1{rest}")
        assert (answer.status, answer.message) == (404, 'plugin "no/such:1" not found')
    for name in ("", "?name=", "?name=acme/UPPER", "?name=x:y:z"):
        answer = docker.http("POST", f"/v1.24/plugins/pull{name}")
        assert answer.status == 500
        assert answer.message.startswith("error parsing reference: ")

    publish(docker)
    assert docker.http("POST", f"/v1.24/plugins/pull?name={FULL}").status == 200
    twice = docker.http("POST", f"/v1.24/plugins/pull?name={NAME}")
    assert (twice.status, twice.message) == (500, f"plugin {FULL} already exists")
    off = docker.http("POST", f"/v1.24/plugins/{NAME}/disable")
    assert (off.status, off.message) == (500, f"plugin is already disabled: plugin {FULL} found but disabled")
    ask(docker, "enable")
    on = docker.http("POST", f"/v1.24/plugins/{NAME}/enable")
    assert (on.status, on.message) == (500, f"plugin already enabled: plugin {FULL} is enabled")
    active = docker.http("DELETE", f"/v1.24/plugins/{NAME}")
    assert (active.status, active.message) == (500, f"plugin {FULL} is enabled: disable it first")
    assert inspect(docker)["Active"] is True

    registry = NAME.partition("/")[0]
    missing = docker.http("POST", f"/v1.24/plugins/pull?name={registry}/acme/none")
    assert missing.status == 404
    image = docker.http("POST", f"/v1.24/plugins/pull?name={registry}/library/busybox")
    assert image.status == 400
    assert "(image) when fetching" in image.message
    as_image = docker.bad("pull", NAME)
    assert 'Encountered remote "application/vnd.docker.plugin.v1+json"(plugin) when fetching' in as_image.err
    assert len(docker.http("GET", "/v1.24/plugins").value) == 1


@pytest.mark.promise("plugins.pull.b4")
def test_a_registry_with_a_password(single: Lab, docker: Docker) -> None:
    with basic_registry(single, "m1", "s3cret") as registry:
        name = f"{registry}/acme/vols"
        auth = base64.urlsafe_b64encode(json.dumps({"username": "user", "password": "s3cret"}).encode()).decode()
        create(docker, name)
        refused = docker.http("POST", f"/v1.24/plugins/{name}/push")
        assert b"no basic auth credentials" in refused.body
        pushed = docker.http("POST", f"/v1.24/plugins/{name}/push", X_Registry_Auth=auth)
        assert b'"digest: sha256:' in pushed.body.replace(b"latest: ", b""), pushed.body
        plugins.clear(docker)
        assert docker.http("POST", f"/v1.24/plugins/pull?name={name}").status == 404
        digest = json.loads(pushed.body.splitlines()[-1])["aux"]["Digest"]
        pulled = docker.http("POST", f"/v1.24/plugins/pull?name={name}@{digest}", X_Registry_Auth=auth)
        assert pulled.status == 200, pulled.body
        assert inspect(docker, name)["Tag"] == "latest"


def test_what_can_be_set(docker: Docker) -> None:
    create(docker, NAME)

    def setting(*wishes: str) -> tuple[int, str]:
        answer = docker.http("POST", f"/v1.24/plugins/{NAME}/set", json.dumps(wishes), Content_Type="application/json")
        return answer.status, answer.message if answer.body else ""

    assert setting("FIXED=2") == (400, '"FIXED" is not settable')
    assert setting("OTHER=2") == (400, 'setting "OTHER" not found in the plugin configuration')
    assert setting("FAIL=yes", "args=a b") == (204, "")
    assert inspect(docker)["Config"]["Env"] == ["FAIL=yes", "FIXED=1"]
    assert inspect(docker)["Config"]["Args"] == ["a", "b"]
    failed = docker.http("POST", f"/v1.24/plugins/{NAME}/enable")
    reason = "it ended with code 1 before it listened on vols.sock: I was told to fail"
    assert (failed.status, failed.message) == (500, f"plugin {FULL} can't be started: {reason}")
    assert inspect(docker)["Active"] is False
    assert setting("FAIL=") == (204, "")
    ask(docker, "enable")
    code, text = setting("FAIL=yes")
    assert (code, text) == (409, f"cannot set on an active plugin, disable plugin {FULL} before setting")


@pytest.mark.parametrize(
    ("config", "status", "text"),
    [
        ({"Interface": {"Types": ["docker.networkdriver/1.0"], "Socket": "n.sock"}}, 501, "docker.networkdriver/1.0"),
        ({"Interface": {"Types": ["docker.authz/1.0"], "Socket": "a.sock"}}, 501, "interface docker.authz/1.0"),
        ({"Network": {"Type": "bridge"}}, 501, "network type 'bridge'"),
        ({"Entrypoint": ["/none"]}, 500, "can't be started"),
        ({"Mounts": [{"Destination": "/x", "Type": "bind", "Settable": ["source"], "Name": "m"}]}, 500, "mount 'm'"),
        ({"Linux": {"Devices": [{"Path": "/dev/none"}]}}, 500, "/dev/none"),
    ],
)
def test_what_can_not_be_enabled(
    single: Lab, docker: Docker, config: dict[str, object], status: int, text: str
) -> None:
    create(docker, NAME, **config)
    answer = docker.http("POST", f"/v1.24/plugins/{NAME}/enable")
    assert (answer.status, text in answer.message) == (status, True), answer.body
    assert inspect(docker)["Active"] is False
    plugins.check(single, docker)


def test_two_names_of_one_artifact_and_its_events(single: Lab, docker: Docker) -> None:
    publish(docker)
    since = docker.ok("info", "--format", "{{.SystemTime}}")
    assert docker.http("POST", f"/v1.24/plugins/pull?name={NAME}").status == 200
    create(docker, f"{NAME}:two")
    ask(docker, "enable", f"{NAME}:two")
    assert docker.http("DELETE", f"/v1.24/plugins/{NAME}").status == 200
    docker.ok("volume", "create", "-d", f"{NAME}:two", "v")
    docker.ok("volume", "rm", "v")
    ask(docker, "disable", f"{NAME}:two")
    plugins.check(single, docker)
    until = docker.ok("info", "--format", "{{.SystemTime}}")
    lines = docker.ok("events", "--since", since, "--until", until, "--filter", "type=plugin", "--format", "{{json .}}")
    events = [json.loads(line) for line in lines.splitlines()]
    assert [(event["Action"], event["Actor"]["Attributes"]["name"]) for event in events] == [
        ("pull", FULL),
        ("create", f"{NAME}:two"),
        ("enable", f"{NAME}:two"),
        ("remove", FULL),
        ("disable", f"{NAME}:two"),
    ]
    assert docker.http("POST", f"/v1.24/plugins/create?name={NAME}:two", b"", **plugins.TAR).status == 409

"""Every field of a ServiceSpec (v1.24 section 3.9) has its effect on what runs; so have filters and logins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from lab import swarm
from lab.lab import Lab, running
from tests.conformance.promises import all_promises
from tests.e2e.client import fetch
from tests.e2e.conftest import RUN
from tests.e2e.fields import assert_fields, promises
from tests.e2e.services import NS, Json, Swarm, login, private_registry, seconds, spec

MIB = 2**20
BOUND = "/var/lib/bound"


@pytest.fixture(scope="module")
def _lab() -> Iterator[Lab]:
    with running(f"{RUN}-fields", managers=1, workers=0, registry=False) as lab:
        swarm.form(lab)
        lab.stop("m1")  # the engine has to find a shared mount when it starts, or there is nothing to propagate
        made = lab.run(
            "m1",
            "sh",
            "-ec",
            f"mkdir {BOUND}; mount -t tmpfs bound {BOUND}; mount --make-shared {BOUND}; mkdir {BOUND}/sub",
        )
        assert made.returncode == 0, made.stderr
        lab.start("m1")
        swarm.wait_ready(lab, 1)
        yield lab


@pytest.fixture
def one(_lab: Lab) -> Iterator[Swarm]:
    """A swarm of one node, without services."""
    yield (found := Swarm(_lab))
    found.clear()


def named(*paths: str, entries: tuple[str, ...] = ("services.create", "services.update")) -> list[str]:
    """The promises of body fields, of both requests that carry them."""
    return [f"{entry}.body.{path}" for entry in entries for path in paths]


TEMPLATE = "TaskTemplate."
CONTAINER = "TaskTemplate.ContainerSpec."
MOUNT = CONTAINER + "Mounts."


def whole(name: str) -> Json:
    """A spec with every field of a container."""
    return {
        "Name": name,
        "Labels": {"tier": "front"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox",
                "Command": ["sh"],
                "Args": ["-c", "exec sleep 1d"],
                "Env": ["COLOUR=green", "EMPTY="],
                "Dir": "/tmp",
                "User": "65534:65534",
                "Labels": {"com.example.part": "all of it"},
                "Mounts": [
                    {"Type": "bind", "Source": BOUND, "Target": "/bound", "ReadOnly": True,
                     "BindOptions": {"Propagation": "rslave"}},
                    {"Type": "volume", "Source": f"{name}-copied", "Target": "/etc",
                     "VolumeOptions": {"Labels": {"keep": "no"}}},
                    {"Type": "volume", "Source": f"{name}-empty", "Target": "/var",
                     "VolumeOptions": {"NoCopy": True}},
                    {"Type": "volume", "Source": f"{name}-driven", "Target": "/driven",
                     "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {
                         "type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}}},
                ],
                "StopGracePeriod": NS // 2,
            },
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m", "max-file": "2"}},
            "Resources": {
                "Limits": {"NanoCPUs": NS // 2, "MemoryBytes": 64 * MIB},
                "Reservations": {"NanoCPUs": NS // 10, "MemoryBytes": 32 * MIB},
            },
            "RestartPolicy": {"Condition": "on-failure", "Delay": NS, "MaxAttempts": 3, "Window": 60 * NS},
            "Placement": {"Constraints": ["node.role == manager"]},
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "UpdateConfig": {"Parallelism": 2, "Delay": 0, "FailureAction": "continue"},
        "EndpointSpec": {"Mode": "dnsrr"},
    }  # fmt: skip


FIELDS = named(
    "Name", "Labels", "TaskTemplate", "TaskTemplate.ContainerSpec", "Mode", "Mode.Replicated",
    "Mode.Replicated.Replicas",
    *(CONTAINER + field for field in ("Image", "Command", "Args", "Env", "Dir", "User", "Labels", "Mounts")),
    *(MOUNT + field for field in ("Target", "Source", "Type", "ReadOnly", "BindOptions", "BindOptions.Propagation",
      "VolumeOptions", "VolumeOptions.NoCopy", "VolumeOptions.Labels", "VolumeOptions.DriverConfig",
      "VolumeOptions.DriverConfig.Name", "VolumeOptions.DriverConfig.Options")),
    "TaskTemplate.LogDriver", "TaskTemplate.LogDriver.Name", "TaskTemplate.LogDriver.Options",
    "TaskTemplate.Resources", "TaskTemplate.Resources.Limits", "TaskTemplate.Resources.Reservations",
)  # fmt: skip
FIELDS = [each for each in FIELDS if not each.startswith("services.update.body.TaskTemplate.LogDriver")]


@pytest.mark.promise(*FIELDS, "services.create.b1", "services.create.b8", "services.create.b10", "services.update.b1",
                     "services.update.b9", "services.update.b11",
                     *named("TaskTemplate.Resources.Limits.NanoCPUs", "TaskTemplate.Resources.Limits.MemoryBytes",
                            "TaskTemplate.Resources.Reservations.MemoryBytes",
                            entries=("services.create",)))  # fmt: skip
@pytest.mark.parametrize("by", ["create", "update"])
def test_every_field_of_a_container(one: Swarm, by: str) -> None:
    wanted = whole("full")
    if by == "create":
        one.create(wanted)
    else:
        one.create(spec("full"))
        one.running("full")
        one.update("full", wanted)
        one.until(lambda: _all_new(one, wanted), "full", "the update to reach both tasks")
    tasks = one.running("full", 2)
    shown = one.service("full")["Spec"]
    assert {key: shown[key] for key in wanted if key != "TaskTemplate"} == {
        key: value for key, value in wanted.items() if key != "TaskTemplate"
    } | {"UpdateConfig": {"Parallelism": 2, "FailureAction": "continue"}}
    assert tasks[0]["Labels"] == {"tier": "front"}
    for task in tasks:
        _check_container(one, task)
    one.lab.run("m1", "sh", "-c", f"mount -t tmpfs later {BOUND}/sub && echo from the host > {BOUND}/sub/file")
    try:
        assert one.inside(tasks[0], "cat", "/bound/sub/file") == "from the host"
    finally:
        one.lab.run("m1", "umount", f"{BOUND}/sub")
    (engine_volume,) = json.loads(one.docker.ok("volume", "inspect", "full-copied"))
    assert engine_volume["Labels"] == {"keep": "no"}
    (driven,) = json.loads(one.docker.ok("volume", "inspect", "full-driven"))
    assert (driven["Driver"], driven["Options"]["o"]) == ("local", "size=1m")


def _all_new(one: Swarm, wanted: Json) -> bool:
    tasks = one.tasks("full", "running")
    return (
        len(tasks) == 2
        and all(task["Spec"]["ContainerSpec"]["Env"] for task in tasks if _env(task))
        and all(map(_env, tasks))
    )


def _env(task: Json) -> bool:
    return bool(task["Spec"]["ContainerSpec"].get("Env"))


def _check_container(one: Swarm, task: Json) -> None:
    container = one.container(task)
    config, host = container["Config"], container["HostConfig"]
    assert (config["Image"], config["Entrypoint"], config["Cmd"]) == ("busybox", ["sh"], ["-c", "exec sleep 1d"])
    assert (config["WorkingDir"], config["User"]) == ("/tmp", "65534:65534")
    assert config["Labels"]["com.example.part"] == "all of it"
    assert config["Labels"]["com.docker.swarm.task.id"] == task["ID"]
    assert one.inside(task, "sh", "-c", "echo $COLOUR; id -u; pwd").split() == ["green", "65534", "/tmp"]
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert (host["Memory"], host["MemoryReservation"]) == (64 * MIB, 32 * MIB)
    assert host["CpuQuota"] * 2 == host["CpuPeriod"]
    mounts = {mount["Destination"]: mount for mount in container["Mounts"]}
    bound = mounts["/bound"]
    assert (bound["Type"], bound["Source"], bound["RW"]) == ("bind", BOUND, False)
    assert "rslave" in bound["Propagation"]
    assert "Read-only" in one.docker.run("exec", container["Id"], "touch", "/bound/x").err
    assert "master:" in one.inside(task, "sh", "-c", "grep ' /bound ' /proc/self/mountinfo"), "a slave, as asked"
    assert {mounts[target]["Name"] for target in ("/etc", "/var", "/driven")} == {
        "full-copied", "full-empty", "full-driven"
    }  # fmt: skip
    assert "passwd" in one.inside(task, "ls", "/etc").split(), "a new volume begins with what the image has there"
    assert one.inside(task, "ls", "/var") == "", "but not with NoCopy"
    assert "size=1024k" in one.inside(task, "sh", "-c", "grep ' /driven ' /proc/mounts")


@pytest.mark.promise("services.create.b9", "services.update.b10", *named(CONTAINER + "StopGracePeriod"))
def test_a_container_that_does_not_stop_is_killed_after_its_grace(one: Swarm) -> None:
    stubborn = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    one.create(spec("deaf", *stubborn, container={"StopGracePeriod": NS}))
    (first,) = one.running("deaf")
    one.update("deaf", spec("deaf", *stubborn, container={"StopGracePeriod": 2 * NS, "Env": ["A=1"]}))

    def stopped(task: Json) -> Json | None:
        state = one.container(task)["State"]
        return state if not state["Running"] else None

    def ended_after(task: Json) -> float:
        state = one.until(lambda: stopped(task), "deaf", "the container to be killed")
        assert state["ExitCode"] == 137
        (now,) = [each for each in one.tasks("deaf") if each["ID"] == task["ID"]]
        return seconds(state["FinishedAt"]) - seconds(now["UpdatedAt"])

    asked = seconds(one.service("deaf")["UpdatedAt"])
    state = one.until(lambda: stopped(first), "deaf", "the container to be killed")
    assert state["ExitCode"] == 137
    assert 0.9 < seconds(state["FinishedAt"]) - asked < 2.0
    (second,) = one.running("deaf")
    asked = seconds(one.service("deaf")["UpdatedAt"])
    one.update("deaf", spec("deaf", *stubborn, container={"StopGracePeriod": NS // 10, "Env": ["A=2"]}))
    asked = seconds(one.service("deaf")["UpdatedAt"])
    state = one.until(lambda: stopped(second), "deaf", "the container to be killed")
    assert 1.9 < seconds(state["FinishedAt"]) - asked < 3.5
    one.running("deaf")


def restarting(name: str, command: str, **policy: Any) -> Json:
    return spec(name, "sh", "-c", command, task={"RestartPolicy": policy})


@pytest.mark.promise("services.create.b11", "services.create.b12", "services.create.b13", "services.update.b12",
                     "services.update.b13", "services.update.b14",
                     *named("TaskTemplate.RestartPolicy", *(f"TaskTemplate.RestartPolicy.{field}" for field in
                            ("Condition", "Delay", "MaxAttempts", "Window"))))  # fmt: skip
@pytest.mark.parametrize("by", ["create", "update"])
def test_restart_policies(one: Swarm, by: str) -> None:
    tenth = NS // 10
    specs = [
        restarting("never", "exit 1", Condition="none"),
        restarting("content", "exit 0", Condition="on-failure", Delay=tenth),
        restarting("twice", "exit 3", Condition="on-failure", Delay=tenth, MaxAttempts=2),
        restarting("always", "exit 0", Condition="any", Delay=tenth, MaxAttempts=0),
        restarting("default", "exit 0", Delay=tenth),
        restarting("slow", "exit 1", Condition="any", Delay=2 * NS),
        restarting("forgiven", "exit 1", Condition="any", Delay=6 * tenth, MaxAttempts=1, Window=5 * tenth),
        restarting("unforgiven", "exit 1", Condition="any", Delay=6 * tenth, MaxAttempts=1, Window=0),
    ]
    if by == "update":
        for each in specs:
            one.create(spec(each["Name"], Mode={"Replicated": {"Replicas": 0}}))
        for each in specs:
            one.update(each["Name"], each)
    else:
        for each in specs:
            one.create(each)

    def count(name: str) -> int:
        return len(one.tasks(name, "complete", "failed"))

    for name, least in [("always", 4), ("default", 4), ("forgiven", 4), ("twice", 3), ("slow", 2), ("unforgiven", 2)]:
        one.until(lambda: count(name) >= least, name, f"{least} tasks to end")  # noqa: B023 (called at once)
    assert {name: len(one.tasks(name)) for name in ("never", "content", "twice", "unforgiven")} == {
        "never": 1, "content": 1, "twice": 3, "unforgiven": 2
    }  # fmt: skip
    first, second, *_ = one.tasks("slow")
    assert seconds(second["Status"]["Timestamp"]) - seconds(first["Status"]["Timestamp"]) >= 2


@pytest.mark.promise(*named("UpdateConfig", "UpdateConfig.Parallelism", "UpdateConfig.Delay"),
                     "services.create.body.UpdateConfig.FailureAction", "services.create.b16", "services.create.b17",
                     "services.update.b17")  # fmt: skip
def test_updates(one: Swarm) -> None:
    def changed(name: str, value: str, *args: str, **config: Any) -> Json:
        return spec(
            name, *args, container={"Env": [f"A={value}"]}, Mode={"Replicated": {"Replicas": 3}}, UpdateConfig=config
        )

    def state(name: str) -> str:
        return str(one.service(name).get("UpdateStatus", {}).get("State", ""))

    for name in ("steps", "atonce", "careful", "bold"):
        one.create(changed(name, "1", Parallelism=1))
    for name in ("steps", "atonce", "careful", "bold"):
        one.running(name, 3)
    one.update("steps", changed("steps", "2", Parallelism=1, Delay=NS))
    one.update("atonce", changed("atonce", "2", Parallelism=0))
    broken = changed("careful", "2", Parallelism=1, FailureAction="pause")
    broken["TaskTemplate"]["ContainerSpec"]["Command"] = ["/no/such/command"]
    one.update("careful", broken)
    one.update("bold", changed("bold", "2", "false", Parallelism=1, FailureAction="continue"))
    for name, wanted in [("atonce", "completed"), ("careful", "paused"), ("steps", "completed")]:
        one.until(lambda: state(name) == wanted, name, f"the update to be {wanted}", 40)  # noqa: B023
    begun = [
        seconds(task["CreatedAt"]) for task in one.tasks("steps") if task["Spec"]["ContainerSpec"]["Env"] == ["A=2"]
    ]
    assert len(begun) == 3
    assert all(later - earlier >= 1 for earlier, later in pairwise(begun)), begun
    begun = [seconds(task["CreatedAt"]) for task in one.tasks("atonce")[-3:]]
    assert max(begun) - min(begun) < 0.1, "any number at once"

    status = one.service("careful")["UpdateStatus"]
    assert "update paused due to failure or early termination of task" in status["Message"]
    assert len(one.tasks("careful", "running")) == 2, "the slots that were not updated yet run on"
    one.update("careful", changed("careful", "3", Parallelism=0))
    one.until(lambda: state("careful") == "completed", "careful", "the next update to mend it")
    assert "CompletedAt" in one.service("careful")["UpdateStatus"]
    one.running("careful", 3)

    def all_tried() -> bool:
        return {task["Slot"] for task in one.tasks("bold", "failed")} == {1, 2, 3}

    one.until(all_tried, "bold", "the update to go on through failures", 40)


@pytest.mark.promise("services.create.b14", "services.update.b15", "services.create.b15", "services.update.b16",
                     *named("TaskTemplate.Placement", "TaskTemplate.Placement.Constraints"),
                     "services.create.body.TaskTemplate.Resources.Reservations.NanoCPUs")  # fmt: skip
def test_a_task_that_no_node_can_take_says_why_and_runs_when_one_can(one: Swarm) -> None:
    def placed(*constraints: str) -> Json:
        return {"Placement": {"Constraints": list(constraints)}}

    def reason(name: str) -> str:
        return "".join(task["Status"].get("Err", "") for task in one.tasks(name, "pending"))

    one.create(spec("zoned", task=placed("node.labels.zone == a")))
    one.create(spec("elsewhere", task=placed("node.role != manager")))
    one.create(spec("everywhere", Mode={"Global": {}}, task=placed("node.labels.zone != b")))
    one.create(spec("large", task={"Resources": {"Reservations": {"NanoCPUs": 10_000 * NS}}}))
    for name in ("zoned", "elsewhere"):
        why = "no suitable node (scheduling constraints not satisfied on 1 node)"
        one.until(lambda: reason(name) == why, name, "the reason")  # noqa: B023
    one.until(lambda: reason("large") == "no suitable node (insufficient resources on 1 node)", "large", "the reason")
    (everywhere,) = one.running("everywhere")
    assert everywhere["NodeID"]
    assert "Slot" not in everywhere

    (node,) = one.get("/nodes")
    path = f"/nodes/{node['ID']}/update?version={node['Version']['Index']}"
    assert one.call("POST", path, node["Spec"] | {"Labels": {"zone": "a"}}).status == 200
    one.until(lambda: one.tasks("zoned", "assigned", "accepted", "preparing", "ready", "starting", "running"), "zoned",
              "the task to be placed", 1)  # fmt: skip
    one.running("zoned")
    one.update("elsewhere", spec("elsewhere", task=placed("node.role == manager")))
    one.update("large", spec("large", task={"Resources": {"Reservations": {"NanoCPUs": NS // 100}}}))
    one.running("elsewhere")
    one.running("large")


@pytest.mark.promise(*named(*(f"TaskTemplate.Resources.{part}.{field}" for part in ("Limits", "Reservations")
                              for field in ("CPU", "Memory")), entries=("services.update",)))  # fmt: skip
def test_an_update_may_name_resources_in_its_own_words(one: Swarm) -> None:
    one.create(spec("worded"))
    one.running("worded")
    resources = {"Limits": {"CPU": NS // 4, "Memory": 48 * MIB}, "Reservations": {"CPU": NS // 8, "Memory": 16 * MIB}}
    one.update("worded", spec("worded", task={"Resources": resources}))
    assert one.service("worded")["Spec"]["TaskTemplate"]["Resources"] == {
        "Limits": {"NanoCPUs": NS // 4, "MemoryBytes": 48 * MIB},
        "Reservations": {"NanoCPUs": NS // 8, "MemoryBytes": 16 * MIB},
    }
    one.until(lambda: one.service("worded")["UpdateStatus"]["State"] == "completed", "worded", "the update")
    (task,) = one.running("worded")
    host = one.container(task)["HostConfig"]
    assert (host["Memory"], host["MemoryReservation"]) == (48 * MIB, 16 * MIB)
    assert host["CpuQuota"] * 4 == host["CpuPeriod"]


@pytest.mark.promise("services.create.b2", "services.update.b3")
def test_the_login_reaches_the_node_that_pulls(one: Swarm) -> None:
    with private_registry(one.lab, "m1", "first") as registry:

        def image(tag: int) -> Json:
            policy = {"Condition": "none"}
            container = {"Image": f"{registry}/secret/busybox:{tag}"}
            return spec("private", container=container, task={"RestartPolicy": policy})

        one.create(image(1))
        (refused,) = one.until(lambda: one.tasks("private", "rejected"), "private", "the pull to be refused")
        assert f"No such image: {registry}/secret/busybox:1" in refused["Status"]["Err"]
        one.remove("private")
        one.create(image(1), X_Registry_Auth=login("first"))
        one.running("private")
        assert "first" not in json.dumps(one.get("/services")) + json.dumps(one.get("/tasks"))
        one.update("private", image(2))
        one.until(lambda: one.service("private")["UpdateStatus"]["State"] == "completed", "private", "the update")
        one.running("private")
    with private_registry(one.lab, "m1", "second") as registry:
        one.update("private", image(3))
        one.until(lambda: one.tasks("private", "rejected"), "private", "the old login to be refused")
        one.update("private", image(4), X_Registry_Auth=login("second"))
        (task,) = one.running("private")
        assert task["Spec"]["ContainerSpec"]["Image"].endswith(":4")


@pytest.mark.promise("services.list.b1", "services.list.b3", "services.list.b4", "services.list.b5",
                     "services.list.query.filters",
                     "services.list.query.filters.id", "services.list.query.filters.label",
                     "services.list.query.filters.name", "tasks.list.b3", "tasks.list.b4", "tasks.list.b5",
                     "tasks.list.b6", "tasks.list.b7", "tasks.list.b8", "tasks.list.b10", "tasks.list.query.filters",
                     *(f"tasks.list.query.filters.{name}" for name in
                       ("id", "name", "service", "node", "label", "desired-state")))  # fmt: skip
def test_filters(one: Swarm) -> None:
    for name, labels in [("alpha", {"kind": "a", "both": ""}), ("beta", {"kind": "b", "both": ""})]:
        one.create(spec(name, Labels=labels))
    (alpha,), (beta,) = one.running("alpha"), one.running("beta")
    one.update("beta", one.service("beta")["Spec"] | {"Mode": {"Replicated": {"Replicas": 0}}})
    one.update(
        "beta", spec("beta", "true", Labels={"kind": "b", "both": ""}, task={"RestartPolicy": {"Condition": "none"}})
    )
    one.until(lambda: one.tasks("beta", "complete"), "beta", "a task to end")

    def services(**filters: list[str]) -> list[str]:
        return sorted(each["Spec"]["Name"] for each in one.get("/services", **filters))

    assert services() == ["alpha", "beta"]
    assert services(id=[alpha["ServiceID"]]) == ["alpha"]
    assert services(name=["bet"]) == ["beta"]
    assert (services(label=["kind=b"]), services(label=["both"])) == (["beta"], ["alpha", "beta"])
    assert services(name=["alpha"], label=["kind=b"]) == []

    def tasks(**filters: list[str]) -> set[str]:
        names = {alpha["ServiceID"]: "alpha", beta["ServiceID"]: "beta"}
        return {names[each["ServiceID"]] for each in one.get("/tasks", **filters)}

    (node,) = one.get("/nodes")
    assert tasks(id=[alpha["ID"]]) == {"alpha"}
    assert tasks(name=["alpha.1"]) == {"alpha"}
    assert tasks(service=["alpha"]) == tasks(service=[alpha["ServiceID"]]) == {"alpha"}
    assert tasks(node=[node["ID"]]) == tasks(node=[node["Description"]["Hostname"]]) == {"alpha", "beta"}
    assert (tasks(label=["kind=a"]), tasks(label=["both"])) == ({"alpha"}, {"alpha", "beta"})
    assert [each["ID"] for each in one.get("/tasks", **{"desired-state": ["running"]})] == [alpha["ID"]]
    ended = one.get("/tasks", **{"desired-state": ["shutdown"]})
    assert {each["ServiceID"] for each in ended} == {beta["ServiceID"]}
    assert all("PID" not in each["Status"]["ContainerStatus"] for each in ended)
    assert one.get("/tasks", **{"desired-state": ["accepted"]}) == []
    assert one.call("GET", "/services?filters=nonsense").status == 400
    assert one.call("GET", '/tasks?filters={"wonder":["x"]}'.replace('"', "%22")).status == 400


ENDPOINT = named("EndpointSpec", "EndpointSpec.Mode", "EndpointSpec.Ports",
                 *(f"EndpointSpec.Ports.{field}" for field in ("Protocol", "PublishedPort", "TargetPort")))  # fmt: skip
ANY = (str, int, dict, list)
ATTACHED = {
    each.removeprefix("tasks.inspect.response."): ANY
    for each in all_promises()
    if each.startswith("tasks.inspect.response.NetworksAttachments")
}
VIRTUAL = ("Endpoint.VirtualIPs[]", "Endpoint.VirtualIPs[].NetworkID", "Endpoint.VirtualIPs[].Addr")


LABELLED = {
    by: {
        "Driver": "overlay",
        "Labels": {"made": "here"},
        "IPAM": {"Driver": "default", "Config": [{"Subnet": f"{net}.0/24", "Gateway": f"{net}.9"}]},
    }
    for by, net in (("create", "10.77.1"), ("update", "10.77.2"))
}


@pytest.mark.promise(
    *ENDPOINT, *named("Networks"), "services.create.body.TaskTemplate.Networks",
    "services.create.body.TaskTemplate.Networks.Target", "services.create.b18", "services.update.b18",
    "services.create.b19", "services.update.b19", "services.create.b20", "services.update.b20",
    "services.list.b6", *(f"services.list.response.[].{path}" for path in VIRTUAL),
    *(f"services.inspect.response.{path}" for path in VIRTUAL), *promises("tasks.inspect", ATTACHED),
    *promises("tasks.list", {f"[].{path}": ANY for path in ATTACHED}),
)  # fmt: skip
@pytest.mark.parametrize("by", ["create", "update"])
def test_endpoints_and_networks(one: Swarm, by: str) -> None:
    answer = one.call("POST", "/networks/create", LABELLED[by] | {"Name": f"over-{by}"})
    assert answer.status == 201, answer.body
    network, other = answer.value["Id"], f"other-{by}"
    assert one.call("POST", "/networks/create", {"Name": other, "Driver": "overlay"}).status == 201
    web = ("httpd", "-f", "-h", "/etc")
    ports = [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8088}, {"Protocol": "udp", "TargetPort": 53}]
    published = spec("web", *web, EndpointSpec={"Mode": "vip", "Ports": ports}, Networks=[network])
    client = spec("client", task={"Networks": [{"Target": f"over-{by}"}]}, Networks=[other])
    robin = spec("robin", EndpointSpec={"Mode": "dnsrr"}, Networks=[f"over-{by}"])
    if by == "create":
        for each in (published, client, robin):
            one.create(each)
    else:
        for each in (spec("web", *web), spec("client"), spec("robin")):
            one.create(each)
            one.running(each["Name"])
        for each in (published, client, robin):
            one.update(each["Name"], each)
        one.until(lambda: all(one.service(name).get("UpdateStatus", {}).get("State") == "completed"
                              for name in ("web", "client", "robin")), "web", "the updates")  # fmt: skip
    (server,), (asker,), _ = (one.running(name) for name in ("web", "client", "robin"))
    endpoint = one.service("web")["Endpoint"]
    shown = [port | {"PublishMode": "ingress"} for port in ports]  # the CLI shows only ports that say so
    assert endpoint["Spec"] == {"Mode": "vip", "Ports": shown}
    tcp, udp = endpoint["Ports"]
    assert (tcp["Protocol"], tcp["TargetPort"], tcp["PublishedPort"]) == ("tcp", 80, 8088)
    assert (udp["Protocol"], udp["TargetPort"], 30_000 <= udp["PublishedPort"] <= 32_767) == ("udp", 53, True)
    virtual = {vip["NetworkID"]: vip["Addr"] for vip in endpoint["VirtualIPs"]}
    assert network in virtual
    address, _, prefix = virtual[network].partition("/")
    assert int(prefix) == 24
    (listed,) = one.get("/services", name=["web"])
    assert listed["Endpoint"] == endpoint
    assert "VirtualIPs" not in one.service("robin")["Endpoint"]
    assert one.service("robin")["Endpoint"]["Spec"]["Mode"] == "dnsrr"
    one.until(lambda: fetch(one.lab, "m1", "http://127.0.0.1:8088/passwd").startswith("root:"), "web", "the port")
    one.until(lambda: address in one.inside(asker, "nslookup", "web"), "client", "the service's name")
    attached = {each["Network"]["ID"] for each in asker["NetworksAttachments"]}
    assert len(attached) == 2, "by the template and by the older place"
    assert network in attached
    assert_fields(server, ATTACHED)
    assert one.get(f"/tasks/{server['ID']}") == server
    for wrong in ({"Mode": "dnsrr", "Ports": ports}, {"Mode": "magic"}):
        assert one.call("POST", "/services/create", spec("bad", EndpointSpec=wrong)).status == 400
        version = one.service("web")["Version"]["Index"]
        assert (
            one.call("POST", f"/services/web/update?version={version}", spec("web", EndpointSpec=wrong)).status == 400
        )


def test_a_command_that_is_not_there(one: Swarm) -> None:
    one.create(spec("absent", container={"Command": ["/nope"]}, task={"RestartPolicy": {"Condition": "none"}}))
    (task,) = one.until(lambda: one.tasks("absent", "failed"), "absent", "the start to fail")
    assert task["Status"]["Err"].startswith("starting container failed: ")
    assert task["Status"]["ContainerStatus"]["ExitCode"] == 127


def test_a_bind_of_a_missing_path_names_it(one: Swarm) -> None:
    mounts = [{"Type": "bind", "Source": "/no/such/path", "Target": "/x"}]
    one.create(spec("unbound", container={"Mounts": mounts}, task={"RestartPolicy": {"Condition": "none"}}))
    (task,) = one.until(lambda: one.tasks("unbound", "rejected"), "unbound", "the task to be rejected")
    assert "/no/such/path" in task["Status"]["Err"]
    assert task["NodeID"]


def test_scaling_to_nothing_and_back(one: Swarm) -> None:
    one.create(spec("tide", Mode={"Replicated": {"Replicas": 4}}))
    one.running("tide", 4)
    for replicas in (0, 3):
        one.update("tide", one.service("tide")["Spec"] | {"Mode": {"Replicated": {"Replicas": replicas}}})
        one.running("tide", replicas)
    label = "label=com.docker.swarm.service.name=tide"
    one.until(lambda: len(one.docker.ok("ps", "-aq", "--filter", label).split()) == 3, "tide", "three containers")


def test_removed_and_created_again_at_once(one: Swarm) -> None:
    for _ in range(20):
        one.create(spec("phoenix", Mode={"Replicated": {"Replicas": 2}}))
        one.remove("phoenix")
    one.create(spec("phoenix", Mode={"Replicated": {"Replicas": 2}}))
    one.running("phoenix", 2)
    label = "label=com.docker.swarm.service.name=phoenix"
    one.until(lambda: len(one.docker.ok("ps", "-aq", "--filter", label).split()) == 2, "phoenix", "two containers")

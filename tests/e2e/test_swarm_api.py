"""The endpoints of nodes and of the swarm (v1.24 sections 3.7 and 3.8) over HTTP: two hosts found, join and leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lab.lab import Lab, running
from lab.unixhttp import Answer
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.conftest import RUN

FIRST = "10.99.0.11"
SPEC = {
    "Orchestration": {"TaskHistoryRetentionLimit": 7},
    "Raft": {
        "SnapshotInterval": 900,
        "KeepOldSnapshots": 1,
        "LogEntriesForSlowFollowers": 30,
        "HeartbeatTick": 2,
        "ElectionTick": 7,
    },
    "Dispatcher": {"HeartbeatPeriod": 2_000_000_000},
    "CAConfig": {"NodeCertExpiry": 7_200_000_000_000},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(f"{RUN}-api", managers=2, registry=False) as found:
        yield found


@pytest.fixture
def one(lab: Lab) -> Iterator[Docker]:
    """A host in no swarm."""
    yield Docker(lab.socket("m1"))
    _alone(lab, "m1")


@pytest.fixture
def two(lab: Lab) -> Iterator[Docker]:
    """Another one."""
    yield Docker(lab.socket("m2"))
    _alone(lab, "m2")


def _alone(lab: Lab, host: str) -> None:
    docker = Docker(lab.socket(host))
    if state(docker) != "inactive":
        docker.ok("swarm", "leave", "--force")
    assert state(docker) == "inactive"


def state(docker: Docker) -> str:
    return docker.ok("info", "--format", "{{.Swarm.LocalNodeState}}")


def post(docker: Docker, path: str, body: dict[str, Any] | None = None) -> Answer:
    return docker.http("POST", f"/v1.24{path}", body)


def get(docker: Docker, path: str) -> Any:
    answer = docker.http("GET", f"/v1.24{path}")
    assert answer.status == 200, answer.body
    return answer.value


def init(docker: Docker, **body: Any) -> Answer:
    return post(docker, "/swarm/init", {"ListenAddr": "0.0.0.0:2377", **body})


def join(docker: Docker, token: str, **body: Any) -> Answer:
    remotes = {"ListenAddr": "0.0.0.0:2377", "RemoteAddrs": [f"{FIRST}:2377"], "JoinToken": token}
    return post(docker, "/swarm/join", remotes | body)


def tokens(docker: Docker) -> dict[str, str]:
    return dict(get(docker, "/swarm")["JoinTokens"])


def listening(lab: Lab, host: str) -> list[str]:
    """`address:port` of the TCP sockets that the host listens on, IPv4 and IPv6."""
    lines = lab.run(host, "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()
    found = [line.split()[1] for line in lines if len(line.split()) > 3 and line.split()[3] == "0A"]
    return [f"{each.split(':')[0]}:{int(each.split(':')[1], 16)}" for each in found]


@pytest.mark.promise(
    "swarm.init.b2", "swarm.init.b3", "swarm.init.b5", "swarm.init.b7", "swarm.init.b11", "swarm.init.b12",
    "swarm.init.status.200", "swarm.init.status.406", "swarm.init.body.AdvertiseAddr", "swarm.init.body.Spec",
    "swarm.leave.b1", "swarm.leave.b2", "swarm.leave.b3", "swarm.leave.status.200", "swarm.leave.status.406",
    "swarm.leave.status.500", "swarm.leave.query.force",
)  # fmt: skip
def test_a_swarm_is_founded_and_left(lab: Lab, one: Docker) -> None:
    empty: dict[str, Any] = {"Orchestration": {}, "Raft": {}, "Dispatcher": {}, "CAConfig": {}}
    answer = init(one, ListenAddr="0.0.0.0", AdvertiseAddr="", Spec=empty)
    assert answer.status == 200
    node_id = answer.value
    assert (len(node_id), json.dumps(node_id).encode()) == (25, answer.body.strip())
    (node,) = get(one, "/nodes")
    assert (node["ID"], node["ManagerStatus"]["Addr"]) == (node_id, f"{FIRST}:2377")
    assert any(each.endswith(":2377") for each in listening(lab, "m1"))
    again = init(one)
    assert (again.status, "already part of a swarm" in again.message) == (406, True)
    refused = post(one, "/swarm/leave")
    assert (refused.status, "last manager" in refused.message) == (500, True)
    assert state(one) == "active"
    left = post(one, "/swarm/leave?force=1")
    assert (left.status, left.body, left.headers["content-length"]) == (200, b"", "0")
    outside = post(one, "/swarm/leave?force=true")
    assert (outside.status, "not part of a swarm" in outside.message) == (406, True)


@pytest.mark.parametrize(
    ("listen", "advertise", "addr"),
    [
        ("eth0:4567", "", f"{FIRST}:4567"),
        (f"{FIRST}:4567", "eth0", f"{FIRST}:4567"),
        ("0.0.0.0:4567", FIRST, f"{FIRST}:4567"),
        ("eth0", f"{FIRST}:9999", f"{FIRST}:9999"),
    ],
)
@pytest.mark.promise("swarm.init.b4", "swarm.init.b6", "swarm.init.body.ListenAddr", "swarm.init.body.AdvertiseAddr")
def test_where_a_manager_listens_and_what_it_tells(
    lab: Lab, one: Docker, listen: str, advertise: str, addr: str
) -> None:
    answer = init(one, ListenAddr=listen, AdvertiseAddr=advertise)
    assert answer.status == 200, answer.body
    assert get(one, "/nodes/self")["ManagerStatus"]["Addr"] == addr
    port = listen.rpartition(":")[2] if ":" in listen else "2377"
    bound = next(each for each in listening(lab, "m1") if each.endswith(f":{port}"))
    # The kernel writes 10.99.0.11 with its bytes turned around (as IPv4, or mapped into IPv6).
    assert bound.rpartition(":")[0].endswith("0B00630A" if not listen.startswith("0.0.0.0") else "00000000")


FIELDS = [
    "Orchestration", "Orchestration.TaskHistoryRetentionLimit", "Raft", "Raft.SnapshotInterval",
    "Raft.KeepOldSnapshots", "Raft.LogEntriesForSlowFollowers", "Raft.HeartbeatTick", "Raft.ElectionTick", "Dispatcher",
    "Dispatcher.HeartbeatPeriod", "CAConfig", "CAConfig.NodeCertExpiry",
]  # fmt: skip


@pytest.mark.promise(*(f"swarm.init.body.Spec.{field}" for field in FIELDS))
def test_the_spec_of_a_new_swarm(one: Docker) -> None:
    assert init(one, Spec=SPEC).status == 200
    shown = get(one, "/swarm")["Spec"]
    assert {part: shown[part] for part in SPEC} == SPEC


@pytest.mark.promise(
    *(f"swarm.update.body.{field}" for field in FIELDS), "swarm.update.body.Name", "swarm.update.status.500",
    "swarm.update.query.rotateManagerToken", "swarm.update.body.JoinTokens", "swarm.update.body.JoinTokens.Worker",
    "swarm.update.body.JoinTokens.Manager",
)  # fmt: skip
def test_the_spec_of_a_swarm_is_changed(one: Docker) -> None:
    assert init(one).status == 200
    before = get(one, "/swarm")
    given = before["JoinTokens"]["Worker"][:-25]
    version = before["Version"]["Index"]
    for bad in ("nonsense", "SWMTKN-1-" + "0" * 50 + "-" + "a" * 25):
        refused = post(one, f"/swarm/update?version={version}", SPEC | {"JoinTokens": {"Worker": bad}})
        assert (refused.status, "JoinTokens.Worker" in refused.message, bad in refused.message) == (400, True, False)
    body = SPEC | {"Name": "default", "JoinTokens": {"Worker": f"{given}{'a' * 25}", "Manager": f"{given}{'b' * 25}"}}
    stale = post(one, f"/swarm/update?version={version + 1}", body)
    assert (stale.status, stale.message) == (500, "update out of sequence")
    assert post(one, f"/swarm/update?version={version}", body | {"Name": "other"}).status == 400
    assert post(one, f"/swarm/update?version={version}", body).status == 200
    after = get(one, "/swarm")
    assert {part: after["Spec"][part] for part in SPEC} == SPEC
    assert after["Spec"]["Name"] == "default"
    assert after["JoinTokens"] == body["JoinTokens"]
    rotate = f"/swarm/update?version={after['Version']['Index']}&rotateManagerToken=true"
    assert post(one, rotate, after["Spec"]).status == 200
    rotated = tokens(one)
    assert rotated["Worker"] == after["JoinTokens"]["Worker"]
    assert rotated["Manager"] != after["JoinTokens"]["Manager"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"ListenAddr": "eth7:2377"}, "ListenAddr"),
        ({"ListenAddr": "0.0.0.0:99999"}, "ListenAddr"),
        ({"AdvertiseAddr": "0.0.0.0"}, "AdvertiseAddr"),
        ({"AdvertiseAddr": "nowhere"}, "AdvertiseAddr"),
        ({"Spec": {"CAConfig": {"NodeCertExpiry": 1_000_000_000}}}, "minimum certificate expiry time"),
        ({"Spec": {"CAConfig": {"ExternalCAs": [{"Protocol": "acme", "URL": "https://ca"}]}}}, "acme"),
        ({"Spec": {"Raft": {"HeartbeatTick": 3, "ElectionTick": 3}}}, "ElectionTick"),
        ({"Spec": {"Raft": {"SnapshotInterval": -1}}}, "SnapshotInterval"),
        ({"Spec": {"Orchestration": {"TaskHistoryRetentionLimit": "x"}}}, "TaskHistoryRetentionLimit"),
    ],
)
@pytest.mark.promise("swarm.init.b9", "swarm.init.b10", "swarm.init.status.400")
def test_what_no_swarm_is_founded_with(one: Docker, body: dict[str, Any], said: str) -> None:
    answer = init(one, **body)
    assert (answer.status, said in answer.message) == (400, True), answer.message
    assert state(one) == "inactive"


@pytest.mark.promise("swarm.update.b5")
def test_the_protocol_of_an_external_ca_is_checked(one: Docker) -> None:
    assert init(one).status == 200
    version = get(one, "/swarm")["Version"]["Index"]
    body = SPEC | {"CAConfig": {"ExternalCAs": [{"Protocol": "acme", "URL": "https://ca"}]}}
    answer = post(one, f"/swarm/update?version={version}", body)
    assert (answer.status, "acme" in answer.message) == (400, True)


@pytest.mark.promise("swarm.init.status.500")
def test_a_port_that_is_taken_leaves_no_swarm(lab: Lab, one: Docker) -> None:
    holder = lab.run("m1", "sh", "-c", "busybox nc -l -p 2399 >/dev/null 2>&1 & echo $!").stdout.strip()
    try:
        until(lambda: any(each.endswith(":2399") for each in listening(lab, "m1")), timeout_s=5, what="the listener")
        answer = init(one, ListenAddr="0.0.0.0:2399")
        assert (answer.status, "2399" in answer.message) == (500, True)
        assert state(one) == "inactive"
    finally:
        lab.run("m1", "kill", holder)


@pytest.mark.promise(
    "swarm.join.b2", "swarm.join.b3", "swarm.join.b4", "swarm.join.b5", "swarm.join.b7", "swarm.join.status.200",
    "swarm.join.status.406", "swarm.join.status.500", "swarm.join.body.ListenAddr", "swarm.join.body.AdvertiseAddr",
    "swarm.join.body.RemoteAddrs", "swarm.join.body.JoinToken",
)  # fmt: skip
@pytest.mark.parametrize(
    ("role", "listen", "advertise", "addr"),
    [("Worker", "0.0.0.0:2377", "", "10.99.0.12"), ("Manager", "eth0:4567", "10.99.0.12", "10.99.0.12:4567")],
)
def test_a_node_joins(one: Docker, two: Docker, role: str, listen: str, advertise: str, addr: str) -> None:
    assert init(one).status == 200
    nobody = join(two, tokens(one)[role], RemoteAddrs=["10.99.0.77:2377"])
    assert (nobody.status, state(two)) == (500, "inactive")
    wrong = join(two, tokens(one)[role][:-1] + ("0" if tokens(one)[role][-1] != "0" else "1"))
    assert (wrong.status, state(two)) == (400, "inactive")
    assert len(get(one, "/nodes")) == 1
    # The first address leads nowhere: any manager will do.
    remotes = [f"{FIRST}:2398", f"{FIRST}:2377"]
    done = join(two, tokens(one)[role], ListenAddr=listen, AdvertiseAddr=advertise, RemoteAddrs=remotes)
    assert (done.status, done.body, done.headers["content-length"]) == (200, b"", "0")
    again = join(two, tokens(one)[role])
    assert (again.status, "already part of a swarm" in again.message) == (406, True)
    node = next(each for each in get(one, "/nodes") if "Leader" not in each.get("ManagerStatus", {}))
    assert node["Spec"]["Role"] == role.lower()
    if role == "Manager":
        assert node["ManagerStatus"]["Addr"] == addr
    else:
        assert two.ok("info", "--format", "{{.Swarm.NodeAddr}}") == addr
    if role == "Manager":  # so that what the fixtures do next finds a majority
        assert post(two, "/swarm/leave?force=1").status == 200


def test_a_join_that_fails_half_way_leaves_a_record_that_can_be_removed(lab: Lab, one: Docker, two: Docker) -> None:
    assert init(one).status == 200
    holder = lab.run("m2", "sh", "-c", "busybox nc -l -p 2399 >/dev/null 2>&1 & echo $!").stdout.strip()
    try:
        until(lambda: any(each.endswith(":2399") for each in listening(lab, "m2")), timeout_s=5, what="the listener")
        failed = join(two, tokens(one)["Manager"], ListenAddr="0.0.0.0:2399")
        assert (failed.status, "2399" in failed.message, state(two)) == (500, True, "inactive")
    finally:
        lab.run("m2", "kill", holder)
    for node in get(one, "/nodes"):  # the certificate was issued; the node never came
        if not node.get("ManagerStatus", {}).get("Leader"):
            assert one.http("DELETE", f"/v1.24/nodes/{node['ID']}").status == 200
    assert len(get(one, "/nodes")) == 1
    assert join(two, tokens(one)["Worker"]).status == 200


def test_a_rotated_token_lets_nobody_in(one: Docker, two: Docker) -> None:
    assert init(one).status == 200
    old = tokens(one)["Worker"]
    swarm = get(one, "/swarm")
    assert (
        post(one, f"/swarm/update?version={swarm['Version']['Index']}&rotateWorkerToken=1", swarm["Spec"]).status == 200
    )
    assert join(two, old).status == 400
    assert join(two, tokens(one)["Worker"]).status == 200


@pytest.mark.promise(
    "nodes.list.query.filters", "nodes.update.body.Annotations", "nodes.update.body.Name", "nodes.update.body.Labels",
    "nodes.update.body.Role", "nodes.update.body.Availability", "nodes.update.status.500",
)  # fmt: skip
def test_a_node_is_changed(one: Docker, two: Docker) -> None:
    assert init(one).status == 200
    assert join(two, tokens(one)["Worker"]).status == 200
    workers = "/nodes?filters=%7B%22role%22%3A%5B%22worker%22%5D%7D"
    until(  # its first session changes the record, and so the version
        lambda: get(one, workers)[0]["Status"]["State"] == "ready", timeout_s=15, what="the worker to be ready"
    )
    (node,) = get(one, workers)
    path = f"/nodes/{node['ID']}/update?version="
    body = {"Annotations": {}, "Name": "hand", "Labels": {"rack": "3"}, "Role": "worker", "Availability": "drain"}
    assert post(one, path + str(node["Version"]["Index"] + 1), body).status == 500
    assert get(one, f"/nodes/{node['ID']}")["Spec"] == node["Spec"]
    assert post(one, path + str(node["Version"]["Index"]), body).status == 200
    shown = get(one, f"/nodes/{node['ID']}")
    assert shown["Spec"] == {key: value for key, value in body.items() if key != "Annotations"}
    for field, value in (("Role", "king"), ("Availability", "asleep"), ("Labels", [])):
        bad = post(one, path + str(shown["Version"]["Index"]), body | {field: value})
        assert (bad.status, field in bad.message) == (400, True), bad.message


def test_a_demoted_manager_and_a_removed_node_are_what_the_swarm_says(one: Docker, two: Docker) -> None:
    assert init(one).status == 200
    assert join(two, tokens(one)["Manager"]).status == 200
    mine = two.ok("info", "--format", "{{.Swarm.NodeID}}")
    still = one.bad("node", "rm", mine)
    assert "manager" in still.err
    last = post(one, f"/nodes/{mine}/update?version=1", {"Role": "worker", "Availability": "active"})
    assert last.status == 500
    one.ok("node", "demote", mine)
    until(
        lambda: two.ok("info", "--format", "{{.Swarm.ControlAvailable}}") == "false",
        timeout_s=15,
        what="the demoted manager to be none",
    )
    assert two.http("GET", "/v1.24/nodes").status == 406
    refused = one.bad("node", "demote", one.ok("info", "--format", "{{.Swarm.NodeID}}"))
    assert "last manager" in refused.err
    up = one.bad("node", "rm", mine)
    assert "is not down" in up.err
    assert post(two, "/swarm/leave").status == 200
    until(
        lambda: one.run("node", "rm", mine).code == 0,
        timeout_s=30,
        what="the node that left to be seen as down, and removed",
    )
    assert len(get(one, "/nodes")) == 1


@pytest.mark.promise(
    "nodes.list.status.500", "nodes.inspect.status.500", "nodes.remove.status.500", "swarm.inspect.status.500",
    "swarm.init.b8", "swarm.init.body.ForceNewCluster", "services.list.status.500", "services.create.status.500",
    "services.inspect.status.500", "services.update.status.500", "services.remove.status.500",
    "tasks.list.status.500", "tasks.inspect.status.500",
)  # fmt: skip
def test_without_a_majority_there_is_no_answer_until_one_begins_anew(lab: Lab, one: Docker, two: Docker) -> None:
    assert init(one).status == 200
    assert join(two, tokens(one)["Manager"]).status == 200
    until(lambda: len(_reachable(one)) == 2, timeout_s=15, what="two managers")
    one.ok("service", "create", "--name", "kept", "--constraint", "node.labels.x==y", "busybox", "true")
    before, first = get(one, "/swarm"), get(one, "/nodes/self")
    lab.kill("m2")
    try:
        service = {"Name": "lost", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
        reads = [("GET", f"/{path}") for path in
                 ("nodes", "nodes/self", "swarm", "services", "services/kept", "tasks", "tasks/kept")]  # fmt: skip
        writes = [("DELETE", f"/nodes/{first['ID']}"), ("DELETE", "/services/kept"), ("POST", "/services/create"),
                  ("POST", "/services/kept/update?version=1")]  # fmt: skip

        def ask(call: tuple[str, str]) -> Answer:
            return one.http(call[0], f"/v1.24{call[1]}", service if call[0] == "POST" else None)

        with ThreadPoolExecutor(len(reads)) as pool:  # each waits for a leader as long as an election may take
            for asked in (reads, writes):  # the leader has stepped down before the writes
                for lost in pool.map(ask, asked):
                    assert (lost.status, "does not have a leader" in lost.message) == (500, True), lost.message
        answer = init(one, ForceNewCluster=True)
        assert (answer.status, answer.value) == (200, first["ID"])
        after = get(one, "/swarm")
        assert (after["ID"], after["JoinTokens"]) == (before["ID"], before["JoinTokens"])
        assert get(one, "/services/kept")["Spec"]["Name"] == "kept"
        assert len(get(one, "/nodes")) == 2
        until(lambda: len(_reachable(one)) == 1, timeout_s=10, what="one manager")
    finally:
        lab.start("m2")
    # The other one comes back, and is a worker now.
    until(lambda: two.http("GET", "/v1.24/nodes").status == 406, timeout_s=30, what="the old manager to be a worker")
    rows = get(one, "/nodes")
    until(
        lambda: {each["Status"]["State"] for each in get(one, "/nodes")} == {"ready"}, timeout_s=30, what="both ready"
    )
    assert sorted(each["Spec"]["Role"] for each in rows) == ["manager", "worker"]


def _reachable(docker: Docker) -> list[str]:
    nodes = get(docker, "/nodes")
    return [each["ID"] for each in nodes if each.get("ManagerStatus", {}).get("Reachability") == "reachable"]

"""The pure rules: names, binds, configuration, limits, restart policies, detach keys, words, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidArgument
from api.types.container import (
    ContainerConfig,
    CreateBody,
    HealthConfig,
    HostConfig,
    LogConfig,
    RestartPolicy,
    Ulimit,
    UpdateBody,
)
from api.types.endpoint import PortBinding
from worker.engine.containers import stats, words
from worker.engine.containers.binds import Bind, parse_bind, parse_volumes_from
from worker.engine.containers.config import merge_config
from worker.engine.containers.detach import DEFAULT_KEYS, DetachScanner, parse_keys
from worker.engine.containers.hostconfig import normalise
from worker.engine.containers.names import check_name, random_name
from worker.engine.containers.plan import tmpfs_options
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.restart import STEADY_NS, Again, after_exit, at_daemon_start
from worker.engine.containers.security import check_security, oci_seccomp
from worker.engine.containers.signals import parse_signal
from worker.engine.containers.start import exit_code_of
from worker.engine.containers.states import LIVE, TRANSITIONS, Status, may_follow
from worker.engine.containers.top import from_proc, parse_ps
from worker.engine.containers.update import merge
from worker.engine.logs.drivers.options import log_limits

IMAGE: dict[str, Any] = {
    "Cmd": ["serve"],
    "Entrypoint": ["/entry"],
    "Env": ["PATH=/bin", "A=image"],
    "Labels": {"from": "image", "both": "image"},
    "Volumes": {"/data": {}},
    "ExposedPorts": {"80/tcp": {}},
    "WorkingDir": "/srv",
    "User": "web",
    "StopSignal": "SIGQUIT",
    "Healthcheck": {"Test": ["CMD", "check"], "Interval": 5_000_000_000, "Retries": 4},
}


def merged(image: dict[str, Any] | None = None, **fields: Any) -> ContainerConfig:
    return merge_config(CreateBody(image="x", **fields), IMAGE if image is None else image)


# --- names and signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["web", "/web", "a.b-c_d", "9lives"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name.removeprefix("/")


@pytest.mark.parametrize("name", ["", "/", "-x", "a b", "a/b", "é1", "x" * 256])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        check_name(name)


def test_random_names_are_good_names() -> None:
    for attempt in range(50):
        assert check_name(random_name(attempt))


@pytest.mark.parametrize(("text", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), (9, 9), ("SIGRTMIN+1", 35)])
def test_signals(text: str | int, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "SIGNOPE", "-9"])
def test_bad_signals(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid signal"):
        parse_signal(text)


# --- configuration ---------------------------------------------------------------------------------------------


@pytest.mark.promise("containers.create.b9", "containers.create.b10")
@pytest.mark.parametrize(
    ("fields", "entrypoint", "cmd"),
    [
        ({}, ["/entry"], ["serve"]),
        ({"cmd": ["other"]}, ["/entry"], ["other"]),
        ({"cmd": "date"}, ["/entry"], ["date"]),
        ({"entrypoint": ["/mine"]}, ["/mine"], None),
        ({"entrypoint": "/mine", "cmd": "date"}, ["/mine"], ["date"]),
        ({"entrypoint": [""], "cmd": ["sh"]}, None, ["sh"]),
    ],
)
def test_entrypoint_and_command(fields: dict[str, Any], entrypoint: list[str] | None, cmd: list[str] | None) -> None:
    config = merged(**fields)
    assert (config.entrypoint, config.cmd) == (entrypoint, cmd)


def test_no_command_at_all() -> None:
    with pytest.raises(InvalidArgument, match="No command specified"):
        merged({})


def test_the_image_fills_what_is_left_out() -> None:
    config = merged(env=["A=own"], labels={"both": "own"}, volumes={"/more": {}}, exposed_ports={"53/udp": {}})
    assert config.env == ["A=own", "PATH=/bin"]
    assert config.labels == {"from": "image", "both": "own"}
    assert sorted(config.volumes or {}) == ["/data", "/more"]
    assert sorted(config.exposed_ports or {}) == ["53/udp", "80/tcp"]
    assert (config.working_dir, config.user, config.stop_signal) == ("/srv", "web", "SIGQUIT")


@pytest.mark.promise("containers.create.b12", "containers.create.b17")
def test_healthcheck_inherits_field_by_field() -> None:
    config = merged(healthcheck=HealthConfig(retries=9))
    assert config.healthcheck == HealthConfig(test=["CMD", "check"], interval=5_000_000_000, retries=9)


@pytest.mark.promise("containers.create.b16")
def test_healthcheck_times() -> None:
    with pytest.raises(InvalidArgument, match="Interval in Healthcheck cannot be less than 1ms"):
        merged(healthcheck=HealthConfig(interval=999_999))


@pytest.mark.promise("containers.create.b6")
@pytest.mark.parametrize("name", ["-x", "a_b", "x" * 64, "a..b"])
def test_bad_hostnames(name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid hostname format"):
        merged(hostname=name)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"working_dir": "rel"}, "absolute path"),
        ({"env": ["=x"]}, "invalid environment variable"),
        ({"stop_signal": "NOPE"}, "Invalid signal"),
        ({"exposed_ports": {"http": {}}}, "Invalid port specification"),
        ({"exposed_ports": {"70000": {}}}, "Invalid port specification"),
        ({"volumes": {"rel": {}}}, "must be absolute"),
    ],
)
def test_bad_configurations(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        merged(**fields)


# --- host configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"memory": 1024}, "Minimum memory limit"),
        ({"memory": 8 << 20, "memory_swap": 4 << 20}, "larger than memory limit"),
        ({"memory_swap": 8 << 20}, "always set the Memory limit"),
        ({"memory": 8 << 20, "memory_reservation": 16 << 20}, "reservation"),
        ({"memory_swappiness": 101}, "swappiness range is 0-100"),
        ({"cpu_period": 10}, "CPU cfs period"),
        ({"cpu_quota": 10}, "CPU cfs quota"),
        ({"cpuset_cpus": "0-x"}, "Invalid value 0-x for cpuset cpus"),
        ({"cpuset_cpus": "7"}, "Requested CPUs are not available - requested 7, available: 0-1"),
        ({"blkio_weight": 5}, "blkio weight"),
        ({"oom_score_adj": 2000}, "oom score adj"),
        ({"shm_size": -1}, "SHM size"),
        ({"restart_policy": RestartPolicy(name="sometimes")}, "invalid restart policy"),
        ({"restart_policy": RestartPolicy(name="always", maximum_retry_count=3)}, "maximum retry count"),
        ({"ulimits": [Ulimit(name="nofile", soft=5, hard=4)]}, "5 > 4"),
        ({"cap_add": ["NOPE"]}, "unknown capability"),
        ({"security_opt": ["nope=1"]}, "security-opt"),
        ({"security_opt": ["seccomp={"]}, "seccomp profile"),
        ({"log_config": LogConfig(type="splunk")}, "no log driver named 'splunk'"),
        ({"log_config": LogConfig(config={"odd": "1"})}, "unknown log opt 'odd'"),
        ({"sysctls": {"kernel.panic": "1"}}, "not whitelisted"),
        ({"network_mode": "host", "sysctls": {"net.ipv4.ip_forward": "1"}}, "not allowed"),
        ({"pid_mode": "odd"}, "invalid PID mode"),
        ({"ipc_mode": "container:"}, "invalid IPC mode"),
        ({"userns_mode": "odd"}, "user namespace mode"),
        ({"port_bindings": {"80/tcp": [PortBinding(host_port="99999")]}}, "invalid port specification"),
        ({"storage_opt": {"size": "1G"}}, "storage-opt is supported only for overlay over xfs"),
        ({"storage_opt": {"odd": "1G"}}, "Unknown option odd"),
        ({"runtime": "odd"}, "Unknown runtime specified odd"),
    ],
)
def test_host_settings_that_cannot_be(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        normalise(HostConfig(**fields), {0, 1})


def test_what_has_no_effect_is_said() -> None:
    host, warnings = normalise(HostConfig(cgroup="container:x"), {0})
    assert (host.cgroup, warnings) == ("container:x", ["HostConfig.Cgroup has no effect. Use CgroupParent."])


@pytest.mark.promise("containers.create.b65", "containers.create.b30", "containers.create.b36")
def test_defaults_are_filled_in() -> None:
    host, warnings = normalise(HostConfig(memory=8 << 20, memory_swap=-1, memory_swappiness=60), {0})
    assert (host.shm_size, host.network_mode, host.log_config.type) == (67108864, "default", "json-file")
    assert (host.memory_swap, host.memory_swappiness) == (-1, 60)
    assert host.devices == []
    assert host.port_bindings == {}
    assert warnings == []
    assert normalise(HostConfig(memory=8 << 20), {0})[0].memory_swap == 16 << 20


def test_port_bindings_are_keyed_by_protocol() -> None:
    host, _ = normalise(HostConfig(port_bindings={"80": [PortBinding(host_port="8080")], "90-91/udp": None}), {0})
    assert sorted(host.port_bindings or {}) == ["80/tcp", "90/udp", "91/udp"]


def test_log_limits() -> None:
    assert log_limits({"max-size": "10m", "max-file": "3"}) == (10 << 20, 3)
    assert log_limits({}) == (0, 1)
    for options in ({"max-file": "2"}, {"max-size": "x"}, {"max-size": "1m", "max-file": "0"}):
        with pytest.raises(InvalidArgument, match="max-"):
            log_limits(options)


def test_security_options() -> None:
    found = check_security(["no-new-privileges", "seccomp=unconfined", "apparmor=unconfined", "label=disable"])
    assert (found.no_new_privileges, found.seccomp) == (True, "unconfined")


def test_a_profile_of_ones_own_follows_the_capabilities() -> None:
    rule = {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}
    without, with_cap = oci_seccomp(profile, []), oci_seccomp(profile, ["CAP_SYS_ADMIN"])
    assert not isinstance(without, str)
    assert not isinstance(with_cap, str)
    assert without["syscalls"] == []
    assert with_cap["syscalls"] == [{"names": ["mount"], "action": "SCMP_ACT_ALLOW"}]


def test_tmpfs_options_replace_their_opposites() -> None:
    assert tmpfs_options("size=64k,exec") == ("nosuid", "nodev", "size=64k", "exec")
    assert tmpfs_options("") == ("noexec", "nosuid", "nodev")
    with pytest.raises(InvalidArgument, match='Invalid tmpfs option "odd=1"'):
        tmpfs_options("odd=1")


def test_update_keeps_what_it_does_not_name() -> None:
    host = HostConfig(memory=8 << 20, memory_swap=16 << 20, cpu_shares=5, restart_policy=RestartPolicy(name="always"))
    after = merge(host, UpdateBody(cpu_shares=9))
    assert (after.cpu_shares, after.memory, after.restart_policy.name) == (9, 8 << 20, "always")
    with pytest.raises(InvalidArgument, match="memoryswap"):
        merge(host, UpdateBody(memory=32 << 20))


# --- binds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/a:/b", Bind("/a", "/b")),
        ("/a/../c:/b/:ro", Bind("/c", "/b", "ro", rw=False)),
        ("name:/b:ro,nocopy", Bind("name", "/b", "ro,nocopy", rw=False, copy=False)),
        ("/a:/b:rw,rshared,z", Bind("/a", "/b", "rw,rshared,z", propagation="rshared")),
        ("/b", Bind("", "/b")),
    ],
)
def test_binds(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize(
    "text",
    ["", "a:b", "/a:/", "/a:/b:odd", "/a:/b:ro,rw", "/a:/b:nocopy", "a/b:/c", "/a:/b:ro:x", ":/b", "v:/b:shared"],
)
def test_bad_binds(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_bind(text)


@pytest.mark.promise("containers.create.b49")
def test_volumes_from() -> None:
    assert parse_volumes_from("web") == ("web", "")
    assert parse_volumes_from("web:ro") == ("web", "ro")
    with pytest.raises(InvalidArgument):
        parse_volumes_from("web:odd")


# --- restart and states ----------------------------------------------------------------------------------------


def again(name: str, **facts: Any) -> Again | None:
    defaults: dict[str, Any] = {"exit_code": 1, "ran_ns": 0, "failures": 0, "manually_stopped": False}
    return after_exit(RestartPolicy(name=name, maximum_retry_count=facts.pop("most", 0)), **(defaults | facts))


def test_restart_decisions() -> None:
    assert again("no") is None
    assert again("") is None
    assert again("always", exit_code=0) is not None
    assert again("always", manually_stopped=True) is None
    assert again("unless-stopped", exit_code=0) is not None
    assert again("on-failure", exit_code=0) is None
    assert again("on-failure", most=3, failures=2) is not None
    assert again("on-failure", most=3, failures=3) is None


@pytest.mark.promise("containers.create.b56")
def test_restart_delays_double_from_a_tenth_and_are_forgiven() -> None:
    delays = [result.delay_s for failures in range(5) if (result := again("always", failures=failures))]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert again("always", failures=40) == Again(60.0, 41)
    assert again("always", failures=9, ran_ns=STEADY_NS) == Again(0.1, 1)


def test_policies_at_the_daemons_start() -> None:
    def starts(name: str, **facts: Any) -> bool:
        defaults: dict[str, Any] = {"exit_code": 0, "failures": 0, "manually_stopped": False, "ever_started": True}
        return at_daemon_start(RestartPolicy(name=name, maximum_retry_count=2), **(defaults | facts))

    assert starts("always", manually_stopped=True)
    assert not starts("always", ever_started=False)
    assert starts("unless-stopped")
    assert not starts("unless-stopped", manually_stopped=True)
    assert starts("on-failure", exit_code=1, failures=1)
    assert not starts("on-failure", exit_code=1, failures=2)
    assert not starts("on-failure")
    assert not starts("no", exit_code=1)


def test_every_state_can_come_to_an_end() -> None:
    assert set(TRANSITIONS) == set(Status)
    for state in Status:
        reached, before = {state}, set[Status]()
        while reached != before:
            before = set(reached)
            reached |= {after for known in before for after in TRANSITIONS[known]}
        assert Status.REMOVING in reached
    assert not any(may_follow(state, Status.REMOVING) for state in LIVE)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ("stat /x: no such file or directory", 127),
        ("exec: /x: permission denied", 126),
        ("anything else", 128),
    ],
)
def test_exit_codes_of_failed_starts(message: str, code: int) -> None:
    assert exit_code_of(message) == code


# --- detach keys -----------------------------------------------------------------------------------------------


@pytest.mark.promise("containers.attach.b8")
def test_detach_keys() -> None:
    assert parse_keys("") == DEFAULT_KEYS == b"\x10\x11"
    assert parse_keys("ctrl-a,x,ctrl-[,ctrl-@") == b"\x01x\x1b\x00"
    for text in ("ctrl-", "long", "ctrl-,", "a,,b", "ctrl-1"):
        with pytest.raises(InvalidArgument, match="detach keys"):
            parse_keys(text)


@given(st.lists(st.binary(max_size=5)), st.lists(st.binary(max_size=5)), st.binary(max_size=4))
def test_detach_is_found_however_input_is_cut(before: list[bytes], cuts: list[bytes], rest: bytes) -> None:
    plain = b"".join(before).replace(b"\x10", b"p") + b"".join(cuts).replace(b"\x10", b"q")
    whole = plain + DEFAULT_KEYS + rest
    for size in (1, 2, 3, 7):
        scanner = DetachScanner(DEFAULT_KEYS)
        seen = b""
        for start in range(0, len(whole), size):
            passed, detached = scanner.feed(whole[start : start + size])
            seen += passed
            if detached:
                break
        assert (seen, detached) == (plain, True)


@given(st.binary())
def test_input_without_the_keys_passes_whole(data: bytes) -> None:
    data = data.replace(DEFAULT_KEYS, b"")
    while DEFAULT_KEYS in data:
        data = data.replace(DEFAULT_KEYS, b"")
    scanner = DetachScanner(DEFAULT_KEYS)
    seen = b"".join(scanner.feed(bytes([byte]))[0] for byte in data) + scanner.flush()
    assert seen == data


# --- words and tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (3 * 86400, "3 days"),
        (21 * 86400, "3 weeks"),
        (100 * 86400, "3 months"),
        (900 * 86400, "2 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_records_survive_their_encoding() -> None:
    record = ContainerRecord(
        id="a", name="n", created_ns=1, image_id="i", config=merged(), host_config=HostConfig(memory=9), path="/entry"
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=ContainerRecord) == record


@pytest.mark.promise("containers.top.b7", "containers.top.b6")
def test_ps_output_is_narrowed_to_the_containers_pids() -> None:
    output = "USER PID %CPU COMMAND\nroot 7 0.0 sleep 10  now\nroot 8 0.0 other\n"
    answer = parse_ps(output, [7])
    assert answer.titles == ["USER", "PID", "%CPU", "COMMAND"]
    assert answer.processes == [["root", "7", "0.0", "sleep 10  now"]]
    with pytest.raises(InvalidArgument, match="PID"):
        parse_ps("A B\n", [7])


@pytest.mark.promise("containers.top.b5")
def test_the_default_columns_come_from_proc() -> None:
    import os

    answer = from_proc([os.getpid(), 2**22 - 1])
    assert answer.titles == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert [row[1:3] for row in answer.processes] == [[str(os.getpid()), str(os.getppid())]]


def test_cgroups_are_found_for_both_versions(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    mixed = stats.find_groups("5:memory:/shoal/x\n0::/shoal/x\n", tmp_path)
    assert (mixed.version, mixed.directory("memory")) == (1, tmp_path / "memory/shoal/x")
    unified = stats.find_groups("0::/shoal/x\n", tmp_path)
    assert (unified.version, unified.directory("memory")) == (2, tmp_path / "shoal/x")


def test_interface_counters() -> None:
    text = "head\nhead\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n"
    assert stats.parse_net_dev(text) == {
        "eth0": {
            "rx_bytes": 10,
            "rx_packets": 2,
            "rx_errors": 3,
            "rx_dropped": 4,
            "tx_bytes": 50,
            "tx_packets": 6,
            "tx_errors": 7,
            "tx_dropped": 8,
        }
    }

"""A task's spec as the engine's create request."""

from __future__ import annotations

import pytest

from api.errors import InvalidArgument, NotSupported
from api.types.container import CreateBody
from api.types.objects import Task
from api.types.swarm import (
    BindOptions,
    ContainerSpec,
    Driver,
    Mount,
    ResourceRequirements,
    Resources,
    TaskSpec,
    VolumeOptions,
)
from worker.exec.body import create_body, named_volumes


def task(container: ContainerSpec, **rest: object) -> Task:
    spec = TaskSpec(container_spec=container, **rest)  # type: ignore[arg-type]
    return Task(id="t1", service_id="s1", service_name="web", slot=2, node_id="n1", spec=spec)


def body(container: ContainerSpec, **rest: object) -> CreateBody:
    return create_body(task(container, **rest))


def mounts(*items: Mount) -> CreateBody:
    return body(ContainerSpec(image="busybox", mounts=list(items)))


def test_a_spec_of_nothing_but_an_image_leaves_all_else_to_it() -> None:
    made = body(ContainerSpec(image="busybox"))
    assert made.image == "busybox"
    assert (made.cmd, made.entrypoint, made.env, made.volumes, made.host_config.binds) == (None,) * 5
    assert made.host_config.log_config.type == ""
    assert made.host_config.restart_policy.name == "", "restarting is the managers' business"


def test_command_is_the_entrypoint_and_args_the_command() -> None:
    made = body(
        ContainerSpec(
            image="i", command=["sh", "-c"], args=["true"], env=["A=1"], dir="/w", user="u", groups=["g"],
            hostname="h", tty=True,
        )
    )  # fmt: skip
    assert (made.entrypoint, made.cmd) == (["sh", "-c"], ["true"])
    assert (made.env, made.working_dir, made.user, made.hostname, made.tty) == (["A=1"], "/w", "u", "h", True)
    assert made.host_config.group_add == ["g"]


def test_labels_say_whose_container_it_is_and_can_not_be_forged() -> None:
    made = body(ContainerSpec(image="i", labels={"mine": "1", "com.docker.swarm.task.id": "other"}))
    assert made.labels == {
        "mine": "1",
        "com.docker.swarm.node.id": "n1",
        "com.docker.swarm.service.id": "s1",
        "com.docker.swarm.service.name": "web",
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": "t1",
        "com.docker.swarm.task.name": "web.2.t1",
    }


def test_limits_and_reservations() -> None:
    resources = ResourceRequirements(
        limits=Resources(nano_cpus=1_500_000_000, memory_bytes=64 << 20), reservations=Resources(memory_bytes=32 << 20)
    )
    host = body(ContainerSpec(image="i"), resources=resources).host_config
    assert (host.cpu_quota, host.cpu_period) == (150_000, 100_000)
    assert (host.memory, host.memory_reservation) == (64 << 20, 32 << 20)
    tiny = ResourceRequirements(limits=Resources(nano_cpus=1))
    assert body(ContainerSpec(image="i"), resources=tiny).host_config.cpu_quota == 1_000


def test_the_log_driver() -> None:
    log = body(ContainerSpec(image="i"), log_driver=Driver(name="json-file", options={"max-size": "1m"}))
    assert (log.host_config.log_config.type, log.host_config.log_config.config) == ("json-file", {"max-size": "1m"})


def test_mounts() -> None:
    made = mounts(
        Mount(type="bind", source="/host", target="/a", read_only=True, bind_options=BindOptions(propagation="shared")),
        Mount(type="volume", source="data", target="/b", volume_options=VolumeOptions(no_copy=True)),
        Mount(type="volume", source="plain", target="/c"),
        Mount(type="volume", target="/d"),
    )
    assert made.host_config.binds == ["/host:/a:ro,shared", "data:/b:nocopy", "plain:/c"]
    assert list(made.volumes or {}) == ["/d"]


@pytest.mark.parametrize(
    ("mount", "error"),
    [
        (Mount(type="tmpfs", target="/a"), "invalid mount type: tmpfs"),
        (Mount(type="bind", source="rel", target="/a"), "must be an absolute path: rel"),
        (Mount(type="bind", source="/h", target="a"), "invalid mount target"),
        (Mount(type="bind", source="/h:x", target="/a"), "colon"),
        (Mount(type="volume", source="a/b", target="/a"), "invalid volume name"),
    ],
)
def test_a_mount_that_can_not_be_names_its_field(mount: Mount, error: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^Mounts: .*{error}"):
        mounts(mount)


def test_an_anonymous_volume_takes_no_options() -> None:
    with pytest.raises(NotSupported, match="needs a Source"):
        mounts(Mount(target="/a", volume_options=VolumeOptions(labels={"a": "b"})))


def test_an_image_is_needed() -> None:
    with pytest.raises(InvalidArgument, match="image reference"):
        body(ContainerSpec())


def test_volumes_of_their_own_kind_are_made_first() -> None:
    special = Mount(source="v", target="/v", volume_options=VolumeOptions(labels={"a": "b"}))
    plain = Mount(source="w", target="/w")
    assert named_volumes(task(ContainerSpec(image="i", mounts=[special, plain]))) == [special]

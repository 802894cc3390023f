"""What may be done with a container in which state, and what it leaves behind: the facade over fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from api.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotModified
from api.types.container import RestartPolicy, UpdateBody
from api.types.endpoint import EndpointSettings, PortBinding
from tests.unit.engine.conftest import Bench


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_create_answers_id_and_no_warnings(bench: Bench) -> None:
    from api.types.container import CreateBody

    answer = await bench.containers.create("web", CreateBody(image="busybox"))
    assert len(answer.id) == 64
    assert answer.warnings == []
    assert bench.images.holds == {("sha256:" + "b" * 64, answer.id)}


async def test_unknown_image_leaves_nothing(bench: Bench) -> None:
    from api.types.container import CreateBody

    with pytest.raises(NotFound, match="No such image: nope:latest"):
        await bench.containers.create("web", CreateBody(image="nope"))
    await bench.create("web")  # the name is free again


async def test_a_taken_name_is_a_conflict_that_names_the_holder(bench: Bench) -> None:
    first = await bench.create("web")
    with pytest.raises(Conflict) as caught:
        await bench.create("/web")
    assert caught.value.message == (
        f'Conflict. The container name "/web" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


async def test_two_creates_of_one_name_at_once_make_one_container(bench: Bench) -> None:
    results = await asyncio.gather(*(bench.create("web") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, str) for result in results) == 1
    assert len(await bench.containers.list(all=True)) == 1


async def test_a_failed_create_takes_its_volume_and_directory_back(bench: Bench) -> None:
    with pytest.raises(NotFound, match="plugin"):
        await bench.create(host={"binds": ["data:/data"], "volume_driver": "other"})
    assert not bench.volumes.volumes
    assert not bench.volumes.holds
    assert not list((bench.directory / "data/containers").iterdir())


async def test_a_network_that_is_not_there_is_told_by_the_start(bench: Bench) -> None:
    """A 404 from create would make clients pull the image, which is there."""
    container_id = await bench.create(host={"network_mode": "nosuch"})
    with pytest.raises(NotFound, match="network nosuch"):
        await bench.containers.start(container_id)


async def test_start_once(bench: Bench) -> None:
    container_id = await bench.run("web")
    state = (await bench.containers.inspect("web")).state
    assert (state.status, state.running, state.pid) == ("running", True, 1001)
    with pytest.raises(NotModified):
        await bench.containers.start(container_id)
    assert bench.actions() == ["create", "start"]


async def test_stop_sends_the_stop_signal_and_cleans_up(bench: Bench) -> None:
    container_id = await bench.run(stop_signal="SIGQUIT")
    bench.runtime.obeys = {3}
    await bench.containers.stop(container_id, 5)
    assert bench.runtime.signals == [3]
    state = (await bench.containers.inspect(container_id)).state
    assert (state.status, state.exit_code, state.pid) == ("exited", 131, 0)
    with pytest.raises(NotModified):
        await bench.containers.stop(container_id, 5)
    await until(lambda: not bench.networks.attached)
    assert bench.actions() == ["create", "start", "kill", "die", "stop"]


@pytest.mark.promise("containers.stop.b2")
async def test_stop_kills_what_does_not_stop(bench: Bench) -> None:
    container_id = await bench.run()
    bench.runtime.obeys = {9}
    await bench.containers.stop(container_id, 0)
    assert bench.runtime.signals == [15, 9]
    assert (await bench.containers.inspect(container_id)).state.exit_code == 137


@pytest.mark.promise("containers.kill.b2", "containers.kill.b3", "containers.kill.b4")
async def test_kill_signals(bench: Bench) -> None:
    container_id = await bench.run()
    await bench.containers.kill(container_id, "SIGHUP")
    await bench.containers.kill(container_id, "10")
    assert (await bench.containers.inspect(container_id)).state.running
    await bench.containers.kill(container_id)
    assert bench.runtime.signals == [1, 10, 9]
    assert not (await bench.containers.inspect(container_id)).state.running
    with pytest.raises(Conflict, match="is not running"):
        await bench.containers.kill(container_id)
    with pytest.raises(InvalidArgument, match="Invalid signal: SIGNOPE"):
        await bench.containers.kill(container_id, "SIGNOPE")


@pytest.mark.promise("containers.wait.b1", "containers.wait.b2")
async def test_wait_answers_at_the_end(bench: Bench) -> None:
    container_id = await bench.run()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bench.containers.wait(container_id))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        bench.runtime.processes[container_id].ends(42)
    assert waiting.result() == 42
    assert await bench.containers.wait(container_id) == 42


async def test_pause_and_unpause(bench: Bench) -> None:
    container_id = await bench.run()
    await bench.containers.pause(container_id)
    assert (await bench.containers.inspect(container_id)).state.paused
    assert bench.runtime.paused == {container_id}
    with pytest.raises(Conflict, match="already paused"):
        await bench.containers.pause(container_id)
    with pytest.raises(Conflict, match="paused container"):
        await bench.containers.remove(container_id)
    await bench.containers.unpause(container_id)
    with pytest.raises(Conflict, match="is not paused"):
        await bench.containers.unpause(container_id)


async def test_stop_wakes_a_paused_container(bench: Bench) -> None:
    container_id = await bench.run()
    await bench.containers.pause(container_id)
    await bench.containers.stop(container_id, 1)
    assert not bench.runtime.paused


@pytest.mark.promise(
    "containers.remove.b3",
)
async def test_remove(bench: Bench) -> None:
    container_id = await bench.run("web")
    with pytest.raises(Conflict, match=f"You cannot remove a running container {container_id}"):
        await bench.containers.remove("web")
    await bench.containers.remove("web", force=True)
    with pytest.raises(NotFound, match="No such container: web"):
        await bench.containers.inspect("web")
    assert not bench.images.holds
    assert bench.actions()[-1] == "destroy"
    await bench.containers.close()
    assert not list((bench.directory / "data/containers").iterdir())


@pytest.mark.promise("containers.remove.b2")
async def test_remove_takes_anonymous_volumes_only_when_asked(bench: Bench) -> None:
    binds = {"binds": ["named:/named"]}
    bench.images.config["Volumes"] = {"/data": {}}
    first = await bench.create(host=binds)
    await bench.containers.remove(first)
    assert len(bench.volumes.volumes) == 2
    second = await bench.create(host=binds)
    await bench.containers.remove(second, volumes=True)
    assert len(bench.volumes.volumes) == 2
    assert "named" in bench.volumes.volumes


async def test_the_answer_to_a_removal_comes_before_its_event(bench: Bench) -> None:
    container_id = await bench.create()
    seen: list[list[str]] = []

    async def answer() -> None:
        seen.append(bench.actions())

    await bench.containers.remove(container_id, answer=answer)
    assert seen == [["create"]]
    assert bench.actions() == ["create", "destroy"]


async def test_a_start_that_fails_leaves_nothing_but_its_reason(bench: Bench) -> None:
    container_id = await bench.create(host={"binds": ["data:/data"]})
    bench.runtime.refuses = InvalidArgument('exec: "nope": executable file not found in $PATH')
    with pytest.raises(InvalidArgument, match="executable file not found"):
        await bench.containers.start(container_id)
    state = (await bench.containers.inspect(container_id)).state
    assert (state.status, state.exit_code, state.running) == ("created", 127, False)
    assert "executable file not found" in state.error
    assert not bench.networks.attached
    assert not bench.volumes.mounted
    assert bench.actions() == ["create", "die"]
    bench.runtime.refuses = None
    await bench.containers.start(container_id)
    assert (await bench.containers.inspect(container_id)).state.error == ""


async def test_a_port_in_use_fails_the_start_alone(bench: Bench) -> None:
    container_id = await bench.create()
    bench.networks.refuses = Conflict("port is already allocated")
    with pytest.raises(Conflict, match="already allocated"):
        await bench.containers.start(container_id)
    assert not bench.runtime.plans
    bench.networks.refuses = None
    await bench.containers.start(container_id)


async def test_rename(bench: Bench) -> None:
    await bench.create("one")
    other = await bench.create("two")
    with pytest.raises(Conflict, match="already in use"):
        await bench.containers.rename("one", "two")
    await bench.containers.rename("two", "three")
    assert (await bench.containers.inspect("three")).name == "/three"
    assert (await bench.containers.inspect(other)).name == "/three"
    await bench.create("two")


@pytest.mark.promise("containers.create.b54", "containers.create.b55", "containers.create.b56")
async def test_on_failure_restarts_so_many_times(bench: Bench) -> None:
    policy = RestartPolicy(name="on-failure", maximum_retry_count=2)
    container_id = await bench.run(host={"restart_policy": policy})
    for run in range(1, 4):
        await until(lambda run=run: len(bench.runtime.started) == run)  # type: ignore[misc]
        await until(lambda: bench.containers.get(container_id).running)
        bench.runtime.processes[container_id].ends(3)
    assert await bench.containers.wait(container_id) == 3
    inspected = await bench.containers.inspect(container_id)
    assert (inspected.restart_count, inspected.state.status) == (2, "exited")


@pytest.mark.promise("containers.create.b51")
async def test_without_a_policy_nothing_restarts(bench: Bench) -> None:
    container_id = await bench.run()
    bench.runtime.processes[container_id].ends(1)
    await until(lambda: not bench.containers.get(container_id).live)
    assert bench.containers.get(container_id).restart_task is None


@pytest.mark.promise("containers.create.b52", "containers.create.b53")
async def test_always_goes_on_until_it_is_stopped(bench: Bench) -> None:
    container_id = await bench.run(host={"restart_policy": RestartPolicy(name="always")})
    bench.runtime.processes[container_id].ends(0)
    await until(lambda: len(bench.runtime.started) == 2)
    await until(lambda: bench.containers.get(container_id).running)
    await bench.containers.stop(container_id, 1)
    assert not bench.containers.get(container_id).live


async def test_stop_calls_off_a_restart_that_is_due(bench: Bench) -> None:
    container_id = await bench.run(host={"restart_policy": RestartPolicy(name="always")})
    bench.runtime.processes[container_id].ends(0)
    await until(lambda: bench.containers.get(container_id).record.status == "restarting")
    await bench.containers.stop(container_id, 1)
    assert (await bench.containers.inspect(container_id)).state.status == "exited"
    await asyncio.sleep(0.15)
    assert len(bench.runtime.started) == 1


@pytest.mark.promise("containers.update.b3", "containers.update.b4")
async def test_update_is_live_and_kept(bench: Bench) -> None:
    container_id = await bench.run()
    body = UpdateBody(memory=64 << 20, restart_policy=RestartPolicy(name="always"))
    assert (await bench.containers.update(container_id, body)).warnings == []
    assert bench.runtime.updates[0]["memory"]["limit"] == 64 << 20
    host = (await bench.containers.inspect(container_id)).host_config
    assert (host.memory, host.restart_policy.name) == (64 << 20, "always")


async def test_a_bad_update_changes_nothing(bench: Bench) -> None:
    container_id = await bench.run()
    with pytest.raises(InvalidArgument, match="Minimum memory limit"):
        await bench.containers.update(container_id, UpdateBody(memory=1, cpu_shares=5))
    assert (await bench.containers.inspect(container_id)).host_config.cpu_shares == 0
    assert not bench.runtime.updates


async def test_after_a_crash_the_running_are_adopted_and_the_rest_is_cleaned(bench: Bench) -> None:
    stays = await bench.run("stays", host={"binds": ["data:/data"]})
    ended = await bench.run("ended")
    gone = await bench.run("gone")
    await bench.containers.close()
    bench.runtime.processes[ended].ends(7)
    del bench.runtime.processes[gone]
    half = "f" * 64
    await bench.runtime.create(
        type(bench.runtime.plans[0])(half, bench.directory, {}, bench.runtime.plans[0].io, bench.directory)
    )
    (bench.directory / "data/containers" / half).mkdir()

    after = bench.containers = await bench.make()
    assert set(bench.networks.kept) == {stays, ended}
    await until(lambda: not after.get(ended).live and not after.get(gone).live)
    assert (await after.inspect("ended")).state.exit_code == 7
    assert (await after.inspect("gone")).state.exit_code == 255
    assert (await after.inspect("stays")).state.running
    assert half not in bench.runtime.processes
    assert not (bench.directory / "data/containers" / half).exists()
    await after.stop(stays, 1)
    await until(lambda: not bench.volumes.mounted)


async def test_a_network_joined_right_before_a_crash_is_kept(bench: Bench) -> None:
    await bench.run("web")
    bench.networks.joined["other"] = EndpointSettings()
    after = await bench.again()
    assert set((await after.inspect("web")).network_settings.networks) == {"bridge", "other"}
    await after.stop("web", 1)
    assert set((await after.inspect("web")).network_settings.networks) == {"bridge", "other"}


async def test_a_removal_cut_short_is_finished(bench: Bench) -> None:
    container_id = await bench.create("web")
    container = bench.containers.get(container_id)
    await bench.containers._kit.store.save(container, status="removing")
    after = await bench.again()
    with pytest.raises(NotFound):
        await after.inspect("web")
    assert not bench.images.holds


async def test_refused_fields_are_named(bench: Bench) -> None:
    with pytest.raises(InvalidArgument, match="--storage-opt is supported only"):
        await bench.create(host={"storage_opt": {"size": "1g"}})
    with pytest.raises(InvalidArgument, match="could not get container for a"):
        await bench.create(host={"links": ["a:b"]})
    with pytest.raises(InvalidArgument, match="bad format for links"):
        await bench.create(host={"links": ["a:b:c"]})
    with pytest.raises(InvalidArgument, match="No such container: nope"):
        await bench.create(host={"network_mode": "container:nope"})
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /x"):
        await bench.create(host={"binds": ["a:/x", "b:/x"]})


async def test_joining_a_container_that_does_not_run(bench: Bench) -> None:
    other = await bench.create("other")
    joined = await bench.create("joined", host={"network_mode": "container:other"})
    with pytest.raises(Conflict, match=f"cannot join network of a non running container: {other}"):
        await bench.containers.start(joined)
    await bench.containers.start("other")
    await bench.containers.start(joined)
    assert str(bench.networks.attached[joined].join) == "/proc/1001/ns/net"


async def test_connecting_twice_is_forbidden(bench: Bench) -> None:
    await bench.create("web")
    await bench.containers.connect_network("web", "other", None)
    assert set((await bench.containers.inspect("web")).network_settings.networks) == {"bridge", "other"}
    with pytest.raises(Forbidden):
        await bench.containers.connect_network("web", "other", None)
    await bench.containers.disconnect_network("web", "other")
    with pytest.raises(NotFound):
        await bench.containers.disconnect_network("web", "other")


async def test_off_the_last_network_and_on_again(bench: Bench) -> None:
    async def networks() -> set[str]:
        return set((await bench.containers.inspect("web")).network_settings.networks)

    await bench.create("web")
    await bench.containers.disconnect_network("web", "bridge")
    assert await networks() == set()
    with pytest.raises(NotFound):
        await bench.containers.disconnect_network("web", "bridge")
    await bench.containers.connect_network("web", "other", None)
    assert await networks() == {"other"}
    await bench.containers.disconnect_network("web", "other")
    await bench.containers.start("web")
    (request,) = bench.networks.attached.values()
    assert request.mode == "other"


@pytest.mark.promise(
    "containers.list.b1",
    "containers.list.b2",
    "containers.list.b3",
    "containers.list.b4",
    "containers.list.b5",
    "containers.list.b6",
    "containers.list.b9",
    "containers.list.b10",
    "containers.list.b11",
    "containers.list.b12",
    "containers.list.b14",
    "containers.list.b15",
    "containers.list.b16",
    "containers.list.b17",
    "containers.list.b18",
    "containers.list.b21",
    "containers.list.b22",
)
async def test_list(bench: Bench) -> None:
    await bench.create("old", labels={"tier": "db"})
    await bench.run("mid", labels={"tier": "web"}, host={"binds": ["data:/data"]})
    await bench.run("new")
    bench.runtime.processes[bench.containers.get("new").id].ends(3)
    await until(lambda: not bench.containers.get("new").live)

    async def names(**query: object) -> list[str]:
        return [item.names[0] for item in await bench.containers.list(**query)]  # type: ignore[arg-type]

    assert await names() == ["/mid"]
    assert await names(all=True) == ["/new", "/mid", "/old"]
    assert await names(limit=2) == ["/new", "/mid"]
    assert await names(since="old") == ["/new", "/mid"]
    assert await names(before="mid") == ["/old"]
    assert await names(filters={"since": ["mid"]}) == ["/new"]
    assert await names(filters={"before": [bench.containers.get("mid").id]}) == ["/old"]
    assert await names(filters={"exited": ["3"]}) == ["/new"]
    assert await names(filters={"status": ["created", "exited"]}) == ["/new", "/old"]
    assert await names(all=True, filters={"label": ["tier"]}) == ["/mid", "/old"]
    assert await names(all=True, filters={"label": ["tier=db"]}) == ["/old"]
    assert await names(filters={"volume": ["data"]}) == ["/mid"]
    assert await names(filters={"volume": ["/data"]}) == ["/mid"]
    assert await names(filters={"network": ["bridge"]}) == ["/mid"]
    assert await names(filters={"network": ["e" * 64]}) == ["/mid"]
    assert await names(filters={"network": ["other"]}) == []
    assert await names(filters={"ancestor": ["busybox"]}) == ["/mid"]
    assert await names(filters={"ancestor": ["nope"]}) == []


async def test_bad_filter_values(bench: Bench) -> None:
    for filters in ({"status": ["odd"]}, {"exited": ["x"]}, {"isolation": ["x"]}):
        with pytest.raises(InvalidArgument):
            await bench.containers.list(filters=filters)
    with pytest.raises(NotFound):
        await bench.containers.list(filters={"since": ["nope"]})


@pytest.mark.promise("containers.list.b25", "containers.list.b23", "containers.list.b24")
async def test_list_item_shape(bench: Bench) -> None:
    import msgspec

    await bench.create("web", cmd=["sh", "-c", "exit 9"])
    (item,) = msgspec.json.decode(msgspec.json.encode(await bench.containers.list(all=True)))
    assert (item["Ports"], item["Mounts"], item["Labels"]) == ([], [], {})
    assert item["HostConfig"] == {"NetworkMode": "default"}
    assert item["Command"] == "sh -c 'exit 9'"
    assert (item["State"], item["Status"]) == ("created", "Created")
    assert isinstance(item["Created"], int)
    assert "SizeRw" not in item


async def test_published_ports_show_while_it_runs(bench: Bench) -> None:
    binding = PortBinding(host_ip="0.0.0.0", host_port="8080")
    container_id = await bench.run(host={"port_bindings": {"80/tcp": [binding]}})
    (item,) = await bench.containers.list()
    assert [(port.private_port, port.public_port, port.type) for port in item.ports] == [(80, 8080, "tcp")]
    await bench.containers.stop(container_id, 1)
    (item,) = await bench.containers.list(all=True)
    assert item.ports == []


async def test_ids_by_prefix(bench: Bench) -> None:
    container_id = await bench.create()
    assert (await bench.containers.inspect(container_id[:8])).id == container_id
    with pytest.raises(NotFound):
        bench.containers.get("")

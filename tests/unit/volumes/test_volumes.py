"""Volumes: names, options, holders, durability and the filters, on real records in a temporary directory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest

from api.errors import Conflict, InvalidArgument, NotFound
from api.types.volume import VolumeCreate
from worker.engine.records import Put, Records
from worker.engine.volumes.local import LocalDirectories
from worker.engine.volumes.options import MountPlan, check_options, mount_plan
from worker.engine.volumes.records import TABLE, VolumeRecord
from worker.engine.volumes.store import VolumeStore


class Heard:
    """Keeps what was published."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, str, dict[str, str]]] = []

    def publish(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        self.all.append((kind, action, actor_id, dict(attributes)))


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    records = Records(tmp_path / "engine.db")
    await records.open()
    yield records
    await records.close()


@pytest.fixture
async def store(records: Records, tmp_path: Path) -> AsyncIterator[VolumeStore]:
    store = VolumeStore(records, tmp_path, Heard())
    await store.start_up()
    yield store
    await store.close()


@pytest.mark.promise(
    "volumes.create.b1",
    "volumes.create.b3",
    "volumes.create.b5",
    "volumes.create.body.Name",
    "volumes.create.body.Driver",
    "volumes.create.body.Labels",
    "volumes.inspect.b2",
    "volumes.inspect.b4",
    "volumes.inspect.b6",
    "volumes.inspect.b7",
)
async def test_create_answers_what_inspect_answers(store: VolumeStore, tmp_path: Path) -> None:
    made = await store.create(VolumeCreate(name="data", labels={"a": "b"}))
    assert made == await store.inspect("data")
    json = msgspec.json.decode(msgspec.json.encode(made))
    assert json["Name"] == "data"
    assert json["Driver"] == "local"
    assert json["Labels"] == {"a": "b"}
    assert json["Scope"] == "local"
    assert json["Mountpoint"] == str(tmp_path / "volumes/data/_data")
    assert "Status" not in json
    assert Path(made.mountpoint).is_dir()


@pytest.mark.promise("volumes.create.b2", "volumes.list.b6")
async def test_a_name_is_generated_and_absent_labels_are_null(store: VolumeStore) -> None:
    made = await store.create(VolumeCreate(name=None, labels=None))
    assert re.fullmatch("[0-9a-f]{64}", made.name)
    assert made.labels is None


async def test_create_again_answers_the_same_volume(store: VolumeStore) -> None:
    first = await store.create(VolumeCreate(name="data", labels={"a": "1"}))
    again = await store.create(VolumeCreate(name="data", labels={"a": "2"}))
    assert again == first
    assert (await store.ensure("data", "", {}, {})).created is False


@pytest.mark.parametrize("name", ["a", "../up", "a/b", ".hidden", "a b", "x" * 256])
async def test_names_that_cannot_be(store: VolumeStore, name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        await store.create(VolumeCreate(name=name))
    assert list((tmp_path / "volumes").iterdir()) == []


async def test_unknown_driver_is_not_found(store: VolumeStore) -> None:
    with pytest.raises(NotFound, match='plugin "nope" not found'):
        await store.create(VolumeCreate(name="data", driver="nope"))


@pytest.mark.promise("volumes.remove.b2", "volumes.remove.b1", "volumes.remove.b3", "volumes.inspect.b8")
async def test_a_held_volume_stays_and_a_free_one_goes(store: VolumeStore) -> None:
    made = await store.create(VolumeCreate(name="data"))
    await store.hold("data", "c1")
    await store.hold("data", "c1")
    with pytest.raises(Conflict, match=re.escape("remove data: volume is in use - [c1]")):
        await store.remove("data")
    await store.release("data", "c1")
    await store.remove("data")
    assert not Path(made.mountpoint).exists()
    with pytest.raises(NotFound, match="no such volume"):
        await store.inspect("data")
    with pytest.raises(NotFound):
        await store.remove("data")
    await store.remove("data", force=True)


async def test_records_outlive_the_daemon(records: Records, tmp_path: Path) -> None:
    first = VolumeStore(records, tmp_path, Heard())
    await first.start_up()
    await first.create(VolumeCreate(name="data", labels={"k": "v"}, driver_opts={"type": "tmpfs", "device": "tmpfs"}))
    await first.hold("data", "c1")
    await first.close()
    second = VolumeStore(records, tmp_path, Heard())
    await second.start_up()
    assert (await second.inspect("data")).labels == {"k": "v"}
    assert (await second.inspect("data")).options == {"type": "tmpfs", "device": "tmpfs"}
    with pytest.raises(Conflict):
        await second.remove("data")
    await second.close()


async def test_start_up_finishes_removals_and_leaves_unknown_data(records: Records, tmp_path: Path) -> None:
    (tmp_path / "volumes/.removing-1/_data").mkdir(parents=True)
    (tmp_path / "volumes/empty/_data").mkdir(parents=True)
    (tmp_path / "volumes/unknown/_data/file").mkdir(parents=True)
    (tmp_path / "volumes/half-made").mkdir()
    store = VolumeStore(records, tmp_path, Heard())
    await store.start_up()
    assert [entry.name for entry in (tmp_path / "volumes").iterdir()] == ["unknown"]
    await store.close()


async def test_a_volume_set_aside_whose_record_did_not_go_is_whole_again(records: Records, tmp_path: Path) -> None:
    long = "x" * 250
    store = VolumeStore(records, tmp_path, Heard())
    await store.start_up()
    for name in (long, "gone"):
        await store.create(VolumeCreate(name=name))
        (tmp_path / f"volumes/{name}/_data/file").write_text(name)
    local = LocalDirectories(tmp_path / "volumes")
    local.set_aside(long)  # the daemon is killed here
    await store.remove("gone")
    await store.close()
    again = VolumeStore(records, tmp_path, Heard())
    await again.start_up()
    assert [entry.name for entry in (tmp_path / "volumes").iterdir()] == [long]
    assert (tmp_path / f"volumes/{long}/_data/file").read_text() == long
    await again.close()


@pytest.mark.promise(
    "volumes.list.b2",
    "volumes.list.b3",
    "volumes.list.b4",
    "volumes.list.b5",
    "volumes.list.query.filters.name",
    "volumes.list.query.filters.dangling",
    "volumes.list.query.filters.driver",
)
async def test_filters(store: VolumeStore) -> None:
    for name in ("alpha", "beta", "gamma"):
        await store.create(VolumeCreate(name=name, labels={"tier": name[0]}))
    await store.hold("beta", "c1")

    async def names(**filters: list[str]) -> list[str]:
        return [volume.name for volume in (await store.list(filters)).volumes]

    assert await names() == ["alpha", "beta", "gamma"]
    assert await names(name=["amm", "alph"]) == ["alpha", "gamma"]
    assert await names(dangling=["true"]) == await names(dangling=["1"]) == ["alpha", "gamma"]
    assert await names(dangling=["false"]) == await names(dangling=["0"]) == ["beta"]
    assert await names(driver=["loc"]) == ["alpha", "beta", "gamma"]
    assert await names(driver=["x"]) == []
    assert await names(label=["tier=b"]) == ["beta"]
    assert await names(label=["tier"], name=["a"]) == ["alpha", "beta", "gamma"]
    with pytest.raises(InvalidArgument):
        await names(dangling=["maybe"])
    with pytest.raises(InvalidArgument, match="Invalid filter 'colour'"):
        await names(colour=["red"])


def test_options_become_a_mount() -> None:
    assert mount_plan({}) is None
    assert mount_plan({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7,nosuid"}) == MountPlan(
        "tmpfs", "tmpfs", 2, "size=1m,uid=7"
    )
    assert mount_plan({"type": "none", "device": "/srv", "o": "bind,ro"}) == MountPlan("/srv", "none", 4097, "")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"colour": "red"}, 'invalid option: "colour"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"o": "ro"}, 'missing required option: "type"'),
        ({"size": "1g"}, "quota"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        check_options("v", options)


async def test_events(records: Records, tmp_path: Path) -> None:
    heard = Heard()
    store = VolumeStore(records, tmp_path, heard)
    await store.start_up()
    await store.create(VolumeCreate(name="data"))
    await store.mount("data", "c1")
    await store.mount("data", "c1")
    await store.unmount("data", "c1")
    await store.remove("data")
    await store.close()
    assert [(kind, action, actor) for kind, action, actor, _ in heard.all] == [
        ("volume", "create", "data"),
        ("volume", "mount", "data"),
        ("volume", "unmount", "data"),
        ("volume", "destroy", "data"),
    ]


async def test_reconcile_lets_go_of_what_a_crash_left_held(store: VolumeStore) -> None:
    await store.create(VolumeCreate(name="data"))
    anonymous = [(await store.ensure("", "", {}, {})).name for _ in range(3)]
    for name, holder in (("data", "gone"), ("data", "there"), (anonymous[0], "gone"), (anonymous[1], "there")):
        await store.hold(name, holder)
    await store.reconcile({"there"}, ())
    # The third had no holder: somebody kept it on purpose.
    assert {each.name for each in (await store.list({})).volumes} == {"data", *anonymous[1:]}
    await store.release("data", "there")
    await store.remove("data")


async def test_reconcile_unmounts_what_nobody_uses(records: Records, tmp_path: Path) -> None:
    store = VolumeStore(records, tmp_path, Heard())
    await store.start_up()
    await store.create(VolumeCreate(name="data", driver_opts={"type": "none", "device": str(tmp_path), "o": "bind"}))
    record = VolumeRecord(name="data", options={"type": "none", "device": "/", "o": "bind"}, mounted=("old", "runs"))
    await records.write(Put(TABLE, "data", record))
    await store.close()
    store = VolumeStore(records, tmp_path, Heard())
    await store.start_up()
    await store.reconcile((), {"runs"})
    with pytest.raises(Conflict, match=r"in use - \[runs\]"):
        await store.remove("data")
    await store.close()

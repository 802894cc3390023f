"""Volume plugins: the protocol with a real little plugin, and what a plugin may do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.errors import Conflict, Internal, InvalidArgument, NotFound
from api.types.volume import VolumeCreate
from tests.unit.volumes.test_volumes import Heard
from worker.engine.records import Records
from worker.engine.volumes.plugins import Finder
from worker.engine.volumes.records import TABLE, VolumeRecord
from worker.engine.volumes.store import VolumeStore


class Bench:
    """A store, and a directory in which plugins may appear."""

    def __init__(self, store: VolumeStore, records: Records, root: Path) -> None:
        self.store, self.records, self.root = store, records, root
        self.sockets, self.specs = root / "sockets", root / "specs"

    @contextlib.asynccontextmanager
    async def plugin(self, socket: Path | None = None) -> AsyncIterator[Path]:
        """The little plugin, as a process, for the time of the block; its root."""
        socket = socket or self.sockets / "little.sock"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.volume_plugin", str(socket), str(self.root / "plugin")
        )
        try:
            while not await answers(socket):
                await asyncio.sleep(0.02)
            yield self.root / "plugin"
        finally:
            process.kill()
            await process.wait()


async def answers(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    records = Records(tmp_path / "engine.db")
    await records.open()
    for name in ("sockets", "specs"):
        (tmp_path / name).mkdir()
    store = VolumeStore(records, tmp_path, Heard(), plugins=Finder((tmp_path / "sockets",), (tmp_path / "specs",)))
    await store.start_up()
    yield Bench(store, records, tmp_path)
    await store.close()
    await records.close()


async def test_the_life_of_a_plugin_volume(bench: Bench) -> None:
    store = bench.store
    async with bench.plugin() as root:
        assert store.drivers() == ["local"]
        body = VolumeCreate(name="far", driver="little", driver_opts={"speed": "high"}, labels={"a": "b"})
        made = await store.create(body)
        assert (made.driver, made.scope, made.labels) == ("little", "global", {"a": "b"})
        assert made.mountpoint == str(root / "volumes/far/data")
        assert made.status == {"users": 0, "options": {"speed": "high"}}
        assert store.drivers() == ["local", "little"]
        with pytest.raises(Conflict, match='exists with driver "little"'):
            await store.ensure("far", "local", {}, {})
        assert (await store.ensure("far", "", {}, {})).created is False

        assert await store.mount("far", "c1") == await store.mount("far", "c1") == root / "volumes/far/data"
        assert (await store.inspect("far")).status == {"users": 1, "options": {"speed": "high"}}
        with pytest.raises(Conflict, match="in use"):
            await store.remove("far")
        await store.unmount("far", "c1")
        await store.unmount("far", "c1")
        await store.remove("far")
        with pytest.raises(NotFound):
            await store.inspect("far")
        assert (root / "removed-far").is_dir()
        lines = (root / "calls.log").read_text().splitlines()
        acts = [line for line in lines if line.split()[0].endswith(("Create", "Mount", "Unmount", "Remove"))]
        assert acts == [f"VolumeDriver.{act} far" for act in ("Create", "Mount", "Unmount", "Remove")]


async def test_a_volume_only_the_plugin_knows(bench: Bench) -> None:
    async with bench.plugin() as root:
        (root / "volumes/old/data").mkdir(parents=True)
        (root / "volumes/old/options").write_text("{}")
        await bench.store.create(VolumeCreate(name="mine"))
        listed = await bench.store.list({})
        assert [(each.name, each.driver) for each in listed.volumes] == [("mine", "local"), ("old", "little")]
        assert [each.name for each in (await bench.store.list({"driver": ["little"]})).volumes] == ["old"]
        assert (await bench.store.inspect("old")).mountpoint == str(root / "volumes/old/data")
        assert (await bench.store.ensure("old", "little", {}, {})).created is False
        assert "VolumeDriver.Create" not in (root / "calls.log").read_text()


async def test_users_outlive_the_daemon_and_a_plugin_that_is_gone(bench: Bench) -> None:
    async with bench.plugin():
        await bench.store.create(VolumeCreate(name="far", driver="little"))
        await bench.store.mount("far", "c1")
    second = VolumeStore(bench.records, bench.root, Heard(), plugins=Finder((bench.sockets,), (bench.specs,)))
    await second.start_up()
    assert (await second.inspect("far")).driver == "little"  # no Status: nobody tells
    with pytest.raises(Conflict, match="in use"):
        await second.remove("far")
    await second.unmount("far", "c1")
    with pytest.raises(Internal, match=r"remove far: error looking up volume plugin little: unix .*little\.sock"):
        await second.remove("far")
    await second.remove("far", force=True)
    assert (await second.list({})).volumes == []
    await second.close()


async def test_what_a_crash_left_mounted_is_unmounted(bench: Bench) -> None:
    async with bench.plugin() as root:
        await bench.store.create(VolumeCreate(name="far", driver="little", driver_opts={"slow": "1"}))
        user = root / "volumes/far/user-c1"
        mounting = asyncio.get_running_loop().create_task(bench.store.mount("far", "c1"))
        while not user.exists():
            await asyncio.sleep(0.01)
        # Here the daemon is killed: the plugin has mounted it, and nobody was told.
        second = VolumeStore(bench.records, bench.root, Heard(), plugins=Finder((bench.sockets,), (bench.specs,)))
        await second.start_up()
        await second.reconcile([], [])
        assert not user.exists()
        await second.close()
        (root / "go").touch()
        assert (await mounting).name == "data"
        user.touch()
        await bench.store.unmount("far", "c1")

        (bench.root / "plugin/volumes/far/data").rmdir()  # a mount that fails is written down no longer
        (root / "volumes/far/options").unlink()
        with pytest.raises(Internal):
            await bench.store.mount("far", "c2")
        assert (await bench.records.all(TABLE, VolumeRecord))["far"].mounted == ()


async def test_errors_of_a_plugin(bench: Bench) -> None:
    with pytest.raises(NotFound, match='create x2: error looking up volume plugin little: plugin "little" not found'):
        await bench.store.create(VolumeCreate(name="x2", driver="little"))
    (bench.sockets / "little.sock").touch()  # nobody listens
    with pytest.raises(Internal, match="create x2: error looking up volume plugin little: unix"):
        await bench.store.create(VolumeCreate(name="x2", driver="little"))
    assert "little" in ((await bench.store.list({})).warnings or [""])[0]
    async with bench.plugin():
        with pytest.raises(Internal, match=r"create x2: VolumeDriver\.Create: this one I do not make"):
            await bench.store.create(VolumeCreate(name="x2", driver="little", driver_opts={"refuse": "1"}))
        assert (await bench.store.list({})).volumes == []
        made = await bench.store.create(VolumeCreate(name="x3", driver="little", driver_opts={"hidden": "1"}))
        assert made.mountpoint == ""
        assert (await bench.store.mount("x3", "c")).name == "data"


async def test_a_plugin_that_hangs_holds_up_nobody_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr("worker.engine.volumes.plugins.ASK_S", 0.5)
    server = await asyncio.start_unix_server(never, bench.sockets / "mute.sock")
    async with asyncio.TaskGroup() as group:
        hanging = group.create_task(_refused(bench.store, "slow"))
        await asyncio.sleep(0)
        await bench.store.create(VolumeCreate(name="mine"))
        await bench.store.remove("mine")
        assert not hanging.done()
    assert "no answer to Plugin.Activate in 0.5 s" in hanging.result()
    server.close()
    await server.wait_closed()


async def _refused(store: VolumeStore, name: str) -> str:
    with pytest.raises(Internal) as caught:
        await store.create(VolumeCreate(name=name, driver="mute"))
    return caught.value.message


async def test_spec_files(bench: Bench) -> None:
    elsewhere = bench.root / "elsewhere.sock"
    (bench.specs / "one.spec").write_text(f"unix://{elsewhere}\n")
    (bench.specs / "two.json").write_text(json.dumps({"Name": "two", "Addr": f"unix://{elsewhere}"}))
    (bench.specs / "bad.json").write_text("{")
    (bench.specs / "odd.spec").write_text("ftp://there")
    finder = Finder((bench.sockets,), (bench.specs,))
    assert finder.names() == ["bad", "odd", "one", "two"]
    async with bench.plugin(elsewhere):
        for name in ("one", "two"):
            made = await bench.store.create(VolumeCreate(name=f"by-{name}", driver=name))
            assert made.driver == name
    for name in ("bad", "odd"):
        with pytest.raises(InvalidArgument, match=f"plugin file .*{name}"):
            finder.find(name)
    with pytest.raises(NotFound):
        finder.find("../sockets/one")

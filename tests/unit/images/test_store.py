"""The store: registration, names, holds, removal, and what is left after crashes."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest

from api.errors import Conflict, InvalidArgument, NotFound
from api.types.image import ImageRemoved
from base.ids import short_id
from tests.unit.images.archives import TestImage, files, member, tar, two_layers
from tests.unit.images.conftest import Host
from worker.engine.images import names
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.service import ImageService
from worker.engine.images.store import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and whiteouts need root")]

CONTAINER = "c" * 64


async def put(store: ImageStore, image: TestImage, *references: str, parent: str = "") -> str:
    async with store.ingest() as ingestion:
        for layer in image.layers:
            await ingestion.add_layer(await ingestion.put(layer))
        return await ingestion.register(image.config, [names.parse(text).tagged() for text in references], parent)


def flat(removed: list[ImageRemoved]) -> list[str]:
    return [
        f"untagged {one.untagged}" if isinstance(one.untagged, str) else f"deleted {one.deleted}" for one in removed
    ]


class TestResolve:
    @pytest.mark.promise("images.list.b3")
    async def test_by_every_kind_of_name(self, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app:v1", "team/other")
        for text in ("app:v1", "docker.io/library/app:v1", "team/other", image, image[7:], image[7:19], image[:15]):
            assert (await store.resolve(text)).id == image

    async def test_lowest_layer_first(self, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app")
        lower, upper = (await store.resolve(image)).layers
        assert (lower / "a").exists()
        assert (upper / "b").exists()

    @pytest.mark.parametrize(
        ("text", "told"),
        [("nope", "nope:latest"), ("team/app:v3", "team/app:v3"), ("f" * 64, "f" * 64), ("ffff", "ffff:latest")],
    )
    async def test_unknown(self, store: ImageStore, text: str, told: str) -> None:
        with pytest.raises(NotFound) as caught:
            await store.resolve(text)
        assert caught.value.message == f"No such image: {told}"

    async def test_an_ambiguous_beginning_is_no_name(self, store: ImageStore) -> None:
        firsts = [(await put(store, TestImage([], {"comment": str(number)})))[7] for number in range(17)]
        (twice, _count), *_others = Counter(firsts).most_common()
        with pytest.raises(NotFound):
            await store.resolve(twice)

    async def test_nonsense(self, store: ImageStore) -> None:
        with pytest.raises(InvalidArgument, match="invalid reference format"):
            await store.resolve("a b")


class TestRemoval:
    @pytest.mark.promise("images.remove.b1", "images.remove.b3")
    async def test_everything_goes(self, host: Host, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app")
        removed = await store.remove("app")
        assert flat(removed)[:2] == ["untagged app:latest", f"deleted {image}"]
        assert len(removed) == 4  # and its two layers
        assert await host.files() == (set(), set())
        assert host.events.actions() == ["untag", "delete"]

    async def test_one_name_of_two_is_only_untagged(self, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app:1", "app:2")
        assert flat(await store.remove("app:1")) == ["untagged app:1"]
        assert (await store.resolve("app:2")).id == image

    async def test_a_repositorys_digests_go_with_its_last_tag(self, store: ImageStore) -> None:
        digest = "sha256:" + "d" * 64
        image = await put(store, two_layers(), "app", f"app@{digest}")
        assert flat(await store.remove("app"))[:3] == [
            "untagged app:latest", f"untagged app@{digest}", f"deleted {image}",
        ]  # fmt: skip

    async def test_an_id_with_names_in_two_repositories(self, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app", "other")
        with pytest.raises(Conflict) as caught:
            await store.remove(image)
        assert caught.value.message == (
            f"conflict: unable to delete {short_id(image)} (must be forced) - image is referenced in multiple "
            "repositories"
        )
        assert flat(await store.remove(image, force=True))[:3] == [
            "untagged app:latest", "untagged other:latest", f"deleted {image}",
        ]  # fmt: skip

    @pytest.mark.promise("images.remove.status.409", "images.remove.b5")
    async def test_an_image_in_use(self, host: Host, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app")
        await store.hold(image, CONTAINER)
        with pytest.raises(Conflict) as by_name:
            await store.remove("app")
        assert by_name.value.message == (
            'conflict: unable to remove repository reference "app" (must force) - container cccccccccccc is using its '
            f"referenced image {short_id(image)}"
        )
        with pytest.raises(Conflict, match=r"must be forced.*stopped container cccccccccccc"):
            await store.remove(image)
        host.running.add(CONTAINER)
        with pytest.raises(Conflict, match=r"cannot be forced.*running container cccccccccccc"):
            await store.remove(image, force=True)

    async def test_force_under_a_stopped_container_keeps_its_layers(self, host: Host, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app")
        await store.hold(image, CONTAINER)
        assert f"deleted {image}" in flat(await store.remove(image, force=True))
        with pytest.raises(NotFound):
            await store.resolve("app")
        assert list(store.index.visible()) == []
        await host.shut()
        store = await host.open()
        view = await store.resolve(image)
        assert (view.layers[1] / "b").exists()
        await store.release(image, CONTAINER)
        assert await host.files() == (set(), set())

    async def test_a_parent_has_children(self, store: ImageStore) -> None:
        base = two_layers()
        parent = await put(store, base, "base")
        child = await put(store, TestImage([*base.layers, files({"c": b""})]), "child", parent=parent)
        with pytest.raises(Conflict, match=r"cannot be forced.*dependent child images"):
            await store.remove(parent, force=True)
        assert flat(await store.remove("base")) == ["untagged base:latest"]
        assert flat(await store.remove("child"))[:3] == [
            "untagged child:latest", f"deleted {child}", f"deleted {parent}",
        ]  # fmt: skip

    async def test_noprune_keeps_the_parent(self, store: ImageStore) -> None:
        base = two_layers()
        parent = await put(store, base)
        child = await put(store, TestImage([*base.layers, files({"c": b""})]), parent=parent)
        assert f"deleted {parent}" not in flat(await store.remove(child, prune=False))
        assert parent in store.index.images

    async def test_a_shared_layer_stays(self, host: Host, store: ImageStore) -> None:
        base = two_layers()
        await put(store, base, "one")
        await put(store, TestImage([base.layers[0], files({"c": b""})]), "two")
        await store.remove("one")
        view = await store.resolve("two")
        assert (view.layers[0] / "a").exists()
        assert len((await host.files())[1]) == 2

    @pytest.mark.promise("images.remove.status.404", "images.remove.b4")
    async def test_unknown(self, store: ImageStore) -> None:
        with pytest.raises(NotFound, match="No such image: nope:latest"):
            await store.remove("nope")


class TestTag:
    async def test_a_name_moves(self, store: ImageStore, host: Host) -> None:
        first = await put(store, two_layers(), "app")
        second = await put(store, TestImage([files({"z": b""})]), "new")
        await store.tag("new", "app", "")
        assert (await store.resolve("app")).id == second
        assert store.index.references_of(first) == []
        assert host.events.seen[-1][:3] == ("image", "tag", second)
        assert host.events.seen[-1][3] == {"name": "app:latest", "com.example.kind": "test"}

    async def test_it_outlives_a_restart(self, store: ImageStore, host: Host) -> None:
        image = await put(store, two_layers(), "app")
        await store.tag("app", "r.example.com:5000/team/app", "v2")
        await host.shut()
        store = await host.open()
        assert (await store.resolve("r.example.com:5000/team/app:v2")).id == image

    @pytest.mark.promise("images.tag.status.400", "images.tag.b2")
    @pytest.mark.parametrize(("repository", "tag"), [("Upper", ""), ("app", "bad tag"), ("", "x"), ("sha256", "")])
    async def test_bad_names(self, store: ImageStore, repository: str, tag: str) -> None:
        await put(store, two_layers(), "app")
        with pytest.raises(InvalidArgument):
            await store.tag("app", repository, tag)


class TestCrash:
    async def test_what_was_not_registered_is_removed_at_start(self, host: Host, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app")
        whole = await host.files()
        await host.shut()
        (host.root / "blobs/sha256" / ("0" * 64)).write_bytes(b"unowned")
        (host.root / "blobs/tmp/half").write_bytes(b"half")
        (host.root / "layers" / ("1" * 64) / "diff/sub").mkdir(parents=True)
        (host.root / "layers/tmp-half/diff/sub").mkdir(parents=True)
        store = await host.open()
        assert await host.files() == whole
        assert (await store.resolve("app")).id == image

    async def test_an_image_that_lost_a_layer_is_dropped(self, host: Host, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app")
        layer = (await store.resolve(image)).layers[1]
        await host.shut()
        os.rename(layer, layer.with_name("elsewhere"))
        store = await host.open()
        with pytest.raises(NotFound):
            await store.resolve("app")
        assert await host.files() == (set(), set())

    async def test_a_failed_ingestion_leaves_nothing(self, host: Host, store: ImageStore) -> None:
        with pytest.raises(InvalidArgument, match="unexpected end of archive"):
            await put(store, TestImage([files({"a": b"1"}), tar(member("big", b"x" * 9000))[:4000]]))
        assert await host.files() == (set(), set())
        assert not store.pins

    async def test_a_registration_that_does_not_match_its_layers(self, host: Host, store: ImageStore) -> None:
        image = two_layers()
        async with store.ingest() as ingestion:
            await ingestion.add_layer(await ingestion.put(image.layers[0]))
            with pytest.raises(InvalidArgument, match="do not match"):
                await ingestion.register(image.config)
        assert await host.files() == (set(), set())

    async def test_an_image_appears_and_goes_under_running_ingestions(self, host: Host, store: ImageStore) -> None:
        """Removing an image while another brings the same layers in never takes a layer from the newcomer."""
        image = two_layers()
        other = TestImage([*image.layers, files({"c": b""})])
        for _ in range(5):
            await put(store, image, "one")
            async with asyncio.TaskGroup() as group:
                group.create_task(put(store, other, "two"))
                group.create_task(store.remove("one"))
            view = await store.resolve("two")
            assert (view.layers[0] / "a").exists()
            assert (view.layers[2] / "c").exists()
            await store.remove("two")
            assert await host.files() == (set(), set())


class TestViews:
    @pytest.fixture
    def service(self, store: ImageStore) -> ImageService:
        return ImageService(store, RegistryConfig())

    @pytest.mark.promise("images.list.b1", "images.list.b2", "images.list.b13", "images.list.response.[].RepoTags[]")
    async def test_list(self, store: ImageStore, service: ImageService) -> None:
        image = await put(store, two_layers(), "app:1", "team/app:x")
        (summary,) = service.list({})
        assert summary.id == image
        assert summary.repo_tags == ["app:1", "team/app:x"]
        assert summary.created == 1612325106
        assert summary.size == summary.virtual_size == 5002
        assert summary.labels == {"com.example.kind": "test"}

    @pytest.mark.promise(
        "images.list.b7", "images.list.b8", "images.list.b9", "images.list.b10", "images.list.b11",
        "images.list.query.filters.dangling", "images.list.query.filters.label", "images.list.query.filters.before",
        "images.list.query.filters.since", "images.list.query.filter",
    )  # fmt: skip
    async def test_filters(self, store: ImageStore, service: ImageService) -> None:
        old = await put(store, two_layers(), "app:1", "app:2", "team/tool")
        new = await put(store, TestImage([files({"z": b""})], {"created": "2022-01-01T00:00:00Z", "config": {}}))

        def ids(filters: dict[str, list[str]], name: str = "") -> list[str]:
            return [summary.id for summary in service.list(filters, name=name)]

        assert ids({}) == [new, old]
        assert ids({"dangling": ["true"]}) == [new]
        assert ids({"dangling": ["false"]}) == [old]
        assert ids({"label": ["com.example.kind=test"]}) == [old]
        assert ids({"label": ["com.example.kind=x"]}) == []
        assert ids({"before": [new]}) == [old]
        assert ids({"since": ["app:1"]}) == [new]
        assert ids({"reference": ["te*/tool"]}) == [old]
        assert ids({}, name="app") == [old]
        assert ids({}, name="app:3") == []
        assert service.list({}, name="app:1")[0].repo_tags == ["app:1"]
        with pytest.raises(NotFound):
            ids({"before": ["nope"]})
        with pytest.raises(InvalidArgument, match="dangling"):
            ids({"dangling": ["maybe"]})

    @pytest.mark.promise("images.list.b12", "images.list.query.all")
    async def test_parents_are_hidden(self, store: ImageStore, service: ImageService) -> None:
        base = two_layers()
        parent = await put(store, base)
        child = await put(store, TestImage([*base.layers, files({"c": b""})]), "child", parent=parent)
        assert [summary.id for summary in service.list({})] == [child]
        assert {summary.id for summary in service.list({}, every=True)} == {child, parent}

    @pytest.mark.promise("images.history.b1", "images.history.b3", "images.history.b4", "images.history.b5")
    async def test_history(self, store: ImageStore, service: ImageService) -> None:
        image = await put(store, two_layers(), "app")
        newest, oldest = service.history("app")
        assert (newest.id, newest.created_by, newest.size, newest.tags) == (image, "step 1", 1, ["app:latest"])
        assert (oldest.id, oldest.created_by, oldest.size, oldest.tags) == ("<missing>", "step 0", 5001, None)
        assert newest.created == 1612325106

    @pytest.mark.promise("images.inspect.b1", "images.inspect.b3", "images.inspect.b4", "images.inspect.b5")
    async def test_inspect(self, store: ImageStore, service: ImageService) -> None:
        image = two_layers()
        await put(store, image, "app")
        body = service.inspect("app")
        assert body.id == image.id
        assert body.created == "2021-02-03T04:05:06.789Z"
        assert body.config["Cmd"] == ["/bin/true"]
        assert body.root_fs.type == "layers"
        assert len(body.root_fs.layers) == 2
        assert body.graph_driver.data is not None
        assert Path(body.graph_driver.data["UpperDir"]).is_dir()


class TestHold:
    async def test_holds_are_durable(self, host: Host, store: ImageStore) -> None:
        image = await put(store, two_layers(), "app")
        await store.hold(image, CONTAINER)
        await host.shut()
        store = await host.open()
        with pytest.raises(Conflict):
            await store.remove("app")
        await store.release(image, CONTAINER)
        await store.remove("app")

    async def test_an_unknown_image_can_not_be_held(self, store: ImageStore) -> None:
        with pytest.raises(NotFound):
            await store.hold("sha256:" + "f" * 64, CONTAINER)

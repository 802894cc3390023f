"""Archives that other tools wrote, kept as they came: each holds `f` of 3:4 in `/dir`, and the same configuration.

Made with `buildah from scratch`, `copy --chown 3:4 f /dir/f`, `config --cmd --env --label --workingdir`, `commit` to
`docker-archive:` and to `oci-archive:`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.images.archives import stream
from tests.unit.images.conftest import Host
from worker.engine.images.progress import silent
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.service import ImageService

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and whiteouts need root")]
ARCHIVES = Path(__file__).parent / "made_by"


@pytest.mark.parametrize("archive", sorted(ARCHIVES.iterdir()), ids=lambda path: path.name)
async def test_what_other_tools_wrote_loads(host: Host, archive: Path) -> None:
    service = ImageService(host.store, RegistryConfig())
    (image,) = await service.load(stream(archive.read_bytes()), silent)
    view = await host.store.resolve(image)
    assert view.config["Cmd"] == ["/dir/f"]
    assert "A=1" in view.config["Env"]
    assert view.config["WorkingDir"] == "/dir"
    assert view.config["Labels"]["x"] == "y"
    file = view.layers[-1] / "dir/f"
    assert (file.read_text(), file.stat().st_uid, file.stat().st_gid) == ("hi\n", 3, 4)
    assert service.history(image)

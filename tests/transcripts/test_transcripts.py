"""Each transcript gives exactly its recorded output. `SHOAL_REWRITE=1` records anew: read the difference before
committing it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.transcripts.harness import play, transcripts


@pytest.mark.parametrize("path", transcripts(), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    recorded = path.read_text()
    played = play(recorded)
    if os.environ.get("SHOAL_REWRITE"):
        path.write_text(played)
        return
    assert played == recorded


def test_there_are_transcripts() -> None:
    assert len(transcripts()) >= 5

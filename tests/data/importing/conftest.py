"""A folder of recordings, and a function that imports it."""

import pytest
from recordings import DESCRIBED

from dreamrun.data.importing.importer import Importer, ImportVideoConfig


@pytest.fixture
def recordings(tmp_path):
    """A folder for recordings with an actions.toml of four buttons and two axes."""
    videos = tmp_path / "recordings"
    videos.mkdir()
    (videos / "actions.toml").write_text(DESCRIBED)
    return videos


@pytest.fixture
def run_import(recordings, tmp_path):
    """run_import(**options): import the recordings at 96x64; returns metadata and the reports of skipped ones."""

    def run(min_frames_per_worker=3000, **options):
        reports = []
        config = ImportVideoConfig(
            **{"videos": recordings, "out": tmp_path / "set", "size": "96x64", "min_frames": 1, **options}
        )
        return Importer(config, reports.append, min_frames_per_worker).run(lambda _: None), reports

    return run

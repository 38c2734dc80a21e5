"""Files that are there whole or not at all."""

import numpy as np
import pytest
from PIL import Image

from data.atomic import atomic_file
from data.video import write_png


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and [*path.parent.iterdir()] == [path]


def test_after_an_error_all_is_as_before(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as temporary:
        temporary.write_text("half of what is ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_pictures_are_never_half_written(tmp_path, monkeypatch):
    def fill_the_disk(image, path, **options):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space"):
        write_png(tmp_path / "picture.png", np.zeros((2, 2, 3), np.uint8))
    assert not [*tmp_path.iterdir()]

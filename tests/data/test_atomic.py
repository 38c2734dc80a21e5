"""A file or a folder appears under its name only when it is complete."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamrun.data import atomic
from dreamrun.data.atomic import atomic_file, atomic_folder
from dreamrun.data.video import write_png


@pytest.mark.parametrize("fsync", [False, True])
def test_file_appears_when_it_is_complete_and_is_unchanged_after_an_error(tmp_path, fsync):
    path = tmp_path / "deep" / "file.txt"
    with atomic_file(path, fsync) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_file(path, fsync) as temporary:
        temporary.write_text("half of what is ne")
        raise KeyboardInterrupt
    assert path.read_text() == "new" and [*path.parent.iterdir()] == [path]


def test_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "folder"
    leftover = path.parent / ".folder.tmp"  # of a process that was killed
    leftover.mkdir(parents=True)
    (leftover / "old.txt").write_text("half")
    with atomic_folder(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file.txt").write_text("new")
        assert not path.exists()
    assert [p.relative_to(path).as_posix() for p in sorted(path.rglob("*"))] == ["sub", "sub/file.txt"]
    assert [*path.parent.iterdir()] == [path]


@pytest.fixture
def folder(tmp_path):
    """A folder with one file, alone in its own."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old.txt").write_text("old")
    return tmp_path / "folder"


def names(folder: Path) -> list[str]:
    """The files in a folder that is alone in its own."""
    assert [*folder.parent.iterdir()] == [folder]
    return [path.name for path in folder.iterdir()]


def test_folder_is_replaced_only_if_allowed(folder):
    with pytest.raises(FileExistsError, match="already exists"), atomic_folder(folder):
        pytest.fail("the context must not be entered")
    with atomic_folder(folder, replace=True) as temporary:
        (temporary / "new.txt").write_text("new")
        assert (folder / "old.txt").is_file()
    assert names(folder) == ["new.txt"]


def test_folder_is_unchanged_after_an_error(folder):
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder, replace=True) as temporary:
        (temporary / "new.txt").write_text("half")
        raise KeyboardInterrupt
    assert names(folder) == ["old.txt"]


def test_replaced_folder_comes_back_if_the_rename_fails(folder, monkeypatch):
    rename = Path.rename

    def fail_for_the_new_folder(self, target):
        if self.name == ".folder.tmp":
            raise OSError("input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_folder)
    with pytest.raises(OSError, match="input/output"), atomic_folder(folder, replace=True) as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(folder) == ["old.txt"]


def test_content_is_flushed_before_the_rename(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(atomic, "_fsync", lambda path: flushed.append((path.name, path.exists())))
    with atomic_file(tmp_path / "file.txt", fsync=True) as temporary:
        temporary.write_text("new")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "file.bin").write_text("new")
    assert flushed == [("file.txt.tmp", True), ("file.bin", True), (".folder.tmp", True), (tmp_path.name, True)]


def test_png_is_never_half_written(tmp_path, monkeypatch):
    def fill_the_disk(image, path, **options):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space"):
        write_png(tmp_path / "picture.png", np.zeros((2, 2, 3), np.uint8))
    assert not [*tmp_path.iterdir()]

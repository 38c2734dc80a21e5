"""`overwrite` replaces a data set and nothing else."""

from pathlib import Path

import pytest

from dreamrun.data.dataset_folder import begin_partial, check_free, finish_partial


def test_what_is_no_data_set_is_never_replaced(tmp_path, write_set, make_record, monkeypatch):
    def data_set(name: str) -> Path:
        return write_set(tmp_path / name, [make_record(5)])

    def add(folder: Path, name: str, text: str = "precious") -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        return folder

    (tmp_path / "photos").mkdir()
    (data_set("with_link") / "test").symlink_to(tmp_path / "photos")
    run, here = data_set("run"), data_set("here")
    (run / "checkpoints").mkdir()
    cases = {
        "thesis": (add(tmp_path / "thesis", "chapter1.tex"), "it holds chapter1.tex"),
        "photos": (add(tmp_path / "photos", "train/holiday.jpg"), "it holds train/holiday.jpg"),
        "empty splits": (add(tmp_path / "splits", "train/index.json"), "it is not a data set"),
        "of another program": (add(tmp_path / "other", "metadata.json", '{"title": "thesis"}'), "it is not a data set"),
        "notes": (add(data_set("notes"), "notes.txt"), "it holds notes.txt"),
        "notes in a split": (add(data_set("deep"), "val/notes.txt"), "it holds val/notes.txt"),
        "repository": (add(data_set("repository"), ".git/HEAD"), "it holds .git/HEAD"),
        "run": (add(run, "checkpoints/step_1/config.json"), "it holds checkpoints/step_1/config.json"),
        "holds a link": (tmp_path / "with_link", "it holds test"),
        "current": (here, "current folder"),
        "dot": (Path("."), "current folder"),
        "parent": (tmp_path, "current folder"),
        "root": (Path("/"), "mount point"),
    }
    monkeypatch.chdir(here)
    before = sorted(tmp_path.rglob("*"))
    for name, (folder, reason) in cases.items():
        with pytest.raises(ValueError, match=r"is not replaced|is a mount point") as error:
            check_free(folder, overwrite=True)
        assert reason in str(error.value), name
        assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_set_of_any_origin_is_replaced(tmp_path, write_set, make_record):
    """Also one that lacks metadata.json, as the public set does, and one whose metadata.json is damaged."""
    for name in ("whole", "public", "damaged"):
        folder = write_set(tmp_path / name, [make_record(5)])
        (folder / "train" / "index.json").write_text("{}")
        (folder / "train" / "data_0001.array_record.tmp").write_text("")
        if name == "public":
            (folder / "metadata.json").unlink()
        if name == "damaged":
            (folder / "metadata.json").write_text("{")
        check_free(folder, overwrite=True)
        with pytest.raises(ValueError, match="is not empty"):
            check_free(folder, overwrite=False)


def test_what_comes_meanwhile_is_not_deleted(tmp_path, write_set, make_record):
    out = write_set(tmp_path / "set", [make_record(5)])
    partial = begin_partial(out, True, {"collect": {}}, "collect")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt.*the new data set is complete, in .*set.partial"):
        finish_partial(partial, out, {"collect": {}}, True)
    assert (out / "notes.txt").exists() and (partial / "metadata.json").is_file()

"""What commands refuse before they work, and what they print."""

import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from runs import ROOT
from tiny import assert_one_line, refused, succeeded

from dreamrun.scripts import infer
from dreamrun.training.state import load_state
from dreamrun.training.train_config import TrainConfig


@pytest.fixture
def no_work(monkeypatch):
    """Fails if a checkpoint is loaded."""

    def load(*_):
        raise AssertionError("work before the check")

    monkeypatch.setattr(infer.WorldModel, "from_pretrained", load)


@pytest.mark.parametrize("option", ["--output", "--metrics", "--grid", "--plot"])
def test_outputs_are_checked_before_generating(run_script, tmp_path, no_work, option):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    data = ("--data", tmp_path)
    for path, words in (
        ("folder", "folder is a folder: choose another output file"),
        ("file/dream.mp4", "file is not a folder"),
    ):
        refused(run_script("infer", option, path, *data), words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    result = run_script("evaluate", "--checkpoint", "x", "--output", "file")
    refused(result, "file is a file: choose another output folder")
    refused(run_script("visualize_dataset", "--data", tmp_path, "--output", "folder"), "folder is a folder")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("infer --output x.avi", "x.avi would hold mp4: give it a name that ends in .mp4"),
        ("infer --output x", "x would hold mp4: give it a name that ends in .mp4"),
        ("infer --grid x.jpg", "x.jpg would hold png: give it a name that ends in .png"),
        ("infer --plot x.pdf --data y", "ends in .png"),
        ("infer --clip mine.mp4 --output mine.mp4", "mine.mp4 is read, so it is not replaced"),
        ("infer --clip mine.mp4 --output ./link.mp4", "link.mp4 is read, so it is not replaced"),
        ("infer --replay mine.mp4 --data y --metrics mine.mp4", "mine.mp4 is read, so it is not replaced"),
        ("edit extend mine.mp4 --forward 2 --output mine.mp4", "mine.mp4 is read, so it is not replaced"),
        ("visualize_dataset --data y --output x.gif", "ends in .mp4"),
        ("export_onnx --checkpoint x --out mine.mp4", "mine.mp4 would hold onnx"),
        ("judge_words --checkpoint x --data y --output words.png", "ends in .json"),
        ("judge_words --checkpoint x --data y --output mine.json", "holds mine.png, which would be replaced"),
        ("plot_scaling --folder x --output mine.mp4", "ends in .png"),
        ("evaluate --checkpoint x --output notes", "notes holds report.md, which would be replaced"),
        ("compare_drift --checkpoints x --data y --output notes", "notes holds drift.md, which would be replaced"),
    ],
)
def test_outputs_that_would_mislead_or_replace_other_files_are_refused(run_script, tmp_path, no_work, words, error):
    (tmp_path / "notes").mkdir()
    mine = [tmp_path / name for name in ("mine.mp4", "mine.png", "notes/report.md", "notes/drift.md")]
    for path in mine:
        path.write_text("mine")
    (tmp_path / "link.mp4").symlink_to("mine.mp4")
    refused(run_script(*words.split()), error)
    assert all(path.read_text() == "mine" for path in mine)


def test_a_script_runs_as_a_file(tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "infer.py", "--output", "x.avi"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert_one_line(result.returncode, result.stderr, "ends in .mp4")


def test_read_only_folders_are_noticed(run_script, tmp_path, no_work, monkeypatch):
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(
        "dreamrun.data.atomic.os.access", lambda path, _: path.name != "locked"
    )  # root may write everywhere
    refused(run_script("infer", "--output", "locked/deep/dream.mp4", "--data", tmp_path), "locked is read-only")


def test_seeds_out_of_range(run_script, tmp_path, seed=10**30):
    for name, options in (
        ("infer", ()),
        ("evaluate", ("--checkpoint", "x")),
        ("collect", ("--env", "pong", "--out", tmp_path / "set")),
        ("visualize_dataset", ("--data", tmp_path, "--check")),
    ):
        refused(run_script(name, *options, f"--seed={seed}"), f"seed is {seed}")
    with pytest.raises(ValueError, match=f"seed is {seed}"):
        TrainConfig(tmp_path, tmp_path, seed=seed)


def test_a_run_is_no_checkpoint_but_names_its_latest(run_script, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step_0000001").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "latest").symlink_to("step_0000001")
    result = run_script("infer", "--checkpoint", "run")
    refused(result, "run is not a checkpoint", "name its newest checkpoint, run/checkpoints/latest")


def test_the_next_command_is_quoted(train_command, tmp_path, pong_set):
    shutil.copytree(pong_set, tmp_path / "a data set")
    out = succeeded(train_command("--data", tmp_path / "a data set", "--out", tmp_path / "my run", "--max-steps", 1))
    words = shlex.split(out.split("dream with it: ")[1])
    checkpoint = f"{tmp_path}/my run/checkpoints/step_0000001"
    assert words[-4:] == ["--checkpoint", checkpoint, "--data", f"{tmp_path}/a data set"]


def test_advice_to_run_code_of_a_file_is_not_passed_on(run_script, tmp_path):
    """torch.load advises weights_only=False for files that it refuses."""
    (tmp_path / "step").mkdir()
    for path in (tmp_path / "step" / "training_state.pt", tmp_path / "model.pt"):
        torch.save({"model": shlex.shlex("x"), "path": tmp_path}, path)
    with pytest.raises(ValueError, match="is damaged") as error:
        load_state(tmp_path / "step")
    code, _, err = run_script("import_open_oasis", "model.pt", "out")
    assert_one_line(code, err, "model.pt is not a checkpoint")
    for text in (str(error.value), err):
        assert "weights_only" not in text and "arbitrary" not in text

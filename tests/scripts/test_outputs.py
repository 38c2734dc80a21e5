"""What commands refuse before they work, and what they print."""

import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from runs import ROOT
from tiny import assert_one_line, command, random_model

from dreamrun.export.model_card import commands, model_card
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
        code, _, err = run_script("infer", option, path, *data)
        assert_one_line(code, err, words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    code, _, err = run_script("evaluate", "--checkpoint", "x", "--output", "file")
    assert_one_line(code, err, "file is a file: choose another output folder")
    code, _, err = run_script("visualize_dataset", "--data", tmp_path, "--output", "folder")
    assert_one_line(code, err, "folder is a folder")


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
    code, _, err = run_script(*words.split())
    assert_one_line(code, err, error)
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
    code, _, err = run_script("infer", "--output", "locked/deep/dream.mp4", "--data", tmp_path)
    assert_one_line(code, err, "locked is read-only")


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_seeds_out_of_range(run_script, seed, tmp_path):
    for name, options in (
        ("infer", ()),
        ("evaluate", ("--checkpoint", "x")),
        ("collect", ("--env", "pong", "--out", tmp_path / "set")),
        ("visualize_dataset", ("--data", tmp_path, "--check")),
    ):
        code, _, err = run_script(name, *options, f"--seed={seed}")
        assert_one_line(code, err, f"seed is {seed}")
    with pytest.raises(ValueError, match=f"seed is {seed}"):
        TrainConfig(tmp_path, tmp_path, seed=seed)


def test_a_run_is_no_checkpoint_but_names_its_latest(run_script, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step_0000001").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "latest").symlink_to("step_0000001")
    code, _, err = run_script("infer", "--checkpoint", "run")
    assert_one_line(code, err, "run is not a checkpoint", "name its newest checkpoint, run/checkpoints/latest")


def test_the_next_command_is_quoted(train_command, tmp_path, pong_set):
    shutil.copytree(pong_set, tmp_path / "a data set")
    code, out, err = train_command("--data", tmp_path / "a data set", "--out", tmp_path / "my run", "--max-steps", 1)
    assert code == 0, err
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


def test_texts_of_files_cannot_leave_their_place_in_a_model_card(tmp_path):
    import json

    from dreamrun.games.game import Game
    from dreamrun.games.space import ActionSpace

    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000002"
    checkpoint.mkdir(parents=True)
    hostile = "python x\n```\n<script>alert(1)</script>\x1b[31m"
    options = {"init_from": str(checkpoint), "data": str(tmp_path), "batch_size": 4}  # it names itself
    (tmp_path / "run" / "train_config.json").write_text(json.dumps(options))
    (tmp_path / "run" / "commands.jsonl").write_text(json.dumps({"command": hostile, "step": 0}) + "\n5\n[]\n")
    (tmp_path / "metadata.json").write_text(json.dumps({"command": hostile}))
    assert len(commands(checkpoint)) == 1
    actions = ActionSpace(("a|b", "<b>", "[c](d)"), ((),) * 3, (0,))
    game = Game(environment="<img src=x>", actions=actions)
    card = model_card("me/x", random_model(game=game), checkpoint)
    assert (
        "\x1b" not in card and "<img" not in card.replace(r"\<img", "") and "| a\\|b" not in card.replace(r"a\|b", "")
    )
    lines = card.splitlines()
    start, line = lines.index("````bash"), next(line for line in lines if "alert" in line)
    assert lines.index(line) == start + 1 and lines[start + 2] == "````"


def test_an_export_replaces_an_export_alone(tmp_path, monkeypatch, capsys):
    random_model().save_pretrained(tmp_path / "checkpoint")
    options = ("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "out")
    assert command(monkeypatch, capsys, "scripts.export_checkpoint", *options)[0] == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _, err = command(monkeypatch, capsys, "scripts.export_checkpoint", *options)
    assert_one_line(code, err, "is not an exported checkpoint alone")
    (tmp_path / "out" / "notes.txt").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    code, _, err = command(monkeypatch, capsys, "scripts.export_checkpoint", *options[:-1], tmp_path / "link")
    assert_one_line(code, err, "is not an exported checkpoint alone")
    assert command(monkeypatch, capsys, "scripts.export_checkpoint", *options)[0] == 0

"""Checkpoint folders: atomic, verified, and few."""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from tiny import random_model, succeeded

from dreamrun.model import WorldModel
from dreamrun.play.follow import CheckpointFollower, latest_checkpoint
from dreamrun.training import state
from dreamrun.training.state import (
    MANIFEST_FILE,
    CheckpointWriter,
    find_damage,
    find_start,
    list_checkpoints,
    load_state,
    save_checkpoint,
)


def test_checkpoint_is_never_partial(tmp_path, monkeypatch):
    model = random_model()
    save_checkpoint(tmp_path, model, {"step": 1}, keep=3)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, model, {"step": 2}, keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_0000001"]
    assert find_start("auto", tmp_path).name == "step_0000001"


def test_only_the_newest_checkpoints_stay(tmp_path):
    for step in range(1, 6):
        save_checkpoint(tmp_path, random_model(), {"step": step}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_0000004", "step_0000005"]


def test_what_users_put_beside_or_into_checkpoints_stays(tmp_path):
    for step in (5, 6):
        save_checkpoint(tmp_path, random_model(), {"step": step}, keep=2)
    folder = tmp_path / "checkpoints"
    for name in ("step_0000005_keep", "step_best"):
        shutil.copytree(folder / "step_0000005", folder / name)
    (folder / "step_notes.txt").touch()
    (folder / ".mine.tmp").touch()
    (folder / "step_0000005" / "report").mkdir()
    CheckpointWriter(tmp_path, random_model(), keep=1).close()
    save_checkpoint(tmp_path, random_model(), {"step": 7}, keep=1)
    names = {"step_0000005_keep", "step_best", "step_notes.txt", ".mine.tmp", "step_0000005", "step_0000007", "latest"}
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in (folder / "step_0000005").iterdir()] == ["report"]
    assert find_start("auto", tmp_path) == folder / "step_0000007"


def damage(path: Path, kind: str) -> None:
    weights = path / "model.safetensors"
    if kind == "flipped bit":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif kind == "truncated":
        os.truncate(weights, 1000)
    elif kind == "missing":
        weights.unlink()
    else:
        (path / MANIFEST_FILE).unlink()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("flipped bit", "model.safetensors has changed"),
        ("truncated", "model.safetensors has 1000 bytes of"),
        ("missing", "model.safetensors cannot be read"),
        ("no manifest", "it has no readable manifest.json"),
    ],
)
def test_damaged_checkpoint_is_skipped(tmp_path, capsys, kind, words):
    for step in (1, 2):
        save_checkpoint(tmp_path, random_model(), {"step": step}, keep=3)
    first, second = list_checkpoints(tmp_path)
    assert find_start("auto", tmp_path) == second
    damage(second, kind)
    assert find_start("auto", tmp_path) == first
    assert f"warning: skipped the damaged checkpoint {second}: {words}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=rf"cannot resume from {second}: .*{words}"):
        find_start(str(second), tmp_path)
    damage(first, kind)
    with pytest.raises(ValueError, match=r"all checkpoints in .* are damaged"):
        find_start("auto", tmp_path)


def test_a_manifest_names_files_of_its_checkpoint_alone(tmp_path):
    (tmp_path / "outside").write_text("secret")
    checkpoint = tmp_path / "step_0000001"
    checkpoint.mkdir()
    for name in ("../outside", str(tmp_path / "outside"), "/dev/zero", ""):
        files = {"training_state.pt": {"bytes": 0, "sha256": ""}, name: {"bytes": 0, "sha256": ""}}
        (checkpoint / MANIFEST_FILE).write_text(json.dumps({"step": 1, "files": files}))
        assert find_damage(checkpoint) == "it has no readable manifest.json"


def test_best_checkpoint_stays_and_later_ones_do_not(tmp_path):
    losses = {1: 5.0, 2: 3.0, 3: None, 4: float("nan"), 5: 4.0, 6: 3.5}
    for step, loss in losses.items():
        save_checkpoint(tmp_path, random_model(), {"step": step}, keep=2, val_loss=loss)
    links = tmp_path / "checkpoints"
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["2", "5", "6"]
    assert (links / "best").resolve().name[-1] == "2" and (links / "latest").resolve().name[-1] == "6"
    save_checkpoint(tmp_path, random_model(), {"step": 4}, keep=2, val_loss=1.0)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["2", "4"]
    assert (links / "best").resolve().name[-1] == (links / "latest").resolve().name[-1] == "4"


def refuse(monkeypatch, error, *names):
    """Let functions of `os` fail, as on exFAT and the drives of clouds."""
    for name in names:
        monkeypatch.setattr(os, name, lambda *_, **__: (_ for _ in ()).throw(error))


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EPERM, "no"), OSError(errno.ENOTSUP, "no"), NotImplementedError()],
    ids=["exFAT", "cloud drive", "no function"],
)
def test_without_links_a_text_file_names_the_newest(train_command, tmp_path, monkeypatch, error):
    folder = tmp_path / "run" / "checkpoints"
    with monkeypatch.context() as disk:
        refuse(disk, error, "symlink")
        if isinstance(error, OSError):  # nor modes, nor flushing
            refuse(disk, error, "chmod")
            refuse(disk, OSError(errno.EINVAL, "no"), "fsync")
        code, _, err = train_command("--max-steps", 8, "--keep-checkpoints", 1)
        assert code == 0 and "warning" not in err, err
    assert (folder / "latest").read_text() == "step_0000008\n" and not (folder / "latest").is_symlink()
    best = (folder / "best").read_text().strip()
    assert {path.name for path in list_checkpoints(tmp_path / "run")} == {"step_0000008", best}
    newest = WorldModel.from_pretrained(folder / "step_0000008").state_dict()
    for name, weight in WorldModel.from_pretrained(folder / "latest").state_dict().items():
        assert torch.equal(weight, newest[name])
    link = latest_checkpoint(tmp_path / "run")
    follower = CheckpointFollower(link, folder / "step_0000004", torch.device("cpu"), 1.0)
    assert follower.poll().name.endswith("step_0000008") and follower.poll() is None
    # The run goes on, from that file, on a disk with links.
    assert "step_0000008, step 8" in succeeded(train_command("--max-steps", 10, "--resume", folder / "latest"))
    assert os.readlink(folder / "latest") == "step_0000010"


def test_latest_that_leads_nowhere_is_named(tmp_path):
    save_checkpoint(tmp_path, random_model(), {"step": 1}, keep=2)
    latest = tmp_path / "checkpoints" / "latest"
    for make in (lambda: latest.symlink_to("step_0000007"), lambda: latest.write_text("step_0000007")):
        latest.unlink()
        make()
        for read in (WorldModel.from_pretrained, lambda path: find_start(str(path), tmp_path)):
            with pytest.raises(ValueError, match=r"latest leads to step_0000007, which is not there: name another"):
                read(latest)
    save_checkpoint(tmp_path, random_model(), {"step": 2}, keep=2)
    assert latest.resolve().name == "step_0000002"


def test_what_fails_after_a_checkpoint_is_written_only_warns(tmp_path, capsys):
    """`latest` became a folder: a copy that followed links."""
    latest = tmp_path / "checkpoints" / "latest"
    latest.mkdir(parents=True)
    (latest / "mine").touch()
    for step in (1, 2):
        save_checkpoint(tmp_path, random_model(), {"step": step}, keep=1)
    assert (latest / "mine").exists() and [path.name for path in list_checkpoints(tmp_path)] == ["step_0000002"]
    assert "warning: the checkpoint is saved, but" in capsys.readouterr().err


def test_full_disk_only_warns(train_command, tmp_path, monkeypatch):
    save = torch.save
    full = {"now": False}

    def save_or_not(*arguments):
        full["now"] = not full["now"]  # every other time
        if full["now"]:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: No space left on device")
        save(*arguments)

    def no_video(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save_or_not)
    monkeypatch.setattr("dreamrun.training.log.write_mp4", no_video)
    code, _, err = train_command("--max-steps", 8)
    assert code == 0, err
    assert err.count("warning: step 4 could not be saved (") == 1 and "PytorchStreamWriter failed" in err
    assert "MiB are free on the disk" in err and "step_0000008.mp4 could not" in err
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_0000008"]
    assert not list((tmp_path / "run").rglob("*.tmp"))


def full_disk(*_):
    """What torch.save does on a full disk: the second error hides the first."""
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    finally:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 22")


def test_run_without_its_last_checkpoint_is_no_success(train_command, tmp_path, monkeypatch):
    """Nor does the message of a stopped run name an older checkpoint as if it held the last step."""
    assert train_command("--max-steps", 4)[0] == 0
    monkeypatch.setattr(torch, "save", full_disk)
    code, out, err = train_command("--max-steps", 10, "--resume", "auto")
    assert code == 1 and "done" not in out and "Traceback" not in err
    warnings = [line for line in err.splitlines() if line.startswith("warning")]
    assert [line.partition(" (")[0] for line in warnings] == [
        f"warning: step {step} could not be saved" for step in (8, 10)
    ]
    (error,) = [line for line in err.splitlines() if line.startswith("error")]
    assert error.startswith("error: step 10 could not be saved (") and "unexpected pos 128 vs 22" in error
    assert error.endswith("step_0000004: --resume auto continues from there")

    def stop_at_once(self):
        self.requested = True
        return self

    monkeypatch.setattr("dreamrun.training.loop.StopRequest.__enter__", stop_at_once)
    monkeypatch.setattr("dreamrun.training.loop.StopRequest.__exit__", lambda *_: None)
    code, out, err = train_command("--max-steps", 10, "--out", tmp_path / "new")
    assert code == 1 and "stopped at step" not in out
    assert "error: step 0 could not be saved" in err and "no checkpoint was saved" in err


def test_checkpoints_are_written_while_training_continues(train_command, tmp_path, monkeypatch):
    """Training waits for the writer at the end. A checkpoint holds the weights from when saving began."""
    write, steps = state.save_checkpoint, {}
    monkeypatch.setattr(state, "save_checkpoint", lambda *a, **k: time.sleep(0.5) or write(*a, **k))

    def note(training, batch):
        weights = {name: value.clone() for name, value in training.model.state_dict().items()}
        steps[training.step] = time.perf_counter(), weights

    assert train_command("--max-steps", 6, "--rollout-every", 100, "--val-every", 100, before_step=note)[0] == 0
    assert steps[5][0] - steps[4][0] < 0.4
    written = load_state(tmp_path / "run" / "checkpoints" / "step_0000004")["model"]
    assert all(torch.equal(written[name], weight) for name, weight in steps[4][1].items())
    assert load_state(tmp_path / "run" / "checkpoints" / "latest")["step"] == 6

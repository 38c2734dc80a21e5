"""The command scripts.upload_checkpoint, against a local fake of the Hub's HTTP interface."""

import huggingface_hub
import torch
from tiny import TINY, random_model, refused

from dreamrun.data.metrics_log import MetricsLog
from dreamrun.model import WorldModel


def test_an_uploaded_checkpoint_can_be_loaded(hub, tmp_path, run_script):
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000020"
    model = random_model()
    model.save_pretrained(checkpoint)
    (checkpoint / "training_state.pt").write_bytes(b"large and private")
    (checkpoint.parent / "latest").symlink_to("step_0000020")
    log = MetricsLog(tmp_path / "run", 0, "off", "p", None, {})
    for step, loss in ((10, 0.5), (20, 0.25), (30, 0.125)):
        log.log(step, {"val/loss": loss})
    code, _, err = run_script("upload_checkpoint",
        "--checkpoint", checkpoint.parent / "latest", "--repo", "user/name", "--private",
    )  # fmt: skip
    assert code == 0, err
    assert hub["created"]["visibility"] == "private"
    assert set(hub["files"]) == {"README.md", "config.json", "game.json", "model.safetensors"}
    card = hub["files"]["README.md"].decode()
    assert "| val/loss | 0.25 |" in card and "step_0000020" in card and f"| prediction | {TINY.prediction} |" in card

    loaded = WorldModel.from_pretrained("user/name", cache_dir=tmp_path / "cache")
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_nothing_is_uploaded_without_a_token(hub, monkeypatch, tmp_path, run_script):
    random_model().save_pretrained(tmp_path / "checkpoint")
    monkeypatch.delenv("HF_TOKEN")
    options = ("--checkpoint", tmp_path / "checkpoint", "--repo", "user/name")
    refused(run_script("upload_checkpoint", *options), "not logged in", "hf auth login", "HF_TOKEN")
    assert hub["created"] is None


def test_wrong_options_give_one_line_of_error(hub, monkeypatch, tmp_path, run_script):
    random_model().save_pretrained(tmp_path / "checkpoint")
    for checkpoint, repo, word in (
        (tmp_path / "absent", "user/name", "no checkpoint at"),
        (tmp_path / "checkpoint", "no/such/name", "the Hub refused no/such/name"),
    ):
        options = ("--checkpoint", checkpoint, "--repo", repo)
        refused(run_script("upload_checkpoint", *options), word)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    options = ("--checkpoint", tmp_path / "checkpoint", "--repo", "user/name")
    refused(run_script("upload_checkpoint", *options), "the Hub refused user/name", "401")
    assert hub["files"] == {}


def test_upload_without_a_network(hub, monkeypatch, tmp_path, run_script):
    random_model().save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    result = run_script("upload_checkpoint", "--checkpoint", tmp_path / "checkpoint", "--repo", "user/name")
    refused(result, "user/name could not be uploaded to http://127.0.0.1:9", "Connection refused")

"""The shipped models and the samples that they start from."""

from pathlib import Path

import pytest
import torch
from tiny import TINY, random_model

from dreamrun.data.batch import to_float, to_uint8
from dreamrun.data.clips import held_out_clips
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import read_metadata
from dreamrun.data.metrics import frame_mse, psnr_from_mse
from dreamrun.model import Sampler, WorldModel
from dreamrun.model.game_views import check_model_fits_data, choose_game
from dreamrun.model.inference import prepare_for_inference
from dreamrun.model.sampler import rollout
from dreamrun.shipped import find_shipped

ROOT = Path(__file__).parent.parent
PROMPT = 4


@pytest.mark.parametrize(
    ("checkpoint", "samples", "least_psnr"),
    [
        ("coinrun-nano", "coinrun", 27),
        ("pong-pico", "pong", 30),
        ("coinrun-fill", "coinrun", 26),
        ("games", "games/pong", 25),
        ("games", "games/pong-wide", 26),
        ("games", "games/bigfish", 27),
        ("games", "games/leaper", 24),
    ],
)
def test_a_shipped_model_continues_its_samples(checkpoint, samples, least_psnr):
    data = ClipDataset(ROOT / "samples" / samples, "test", clip_frames=1)
    model = choose_game(WorldModel.from_pretrained(ROOT / "checkpoints" / checkpoint), "", data.metadata)
    check_model_fits_data(model, data.metadata, ROOT / "samples" / samples)
    clips = held_out_clips(data, 4, PROMPT + 1)
    sampler = Sampler(prepare_for_inference(model, torch.device("cpu"), bf16=False))
    vectors = torch.from_numpy(clips.space.vectors(clips.actions))
    (frame,) = rollout(sampler, to_float(clips.frames[:, :PROMPT]), vectors, seeds=range(4))
    mse = frame_mse(clips.frames[:, PROMPT:], to_uint8(frame)[:, None], clips.lengths - PROMPT)
    assert psnr_from_mse(mse.mean()) > least_psnr


@pytest.mark.parametrize("name", ["coinrun-nano", "checkpoints/coinrun-nano"])
def test_shipped_files_are_found_from_any_folder_and_local_ones_win(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert WorldModel.from_pretrained(name).config.num_actions == 15
    for samples in ("pong", "samples/pong"):
        assert read_metadata(Path(samples)).environment == "pong"
        assert held_out_split(Path(samples)) == "test" and len(ClipDataset(Path(samples), "test", 4).index.lengths)
    assert not list(tmp_path.iterdir())  # such as an index beside shards that are not there
    random_model().save_pretrained(tmp_path / name)
    assert WorldModel.from_pretrained(name).config == TINY
    assert not find_shipped("../samples/pong", "samples").exists()

"""The loss of filling in frames."""

from dataclasses import replace

import numpy as np
import torch
from runs import values
from tiny import TINY, random_inputs, random_model

from dreamrun.model import WorldModel
from dreamrun.model.diffusion import add_noise, frame_alpha_sigma
from dreamrun.training.config import RECIPES, Recipe
from dreamrun.training.fill_loss import choose_fill_clips, draw_fill_task, draw_known_frames, fill_loss
from dreamrun.training.loss import MAX_CONTEXT_NOISE_LEVEL, draw_noise

CPU = torch.device("cpu")


def test_patterns_of_known_frames():
    """Every kind occurs; something is always unknown; one frame can only be unknown."""
    rng = np.random.default_rng(0)
    drawn = np.array([draw_known_frames(rng, 8) for _ in range(2000)])
    assert not drawn.all(axis=1).any()
    changes = (np.diff(drawn, axis=1) != 0).sum(axis=1)
    none = ~drawn.any(axis=1)
    prefix, suffix = (changes == 1) & drawn[:, 0], (changes == 1) & drawn[:, -1]
    ends = (changes == 2) & drawn[:, 0] & drawn[:, -1]
    subset = changes > 2
    assert all(0.05 < kind.mean() < 0.45 for kind in (none, prefix, suffix, ends, subset))
    assert not draw_known_frames(rng, 1).any()


def test_a_task_depends_on_the_clip_s_seed_alone():
    seeds = np.array([5, 2**64 - 1, 7], np.uint64)
    task, reverse = draw_fill_task(seeds, 6, CPU), draw_fill_task(seeds[::-1], 6, CPU)
    for name in ("known", "known_levels", "level_uniform", "has_action"):
        assert torch.equal(getattr(task, name), getattr(reverse, name).flip(0))
    many = np.arange(2000, dtype=np.uint64)
    chosen = choose_fill_clips(many, 0.3)
    assert 0.27 < chosen.mean() < 0.33 and not choose_fill_clips(many, 0).any() and choose_fill_clips(many, 1).all()
    task = draw_fill_task(many, 6, CPU)
    assert task.known_levels.min() >= 0 and task.known_levels.max() < MAX_CONTEXT_NOISE_LEVEL
    hidden, unknown_hidden = ~task.has_action.any(1), (task.has_action == task.known).all(1)
    some = task.known.any(1)
    assert 0.12 < hidden[some].float().mean() < 0.18 and 0.17 < unknown_hidden[some].float().mean() < 0.23
    # What is known does not depend on whether the clip is chosen.
    assert abs(task.known[chosen].float().mean() - task.known[~chosen].float().mean()) < 0.05


def test_the_loss_counts_the_unknown_frames():
    frames, _, actions = random_inputs(batch=16)
    seeds = np.arange(16, dtype=np.uint64)
    noise, task = draw_noise(frames.shape, seeds, CPU), draw_fill_task(seeds, frames.shape[1], CPU)
    given = []

    def predict_unknown(x_u, levels, actions, mask):
        assert mask is None
        given.append((x_u, levels, actions))
        return torch.where(task.known[..., None, None, None], 5.0, frames + 0.1)

    config = replace(TINY, prediction="x0")
    losses = fill_loss(predict_unknown, config, frames, actions, noise, task, "uniform")
    (x_u, levels, given_actions), unknown = given[0], ~task.known
    assert losses.shape == (16,) and losses.max() <= 1.01 and losses.min() >= 0.0099  # 0.1^2 / (1 - alpha_bar)
    for clip in range(16):
        assert len(levels[clip, unknown[clip]].unique()) == 1
        assert torch.equal(given_actions[clip].any(-1), task.has_action[clip])
    assert levels[task.known].max() < MAX_CONTEXT_NOISE_LEVEL
    torch.testing.assert_close(x_u, add_noise(frames, noise.eps, frame_alpha_sigma(levels, "sigmoid")))


def test_unknown_frames_see_later_ones():
    frames, _, actions = random_inputs(batch=1)
    seeds = np.array([0], np.uint64)
    known, level = torch.tensor([[False] * 5 + [True]]), torch.ones(1)
    task = replace(draw_fill_task(seeds, frames.shape[1], CPU), known=known, level_uniform=level)
    noise, model = draw_noise(frames.shape, seeds, CPU), random_model()
    other = frames.clone()
    other[:, -1] *= -1

    def predicted_first(x0):
        predictions = []

        def note(*inputs):
            predictions.append(model(*inputs))
            return predictions[-1]

        fill_loss(note, model.config, x0, actions, noise, task, "uniform")
        return predictions[0][:, 0]

    assert (predicted_first(frames) - predicted_first(other)).abs().max() > 1e-3


def test_training_on_both_tasks(train_command, tmp_path):
    """A run resumes exactly, micro-batches equal the batch, and the checkpoint says whether it can fill in."""
    options = ("--fill-share", 0.4, "--noise-levels", "teacher-forcing", "--scheduled-sampling", 0.5, "--log-every", 1)
    options += ("--batch-size", 8)
    assert train_command(*options, "--max-steps", 8, "--out", tmp_path / "unbroken")[0] == 0
    assert train_command(*options, "--max-steps", 4)[0] == 0
    assert train_command(*options, "--max-steps", 8, "--resume", "auto")[0] == 0
    assert train_command(*options, "--max-steps", 8, "--accumulate", 4, "--out", tmp_path / "parts")[0] == 0
    whole, parts = (values(tmp_path / name, "train/loss") for name in ("unbroken", "parts"))
    assert max(abs(whole[step] - parts[step]) for step in whole) < 1e-3
    fill_losses = values(tmp_path / "run", "val/fill_loss")
    assert fill_losses == values(tmp_path / "unbroken", "val/fill_loss") and list(fill_losses) == [4, 8]
    assert WorldModel.from_pretrained(tmp_path / "run" / "checkpoints" / "latest").config.can_fill
    no_fill = ("--fill-share", 0, "--max-steps", 10, "--resume", "auto")
    assert train_command(*options[2:], *no_fill)[0] == 0
    assert not WorldModel.from_pretrained(tmp_path / "run" / "checkpoints" / "latest").config.can_fill
    assert list(values(tmp_path / "run", "val/fill_loss")) == [4, 8]


def test_a_run_from_before_the_recipe_had_a_share_goes_on_without(train_command, tmp_path, monkeypatch):
    assert train_command("--max-steps", 4)[0] == 0
    monkeypatch.setitem(RECIPES, "smallest", Recipe(fill_share=0.5))
    for steps, options, can_fill in ((6, (), False), (8, ("--fill-share", 0.5), True), (10, (), True)):
        assert train_command("--max-steps", steps, "--resume", "auto", *options)[0] == 0
        assert WorldModel.from_pretrained(tmp_path / "run" / "checkpoints" / "latest").config.can_fill == can_fill

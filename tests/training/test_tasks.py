"""What clips are trained on: play, filling in, single images; and generated context."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import values
from tiny import SMALLEST, TINY, random_inputs, random_model, refused, succeeded

from dreamrun.data.batch import Batch, to_levels
from dreamrun.model import Sampler, WorldModel
from dreamrun.model.diffusion import add_noise, frame_alpha_sigma
from dreamrun.model.loss import MAX_CONTEXT_NOISE_LEVEL, diffusion_loss, draw_noise
from dreamrun.model.text_encoder import encode_bytes
from dreamrun.training.generated_context import SCHEDULED_SAMPLING_PASSES, SelfForcing, generated_context
from dreamrun.training.tasks import TASKS, TaskOptions, assign_tasks, draw_known_frames, fill, image, play
from dreamrun.training.train_config import PUBLISHED, RECIPES, TrainConfig, resolve

CPU = torch.device("cpu")


def make_config(**options):
    return resolve(TrainConfig("data", "out", **{"bf16": False, **options}))


def make_clips(num_clips, num_frames=6, seed=0):
    """Random clips for networks of the size TINY."""
    generator = torch.Generator().manual_seed(seed)
    height, width = TINY.frame_height, TINY.frame_width
    frames = torch.randint(256, (num_clips, num_frames, height, width, 3), generator=generator, dtype=torch.uint8)
    actions = torch.eye(3)[torch.randint(3, (num_clips, num_frames), generator=generator)]
    numbers = np.arange(num_clips)
    return Batch(frames, actions, numbers, numbers, seeds=np.arange(10, 10 + num_clips, dtype=np.uint64))


# Which clips are of which task


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"preset": "toy"}, [16, 0, 0]),
        ({"fill_share": 0.3}, [11, 5, 0]),
        ({"fill_share": 0.3, "words": True}, [9, 5, 2]),
        ({"fill_share": 1.0}, [0, 16, 0]),
        ({"fill_share": 0.3, "batch_size": 2}, [1, 1, 0]),
        ({"fill_share": 0.3, "batch_size": 1}, [1, 0, 0]),
    ],
)
def test_each_task_has_its_share_of_a_batch(options, counts):
    assert np.bincount(assign_tasks(make_config(**options)), minlength=3).tolist() == counts


def test_parts_of_a_batch_have_nearly_equal_shares():
    """So ranks and micro-batches have as much to do, and clips of at most two shapes, whatever the step."""
    tasks = assign_tasks(make_config(fill_share=0.3, words=True, batch_size=40))
    for step in range(40):
        parts = np.roll(tasks, step).reshape(4, 10)
        counts = np.array([np.bincount(part, minlength=len(TASKS)) for part in parts])
        assert (np.ptp(counts, axis=0) <= 2).all() and (counts[:, :2] > 0).all()


# Play


def test_actions_are_dropped_clip_by_clip():
    seeds = np.arange(4000, dtype=np.uint64)
    noise = draw_noise(torch.Size((4000, 3, 1, 1, 1)), seeds, CPU)
    dropped = play(seeds, noise, TaskOptions(action_dropout=0.1)).hide_actions(torch.ones(4000, 3, 2))
    hidden = dropped.sum((1, 2)) == 0
    assert 0.08 < hidden.float().mean() < 0.12
    assert (dropped[~hidden] == 1).all()


# Filling in


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
    seeds, shape = np.array([5, 2**64 - 1, 7], np.uint64), torch.Size((3, 6, 1, 1, 1))
    one, reverse = (fill(order, draw_noise(shape, order, CPU), TaskOptions()) for order in (seeds, seeds[::-1]))
    for name in ("levels", "eps", "keeps_action", "is_target"):
        assert torch.equal(getattr(one, name), getattr(reverse, name).flip(0))
    many = np.arange(2000, dtype=np.uint64)
    corruption = fill(many, draw_noise(torch.Size((2000, 6, 1, 1, 1)), many, CPU), TaskOptions())
    known, keeps_action = ~corruption.is_target, corruption.keeps_action
    assert corruption.levels[known].min() >= 0 and corruption.levels[known].max() < MAX_CONTEXT_NOISE_LEVEL
    hidden, unknown_hidden = ~keeps_action.any(1), (keeps_action == known).all(1)
    some = known.any(1)
    assert 0.12 < hidden[some].float().mean() < 0.18 and 0.17 < unknown_hidden[some].float().mean() < 0.23


def test_the_loss_counts_the_unknown_frames():
    frames, _, actions = random_inputs(batch=16)
    seeds = np.arange(16, dtype=np.uint64)
    corruption = fill(seeds, draw_noise(frames.shape, seeds, CPU), TaskOptions())
    given, unknown = [], corruption.is_target

    def predict_unknown(x_u, levels, actions, mask, *_):
        assert mask is None
        given.append((x_u, levels, actions))
        return torch.where(unknown[..., None, None, None], frames + 0.1, 5.0)

    config = replace(TINY, prediction="x0")
    losses = corruption.clip_losses(diffusion_loss(predict_unknown, config, frames, actions, corruption).losses)
    x_u, levels, given_actions = given[0]
    assert losses.shape == (16,) and losses.max() <= 1.01 and losses.min() >= 0.0099  # 0.1^2 / (1 - alpha_bar)
    for clip in range(16):
        assert len(levels[clip, unknown[clip]].unique()) == 1
        assert torch.equal(given_actions[clip].any(-1), corruption.keeps_action[clip])
    torch.testing.assert_close(x_u, add_noise(frames, corruption.eps, frame_alpha_sigma(levels, "sigmoid")))


def test_unknown_frames_see_later_ones():
    frames, _, actions = random_inputs(batch=1)
    seeds, model = np.array([0], np.uint64), random_model()
    corruption = fill(seeds, draw_noise(frames.shape, seeds, CPU), TaskOptions())
    corruption = replace(corruption, levels=torch.tensor([[1.0] * 5 + [0.0]]))
    other = frames.clone()
    other[:, -1] *= -1
    first, changed = (diffusion_loss(model, model.config, x0, actions, corruption).x0[:, 0] for x0 in (frames, other))
    assert (first - changed).abs().max() > 1e-3


def test_training_on_both_tasks(train_command, tmp_path):
    """Micro-batches equal the batch, and the checkpoint says whether it can fill in."""
    options = ("--fill-share", 0.4, "--noise-levels", "teacher-forcing", "--scheduled-sampling", 0.5, "--log-every", 1)
    options += ("--batch-size", 8)
    succeeded(train_command(*options, "--max-steps", 8))
    succeeded(train_command(*options, "--max-steps", 8, "--accumulate", 4, "--out", tmp_path / "parts"))
    whole, parts = (values(tmp_path / name, "train/loss") for name in ("run", "parts"))
    assert max(abs(whole[step] - parts[step]) for step in whole) < 1e-3
    latest = tmp_path / "run" / "checkpoints" / "latest"
    assert list(values(tmp_path / "run", "val/fill_loss")) == [4, 8]
    assert WorldModel.from_pretrained(latest).config.can_fill
    succeeded(train_command(*options[2:], "--fill-share", 0, "--max-steps", 10, "--resume", "auto"))
    assert not WorldModel.from_pretrained(latest).config.can_fill
    assert list(values(tmp_path / "run", "val/fill_loss")) == [4, 8]


def test_a_run_from_before_the_recipe_had_a_share_goes_on_without(train_command, tmp_path, monkeypatch):
    assert train_command("--max-steps", 4)[0] == 0
    monkeypatch.setitem(RECIPES, "smallest", {**PUBLISHED, "fill_share": 0.5})
    for steps, options, can_fill in ((6, (), False), (8, ("--fill-share", 0.5), True), (10, (), True)):
        assert train_command("--max-steps", steps, "--resume", "auto", *options)[0] == 0
        assert WorldModel.from_pretrained(tmp_path / "run" / "checkpoints" / "latest").config.can_fill == can_fill


# Single images


def test_frames_of_image_clips_are_predicted_from_words_alone():
    """Each is what a first frame is: neither other frames nor actions change its loss, and words do."""
    model = random_model(replace(SMALLEST, patch_size=8, frame_height=16, frame_width=16, num_actions=3, words=True))
    frames = torch.rand(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seeds = np.array([7], np.uint64)
    noise = draw_noise(frames.shape, seeds, CPU)

    def losses(x0=frames, action=0, text="pong", part=slice(None)):
        corruption = image(seeds, noise, TaskOptions())
        of_part = {"levels": corruption.levels[:, part], "eps": corruption.eps[:, part]}
        of_part |= {"mask": corruption.mask[part, part], "keeps_action": corruption.keeps_action[:, part]}
        corruption = replace(corruption, **of_part, text=encode_bytes([text]))
        actions = torch.eye(3)[torch.full((1, x0[:, part].shape[1]), action)]
        return diffusion_loss(model, model.config, x0[:, part], actions, corruption).losses

    alone = torch.cat([losses(part=slice(t, t + 1)) for t in range(4)], dim=1)
    torch.testing.assert_close(losses(), alone, rtol=1e-4, atol=1e-6)
    assert torch.equal(losses(action=1), losses()) and not torch.equal(losses(text="fish"), losses())


# Generated context


@pytest.mark.parametrize("kind", ["uniform", "teacher-forcing"])
def test_scheduled_sampling_predicts_frames_from_predicted_context(kind):
    clips, config = make_clips(24), make_config(noise_levels=kind, scheduled_sampling=0.75)
    noise = draw_noise(clips.x0.shape, clips.seeds, CPU, config.teacher_forcing)
    corruption = play(clips.seeds, noise, TaskOptions(config.level_distribution))
    given_levels, contexts = [], []

    class LighterGrey(torch.nn.Module):
        config = replace(TINY, prediction="x0")

        def forward(self, x_u, levels, *_):
            given_levels.append(levels[:, -6:])
            contexts.append(x_u[:, :6])
            return torch.full_like(x_u, 0.1 * len(given_levels))

    frames, network = clips.x0, LighterGrey()
    forcing = SelfForcing(network, None)  # not used
    assert generated_context(network, forcing, clips, noise, corruption, make_config(noise_levels=kind)) is None
    result = generated_context(network, forcing, clips, noise, corruption, config)
    assert len(given_levels) == SCHEDULED_SAMPLING_PASSES
    for number, grey in enumerate([0.0, 0.1, 0.2, 0.3]):  # below a quarter: no pass; below a half: one pass; and so on
        chosen = (noise.clip_uniform >= 0.25 * number) & (noise.clip_uniform < 0.25 * (number + 1))
        assert 0 < chosen.sum() < 24
        if number == 0:
            assert torch.equal(result[chosen], frames[chosen])
        else:
            assert abs(result[chosen] - grey).max() < 1 / 255
    chosen = noise.clip_uniform >= 0.25
    expected = config.level_distribution.levels((noise.level_uniform[chosen] + 0.25) % 1)
    assert torch.equal(given_levels[0], expected) and (expected - corruption.levels[chosen]).abs().min() > 0.01
    if kind == "teacher-forcing":  # the context of the second pass is the prediction of the first
        chosen = noise.clip_uniform >= 0.5
        context_levels, context_eps = noise.context_levels[chosen], noise.context_eps[chosen]
        predicted = torch.full_like(context_eps, 0.1)
        expected = add_noise(predicted, context_eps, frame_alpha_sigma(context_levels, "sigmoid"))
        torch.testing.assert_close(contexts[1], expected, atol=1 / 255, rtol=0)


def test_self_forced_clips_are_rollouts_and_others_stay():
    model, clips = random_model(replace(TINY, num_steps=2, prediction="x0")), make_clips(8)
    config, frames = make_config(self_forcing=0.6), clips.x0
    noise = draw_noise(frames.shape, clips.seeds, CPU)
    corruption = play(clips.seeds, noise, TaskOptions())
    forcing, chosen = SelfForcing(model, config.bf16), noise.clip_uniform >= 0.4
    context = generated_context(model, forcing, clips, noise, corruption, config)
    assert 0 < chosen.sum() < 8 and torch.equal(context[~chosen], frames[~chosen])
    for row in torch.nonzero(chosen).flatten().tolist():  # the plain loop of one rollout
        is_same = (context[row] == frames[row]).flatten(1).all(1)
        length = int(is_same.float().cumprod(0).sum())  # of the prompt, at most half the clip
        draw = np.random.default_rng(int(clips.seeds[row]))
        assert length in (1, 2, 3) and int(draw.integers(1, 4)) == length
        sampler, actions = Sampler(model), clips.actions[row : row + 1]
        sampler.reset(frames[row : row + 1, :length], actions[:, :length], seeds=[int(draw.integers(2**63))])
        for t in range(length, 6):
            frame = to_levels(sampler.step(actions[:, t])) / 127.5 - 1
            assert (frame[0] - context[row, t]).abs().max() <= 1.01 / 127.5  # rounding, in a batch of another size
    one = clips.select(slice(0, 1))  # a rollout does not depend on the other clips
    alone = generated_context(model, forcing, one, noise.select(torch.tensor([0])), corruption, config)
    assert alone is None if not chosen[0] else (alone[0] - context[0]).abs().max() <= 1.01 / 127.5


@pytest.mark.parametrize("packed", [False, True])
def test_one_self_forcing_follows_the_averaged_weights_and_other_numbers_of_clips(packed):
    ema = random_model(replace(TINY, num_steps=2, prediction="x0"))
    forcing, clips = SelfForcing(ema, False, packed), make_clips(5)
    for number in (3, 5, 2):
        args = clips.x0[:number], clips.actions[:number], clips.seeds[:number]
        assert forcing(*args).equal(SelfForcing(ema, False, packed)(*args))
        with torch.no_grad():
            for weight in ema.parameters():
                weight.mul_(0.9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--self-forcing", 1.5), "self_forcing is 1.5"),
        (("--self-forcing", 0.6, "--scheduled-sampling", 0.5), "together at most 1"),
        (("--self-forcing", 0.5, "--words", True), "single data set without words"),
    ],
)
def test_mistakes_of_self_forcing(train_command, options, words):
    refused(train_command(*options), words)

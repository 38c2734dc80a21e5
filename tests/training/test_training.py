import json
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, assert_one_line, random_inputs, random_model

from data.dataset import Batch, ClipDataset
from data.pixels import to_float
from model import ModelConfig, WorldModel
from model.diffusion import add_noise, alpha_bar, frame_alpha_bar, x0_from_prediction
from training import loop, plots
from training.checkpoint import find_checkpoint_to_resume, list_checkpoints, load_state, save_checkpoint
from training.logging import MetricsLog, read_metrics
from training.loss import (
    PAST_LEVEL,
    SCHEDULED_SAMPLING_PASSES,
    Noise,
    apply_scheduled_sampling,
    diffusion_loss,
    draw_noise,
    drop_actions,
    to_noise_levels,
    validation_noise,
)
from training.metrics import batched_ssim, metrics_by_frame, psnr, ssim
from training.optimizer import make_optimizer, newton_schulz
from training.validation import epoch_metrics, epoch_sums, validation_metrics, validation_sums


def test_a_short_run_leaves_everything_behind(train_command, tmp_path, pong_set):
    code, out, err = train_command("--max-steps", 8)
    assert code == 0, err
    assert "device: CPU" in out and "no GPU in use" in out
    run = tmp_path / "run"
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8]
    assert [line["step"] for line in lines if "val/loss" in line] == [4, 8]
    assert all(np.isfinite(line["train/loss"]) for line in lines if "train/loss" in line)
    assert any("rollout/psnr_1" in line for line in lines)
    assert [line["step"] for line in lines if {"epoch/val_loss", "epoch/psnr", "epoch/ssim"} <= line.keys()] == [8]
    assert [path.name for path in list_checkpoints(run)] == ["step_0000004", "step_0000008"]
    assert (run / "checkpoints" / "latest").resolve().name == "step_0000008"
    assert (run / "rollouts" / "step_0000008.mp4").stat().st_size > 1000
    grid = Image.open(run / "rollouts" / "step_0000008.png")
    assert grid.height == 4 * 2 * 64 * 2 + 3 * 6  # four samples, a gap between
    assert Image.open(run / "metrics.png").width > 1000
    model = WorldModel.from_pretrained(run / "checkpoints" / "latest")
    assert model.game.action_names == ("noop", "up", "down") and model.config.num_actions == 3
    assert model.game.environment == "pong" and model.game.fps == 15
    assert not list(run.rglob("*.tmp"))


def test_a_dream_that_fails_costs_no_run(train_command, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "validation_rollout", lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel")))
    code, _, err = train_command("--max-steps", 2)
    assert code == 0 and "warning: no dream at step 2: no kernel" in err
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_0000002"]


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_loss_falls_on_few_clips(prediction):
    """Twelve hundred pixels under ten noises to learn by heart: a loop that does not learn cannot pass."""
    config = ModelConfig(
        frame_height=16, frame_width=16, dim=32, num_blocks=1, num_heads=2, window_frames=4, num_actions=3,
        prediction=prediction,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WorldModel(config)
    frames, _, actions = random_inputs(config, batch=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        noise = draw_noise(frames.shape, np.array([step % 10]), torch.device("cpu"))
        loss = diffusion_loss(model, config, frames, actions, noise)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])


def test_v_and_x0_networks_have_the_same_loss():
    """An x0 network that says what a v network implies must lose as much, wherever the weight is not held down."""
    frames, _, actions = random_inputs()
    levels = torch.linspace(0.1, 1.0, 12).view(2, 6)
    eps = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    noise = Noise(levels, eps, coins=torch.zeros(2), uniform=levels)
    v_model = random_model()
    loss_v, x0 = diffusion_loss(v_model, v_model.config, frames, actions, noise)
    x0_config = replace(v_model.config, prediction="x0")
    loss_x0, _ = diffusion_loss(lambda *_: x0, x0_config, frames, actions, noise)
    torch.testing.assert_close(loss_x0, loss_v, rtol=1e-3, atol=1e-4)
    assert loss_v.shape == (2, 6)


@pytest.mark.parametrize("kind", ["uniform", "teacher-forcing"])
def test_own_frames_are_made_of_own_frames(kind):
    frames, _, actions = random_inputs(batch=24)
    noise = draw_noise(frames.shape, np.arange(24), torch.device("cpu"), kind)
    config, levels_seen, past = replace(TINY, prediction="x0"), [], []

    def says_lighter_greys(x_u, levels, actions, *attention):
        levels_seen.append(levels[:, -frames.shape[1] :])
        past.append(x_u[:, : frames.shape[1]])
        return torch.full_like(x_u, 0.1 * len(levels_seen))

    assert apply_scheduled_sampling(says_lighter_greys, config, frames, actions, noise, kind, 0.0) is frames
    seen = apply_scheduled_sampling(says_lighter_greys, config, frames, actions, noise, kind, 0.75)
    assert len(levels_seen) == SCHEDULED_SAMPLING_PASSES
    for number, levels in enumerate([0.0, 0.1, 0.2, 0.3]):  # coins up to a quarter: none; a half: one pass; and so on
        chosen = (noise.coins >= 0.25 * number) & (noise.coins < 0.25 * (number + 1))
        assert 0 < chosen.sum() < 24
        assert torch.equal(seen[chosen], frames[chosen]) if number == 0 else abs(seen[chosen] - levels).max() < 1 / 255
    own = noise.coins >= 0.25
    expected = to_noise_levels((noise.uniform[own] + 0.25) % 1, kind)
    assert torch.equal(levels_seen[0], expected) and (expected - noise.levels[own]).abs().min() > 0.01
    if noise.past:  # the second pass looks back at what the first one made
        again = noise.coins >= 0.5
        past_levels, past_eps = (drawn[again] for drawn in noise.past)
        made = torch.full_like(past_eps, 0.1)
        expected = add_noise(made, past_eps, frame_alpha_bar(past_levels))
        torch.testing.assert_close(past[1], expected, atol=1 / 255, rtol=0)


def test_under_teacher_forcing_each_frame_is_told_as_from_a_clean_past():
    """One run over two copies of a clip gives what a run for each frame, over the clean ones before it, does."""
    frames, _, actions = random_inputs()
    model, cpu = random_model(), torch.device("cpu")
    noise = draw_noise(frames.shape, np.arange(2), cpu, "teacher-forcing")
    past_levels, past_eps = noise.past
    assert past_levels.max() < PAST_LEVEL and not torch.equal(past_eps, noise.eps)
    _, told = diffusion_loss(model, model.config, frames, actions, noise)
    clean = add_noise(frames, past_eps, frame_alpha_bar(past_levels))
    noisy = add_noise(frames, noise.eps, frame_alpha_bar(noise.levels))
    for t in range(frames.shape[1]):
        x_u = torch.cat((clean[:, :t], noisy[:, t : t + 1]), dim=1)
        levels = torch.cat((past_levels[:, :t], noise.levels[:, t : t + 1]), dim=1)
        prediction = model(x_u, levels, actions[:, : t + 1])[:, -1]
        expected = x0_from_prediction(prediction, noisy[:, t], frame_alpha_bar(noise.levels)[:, t], "v")
        torch.testing.assert_close(told[:, t], expected, rtol=1e-4, atol=1e-4)


def test_under_teacher_forcing_what_is_seen_is_the_past_alone():
    frames, _, actions = random_inputs()
    noise = draw_noise(frames.shape, np.arange(2), torch.device("cpu"), "teacher-forcing")
    shown = []

    def network(x_u, *rest):
        shown.append(x_u)
        return x_u

    for seen in (frames, torch.zeros_like(frames)):
        diffusion_loss(network, TINY, frames, actions, noise, seen)
    past, own = shown[0].chunk(2, dim=1)
    other_past, same = shown[1].chunk(2, dim=1)
    assert torch.equal(own, same) and (past - other_past).abs().mean() > 0.3


def test_the_loss_of_what_is_seen_is_towards_the_truth():
    frames, _, actions = random_inputs()
    noise = draw_noise(frames.shape, np.arange(2), torch.device("cpu"))
    config = replace(TINY, prediction="x0")
    loss, _ = diffusion_loss(lambda *_: frames, config, frames, actions, noise, seen=torch.zeros_like(frames))
    assert loss.max() == 0
    v_model = random_model()
    same, _ = diffusion_loss(v_model, v_model.config, frames, actions, noise)
    seen, _ = diffusion_loss(v_model, v_model.config, frames, actions, noise, seen=frames)
    loud = noise.levels > 0.1
    torch.testing.assert_close(seen[loud], same[loud], rtol=1e-3, atol=1e-4)


def test_perfect_prediction_has_no_loss():
    frames, _, actions = random_inputs()
    noise = draw_noise(frames.shape, np.arange(2), torch.device("cpu"))
    config = replace(random_model().config, prediction="x0")
    assert diffusion_loss(lambda *_: frames, config, frames, actions, noise)[0].max() == 0


def test_noise_of_a_clip_depends_on_its_seed_alone():
    shape, seeds, cpu = torch.Size((3, 2, 3, 8, 8)), np.array([5, 2**64 - 1, 7], np.uint64), torch.device("cpu")
    noise, turned = draw_noise(shape, seeds, cpu), draw_noise(shape, seeds[::-1], cpu)
    assert torch.equal(noise.eps, turned.eps.flip(0))
    assert torch.equal(noise.levels, turned.levels.flip(0)) and torch.equal(noise.coins, turned.coins.flip(0))
    assert len(noise.eps.unique()) > 1100 and len(torch.cat((noise.levels.flatten(), noise.coins)).unique()) == 9


def test_noise_levels_are_spread_as_they_say():
    uniform = torch.linspace(0, 1, 100_001)[:-1]
    assert torch.equal(to_noise_levels(uniform, "uniform"), uniform)
    logits = torch.special.logit(to_noise_levels(uniform, "logit-normal").double())
    assert abs(logits.mean()) < 0.01 and abs(logits.std() - 1) < 0.01
    high = to_noise_levels(uniform, "teacher-forcing")
    assert high[25_000] == 0.5 and high[0] == 0 and 0.9999 < high[-1] < 1 and (high.diff() > 0).all()


def test_validation_is_the_same_whatever_the_training():
    shape, seeds = torch.Size((2, 4, 3, 8, 8)), np.arange(2)
    noise, training = (draw(shape, seeds, torch.device("cpu")) for draw in (validation_noise, draw_noise))
    assert torch.equal(noise.levels, noise.uniform) and torch.equal(noise.coins, training.coins)
    assert noise.past[0].shape == noise.levels.shape and noise.past[0].max() < PAST_LEVEL


def test_actions_are_dropped_clip_by_clip():
    actions = torch.ones(4000, 3, 2)
    dropped = drop_actions(actions, 0.1, torch.rand(4000, generator=torch.Generator().manual_seed(0)))
    hidden = dropped.sum((1, 2)) == 0
    assert 0.08 < hidden.float().mean() < 0.12
    assert (dropped[~hidden] == 1).all()


def test_resume_goes_on_where_it_stopped(train_command, tmp_path):
    assert train_command("--max-steps", 4)[0] == 0
    code, out, _ = train_command("--max-steps", 8, "--resume", "auto")
    assert code == 0 and "resumed" in out
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8]
    code, out, _ = train_command("--max-steps", 8, "--resume", "auto")
    assert code == 0 and "nothing left to do" in out


def test_interrupted_runs_save_and_leave_cleanly(train_command, tmp_path, monkeypatch):
    update = loop.Trainer._update

    def interrupt_third(self, batch):
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)
        return update(self, batch)

    monkeypatch.setattr(loop.Trainer, "_update", interrupt_third)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = train_command("--max-steps", 50)
    assert code == 130 and "Traceback" not in err
    assert "stopped at step 3" in out
    assert load_state(tmp_path / "run" / "checkpoints" / "latest")["step"] == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_out_of_memory_says_which_batch_would_fit(train_command, monkeypatch):
    update = loop.Trainer._update

    def only_small_batches(self, batch):
        if len(batch.frames) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(self, batch)

    monkeypatch.setattr(loop.Trainer, "_update", only_small_batches)
    code, _, err = train_command("--max-steps", 4, "--batch-size", 16)
    assert_one_line(code, err, "out of memory with --batch-size 16: 2 would fit")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "huge"), ("unknown preset 'huge'", "nano", "small", "base")),
        (("--device", "cuda"), ("CUDA was asked for", "--device cpu")),
        (("--batch-size", 0), ("batch_size is 0",)),
        (("--batch-size", 10**6), ("batch_size 1000000 is more than",)),
        (("--clip-frames", 7), ("clips of 7 frames do not fit a window of 6",)),
        (("--learning-rate", -1), ("learning_rate is -1",)),
        (("--action-dropout", 2), ("action_dropout is 2",)),
        (("--resume", "nowhere"), ("cannot resume from nowhere",)),
        (("--data", "nowhere"), ("no data set at nowhere", "scripts.collect")),
    ],
)
def test_mistakes_are_one_line(train_command, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = train_command("--max-steps", 2, *options)
    assert_one_line(code, err, *words)
    assert not (tmp_path / "run").exists()


def test_resuming_another_network_is_refused(train_command):
    assert train_command("--max-steps", 4)[0] == 0
    code, _, err = train_command("--max-steps", 8, "--resume", "auto", "--prediction", "v")
    assert_one_line(code, err, "cannot resume", "its network or its game is another")


def test_weights_and_biases_without_an_account_costs_nothing(train_command, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = train_command("--max-steps", 2, "--wandb", "online")
    assert code == 0, err
    assert "not logged in to Weights & Biases" in err


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    model = random_model()
    save_checkpoint(tmp_path, 1, model, {"step": 1}, keep=3)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, model, {"step": 2}, keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_0000001"]
    assert find_checkpoint_to_resume("auto", tmp_path).name == "step_0000001"


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, random_model(), {"step": step}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_0000004", "step_0000005"]


def test_metrics_of_steps_after_a_resume_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, 0, "off", "p", None, {})
    for step in (1, 2, 3):
        log.log(step, {"x": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "x"')  # killed while writing
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    MetricsLog(tmp_path, 2, "off", "p", None, {}).log(3, {"x": 30})
    assert [(line["step"], line["x"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [(1, 1), (2, 2), (3, 30)]


def test_weights_and_biases_run_is_gone_on_with(tmp_path, monkeypatch):
    """A resumed run is the same one there; a lost connection costs a warning."""

    class Run:
        def __init__(self, **options):
            self.options, self.id, self.lines = options, options["id"] or "new", []

        def log(self, values, step):
            if step == 2:
                raise ConnectionError("gone")
            self.lines.append((step, values))

        def finish(self):
            pass

    stub = SimpleNamespace(init=Run, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    assert MetricsLog(tmp_path, 0, "offline", "p", None, {}).run_id == "new"
    log = MetricsLog(tmp_path, 0, "offline", "p", None, {}, run_id="abc")
    assert log.run_id == "abc" and log._wandb.options["resume"] == "allow"
    for step in (1, 2, 3):
        log.log(step, {"x": step})
    log.close()
    assert [line["x"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert log.run_id == "abc"


def test_psnr_is_pooled_and_json_has_no_infinity():
    truth = np.zeros((2, 3, 16, 16, 3), np.uint8)
    frames = truth.copy()
    frames[0, 1] = 10  # one sample of two is off by 10: mean squared error 50
    frames[:, 2] = 255
    curve = metrics_by_frame(truth, frames)
    assert curve["psnr"][0] is None and curve["ssim"][0] == 1
    assert curve["psnr"][1] == pytest.approx(10 * np.log10(255**2 / 50))
    assert curve["psnr"][2] == pytest.approx(0)
    assert json.loads(json.dumps(curve, allow_nan=False)) == curve
    assert psnr(truth, truth) == float("inf")
    assert ssim(truth[:, 2], frames[:, 2]) < 0.01


@pytest.mark.parametrize("amount", [0, 3, 40])
def test_fast_ssim_is_that_of_scikit_image(amount):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (5, 8, 12, 3)).astype(np.uint8).repeat(4, axis=1).repeat(3, axis=2)
    truth[0] = 7  # flat, as skies are
    frames = (truth + rng.integers(-amount, amount + 1, truth.shape)).clip(0, 255).astype(np.uint8)
    fast = batched_ssim(*(torch.from_numpy(array).movedim(-1, -3).float() for array in (truth, frames)))
    expected = [ssim(a[None], b[None]) for a, b in zip(truth, frames, strict=True)]
    assert np.abs(fast.numpy() - expected).max() < 1e-4


def test_epoch_figures_are_means_over_all_frames():
    """However they are shared out: of a network that sees everything ten colours too bright."""
    config = replace(random_model().config, prediction="x0")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 200, (7, 6, 16, 24, 3)).astype(np.uint8)
    actions, seeds = np.zeros((7, 6, 3), np.float32), np.arange(7, dtype=np.uint64)

    def part(rows):
        def brighter(*_):
            made = to_float(frames[rows]) + torch.linspace(0, 20, 6)[:, None, None, None] * 2 / 255
            return made.repeat(1, 2, 1, 1, 1)  # for the past, then for the frames that look back at it

        brighter.config, brighter.device = config, torch.device("cpu")
        return epoch_sums(brighter, [Batch(frames[rows], actions[rows], seeds, seeds, seeds[rows])])

    whole, shares = part(slice(0, 7)), part(slice(0, 5)) + part(slice(5, 7)) + epoch_sums(None, [])
    metrics = epoch_metrics(whole)
    seen = (frames + np.linspace(0, 20, 6, dtype=int)[:, None, None, None]).astype(np.uint8)
    assert metrics["epoch/psnr"] == pytest.approx(psnr(frames, seen), abs=1e-4)
    assert metrics["epoch/ssim"] == pytest.approx(np.mean([ssim(a, b) for a, b in zip(frames, seen, strict=True)]))
    assert epoch_metrics(shares) == pytest.approx(metrics) and epoch_metrics(shares / 2) == pytest.approx(metrics)


def test_a_picture_that_cannot_be_drawn_costs_a_warning(train_command, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(plots, "draw_metrics", fail)
    code, _, err = train_command("--max-steps", 4)
    assert code == 0 and err.count("metrics.png could not be drawn: no fonts here") == 1
    assert not list((tmp_path / "run").glob("metrics.png*"))


def test_epochs_are_measured_when_they_end(train_command, tmp_path):
    options = ("--batch-size", 8, "--clip-stride", 64, "--epochs", 2, "--epoch-clips", 9)
    assert train_command(*options)[0] == 0
    num_batches = ClipDataset(train_command.data, "train", 6, stride=64).num_batches(8)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "epoch/psnr" in line] == [num_batches, 2 * num_batches]


def test_validation_tells_heeded_actions_and_noise_levels():
    """A network that draws its frame from the action alone: right under its own, wrong under another clip's."""
    config = replace(random_model().config, prediction="x0")
    actions = np.tile(np.eye(3, dtype=np.float32)[:, None], (16, 6, 1))  # in each clip another than in the one before
    frames = np.full((48, 6, 16, 24, 3), 255, np.uint8) * actions[..., None, None, :].astype(np.uint8)
    batch = Batch(frames, actions, np.arange(48), np.zeros(48, np.int64), np.arange(48, dtype=np.uint64))

    class Painter(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, noisy, noise_level, actions, *attention):
            colour = actions[..., None, None] * 2 - 1
            return (colour + noise_level[..., None, None, None] * 0.1).expand_as(noisy)

    painter = Painter()
    painter.config = config
    metrics = validation_metrics(validation_sums(painter, [batch]))
    assert 0 < metrics["val/loss"] < 0.05
    assert metrics["val/action_ratio"] > 50
    binned = {name: value for name, value in metrics.items() if "loss_noise" in name and np.isfinite(value)}
    assert len(metrics) == 10 and len(binned) == 8
    # The error grows with u^2, its weight falls to 1.
    expected = {u: (0.1 * u) ** 2 / max(0.01, 1 - alpha_bar(torch.tensor(u)).item()) for u in (0.5625, 0.9375)}
    assert metrics["val/loss_noise_0.500"] == pytest.approx(expected[0.5625], rel=0.3)
    assert metrics["val/loss_noise_0.875"] == pytest.approx(expected[0.9375], rel=0.2)


def test_validation_sees_the_same_clips_every_time(pong_set):
    data = ClipDataset(pong_set, "val", 6)
    first, again = (next(data.batches(4)) for _ in range(2))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.actions, again.actions)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_orthogonal_matrices_have_singular_values_near_1_and_the_same_vectors(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    made = newton_schulz(matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    singular = torch.linalg.svdvals(made)
    assert singular.min() > 0.6 and singular.max() < 1.3
    cosine = (made * (u @ vh)).sum() / made.norm() / (u @ vh).norm()
    assert cosine > 0.97


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_optimizer_learns_and_skips_by_its_flag(name):
    model = random_model()
    optimizer = make_optimizer(model, name, 1e-2, 0.01)
    before = [parameter.clone() for parameter in model.parameters()]
    frames, levels, actions = random_inputs()

    def step(flag, scale=1.0):
        loss = (model(frames, levels, actions) - frames).square().mean() * scale
        loss.backward()
        optimizer.found_inf = torch.tensor(flag)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    first = step(0.0)
    assert all((a != b).any() for a, b in zip(model.parameters(), before, strict=True))
    kept = [parameter.clone() for parameter in model.parameters()]
    step(1.0, scale=float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), kept, strict=True))
    for _ in range(30):
        last = step(0.0)
    assert last < 0.7 * first

    again = random_model(seed=1)
    other = make_optimizer(again, name, 1e-2, 0.01)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    step(0.0)
    model, optimizer = again, other
    kept = [parameter.clone() for parameter in model.parameters()]
    step(0.0)
    assert all((a != b).any() for a, b in zip(model.parameters(), kept, strict=True))

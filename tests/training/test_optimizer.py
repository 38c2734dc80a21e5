"""AdamW and Muon."""

import pytest
import torch
from tiny import random_inputs, random_model

from dreamrun.training.optimizer import learning_rate, make_optimizer, newton_schulz
from dreamrun.training.train_config import TrainConfig


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_newton_schulz_moves_singular_values_to_1_and_keeps_vectors(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    update = newton_schulz(matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.6 and singular.max() < 1.3
    cosine = (update * (u @ vh)).sum() / update.norm() / (u @ vh).norm()
    assert cosine > 0.97


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_learns_skips_and_resumes(name):
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
    before = [parameter.clone() for parameter in model.parameters()]
    step(1.0, scale=float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    for _ in range(30):
        last = step(0.0)
    assert last < 0.7 * first

    again = random_model(seed=1)
    other = make_optimizer(again, name, 1e-2, 0.01)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    step(0.0)
    model, optimizer = again, other
    before = [parameter.clone() for parameter in model.parameters()]
    step(0.0)
    assert all((a != b).any() for a, b in zip(model.parameters(), before, strict=True))


def test_learning_rate_warms_up_and_decays(tmp_path):
    config = TrainConfig(tmp_path, tmp_path, learning_rate=1.0, warmup_steps=4, decay_fraction=0.2)
    rates = [learning_rate(config, step, max_steps=50) for step in (0, 3, 39, 40, 45, 49)]
    assert rates == pytest.approx([0.25, 1, 1, 1, 0.5, 0.1])

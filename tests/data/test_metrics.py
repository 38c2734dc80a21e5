"""PSNR and SSIM."""

import json

import numpy as np
import pytest
import torch

from dreamrun.data.metrics import batched_ssim, frame_mse, frame_ssim, metrics_by_frame, psnr, psnr_from_mse, ssim


def test_psnr_is_pooled_and_never_infinite_in_json():
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
    mse = np.array([[255.0**2, 0.0], [np.nan, 650.25]])
    assert np.array_equal(psnr_from_mse(mse), [[0, np.inf], [np.nan, 20]], equal_nan=True)
    assert ssim(truth[:, 2], frames[:, 2]) < 0.01


def test_frame_metrics_end_with_the_true_frames():
    truth = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3)).astype(np.uint8)
    frames, lengths = truth.copy(), np.array([3, 1])
    frames[0, 1] ^= 1  # every value is off by 1
    assert np.array_equal(frame_mse(truth, frames, lengths), [[0, 1, 0], [0, np.nan, np.nan]], equal_nan=True)
    similarity = frame_ssim(truth, frames, lengths)
    assert similarity[0, 0] == similarity[1, 0] == 1 and np.isnan(similarity[1, 1:]).all()
    assert similarity[0, 1] == ssim(truth[0, 1:2], frames[0, 1:2]) < 1


@pytest.mark.parametrize("amount", [0, 3, 40])
def test_batched_ssim_equals_scikit_image(amount):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (5, 8, 12, 3)).astype(np.uint8).repeat(4, axis=1).repeat(3, axis=2)
    truth[0] = 7  # one colour, as skies have
    frames = (truth + rng.integers(-amount, amount + 1, truth.shape)).clip(0, 255).astype(np.uint8)
    fast = batched_ssim(*(torch.from_numpy(array).movedim(-1, -3).float() for array in (truth, frames)))
    expected = [ssim(a[None], b[None]) for a, b in zip(truth, frames, strict=True)]
    assert np.abs(fast.numpy() - expected).max() < 1e-4

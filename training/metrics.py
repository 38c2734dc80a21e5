"""TODO."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW = 7  # pixels on a side


def psnr(truth: np.ndarray, frames: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 arrays, from the squared error pooled over all of them.

    Pooled, so that one identical pair does not make the mean infinite; infinite only if all pairs are identical.
    """
    error = np.square(truth.astype(np.float64) - frames.astype(np.float64)).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(truth: np.ndarray, frames: np.ndarray) -> float:
    """Mean structural similarity of uint8 frames (S, H, W, C) (Wang et al., 2004)."""
    from skimage.metrics import structural_similarity  # here, as SciPy takes a while to import

    pairs = zip(truth, frames, strict=True)
    return float(np.mean([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs]))


def batched_ssim(truth: Tensor, frames: Tensor) -> Tensor:
    """`ssim` of each frame (N, C, H, W), 0 to 255, on its device: float32 (N,), equal to scikit-image's within 1e-4."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(x, (SSIM_WINDOW, 1), 1), (1, SSIM_WINDOW), 1)

    x, y = truth / 255 - 0.5, frames / 255 - 0.5  # around zero, where squares lose least
    mean_x, mean_y, xx, yy, xy = mean(torch.cat((x, y, x * x, y * y, x * y), dim=1)).chunk(5, dim=1)
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)  # a sample's covariance
    var_x, var_y, cov = (sample * (a - b) for a, b in ((xx, mean_x**2), (yy, mean_y**2), (xy, mean_x * mean_y)))
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    similar = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (similar * (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)).mean(dim=(1, 2, 3))


def metrics_by_frame(truth: np.ndarray, frames: np.ndarray) -> dict[str, list[float | None]]:
    """PSNR and SSIM at each frame of uint8 (S, T, H, W, C); None where PSNR is infinite, as JSON has no infinity."""
    values = [psnr(truth[:, t], frames[:, t]) for t in range(truth.shape[1])]
    return {
        "psnr": [value if np.isfinite(value) else None for value in values],
        "ssim": [ssim(truth[:, t], frames[:, t]) for t in range(truth.shape[1])],
    }

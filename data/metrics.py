"""The metrics of the project, all in one place: PSNR and SSIM, pooled and frame by frame.

Shapes: S clips, T frames, H x W pixels, C channels. uint8 frames have values from 0 to 255.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamrun.data.clips import Clips

PEAK_POWER = 255.0**2  # square of the largest value of an 8-bit pixel
SSIM_WINDOW = 7  # pixels on a side


def psnr_from_mse(mse: np.ndarray | float) -> np.ndarray:
    """Mean squared error of 8-bit frames -> PSNR (peak signal-to-noise ratio) in dB; infinite where the error is 0."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(PEAK_POWER / np.asarray(mse, np.float64))


def psnr(truth: np.ndarray, frames: np.ndarray) -> float:
    """PSNR in dB of uint8 arrays of one shape, from the squared error pooled over all of them.

    Pooling keeps one identical pair of frames from making the result infinite. It is infinite if all are identical.
    """
    return float(psnr_from_mse(np.square(truth.astype(np.float64) - frames.astype(np.float64)).mean()))


def ssim(truth: np.ndarray, frames: np.ndarray) -> float:
    """Mean structural similarity of uint8 frames (S, H, W, C) (Wang et al., 2004)."""
    return float(np.mean([_structural_similarity(*pair) for pair in zip(truth, frames, strict=True)]))


def frame_mse(truth: np.ndarray, frames: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Mean squared error of each frame, float64 (S, T); NaN from `lengths[s]` on.

    Args:
        truth, frames: uint8 (S, T, H, W, C).
        lengths: (S,) number of true frames of each clip.
    """
    errors = np.full(truth.shape[:2], np.nan)
    for clip, length in enumerate(lengths):
        difference = truth[clip, :length].astype(np.float32) - frames[clip, :length]
        errors[clip, :length] = np.square(difference).mean((1, 2, 3))
    return errors


def frame_ssim(truth: np.ndarray, frames: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Structural similarity of each frame, float64 (S, T); arguments and NaN as in `frame_mse`."""
    values = np.full(truth.shape[:2], np.nan)
    for clip, length in enumerate(lengths):
        for t in range(length):
            values[clip, t] = _structural_similarity(truth[clip, t], frames[clip, t])
    return values


def batched_ssim(truth: Tensor, frames: Tensor) -> Tensor:
    """SSIM of each frame (N, C, H, W), values from 0 to 255: float32 (N,), equal to scikit-image's within 1e-4."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(x, (SSIM_WINDOW, 1), 1), (1, SSIM_WINDOW), 1)

    x, y = truth / 255 - 0.5, frames / 255 - 0.5  # around zero, where squares lose the least precision
    mean_x, mean_y, xx, yy, xy = mean(torch.cat((x, y, x * x, y * y, x * y), dim=1)).chunk(5, dim=1)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)  # factor of the sample covariance
    var_x, var_y, cov = (unbiased * (a - b) for a, b in ((xx, mean_x**2), (yy, mean_y**2), (xy, mean_x * mean_y)))
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (luminance * (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)).mean(dim=(1, 2, 3))


def metrics_by_frame(truth: np.ndarray, frames: np.ndarray) -> dict[str, list[float | None]]:
    """PSNR, pooled over the clips, and mean SSIM at each frame of uint8 (S, T, H, W, C).

    An infinite PSNR becomes None: JSON has no infinity.
    """
    values = [psnr(truth[:, t], frames[:, t]) for t in range(truth.shape[1])]
    return {
        "psnr": [value if np.isfinite(value) else None for value in values],
        "ssim": [ssim(truth[:, t], frames[:, t]) for t in range(truth.shape[1])],
    }


def _structural_similarity(truth: np.ndarray, frame: np.ndarray) -> float:
    from skimage.metrics import structural_similarity  # imported here: SciPy takes a while to import

    return structural_similarity(truth, frame, channel_axis=-1, data_range=255)


def rollout_metrics(clips: Clips, generated: np.ndarray, generated_other: np.ndarray | None, num_prompt: int) -> dict:
    """PSNR and SSIM per frame of rollouts and of two baselines, at the frames that are recorded in all clips.

    Args:
        generated: uint8 (S, T, H, W, C), rollouts from the clips' prompts under their own actions.
        generated_other: the same under `clips.other_actions`, the level that a model without control reaches.

    Returns:
        Plain values for JSON. "dream", "repeat_prompt" (the last prompt frame, repeated) and "other_actions" hold the
        curves; the last two are missing where there is no prompt or no `generated_other`.
    """
    end = clips.num_true_frames
    truth = clips.frames[:, num_prompt:end]
    report: dict = {"num_samples": len(truth), "num_prompt_frames": num_prompt, "first_frame": num_prompt}
    report["dream"] = metrics_by_frame(truth, generated[:, num_prompt:end])
    if num_prompt:
        repeated = np.repeat(clips.frames[:, num_prompt - 1 : num_prompt], truth.shape[1], axis=1)
        report["repeat_prompt"] = metrics_by_frame(truth, repeated)
    if generated_other is not None:
        report["other_actions"] = metrics_by_frame(truth, generated_other[:, num_prompt:end])
    return report

"""Animations and still images as data URIs, for a report that is one file.

Shapes: S rollouts, K actions, T frames, H x W pixels, C channels.
"""

import base64
import io
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image

from dreamrun.data.video import titled, upscale
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.counterfactuals import Counterfactuals, identical_groups
from dreamrun.evaluation.section import Section
from dreamrun.evaluation.sections.fidelity import example_clips
from dreamrun.games.space import ActionSpace

WEBP_QUALITY = 80
UPSCALE_FACTOR = 2  # done before WebP halves the colour resolution
NUM_LONG_ROLLOUTS, NUM_LONG_ROLLOUT_FRAMES = 6, 10  # rows and columns of the contact sheet of long rollouts


def measure(context: EvaluationContext) -> dict[str, Any]:
    """The pictures of the report by name, and the numbers of the frames that the long rollouts show."""
    truth, lengths, rollouts, fps = context.truth, context.truth_lengths, context.rollouts, context.metadata.fps
    pictures = {}
    for name, example in example_clips(truth, rollouts, lengths).items():
        clip, end = example["clip"], lengths[example["clip"]]
        pictures[name] = comparison_animation(truth[clip, :end], rollouts[clip, :end], fps)
    if context.has_counterfactuals:
        generated = context.counterfactual_rollouts
        pictures["futures"] = counterfactual_animation(context.counterfactuals, generated, context.space, fps)
    frame_ids = np.linspace(0, context.sizes["drift_frames"] - 1, NUM_LONG_ROLLOUT_FRAMES).astype(int)
    long_rollouts = [frames[frame_ids] for batch in context.long_rollouts() for frames in batch]
    pictures["long dreams"] = contact_sheet(np.stack(long_rollouts[:NUM_LONG_ROLLOUTS]))
    return {"shown": pictures, "drift_moments": (frame_ids + 1).tolist()}


def comparison_animation(truth: np.ndarray, rollout: np.ndarray, fps: float) -> str:
    """Real frames, generated frames and their absolute difference side by side, each uint8 (T, H, W, C)."""
    difference = np.abs(truth.astype(np.int16) - rollout).astype(np.uint8)
    return _animation(upscale(np.concatenate((truth, rollout, difference), axis=2), UPSCALE_FACTOR), fps)


def counterfactual_animation(
    counterfactuals: Counterfactuals, rollouts: np.ndarray, space: ActionSpace, fps: float
) -> str:
    """The futures of one game state, a column per action: real above, generated below, black after an episode's end.

    The state is the one with the most distinct futures, and among those the one whose futures last longest.
    """
    num_distinct = [identical_groups(futures[:, -1]).max() for futures in counterfactuals.futures]
    state = max(range(len(num_distinct)), key=lambda s: (num_distinct[s], counterfactuals.lengths[s].min()))
    columns = []
    for k, action in enumerate(counterfactuals.actions):
        pair = np.concatenate((counterfactuals.futures[state, k], rollouts[state, k]), axis=1)
        is_running = np.arange(len(pair)) < counterfactuals.lengths[state, k]
        pair = (pair * is_running[:, None, None, None]).astype(np.uint8)
        columns.append(titled(upscale(pair, UPSCALE_FACTOR), space.format(action)))
    return _animation(np.concatenate(columns, axis=2), fps)


def contact_sheet(frames: np.ndarray) -> str:
    """uint8 (S, T, H, W, C) as one still image: a row per rollout, a column per frame."""
    sheet = rearrange(frames, "s t h w c -> (s h) (t w) c")
    return _data_uri([Image.fromarray(upscale(sheet, UPSCALE_FACTOR))], {})


def _animation(frames: np.ndarray, fps: float) -> str:
    """uint8 (T, H, W, C) as an animation that loops."""
    return _data_uri([Image.fromarray(frame) for frame in frames], {"duration": round(1000 / fps), "loop": 0})


def _data_uri(images: list[Image.Image], options: dict[str, Any]) -> str:
    file = io.BytesIO()
    images[0].save(file, "webp", quality=WEBP_QUALITY, save_all=len(images) > 1, append_images=images[1:], **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


PICTURES = Section("pictures", measure)

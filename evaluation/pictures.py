"""Moving and still pictures as text, ready to stand in a page that is one file."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from data.actions import ActionSpace
from data.video import titled, upscale
from evaluation.counterfactuals import Branches, which_alike

QUALITY = 80  # of WebP
FACTOR = 2  # upscaled by, before WebP halves the colour resolution


def animation(rows: list[np.ndarray], fps: float) -> str:
    """Truth and dream, each uint8 (T, H, W, C), side by side with their difference; loops."""
    truth, dream = rows
    difference = np.abs(truth.astype(np.int16) - dream).astype(np.uint8)
    return _animation(upscale(np.concatenate((truth, dream, difference), axis=2), FACTOR), fps)


def fan_out(branches: Branches, dreams: np.ndarray, space: ActionSpace, fps: float) -> str:
    """One moment's futures, a column an action: truth above, dream below, black after an episode's end.

    The moment is the first of those whose futures differ most in number, then last longest.
    """
    last = [which_alike(futures[:, -1]).max() for futures in branches.futures]
    state = max(range(len(last)), key=lambda s: (last[s], branches.lengths[s].min()))
    columns = []
    for k, action in enumerate(branches.actions):
        going_on = (np.arange(branches.futures.shape[2]) < branches.lengths[state, k])[:, None, None, None]
        pair = np.concatenate((branches.futures[state, k], dreams[state, k]), axis=1) * going_on
        columns.append(titled(upscale(pair.astype(np.uint8), FACTOR), space.format(action)))
    return _animation(np.concatenate(columns, axis=2), fps)


def still_image(frames: np.ndarray) -> str:
    """uint8 (S, M, H, W, C): a row a dream, a column a moment."""
    picture = upscale(np.concatenate(list(np.concatenate(list(frames.swapaxes(0, 1)), axis=2)), axis=0), FACTOR)
    return _encoded([Image.fromarray(picture)], {})


def _animation(frames: np.ndarray, fps: float) -> str:
    return _encoded([Image.fromarray(frame) for frame in frames], {"duration": round(1000 / fps), "loop": 0})


def _encoded(images: list[Image.Image], options: dict) -> str:
    """As a data URI."""
    file = io.BytesIO()
    images[0].save(file, "webp", quality=QUALITY, save_all=len(images) > 1, append_images=images[1:], **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()

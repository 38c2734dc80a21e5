"""mp4 writing, the pressed-keys overlay, and comparison grids.

Shapes: T frames, uint8 (T, H, W, C).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.actions import NO_ACTION, ActionSpace

UPSCALE = 4  # nearest neighbour, before H.264 halves the colour resolution: 40 dB in place of 30
_INK, _PAPER, _LIT = (225, 225, 230), (24, 24, 28), (255, 196, 60)
# Corners of a triangle that points there, in halves of a key cap; drawn, as few fonts have arrows.
_ARROWS = {
    "LEFT": ((-0.5, 0), (0.4, -0.5), (0.4, 0.5)),
    "UP": ((0, -0.5), (-0.5, 0.4), (0.5, 0.4)),
    "DOWN": ((0, 0.5), (-0.5, -0.4), (0.5, -0.4)),
    "RIGHT": ((0.5, 0), (-0.4, -0.5), (-0.4, 0.5)),
}


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 (T, H, W, 3) as H.264, under its name only once it is whole; odd sizes gain a black row or column."""
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3, frames.shape
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.options = "yuv420p", {"crf": "16", "preset": "medium"}
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def upscale(frames: np.ndarray, factor: int = UPSCALE) -> np.ndarray:
    """(..., H, W, C) -> (..., factor H, factor W, C), nearest neighbour."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def key_strip(action: int, space: ActionSpace, width: int, height: int = 24) -> np.ndarray:
    """A row of key caps, those that the action holds lit up: uint8 (height, width, 3)."""
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    if action == NO_ACTION:
        draw.text((width / 2, height / 2), "no action", fill=_INK, anchor="mm", font=_font(11))
        return np.asarray(image)
    if not space.all_keys:  # a space of which no keys are known
        draw.text((width / 2, height / 2), space.names[action], fill=_LIT, anchor="mm", font=_font(11))
        return np.asarray(image)
    keys = [key for key in _ARROWS if key in space.all_keys] + [key for key in space.all_keys if key not in _ARROWS]
    side = min(height - 6, max(8, (width - 4) // len(keys) - 3))
    left = (width - len(keys) * (side + 3) + 3) // 2
    for place, key in enumerate(keys):
        held = key in space.keys[action]
        x, y = left + place * (side + 3), (height - side) // 2
        draw.rounded_rectangle((x, y, x + side - 1, y + side - 1), 3, fill=_LIT if held else None, outline=_INK)
        colour, middle_x, middle_y = _PAPER if held else _INK, x + (side - 1) / 2, y + (side - 1) / 2
        if key in _ARROWS:
            half = side / 2
            draw.polygon([(middle_x + half * dx, middle_y + half * dy) for dx, dy in _ARROWS[key]], fill=colour)
        else:
            draw.text((middle_x, middle_y), key[:1].upper(), fill=colour, anchor="mm", font=_font(side - 6))
    return np.asarray(image)


def with_keys(frames: np.ndarray, actions: np.ndarray, space: ActionSpace, factor: int = UPSCALE) -> np.ndarray:
    """Upscaled frames with the keys that led into each below it.

    Args:
        frames: uint8 (T, H, W, 3).
        actions: (T,) int; NO_ACTION where none is known.
    """
    large = upscale(frames, factor)
    strips = {int(action): key_strip(int(action), space, large.shape[2]) for action in np.unique(actions)}
    return np.concatenate((large, np.stack([strips[int(action)] for action in actions])), axis=1)


def titled(frames: np.ndarray, title: str, height: int = 18) -> np.ndarray:
    """Frames (T, H, W, 3) below a line of text."""
    image = Image.new("RGB", (frames.shape[2], height), _PAPER)
    ImageDraw.Draw(image).text((4, height / 2), title, fill=_INK, anchor="lm", font=_font(12))
    bar = np.broadcast_to(np.asarray(image), (len(frames), height, frames.shape[2], 3))
    return np.concatenate((bar, frames), axis=1)


def comparison(truth: np.ndarray, dream: np.ndarray, actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    """One column a sample: truth on top, the dream below it, pressed keys under each.

    Args:
        truth, dream: uint8 (S, T, H, W, 3).
        actions: (S, T) int, those that led into the dream's frames.

    Returns:
        uint8 (T, height, width, 3).
    """
    columns = [
        np.concatenate((titled(upscale(real), "real game"), titled(with_keys(dreamt, keys, space), "dream")), axis=1)
        for real, dreamt, keys in zip(truth, dream, actions, strict=True)
    ]
    gap = np.full((*columns[0].shape[:2], 6, 3), _PAPER, np.uint8)
    return np.concatenate([part for column in columns for part in (gap, column)][1:], axis=2)


def grid(truth: np.ndarray, dream: np.ndarray, moments: list[int], factor: int = 2) -> np.ndarray:
    """A still picture: for each sample a row of true frames at `moments`, and a row of dreamt ones below it.

    Args:
        truth, dream: uint8 (S, T, H, W, 3).

    Returns:
        uint8 (height, width, 3).
    """
    rows = [
        upscale(np.concatenate(list(frames[moments]), axis=1), factor)
        for pair in zip(truth, dream, strict=True)
        for frames in pair
    ]
    gap = np.full((6, rows[0].shape[1], 3), _PAPER, np.uint8)
    return np.concatenate([part for i, row in enumerate(rows) for part in ((gap, row) if i and i % 2 == 0 else (row,))])


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, format="png")


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(max(6, size))

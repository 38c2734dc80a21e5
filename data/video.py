"""mp4 writing, the pressed-keys overlay, and comparison grids.

Shapes: T frames, uint8 (T, H, W, C).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.actions import ActionSpace
from data.atomic import atomic_file

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
    with atomic_file(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16", "preset": "medium"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def upscale(frames: np.ndarray, factor: int = UPSCALE) -> np.ndarray:
    """(..., H, W, C) -> (..., factor H, factor W, C), nearest neighbour."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def key_strip(action: int | np.ndarray, space: ActionSpace, width: int, height: int = 24) -> np.ndarray:
    """A row of key caps, those that the recorded action holds lit up, and of axes, with a bar as far as each is pushed:
    uint8 (height, width, 3)."""
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    held = space.held(np.asarray(action))
    if not space.vectors(np.asarray(action)).any():
        draw.text((width / 2, height / 2), "no action", fill=_INK, anchor="mm", font=_font(11))
        return np.asarray(image)
    if space.discrete and not space.all_keys:  # a space of which no keys are known
        draw.text((width / 2, height / 2), space.names[action], fill=_LIT, anchor="mm", font=_font(11))
        return np.asarray(image)
    caps = _caps(space, held)
    side = min(height - 6, max(8, (width - 4) // len(caps) - 3))
    left = (width - len(caps) * (side + 3) + 3) // 2
    for place, (label, pushed, is_axis) in enumerate(caps):
        corner = left + place * (side + 3), (height - side) // 2
        (_draw_axis if is_axis else _draw_key)(draw, corner, side, label, pushed)
    return np.asarray(image)


def _caps(space: ActionSpace, held: np.ndarray) -> list[tuple[str, float, bool]]:
    """What there is to show: a label, how far it is pushed, and whether it is an axis; arrows first, axes last."""
    if space.discrete:
        action = int(held.argmax())
        caps = [(key, float(key in space.keys[action]), False) for key in space.all_keys]
    else:
        caps = [
            ((*space.keys[i], space.names[i])[0] if space.kinds[i] == "button" else space.names[i],
             float(held[i]), space.kinds[i] == "axis")
            for i in space.acting
        ]  # fmt: skip
    arrows = list(_ARROWS)
    return sorted(caps, key=lambda cap: (cap[2], arrows.index(cap[0]) if cap[0] in arrows else len(arrows)))


def _draw_key(draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, label: str, pushed: float) -> None:
    (x, y), lit = corner, pushed > 0
    draw.rounded_rectangle((x, y, x + side - 1, y + side - 1), 3, fill=_LIT if lit else None, outline=_INK)
    colour, middle_x, middle_y = _PAPER if lit else _INK, x + (side - 1) / 2, y + (side - 1) / 2
    if label in _ARROWS:
        half = side / 2
        draw.polygon([(middle_x + half * dx, middle_y + half * dy) for dx, dy in _ARROWS[label]], fill=colour)
    else:
        draw.text((middle_x, middle_y), label[:1].upper(), fill=colour, anchor="mm", font=_font(side - 6))


def _draw_axis(draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, label: str, pushed: float) -> None:
    """A bar from the middle, down the box for an axis whose name ends in y, else across it; full at 1."""
    (x, y), middle = corner, (side - 1) / 2
    draw.rectangle((x, y, x + side - 1, y + side - 1), outline=_INK)
    start, end = sorted((middle, middle + max(-1.0, min(1.0, pushed)) * (middle - 1)))
    upright = label.lower().endswith("y")
    box = (x + 3, y + start, x + side - 4, y + end) if upright else (x + start, y + 3, x + end, y + side - 4)
    draw.rectangle(box, fill=_LIT if pushed else _INK)


def with_keys(frames: np.ndarray, actions: np.ndarray, space: ActionSpace, factor: int = UPSCALE) -> np.ndarray:
    """Upscaled frames with the keys that led into each below it.

    Args:
        frames: uint8 (T, H, W, 3).
        actions: recorded ones, (T,) ids or (T, names) vectors.
    """
    large = upscale(frames, factor)
    distinct = {action.tobytes(): action for action in actions}  # by bytes: NaN is not equal to itself, and 0 is -0
    strips = {name: key_strip(action, space, large.shape[2]) for name, action in distinct.items()}
    return np.concatenate((large, np.stack([strips[action.tobytes()] for action in actions])), axis=1)


def titled(frames: np.ndarray, title: str, height: int = 18) -> np.ndarray:
    """Frames (T, H, W, 3) below a line of text."""
    image = Image.new("RGB", (frames.shape[2], height), _PAPER)
    ImageDraw.Draw(image).text((4, height / 2), title, fill=_INK, anchor="lm", font=_font(12))
    bar = np.broadcast_to(np.asarray(image), (len(frames), height, frames.shape[2], 3))
    return np.concatenate((bar, frames), axis=1)


def comparison(truth: np.ndarray | None, dream: np.ndarray, actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    """One column a sample: truth on top, if there is one, the dream below it, pressed keys under each.

    Args:
        truth, dream: uint8 (S, T, H, W, 3).
        actions: recorded ones, (S, T) or (S, T, names), those that led into the dream's frames.

    Returns:
        uint8 (T, height, width, 3).
    """
    columns = [titled(with_keys(dreamt, keys, space), "dream") for dreamt, keys in zip(dream, actions, strict=True)]
    if truth is not None:
        tops = [titled(upscale(real), "real game") for real in truth]
        columns = [np.concatenate(pair, axis=1) for pair in zip(tops, columns, strict=True)]
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
    """Write uint8 (H, W, 3), under its name only once it is whole."""
    with atomic_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="png")


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(max(6, size))

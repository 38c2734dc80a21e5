"""Video and picture files: writing mp4 and PNG, key overlays, and comparisons of truth and rollout.

Shapes: S samples, T frames, H x W pixels, all uint8. Frames and videos are (T, H, W, 3), pictures (H, W, 3). Actions
are recorded ones, (T,) ids or (T, names) vectors, that led into the frames.
"""

import io
from collections.abc import Iterable
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from einops import repeat
from PIL import Image, ImageDraw, ImageFont

from dreamrun.data.atomic import atomic_file
from dreamrun.games.space import ActionSpace

# The comment in a file that shows more than the game; `read_source` refuses it as a clip.
DECORATED = "it shows titles or keys beside the game"
UPSCALE = 4  # by nearest neighbour: H.264 halves the colour resolution, and 64-pixel frames then keep 40 dB, not 30
MAX_GIF_FPS = 50
_FOREGROUND, _BACKGROUND, _HIGHLIGHT = (225, 225, 230), (24, 24, 28), (255, 196, 60)
# Corners of a triangle per arrow key, in halves of a key cap. They are drawn, as few fonts have arrows.
_ARROWS = {
    "LEFT": ((-0.5, 0), (0.4, -0.5), (0.4, 0.5)),
    "UP": ((0, -0.5), (-0.5, 0.4), (0.5, 0.4)),
    "DOWN": ((0, 0.5), (-0.5, -0.4), (0.5, -0.4)),
    "RIGHT": ((0.5, 0), (-0.4, -0.5), (-0.4, 0.5)),
}


def mp4_bytes(frames: Iterable[np.ndarray], fps: float, decorated: bool = False) -> bytes:
    """An mp4 of frames (H, W, 3), one or more, as H.264, in the colours of BT.709.

    An odd height or width gains a black row or column.

    Args:
        decorated: whether the frames show more than the game; the file says so.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = DECORATED if decorated else ""
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16", "preset": "medium"}
        # Players assume BT.601 or BT.709 by the size of a video that says nothing, and FFmpeg converts by BT.601.
        colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for number, frame in enumerate(frames):
            assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3, frame.shape
            frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)))
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p", **colours)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float, decorated: bool = False) -> None:
    """Write `mp4_bytes`, atomically."""
    video = mp4_bytes(frames, fps, decorated)
    with atomic_file(path) as temporary:
        temporary.write_bytes(video)


def write_animation(path: Path, frames: np.ndarray, fps: float, decorated: bool = False) -> None:
    """Write frames (T, H, W, 3), atomically: as a GIF that repeats if the name ends in .gif, else as an mp4.

    A GIF counts in hundredths of a second, and browsers turn 1 into 10. So it has at most 50 frames a second.
    """
    if path.suffix.lower() != ".gif":
        write_mp4(path, frames, fps, decorated)
        return
    step = ceil(fps / MAX_GIF_FPS)
    ends = np.append(np.arange(step, len(frames), step), len(frames))
    delays = np.diff((100 * ends / fps).round(), prepend=0).clip(min=2).astype(int)  # 3, 3, 4 at 30 frames a second
    frames = frames[::step]
    # One palette for all frames, so that colours do not flicker.
    palette = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 16)])).quantize(
        256, dither=Image.Dither.NONE
    )
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    options = {"save_all": True, "append_images": pictures[1:], "duration": (10 * delays).tolist(), "loop": 0}
    options |= {"comment": DECORATED} if decorated else {}
    with atomic_file(path) as temporary:
        pictures[0].save(temporary, format="gif", **options)


def upscale(frames: np.ndarray, factor: int = UPSCALE) -> np.ndarray:
    """(..., H, W, C) -> (..., factor * H, factor * W, C), by nearest neighbour."""
    return repeat(frames, "... h w c -> ... (h fh) (w fw) c", fh=factor, fw=factor)


def key_strip(action: int | np.ndarray, space: ActionSpace, width: int, height: int = 24) -> np.ndarray:
    """Draw a recorded action as a row of key caps and axes: (height, width, 3).

    Keys that the action holds are highlighted. An axis shows a bar as long as its value.
    """
    image = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    values = space.name_values(np.asarray(action))
    if not space.vectors(np.asarray(action)).any():
        draw.text((width / 2, height / 2), "no action", fill=_FOREGROUND, anchor="mm", font=_font(11))
        return np.asarray(image)
    if space.discrete and not space.all_keys:  # the space has no keys: show the name
        draw.text((width / 2, height / 2), space.names[action], fill=_HIGHLIGHT, anchor="mm", font=_font(11))
        return np.asarray(image)
    caps = _key_caps(space, values)
    side = min(height - 6, max(8, (width - 4) // len(caps) - 3))
    left = (width - len(caps) * (side + 3) + 3) // 2
    for i, (label, value, is_axis) in enumerate(caps):
        corner = left + i * (side + 3), (height - side) // 2
        (_draw_axis if is_axis else _draw_key)(draw, corner, side, label, value)
    return np.asarray(image)


def _key_caps(space: ActionSpace, values: np.ndarray) -> list[tuple[str, float, bool]]:
    """Label, value and whether it is an axis, for each key and axis; arrows first, axes last."""
    if space.discrete:
        action = int(values.argmax())
        caps = [(key, float(key in space.keys[action]), False) for key in space.all_keys]
    else:
        caps = [
            ((*space.keys[i], space.names[i])[0] if space.kinds[i] == "button" else space.names[i],
             float(values[i]), space.kinds[i] == "axis")
            for i in space.acting
        ]  # fmt: skip
    arrows = list(_ARROWS)
    return sorted(caps, key=lambda cap: (cap[2], arrows.index(cap[0]) if cap[0] in arrows else len(arrows)))


def _draw_key(draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, label: str, value: float) -> None:
    (x, y), pressed = corner, value > 0
    draw.rounded_rectangle(
        (x, y, x + side - 1, y + side - 1), 3, fill=_HIGHLIGHT if pressed else None, outline=_FOREGROUND
    )
    colour, middle_x, middle_y = _BACKGROUND if pressed else _FOREGROUND, x + (side - 1) / 2, y + (side - 1) / 2
    if label in _ARROWS:
        half = side / 2
        draw.polygon([(middle_x + half * dx, middle_y + half * dy) for dx, dy in _ARROWS[label]], fill=colour)
    else:
        draw.text((middle_x, middle_y), label[:1].upper(), fill=colour, anchor="mm", font=_font(side - 6))


def _draw_axis(draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, label: str, value: float) -> None:
    """A bar from the middle of a box, full at +-1; vertical if the name ends in y, else horizontal."""
    (x, y), middle = corner, (side - 1) / 2
    draw.rectangle((x, y, x + side - 1, y + side - 1), outline=_FOREGROUND)
    start, end = sorted((middle, middle + max(-1.0, min(1.0, value)) * (middle - 1)))
    vertical = label.lower().endswith("y")
    box = (x + 3, y + start, x + side - 4, y + end) if vertical else (x + start, y + 3, x + end, y + side - 4)
    draw.rectangle(box, fill=_HIGHLIGHT if value else _FOREGROUND)


def with_keys(frames: np.ndarray, actions: np.ndarray, space: ActionSpace, factor: int = UPSCALE) -> np.ndarray:
    """Upscaled frames, each above the keys of the action that led into it."""
    large = upscale(frames, factor)
    distinct = {action.tobytes(): action for action in actions}  # by bytes, as NaN is not equal to itself
    strips = {key: key_strip(action, space, large.shape[2]) for key, action in distinct.items()}
    return np.concatenate((large, np.stack([strips[action.tobytes()] for action in actions])), axis=1)


def titled(frames: np.ndarray, title: str, height: int = 18) -> np.ndarray:
    """Frames (T, H, W, 3) with a line of text above."""
    image = Image.new("RGB", (frames.shape[2], height), _BACKGROUND)
    ImageDraw.Draw(image).text((4, height / 2), title, fill=_FOREGROUND, anchor="lm", font=_font(12))
    bar = np.broadcast_to(np.asarray(image), (len(frames), height, frames.shape[2], 3))
    return np.concatenate((bar, frames), axis=1)


def framed(frames: np.ndarray, marked: np.ndarray, width: int = 4) -> np.ndarray:
    """Frames (T, H, W, 3) with a border: in the highlight colour where `marked`, bool (T,), else dark."""
    colours = np.where(marked[:, None], np.array(_HIGHLIGHT), np.array(_BACKGROUND)).astype(np.uint8)
    num_frames, height, frame_width, channels = frames.shape
    shape = (num_frames, height + 2 * width, frame_width + 2 * width, channels)
    bordered = np.broadcast_to(colours[:, None, None], shape).copy()
    bordered[:, width:-width, width:-width] = frames
    return bordered


def edited(
    frames: np.ndarray, actions: np.ndarray, known: np.ndarray, space: ActionSpace, truth: np.ndarray | None = None
) -> np.ndarray:
    """A video of a clip that was filled in, with its keys and a border around frames that are `known`, bool (T,).

    The truth, if there is one, is above it.
    """
    video = titled(framed(with_keys(frames, actions, space), known), "known frames in yellow")
    if truth is None:
        return video
    return np.concatenate((titled(framed(upscale(truth), np.zeros_like(known)), "real game"), video), axis=1)


def comparison(truth: np.ndarray | None, rollouts: np.ndarray, actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    """A video with one column per sample: the truth, if there is one, above the rollout and its keys.

    Arguments have a first axis of S samples.
    """
    columns = [titled(with_keys(frames, keys, space), "dream") for frames, keys in zip(rollouts, actions, strict=True)]
    if truth is not None:
        tops = [titled(upscale(real), "real game") for real in truth]
        columns = [np.concatenate(pair, axis=1) for pair in zip(tops, columns, strict=True)]
    return side_by_side(columns)


def side_by_side(videos: list[np.ndarray]) -> np.ndarray:
    """Videos of equal length and height next to each other, with gaps: each (T, H, W, 3) -> (T, H, width, 3)."""
    gap = np.full((*videos[0].shape[:2], 6, 3), _BACKGROUND, np.uint8)
    return np.concatenate([part for video in videos for part in (gap, video)][1:], axis=2)


def grid(truth: np.ndarray, rollouts: np.ndarray, moments: list[int], factor: int = 2) -> np.ndarray:
    """A picture with two rows for each of S samples: the truth at the frames `moments`, and the rollout below it."""
    rows = [
        upscale(np.concatenate(list(frames[moments]), axis=1), factor)
        for pair in zip(truth, rollouts, strict=True)
        for frames in pair
    ]
    gap = np.full((6, rows[0].shape[1], 3), _BACKGROUND, np.uint8)
    return np.concatenate([part for i, row in enumerate(rows) for part in ((gap, row) if i and i % 2 == 0 else (row,))])


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture (H, W, 3), atomically."""
    with atomic_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="png")


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(max(6, size))

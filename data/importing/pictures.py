"""Pictures of any size and rate -> frames of one size, at the ticks of the data set.

Shapes: K pictures of a recording, T frames (ticks of 1 / fps seconds) of the data set.
"""

from fractions import Fraction
from itertools import pairwise
from typing import Literal

import av
import numpy as np
from av.sidedata.sidedata import Type

from dreamrun.data.importing.decoding import Picture

JITTER = 0.25  # share of an interval by which a time stamp may be too early, as time stamps are rounded
Fit = Literal["crop", "pad", "stretch"]


def pictures_at_ticks(frame_times: np.ndarray, fps: float) -> np.ndarray:
    """(T,) number of the picture shown at each tick of 1 / fps seconds: the latest, allowing for jitter.

    Args:
        frame_times: (K,) seconds of the pictures.
    """
    jitter = jitter_secs(frame_times, fps)
    num_ticks = int((frame_times[-1] + jitter) * fps) + 1
    return np.searchsorted(frame_times, np.arange(num_ticks) / fps + jitter, side="right") - 1


def jitter_secs(times: np.ndarray, fps: float) -> float:
    """Seconds by which a time stamp may be too early."""
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps
    return JITTER * min(1 / fps, interval) if interval > 0 else 0.0


class Resizer:
    """Shows pictures as players do: turned and mirrored as their display matrix says, with square pixels, on black.

    FFmpeg's filters do this, resize by area averaging and convert to RGB.

    Args:
        width, height: of the frames, pixels.
        fit: for pictures of another aspect ratio: "crop" their edges, "pad" them with black bars, or "stretch" them.
    """

    def __init__(self, width: int, height: int, fit: Fit):
        self.width, self.height, self.fit = width, height, fit
        self._graph: av.filter.Graph | None = None
        self._input_format: tuple | None = None  # of the pictures that the graph was made for

    def __call__(self, picture: Picture) -> np.ndarray:
        """The frame of a picture, uint8 (height, width, 3)."""
        stored, aspect = picture
        orientation = _orientation(stored)
        if stored.format.name == "pal8" or any(component.is_alpha for component in stored.format.components):
            stored = _on_black(stored)
        input_format = (stored.width, stored.height, stored.format.name, orientation, stored.colorspace, aspect)
        if input_format != self._input_format:  # it may change within a stream
            self._graph, self._input_format = self._make_graph(stored, orientation, aspect), input_format
        stored.pts = None
        self._graph.push(stored)
        return self._graph.pull().to_ndarray()

    def _make_graph(
        self, picture: av.VideoFrame, orientation: tuple[bool, bool, bool], aspect: float
    ) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        width, height = picture.width, picture.height
        nodes = [graph.add_buffer(width=width, height=height, format=picture.format, time_base=Fraction(1, 1000))]
        for name, options in self._filters(width, height, orientation, aspect):
            nodes.append(graph.add(name, options))
        nodes.append(graph.add("format", "rgb24"))
        nodes.append(graph.add("buffersink"))
        for node, next_node in pairwise(nodes):
            node.link_to(next_node)
        graph.configure()
        return graph

    def _filters(
        self, width: int, height: int, orientation: tuple[bool, bool, bool], aspect: float
    ) -> list[tuple[str, str | None]]:
        """FFmpeg filters and their options for pictures of an `_orientation`, with pixels of an aspect ratio."""
        # FFmpeg calls a plain transposition "cclock_flip".
        steps = (("transpose", "cclock_flip"), ("hflip", None), ("vflip", None))
        filters = [step for step, is_needed in zip(steps, orientation, strict=True) if is_needed]
        if orientation[0]:
            width, height, aspect = height, width, 1 / aspect
        too_wide = width * aspect * self.height > height * self.width
        inner_width, inner_height = self.width, self.height
        if self.fit == "crop":
            if too_wide:
                width = max(1, round(height * self.width / self.height / aspect))
            else:
                height = max(1, round(width * aspect * self.height / self.width))
            filters.append(("crop", f"{width}:{height}:exact=1"))
        elif self.fit == "pad" and too_wide:
            inner_height = max(1, round(self.width * height / (width * aspect)))
        elif self.fit == "pad":
            inner_width = max(1, round(self.height * width * aspect / height))
        filters.append(("scale", f"{inner_width}:{inner_height}:flags=area"))
        if self.fit == "pad":
            left, top = (self.width - inner_width) // 2, (self.height - inner_height) // 2
            filters += [("format", "rgb24"), ("pad", f"{self.width}:{self.height}:{left}:{top}")]
        return filters


def _on_black(picture: av.VideoFrame) -> av.VideoFrame:
    """A picture without transparent pixels, which hide colours."""
    rgba = picture.to_ndarray(format="rgba")
    colours, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return picture
    return av.VideoFrame.from_ndarray(
        ((colours.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8), format="rgb24"
    )


def _orientation(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to transpose a picture, then mirror its columns, then its rows, so that it is as its display matrix says.

    A matrix of another kind, such as a rotation by 45 degrees, is ignored.
    """
    try:
        matrix = picture.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # side data that PyAV does not know, such as EXIF; of a matrix it then gives the angle alone
        turns = {-90: (True, True, False), 90: (True, False, True)}
        return turns.get(picture.rotation, (False, abs(picture.rotation) == 180, abs(picture.rotation) == 180))
    if matrix is None:
        return False, False, False
    # It moves pixel (x, y) to (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if a and d and abs(b) + abs(c) < 0.02 * abs(a):
        return False, a < 0, d < 0
    if b and c and abs(a) + abs(d) < 0.02 * abs(b):
        return True, c < 0, b < 0
    return False, False, False

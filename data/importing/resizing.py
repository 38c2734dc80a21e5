"""Resize pictures of any size to frames of one size."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Literal

import av
import numpy as np
from av.sidedata.sidedata import Type

Fit = Literal["crop", "pad", "stretch"]


class Fitter:
    """Turns and mirrors pictures as their display matrix says, resizes them by area averaging and converts them to RGB.

    FFmpeg's filters do this.

    Args:
        width, height: of the frames, pixels.
        fit: for pictures of another aspect ratio: "crop" their edges, "pad" them with black bars, or "stretch" them.
    """

    def __init__(self, width: int, height: int, fit: Fit):
        self.width, self.height, self.fit = width, height, fit
        self._graph: av.filter.Graph | None = None
        self._input_format: tuple | None = None  # of the pictures that the graph was made for

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """The frame of a picture, uint8 (height, width, 3)."""
        orientation = _orientation(picture)
        input_format = (picture.width, picture.height, picture.format.name, orientation, picture.colorspace)
        if input_format != self._input_format:  # it may change within a stream
            self._graph, self._input_format = self._make_graph(picture, orientation), input_format
        picture.pts = None
        self._graph.push(picture)
        return self._graph.pull().to_ndarray()

    def _make_graph(self, picture: av.VideoFrame, orientation: tuple[bool, bool, bool]) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        width, height = picture.width, picture.height
        nodes = [graph.add_buffer(width=width, height=height, format=picture.format, time_base=Fraction(1, 1000))]
        for name, options in _filters(width, height, orientation, self.width, self.height, self.fit):
            nodes.append(graph.add(name, options))
        nodes.append(graph.add("format", "rgb24"))
        nodes.append(graph.add("buffersink"))
        for node, next_node in pairwise(nodes):
            node.link_to(next_node)
        graph.configure()
        return graph


def _orientation(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to transpose a picture, then mirror its columns, then its rows, so that it is as its display matrix says.

    A matrix of another kind, such as a rotation by 45 degrees, is ignored.
    """
    matrix = picture.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return False, False, False
    # It moves pixel (x, y) to (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if a and d and abs(b) + abs(c) < 0.02 * abs(a):
        return False, a < 0, d < 0
    if b and c and abs(a) + abs(d) < 0.02 * abs(b):
        return True, c < 0, b < 0
    return False, False, False


def _filters(
    width: int, height: int, orientation: tuple[bool, bool, bool], to_width: int, to_height: int, fit: Fit
) -> list[tuple[str, str | None]]:
    """FFmpeg filters and their options for pictures of an `_orientation`."""
    transposed, mirrored, upside_down = orientation
    # FFmpeg calls a plain transposition "cclock_flip".
    steps = ((transposed, ("transpose", "cclock_flip")), (mirrored, ("hflip", None)), (upside_down, ("vflip", None)))
    filters = [step for needed, step in steps if needed]
    if transposed:
        width, height = height, width
    too_wide = width * to_height > height * to_width
    if fit == "crop":
        if too_wide:
            width = max(1, round(height * to_width / to_height))
        else:
            height = max(1, round(width * to_height / to_width))
        filters.append(("crop", f"{width}:{height}:exact=1"))
    inner_width, inner_height = to_width, to_height
    if fit == "pad":
        if too_wide:
            inner_height = max(1, round(to_width * height / width))
        else:
            inner_width = max(1, round(to_height * width / height))
    filters.append(("scale", f"{inner_width}:{inner_height}:flags=area"))
    if fit == "pad":
        left, top = (to_width - inner_width) // 2, (to_height - inner_height) // 2
        filters += [("format", "rgb24"), ("pad", f"{to_width}:{to_height}:{left}:{top}")]
    return filters

"""Resize pictures of any size to frames of one size."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Literal

import av
import numpy as np

Fit = Literal["crop", "pad", "stretch"]


class Fitter:
    """Rotates pictures upright, resizes them by area averaging and converts them to RGB, with FFmpeg's filters.

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
        input_format = (picture.width, picture.height, picture.format.name, picture.rotation, picture.colorspace)
        if input_format != self._input_format:  # it may change within a stream
            self._graph, self._input_format = self._make_graph(picture), input_format
        picture.pts = None
        self._graph.push(picture)
        return self._graph.pull().to_ndarray()

    def _make_graph(self, picture: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        width, height = picture.width, picture.height
        nodes = [graph.add_buffer(width=width, height=height, format=picture.format, time_base=Fraction(1, 1000))]
        for name, options in _filters(width, height, round(picture.rotation), self.width, self.height, self.fit):
            nodes.append(graph.add(name, options))
        nodes.append(graph.add("format", "rgb24"))
        nodes.append(graph.add("buffersink"))
        for node, next_node in pairwise(nodes):
            node.link_to(next_node)
        graph.configure()
        return graph


def _filters(
    width: int, height: int, rotation: int, to_width: int, to_height: int, fit: Fit
) -> list[tuple[str, str | None]]:
    """FFmpeg filters and their options for pictures whose display matrix rotates them by `rotation` degrees."""
    rotations = {90: [("transpose", "cclock")], 180: [("hflip", None), ("vflip", None)], 270: [("transpose", "clock")]}
    filters = list(rotations.get(rotation % 360, ()))
    if rotation % 180:
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

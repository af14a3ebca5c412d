"""Boxes out of a score map at every threshold, as MaxBoxAcc and MaxBoxAccV2 take them.

A box is left, top, right, bottom in pixels. As in the benchmark that defines the two, right and
bottom of a box are the first column and row beyond the object, unless the image ends before.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from automix_jax.evaluate.localization.components import (
    LEVELS,
    Slopes,
    fill,
    find_parts,
    find_slopes,
)


class MapBoxes(NamedTuple):
    """The boxes of a score map.

    Attributes:
        threshold: [R], of each box. There is a box for each from 0 to the map's greatest level,
            that not included, or for 0 alone if the map is all 0.
        corners: [R, 4].
    """

    threshold: Int[np.ndarray, " r"]
    corners: Int[np.ndarray, "r 4"]


def quantize(score_map: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The levels 0..255 of a map in [0, 1]; they are truncated."""
    return (score_map * 255).astype(np.uint8)


def contour_boxes(score_map: Float[np.ndarray, "h w"]) -> MapBoxes:
    """The boxes of all contours at each threshold, those of holes too (MaxBoxAccV2).

    The same boxes as those of OpenCV's `findContours` with RETR_TREE.

    Args:
        score_map: [H, W] in [0, 1].
    """
    levels = quantize(score_map)
    parts = find_parts(find_slopes(levels, score_map * 255, corners=True))
    below = find_parts(_background(score_map))
    is_hole = below.box[:, 0] > 0  # it does not reach the border
    # A hole's contour runs on the pixels around it; and the border has moved all by one.
    holes = below.box[is_hole] + [-2, -2, 0, 0]
    threshold = np.concatenate([parts.threshold, LEVELS - 2 - below.threshold[is_hole]])
    return _beyond(threshold, np.concatenate([parts.box, holes]), levels.shape)


def largest_boxes(score_map: Float[np.ndarray, "h w"]) -> MapBoxes:
    """The box of the contour that encloses the largest area at each threshold (MaxBoxAcc).

    A contour inside another encloses less, so that each part counts with all that is inside it.
    Of equal areas the part that begins last is taken, as OpenCV lists it first.

    Args:
        score_map: [H, W] in [0, 1].
    """
    levels = LEVELS - 1 - fill(_background(score_map))[1:-1, 1:-1]
    order = np.maximum(score_map * 255, levels)
    parts = find_parts(find_slopes(levels, order, corners=True))
    rank = np.lexsort((parts.first, parts.area, parts.threshold))
    best = rank[np.flatnonzero(np.diff(parts.threshold[rank], append=LEVELS))]  # last of each
    return _beyond(parts.threshold[best], parts.box[best], levels.shape)


def largest_box(score_map: Float[np.ndarray, "h w"], share: float) -> Int[np.ndarray, "4"]:
    """The box of the largest contour at one threshold.

    Args:
        score_map: [H, W] in [0, 1].
        share: the threshold as share of the map's greatest level.
    """
    boxes = largest_boxes(score_map)
    threshold = int(share * quantize(score_map).max())
    return boxes.corners[boxes.threshold == threshold][0]


def _background(score_map: np.ndarray) -> Slopes:
    """The slopes of the map upside down, in a border higher than all of it."""
    levels = np.pad(LEVELS - 1 - quantize(score_map), 1, constant_values=LEVELS - 1)
    return find_slopes(levels, np.pad(score_map * -255, 1, constant_values=np.inf), corners=False)


def _beyond(threshold: np.ndarray, boxes: np.ndarray, shape: tuple[int, ...]) -> MapBoxes:
    """Boxes that include their last column and row, as the benchmark has them."""
    if not len(threshold):  # no contour at all
        return MapBoxes(np.zeros(1, int), np.zeros((1, 4), int))
    height, width = shape
    right, bottom = (boxes[:, 2:] + 1).T
    ends = np.minimum(right, width - 1), np.minimum(bottom, height - 1)
    return MapBoxes(threshold, np.stack([*boxes[:, :2].T, *ends], -1))

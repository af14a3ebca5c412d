"""The connected parts of an image above every threshold, of all thresholds at once.

As a threshold falls, a part grows out of each peak of the image, and two parts become one at the
highest pass between them. So the image is cut once into the slopes of its peaks, and these are
joined in the order of their passes, instead of finding the parts of each threshold anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

LEVELS = 256
_SIDES = ((0, 1), (1, 0))  # steps to neighbours that share a side, of each pair one: row, column
_CORNERS = ((1, -1), (1, 1))


class Parts(NamedTuple):
    """Connected parts of an image, each at one threshold.

    Attributes:
        threshold: [R], the part is of pixels above it.
        box: [R, 4], the first column and row and the last column and row of the part.
        first: [R], the number of its first pixel, row by row.
        area: [R], what the polygon through the centres of its outermost pixels encloses, in
            pixels, if the part has no holes and corners connect.
    """

    threshold: Int[np.ndarray, " r"]
    box: Int[np.ndarray, "r 4"]
    first: Int[np.ndarray, " r"]
    area: Float[np.ndarray, " r"]


class Slopes(NamedTuple):
    """An image cut into the slopes of its peaks.

    From each pixel a way leads up to the peak of its slope, so that a slope above a threshold is
    connected.

    Attributes:
        levels: [H, W], the image.
        label: [H, W], the number of each pixel's slope, 0..S-1; the peaks are numbered row by row.
        passes: [E, 2], slopes that meet, the highest pass first.
        height: [E], of the passes: the lower of the two pixels, of all pairs where they meet the
            highest.
    """

    levels: UInt8[np.ndarray, "h w"]
    label: Int[np.ndarray, "h w"]
    passes: Int[np.ndarray, "e 2"]
    height: Int[np.ndarray, " e"]


def find_slopes(
    levels: UInt8[np.ndarray, "h w"], order: Float[np.ndarray, "h w"], *, corners: bool
) -> Slopes:
    """Cuts an image into slopes: each pixel belongs with the highest of its neighbours.

    Args:
        levels: [H, W], the image.
        order: [H, W], says which of two pixels of one level is higher, so that there are few peaks;
            no pixel of a lower level has a greater number.
        corners: whether pixels that share only a corner are neighbours.
    """
    steps = _SIDES + _CORNERS if corners else _SIDES
    peak = _peaks(order, steps)
    is_peak = peak == np.arange(peak.size)
    label = (np.cumsum(is_peak) - 1)[peak].reshape(levels.shape)
    pairs, heights = [], []
    for step in steps:
        one, other = _neighbours(label, step)
        height = np.minimum(*_neighbours(levels, step))
        meet = (one != other) & (height > 0)
        pairs.append(np.sort(np.stack([one[meet], other[meet]], -1)))
        heights.append(height[meet].astype(int))
    pair, height = np.concatenate(pairs), np.concatenate(heights)
    highest = np.argsort(-height, kind="stable")
    pair, height = pair[highest], height[highest]
    _, index = np.unique(pair @ [is_peak.sum(), 1], return_index=True)
    index.sort()
    return Slopes(levels, label, pair[index], height[index])


def find_parts(slopes: Slopes) -> Parts:
    """The connected parts of the pixels above each threshold from 0 to 254."""
    extent, area = _extents(slopes), _polygon_areas(slopes)  # [S, 255, 4], [S, 255]: by threshold
    top = [LEVELS - 1] * len(extent)  # from there up, the parts of a slope are found
    found: list[tuple[int, int, int]] = []
    for kept, other, height in _joins(slopes):
        found += [(slope, height, top[slope]) for slope in (kept, other)]
        top[kept], top[other] = height, 0
        np.maximum(extent[kept, :height], extent[other, :height], out=extent[kept, :height])
        area[kept, :height] += area[other, :height]
    found += [(slope, 0, end) for slope, end in enumerate(top)]
    threshold = np.concatenate([np.arange(start, end) for _, start, end in found])
    corners = np.concatenate([extent[slope, start:end] for slope, start, end in found])
    areas = np.concatenate([area[slope, start:end] for slope, start, end in found])
    there = corners[:, 1] >= 0
    left, right, first, last = corners[there].T * [[-1], [1], [-1], [1]]
    width = slopes.levels.shape[1]
    box = np.stack([left, first // width, right, last // width], -1)
    return Parts(threshold[there], box, first, areas[there])


def fill(slopes: Slopes) -> UInt8[np.ndarray, "h w"]:
    """The image with each pixel no higher than the way from it to the last pixel allows.

    Above a threshold are then those pixels from which a way through pixels above it leads there.
    """
    joined = np.zeros(slopes.label.max() + 1, np.uint8)
    members = [[slope] for slope in range(len(joined))]
    joined[-1] = LEVELS - 1
    for kept, other, height in _joins(slopes):
        if kept == len(joined) - 1:
            joined[members[other]] = height
        members[kept] += members[other]
    return np.minimum(slopes.levels, joined[slopes.label])


def _peaks(order: np.ndarray, steps: tuple[tuple[int, int], ...]) -> Int[np.ndarray, " p"]:
    """The pixel to which the steepest way up leads from each; of equals, the last is the higher."""
    height, width = order.shape
    padded = np.pad(order, 1, constant_values=-np.inf)
    pixels = np.arange(order.size).reshape(order.shape)
    back = [(-row, -column) for row, column in steps]
    best, target = np.full(order.shape, -np.inf), pixels.copy()
    for row, column in sorted((*back, (0, 0), *steps)):
        there = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        better = there >= best
        np.copyto(best, there, where=better)
        np.copyto(target, pixels + (row * width + column), where=better)
    up: np.ndarray = target.ravel()
    while not np.array_equal(further := up[up], up):
        up = further
    return up


def _neighbours(array: np.ndarray, step: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All pixels that have a neighbour one step away, and these neighbours."""
    (row, column), (height, width) = step, array.shape
    near = array[: height - row, max(-column, 0) : width - max(column, 0)]
    far = array[row:, max(column, 0) : width + min(column, 0)]
    return near, far


def _joins(slopes: Slopes) -> Iterator[tuple[int, int, int]]:
    """Joins slopes at their passes, the highest first.

    Yields:
        The greatest number of a slope on the one side, that on the other, which is smaller, and
        the height of the pass. Each side is all that its slope was joined with before.
    """
    chief = list(range(slopes.label.max() + 1))

    def find(slope):
        while chief[slope] != slope:
            chief[slope] = slope = chief[chief[slope]]
        return slope

    for (one, other), height in zip(slopes.passes.tolist(), slopes.height.tolist(), strict=True):
        low, high = sorted((find(one), find(other)))
        if low != high:
            chief[low] = high
            yield high, low, height


def _extents(slopes: Slopes) -> Int[np.ndarray, "s t 4"]:
    """-(first column), last column, -(first pixel), last pixel of each slope by threshold."""
    count, width = slopes.label.max() + 1, slopes.label.shape[1]
    pixels = np.flatnonzero(slopes.levels)
    index = slopes.label.ravel()[pixels] * (LEVELS - 1) + slopes.levels.ravel()[pixels] - 1
    pixels = pixels.astype(np.int32)
    columns = pixels % width
    extents = np.full((4, count * (LEVELS - 1)), -(2**31) + 1, np.int32)
    for extent, values in zip(extents, (-columns, columns, -pixels, pixels), strict=True):
        np.maximum.at(extent, index, values)
    extents = extents.T.reshape(count, LEVELS - 1, 4)
    return np.ascontiguousarray(np.maximum.accumulate(extents[:, ::-1], axis=1)[:, ::-1])


def _polygon_areas(slopes: Slopes) -> Float[np.ndarray, "s t"]:
    """What each slope adds to the area that a part's outermost pixels enclose, by threshold.

    Of each square between the centres of four pixels their polygon encloses all if the four are
    above the threshold, and half if three are. This counts for the slope of the highest of them.
    """
    levels, labels = (
        (a[:-1, :-1].ravel(), a[:-1, 1:].ravel(), a[1:, :-1].ravel(), a[1:, 1:].ravel())
        for a in (slopes.levels, slopes.label)
    )
    one, other = levels[0] < levels[1], levels[2] < levels[3]
    low = [np.minimum(*levels[:2]), np.minimum(*levels[2:])]
    high = [np.maximum(*levels[:2]), np.maximum(*levels[2:])]
    label = np.where(
        high[0] < high[1],
        np.where(other, labels[3], labels[2]),
        np.where(one, labels[1], labels[0]),
    )
    least, second = np.minimum(*low), np.minimum(np.maximum(*low), np.minimum(*high))
    count = slopes.label.max() + 1
    index = np.concatenate([label * LEVELS + level for level in (least, second)])
    halves = np.bincount(index, minlength=count * LEVELS).reshape(count, LEVELS)[:, 1:]
    return np.ascontiguousarray(halves[:, ::-1].cumsum(1)[:, ::-1]) / 2

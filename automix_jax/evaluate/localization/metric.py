"""MaxBoxAcc and MaxBoxAccV2: how many score maps box the object, at the best threshold of all."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from automix_jax.errors import ConfigError
from automix_jax.evaluate.localization.boxes import (
    MapBoxes,
    contour_boxes,
    largest_boxes,
)
from automix_jax.evaluate.localization.resize import normalize_maps, upsample_cubic

OVERLAPS = (0.3, 0.5, 0.7)  # intersection over union from which on a box is right
SHARES = np.arange(0, 1, 0.001)  # thresholds, as shares of a map's greatest level
_CONTOURS = {"largest_contour": largest_boxes, "all_contours": contour_boxes}


def intersection_over_union(
    boxes: Int[np.ndarray, "n 4"], others: Int[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
    """What each pair of boxes has in common, as share of what it covers.

    Args:
        boxes, others: left, top, right, bottom in pixels, all included.
    """
    one, other = boxes[:, None].astype(np.int64), others[None].astype(np.int64)
    start, end = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    common = np.maximum(end - start + 1, 0).prod(-1)
    area, other_area = ((box[..., 2:] - box[..., :2] + 1).prod(-1) for box in (one, other))
    return common / (area + other_area - common)


def best_overlaps(boxes: MapBoxes, truth: Int[np.ndarray, "m 4"]) -> Float[np.ndarray, " t"]:
    """The greatest overlap of a map's boxes with the true ones, at each of the `SHARES`."""
    overlap = intersection_over_union(boxes.corners, truth).max(1)
    greatest = boxes.threshold.max() + 1  # level of the map; its shares are truncated to levels
    best = np.zeros(greatest)
    np.maximum.at(best, boxes.threshold, overlap)
    return best[np.minimum((SHARES * greatest).astype(int), greatest - 1)]


def centered_boxes(size: int) -> Int[np.ndarray, "s 4"]:
    """Squares of 1..size pixels a side at the centre of an image of size x size."""
    side = np.arange(1, size + 1)
    start = (size - side) // 2
    end = start + side - 1
    return np.stack([start, start, end, end], -1)


class LocalizationScore:
    """Counts how many images a threshold boxes right, for all thresholds.

    The benchmark chooses the threshold with the images that it reports on. Where some are set aside
    to choose it with, the others are reported.
    """

    def __init__(self, size: int, choose_with: Collection[int] = ()):
        """Begins at 0.

        Args:
            size: side of the squares that maps and boxes are compared on, in pixels.
            choose_with: numbers of the images, as they are added, that only choose the thresholds
                and the side of the centred box; none: all images choose and are reported.
        """
        self.size = size
        self._choose_with = frozenset(choose_with)
        self._reported = _Counts(size)
        self._chosen = _Counts(size) if self._choose_with else self._reported
        self._centered = centered_boxes(size)
        self._added = 0

    def add(
        self,
        maps: Float[np.ndarray, "b h w"],
        boxes: Sequence[np.ndarray],
        right: Bool[np.ndarray, " b"],
    ) -> None:
        """Counts a batch.

        Args:
            maps: [B, h, w], of any size and range.
            boxes: B times integers [M, 4], the true ones in an image of size x size.
            right: [B], whether the network's class is the image's.
        """
        scores = normalize_maps(upsample_cubic(maps, self.size, self.size))
        for score_map, truth, is_right in zip(scores, boxes, right.tolist(), strict=True):
            overlaps = [best_overlaps(find(score_map), truth) for find in _CONTOURS.values()]
            centered = intersection_over_union(self._centered, truth).max(1)
            chooses = self._added in self._choose_with
            counts = self._chosen if chooses else self._reported
            counts.add(np.stack(overlaps), centered, is_right)
            self._added += 1

    def result(self) -> dict[str, Any]:
        """The scores, in percent of the images reported, ready for JSON.

        Raises:
            ConfigError: if no image was added to choose with, or none to report on.
        """
        reported, chosen = self._reported, self._chosen
        for counts, purpose in ((chosen, "to choose a threshold with"), (reported, "to report on")):
            if not counts.images:
                raise ConfigError(f"localization has no image {purpose}: give it more images.")
        best = chosen.hits.argmax(-1)  # [2, 3]: of equals the first
        side = chosen.centered.argmax(-1)  # [3]
        scores = {
            contours: [
                {
                    "overlap": overlap,
                    "accuracy": reported.percent(reported.hits[i, j, best[i, j]]),
                    "top1": reported.percent(reported.right_hits[i, j, best[i, j]]),
                    "threshold": round(float(SHARES[best[i, j]]), 3),
                }
                for j, overlap in enumerate(OVERLAPS)
            ]
            for i, contours in enumerate(_CONTOURS)
        }
        centered = [
            {
                "overlap": overlap,
                "accuracy": reported.percent(reported.centered[j, side[j]]),
                "side": float(side[j] + 1) / self.size,
            }
            for j, overlap in enumerate(OVERLAPS)
        ]
        half = OVERLAPS.index(0.5)
        return {
            "images": reported.images,
            "images_choosing": chosen.images,
            "size": self.size,
            "max_box_acc": scores["largest_contour"][half]["accuracy"],
            "max_box_acc_v2": _mean(scores["all_contours"]),
            "top1_localization": scores["largest_contour"][half]["top1"],
            "centered_box_acc": centered[half]["accuracy"],
            "centered_box_acc_v2": _mean(centered),
            **scores,
            "centered_box": centered,
        }

    def curves(self) -> dict[str, Float[np.ndarray, "3 t"]]:
        """Images boxed right in percent of those reported, by overlap and threshold, [3, T]."""
        images = max(self._reported.images, 1)
        return dict(zip(_CONTOURS, 100 * self._reported.hits / images, strict=True))


class _Counts:
    """Images that are boxed right.

    Attributes:
        images: how many were added.
        hits: [2, 3, T], of those right by contours, overlap and threshold.
        right_hits: [2, 3, T], of those whose class is right, too.
        centered: [3, S], of those that a centred box meets, by overlap and side.
    """

    def __init__(self, size: int):
        self.images = 0
        self.hits = np.zeros((len(_CONTOURS), len(OVERLAPS), len(SHARES)), np.int64)
        self.right_hits = self.hits.copy()
        self.centered = np.zeros((len(OVERLAPS), size), np.int64)

    def add(self, overlaps: np.ndarray, centered: np.ndarray, is_right: bool) -> None:
        """Counts an image by the overlaps [2, T] of its map and [S] of the centred boxes."""
        limits = np.array(OVERLAPS)[:, None]
        hits = overlaps[:, None] >= limits
        self.images += 1
        self.hits += hits
        self.right_hits += hits & is_right
        self.centered += centered >= limits

    def percent(self, count: np.integer) -> float:
        """A count in percent of the images."""
        return 100 * int(count) / self.images


def _mean(scores: Sequence[dict[str, float]]) -> float:
    return float(np.mean([score["accuracy"] for score in scores]))

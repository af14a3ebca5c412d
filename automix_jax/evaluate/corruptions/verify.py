"""Published corrupted images against our own, made from the same clean ones."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from automix_jax.data.progress import Advance
from automix_jax.evaluate.corruptions import DETERMINISTIC
from automix_jax.evaluate.corruptions.arrays import ArraySet
from automix_jax.evaluate.corruptions.parallel import CHUNK, Corruptor, chunks

_LEVELS = 1.0  # of 255, by which a deterministic corruption may differ
_RELATIVE = 2.0  # percent, by which the statistics of a random one may
_MEAN_ONLY = "jpeg_compression"  # of which versions of libjpeg make different pixels


class Comparison(NamedTuple):
    """How far published images of one corruption at one severity are from ours.

    Attributes:
        name, severity: of the corruption.
        measure: what is compared, with its unit.
        value: the difference.
        bound: up to which it is none.
    """

    name: str
    severity: int
    measure: str
    value: float
    bound: float

    @property
    def agrees(self) -> bool:
        """Whether it is no more than rounding or chance."""
        return self.value <= self.bound


def verify(
    published: ArraySet,
    images: np.ndarray,
    *,
    seed: int = 0,
    workers: int | None = None,
    advance: Advance = lambda count: None,
) -> Iterator[Comparison]:
    """Compares images of a published set with our own.

    What is deterministic must agree to a level of 255, JPEG compression on average. The random
    corruptions agree in the mean and the standard deviation of |corrupted - clean| over all pixels,
    to 2 %.

    Args:
        published: the set.
        images: the clean images of those that are read of it, uint8 [n, H, W, C].
        seed: of our random ones.
        workers: see `Corruptor`.
        advance: is told of so many more images.

    Yields:
        One or two comparisons of each corruption at each severity.
    """
    images = images[: len(published.rows)]
    parts = chunks(0, len(images))
    with Corruptor(workers) as corrupt:
        for name in published.names:
            for severity in published.severities:
                theirs = published.batches(name, severity, CHUNK)
                made = corrupt(
                    images, name, severity, seed=seed, parts=parts, numbers=published.rows.tolist()
                )
                sums = _Sums()
                for part, (their, _), ours in zip(parts, theirs, made, strict=True):
                    sums.add(images[part], their, ours)
                    advance(len(ours))
                yield from sums.compare(name, severity)


class _Sums:
    """What is summed over images: differences of theirs and ours, and of each from the clean."""

    def __init__(self) -> None:
        self._count, self._largest, self._total = 0, 0, 0
        self._changes = np.zeros((2, 2), np.int64)  # theirs, ours; sum of changes, of their squares

    def add(self, clean: np.ndarray, theirs: np.ndarray, ours: np.ndarray) -> None:
        """Adds images [n, H, W, C]; all sums are of whole numbers, and exact."""
        between = _distance(theirs, ours)
        self._count += between.size
        self._largest = max(self._largest, int(between.max()))
        self._total += int(between.sum())
        for row, images in zip(self._changes, (theirs, ours), strict=True):
            change = _distance(images, clean)
            row += change.sum(), np.square(change).sum()

    def compare(self, name: str, severity: int) -> Iterator[Comparison]:
        """The comparisons of a corruption at a severity."""
        if name == _MEAN_ONLY:
            mean = self._total / self._count
            yield Comparison(name, severity, "mean difference, levels", mean, _LEVELS)
        elif name in DETERMINISTIC:
            largest = float(self._largest)
            yield Comparison(name, severity, "largest difference, levels", largest, _LEVELS)
        else:
            means, squares = self._changes.T / self._count
            deviations = np.sqrt(squares - means**2)
            for what, (theirs, ours) in (("mean", means), ("deviation", deviations)):
                value = 100 * abs(ours - theirs) / theirs if theirs else 100.0 * (ours != theirs)
                yield Comparison(
                    name, severity, f"{what} of the change, %", float(value), _RELATIVE
                )


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| of uint8, as int64."""
    return np.abs(a.astype(np.int64) - b)


def table(comparisons: Sequence[Comparison]) -> str:
    """A line for each corruption and measure, with the severities side by side."""
    severities = sorted({each.severity for each in comparisons})
    rows: dict[tuple[str, str], list[Comparison]] = {}
    for each in comparisons:
        rows.setdefault((each.name, each.measure), []).append(each)
    head = "".join(f"{f's{severity}':>7}" for severity in severities)
    lines = [f"{'corruption':<19}{'compared':<28}{head}{'up to':>7}"]
    for (name, measure), row in rows.items():
        values = "".join(f"{each.value:>7.2f}" for each in row)
        verdict = "" if all(each.agrees for each in row) else "  differs"
        lines.append(f"{name:<19}{measure:<28}{values}{row[0].bound:>7g}{verdict}")
    return "\n".join(lines)

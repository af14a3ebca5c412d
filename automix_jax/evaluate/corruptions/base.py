"""What every corrupted test set is, on the disk or not."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.evaluate.corruptions import NAMES

Batch = tuple[np.ndarray, np.ndarray]  # images uint8 [b, H, W, C], labels int32 [b]
Shape = tuple[int, int, int]  # (H, W, C)
AGAIN = "download or extract it again"


@runtime_checkable
class CorruptedSet(Protocol):
    """The same test images under each corruption at each severity."""

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions that there are, in their canonical order."""
        ...

    @property
    def severities(self) -> tuple[int, ...]:
        """Those of each, ascending."""
        ...

    @property
    def comparable(self) -> bool:
        """Whether accuracies on it compare with published ones."""
        ...

    def count(self, name: str, severity: int) -> int:
        """How many images there are of one corruption at one severity."""
        ...

    def batches(self, name: str, severity: int, size: int) -> Iterator[Batch]:
        """Yields them with their classes, `size` at a time; the last batch may be smaller."""
        ...


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Names of corruptions in their canonical order, each once.

    Raises:
        ConfigError: for one that is not known, or none.
    """
    for name in names:
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            raise ConfigError(f"corruption {name!r} is not known.{hint} Use {', '.join(NAMES)}.")
    if not names:
        raise ConfigError(f"no corruption is named: use some of {', '.join(NAMES)}.")
    return tuple(name for name in NAMES if name in names)

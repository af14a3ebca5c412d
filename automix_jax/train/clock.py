"""Where the time of a run goes."""

import collections
import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Adds up seconds by the part of the run that they were spent in.

    The parts are "compile", "start" (the wait for the first batch, while workers start), "input"
    (the wait for later ones), "train", "evaluate", "pictures" and "checkpoint".

    Attributes:
        seconds: by part, of this start and those before.
    """

    def __init__(self) -> None:
        """Begins at nought."""
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._before: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Adds the time inside the block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def resume(self, seconds: dict[str, float]) -> None:
        """Goes on from those of earlier starts."""
        self.seconds.update(seconds)
        self._before = dict(self.seconds)

    def lap(self) -> dict[str, float]:
        """The seconds by part since the last call."""
        lap = {part: total - self._before.get(part, 0.0) for part, total in self.seconds.items()}
        self._before = dict(self.seconds)
        return lap

"""Images corrupted by several processes."""

import collections
import concurrent.futures
import itertools
import multiprocessing
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

import numpy as np

from automix_jax.data.workers import begin_worker, num_cores
from automix_jax.errors import DataError
from automix_jax.evaluate import corruptions
from automix_jax.evaluate.corruptions import NAMES, SEVERITIES
from automix_jax.evaluate.corruptions.base import Batch, in_order

CHUNK = 50  # images a worker takes at once: enough to hide the cost of handing them over
_AHEAD = 2  # chunks a worker that wait to be taken or fetched


class Corruptor:
    """Processes that corrupt images, while a `with` block runs.

    What they make does not depend on how many there are, nor on which images come together.
    """

    def __init__(self, workers: int | None = None):
        """Takes how many processes; 0 for this one alone, by default one a core."""
        self._workers = num_cores() if workers is None else workers
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "Corruptor":
        if self._workers:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._workers,
                # The others begin as copies of this process, in which JAX has threads.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=begin_worker,
                initargs=(0, self._workers),
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __call__(
        self,
        images: np.ndarray,
        name: str,
        severity: int,
        *,
        seed: int,
        parts: Iterable[slice],
        numbers: Sequence[int] | None = None,
    ) -> Generator[np.ndarray]:
        """Yields parts of the images corrupted, one after the other.

        Args:
            images: uint8 [N, H, W, C].
            name: of a corruption.
            severity: of it.
            seed: of the random ones.
            parts: of the images, see `chunks`.
            numbers: N, of the images among all that there are, with which they draw; by default
                they are all.

        Raises:
            DataError: if a process has died.
        """
        numbers = range(len(images)) if numbers is None else numbers
        calls = ((images[part], name, severity, seed, numbers[part]) for part in parts)
        if self._pool is None:
            yield from itertools.starmap(_corrupt, calls)
            return
        waiting: collections.deque[concurrent.futures.Future[np.ndarray]] = collections.deque()
        try:
            for call in calls:
                waiting.append(self._pool.submit(_corrupt, *call))
                if len(waiting) > _AHEAD * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that corrupts images died, as where memory runs out: use fewer"
                " (--workers); the same command goes on where it stopped. A script of your own must"
                ' begin under `if __name__ == "__main__":`, or use no workers.'
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _corrupt(
    images: np.ndarray, name: str, severity: int, seed: int, numbers: Sequence[int]
) -> np.ndarray:
    return corruptions.corrupt(images, name, severity, seed=seed, indices=numbers)


def chunks(start: int, stop: int) -> list[slice]:
    """The images from `start` to `stop` (not included) in the parts that workers take."""
    return [slice(i, min(i + CHUNK, stop)) for i in range(start, stop, CHUNK)]


def check(images: np.ndarray, names: Sequence[str]) -> None:
    """Raises a ConfigError for images that cannot be corrupted, or what a corruption lacks."""
    for name in names:
        corruptions.corrupt(images[:1], name, SEVERITIES[-1])


class GeneratedSet:
    """Test images that are corrupted as they are asked for; a `CorruptedSet` in a `with` block.

    Its processes work ahead of what is read, and keep nothing.
    """

    severities = SEVERITIES
    comparable = False

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        chosen: np.ndarray | None = None,
        seed: int = 0,
        names: Sequence[str] = NAMES,
        workers: int | None = None,
    ):
        """Takes clean images and what to make of them.

        Args:
            images: uint8 [n, H, W, C], as the network reads them.
            labels: int [n].
            chosen: int [n], their numbers among all test images, with which they draw; by default
                they are all. So each comes out as it would among the others.
            seed: of the random corruptions.
            names: the corruptions.
            workers: see `Corruptor`.

        Raises:
            ConfigError: for a corruption that is not known or cannot work, or other images.
        """
        self.names = in_order(names)
        check(images, self.names)
        self._images, self._labels = images, labels.astype(np.int32)
        self._seed = seed
        self._numbers = None if chosen is None else chosen.tolist()
        self._corrupt = Corruptor(workers)

    def __enter__(self) -> "GeneratedSet":
        self._corrupt.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._corrupt.__exit__(kind, error, trace)

    def count(self, name: str, severity: int) -> int:
        """See `CorruptedSet`."""
        del name, severity
        return len(self._labels)

    def batches(self, name: str, severity: int, size: int) -> Iterator[Batch]:
        """See `CorruptedSet`."""
        starts = range(0, len(self._labels), size)
        parts = [chunks(start, min(start + size, len(self._labels))) for start in starts]
        made = self._corrupt(
            self._images,
            name,
            severity,
            seed=self._seed,
            parts=itertools.chain.from_iterable(parts),
            numbers=self._numbers,
        )
        for start, batch in zip(starts, parts, strict=True):
            images = np.concatenate(list(itertools.islice(made, len(batch))))
            yield images, self._labels[start : start + size]

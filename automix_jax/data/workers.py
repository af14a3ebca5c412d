"""Work that is done ahead by processes or threads, and comes back in its order."""

import collections
import concurrent.futures
import gc
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from automix_jax.errors import DataError

T = TypeVar("T")
_CHUNK = 32  # elements that a worker hands over at once: large enough to hide the cost of it
_AHEAD = 2  # batches that wait in the workers' hands
_SHARED_MEMORY = Path("/dev/shm")  # through which Linux hands them over


def run_ordered(
    load: Callable[[int], Any],
    positions: range,
    batch_size: int,
    workers: int,
    stack: Callable[[Sequence[Any]], Any],
    join: Callable[[Sequence[Any]], Any],
) -> Generator[Any]:
    """Yields batches of what is loaded at consecutive positions.

    Args:
        load: position to element, a tuple that begins with an image; can be pickled.
        positions: in their order, with step 1.
        batch_size: elements a batch.
        workers: processes; 0 for threads of this one.
        stack: elements to a part of a batch.
        join: parts to a batch, with memory of its own.

    Raises:
        DataError: if a worker dies, or shared memory is too small for what they hand over.
    """
    import grain

    chunk = max(n for n in range(1, min(_CHUNK, batch_size) + 1) if batch_size % n == 0)
    # Chunks are dealt out to the workers in turn and come back in the same turn, so their order
    # does not depend on how many there are.
    elements = grain.MapDataset.range(positions.start, positions.stop).map(load)
    chunks = elements.batch(chunk, batch_fn=stack)
    waiting = max(1, _AHEAD * batch_size // chunk // max(workers, 1))
    stream = chunks.to_iter_dataset(
        grain.ReadOptions(num_threads=1 if workers else num_cores(), prefetch_buffer_size=waiting)
    )
    if workers:
        if positions:
            image = load(positions.start)[0]
            _check_shared_memory(image.nbytes * chunk * waiting * workers)
        _parse_flags()
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=waiting),
            worker_init_fn=begin_worker,
        )
    return _iterate(stream.batch(batch_size // chunk, batch_fn=join))


def prefetch(batches: Generator[T], put: Callable[[T], Any], depth: int = 2) -> Generator[Any]:
    """Puts batches on the devices in a thread, `depth` of them ahead of the one that is used."""
    pool = concurrent.futures.ThreadPoolExecutor(1)

    def fetch() -> Any:
        batch = next(batches, None)
        return None if batch is None else put(batch)

    try:
        ahead = collections.deque(pool.submit(fetch) for _ in range(depth))
        while (item := ahead.popleft().result()) is not None:
            ahead.append(pool.submit(fetch))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        batches.close()


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _iterate(stream: Any) -> Generator[Any]:
    """The elements of a Grain dataset, whose workers end with the generator."""
    iterator = iter(stream)
    try:
        while (batch := next(iterator, None)) is not None:
            yield batch
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise DataError(_why_dead(str(error))) from error
    finally:
        iterator.close()
        del iterator
        gc.collect()  # Grain's cycles, which else hold shared memory until Python complains of it


def _why_dead(message: str) -> str:
    """What a user can do about a worker that has died, by its exit code."""
    found = re.search(r"exit code (-?\d+)", message)
    code = int(found.group(1)) if found else 0
    resume = "; the same command resumes the last checkpoint."
    if code == -signal.SIGKILL:
        return f"a process that reads images was killed: lower config.run.workers{resume}"
    if code == -signal.SIGBUS:
        return f"a process that reads images found {_SHARED_MEMORY} full: enlarge it{resume}"
    return (
        f"a process that reads images ended with exit code {code}: the lines above say why. A"
        ' script of your own must train under `if __name__ == "__main__":`, or with'
        " config.run.workers 0."
    )


def _check_shared_memory(needed: int) -> None:
    """Raises a DataError if what waits in the workers' hands does not fit: they would die of it."""
    if not _SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise DataError(
            f"{_SHARED_MEMORY} has {free / 1e6:.0f} MB free, and the workers hand over"
            f" {needed / 1e6:.0f} MB of images at a time: enlarge it (docker run --shm-size=8g), or"
            " read with threads (config.run.workers 0)."
        )


def begin_worker(worker: int, workers: int) -> None:
    """Ends this worker with the process that it works for, even where that is killed."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _parse_flags() -> None:
    """Lets Grain read its flags outside `absl.app`: it starts no worker before they are parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

"""A progress bar, if someone is watching stderr, and work on many images that moves it."""

import collections
import concurrent.futures
import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

T = TypeVar("T")
Advance = Callable[[int], object]  # is told of so many more bytes or images

_CHUNK = 64  # images a task of a thread


@contextlib.contextmanager
def progress_bar(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Draws a bar until the block ends, or none where stderr is no terminal.

    Args:
        description: what is being done.
        total: of bytes or images.
        unit: "bytes" or "images".

    Yields:
        What is to be called as the work goes on.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich import progress as rich
    from rich.console import Console

    amount: rich.ProgressColumn = rich.DownloadColumn()
    if unit != "bytes":
        amount = rich.TextColumn(f"{{task.completed:,.0f}} of {total:,} {unit}")
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        amount,
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with rich.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


def each_image(work: Callable[[int], T], num_images: int, description: str) -> Generator[T]:
    """Yields work(0), work(1) and so on, done ahead by threads, with a progress bar on a terminal.

    Args:
        work: index of an image to anything; called from several threads.
        num_images: N.
        description: what the progress bar calls the images.

    Raises:
        Exception: what `work` raises; what has not been begun then is left.
    """

    def work_on(start: int) -> list[T]:
        return [work(index) for index in range(start, min(start + _CHUNK, num_images))]

    # Pillow releases the GIL while it decodes, and the system while it waits for the disk.
    with (
        progress_bar(description, num_images, "images") as advance,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        futures = collections.deque(
            pool.submit(work_on, start) for start in range(0, num_images, _CHUNK)
        )
        try:
            while futures:
                results = futures.popleft().result()
                yield from results
                advance(len(results))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

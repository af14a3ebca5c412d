"""A progress bar, if someone is watching stderr."""

import contextlib
import sys
from collections.abc import Callable, Iterator

Advance = Callable[[int], object]  # is told of so many more bytes or images


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

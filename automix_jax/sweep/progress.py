"""What a sweep shows of itself: bars on a terminal, lines elsewhere."""

import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from automix_jax.sweep.cells import Cell

_SECONDS = 60.0  # between two lines on a cell that trains, where there is no terminal


class SweepProgress:
    """Shows how many cells have ended, and how far those have come that train."""

    def __init__(self, out: Path, cells: Sequence[Cell], console: Console):
        """Shows nothing yet.

        Args:
            out: folder of the sweep.
            cells: of the sweep.
            console: to speak on.
        """
        self._out, self._cells, self._console = out, cells, console
        self._running: dict[str, _Running] = {}
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=3600.0,  # epochs may take minutes
        )
        self._whole = self._bars.add_task("", total=sum(cell.config.epochs for cell in cells))

    def __enter__(self) -> "SweepProgress":
        """Begins to show bars."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Takes the bars away."""
        self._bars.stop()

    def say(self, line: str, style: str | None = None) -> None:
        """Prints a line, above the bars."""
        self._console.print(line, style=style, markup=False)

    def begin(self, cell: Cell) -> None:
        """A cell begins to train."""
        self.say(f"{cell.folder}: begins")
        bar = self._bars.add_task(cell.folder, total=cell.config.epochs)
        self._running[cell.key] = _Running(cell, self._out / cell.folder / "metrics.jsonl", bar)

    def end(self, cell: Cell, line: str, style: str | None = None) -> None:
        """A cell trains no more; says why."""
        self._bars.remove_task(self._running.pop(cell.key).bar)
        self.say(f"{cell.folder}: {line}", style)

    def update(self, ended: Collection[str]) -> None:
        """Looks how far everything is.

        Args:
            ended: keys of the cells that have ended.
        """
        for running in self._running.values():
            if not running.look():
                continue
            self._bars.update(
                running.bar,
                completed=running.epoch,
                description=f"{running.cell.folder}  {running.accuracy}",
            )
            if not self._console.is_terminal and time.monotonic() - running.said > _SECONDS:
                running.said = time.monotonic()
                self.say(f"{running.cell.folder}: {running.describe()}")
        count = sum(cell.key in ended for cell in self._cells)
        epochs = sum(cell.config.epochs for cell in self._cells if cell.key in ended)
        training = [r for r in self._running.values() if r.cell.key not in ended]
        epochs += sum(running.epoch for running in training)
        self._bars.update(
            self._whole,
            completed=epochs,
            description=f"{count} of {len(self._cells)} cells",
        )


class _Running:
    """A cell that trains, by what its run writes."""

    def __init__(self, cell: Cell, path: Path, bar: TaskID):
        self.cell, self.bar = cell, bar
        self.epoch, self.accuracy = 0, ""
        self.said = time.monotonic()
        self._path, self._seen = path, 0

    def look(self) -> bool:
        """Reads the last epoch; returns whether there is a new one."""
        try:
            written = self._path.stat().st_mtime_ns
            if written == self._seen:
                return False
            self._seen = written
            record = json.loads(self._path.read_text().splitlines()[-1])
        except (OSError, ValueError, IndexError):  # there is none yet
            return False
        headline = self.cell.config.eval.headline
        accuracy = record.get(f"eval/accuracy_{headline}")
        self.epoch = record["epoch"]
        self.accuracy = "" if accuracy is None else f"{headline} {accuracy:.2f}"
        return True

    def describe(self) -> str:
        """The last epoch in words."""
        return f"epoch {self.epoch}/{self.cell.config.epochs}  {self.accuracy}".rstrip()

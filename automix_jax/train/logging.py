"""Where a run tells what it does: the screen, `metrics.jsonl` and TensorBoard events."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from automix_jax.errors import CheckpointError
from automix_jax.train.events import Events
from automix_jax.train.workdir import write_atomically


def make_console(*, silent: bool = False) -> Console:
    """The screen; `silent` beside another process that speaks."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False, quiet=silent)


class Logger:
    """Writes one record an epoch, and keeps a progress bar where the screen is a terminal.

    A disk that is full, or gone, ends no run: it is said, and records are kept for the next try.

    Attributes:
        records: all that were written, of this start and those before.
    """

    def __init__(
        self,
        workdir: Path,
        console: Console,
        records: list[dict[str, Any]],
        *,
        tensorboard: bool,
        total_steps: int,
        step: int,
        silent: bool = False,
    ):
        """Opens the logs of a run that starts, or starts again, at `step`.

        Args:
            workdir: of the run.
            console: to speak on.
            records: up to `step`; those beyond, of steps that were taken but not saved, are
                dropped from the disk.
            tensorboard: whether to write events.
            total_steps: of the whole run.
            step: that it stands at.
            silent: writes nothing and says nothing, beside another process that does.
        """
        self.console, self.records = console, records
        self.path = workdir / "metrics.jsonl"
        self._silent = silent
        self._rewrite()
        self._events = self._open_events(workdir, step) if tensorboard and not silent else None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=self.console,
            disable=silent or not self.console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total_steps, completed=step)
        self._bar.start()

    def _open_events(self, workdir: Path, step: int) -> Events | None:
        try:
            return Events(workdir, step + 1)
        except ImportError:
            self.say("No TensorBoard events: pip install tensorboardX writes them.")
        except OSError as error:
            self.say(f"No TensorBoard events: {workdir} cannot be written ({error.strerror}).")
        return None

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar."""
        self.console.print(line)

    def progress(self, step: int, text: str) -> None:
        """Moves the progress bar."""
        self._bar.update(self._task, completed=step, description=text)

    def write(self, record: dict[str, Any]) -> None:
        """Adds a record, which has "step" and numbers by name, and puts it on the disk."""
        self.records.append(record)
        self._rewrite()
        self._tell_events(lambda events: events.write(record))

    def picture(self, name: str, path: Path, step: int) -> None:
        """Adds a PNG to the TensorBoard events."""
        self._tell_events(lambda events: events.picture(name, path, step))

    def _tell_events(self, tell: Callable[[Events], None]) -> None:
        if self._events is None:
            return
        try:
            tell(self._events)
        except OSError as error:
            self._events = None  # its file may end within an event: nothing can follow
            self.say(f"no more TensorBoard events of this start ({error.strerror}): make room.")

    def _rewrite(self) -> None:
        if self._silent:
            return
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        try:
            write_atomically(self.path, lines)
        except OSError as error:
            self.say(
                f"{self.path} cannot be written ({error.strerror}): make room; the records are kept"
                " and written with the next."
            )

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        self._bar.stop()
        self._tell_events(lambda events: events.close())


def read_records(path: Path, step: int) -> list[dict[str, Any]]:
    """Returns the records of metrics.jsonl up to a step, without a last line cut short.

    Raises:
        CheckpointError: if another line cannot be read.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):  # the line that a killed run was writing
                break
            raise CheckpointError(
                f"{path}, line {number}, is not JSON: repair or delete that line."
            ) from error
    return [record for record in records if record["step"] <= step]

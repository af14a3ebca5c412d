"""Where a run tells what it does: the screen, `metrics.jsonl` and TensorBoard events."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from automix_jax.errors import CheckpointError
from automix_jax.train.workdir import write_atomically


class Logger:
    """Writes one record an epoch, and keeps a progress bar where the screen is a terminal.

    Attributes:
        records: all that were written, of this start and those before.
    """

    def __init__(
        self, workdir: Path, *, tensorboard: bool, total_steps: int, step: int, silent: bool = False
    ):
        """Opens the logs of a run that starts, or starts again, at `step`.

        Records beyond `step`, of steps that were taken but not saved, are dropped.

        Args:
            workdir: of the run.
            tensorboard: whether to write events.
            total_steps: of the whole run.
            step: that it stands at.
            silent: writes nothing and says nothing, beside another process that does.

        Raises:
            CheckpointError: if metrics.jsonl cannot be read.
        """
        self.console = Console(
            highlight=False, soft_wrap=True, markup=False, emoji=False, quiet=silent
        )
        self.path = workdir / "metrics.jsonl"
        self.records = [] if silent else read_records(self.path, step)
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

    def _open_events(self, workdir: Path, step: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self.say("No TensorBoard events: pip install tensorboardX writes them.")
            return None
        return SummaryWriter(str(workdir), purge_step=step + 1)

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar."""
        self.console.print(line)

    def progress(self, step: int, text: str) -> None:
        """Moves the progress bar."""
        self._bar.update(self._task, completed=step, description=text)

    def write(self, record: dict[str, Any]) -> None:
        """Adds a record, which has "step" and numbers by name, and puts it on the disk.

        A disk that is full does not end the run: the next record tries to write all of them.
        """
        self.records.append(record)
        self._rewrite()
        if self._events:
            for name, value in record.items():
                if name not in ("step", "epoch"):
                    self._events.add_scalar(name, value, record["step"])

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

    def picture(self, name: str, path: Path, step: int) -> None:
        """Adds a PNG to the TensorBoard events."""
        if self._events:
            import numpy as np
            from PIL import Image

            self._events.add_image(name, np.asarray(Image.open(path)), step, dataformats="HWC")

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        self._bar.stop()
        if self._events:
            self._events.close()


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

"""Where a run tells what it does: the screen, `metrics.jsonl` and TensorBoard events."""

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from automix_jax.errors import CheckpointError
from automix_jax.train.workdir import write_atomically


class Logger:
    """Writes one record an epoch, and keeps a progress bar where the screen is a terminal."""

    def __init__(self, workdir: Path, *, tensorboard: bool, total_steps: int, step: int):
        """Opens the logs of a run that starts, or starts again, at `step`.

        Records beyond `step`, of steps that were taken but not saved, are dropped.

        Raises:
            CheckpointError: if metrics.jsonl cannot be read.
        """
        self.console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self.path = workdir / "metrics.jsonl"
        self.records = read_records(self.path, step)
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in self.records))
        self._file = self.path.open("a")
        self._events = self._open_events(workdir, step) if tensorboard else None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
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
        """Adds a record, which has "step" and numbers by name, and puts it on the disk."""
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._events:
            for name, value in record.items():
                if name not in ("step", "epoch"):
                    self._events.add_scalar(name, value, record["step"])

    def picture(self, name: str, path: Path, step: int) -> None:
        """Adds a PNG to the TensorBoard events."""
        if self._events:
            import numpy as np
            from PIL import Image

            self._events.add_image(name, np.asarray(Image.open(path)), step, dataformats="HWC")

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        self._bar.stop()
        self._file.close()
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

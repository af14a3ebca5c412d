"""What follows the trainings of `automix reproduce`: suites, what they measured, and pictures."""

import dataclasses
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from automix_jax.errors import AutoMixError, ConfigError
from automix_jax.sweep import presets
from automix_jax.sweep.cells import Row, cells, trials
from automix_jax.sweep.presets import Choice, Preset
from automix_jax.sweep.published import Published

_POLL = 2.0  # seconds between two looks at what other processes are at


@dataclasses.dataclass(frozen=True)
class FollowUp:
    """What has been trained, and what is wanted of it.

    Attributes:
        preset: that was trained.
        choice: of it.
        rows: of the choice.
        seeds: trials of each row.
        out: folder of the sweep.
        console: to speak on.
        boxes: for the suite localization; None for those beside the images or in their records.
        corruptions: folder of a set for the suite corruptions; None to corrupt the test images.
    """

    preset: Preset
    choice: Choice
    rows: Sequence[Row]
    seeds: int
    out: Path
    console: Console
    boxes: Path | None
    corruptions: Path | None

    def say(self, text: str) -> None:
        """Shows a line."""
        self.console.print(text, markup=False)


def check_flags(preset: Preset, boxes: Path | None, corruptions: Path | None) -> None:
    """Raises a ConfigError for --boxes or --corruptions of a preset that does not take it."""
    for flag, given, suite in (
        ("--boxes", boxes, "localization"),
        ("--corruptions", corruptions, "corruptions"),
    ):
        if given is not None and suite not in preset.suites:
            users = [name for name, other in presets.PRESETS.items() if suite in other.suites]
            raise ConfigError(
                f"{flag} is for {' and '.join(users)}, not for {preset.name}: leave it out."
            )


def check_needs(todo: FollowUp) -> None:
    """Checks that the suites will have what they need, before anything is trained for them.

    Raises:
        ConfigError: for what is not there, with what to install or give.
        DataError: for data or boxes that cannot be used.
    """
    if "corruptions" in todo.preset.suites:
        _check_corruptions(todo)
    if "localization" in todo.preset.suites:
        _check_boxes(todo)


def _check_corruptions(todo: FollowUp) -> None:
    folder = todo.corruptions
    if folder is None and importlib.util.find_spec("cv2") is None:
        raise ConfigError(
            f"{todo.preset.name} is followed by the suite corruptions, which needs OpenCV: pip"
            " install opencv-python-headless, give --corruptions=DIR, or leave the suites out by"
            " --train-only."
        )
    if folder is not None and not folder.expanduser().is_dir():
        raise ConfigError(
            f"--corruptions is {folder}, where there is no folder: correct it, or leave it out to"
            " corrupt the test images on the way."
        )


def _check_boxes(todo: FollowUp) -> None:
    """Every test image has to have its box."""
    from automix_jax.data import open_dataset
    from automix_jax.report.suites.localization import boxed, boxes_beside

    for data in {row.config.data.to_json(): row.config.data for row in todo.rows}.values():
        open_dataset(data.name, data.path or None)  # or what is said of boxes would mislead
        boxes = todo.boxes or boxes_beside(data)
        if boxes is None:
            raise ConfigError(
                f"{todo.preset.name} is followed by the suite localization, which needs the boxes"
                f" of the test images, and {data.name} has none: give --boxes=PATH, or leave the"
                " suites out by --train-only."
            )
        boxed(data, boxes)


def evaluate(todo: FollowUp, shard: tuple[int, int] | None) -> int:
    """Measures what the table shows beside accuracy; returns the last exit code that is not 0.

    Several processes share the runs of one folder: each measures those that no other is at. With
    `shard` they are those of this part of the trainings.
    """
    from automix_jax.sweep import run

    if not todo.preset.suites:
        return 0
    own = {cell.key for cell in run.choose(cells(todo.rows, todo.seeds), shard)}
    tasks: dict[str, Callable[[], int]] = {}
    for row in todo.rows:
        head = row.head or row.config.eval.headline
        for cell in trials(row, todo.seeds):
            workdir = todo.out / cell.folder
            if cell.key in own and (workdir / "summary.json").exists():
                argv = _arguments(todo, workdir, head)
                tasks[f"{cell.folder}, {head}"] = functools.partial(_evaluate, argv)
    return take_turns(tasks, todo.say)


def _arguments(todo: FollowUp, workdir: Path, head: str) -> list[str]:
    """What `automix evaluate` is given."""
    network, _, kind = head.partition("_")
    argv = [str(workdir), f"--suite={','.join(todo.preset.suites)}"]
    argv += [f"--network={network}", f"--head={kind}"]
    argv += [f"--boxes={todo.boxes}"] if todo.boxes else []
    return argv + ([f"--corruptions={todo.corruptions}"] if todo.corruptions else [])


def _evaluate(argv: Sequence[str]) -> int:
    from automix_jax.commands.evaluate import evaluate as command

    return command(argv)


def take_turns(tasks: Mapping[str, Callable[[], int]], say: Callable[[str], None]) -> int:
    """Does what several processes may be at, each at another.

    What another process has locked is left to it, and looked at again when the rest is done, until
    it is free: what that process was killed at is done here. One that fails stops no other.

    Args:
        tasks: by their names; each returns an exit code, or raises an AutoMixError.
        say: shows a line.

    Returns:
        The last exit code that is not 0.
    """
    failed, left, told = 0, dict(tasks), False
    while left:
        busy = {}
        for name, task in left.items():
            try:
                failed = task() or failed
            except AutoMixError as error:
                if isinstance(error.__cause__, BlockingIOError):  # of `locked`
                    busy[name] = task
                else:
                    sys.stderr.write(f"error: {name}: {error}\n")
                    failed = error.exit_code
        if len(busy) == len(left):
            if not told:
                say(f"{next(iter(busy))}: another process is at it; waiting for its end")
            told = True
            time.sleep(_POLL)
        left = busy
    return failed


def write_measures(todo: FollowUp) -> None:
    """Writes and shows what was measured beside accuracy, if anything was.

    Raises:
        CheckpointError: if it cannot be written.
    """
    from automix_jax.sweep import measures, results
    from automix_jax.train.workdir import write_atomically

    table = todo.preset.name.replace("fig", "figure")
    column = "" if todo.choice.small else todo.choice.column

    def reference(row: Row, number: Published) -> ConfigDict:
        return row.reference or todo.choice.reference(row.method, (), number)

    with results.exclusive(todo.out):
        values = measures.collect(
            todo.rows, todo.seeds, todo.out, todo.preset.suites, table, column, reference
        )
        if not any(value.ours.n for value in values):
            return
        write_atomically(todo.out / "measures.json", measures.as_json(values))
        write_atomically(todo.out / "measures.md", measures.markdown(values))
    todo.say(measures.markdown(values))


def draw(todo: FollowUp) -> int:
    """Draws the figure of a preset, of what has been trained; says what it cannot draw.

    Returns:
        0, or the exit code of what could not be written.

    Raises:
        AutoMixError: if the chart cannot be written.
    """
    if todo.preset.chart:
        _try("the chart", functools.partial(_draw_chart, todo), todo.say)
    if not todo.preset.picture:
        return 0
    # By one process at a time; the results stay free for those that train.
    return take_turns({"pictures": functools.partial(_draw_pictures, todo)}, todo.say)


def _draw_chart(todo: FollowUp) -> None:
    from automix_jax.report import paper_charts
    from automix_jax.sweep import results, table

    chart = getattr(paper_charts, todo.preset.chart)
    with results.exclusive(todo.out):
        found = results.read_results(todo.out)
        made = table.make(todo.rows, found.values(), todo.seeds)
        for path in chart(made, todo.out / todo.preset.name):
            todo.say(str(path))


def _draw_pictures(todo: FollowUp) -> int:
    """What `automix visualize` draws of the runs of the first seed, by the number of the row."""
    from automix_jax.commands.visualize import visualize
    from automix_jax.train.lock import locked

    kind, stem = todo.preset.picture, todo.out / todo.preset.name
    with locked(todo.out / ".pictures"):
        runs = _finished(todo)
        if kind == "calibration" and runs:
            argv = [kind, *map(str, runs.values()), f"--out={stem}.png"]
            _try(kind, functools.partial(visualize, argv), todo.say)
        elif kind != "calibration":
            for number, run in runs.items():
                part = f"{kind}{number}" if len(todo.rows) > 1 else kind
                place = str(run) if kind == "training" else f"--run={run}"
                argv = [kind, place, f"--out={stem}_{part}.png"]
                name = todo.rows[number - 1].name
                _try(name, functools.partial(visualize, argv), todo.say)
    return 0


def _finished(todo: FollowUp) -> dict[int, Path]:
    """The runs of the first seed that have ended, by the number of their row from 1."""
    runs = {n: todo.out / trials(row, 1)[0].folder for n, row in enumerate(todo.rows, 1)}
    missing = [n for n, run in runs.items() if not (run / "summary.json").exists()]
    for number in missing:
        name = todo.rows[number - 1].name
        todo.say(f"not drawn: {name}: the run of its first seed has not ended.")
    return {number: run for number, run in runs.items() if number not in missing}


def _try(name: str, action: Callable[[], object], say: Callable[[str], None]) -> None:
    """Draws something, or says why it cannot be: what was trained and measured is there.

    Raises:
        AutoMixError: if a file cannot be written.
    """
    try:
        action()
    except AutoMixError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise
        say(f"not drawn: {name}: {error}")

"""Sweeps: from the rows of a table to its numbers, and a report of them."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from automix_jax.errors import CheckpointError, ConfigError
from automix_jax.sweep import checks, protocol, results, table
from automix_jax.sweep.cells import Cell, Row, cells, looked_at, trials
from automix_jax.sweep.process import log_of, visible_gpus
from automix_jax.sweep.progress import SweepProgress
from automix_jax.sweep.runner import Runner
from automix_jax.sweep.table import Table
from automix_jax.train.stop import GRACE, Stop
from automix_jax.train.workdir import write_atomically

Shard = tuple[int, int]  # (i, n): the i-th of n parts, from 1 on


def sweep(
    rows: Sequence[Row],
    out: Path,
    *,
    seeds: int = 1,
    jobs: int = 1,
    shard: Shard | None = None,
    console: Console,
    only_report: bool = False,
    command: str = "",
) -> int:
    """Trains what rows need, goes on with what was interrupted, and reports in OUT/report.*.

    Cells that have ended are not trained again. Several processes may sweep one folder, from
    different machines too: each trains what no other does, and returns when all cells have ended.

    Args:
        rows: of the table.
        out: folder of the sweep; "~" is expanded.
        seeds: trials of each row.
        jobs: trainings at once.
        shard: trains this part of the cells alone.
        console: to speak on.
        only_report: trains nothing, and reports what is there.
        command: that does it, for the report.

    Returns:
        The exit code: 0; 1 if a cell failed or is incomplete; 128 + signal if a signal ended it,
        with all saved.

    Raises:
        AutoMixError: for what is known to be wrong before anything trains, or if results cannot be
            written.
    """
    out = out.expanduser()
    if only_report:
        if not out.is_dir():
            raise CheckpointError(f"there is no folder {out}: train first.")
        console.print(_report(rows, seeds, out, command).rich())
        return 0
    _make(out)
    everything = cells(rows, seeds)
    own = choose(everything, shard)
    done = results.read_results(out)
    # Where several train at once, each has one device.
    num_devices = 1 if jobs > 1 else max(1, len(visible_gpus(os.environ)))
    checks.check([cell for cell in own if cell.key not in done], everything, num_devices)
    progress = SweepProgress(out, own, console)
    runner = Runner(own, everything, out, jobs, progress)
    progress.say(f"{sum(cell.key in done for cell in own)} of {len(own)} cells have ended")
    with Stop(GRACE + 2.0) as stop, progress:  # a little longer than its processes have
        stop.idle = False
        runner.run(stop, lambda: _report(rows, seeds, out, command))
    console.print(_report(rows, seeds, out, command).rich())
    if stop.signal is not None:
        progress.say("stopped and saved: the same command goes on.")
        return 128 + stop.signal
    complaints = [*_failures(runner, out), *_incomplete(rows, seeds, runner, out)]
    for complaint in complaints:
        progress.say(complaint, "red")
    for warning in results.differences(_of_rows(rows, seeds, out)):
        progress.say(f"warning: {warning}", "yellow")
    progress.say(f"{out / 'report.md'}, report.csv, report.json, report.tex")
    return 1 if complaints else 0


def choose(everything: Sequence[Cell], shard: Shard | None) -> list[Cell]:
    """The cells of a part; those that look at a network go with the cell that trains it."""
    if shard is None:
        return list(everything)
    part, count = shard
    networks = [looked_at(cell, everything) if cell.looks else None for cell in everything]
    leaders = [(network or cell).key for cell, network in zip(everything, networks, strict=True)]
    own = list(dict.fromkeys(leaders))[part - 1 :: count]
    return [cell for cell, key in zip(everything, leaders, strict=True) if key in own]


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out is {out}, which cannot be a folder ({error.strerror}): choose another."
        ) from error


def _report(rows: Sequence[Row], seeds: int, out: Path, command: str) -> Table:
    """Writes what has come of the rows so far; one process at a time."""
    failures = results.read_failures(out)
    with results.exclusive(out):
        found = results.read_results(out)
        made = table.make(rows, found.values(), seeds, failures=failures.values(), command=command)
        for suffix, text in (
            ("md", made.markdown()),
            ("csv", made.csv()),
            ("json", made.json()),
            ("tex", made.latex()),
        ):
            write_atomically(out / f"report.{suffix}", text)
    return made


def _failures(runner: Runner, out: Path) -> list[str]:
    done = results.read_results(out)  # which another runner may have mended
    own = [cell for cell in runner.cells if cell.key in runner.failed and cell.key not in done]
    return [f"{cell.folder}: {runner.failed[cell.key]} ({log_of(out, cell)})" for cell in own]


def _incomplete(rows: Sequence[Row], seeds: int, runner: Runner, out: Path) -> list[str]:
    """A line for each head of a cell whose accuracies are not all there."""
    found, own = results.read_results(out), {cell.key for cell in runner.cells}
    lines: dict[str, None] = {}  # in their order, each once
    for row in rows:
        for cell in trials(row, seeds):
            if cell.key in found and cell.key in own:
                trial = protocol.trial(found[cell.key], row.head or row.config.eval.headline)
                if trial.reason:
                    lines[f"{cell.folder}: incomplete: {trial.reason}"] = None
    return list(lines)


def _of_rows(rows: Sequence[Row], seeds: int, out: Path) -> dict[str, dict]:
    """The results of the cells of rows; a folder may hold others."""
    keys = {cell.key for cell in cells(rows, seeds)}
    return {key: record for key, record in results.read_results(out).items() if key in keys}

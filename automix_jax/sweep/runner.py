"""The runner of a sweep: each cell in a process of its own, some at once."""

import signal
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from automix_jax.sweep import protocol, results
from automix_jax.sweep.cells import Cell, looked_at
from automix_jax.sweep.claim import is_claimed
from automix_jax.sweep.process import Process
from automix_jax.sweep.progress import SweepProgress
from automix_jax.sweep.worker import BUSY
from automix_jax.train.stop import Stop

_STOPPED = tuple(128 + number for number in (signal.SIGTERM, signal.SIGINT))  # exit codes
_POLL = 0.2  # seconds between two looks at the processes


class Runner:
    """Trains cells until none is left.

    Attributes:
        cells: that are its own.
        failed: why, by key, of the cells that have failed since it began.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        everything: Sequence[Cell],
        out: Path,
        jobs: int,
        progress: SweepProgress,
    ):
        """Starts nothing yet.

        Args:
            cells: to be trained.
            everything: the cells of the sweep, among them the networks that others look at.
            out: folder of the sweep.
            jobs: trainings at once.
            progress: where it tells what it does.
        """
        self.cells, self.failed = list(cells), dict[str, str]()
        self._networks = {cell.key: looked_at(cell, everything) for cell in cells if cell.looks}
        self._out, self._jobs, self._progress = out, jobs, progress
        self._running: dict[int, Process] = {}
        self._began = time.time()
        self._waits = False
        self._done, self._size = set[str](), 0

    def run(self, stop: Stop, report: Callable[[], object]) -> None:
        """Trains until all cells have ended, those that others train too, or it is asked to stop.

        Args:
            stop: says so.
            report: is called whenever a cell has ended here.
        """
        asked = False
        try:
            while True:
                if any([self._reap(slot) for slot in tuple(self._running)]):
                    report()
                done = self._ended()
                left = stop.signal is None and self._start(done)
                if stop.signal is not None and not asked:
                    asked = True
                    self._progress.say("stopping: waiting for what trains to be saved")
                    self._ask_to_stop()
                self._progress.update(done)
                if not self._running and not left:
                    return
                time.sleep(_POLL)
        finally:
            self._ask_to_stop()

    def _ended(self) -> Collection[str]:
        """Keys of the cells that have ended, with other runners too; read when there are more."""
        size = results.size(self._out)
        if size != self._size:
            self._done, self._size = set(results.read_results(self._out)), size
        return self._done

    def _ask_to_stop(self) -> None:
        for process in self._running.values():
            process.ask_to_stop()

    def _start(self, done: Collection[str]) -> bool:
        """Starts what can be started; returns whether something is left that does not train here.

        Args:
            done: keys of the cells that have ended.
        """
        self._hear_of_failures(done)
        running = {process.cell.key for process in self._running.values()}
        begun = {*done, *self.failed, *running}
        waits = []
        for cell in [cell for cell in self.cells if cell.key not in begun]:
            network = self._networks.get(cell.key)
            free = [slot for slot in range(self._jobs) if slot not in self._running]
            if not free:
                return True
            if network is not None and network.key in self.failed:
                self._fail(cell, f"there is no network of {network.folder} to look at", 1)
            elif (network and network.key not in done) or is_claimed(self._out, cell.folder):
                waits.append(cell.folder)
            else:
                self._progress.begin(cell)
                process = Process(self._out, cell, network, free[0], self._jobs)
                self._running[free[0]] = process
        if waits and not self._running and not self._waits:
            self._progress.say(f"{waits[0]}: another process trains it, or what it waits for")
        self._waits = bool(waits) and not self._running
        return bool(waits)

    def _hear_of_failures(self, done: Collection[str]) -> None:
        """Takes what has failed with other runners since this one began as failed."""
        for key, record in results.read_failures(self._out).items():
            if record["time"] >= self._began and key not in done:
                self.failed.setdefault(key, record["reason"])

    def _reap(self, slot: int) -> bool:
        """Looks at a process; returns whether it has ended with its cell."""
        process = self._running[slot]
        code, cell = process.code, process.cell
        if code is None:
            return False
        process.ask_to_stop()  # which frees the pipe
        del self._running[slot]
        if code == 0:
            self._progress.end(cell, self._describe(cell))
        elif code == BUSY:
            self._progress.end(cell, "another process trains it")
            return False
        elif code in _STOPPED:
            self._progress.end(cell, "was stopped; the same command goes on")
            self.failed[cell.key] = "it was stopped"
        else:
            reason = process.reason()
            self._progress.end(cell, f"failed: {reason} ({process.log})", "red")
            self._fail(cell, reason, code)
        return True

    def _fail(self, cell: Cell, reason: str, code: int) -> None:
        self.failed[cell.key] = reason
        results.add_failure(self._out, cell, reason, code)

    def _describe(self, cell: Cell) -> str:
        """What came of a cell, in words."""
        record = results.read_results(self._out)[cell.key]
        trial = protocol.trial(record, record["headline"])
        if trial.median is None:
            return f"incomplete: {trial.reason}"
        seconds = record["seconds"]["total"]
        return f"{record['headline']} {trial.median:.2f} %, {seconds:.0f} s"

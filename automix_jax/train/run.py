"""The training loop: a run from where it stands to its end."""

import contextlib
import dataclasses
import itertools
import math
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
from clu.metrics import Collection
from ml_collections import ConfigDict

from automix_jax.errors import CheckpointError, Stopped
from automix_jax.train import cluster, guiding, memory, summary, warm_start
from automix_jax.train import metrics as metrics_lib
from automix_jax.train.build import Experiment, named_key
from automix_jax.train.checkpoint import Checkpoints
from automix_jax.train.clock import Clock
from automix_jax.train.epoch import EpochEnd
from automix_jax.train.feed import Feed
from automix_jax.train.logging import Logger
from automix_jax.train.profile import Profile
from automix_jax.train.recovery import Recovery, Training, diagnose_skipped, give_up
from automix_jax.train.sharding import put_replicated
from automix_jax.train.state import TrainState
from automix_jax.train.stop import Stop
from automix_jax.weights import Pretrained

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is started, which is no part of what it trains.

    Attributes:
        stop: says when to stop before the end; None where nobody asks.
        allow_fresh: begin again where all checkpoints are damaged.
        override: let the fields of `automix_jax.train.workdir.OVERRIDABLE` differ from what the
            run was started with.
        profile: write a trace of a few steps.
    """

    stop: Stop | None = None
    allow_fresh: bool = False
    override: bool = False
    profile: bool = False


class Run:
    """One start of a run: the objects that live as long as the process."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        feed: Feed,
        experiment: Experiment,
        pretrained: Pretrained | None,
        guide: Pretrained | None,
        options: Options,
    ):
        self.config, self.workdir = config, workdir
        self.feed, self.experiment = feed, experiment
        self.pretrained, self.options = pretrained, options
        self.steps_per_epoch = feed.facts.train_images // config.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        self.guide = put_replicated(guiding.variables(guide) if guide else None, experiment.mesh)
        self.epoch_end = EpochEnd(config, workdir, feed, experiment, self.guide)
        self.template = experiment.saved_template()
        self.programs: dict[int, jax.stages.Compiled] = {}
        self.clock = Clock()
        self.profile = Profile(workdir / "profile" if options.profile else None)
        self.polls = itertools.count()
        self.best = -math.inf  # headline accuracy
        self.saved = -1  # step of the last checkpoint
        self.began = False  # this start has taken a step

    def train(self, changes: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
        """The run from where it stands to its end."""
        with contextlib.ExitStack() as stack:
            state, metrics, step = self.open(stack)
            if self.recorded(self.total_steps) and (ended := self.ended()):
                return ended
            self.narrator.introduce(state, step, self.total_steps, self.pretrained, changes)
            if step and step % self.steps_per_epoch == 0:
                metrics = self.end_epoch(state, metrics, step)
            while step < self.total_steps:
                count = self.next_dispatch(step)
                run_steps = self.compiled(count)
                # The first batch waits for workers to start, which says nothing of their rate.
                with self.clock("input" if self.began else "start"):
                    inputs = self.feed.dispatch(step, count)
                with self.profile, self.clock("train"):
                    state, metrics = run_steps(state, metrics, *inputs, self.guide)
                    jax.block_until_ready(metrics)
                self.begin()
                before, step = step, step + count
                problem = self.recovery.trouble(state)
                if problem is not None:
                    state, metrics, step = self.recover(problem, state, metrics)
                self.show_progress(metrics, step)
                if problem is not None or self.checkpoint_due(before, step):
                    self.save(state, metrics, step)
                self.heed(state, metrics, step)
                if step % self.steps_per_epoch == 0:
                    metrics = self.end_epoch(state, metrics, step)
            return self.end(state)

    # -- where a run starts ----------------------------------------------------------------------

    def open(self, stack: contextlib.ExitStack) -> tuple[TrainState, Collection, int]:
        """Opens checkpoints and logs; returns state, metrics and step of where the run stands."""
        config, main = self.config, cluster.is_main()
        checkpoints = Checkpoints(
            self.workdir / "checkpoints", config.run.keep_checkpoints, warn=self.say
        )
        self.checkpoints = stack.enter_context(contextlib.closing(checkpoints))
        stack.callback(self.profile.close)
        self.recovery = Recovery(
            checkpoints,
            self.template,
            self.fresh,
            self.experiment.mesh,
            self.steps_per_epoch,
            self.say,
        )
        found = checkpoints.restore(self.template, allow_fresh=self.options.allow_fresh)
        if found is None:
            step, (state, metrics) = 0, self.fresh()
        else:
            step, tree, info = found
            state, metrics = tree["state"], tree["metrics"]
            self.clock.resume(info["seconds"])
            self.recovery.resume(state, info["rollbacks"])
            self.saved = step
        logger = Logger(
            self.workdir,
            tensorboard=config.run.tensorboard,
            total_steps=self.total_steps,
            step=step,
            silent=not main,
        )
        self.logger = stack.enter_context(contextlib.closing(logger))
        logger.records = cluster.gather(logger.records)[0]  # of the main process
        for record in logger.records:
            self.best = max(self.best, record.get(self.headline, -math.inf))
        self.narrator = summary.Narrator(config, self.workdir, self.feed, self.clock, logger)
        return state, metrics, step

    def fresh(self) -> Training:
        """The state and metrics of a run that has not begun."""
        with self.clock("compile"):
            state = self.experiment.create(named_key(self.config.seed, "state"))
            if self.pretrained is not None:
                state = warm_start.start_from(state, self.pretrained, self.feed.facts.num_classes)
            return jax.block_until_ready(state), self.experiment.create_metrics()

    def recorded(self, step: int) -> bool:
        """Whether the epoch that ends with a step has been evaluated and written down."""
        return any(record["step"] == step for record in self.logger.records)

    # -- steps -----------------------------------------------------------------------------------

    def next_dispatch(self, step: int) -> int:
        """How many steps to take next: to the end of a dispatch, or of the epoch."""
        done = step % self.steps_per_epoch
        left = self.config.steps_per_dispatch - done % self.config.steps_per_dispatch
        return min(left, self.steps_per_epoch - done)

    def compiled(self, count: int) -> jax.stages.Compiled:
        """The program that takes this many steps."""
        if count not in self.programs:
            with self.clock("compile"):
                program = self.experiment.run_steps.lower(
                    self.template["state"],
                    self.template["metrics"],
                    *self.feed.template(count),
                    self.guide,
                ).compile()
            if not self.programs and (estimate := memory.estimate(program)):
                limit = memory.capacity(jax.local_devices()[0])
                self.say(estimate.describe(limit))
                memory.check_fits(estimate, limit)
            self.programs[count] = program
        return self.programs[count]

    def begin(self) -> None:
        """Notes that there is something now that is worth saving."""
        self.began = True
        if self.options.stop is not None:
            self.options.stop.idle = False

    def checkpoint_due(self, before: int, step: int) -> bool:
        """Whether a multiple of the checkpoint interval lies beyond `before` and up to `step`."""
        interval = self.config.run.checkpoint_steps or self.steps_per_epoch
        return step // interval > before // interval or step == self.total_steps

    def show_progress(self, metrics: Collection, step: int) -> None:
        """Moves the progress bar, on a terminal."""
        if self.logger.console.is_terminal:
            loss = float(metrics.compute()["loss"])
            epoch = -(-step // self.steps_per_epoch)
            self.logger.progress(step, f"epoch {epoch}/{self.config.epochs} loss {loss:.3f}")

    def save(self, state: TrainState, metrics: Collection, step: int, best: bool = False) -> None:
        """Begins to save; the disk is written while training goes on."""
        self.feed.share_unreadable()
        with self.clock("checkpoint"):
            tree = {"state": state, "metrics": metrics}
            info = {"seconds": dict(self.clock.seconds), "rollbacks": self.recovery.rollbacks}
            self.checkpoints.save(step, tree, info, best=best)
            self.saved = step

    def recover(
        self, problem: str, state: TrainState, metrics: Collection
    ) -> tuple[TrainState, Collection, int]:
        """Goes back to before the trouble, the first time.

        Raises:
            NumbersError: the second time.
        """
        self.say(problem)
        if self.recovery.rollbacks:
            dump = diagnose_skipped(self.config, self.experiment, self.feed, state, self.guide)
            give_up(problem, self.workdir, dump, self.recovery.rollbacks)
        return self.recovery.go_back(state, metrics)

    # -- requests to stop ------------------------------------------------------------------------

    def heed(self, state: TrainState, metrics: Collection, step: int) -> None:
        """Saves and stops, if asked to.

        Raises:
            Stopped: then.
            CheckpointError: if it could not be saved.
        """
        number = self.asked_to_stop()
        if number is None:
            return
        if self.saved != step:
            self.save(state, metrics, step)
        self.checkpoints.wait()
        if self.checkpoints.failures:
            raise CheckpointError(
                f"stopped at step {step}, which could not be saved in {self.workdir}: make room,"
                " and the same command goes on from the checkpoint before."
            )
        raise Stopped(f"stopped and saved at step {step}: the same command goes on.", number)

    def asked_to_stop(self) -> int | None:
        """The signal that has come to this process or, of several, to any of them."""
        stop = self.options.stop
        number = None if stop is None else stop.signal
        if jax.process_count() == 1:
            return number
        if number is not None:
            cluster.give_notice()
        return (number or signal.SIGTERM) if cluster.reached_preemption(next(self.polls)) else None

    def heeding(self, state: TrainState, metrics: Collection, step: int):
        """Returns what passes batches on until the process is asked to stop."""

        def heed(batches: Iterable[T]) -> Iterator[T]:
            for batch in batches:
                self.heed(state, metrics, step)
                yield batch

        return heed

    # -- the end of an epoch, and of the run -----------------------------------------------------

    @property
    def headline(self) -> str:
        """The name in a record of the accuracy that is *the* accuracy."""
        return f"eval/accuracy_{self.config.eval.headline}"

    def end_epoch(self, state: TrainState, metrics: Collection, step: int) -> Collection:
        """Evaluates, draws and logs, unless that was done; returns the metrics of no step yet.

        A checkpoint of the last step of an epoch is that of before its evaluation, which a run that
        is resumed there repeats unless its record is there.
        """
        if not self.recorded(step):
            record = self.record(state, metrics, step)
            if record.get(self.headline, -math.inf) > self.best:
                self.best = record[self.headline]
                self.save(state, metrics, step, best=True)
            self.logger.write(record)
            self.narrator.tell(record)
        return self.experiment.create_metrics()

    def record(self, state: TrainState, metrics: Collection, step: int) -> dict[str, Any]:
        """All that is known at the end of an epoch."""
        config, epoch = self.config, step // self.steps_per_epoch
        self.feed.share_unreadable()
        means = metrics_lib.compute(metrics).items()
        record: dict[str, Any] = {"step": step, "epoch": epoch}
        record |= {f"train/{name}": value for name, value in means if math.isfinite(value)}
        record["train/skipped_steps"] = int(state.skipped.count)
        record |= {f"lr/{k}": float(schedule(step - 1)) for k, schedule in
                   self.experiment.lr.items()}  # fmt: skip
        last = epoch == config.epochs
        if epoch % config.eval.every_epochs == 0 or last:
            with self.clock("evaluate"):
                found = self.epoch_end.evaluate(state, self.heeding(state, metrics, step))
            record |= {f"eval/{name}": value for name, value in found.items()}
        every = config.run.sample_epochs
        if every and (epoch % every == 0 or last):
            with self.clock("pictures"):
                path = self.epoch_end.draw(state, epoch)
            self.logger.picture("samples", path, step)
        record |= {f"time/{part}": seconds for part, seconds in self.clock.lap().items()}
        record["time/seconds"] = sum(self.clock.seconds.values())
        record["time/images_per_second"] = self.narrator.rate(step)
        return record

    def end(self, state: TrainState) -> dict[str, Any]:
        """Waits for the disk, writes summary.json and prints the table.

        Raises:
            CheckpointError: if the last step could not be saved.
        """
        with self.clock("checkpoint"):
            self.checkpoints.wait()
        if self.checkpoints.failures:
            raise CheckpointError(
                f"the run is at its end, but its last step could not be saved in {self.workdir}:"
                " make room, and the same command takes the steps since the checkpoint before."
            )
        result = self.narrator.summarize(state, self.recovery.rollbacks)
        if cluster.is_main():
            summary.write(self.workdir, result)
        self.narrator.conclude(result)
        return result

    def ended(self) -> dict[str, Any] | None:
        """Shows and returns the summary of a run that has ended before, or returns None."""
        result = summary.read(self.workdir, self.total_steps)
        if result is not None:
            self.say(f"the run is at its end, step {self.total_steps}")
            self.narrator.conclude(result)
        return result

    def say(self, line: str) -> None:
        """Prints a line, on the main process; the logs may not be open yet."""
        if hasattr(self, "logger"):
            self.logger.say(line)
        elif cluster.is_main():
            print(line)

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
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import Experiment, named_key
from automix_jax.train.checkpoints import Checkpoints
from automix_jax.train.clock import Clock
from automix_jax.train.epoch import EpochEnd
from automix_jax.train.feed import Feed
from automix_jax.train.logging import Logger, make_console, read_records
from automix_jax.train.plan import Plan
from automix_jax.train.profile import Profile
from automix_jax.train.recovery import Recovery, diagnose_skipped, give_up
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
        steps_per_epoch = feed.facts.train_images // config.batch_size
        self.plan = Plan(
            epochs=config.epochs,
            steps_per_epoch=steps_per_epoch,
            steps_per_dispatch=config.steps_per_dispatch,
            checkpoint_steps=config.run.checkpoint_steps or steps_per_epoch,
        )
        self.guide = put_replicated(guiding.variables(guide) if guide else None, experiment.mesh)
        self.epoch_end = EpochEnd(config, workdir, feed, experiment, self.guide)
        self.template = experiment.saved_template()
        self.programs: dict[int, jax.stages.Compiled] = {}
        self.console = make_console(silent=not cluster.is_main())
        self.say = self.console.print
        self.clock = Clock()
        self.profile = Profile(workdir / "profile" if options.profile else None)
        self.checkpoints = Checkpoints(
            workdir / "checkpoints", config.run.keep_checkpoints, warn=self.say
        )
        self.recovery = Recovery(
            self.checkpoints, experiment, self.new_state, self.plan.scheduled, self.say
        )
        self.polls = itertools.count()
        self.best = -math.inf  # headline accuracy of the best checkpoint
        self.saved = -1  # step of the last checkpoint
        self.lap_step = 0  # from which the times of an epoch's record are, or of the start
        self.began = False  # this start has taken a step

    def train(self, changes: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
        """The run from where it stands to its end.

        Args:
            changes: of its configuration since the start before.
        """
        plan = self.plan
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(self.checkpoints))
            stack.callback(self.profile.close)
            state, metrics, step = self.resume()
            records = self.read_records(step)
            if (ended := self.ended(step, records)) is not None:
                return ended
            self.open_logs(stack, records, step, changes)
            self.narrator.introduce(state, step, plan.total, self.pretrained, changes)
            if plan.ends_epoch(step):
                metrics = self.end_epoch(state, metrics, step)
            while step < plan.total:
                count = plan.dispatch(step)
                run_steps = self.compiled(count)
                # The first batch waits for workers to start, which says nothing of their rate.
                with self.clock("input" if self.began else "start"):
                    inputs = self.feed.dispatch(step, count)
                with self.profile, self.clock("train"):
                    state, metrics = run_steps(state, metrics, *inputs, self.guide)
                    jax.block_until_ready(metrics)
                self.begin()
                before, step = step, step + count
                problem = self.recovery.say_skipped(state)
                if problem is not None:
                    state, metrics, step = self.recover(problem, state, metrics)
                self.show_progress(metrics, step)
                if problem is not None or plan.saves(before, step):
                    self.save(state, metrics, step)
                self.heed(state, metrics, step)
                if plan.ends_epoch(step):
                    metrics = self.end_epoch(state, metrics, step)
            return self.end(state)

    # -- where a run starts ----------------------------------------------------------------------

    def resume(self) -> tuple[TrainState, Collection, int]:
        """The state, metrics and step of the last checkpoint, or of a run that has not begun.

        Raises:
            CheckpointError: if checkpoints are damaged, or beyond the last step.
        """
        found = self.checkpoints.restore(self.template, allow_fresh=self.options.allow_fresh)
        best = self.checkpoints.best_info()
        self.best = -math.inf if best is None else best.get("headline", -math.inf)
        if found is None:
            return self.new_state(), self.experiment.create_metrics(), 0
        step, tree, info = found
        if step > self.plan.total:
            raise CheckpointError(
                f"config.epochs is {self.plan.epochs}, {self.plan.total} steps, and the run in"
                f" {self.workdir} has taken {step}: give it more epochs than it has."
            )
        self.clock.resume(info["seconds"])
        self.recovery.resume(tree["state"], info["rollbacks"])
        self.saved = self.lap_step = step
        return tree["state"], tree["metrics"], step

    def new_state(self) -> TrainState:
        """The state of a run that has not begun."""
        with self.clock("compile"):
            state = self.experiment.create(named_key(self.config.seed, "state"))
            if self.pretrained is not None:
                state = warm_start.start_from(state, self.pretrained, self.feed.facts.num_classes)
            return jax.block_until_ready(state)

    def read_records(self, step: int) -> list[dict[str, Any]]:
        """The records of metrics.jsonl up to a step, on every process.

        Raises:
            CheckpointError: if they cannot be read, or are of a run whose checkpoints are gone.
        """
        path = self.workdir / "metrics.jsonl"

        def read() -> list[dict[str, Any]]:
            if not cluster.is_main():
                return []
            records = read_records(path, self.plan.total)
            if records and self.saved < 0:
                if not self.options.allow_fresh:
                    raise CheckpointError(
                        f"{path} has records of {len(records)} epochs, but there is no checkpoint:"
                        " put the folder checkpoints back, choose another --workdir, or begin again"
                        " with --allow-fresh; nothing was changed."
                    )
                path.rename(path.with_suffix(".old.jsonl"))
            return [record for record in records if record["step"] <= step]

        return cluster.gather(cluster.together(read))[0]

    def ended(self, step: int, records: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Shows and returns the summary of a run that is at its end, or returns None."""
        if step < self.plan.total or not records or records[-1]["step"] < step:
            return None
        result = summary.read(self.workdir, step)
        if result is not None:
            self.say(f"the run is at its end, step {step}")
            summary.show(self.workdir, result, self.console)
        return result

    def open_logs(
        self,
        stack: contextlib.ExitStack,
        records: list[dict[str, Any]],
        step: int,
        changes: dict[str, tuple[Any, Any]],
    ) -> None:
        """Opens what a run writes, and makes its changed configuration that of its folder."""
        config, main = self.config, cluster.is_main()

        def open_logs() -> Logger:
            if main:
                workdir_lib.keep_changes(self.workdir, config, changes, step)
            return Logger(
                self.workdir,
                self.console,
                records,
                tensorboard=config.run.tensorboard,
                total_steps=self.plan.total,
                step=step,
                silent=not main,
            )

        self.logger = stack.enter_context(contextlib.closing(cluster.together(open_logs)))
        self.narrator = summary.Narrator(config, self.workdir, self.feed, self.clock, self.logger)

    # -- steps -----------------------------------------------------------------------------------

    def compiled(self, count: int) -> jax.stages.Compiled:
        """The program that takes this many steps.

        Raises:
            MemoryError: if it does not fit into the memory of any process, on all of them.
        """
        if count not in self.programs:
            with self.clock("compile"):
                program, problem = self.compile(count)
                problems = [other for other in cluster.gather(problem) if other]
                if problems or program is None:
                    raise MemoryError(problems[0])
            self.programs[count] = program
        return self.programs[count]

    def compile(self, count: int) -> tuple[jax.stages.Compiled | None, str | None]:
        """Compiles a program; returns it, or in words why it does not fit into memory."""
        try:
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
            return program, None
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            return None, str(error) or "MemoryError"

    def begin(self) -> None:
        """Notes that there is something now that is worth saving."""
        self.began = True
        if self.options.stop is not None:
            self.options.stop.idle = False

    def show_progress(self, metrics: Collection, step: int) -> None:
        """Moves the progress bar, on a terminal."""
        if self.console.is_terminal:
            loss = float(metrics.compute()["loss"])
            epoch = -(-step // self.plan.steps_per_epoch)
            self.logger.progress(step, f"epoch {epoch}/{self.config.epochs} loss {loss:.3f}")

    def save(self, state: TrainState, metrics: Collection, step: int) -> None:
        """Begins to save; the disk is written while training goes on."""
        self.feed.share_unreadable()
        with self.clock("checkpoint"):
            self.checkpoints.save(step, {"state": state, "metrics": metrics}, self.info())
            self.saved = step

    def info(self) -> dict[str, Any]:
        """What a checkpoint holds beside arrays."""
        return {"seconds": dict(self.clock.seconds), "rollbacks": self.recovery.rollbacks}

    def recover(
        self, problem: str, state: TrainState, metrics: Collection
    ) -> tuple[TrainState, Collection, int]:
        """Goes back to before the trouble, the first time.

        The metrics stay those of all steps that were taken in the epoch.

        Raises:
            NumbersError: the second time.
        """
        self.say(problem)
        if self.recovery.rollbacks:
            dump = diagnose_skipped(self.config, self.experiment, self.feed, state, self.guide)
            give_up(problem, self.workdir, dump, self.recovery.rollbacks)
        state, step = self.recovery.go_back(state)
        return state, metrics, step

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
        self.checkpoints.wait()
        if self.saved != step or self.checkpoints.failures:
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
        if all(record["step"] != step for record in self.logger.records):
            record = self.record(state, metrics, step)
            headline = record.get(self.headline, -math.inf)
            if headline > self.best and self.save_best(state, metrics, step, headline):
                self.best = headline
            self.logger.write(record)
            self.narrator.tell(record)
        return self.experiment.create_metrics()

    def save_best(self, state: TrainState, metrics: Collection, step: int, headline: float) -> bool:
        """Saves what is better than all before; returns whether it is on the disk."""
        with self.clock("checkpoint"):
            tree = {"state": state, "metrics": metrics}
            return self.checkpoints.save_best(step, tree, self.info() | {"headline": headline})

    def record(self, state: TrainState, metrics: Collection, step: int) -> dict[str, Any]:
        """All that is known at the end of an epoch."""
        config, epoch = self.config, step // self.plan.steps_per_epoch
        means = metrics_lib.compute(metrics).items()
        record: dict[str, Any] = {"step": step, "epoch": epoch}
        record |= {f"train/{name}": value for name, value in means if math.isfinite(value)}
        record["train/skipped_steps"] = int(state.skipped.count)
        record |= {f"lr/{k}": float(schedule(step - 1)) for k, schedule in
                   self.experiment.lr.items()}  # fmt: skip
        last = epoch == config.epochs
        if epoch % config.eval.every_epochs == 0 or last:
            with self.clock("evaluate"), memory.refused("use a smaller config.eval.batch_size"):
                found = self.epoch_end.evaluate(state, self.heeding(state, metrics, step))
            record |= {f"eval/{name}": value for name, value in found.items()}
        self.feed.share_unreadable()
        every = config.run.sample_epochs
        if every and (epoch % every == 0 or last):
            with self.clock("pictures"):
                self.draw(state, epoch, step)
        lap = self.clock.lap()
        record |= {f"time/{part}": seconds for part, seconds in lap.items()}
        record["time/seconds"] = sum(self.clock.seconds.values())
        # A run that is resumed at the end of an epoch has taken no step of it.
        taken = (step - self.lap_step, lap) if step > self.lap_step else (step, self.clock.seconds)
        record["time/images_per_second"] = self.narrator.rate(*taken)
        self.lap_step = step
        return record

    def draw(self, state: TrainState, epoch: int, step: int) -> None:
        """Draws mixed images; a disk that is full does not end the run."""
        try:
            path = self.epoch_end.draw(state, epoch)
        except OSError as error:
            self.say(f"no picture of epoch {epoch}: it cannot be written ({error.strerror}).")
            return
        self.logger.picture("samples", path, step)

    def end(self, state: TrainState) -> dict[str, Any]:
        """Waits for the disk, writes summary.json and prints the table.

        Raises:
            CheckpointError: if the last step, or the summary, could not be saved.
        """
        with self.clock("checkpoint"):
            self.checkpoints.wait()
        if self.checkpoints.failures:
            raise CheckpointError(
                f"the run is at its end, but its last step could not be saved in {self.workdir}:"
                " make room, and the same command takes the steps since the checkpoint before."
            )
        result = self.narrator.summarize(state, self.recovery.rollbacks)
        if max(row.get(self.headline, -math.inf) for row in self.logger.records) > self.best:
            self.say(
                f"{self.workdir / 'checkpoints/best'} is not that of the best epoch, which could"
                " not be saved."
            )
        cluster.together(lambda: summary.write(self.workdir, result) if cluster.is_main() else None)
        summary.show(self.workdir, result, self.console)
        return result

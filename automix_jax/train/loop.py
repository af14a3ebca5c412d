"""The training loop: from a configuration to a folder with everything about the run."""

import collections
import contextlib
import functools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from clu.metrics import Collection
from jaxtyping import Array, Bool, PyTree
from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax.automix import AutoMix
from automix_jax.data import batch_indices
from automix_jax.errors import ConfigError, NumbersError
from automix_jax.evaluate import samples
from automix_jax.evaluate.accuracy import make_evaluate
from automix_jax.mixup_training import AugMixTraining, MixupTraining
from automix_jax.train import guiding, warm_start
from automix_jax.train import metrics as metrics_lib
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import (
    Experiment,
    build,
    compute_dtype,
    make_mesh,
    named_key,
    replicated,
)
from automix_jax.train.checkpoint import Checkpoints, template
from automix_jax.train.feed import Feed, open_feed
from automix_jax.train.logging import Logger
from automix_jax.train.state import TrainState
from automix_jax.train.teacher import make_teacher_stats
from automix_jax.validation import validate
from automix_jax.weights import Pretrained

_STEPS_PER_DISPATCH = 100  # on accelerators, where starting a program costs as much as a small step


def train(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains, or goes on with, the run of a folder; returns its summary.

    Args:
        config: see `automix_jax.config.default_config`.
        workdir: the run's folder. An earlier start's last checkpoint there is resumed, and the
            run then ends with the same bits as without the interruption.

    Raises:
        AutoMixError: for a configuration, data or folder that cannot be used, before the first
            step; NumbersError when the loss is no longer finite.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            f"{jax.process_count()} processes were started, but a run is one process, on all the"
            " devices that it sees: start one."
        )
    validate(config, jax.device_count())
    workdir = Path(workdir).expanduser()
    config, pretrained = warm_start.settle(config, workdir)
    config, guide = guiding.settle(config, workdir)
    feed = open_feed(config, make_mesh(), workdir)
    with contextlib.closing(feed):
        experiment = build(config, feed.facts)
        if guide is not None:
            guiding.check(experiment, guide, feed.facts.image_shape)
        if pretrained is not None:
            warm_start.check(experiment, pretrained)
        config = _resolve(config, feed)
        workdir_lib.claim(workdir, config, feed.facts)
        if guide is not None:
            guiding.keep(workdir, guide)
        return _Run(config, workdir, feed, experiment, pretrained, guide).train()


def _resolve(config: ConfigDict, feed: Feed) -> ConfigDict:
    """Settles what depends on the hardware, so that a run that moves to another is not resumed."""
    config = config.copy_and_resolve_references()
    config.compute_dtype = compute_dtype(config).name
    steps_per_epoch = feed.facts.train_images // config.batch_size
    if feed.max_steps:
        config.steps_per_dispatch = feed.max_steps
    elif not config.steps_per_dispatch and jax.default_backend() == "cpu":
        config.steps_per_dispatch = 1
    elif not config.steps_per_dispatch:
        # The longest that divides an epoch, so that one program will do.
        longest = min(_STEPS_PER_DISPATCH, steps_per_epoch)
        divisors = [n for n in range(1, longest + 1) if steps_per_epoch % n == 0]
        config.steps_per_dispatch = divisors[-1] if divisors[-1] >= longest // 4 else longest
    return config


class _Run:
    """One start of a run: the objects that live as long as the process."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        feed: Feed,
        experiment: Experiment,
        pretrained: Pretrained | None,
        guide: Pretrained | None,
    ):
        self.config, self.workdir = config, workdir
        self.feed, self.experiment = feed, experiment
        self.pretrained = pretrained
        self.steps_per_epoch = feed.facts.train_images // config.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.best = -math.inf
        self.began = False  # this start has taken a step
        self.said_unreadable: collections.Counter[str] = collections.Counter()
        self.programs: dict[int, jax.stages.Compiled] = {}

        self.guide = jax.device_put(
            guiding.variables(guide) if guide else None, replicated(experiment.mesh)
        )
        self.evaluate = make_evaluate(experiment.model, experiment.normalize)
        self.teacher_stats = make_teacher_stats(config, experiment)

    def train(self) -> dict[str, Any]:
        """The run from where it stands to its end."""
        config, experiment = self.config, self.experiment
        checkpoints = Checkpoints(self.workdir / "checkpoints", config.run.keep_checkpoints)
        with contextlib.closing(checkpoints):
            state, metrics = self.start(checkpoints)
            step = int(state.step)
            logger = Logger(
                self.workdir,
                tensorboard=config.run.tensorboard,
                total_steps=self.total_steps,
                step=step,
            )
            with contextlib.closing(logger):
                self.introduce(logger, state, step)
                while step < self.total_steps:
                    count = self.next_dispatch(step)
                    with self.clock("compile"):
                        run_steps = self.compiled(count)
                    # The first batch waits for workers to start, which says nothing of their rate.
                    with self.clock("input" if self.began else "start"):
                        inputs = self.feed.dispatch(step, count)
                    with self.clock("train"):
                        state, metrics = run_steps(state, metrics, *inputs, self.guide)
                        jax.block_until_ready(metrics)
                    self.began = True
                    step += count
                    self.show_progress(logger, metrics, step)
                    due, best = self.checkpoint_due(step, count), False
                    epoch_ends = step % self.steps_per_epoch == 0
                    if due or epoch_ends:
                        self.check_numbers(state, metrics, step)
                    if epoch_ends:
                        best = self.end_epoch(logger, state, metrics, step)
                        metrics = experiment.create_metrics()
                    if due or best:
                        with self.clock("checkpoint"):
                            info = {"seconds": dict(self.seconds), "best": self.best}
                            tree = {"state": state, "metrics": metrics}
                            checkpoints.save(step, tree, info, best=best)
                with self.clock("checkpoint"):
                    checkpoints.wait()
                return self.summarize(logger, state)

    # -- where a run starts ----------------------------------------------------------------------

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, Collection]:
        """Returns the last checkpoint's state and metrics, or those of a new run."""
        everywhere = replicated(self.experiment.mesh)
        rng = named_key(self.config.seed, "state")
        state = jax.eval_shape(self.experiment.create, rng)
        metrics = jax.eval_shape(self.experiment.create_metrics)
        tree = template({"state": state, "metrics": metrics}, everywhere)
        found = checkpoints.restore(tree)
        if found is not None:
            restored, info = found
            self.seconds.update(info["seconds"])
            self.best = info["best"]
            return restored["state"], restored["metrics"]
        with self.clock("compile"):
            state = self.experiment.create(rng)
            if self.pretrained is not None:
                classes, mesh = self.feed.facts.num_classes, self.experiment.mesh
                state = warm_start.start_from(state, self.pretrained, classes, mesh)
            jax.block_until_ready(state)
        return state, self.experiment.create_metrics()

    def introduce(self, logger: Logger, state: TrainState, step: int) -> None:
        """Says what is about to be trained, on what."""
        config, data = self.config, self.feed.facts
        counts = {
            name: parameter_overview.count_parameters(params)
            for name, params in state.params.items()
        }
        logger.say(
            f"{config.method.name} on {data.name}: {data.train_images:,} training and"
            f" {data.test_images:,} test images of {data.num_classes} classes,"
            f" {config.epochs} epochs of {self.steps_per_epoch} steps"
        )
        logger.say(
            f"{config.model.name}: "
            + ", ".join(f"{name} {count:,} parameters" for name, count in counts.items())
            + f"; {compute_dtype(config).name} on {jax.device_count()} x"
            f" {jax.devices()[0].device_kind}"
        )
        devices = self.experiment.mesh.size
        if config.num_groups % devices:
            logger.say(
                f"{config.num_groups} group(s) do not divide among {devices} devices: the numbers"
                " stay the same, but images cross between devices in every step."
            )
        if self.pretrained is not None:
            taken = self.pretrained.num_classes == data.num_classes
            logger.say(
                f"starting from {config.init_from}, {'with' if taken else 'without'} its classifier"
                f" of {self.pretrained.num_classes} classes"
            )
        if step:
            logger.say(f"resuming at step {step} of {self.total_steps}")

    # -- steps -----------------------------------------------------------------------------------

    def next_dispatch(self, step: int) -> int:
        """How many steps to take next: to the end of a dispatch, or of the epoch."""
        done = step % self.steps_per_epoch
        left = self.config.steps_per_dispatch - done % self.config.steps_per_dispatch
        return min(left, self.steps_per_epoch - done)

    def compiled(self, count: int) -> jax.stages.Compiled:
        """The program that takes this many steps."""
        if count not in self.programs:
            self.programs[count] = self.compile(count)
        return self.programs[count]

    def compile(self, count: int) -> jax.stages.Compiled:
        """Compiles the program that takes this many steps."""
        everywhere = replicated(self.experiment.mesh)
        state = jax.eval_shape(self.experiment.create, named_key(0, "state"))
        return self.experiment.run_steps.lower(
            template(state, everywhere),
            template(jax.eval_shape(self.experiment.create_metrics), everywhere),
            *self.feed.template(count),
            self.guide,
        ).compile()

    def checkpoint_due(self, step: int, count: int) -> bool:
        """Whether a multiple of the checkpoint interval lies among the last `count` steps."""
        interval = self.config.run.checkpoint_steps or self.steps_per_epoch
        return step // interval > (step - count) // interval or step == self.total_steps

    def show_progress(self, logger: Logger, metrics: Collection, step: int) -> None:
        """Moves the progress bar, on a terminal."""
        if logger.console.is_terminal:
            loss = float(metrics.compute()["loss"])
            epoch = -(-step // self.steps_per_epoch)
            logger.progress(step, f"epoch {epoch}/{self.config.epochs} loss {loss:.3f}")

    def check_numbers(self, state: TrainState, metrics: Collection, step: int) -> None:
        """Refuses to evaluate or save a state that is no longer finite.

        Raises:
            NumbersError: if a loss since the last record, or a parameter, is not finite.
        """
        losses = metrics_lib.compute(metrics).values()
        if not all(map(math.isfinite, losses)) or not bool(_all_finite(state.params)):
            raise NumbersError(
                f"a loss or parameter is no longer finite at step {step}: train again with a lower"
                " config.optimizer.lr in a new --workdir; checkpoints before the step are kept."
            )

    # -- the end of an epoch, and of the run -----------------------------------------------------

    def end_epoch(self, logger: Logger, state: TrainState, metrics: Collection, step: int) -> bool:
        """Evaluates, draws and logs; returns whether the headline accuracy is the best so far."""
        config = self.config
        epoch = step // self.steps_per_epoch
        record: dict[str, Any] = {"step": step, "epoch": epoch}
        record |= {f"train/{k}": v for k, v in metrics_lib.compute(metrics).items()}
        record |= {f"lr/{k}": float(schedule(step - 1)) for k, schedule in
                   self.experiment.lr.items()}  # fmt: skip
        last = epoch == config.epochs
        best = False
        if epoch % config.eval.every_epochs == 0 or last:
            with self.clock("evaluate"):
                record |= {f"eval/{k}": v for k, v in self.evaluate_networks(state).items()}
            headline = record[f"eval/accuracy_{config.eval.headline}"]
            best = headline > self.best
            self.best = max(self.best, headline)
        every = config.run.sample_epochs
        if every and (epoch % every == 0 or last):
            with self.clock("pictures"):
                path = self.draw_samples(state, epoch)
            logger.picture("samples", path, step)
        record["time/seconds"] = sum(self.seconds.values())
        record["time/images_per_second"] = self.rate(step)
        logger.write(record)
        logger.say(self.epoch_line(record))
        self.say_unreadable(logger)
        return best

    def say_unreadable(self, logger: Logger) -> None:
        """Says how many images could not be read, where there are new ones."""
        if (found := self.feed.unreadable) != self.said_unreadable:
            self.said_unreadable = found
            logger.say(
                f"{found['train']} training and {found['test']} test images cannot be read:"
                f" {self.workdir / 'bad_records.jsonl'} lists them"
            )

    def epoch_line(self, record: dict[str, Any]) -> str:
        """An epoch in one line."""
        accuracy = " ".join(
            f"{name} {record[f'eval/accuracy_{name}']:.2f}"
            for name in config_lib.evaluated(self.config)
            if f"eval/accuracy_{name}" in record
        )
        return (
            f"epoch {record['epoch']:3d}/{self.config.epochs}  loss {record['train/loss']:.4f}"
            f"  {accuracy}  {record['time/images_per_second']:.0f} images/s"
        )

    def evaluate_networks(self, state: TrainState) -> dict[str, float]:
        """The metrics of every head of both networks on the test images."""
        networks = {"student": (state.params["student"], state.student_stats)}
        if state.teacher:
            networks["teacher"] = (state.teacher, self.teacher_stats(state, self.feed))
        return self.evaluate(networks, self.feed.test_batches())

    @functools.cached_property
    def mixer(self) -> samples.Mixer:
        """Draws mixed images."""
        objective, normalize = self.experiment.objective, self.experiment.normalize
        if isinstance(objective, AutoMix):
            return samples.automix_mixer(objective, normalize)
        assert isinstance(objective, MixupTraining | AugMixTraining)  # there are no others
        denormalize = self.experiment.denormalize
        return samples.mixup_mixer(objective, normalize, denormalize, self.guide)

    def draw_samples(self, state: TrainState, epoch: int) -> Path:
        """Draws the same test images at every call."""
        facts = self.feed.facts
        chosen = batch_indices(0, 0, min(64, facts.test_images), facts.test_images)
        images, labels = self.feed.test_examples(chosen)
        names = [facts.class_names[label] for label in labels]
        path = self.workdir / "samples" / f"epoch_{epoch:03d}.png"
        path.parent.mkdir(exist_ok=True)
        x, y = jax.device_put((images, labels), replicated(self.experiment.mesh))
        samples.save_panel(path, images, names, lambda lam: self.mixer(state, x, y, lam))
        return path

    def summarize(self, logger: Logger, state: TrainState) -> dict[str, Any]:
        """Writes summary.json and prints the table."""
        summary = {
            "headline": self.config.eval.headline,
            "accuracy": workdir_lib.accuracies(logger.records, config_lib.evaluated(self.config)),
            "epochs": self.config.epochs,
            "steps": int(state.step),
            "images_per_second": self.rate(self.total_steps),
            "unreadable_images": dict(self.feed.unreadable),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "parameters": {
                name: int(parameter_overview.count_parameters(params))
                for name, params in state.params.items()
            },
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "compute_dtype": compute_dtype(self.config).name,
            "jax": jax.__version__,
        }
        path = self.workdir / "summary.json"
        workdir_lib.write_atomically(path, json.dumps(summary, indent=2) + "\n")
        logger.console.print(workdir_lib.table(summary))
        logger.say(
            f"{summary['images_per_second']:.0f} images/s; seconds: "
            + ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        )
        logger.say(f"summary: {path}")
        if (self.workdir / "samples").is_dir():
            logger.say(f"pictures of mixed images: {self.workdir / 'samples'}")
        return summary

    def rate(self, steps: int) -> float:
        """Images per second of training, with what it waits for them."""
        return steps * self.config.batch_size / (self.seconds["train"] + self.seconds["input"])

    @contextlib.contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Adds the time inside to a part of the run."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


@jax.jit
def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number of a tree is finite."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))

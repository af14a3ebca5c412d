"""What a run says of itself: before the first step, after an epoch, and at its end."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from ml_collections import ConfigDict
from rich.console import Console

import automix_jax
from automix_jax import config as config_lib
from automix_jax.errors import CheckpointError
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import compute_dtype
from automix_jax.train.clock import Clock
from automix_jax.train.feed import Feed
from automix_jax.train.logging import Logger
from automix_jax.train.state import TrainState
from automix_jax.weights import Pretrained

_UNIFORM = 0.02  # standard deviation over the pixels of a mask, below which it is of one gray
_ONE_IMAGE = 0.25  # mean deviation of masks from their ratios, from which they show one image
_WAITING = 0.2  # share of training spent on waiting for images, from which it is worth a line


class Narrator:
    """Says in words and in summary.json how a run goes."""

    def __init__(self, config: ConfigDict, workdir: Path, feed: Feed, clock: Clock, logger: Logger):
        """Says nothing yet."""
        self.config, self.workdir, self.feed = config, workdir, feed
        self.clock, self.logger = clock, logger
        self._said: dict[str, str] = {}

    def introduce(
        self,
        state: TrainState,
        step: int,
        total_steps: int,
        pretrained: Pretrained | None,
        changes: Mapping[str, tuple[Any, Any]],
    ) -> None:
        """Says what is about to be trained, on what, from where on."""
        config, data, say = self.config, self.feed.facts, self.logger.say
        devices, processes = jax.device_count(), jax.process_count()
        say(
            f"{config.method.name} on {data.name}: {data.train_images:,} training and"
            f" {data.test_images:,} test images of {data.num_classes} classes,"
            f" {config.epochs} epochs of {total_steps // config.epochs} steps"
        )
        counts = (f"{name} {count:,} parameters" for name, count in _parameters(state).items())
        say(
            f"{config.model.name}: {', '.join(counts)}; {compute_dtype(config).name} on {devices} x"
            f" {jax.devices()[0].device_kind}"
            + (f" of {processes} processes" if processes > 1 else "")
        )
        if config.num_groups % devices:
            say(
                f"{config.num_groups} group(s) do not divide among {devices} devices: the numbers"
                " stay the same, but images cross between devices in every step."
            )
        if pretrained is not None:
            taken = pretrained.num_classes == data.num_classes
            say(
                f"starting from {config.init_from}, {'with' if taken else 'without'} its classifier"
                f" of {pretrained.num_classes} classes"
            )
        for name, (before, now) in changes.items():
            say(f"config.{name} was {before!r} and is {now!r} from here on")
        if step:
            say(f"resuming at step {step} of {total_steps}")

    def tell(self, record: Mapping[str, Any]) -> None:
        """Says how an epoch went."""
        say = self.logger.say
        accuracy = " ".join(
            f"{name} {record[f'eval/accuracy_{name}']:.2f}"
            for name in config_lib.evaluated(self.config)
            if f"eval/accuracy_{name}" in record
        )
        say(
            f"epoch {record['epoch']:3d}/{self.config.epochs}"
            f"  loss {record.get('train/loss', math.nan):.4f}"
            f"  {accuracy}  {record['time/images_per_second']:.0f} images/s"
        )
        if found := self.feed.unreadable:
            self._say_once(
                "unreadable",
                f"{found['train']} training and {found['test']} test images cannot be read:"
                f" {self.workdir / 'bad_records.jsonl'} lists them",
            )
        if (line := _bottleneck(record, self.config)) is not None:
            self._say_once("bottleneck", line)
        if (line := collapsed(record)) is not None:
            self._say_once("masks", line)
        if dropped := record.get("train/mask_dropped", 0.0):
            say(f"the mask loss was not finite in {100 * dropped:.2g} % of the steps, and left out")

    def _say_once(self, about: str, line: str) -> None:
        """Says something, unless it was the last that was said about it."""
        if self._said.get(about) != line:
            self.logger.say(line)
            self._said[about] = line

    def rate(self, steps: int, seconds: Mapping[str, float]) -> float:
        """Images per second of so many steps, from the seconds by part that they took.

        What training waits for images counts.
        """
        return steps * self.config.batch_size / (seconds["train"] + seconds.get("input", 0.0))

    def summarize(self, state: TrainState, rollbacks: list[dict[str, int]]) -> dict[str, Any]:
        """All that is worth knowing of a run that has ended."""
        names = config_lib.evaluated(self.config)
        return {
            "headline": self.config.eval.headline,
            "accuracy": workdir_lib.accuracies(self.logger.records, names),
            "epochs": self.config.epochs,
            "steps": int(state.step),
            "skipped_steps": int(state.skipped.count),
            "rollbacks": rollbacks,
            "images_per_second": self.rate(int(state.step), self.clock.seconds),
            "unreadable_images": dict(self.feed.unreadable),
            "seconds": {name: round(value, 3) for name, value in self.clock.seconds.items()},
            "parameters": _parameters(state),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "compute_dtype": compute_dtype(self.config).name,
            "jax": jax.__version__,
            "automix_jax": automix_jax.__version__,
        }


def read(workdir: Path, steps: int) -> dict[str, Any] | None:
    """The summary of a run that has ended after so many steps, or None."""
    try:
        summary = json.loads(_path(workdir).read_text())
        return summary if summary["steps"] == steps else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(workdir: Path, summary: dict[str, Any]) -> None:
    """Writes summary.json.

    Raises:
        CheckpointError: if it cannot be written.
    """
    try:
        workdir_lib.write_json(_path(workdir), summary)
    except OSError as error:
        raise CheckpointError(
            f"{_path(workdir)} cannot be written ({error.strerror}): make room, and the same"
            " command writes it."
        ) from error


def show(workdir: Path, summary: dict[str, Any], console: Console) -> None:
    """Shows a summary."""
    console.print(workdir_lib.table(summary))
    console.print(
        f"{summary['images_per_second']:.0f} images/s; seconds: "
        + ", ".join(f"{name} {value:.1f}" for name, value in summary["seconds"].items())
    )
    console.print(f"summary: {_path(workdir)}")
    if (workdir / "samples").is_dir():
        console.print(f"pictures of mixed images: {workdir / 'samples'}")


def _path(workdir: Path) -> Path:
    return workdir / "summary.json"


def _parameters(state: TrainState) -> dict[str, int]:
    """How many parameters each optimizer group has."""
    count = parameter_overview.count_parameters
    return {name: int(count(params)) for name, params in state.params.items()}


def collapsed(record: Mapping[str, Any]) -> str | None:
    """A line where each mask shows one of its images alone.

    Whole masks of 0 or 1 miss the ratio by one half on average if they do not heed it, for any
    alpha; by 0.31 at alpha 2 if they show the image that weighs more.
    """
    uniform = record.get("train/mask_std", 1.0) < _UNIFORM
    if not uniform or record["train/mask_deviation"] < _ONE_IMAGE:
        return None
    return (
        "MixBlock has collapsed: its masks show one image and nothing of the other. Its steps are"
        " too long: begin again with a tenth of its learning rate (config.optimizer.mixblock_lr),"
        " or with 0, which follows the channels that it reads."
    )


def _bottleneck(record: Mapping[str, Any], config: ConfigDict) -> str | None:
    """A line where the devices waited for images, by the times of an epoch."""
    waited, trained = record.get("time/input", 0.0), record.get("time/train", 0.0)
    if waited <= _WAITING * (waited + trained):
        return None
    remedy = (
        "use more cores, a higher config.run.workers, or images stored at a shorter side of 256"
        if config.data.loading == "stream"
        else "raise config.steps_per_dispatch"
    )
    share = 100 * waited / (waited + trained)
    return (
        f"input is the bottleneck: training waited for images {share:.0f} % of the time; {remedy}"
    )

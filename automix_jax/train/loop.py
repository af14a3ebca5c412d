"""From a configuration to a run: what is settled and opened before the first step."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from automix_jax.train import cluster, guiding, memory, warm_start
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import build, compute_dtype, make_mesh
from automix_jax.train.feed import Feed, open_feed
from automix_jax.train.lock import locked
from automix_jax.train.logging import make_console
from automix_jax.train.run import Options, Run
from automix_jax.validation import validate
from automix_jax.weights import Pretrained

_STEPS_PER_DISPATCH = 100  # on accelerators, where starting a program costs as much as a small step


def train(
    config: ConfigDict, workdir: str | Path, options: Options | None = None
) -> dict[str, Any]:
    """Trains, or goes on with, the run of a folder; returns its summary.

    Where several processes share the work, each of them calls it.

    Args:
        config: see `automix_jax.config.default_config`.
        workdir: the run's folder. An earlier start's last checkpoint there is resumed, and the
            run then ends with the same bits as without the interruption.
        options: of this start.

    Raises:
        AutoMixError: for a configuration, data or folder that cannot be used, before the first
            step; MemoryLimitError where it does not fit into memory; NumbersError when losses stay
            not finite; Stopped when asked to stop.
    """
    options = options or Options()
    validate(config, jax.device_count())
    workdir = Path(workdir).expanduser()
    asked, advice = config.accumulation, memory.advice(config, jax.device_count())
    config = workdir_lib.take_open(config, workdir)
    config, pretrained = warm_start.settle(config, workdir)
    config, guide = guiding.settle(config, workdir)
    feed = cluster.together(lambda: open_feed(config, make_mesh(), workdir))
    with contextlib.closing(feed):
        config = _resolve(config, feed)

        def attempt(parts: int) -> dict[str, Any]:
            config.accumulation = parts
            experiment = build(config, feed.facts)
            if guide is not None:
                guiding.check(experiment, guide, feed.facts.image_shape)
            if pretrained is not None:
                warm_start.check(experiment, pretrained)
            with _claimed(workdir, config, feed, guide, options) as changes:
                run = Run(config, workdir, feed, experiment, pretrained, guide, options)
                try:
                    return run.train(changes)
                except jax.errors.JaxRuntimeError:
                    # Later than at the first step, or on one process of several, which the others
                    # do not know of.
                    with memory.refused(advice):
                        if run.began or jax.process_count() > 1:
                            raise
                    raise

        choices = memory.parts(config.num_groups, jax.device_count())
        begun = config.accumulation if config.accumulation in choices else choices[0]
        choices = (asked,) if asked else choices[choices.index(begun) :]
        say = make_console(silent=not cluster.is_main()).print
        return memory.with_parts(choices, attempt, say, advice)


def _resolve(config: ConfigDict, feed: Feed) -> ConfigDict:
    """Settles what depends on the hardware, so that a run keeps it where it is resumed."""
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


@contextlib.contextmanager
def _claimed(
    workdir: Path, config: ConfigDict, feed: Feed, guide: Pretrained | None, options: Options
) -> Iterator[dict[str, tuple[Any, Any]]]:
    """Holds a run's folder for one start; yields what `workdir.claim` returns."""
    with contextlib.ExitStack() as stack:

        def claim() -> dict[str, tuple[Any, Any]]:
            if not cluster.is_main():
                return {}
            stack.enter_context(locked(workdir))
            changes = workdir_lib.claim(workdir, config, feed.facts, override=options.override)
            if guide is not None:
                guiding.keep(workdir, guide)
            return changes

        yield cluster.together(claim)

"""What a run does about steps that were skipped because their numbers were not finite."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from clu.metrics import Collection
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from automix_jax.errors import NumbersError
from automix_jax.train import cluster, numbers
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import Experiment
from automix_jax.train.checkpoint import Checkpoints
from automix_jax.train.diagnosis import diagnose
from automix_jax.train.feed import Feed
from automix_jax.train.sharding import put_replicated
from automix_jax.train.state import TrainState

Training = tuple[TrainState, Collection]  # what a step changes


class Recovery:
    """Takes a run back to before its trouble, once.

    A single skipped step is harmless: nothing of the state has changed. Many of them say that
    earlier steps have led to where no step can be taken. The run then takes the parameters of the
    last checkpoint before, and goes on with the data after the trouble.

    Attributes:
        rollbacks: of this start and those before: the steps "from" which and "to" which.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        template: PyTree,
        begin: Callable[[], Training],
        mesh: Mesh,
        steps_per_epoch: int,
        say: Callable[[str], None],
    ):
        """Knows of no trouble yet.

        Args:
            checkpoints: of the run.
            template: of what they hold.
            begin: makes the state and metrics of a run that has not begun.
            mesh: of the devices.
            steps_per_epoch: of the run.
            say: prints a line.
        """
        self.rollbacks: list[dict[str, int]] = []
        self._checkpoints, self._template, self._begin = checkpoints, template, begin
        self._mesh, self._steps_per_epoch, self._say = mesh, steps_per_epoch, say
        self._seen = 0  # skipped steps that were said

    def resume(self, state: TrainState, rollbacks: list[dict[str, int]]) -> None:
        """Goes on from what earlier starts have seen."""
        self._seen, self.rollbacks = int(state.skipped.count), rollbacks

    def trouble(self, state: TrainState) -> str | None:
        """Says which steps were skipped; returns in words why the run must go back, or None."""
        count = int(state.skipped.count)
        new, self._seen = count - self._seen, count
        if new <= 0:
            return None
        recent = np.asarray(state.skipped.recent)
        steps = ", ".join(map(str, recent[-min(new, len(recent)) :]))
        self._say(
            f"{new} step(s) skipped, not finite in loss, gradients or what they lead to: {steps}"
        )
        return numbers.trouble(recent, count)

    def go_back(self, state: TrainState, metrics: Collection) -> tuple[TrainState, Collection, int]:
        """Returns what to go on with, and the step."""
        recent = np.asarray(state.skipped.recent)
        first, last = numbers.first_of_trouble(recent), int(recent[-1])
        self._checkpoints.wait()
        found = self._checkpoints.restore(self._template, before=first)
        if found is None:
            good, (restored, metrics) = 0, self._begin()
        else:
            good, tree, _ = found
            restored, metrics = tree["state"], tree["metrics"]
        step = last + 1
        if good // self._steps_per_epoch != last // self._steps_per_epoch:
            metrics = self._begin()[1]  # of another epoch than the run goes on in
        self._say(
            f"back to the parameters of step {good}; the data of steps {good} to {last} are passed"
            " by"
        )
        self.rollbacks.append({"from": step, "to": good})
        restored = dataclasses.replace(
            restored,
            step=put_replicated(np.int32(step), self._mesh),
            skipped=dataclasses.replace(restored.skipped, count=state.skipped.count),
        )
        return restored, metrics, step


def diagnose_skipped(
    config: ConfigDict, experiment: Experiment, feed: Feed, state: TrainState, guide: PyTree
) -> dict[str, Any]:
    """What the last skipped steps look like: their batches, ratios, losses and gradients.

    They are computed again, with the parameters as they are: exactly those of the time where no
    step was taken since.
    """
    steps = []
    for step in np.asarray(state.skipped.recent)[-numbers.STREAK :].tolist():
        found = diagnose(
            dataclasses.replace(state, step=put_replicated(np.int32(step), experiment.mesh)),
            *feed.batch(step),
            guide,
            objective=experiment.objective,
            preprocess=experiment.preprocess,
            num_groups=config.num_groups,
            mesh=experiment.mesh,
            accumulation=config.accumulation,
        )
        steps.append(found | {"indices": feed.order(step).tolist()})
    return {"steps": steps}


def give_up(
    problem: str, workdir: Path, dump: dict[str, Any], rollbacks: list[dict[str, int]]
) -> NoReturn:
    """Ends a run that is in trouble for the second time.

    Args:
        problem: in words.
        workdir: of the run, which gets the dump as numbers.json.
        dump: what the steps looked like.
        rollbacks: the first, after which it came back.

    Raises:
        NumbersError: always.
    """
    path = workdir / "numbers.json"
    if cluster.is_main():
        workdir_lib.write_json(path, dump)
    raise NumbersError(
        f"{problem}, though the run went back to step {rollbacks[0]['to']} before: train again with"
        f" a lower config.optimizer.lr in a new --workdir; {path} has the batches, ratios and"
        " gradients, and all checkpoints are kept."
    )

"""What a run does about steps that were skipped because their numbers were not finite."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from automix_jax.errors import NumbersError
from automix_jax.train import cluster, numbers
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import Experiment
from automix_jax.train.checkpoints import Checkpoints
from automix_jax.train.diagnosis import diagnose
from automix_jax.train.feed import Feed
from automix_jax.train.sharding import put_replicated
from automix_jax.train.state import TrainState


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
        experiment: Experiment,
        new_state: Callable[[], TrainState],
        scheduled: Callable[[int], bool],
        say: Callable[[str], None],
    ):
        """Knows of no trouble yet.

        Args:
            checkpoints: of the run.
            experiment: of the run.
            new_state: makes the state of a run that has not begun.
            scheduled: whether a step is one after which every start saves. To others, as where a
                run was stopped, it does not go back: it would not, had it not been stopped.
            say: prints a line.
        """
        self.rollbacks: list[dict[str, int]] = []
        self._checkpoints, self._experiment = checkpoints, experiment
        self._new_state, self._scheduled, self._say = new_state, scheduled, say
        self._seen = 0  # skipped steps that were said

    def resume(self, state: TrainState, rollbacks: list[dict[str, int]]) -> None:
        """Goes on from what earlier starts have seen."""
        self._seen, self.rollbacks = int(state.skipped.count), rollbacks

    def say_skipped(self, state: TrainState) -> str | None:
        """Says which steps were skipped since; returns why the run must go back, or None."""
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

    def go_back(self, state: TrainState) -> tuple[TrainState, int]:
        """Returns the state to go on with, and its step."""
        recent = np.asarray(state.skipped.recent)
        first, last = numbers.first_of_trouble(recent), int(recent[-1])
        template = self._experiment.saved_template()
        self._checkpoints.wait()
        # Where all that is left is younger than the trouble the oldest is as far as it goes: its
        # numbers are finite, too.
        found = self._checkpoints.restore(
            template, among=lambda step: step <= first and self._scheduled(step)
        ) or self._checkpoints.restore(template, among=lambda step: step <= last, oldest=True)
        good, restored = (0, self._new_state()) if found is None else (found[0], found[1]["state"])
        step = last + 1
        self._say(
            f"back to the parameters of step {good}; the data of steps {good} to {last} are passed"
            " by"
        )
        self.rollbacks.append({"from": step, "to": good})
        restored = dataclasses.replace(
            restored,
            step=put_replicated(np.int32(step), self._experiment.mesh),
            skipped=dataclasses.replace(restored.skipped, count=state.skipped.count),
        )
        return restored, step


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
    cluster.together(lambda: workdir_lib.write_json(path, dump) if cluster.is_main() else None)
    raise NumbersError(
        f"{problem}, though the run went back to step {rollbacks[0]['to']} before: train again with"
        f" a lower config.optimizer.lr in a new --workdir; {path} has the batches, ratios and"
        " gradients, and all checkpoints are kept."
    )

"""At which steps what happens in a run, as far as that is known beforehand."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Attributes:
        epochs: of the run.
        steps_per_epoch: the rest of an epoch's images is left out.
        steps_per_dispatch: that one program takes; it begins anew with each epoch.
        checkpoint_steps: between two checkpoints.
    """

    epochs: int
    steps_per_epoch: int
    steps_per_dispatch: int
    checkpoint_steps: int

    @property
    def total(self) -> int:
        """The last step."""
        return self.epochs * self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch is at its end after so many steps."""
        return step > 0 and step % self.steps_per_epoch == 0

    def dispatch(self, step: int) -> int:
        """How many steps to take next: to the end of a dispatch, or of the epoch."""
        done = step % self.steps_per_epoch
        left = self.steps_per_dispatch - done % self.steps_per_dispatch
        return min(left, self.steps_per_epoch - done)

    def saves(self, before: int, step: int) -> bool:
        """Whether a multiple of the interval lies beyond `before` and up to `step`, or the end."""
        interval = self.checkpoint_steps
        return step // interval > before // interval or step == self.total

    def scheduled(self, step: int) -> bool:
        """Whether every start that comes by a step saves there: see `Recovery`."""
        done = (step - 1) % self.steps_per_epoch + 1
        before = step - (done % self.steps_per_dispatch or self.steps_per_dispatch)
        on_grid = done % self.steps_per_dispatch == 0 or self.ends_epoch(step)
        return on_grid and self.saves(max(before, step - done), step)

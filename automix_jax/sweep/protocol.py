"""What is reported of a run, of the runs of several seeds, and of two rows with the same seeds.

The paper's protocol (section 4.1): a trial's accuracy is the median of the test accuracies of its
last 10 epochs, and what a table shows is the mean of the trials. Nothing is rounded here.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_WINDOW = 10  # epochs, of the paper
_CONFIDENCE = 0.95  # of intervals, two-sided


def window(epochs: int) -> int:
    """How many of the last epochs the median is of.

    The paper takes 10 and trains for at least 100 epochs (for 100 the authors' pages take 5; here
    the paper decides). A shorter run takes its last tenth, at least one epoch: a median over
    epochs in which a network still learns would say how fast it learns.

    Args:
        epochs: of the whole run, at least 1.
    """
    return min(_WINDOW, max(1, epochs // 10))


@dataclasses.dataclass(frozen=True)
class Trial:
    """The accuracy of one head of one finished run, in percent.

    Attributes:
        seed: of the run.
        curve: test accuracy after each epoch, None where there is no finite one.
        median: over the last `window` epochs; None where the trial is incomplete.
        best: of all epochs; None where the trial is incomplete.
        last: of the last epoch; None where the trial is incomplete.
        reason: why the trial is incomplete; empty where it is not.
    """

    seed: int
    curve: tuple[float | None, ...]
    median: float | None = None
    best: float | None = None
    last: float | None = None
    reason: str = ""

    @property
    def status(self) -> str:
        """Either "done" or "incomplete"."""
        return "incomplete" if self.reason else "done"


def trial(record: Mapping[str, Any], head: str) -> Trial:
    """Reads a trial from a line of results.jsonl.

    An epoch of the window without a finite accuracy makes the trial incomplete: the window is never
    shortened.

    Args:
        record: with the fields seed, epochs and accuracy, by head a list by epoch.
        head: such as "student_mix".
    """
    seed, epochs = record["seed"], record["epochs"]
    if head not in record["accuracy"]:
        known = ", ".join(record["accuracy"])
        return Trial(seed, (), reason=f"the run has no accuracy of {head}, only of {known}")
    curve = tuple(map(_finite, record["accuracy"][head]))
    if len(curve) != epochs:
        return Trial(seed, curve, reason=f"it has {len(curve)} of {epochs} epochs")
    size = window(epochs)
    missing = [epoch for epoch in range(epochs - size + 1, epochs + 1) if curve[epoch - 1] is None]
    if missing:
        reason = f"no finite accuracy after {_epochs(missing)}, of the last {size} of {epochs}"
        return Trial(seed, curve, reason=reason)
    values = [value for value in curve if value is not None]
    return Trial(seed, curve, statistics.median(values[-size:]), max(values), values[-1])


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean and spread of a row's values, or of the differences between two rows.

    Attributes:
        mean: None of no values.
        std: of the sample, with n - 1; None of fewer than two values.
        n: how many values there are.
        expected: how many there will be.
    """

    mean: float | None
    std: float | None
    n: int
    expected: int

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None of fewer than two values."""
        return None if self.std is None else self.std / math.sqrt(self.n)

    @property
    def interval(self) -> float | None:
        """Half the width of the mean's confidence interval; None of fewer than two values.

        By Student's t, which allows for so few values: 12.7 standard errors of two seeds, 4.3 of
        three. Two standard errors would be exceeded by chance in 30 and in 18 of 100.
        """
        from scipy.special import stdtrit  # the quantile of Student's t

        if self.standard_error is None:
            return None
        return float(stdtrit(self.n - 1, (1 + _CONFIDENCE) / 2)) * self.standard_error

    @property
    def complete(self) -> bool:
        """Whether all values are there."""
        return self.n == self.expected


def summarize(values: Sequence[float], expected: int) -> Summary:
    """Summarises the values that there are of those expected."""
    mean = statistics.fmean(values) if values else None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Summary(mean, std, len(values), expected)


def medians(trials: Sequence[Trial]) -> dict[int, float]:
    """The medians of the trials that are done, by seed."""
    return {trial.seed: trial.median for trial in trials if trial.median is not None}


def paired(first: Sequence[Trial], second: Sequence[Trial], expected: int) -> Summary:
    """Summarises first minus second, seed by seed, over the seeds that both have done."""
    a, b = medians(first), medians(second)
    return summarize([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())], expected)


def exceeds(difference: float, ours: Summary) -> bool:
    """Whether a difference is more than chance: than the interval of the mean that it is of.

    Never where there is no interval, of one seed.
    """
    return ours.interval is not None and abs(difference) > ours.interval


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _epochs(numbers: Sequence[int]) -> str:
    """Such as "epoch 7" and "epochs 7, 9"."""
    return f"epoch{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"

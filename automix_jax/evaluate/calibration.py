"""How far a network's confidence is from its accuracy, in float64.

The definitions are those of Guo et al. (2017), "On Calibration of Modern Neural Networks". All
measures but the negative log likelihood and the Brier score are shares from 0 to 1.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from automix_jax.errors import DataError

BINS = (15, 10)  # Guo et al. take 15, the authors of AutoMix 10
TEMPERATURES = (0.05, 20.0)  # between which one is sought


@dataclasses.dataclass(frozen=True)
class Bins:
    """Predictions by their confidence, in intervals of one width that include their upper end.

    Attributes:
        lower, upper: [M], the ends of each; the first includes 0 as well.
        count: [M], predictions in each.
        accuracy: [M], share of them that are right; NaN where there is none.
        confidence: [M], their mean confidence; NaN where there is none.
    """

    lower: Float[np.ndarray, " m"]
    upper: Float[np.ndarray, " m"]
    count: Int[np.ndarray, " m"]
    accuracy: Float[np.ndarray, " m"]
    confidence: Float[np.ndarray, " m"]


# -- predictions -------------------------------------------------------------------------------


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities [N, K] in float64; the greatest logit is subtracted first."""
    exponentials = np.exp(_shifted(logits))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def negative_log_likelihood(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> float:
    """The mean cross entropy in nats; of logits, as the logarithm of a probability may be of 0."""
    shifted = _shifted(logits)
    own = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - own).mean())


def brier_score(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean squared distance from the labels' one-hot vectors, from 0 to 2.

    It is the sum over classes, which some divide by K.
    """
    distances = probabilities.astype(np.float64)
    distances[np.arange(len(labels)), labels] -= 1
    return float(np.square(distances).sum(axis=1).mean())


def _shifted(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - logits.max(axis=1, keepdims=True)


# -- bins --------------------------------------------------------------------------------------


def bin_predictions(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int
) -> Bins:
    """Sorts predictions into bins of one width over [0, 1].

    Args:
        confidence: [N] from 0 to 1; 0 is in the first bin, and 1 in the last.
        correct: [N], which predictions are right.
        bins: M.
    """
    edges = np.arange(bins + 1) / bins
    index = np.searchsorted(edges[1:], confidence)  # of the first bin whose end is not below
    count = np.bincount(index, minlength=bins)
    divisor = np.where(count, count, np.nan)
    right, total = (
        np.bincount(index, values.astype(np.float64), bins) for values in (correct, confidence)
    )
    return Bins(edges[:-1], edges[1:], count, right / divisor, total / divisor)


def expected_error(bins: Bins) -> float:
    """ECE: the mean over predictions of their bin's |accuracy - confidence|."""
    return float(_weights(bins) @ abs(_gaps(bins)))


def maximum_error(bins: Bins) -> float:
    """MCE: the greatest |accuracy - confidence| of a bin that is not empty."""
    return float(abs(_gaps(bins)).max())


def root_mean_square_error(bins: Bins) -> float:
    """RMSCE: the root of the mean over predictions of their bin's squared gap."""
    return float(np.sqrt(_weights(bins) @ _gaps(bins) ** 2))


def mean_gap(bins: Bins) -> float:
    """Mean confidence less accuracy: above 0 overconfident, below 0 underconfident."""
    return float(_weights(bins) @ _gaps(bins))


def _gaps(bins: Bins) -> np.ndarray:
    """Confidence less accuracy of each bin; 0 where it is empty."""
    return np.where(bins.count, bins.confidence - bins.accuracy, 0.0)


def _weights(bins: Bins) -> np.ndarray:
    return bins.count / bins.count.sum()


def adaptive_error(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int
) -> float:
    """The ECE of groups of nearly equal size, in place of bins of equal width.

    The predictions are sorted by confidence, of which equal ones keep their order, and cut into
    groups; the first ones have one more where N is no multiple of their number.
    """
    order = np.argsort(confidence, kind="stable")
    gaps = np.array_split((confidence - correct)[order], bins)
    return float(sum(abs(group.sum()) for group in gaps) / len(order))


def classwise_error(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], bins: int
) -> float:
    """The mean over classes of the ECE of the probability that an image is of the class."""
    errors = [
        expected_error(bin_predictions(probabilities[:, k], labels == k, bins))
        for k in range(probabilities.shape[1])
    ]
    return float(np.mean(errors))


def openmixup_legacy(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = 10
) -> float:
    """What the tool of AutoMix's authors (OpenMixup) prints as ECE, which it is not.

    It sorts the bins' accuracies and their mean confidences, each by themselves and with 0 for
    empty bins, before it weighs their differences by the counts, which it leaves as they were. For
    comparison with published numbers only.
    """
    made = bin_predictions(confidence, correct, bins)
    accuracy, mean = (np.sort(np.nan_to_num(x)) for x in (made.accuracy, made.confidence))
    return float(_weights(made) @ abs(accuracy - mean))


# -- temperature -------------------------------------------------------------------------------


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature T for which logits / T have the least negative log likelihood.

    Args:
        logits: [N, K] of images that are not those of the test.
        labels: [N].

    Returns:
        T, sought within `TEMPERATURES`. It is exactly one of these ends where no value between
        them is better, as for a network that is always right.

    Raises:
        DataError: see `measure`.
    """
    from scipy.optimize import minimize_scalar

    _check(logits, labels)
    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits / np.exp(log_temperature), labels)

    ends = np.log(TEMPERATURES)
    # In 1 / T the loss is convex: there is one minimum.
    found = minimize_scalar(loss, bounds=tuple(ends), method="bounded", options={"xatol": 1e-9})
    losses = [loss(end) for end in ends]
    if min(losses) <= found.fun:
        return TEMPERATURES[int(np.argmin(losses))]
    return float(np.exp(found.x))


# -- all of it ---------------------------------------------------------------------------------


def measure(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> dict[str, Any]:
    """Everything above, as JSON has it.

    Args:
        logits: [N, K].
        labels: [N] from 0 to K - 1.

    Returns:
        "images" (N), "classes" (K), "accuracy", "confidence" (its mean), "nll", "brier"; for M of
        15 and 10 bins "ece_M", "mce_M", "rmsce_M", "gap_M", "adaptive_ece_M", "classwise_ece_M",
        "openmixup_legacy_M"; and "bins_M", a list of the fields of `Bins`, None where it has NaN.
        The prediction is the greatest logit, of equal ones the first.

    Raises:
        DataError: for no images, shapes that do not fit, labels of no class, or logits that are
            not finite.
    """
    _check(logits, labels)
    probabilities = softmax(logits)
    confidence, correct = probabilities.max(axis=1), logits.argmax(axis=1) == labels
    measured: dict[str, Any] = {
        "images": logits.shape[0],
        "classes": logits.shape[1],
        "accuracy": float(correct.mean()),
        "confidence": float(confidence.mean()),
        "nll": negative_log_likelihood(logits, labels),
        "brier": brier_score(probabilities, labels),
    }
    for number in BINS:
        bins = bin_predictions(confidence, correct, number)
        measured |= {
            f"ece_{number}": expected_error(bins),
            f"mce_{number}": maximum_error(bins),
            f"rmsce_{number}": root_mean_square_error(bins),
            f"gap_{number}": mean_gap(bins),
            f"adaptive_ece_{number}": adaptive_error(confidence, correct, number),
            f"classwise_ece_{number}": classwise_error(probabilities, labels, number),
            f"openmixup_legacy_{number}": openmixup_legacy(confidence, correct, number),
            f"bins_{number}": _as_records(bins),
        }
    return measured


def _as_records(bins: Bins) -> list[dict[str, Any]]:
    columns = {name: values.tolist() for name, values in vars(bins).items()}
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    empty = {"accuracy": None, "confidence": None}
    return [record if record["count"] else record | empty for record in records]


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    """Raises a DataError unless these are logits [N, K] and labels [N] of N images."""
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise DataError(
            f"logits of shape {logits.shape} and labels of shape {labels.shape} do not fit: give"
            " one row of at least two logits, and one label, for each image."
        )
    if not len(labels):
        raise DataError("there are no logits to measure: give those of at least one image.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"the labels are {labels.dtype}: give integers, the number of a class.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(
            f"the labels are from {labels.min()} to {labels.max()}: the logits are of"
            f" {logits.shape[1]} classes, numbered from 0."
        )
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise DataError(
            f"the logits of {bad.sum()} of {len(bad)} images are not finite, first those of image"
            f" {bad.argmax()}: the network or its input is broken."
        )

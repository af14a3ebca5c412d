"""Measures of calibration, against recorded numbers and definitions written out; their charts."""

import itertools
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from automix_jax.errors import DataError
from automix_jax.evaluate import calibration
from automix_jax.evaluate.calibration import bin_predictions, expected_error
from automix_jax.report import reliability


def recorded_case():
    """1000 images of 10 classes, of which the prediction is right in 7 of 10."""
    i, k = np.arange(1000)[:, None], np.arange(10)
    logits = (1 + 0.012 * i) * np.sin(0.37 * i + 1.3 * k)
    seen, index = logits.argmax(1), np.arange(1000)
    labels = np.where(7 * index % 10 < 7, seen, (seen + 1) % 10)
    return logits, labels


def random_case(seed, images=200, classes=5, scale=3.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(images, classes)), rng.integers(0, classes, images)


# -- numbers -----------------------------------------------------------------------------------

# Computed by another implementation, in float64; torchmetrics agrees to its float32.
RECORDED = {
    "accuracy": 0.700,
    "ece_10": 0.211325315540,
    "ece_15": 0.216325498781,
    "mce_10": 0.805182315007,
    "mce_15": 0.805182315007,
    "rmsce_10": 0.244543238127,
    "rmsce_15": 0.247801662346,
    "adaptive_ece_10": 0.211325315540,
    "adaptive_ece_15": 0.214238641989,
    "nll": 2.125991687973,
    "brier": 0.683252306959,
}


def test_recorded_numbers():
    logits, labels = recorded_case()
    measured = calibration.measure(logits, labels)
    for name, value in RECORDED.items():
        # Recorded to 12 digits: half of the last is 5e-13.
        np.testing.assert_allclose(measured[name], value, rtol=0, atol=6e-13, err_msg=name)
    np.testing.assert_allclose(measured["confidence"], 0.488674684, rtol=0, atol=6e-10)
    np.testing.assert_allclose(measured["gap_15"], 0.488674684 - 0.7, rtol=0, atol=6e-10)
    np.testing.assert_allclose(measured["openmixup_legacy_10"], 0.320641808, rtol=0, atol=6e-10)
    np.testing.assert_allclose(measured["openmixup_legacy_15"], 0.281528756, rtol=0, atol=6e-10)
    assert measured["images"] == 1000 and measured["classes"] == 10
    confidence = calibration.softmax(logits).max(1)
    ends = (confidence.min(), confidence.max())
    np.testing.assert_allclose(ends, (0.194817685, 0.727878905), rtol=0, atol=6e-10)
    bins = bin_predictions(confidence, logits.argmax(1) == labels, 20)
    found = (expected_error(bins), calibration.maximum_error(bins))
    np.testing.assert_allclose(found, (0.213933274145, 0.805182315007), rtol=0, atol=6e-13)


def test_recorded_temperature():
    logits, labels = recorded_case()
    temperature = calibration.fit_temperature(logits, labels)
    assert isinstance(temperature, float)
    np.testing.assert_allclose(temperature, 2.93083, rtol=0, atol=6e-6)
    scaled = calibration.measure(logits / temperature, labels)
    np.testing.assert_allclose(scaled["nll"], 1.673463, rtol=0, atol=6e-7)
    np.testing.assert_allclose(scaled["ece_15"], 0.385013, rtol=0, atol=6e-7)


def test_a_confidence_of_one_is_in_the_last_bin():
    bins = bin_predictions(np.array([0.95, 1.0]), np.array([True, False]), 15)
    assert bins.count.tolist() == [0] * 14 + [2]
    np.testing.assert_allclose(expected_error(bins), 0.475, rtol=1e-15)
    sure = np.array([[1000.0, 0.0], [np.log(0.95 / 0.05), 0.0]])
    measured = calibration.measure(sure, np.array([1, 0]))
    assert measured["bins_15"][-1]["count"] == 2
    np.testing.assert_allclose(measured["ece_15"], 0.475, rtol=1e-14)
    np.testing.assert_allclose(measured["nll"], (1000 - np.log(0.95)) / 2, rtol=1e-15)


def test_bins_include_their_upper_end():
    confidence = np.array([0.0, 0.1, 0.2, np.nextafter(0.2, 1), 0.3, 1.0])
    bins = bin_predictions(confidence, np.ones(6, bool), 10)
    assert bins.count.tolist() == [2, 1, 2, 0, 0, 0, 0, 0, 0, 1]
    np.testing.assert_array_equal(bins.lower[1:], bins.upper[:-1])
    assert np.isnan(bins.accuracy[3]) and np.isnan(bins.confidence[3])


def test_the_first_of_equal_logits_is_the_prediction():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert calibration.measure(logits, np.array([0, 1, 0]))["accuracy"] == 1
    assert calibration.measure(logits, np.array([1, 2, 1]))["accuracy"] == 0


@pytest.mark.parametrize("bins", [10, 15])
def test_definitions_written_out(bins):
    """Sums over images one by one, as the definitions are read."""
    logits, labels = random_case(3)
    measured = calibration.measure(logits, labels)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def error(values, hits):
        total = 0.0
        for m in range(bins):
            inside = [i for i, v in enumerate(values) if m / bins < v <= (m + 1) / bins]
            total += abs(sum(values[i] - hits[i] for i in inside))
        return total / len(values)

    top, right = p.max(1), p.argmax(1) == labels
    classwise = np.mean([error(p[:, k], labels == k) for k in range(5)])
    order = sorted(range(200), key=lambda i: top[i])
    ends = np.cumsum([0, *(200 // bins + (g < 200 % bins) for g in range(bins))])
    groups = [order[a:b] for a, b in itertools.pairwise(ends)]
    adaptive = sum(abs(sum(top[i] - right[i] for i in group)) for group in groups) / 200
    found = [measured[f"{name}_{bins}"] for name in ("ece", "classwise_ece", "adaptive_ece")]
    np.testing.assert_allclose(found, [error(top, right), classwise, adaptive], rtol=1e-12)
    own = p[np.arange(200), labels]
    np.testing.assert_allclose(measured["nll"], -np.log(own).mean(), rtol=1e-12)
    brier = ((p - np.eye(5)[labels]) ** 2).sum(1).mean()
    np.testing.assert_allclose(measured["brier"], brier, rtol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 6), st.floats(0, 50))
def test_properties(seed, images, classes, scale):
    logits, labels = random_case(seed, images, classes, scale)
    measured = calibration.measure(logits, labels)
    for bins in calibration.BINS:
        ece, mce, rmsce, gap = (
            measured[f"{name}_{bins}"] for name in ("ece", "mce", "rmsce", "gap")
        )
        # In this order for every distribution; 1e-12 for rounding.
        assert 0 <= abs(gap) <= ece + 1e-12 and ece <= rmsce + 1e-12
        assert rmsce <= mce + 1e-12 and mce <= 1
        assert 0 <= measured[f"classwise_ece_{bins}"] <= 1
        assert abs(gap) - 1e-12 <= measured[f"adaptive_ece_{bins}"] <= 1
        difference = measured["confidence"] - measured["accuracy"]
        np.testing.assert_allclose(gap, difference, rtol=0, atol=1e-12)
        records = measured[f"bins_{bins}"]
        assert sum(record["count"] for record in records) == images
        for record in records:
            if record["count"]:
                assert record["lower"] <= record["confidence"] <= record["upper"] + 1e-12
    assert measured["nll"] >= 0 and 0 <= measured["brier"] <= 2
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    order = np.random.default_rng(seed).permutation(images)
    again = calibration.measure(logits[order], labels[order])
    distinct = len(set(calibration.softmax(logits).max(1))) == images
    for name, value in measured.items():
        # Which of equal confidences are in a group depends on their order.
        if isinstance(value, float) and (distinct or "adaptive" not in name):
            np.testing.assert_allclose(again[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_a_calibrated_network_has_no_error():
    """Labels are drawn from the network's own probabilities."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(50_000, 4))
    p = calibration.softmax(logits)
    labels = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    measured = calibration.measure(logits, labels)
    for bins in calibration.BINS:
        # Of n images, a bin's gap is at most sqrt(1 / 4 n) on average: 0.9 % of 50,000 / 15.
        assert max(measured[f"ece_{bins}"], measured[f"adaptive_ece_{bins}"]) < 0.009
        assert measured[f"classwise_ece_{bins}"] < 0.009
    np.testing.assert_allclose(calibration.fit_temperature(logits, labels), 1, atol=0.03)
    doubled = calibration.measure(2 * logits, labels)
    assert doubled["gap_15"] > 0.1 and doubled["ece_15"] > 0.1
    assert calibration.measure(logits / 2, labels)["gap_15"] < -0.1


# -- temperature -------------------------------------------------------------------------------


def test_temperature_has_the_least_loss():
    logits, labels = random_case(1, scale=4.0)
    logits[np.arange(200), labels] += 3
    found = calibration.fit_temperature(logits, labels)
    low, high = calibration.TEMPERATURES
    assert low < found < high
    losses = [
        calibration.negative_log_likelihood(logits / t, labels)
        for t in (found, *np.geomspace(low, high, 200))
    ]
    assert losses[0] <= min(losses)
    # Logits that are c times as great are undone by a temperature that is. The loss is flat around
    # its minimum: rounding in its 16th digit is felt in the eighth of the temperature.
    for factor in (0.3, 2.0):
        scaled = calibration.fit_temperature(factor * logits, labels)
        np.testing.assert_allclose(scaled, factor * found, rtol=1e-6)


def test_a_temperature_beyond_the_bounds_is_the_bound():
    logits, _ = random_case(2)
    right, wrong = logits.argmax(1), logits.argmin(1)
    assert calibration.fit_temperature(logits, right) == 0.05
    assert calibration.fit_temperature(logits, wrong) == 20


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("work", [calibration.measure, calibration.fit_temperature])
@pytest.mark.parametrize(
    ("logits", "labels", "parts"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), ["no logits"]),
        (np.zeros(3), np.zeros(3, int), ["(3,)", "one row"]),
        (np.zeros((3, 1)), np.zeros(3, int), ["(3, 1)", "two logits"]),
        (np.zeros((3, 2)), np.zeros(2, int), ["(3, 2)", "(2,)"]),
        (np.zeros((3, 2)), np.zeros((3, 2), int), ["(3, 2)"]),
        (np.zeros((3, 2)), np.zeros(3), ["float64", "integers"]),
        (np.zeros((3, 2)), np.array([0, 2, 1]), ["from 0 to 2", "2 classes"]),
        (np.zeros((3, 2)), np.array([0, -1, 1]), ["from -1 to 1"]),
        (np.array([[0, 1], [np.nan, 0], [np.inf, 0]]), np.zeros(3, int), ["2 of 3", "image 1"]),
    ],
)
def test_bad_input(work, logits, labels, parts):
    with pytest.raises(DataError) as error:
        work(logits, labels)
    for part in parts:
        assert part in str(error.value)


# -- charts ------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, as they are closed to the caller otherwise."""
    figures = []
    savefig = Figure.savefig

    def save(self, *arguments, **options):
        figures.append(self)
        savefig(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    return figures


def check_files(paths, stem):
    assert paths == [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    with Image.open(paths[0]) as image:
        image.load()
    assert ET.parse(paths[1]).getroot().tag.endswith("svg")


def test_paper_layout(tmp_path, drawn):
    measured = calibration.measure(*recorded_case())
    stem = tmp_path / "calibration"
    check_files(reliability.draw_paper(stem, "AutoMix", measured), stem)
    (panel,) = drawn[0].axes
    diagonal, line = panel.lines
    filled = [record for record in measured["bins_15"] if record["count"]]
    assert len(filled) == 9  # the others would be points at (0, 0)
    expected = [[record[name] for record in filled] for name in ("confidence", "accuracy")]
    np.testing.assert_array_equal(line.get_data(), expected)
    np.testing.assert_array_equal(diagonal.get_data(), [[0, 1], [0, 1]])
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["ECE: 21.6%", "15 bins"] and panel.get_title() == "AutoMix"
    assert panel.get_xlabel() == "confidence" and panel.get_ylabel() == "accuracy"


def test_reliability_diagram(tmp_path, drawn):
    measured = calibration.measure(*recorded_case())
    stem = tmp_path / "reliability"
    check_files(reliability.draw_reliability(stem, "AutoMix", measured), stem)
    above, below = drawn[0].axes
    filled = [record for record in measured["bins_15"] if record["count"]]
    bars, gaps = above.containers
    (counts,) = below.containers
    assert len(bars) == len(gaps) == len(counts) == len(filled)
    for record, bar, gap, count in zip(filled, bars, gaps, counts, strict=True):
        for patch in (bar, gap, count):
            np.testing.assert_allclose(patch.get_x(), record["lower"], rtol=1e-12)
        assert bar.get_height() == record["accuracy"]
        ends = sorted((record["accuracy"], record["confidence"]))
        found = sorted((gap.get_y(), gap.get_y() + gap.get_height()))
        np.testing.assert_allclose(found, ends, rtol=1e-12)
        np.testing.assert_allclose(count.get_height(), record["count"] / 10, rtol=1e-12)
    means = [line.get_xdata()[0] for line in below.lines]
    assert means == [measured["accuracy"], measured["confidence"]]
    assert above.get_title("left") == "AutoMix" and above.get_title("right") == "ECE: 21.6%"


def test_methods_side_by_side(tmp_path, drawn):
    methods = {f"method {i}": calibration.measure(*random_case(i)) for i in range(5)}
    stem = tmp_path / "grid"
    check_files(reliability.draw_grid(stem, methods, across=3), stem)
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == [*methods, ""]
    assert [panel.axison for panel in panels] == [True] * 5 + [False]
    for panel, measured in zip(panels, methods.values(), strict=False):
        assert panel.texts[0].get_text() == f"ECE: {100 * measured['ece_15']:.1f}%"
    assert [panel.get_xlabel() for panel in panels[:5]] == ["", "", *["confidence"] * 3]


def test_charts_are_the_same_at_every_run(tmp_path):
    measured = calibration.measure(*recorded_case())
    files = [reliability.draw_reliability(tmp_path / x, "AutoMix", measured) for x in "ab"]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()

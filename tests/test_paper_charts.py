"""The charts of the paper, drawn of tables that nothing was trained for."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from automix_jax.errors import ConfigError
from automix_jax.report import charts, paper_charts, paper_marks
from automix_jax.sweep import table
from tests.sweep_results import NAMES, curve, make_row, result

HOURS = {"vanilla": 1.0, "mixup": 1.1, "cutmix": 1.1, "automix": 2.5}
SPREAD = (0.2, 0.0, -0.2)


def make(rows, accuracies, seeds=3, hours=1.0):
    results = []
    for row, accuracy in zip(rows, accuracies, strict=True):
        time = HOURS[row.method] if hours is None else hours
        for trial in range(seeds if accuracy is not None else 0):
            values = [accuracy - 20 + e + SPREAD[trial] for e in range(1, 21)]
            lists = {head: values for head in ("student_mix", "teacher_mix")}
            results.append(result(row, trial, 0, hours=time, lists=lists))
    return table.make(rows, results, seeds)


def check(paths, stem):
    """Reads the JSON of a chart whose pictures are whole."""
    names = [path.name for path in paths]
    assert names == [f"{stem.name}.{kind}" for kind in ("png", "svg", "json")]
    pixels = np.asarray(Image.open(paths[0]).convert("RGB"))
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # something is drawn
    assert "<svg" in paths[1].read_text()
    return json.loads(paths[2].read_text(), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def methods():
    rows = [make_row(method) for method in NAMES]
    return make(rows, (90.0, 91.0, None, 93.0), hours=None)


def test_time_against_accuracy(methods, tmp_path):
    paths = paper_charts.time_against_accuracy(methods, tmp_path / "fig1")
    content = check(paths, tmp_path / "fig1")
    assert [p["name"] for p in content["points"]] == ["Vanilla", "MixUp", "AutoMix"]
    for point, accuracy in zip(content["points"], (89.5, 90.5, 92.5), strict=True):
        assert point["mean"] == pytest.approx(accuracy)  # of the last two epochs
        assert point["std"] == pytest.approx(0.2)
        assert point["times_vanilla"] == pytest.approx(HOURS[point["method"]])
    assert content["device"] == "1 x NVIDIA H100, float32"
    # The same at every run.
    again = paper_charts.time_against_accuracy(methods, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_names_cover_neither_points_nor_each_other(tmp_path):
    """Points in one place: the names find places around it."""
    rows = [make_row(method) for method in NAMES]
    lines = make(rows, (90.0, 90.05, 90.1, 90.02)).lines
    _, (panel,) = charts.make_figure(6.4, 4.2)
    paper_marks.draw_points(panel, [1.0] * 4, lines, fmt="o")
    panel.margins(0.3)
    paper_marks.place_labels(panel, [1.0] * 4, lines, ["black"] * 4)
    boxes = [text.get_window_extent() for text in panel.texts]
    assert [text.get_text() for text in panel.texts] == list(NAMES.values())
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_accuracy_by_alpha(tmp_path):
    alphas = (4.0, 0.2, 1.0)
    rows = [
        make_row("automix", f"alpha {a:g}", recipe=recipe, paper=False, method__alpha=a)
        for recipe in ("cifar100_r18", "tiny_imagenet_r18")
        for a in alphas
    ]
    found = make(rows, (81.0, 80.0, 80.5, 67.0, 66.0, None))
    content = check(paper_charts.accuracy_by_alpha(found, tmp_path / "fig9"), tmp_path / "fig9")
    assert [s["dataset"] for s in content["series"]] == ["CIFAR-100", "Tiny-ImageNet"]
    first, second = ({p["alpha"]: p["mean"] for p in s["points"]} for s in content["series"])
    assert list(first) == [0.2, 1.0, 4.0]  # in their order
    assert first == pytest.approx({0.2: 79.5, 1.0: 80.0, 4.0: 80.5})
    assert second == pytest.approx({0.2: 65.5, 4.0: 66.5})


def test_accuracy_by_layer(tmp_path):
    rows = [make_row("mixup", recipe="tiny_imagenet_r18", paper=False)] + [
        make_row("automix", f"l = {k}", recipe="tiny_imagenet_r18", paper=False, model__layer=name)
        for k, name in ((1, "stage1"), (3, ""), (4, "stage4"))
    ]
    found = make(rows, (63.0, 66.0, 67.0, None), hours=2.0)
    path = tmp_path / "table9"
    points = check(paper_charts.accuracy_by_layer(found, path), path)["points"]
    assert [point["layer"] for point in points] == [None, "stage1", "stage3"]
    assert [point["hours"] for point in points] == [2.0] * 3
    assert points[1]["parameters"] == 11_173_962 + 65_921
    alone = make(rows[:1], (63.0,))
    with pytest.raises(ConfigError, match="no accuracy of AutoMix"):
        paper_charts.accuracy_by_layer(alone, path)


def test_accuracy_by_epoch_has_the_band_of_the_seeds(methods, tmp_path):
    path = tmp_path / "fig6"
    series = check(paper_charts.accuracy_by_epoch(methods, path), path)["series"]
    assert [s["name"] for s in series] == ["Vanilla", "MixUp", "AutoMix"]
    assert series[0]["epoch"] == list(range(1, 21))
    for low, mean, high in zip(*(series[0][k] for k in ("low", "mean", "high")), strict=True):
        assert (mean - low, high - mean) == pytest.approx((0.2, 0.2))


def test_an_epoch_that_was_not_evaluated_is_left_out(tmp_path):
    """Of one seed, which has no band."""
    row = make_row("mixup")
    values = [None, math.nan, *curve(90, 18, 0.1)]
    found = table.make([row], [result(row, 0, 0, lists={"student_mix": values})])
    path = tmp_path / "gap"
    (series,) = check(paper_charts.accuracy_by_epoch(found, path), path)["series"]
    assert series["epoch"] == list(range(3, 21))
    assert series["mean"] == series["low"] == series["high"] == values[2:]


def test_ablation_bars_are_paired_gains(tmp_path):
    names = {"none": "none", "mp_m0": "+ MP (m = 0)", "mp": "+ MP", "mp_ce": "+ MP + CE"}
    rows = []
    for number, (key, name) in enumerate(names.items()):
        row = make_row("automix", name, recipe="cifar100_r18", mask_loss__weight=0.1 + number)
        rows.append(type(row)(**{**vars(row), "paper": f"table8/cifar100/automix/{key}"}))
    found = make(rows, (78.0, 80.0, None, 77.5))
    path = tmp_path / "table8"
    (group,) = check(paper_charts.ablation_bars(found, path), path)["groups"]
    assert group["base"] == "none"
    gains = [bar["gain"] for bar in group["bars"]]
    assert gains[2] is None
    assert [gains[i] for i in (0, 1, 3)] == pytest.approx([0.0, 2.0, -0.5])
    published = [bar["published_gain"] for bar in group["bars"]]
    assert published[0] is None
    assert published[1:] == pytest.approx([2.29, 2.47, 2.58])
    with pytest.raises(ConfigError, match="no two rows of a method"):
        paper_charts.ablation_bars(make(rows[:1], (78.0,)), path)


CHARTS = (
    paper_charts.time_against_accuracy,
    paper_charts.accuracy_by_alpha,
    paper_charts.accuracy_by_layer,
    paper_charts.accuracy_by_epoch,
    paper_charts.ablation_bars,
)


@pytest.mark.parametrize("draw", CHARTS, ids=lambda draw: draw.__name__)
def test_nothing_to_draw_is_said(draw, tmp_path):
    found = table.make([make_row("automix")], [])
    with pytest.raises(ConfigError, match="no accuracy to draw yet"):
        draw(found, tmp_path / "chart")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_said(methods, tmp_path):
    with pytest.raises(ConfigError, match="choose another folder"):
        paper_charts.time_against_accuracy(methods, tmp_path / "missing/fig1")

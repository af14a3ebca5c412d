"""The charts of the paper, drawn of tables that nothing was trained for."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from automix_jax.errors import ConfigError
from automix_jax.report import charts, paper_charts, paper_marks
from automix_jax.sweep import table
from automix_jax.sweep.cells import trials
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
        assert point["training_hours"] == pytest.approx(0.85 * HOURS[point["method"]])
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
    assert [point["training_hours"] for point in points] == pytest.approx([1.7] * 3)
    assert points[1]["parameters"] == 11_173_962 + 65_921
    alone = make(rows[:1], (63.0,))
    with pytest.raises(ConfigError, match=r"no accuracy of AutoMix .*: there is no such row\.$"):
        paper_charts.accuracy_by_layer(alone, path)
    with pytest.raises(ConfigError, match=r"no accuracy of AutoMix .*: l = 1: pending\.$"):
        paper_charts.accuracy_by_layer(make(rows[:2], (63.0, None)), path)


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
    with pytest.raises(ConfigError, match=r"no gain to draw yet.*: none: ok\.$"):
        paper_charts.ablation_bars(make(rows[:1], (78.0,)), path)
    with pytest.raises(ConfigError, match=r"no gain to draw yet.*: none: pending; .*: ok\.$"):
        paper_charts.ablation_bars(make(rows[:2], (None, 78.0)), path)


def test_a_method_of_one_row_is_the_base_of_all(tmp_path):
    """Random grids, of Table 7."""
    recipe = "tiny_imagenet_r18"
    rows = [make_row("randomgrid", "random grids", recipe=recipe, paper=False)] + [
        make_row("automix", name, recipe=recipe, paper=False, mask_loss__weight=weight)
        for name, weight in (("+ cross attention", 0.0), ("+ loss of λ", 0.1))
    ]
    path = tmp_path / "table7"
    found = make(rows, (60.0, 61.5, 63.0))
    (group,) = check(paper_charts.ablation_bars(found, path), path)["groups"]
    assert group["base"] == "random grids"
    gains = {bar["name"]: bar["gain"] for bar in group["bars"]}
    assert gains == pytest.approx(
        {"random grids": 0.0, "+ cross attention": 1.5, "+ loss of λ": 3.0}
    )


def test_methods_of_several_rows_have_each_its_base(tmp_path):
    """MixUp, CutMix and AutoMix, of Table 8; a group without its base is left out."""
    rows = [
        make_row(method, f"{name}, {part}", recipe="cifar100_r18", paper=False, method__alpha=alpha)
        for method, name in (("mixup", "MixUp"), ("cutmix", "CutMix"), ("automix", "AutoMix"))
        for part, alpha in (("none", 1.0), ("+ MP", 2.0))
    ]
    path = tmp_path / "table8"
    found = make(rows, (78.0, 79.0, 77.0, 79.5, 80.0, 81.0))
    groups = check(paper_charts.ablation_bars(found, path), path)["groups"]
    assert [group["base"] for group in groups] == ["MixUp, none", "CutMix, none", "AutoMix, none"]
    gains = [[bar["gain"] for bar in group["bars"]] for group in groups]
    assert gains == [pytest.approx([0.0, gain]) for gain in (1.0, 2.5, 1.0)]
    early = make(rows, (78.0, 79.0, None, 79.5, 80.0, None))
    (group,) = check(paper_charts.ablation_bars(early, path), path)["groups"]
    assert group["base"] == "MixUp, none"


CHARTS = (
    paper_charts.time_against_accuracy,
    paper_charts.accuracy_by_alpha,
    paper_charts.accuracy_by_layer,
    paper_charts.accuracy_by_epoch,
    paper_charts.ablation_bars,
)


@pytest.mark.parametrize("draw", CHARTS, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("others", [[], [result(make_row("mixup"), 0, 91.0)]])
def test_nothing_to_draw_is_said(draw, others, tmp_path):
    """Also where the folder has results of other rows."""
    rows = [make_row("automix"), make_row("cutmix"), make_row("vanilla")]
    failure = {"key": trials(rows[2], 1)[0].key, "reason": "it ran out of memory"}
    found = table.make(rows, others, failures=[failure])
    with pytest.raises(ConfigError) as caught:
        draw(found, tmp_path / "chart")
    assert str(caught.value) == (
        "the table has no accuracy to draw yet: AutoMix, CutMix: pending;"
        " Vanilla: failed: it ran out of memory."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("draw", CHARTS, ids=lambda draw: draw.__name__)
def test_an_incomplete_row_alone_is_nothing_to_draw(draw, tmp_path):
    row = make_row("automix")
    lists = {head: [90.0] * 19 + [None] for head in ("student_mix", "teacher_mix")}
    found = table.make([row], [result(row, 0, 0, lists=lists)])
    with pytest.raises(ConfigError, match="AutoMix: incomplete: no finite accuracy after epoch 20"):
        draw(found, tmp_path / "chart")


def test_a_folder_that_is_not_there_is_said(methods, tmp_path):
    with pytest.raises(ConfigError, match="choose another folder"):
        paper_charts.time_against_accuracy(methods, tmp_path / "missing/fig1")

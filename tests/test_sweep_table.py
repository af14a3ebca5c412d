"""The protocol, the footnotes and the table of a sweep, on results that nothing was trained for."""

import csv
import dataclasses
import io
import json
import math
import re
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console

from automix_jax import recipes
from automix_jax.config import default_config
from automix_jax.errors import ConfigError
from automix_jax.sweep import footnotes, protocol, published, table
from automix_jax.sweep.cells import trials
from tests.runs import ROOT
from tests.sweep_results import NAMES, make_row, result

DONE = dict(zip(NAMES, (90.0, 91.0, 91.5, 93.0), strict=True))
SPREAD = (0.1, 0.0, -0.1)  # of the seeds: a standard deviation of 0.1


def record(values, epochs=None, seed=0):
    return {"seed": seed, "epochs": epochs or len(values), "accuracy": {"student_mix": values}}


def make_results(rows, accuracies=DONE, seeds=3, **changes):
    return [
        result(row, trial, accuracies[row.method] + SPREAD[trial], **changes)
        for row in rows
        for trial in range(seeds)
    ]


@pytest.fixture(scope="module")
def rows():
    return [make_row(method) for method in NAMES]


@pytest.fixture(scope="module")
def whole():
    """Rows in the setting of the published numbers."""
    return [make_row(method, epochs=800) for method in NAMES]


@pytest.fixture(scope="module")
def full(rows):
    return table.make(rows, make_results(rows), 3, command="automix reproduce table1")


# --- protocol


def test_the_window_is_the_last_ten_epochs_or_tenth():
    found = {epochs: protocol.window(epochs) for epochs in (1, 6, 19, 20, 99, 100, 101, 300, 800)}
    assert found == {1: 1, 6: 1, 19: 1, 20: 2, 99: 9, 100: 10, 101: 10, 300: 10, 800: 10}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=250))
def test_a_trial_is_the_median_of_its_window(values):
    found = protocol.trial(record(values), "student_mix")
    assert found.status == "done"
    assert found.median == np.median(values[-protocol.window(len(values)) :])
    assert found.best == max(values)
    assert found.last == values[-1]


def test_an_even_window_gives_the_mean_of_the_two_in_its_middle():
    found = protocol.trial(
        record([0.0] * 90 + [1.0, 9.0, 3.0, 5.0, 7.0, 2.0, 8.0, 4.0, 10.0, 6.0]), "student_mix"
    )
    assert found.median == 5.5


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("epoch", range(1, 31))
def test_an_epoch_without_a_number_counts_in_the_window_alone(value, epoch):
    values = [float(i) for i in range(30)]
    values[epoch - 1] = value
    found = protocol.trial(record(values), "student_mix")
    assert found.curve[epoch - 1] is None
    if epoch <= 27:
        assert (found.status, found.median, found.last) == ("done", 28.0, 29.0)
    else:
        assert (found.status, found.median, found.best, found.last) == ("incomplete", *[None] * 3)
        assert found.reason == f"no finite accuracy after epoch {epoch}, of the last 3 of 30"


def test_a_trial_with_other_epochs_or_heads_is_incomplete():
    short = protocol.trial(record([50.0] * 19, epochs=20), "student_mix")
    assert (short.median, short.reason) == (None, "it has 19 of 20 epochs")
    other = protocol.trial(record([50.0]), "teacher_mix")
    assert other.reason == "the run has no accuracy of teacher_mix, only of student_mix"


@given(st.lists(st.floats(0, 100), max_size=8))
def test_a_summary_is_of_the_sample(values):
    found = protocol.summarize(values, 8)
    assert (found.n, found.complete) == (len(values), len(values) == 8)
    if len(values) > 1:
        assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
        assert found.standard_error == found.std / math.sqrt(len(values))
    else:
        assert found.std is found.standard_error is None
    assert found.mean == (pytest.approx(np.mean(values)) if values else None)


def test_pairs_are_of_the_same_seed():
    def read(values):
        return [protocol.trial(record([x], seed=s), "student_mix") for s, x in values.items()]

    first, second = read({0: 1.0, 1: 2.0, 2: 3.0}), read({2: 1.0, 0: 2.0})
    found = protocol.paired(first, second, 3)
    assert (found.mean, found.n, found.expected) == (0.5, 2, 3)
    assert found.std == pytest.approx(math.sqrt(4.5))


def test_nothing_exceeds_an_interval_that_is_not_known():
    assert not protocol.exceeds(5.0, protocol.summarize([3.0], 1))
    assert not protocol.exceeds(5.0, protocol.summarize([], 3))


# Of Student's distribution, as tables print it to four places.
QUANTILES = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764, 10: 2.2622}


@pytest.mark.parametrize(("n", "quantile"), QUANTILES.items())
def test_the_interval_allows_for_few_seeds(n, quantile):
    found = protocol.summarize([float(i) for i in range(n)], n)
    assert found.interval / found.standard_error == pytest.approx(quantile, abs=5e-5)
    assert protocol.exceeds(-1.001 * found.interval, found)
    assert not protocol.exceeds(0.999 * found.interval, found)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6).filter(lambda x: len(set(x)) > 1))
def test_what_exceeds_is_what_a_t_test_finds(values):
    found = protocol.summarize([float(value) for value in values], len(values))
    p = scipy.stats.ttest_1samp(values, 0).pvalue
    assume(abs(p - 0.05) > 1e-9)
    assert protocol.exceeds(found.mean, found) == (p < 0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_chance_is_clear_once_in_twenty(seeds):
    """Of differences between equals."""
    draws = np.random.default_rng(0).standard_normal((4000, seeds))
    found = [protocol.summarize(values.tolist(), seeds) for values in draws]
    share = np.mean([protocol.exceeds(summary.mean, summary) for summary in found])
    assert share == pytest.approx(0.05, abs=0.0138)  # four standard deviations of 4000 draws


# --- footnotes


def test_what_differs_is_said_in_words():
    reference = recipes.load_config(f"{ROOT}/configs/cifar10_r18.py")
    config = recipes.override(
        recipes.load_config(f"{ROOT}/configs/cifar10_r18.py"),
        [
            "--config.epochs=20",
            "--config.model.name=resnet8",
            "--config.method.alpha=1",
            "--config.optimizer.lr=0.05",
            "--config.model.width=4",
            "--config.data.flip=false",
            "--config.init_from=/home/me/weights",
        ],
    )
    assert footnotes.differences(config, reference) == [
        "ResNet-8 instead of ResNet-18",
        "pretrained initial weights instead of random ones",
        "epochs 20 instead of 800",
        "width of the network 4 instead of none",
        "alpha 1 instead of 2",
        "learning rate 0.05 instead of 0.1",
        "data.flip off instead of on",
    ]


def test_fields_that_change_no_number_are_no_difference():
    reference = default_config()
    config = recipes.override(
        default_config(),
        [
            "--config.seed=3",
            "--config.run.workers=2",
            "--config.run.tensorboard=false",
            "--config.data.path=/data",
            "--config.eval.batch_size=7",
            "--config.steps_per_dispatch=5",
            "--config.accumulation=2",
            "--config.compute_dtype=bfloat16",
        ],
    )
    assert footnotes.differences(config, reference) == []
    with config.unlocked():
        config.data.mean = [0.5]  # as JSON has a tuple
    assert footnotes.differences(config, reference) == []


def test_a_small_change_is_a_difference():
    config, reference = default_config(), default_config()
    config.teacher.momentum = 0.9990001
    (text,) = footnotes.differences(config, reference)
    assert text == "teacher.momentum 0.9990001 instead of 0.999"


def test_other_data_is_one_difference():
    reference = recipes.load_config(f"{ROOT}/configs/cifar10_r18.py")
    config = recipes.load_config(f"{ROOT}/configs/quickstart.py")
    found = footnotes.differences(config, reference)
    assert found[:2] == [
        "Fashion-MNIST sample instead of CIFAR-10",
        "ResNet-8 instead of ResNet-18",
    ]
    assert not [text for text in found if text.startswith("data.")]


def test_the_layer_is_compared_as_it_is_read():
    config, reference = default_config(), default_config()
    config.model.layer = "stage3"  # where it is by default
    assert footnotes.differences(config, reference) == []
    config.model.layer = "stage2"
    assert footnotes.differences(config, reference) == ["MixBlock reads stage2 instead of stage3"]


def test_a_part_of_the_data_is_said(rows):
    def data(train, test=10_000, **fields):
        found = result(rows[0], 0, 90.0)
        found["data"] |= {"train_images": train, "test_images": test}
        found["config"] |= fields
        return found

    assert footnotes.of_data([data(50_000)]) == []
    assert footnotes.of_data([data(49_000, **{"data.held_out": 1000})]) == []
    assert footnotes.of_data([data(10_000), data(10_000)]) == ["10,000 of 50,000 training images"]
    assert footnotes.of_data([data(60_000, 2_000)]) == [
        "60,000 instead of 50,000 training images",
        "2,000 of 10,000 test images",
    ]
    assert footnotes.of_data([data(10, **{"data.name": "folder"})]) == []
    assert footnotes.of_precision([result(rows[0], 0, 9.0, compute_dtype="bfloat16")] * 2) == [
        "computed in bfloat16"
    ]


def test_a_footnote_is_numbered_once():
    notes = footnotes.Footnotes()
    assert [notes.mark(texts) for texts in (["a", "b"], [], ["c", "a"])] == [(1, 2), (), (3, 1)]
    assert notes.texts == ("a", "b", "c")


# --- table


def test_means_are_of_the_medians_of_the_seeds(full):
    line = full.lines[3]
    assert line.ours.mean == pytest.approx(93.0)
    assert line.ours.std == pytest.approx(0.1)
    assert (line.ours.n, line.status, line.head) == (3, "ok", "student_mix")
    assert line.paper == published.get("table1/cifar10/resnet18/automix")
    assert line.difference == pytest.approx(93.0 - 97.34)
    assert line.teacher.mean == pytest.approx(92.5)
    assert [x.teacher for x in full.lines[:3]] == [None] * 3
    assert line.hours == (1.0,) * 3
    assert line.training_hours == (3060 / 3600,) * 3
    assert [x.rank for x in full.lines] == [0, 0, 2, 1]
    assert full.footnotes == ("epochs 20 instead of 800",)
    assert [x.marks for x in full.lines] == [(1,)] * 4
    assert full.facts["training"] == "12 runs, 12.0 hours in all"
    assert "the last 2 of 20 epochs" in full.facts["accuracy"]
    assert full.facts["command"] == "automix reproduce table1"


def test_markdown_of_a_table(full):
    text = full.markdown()
    assert "| CutMix | 20 | 3/3 | <ins>91.50 ± 0.10</ins> | - | 96.68 (Table 1) |" in text
    assert "| **93.00 ± 0.10** | 92.50 ± 0.10 | 97.34 (Table 1) | -4.34 <sup>1</sup> |" in text
    assert "93.00 / 93.00 | 3.0 (1.0) | ok |" in text
    assert "<sup>1</sup> epochs 20 instead of 800" in text
    assert "| MixUp | AutoMix | 3 | -2.00 | 0.00 | ± 0.00 | yes |" in text
    below = "clearly below it (95 %): Vanilla, MixUp, CutMix."
    assert f"Compared with AutoMix, {below}" in text
    assert "These are 3 comparisons, each with 95 % confidence" in text
    assert "Table 1: CIFAR-10, R-18, Vanilla; CIFAR-10, R-18, MixUp;" in text


def test_a_difference_counts_in_the_same_setting_only(whole, full):
    accuracies = {"vanilla": 95.45, "mixup": 97.0, "cutmix": 96.0, "automix": 97.34}
    found = table.make(whole, make_results(whole, accuracies), 3)
    assert [line.clear for line in found.lines] == [False, True, True, False]
    assert not any(line.clear for line in full.lines)
    assert found.footnotes == ()
    text = found.markdown()
    assert "| -0.05 n.s. |" in text
    assert "| +0.38 |" in text
    assert "n.s.: within the 95 % interval of ours" in text
    assert "n.s." not in full.markdown()
    shown = io.StringIO()
    style = {"force_terminal": True, "color_system": "standard", "no_color": False}
    Console(file=shown, width=200, **style).print(found.rich())
    assert re.search(r"\x1b\[32m *\+0\.38", shown.getvalue())
    assert re.search(r"\x1b\[31m *-0\.68", shown.getvalue())
    assert "| +0.00 n.s. |" in text
    bf16 = table.make(whole, make_results(whole, accuracies, compute_dtype="bfloat16"), 3)
    assert [line.clear for line in bf16.lines] == [False, True, True, False]
    assert bf16.footnotes == ("computed in bfloat16",)


def test_one_seed_has_no_spread(whole):
    found = table.make(whole, make_results(whole, seeds=1))
    assert not any(line.clear for line in found.lines)
    text = found.markdown()
    assert "| 1/1 | <ins>91.60 (n = 1)</ins> |" in text
    assert "± 0" not in text
    assert "n.s." not in text
    assert "with one seed, which tells nothing of chance: Vanilla, MixUp, CutMix." in text
    assert "| MixUp | AutoMix | 1 | -2.00 | n = 1 | - | - |" in text
    assert len(found.verdicts) == 1  # nothing was tested


def make_pair(differences, seeds):
    """Vanilla and AutoMix, whose seeds differ by so much."""
    rows = [make_row("vanilla"), make_row("automix")]
    results = [result(rows[0], trial, 90.0 + d) for trial, d in enumerate(differences)]
    results += [result(rows[1], trial, 90.0) for trial in range(seeds)]
    return table.make(rows, results, seeds)


def test_two_standard_errors_of_three_seeds_are_chance():
    found = make_pair((0.1, 0.4, 0.7), 3)  # 0.4, with an error of 0.173: 2.3 of them
    (pair,) = found.pairs
    assert not pair.clear
    assert "| Vanilla | AutoMix | 3 | +0.40 | 0.17 | ± 0.75 | no |" in found.markdown()
    assert found.verdicts == ("Compared with AutoMix, not clearly different: Vanilla.",)
    found = make_pair((0.6, 0.9, 1.2), 3)
    assert found.verdicts == ("Compared with AutoMix, clearly above it (95 %): Vanilla.",)
    assert not make_pair((0.6, 0.9), 2).pairs[0].clear  # which needs 12.7 errors


def test_the_numbers_have_their_intervals():
    found = make_pair((0.1, 0.4, 0.7), 3)
    content = json.loads(found.json())
    (pair,) = content["paired"]
    assert pair["clear"] is False
    assert pair["difference"]["interval_95"] == pytest.approx(4.302653 * 0.3 / math.sqrt(3))
    line = next(csv.DictReader(io.StringIO(found.csv())))
    assert float(line["interval_95"]) == content["rows"][0]["ours"]["interval_95"]
    assert float(line["training_hours"]) == pytest.approx(0.85 * float(line["hours"]))
    assert content["rows"][0]["training_hours"] == [0.85] * 3


def test_a_row_may_be_the_one_to_compare_with(rows):
    chosen = dataclasses.replace(rows[1], against=True)
    found = table.make([rows[0], chosen, *rows[2:]], make_results(rows), 3)
    assert [(pair.line.name, pair.reference) for pair in found.pairs] == [
        ("Vanilla", "MixUp"),
        ("CutMix", "MixUp"),
        ("AutoMix", "MixUp"),
    ]
    # Without one it is the last AutoMix, and without AutoMix the first row.
    whole = make_row("automix", "AutoMix, whole", mask_loss__weight=0.2)
    last = table.make([*rows, whole], make_results(rows), 3)
    assert {pair.reference for pair in last.pairs} == {"AutoMix, whole"}
    first = table.make(rows[:3], make_results(rows), 3)
    assert {pair.reference for pair in first.pairs} == {"Vanilla"}


def test_who_is_compared_changes_no_training(rows):
    (cell,) = trials(rows[1], 1)
    assert trials(dataclasses.replace(rows[1], against=True), 1)[0].key == cell.key


@pytest.mark.parametrize(
    ("name", "same"),
    [("npz", False), ("folder", False), ("tfds:eurosat", False), ("imagenet", True)],
)
def test_data_of_a_user_are_told_by_their_path(name, same):
    """A published dataset is the same wherever it lies."""
    keys = {
        trials(make_row("mixup", data__name=name, data__path=path), 1)[0].key for path in ("a", "b")
    }
    assert (len(keys) == 1) == same


def test_a_sweep_that_is_under_way(rows):
    """Done, one of three, failed and with a NaN in its window."""
    bad = [93.0] * 19 + [None]
    lists = {"student_mix": bad, "teacher_mix": [90.0] * 20}
    results = [
        *make_results(rows[:1]),
        result(rows[1], 0, 95.0),
        result(rows[3], 0, 0, lists=lists),
        result(rows[3], 1, 95.0),
    ]
    failures = [
        {"key": trials(rows[2], 2)[1].key, "reason": "it ran out of memory"},
        {"key": results[0]["key"], "reason": "of an attempt before it was done"},
    ]
    found = table.make(rows, results, 3, failures=failures)
    assert [line.status for line in found.lines] == [
        "ok",
        "1 of 3",
        "failed: it ran out of memory",
        "1 of 3; incomplete: no finite accuracy after epoch 20, of the last 2 of 20",
    ]
    assert [line.rank for line in found.lines] == [0, 0, 0, 0]  # one is complete
    assert [line.ours.mean for line in found.lines] == [90.0, 95.0, None, 95.0]
    assert "| CutMix | 20 | 0/3 | - | - | 96.68 (Table 1) | - <sup>1</sup> |" in found.markdown()
    assert [pair.difference.n for pair in found.pairs] == [1, 0, 0]


def test_nothing_has_finished(rows):
    found = table.make(rows, [], 3)
    assert {line.status for line in found.lines} == {"pending"}
    for text in (found.markdown(), found.csv(), found.latex(), found.json()):
        assert text.count("pending") == 4
    assert found.verdicts == ()
    assert table.make([], []).csv() == ""


def test_a_row_may_show_the_teacher_of_the_same_run():
    student, teacher = make_row("automix"), make_row("automix", "AutoMix, teacher")
    teacher = type(teacher)(**{**vars(teacher), "head": "teacher_mix"})
    found = table.make([student, teacher], make_results([student]), 3)
    assert found.lines[1].ours == found.lines[0].teacher
    assert found.lines[1].teacher is None
    assert "accuracy of" in found.markdown().split("\n| ---")[0]
    assert found.facts["training"] == "3 runs, 3.0 hours in all"  # each counted once


def test_rows_are_compared_on_the_same_data_and_network():
    rows = [
        make_row(method, recipe=recipe, paper=False)
        for recipe in ("cifar10_r18", "cifar100_rx50")
        for method in ("mixup", "automix")
    ]
    lower = {method: accuracy - 10 for method, accuracy in DONE.items()}
    found = table.make(rows, make_results(rows[:2]) + make_results(rows[2:], lower), 3)
    assert [line.rank for line in found.lines] == [2, 1, 2, 1]
    assert [pair.line.group for pair in found.pairs] == [
        ("CIFAR-10", "ResNet-18"),
        ("CIFAR-100", "ResNeXt-50"),
    ]
    assert "| MixUp | ResNeXt-50 | CIFAR-100 |" in found.markdown()
    assert "published" not in found.markdown()
    assert found.verdicts[1].startswith(
        "CIFAR-100, ResNeXt-50: Compared with AutoMix, clearly below"
    )


def test_equals_share_a_rank(rows):
    accuracies = {"vanilla": 90.0, "mixup": 91.0, "cutmix": 91.001, "automix": 90.5}
    found = table.make(rows, make_results(rows, accuracies), 3)
    assert [line.rank for line in found.lines] == [0, 1, 1, 2]


def test_a_published_number_must_be_an_accuracy(rows):
    fields = vars(rows[0])
    row = type(rows[0])(**{**fields, "paper": "table9/tiny_imagenet/resnet18/l3/hours"})
    with pytest.raises(ConfigError, match="is in hours: name an accuracy"):
        table.make([row], [])
    with pytest.raises(ConfigError, match="Did you mean 'table1/cifar10/resnet18/vanilla'"):
        table.make([type(row)(**{**fields, "paper": "table1/cifar10/resnet18/vanila"})], [])


def test_csv_and_json_do_not_round(full, rows):
    results = make_results(rows, {**DONE, "automix": 93.123456})
    found = table.make(rows, results, 3)
    (line,) = [x for x in csv.DictReader(io.StringIO(found.csv())) if x["name"] == "AutoMix"]
    assert float(line["mean"]) == pytest.approx(93.123456, abs=1e-12)
    assert line["source"] == "Table 1: CIFAR-10, R-18, AutoMix"
    assert line["notes"] == "epochs 20 instead of 800"
    content = json.loads(found.json())
    row = content["rows"][3]
    assert row["ours"]["mean"] == float(line["mean"])
    assert [trial["median"] for trial in row["trials"]] == [x.median for x in found.lines[3].trials]
    assert statistics.stdev(t["median"] for t in row["trials"]) == row["ours"]["std"]
    assert row["published"]["value"] == 97.34
    assert content["paired"][0]["reference"] == "AutoMix"


def test_the_order_of_results_does_not_matter(rows, full):
    results = make_results(rows)
    other = table.make(rows, results[::-1], 3, command="automix reproduce table1")
    assert other.markdown() == full.markdown()
    assert other.json() == full.json()


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_texts_do_not_break_a_table(name, reason):
    row = make_row("mixup", name)
    failure = {"key": trials(row, 1)[0].key, "reason": reason}
    found = table.make([row], [], failures=[failure], command=reason)
    body = [line for line in found.markdown().split("\n") if line.startswith("| ")]
    assert len(body) == 3
    plain = [line.replace("\\\\", "").replace("\\|", "") for line in body]
    assert len({line.count("|") for line in plain}) == 1
    assert "<" not in plain[2].replace("\\<", "").replace("<sup>", "").replace("</sup>", "")
    latex = found.latex().split("\\midrule\n")[1].split("\n\\bottomrule")[0]
    assert "\n" not in latex
    bare = latex.removesuffix("\\\\")
    for char in "&%#_":
        bare = bare.replace(f"\\{char}", "")
    assert bare.count("&") == 8
    assert not set("%#_~^") & set(bare.replace("\\textasciitilde", ""))
    (line,) = csv.DictReader(io.StringIO(found.csv(), newline=""))
    assert line["name"] == "".join(char if char.isprintable() else " " for char in name)
    assert json.loads(found.json())["rows"][0]["status"] == f"failed: {reason}"
    shown = io.StringIO()
    Console(file=shown, width=400, force_terminal=False).print(found.rich())
    assert "\x1b" not in shown.getvalue()


def test_brackets_are_no_markup_on_a_terminal():
    found = table.make([make_row("mixup", "[red]MixUp[/red] \x1b[2J")], [])
    shown = io.StringIO()
    Console(file=shown, width=200).print(found.rich())
    assert "[red]MixUp[/red]  [2J" in shown.getvalue()


RESULTS = ROOT / "docs/results"


@pytest.mark.parametrize("name", ["table1_cpu", "table8_cpu"])
def test_pages_of_results_say_what_was_measured(name):
    """Every accuracy of a page is that of its runs, epoch by epoch, computed anew."""
    page = (RESULTS / f"{name}.md").read_text()
    runs = [json.loads(line) for line in (RESULTS / "cpu_runs.jsonl").read_text().splitlines()]
    curves = {run["folder"].rpartition("-")[2]: run["accuracy"] for run in runs}
    rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    assert len(rows) == 10
    for row in rows:
        last = [curves[trial["key"][:8]][row["head"]][-1] for trial in row["trials"]]
        assert len(last) == 3
        shown = f"{statistics.fmean(last):.2f} ± {statistics.stdev(last):.2f}"
        (line,) = (
            x for x in page.splitlines() if x.startswith(f"| {row['name']} |") and "3/3" in x
        )
        assert shown in line

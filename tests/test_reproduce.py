"""The tables and figures of the paper as sweeps: rows, published numbers, budgets."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from automix_jax import cli
from automix_jax.commands.configs import load_named
from automix_jax.sweep import cells as cells_lib
from automix_jax.sweep import measures, published
from automix_jax.sweep.footnotes import differences
from automix_jax.sweep.presets import BUDGETS, PRESETS, Choice, find
from automix_jax.validation import validate
from tests import runs

TABLES = [name for name in PRESETS if name.startswith("table")]


def choose(name, dataset="", backbone="", budget="paper", **rest):
    preset = find(name)
    dataset, backbone = preset.settle(dataset, backbone, budget)
    choice = Choice(dataset, backbone, budget, load_named, **rest)
    return preset, preset.rows(choice)


def fields(row):
    return cells_lib.flat(row.config)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", PRESETS)
def test_rows_can_be_trained(name, budget):
    """Every configuration is valid, and no two rows of a table are the same number."""
    _, rows = choose(name, budget=budget)
    for row in rows:
        validate(row.config, 1)
        assert row.recipe == BUDGETS[budget].recipe or budget != "cpu"
    shown = [
        (cells_lib.trials(row, 1)[0].key, row.head or row.config.eval.headline) for row in rows
    ]
    assert len(set(shown)) == len(rows) == len({row.name for row in rows})


@pytest.mark.parametrize("name", TABLES)
def test_published_numbers(name):
    """All of a column stand beside our rows, each of the row's own configuration."""
    preset, rows = choose(name)
    dataset, backbone = next((d, b[0]) for d, b in preset.cells.items())
    for row in rows:
        if name == "table6" and row.method == "comixup":
            continue  # no table has its accuracy
        number = published.get(row.paper)
        assert number.unit == published.TOP_1
        assert row.reference.data.name == dataset
        differing = differences(row.config, row.reference)
        assert not differing, (row.name, differing)
        assert row.reference.epochs == number.epochs or number.epochs is None
    if name in ("table1", "table2", "table3", "table7", "table9"):
        column = rows[0].paper.rpartition("/")[0]
        values = {n.name for n in published.find(f"{column}/") if n.unit == published.TOP_1}
        assert {row.paper for row in rows} == values - {f"{column}/gain"}, backbone


def test_numbers_of_table_8():
    """The rows are in the order of the paper's, MixUp, CutMix and MixBlock."""
    _, rows = choose("table8")
    values = [published.get(row.paper).value for row in rows]
    assert values == [79.12, 80.82, 80.41, 78.17, 79.57, 79.64, 79.46, 81.75, 81.93, 82.04]


def test_rows_of_table_8():
    """Each row is one switch set; MixUp's teacher is that of the very run of the row before."""
    _, rows = choose("table8")
    mixup, mp, ce = rows[:3]
    assert cells_lib.trials(mixup, 1) == cells_lib.trials(mp, 1) != cells_lib.trials(ce, 1)
    assert (mixup.head, mp.head, ce.head) == ("", "teacher_mix", "teacher_mix")
    assert fields(ce)["method.clean_weight"] == 1.0
    none, copied, without, whole = (fields(row) for row in rows[-4:])

    def changed(row):
        return {k: row[k] for k in row if row[k] != whole[k]}

    assert changed(without) == {"method.clean_branch": False}
    assert changed(none) == {"method.clean_branch": False, "teacher.enabled": False}
    assert changed(copied) == {
        "method.clean_branch": False, "teacher.momentum": 0.0, "teacher.momentum_end": 0.0
    }  # fmt: skip
    assert len(cells_lib.cells(rows, 3)) == 3 * 8


def test_rows_of_table_7():
    """From random cells of MixBlock's size to the whole of AutoMix."""
    _, rows = choose("table7")
    grids, attention, embedding, whole = map(fields, rows)
    assert grids["method.name"] == "randomgrid" and grids["method.options.cell"] == 4
    assert grids["teacher.enabled"] and grids["method.clean_weight"] == 1.0

    def changed(row):
        return {k: row[k] for k in row if row[k] != whole[k]}

    assert changed(embedding) == {"mask_loss.weight": 0.0}
    assert changed(attention) == {"mask_loss.weight": 0.0, "mixblock.lam_embed": "none"}
    assert whole == fields(choose("table1", "tiny_imagenet")[1][-1])


def test_rows_of_the_other_ablations():
    layers = [fields(row)["model.layer"] for row in choose("table9")[1]]
    assert layers == ["", "stage1", "stage2", "stage3", "stage4"]
    alphas = [fields(row)["method.alpha"] for row in choose("fig9")[1]]
    assert alphas == [0.2, 0.5, 1.0, 2.0, 4.0]
    with_it, copied, without = map(fields, choose("fig6")[1])
    assert [row["teacher.enabled"] for row in (with_it, copied, without)] == [True, True, False]
    assert copied["teacher.momentum"] == copied["teacher.momentum_end"] == 0


def test_budgets_say_what_differs():
    """The same rows for 20 epochs beside the shortest that is published; the embedded images beside
    nothing."""
    _, whole = choose("table1", "cifar10")
    _, short = choose("table1", "cifar10", budget="gpu")
    for long, row in zip(whole, short, strict=True):
        assert fields(row) == fields(long) | {"epochs": 20}
        number = published.get(row.paper)
        assert number.epochs == (800 if row.method == "comixup" else 200)
        (note,) = differences(row.config, row.reference)
        assert "20" in note and str(number.epochs) in note
    _, small = choose("table1", budget="cpu")
    assert all(not row.paper and row.reference is None for row in small)
    assert {row.config.data.name for row in small} == {"fashion_mnist_sample"}
    _, chosen = choose("table1", "cifar10", epochs=400, methods=("mixup", "automix"))
    assert [row.method for row in chosen] == ["mixup", "automix"]
    assert [published.get(row.paper).value for row in chosen] == [96.55, 97.08]


def test_overrides_change_what_is_trained_and_not_what_it_is_compared_with():
    _, rows = choose("table1", "cifar10", overrides=("--config.batch_size=50",))
    assert rows[0].config.batch_size == 50 and rows[0].reference.batch_size == 100
    assert len(differences(rows[0].config, rows[0].reference)) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tabel1"], "Did you mean 'table1'"),
        (["table1", "--dataset=cifar"], "Did you mean 'cifar10'.*cifar100, tiny_imagenet"),
        (["table1", "--backbone=r50"], "does not have on cifar10"),
        (["table1", "--budget=gpus"], "Did you mean 'gpu'"),
        (["table1", "--budget=cpu", "--dataset=cifar10"], "has data and a network of its own"),
        (["table1", "--methods=mixup+cutmax"], "'cutmax', which is not in table1. Did you mean"),
        (["table1", "--epochs=-1"], "--epochs is -1"),
        (["table1", "--seeds=0"], "--seeds is 0"),
        (["table1", "--config.lr=1", "--plan"], "config.lr is not a field"),
        (["table1", "--report", "--out=/nowhere/at/all"], "no folder"),
    ],
)
def test_bad_arguments(argv, message, capsys):
    assert cli.main(["reproduce", *argv]) in (2, 66)
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_plan(capsys):
    """It says what would be trained, and beside what; the list names all there is."""
    assert cli.main(["reproduce", "table9", "--plan", "--seeds=2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "10 trainings" in shown and "67.33" in shown and "Table 9" in shown
    assert cli.main(["reproduce"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PRESETS)


# -- what is measured beyond accuracy ------------------------------------------------------------


def write_suite(out, row, seed, suite, numbers):
    folder = out / cells_lib.trials(row, seed + 1)[seed].folder / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{suite}_student_mix.json").write_text(json.dumps({"numbers": numbers}))


def test_measures(tmp_path):
    """Mean and deviation over the seeds, the published numbers of Table 4 beside them."""
    _, rows = choose("table4", methods=("mixup", "automix"))
    mixup = rows[0]
    for seed, accuracy in enumerate((50.0, 52.0)):
        found = {"clean": 80.0 + seed, "accuracy_19": accuracy, "accuracy_15": None}
        write_suite(tmp_path, mixup, seed, "corruptions", found)
    write_suite(tmp_path, mixup, 0, "attacks", {"errors": {"fgsm_8": 61.5, "pgd10_8": 99.0}})
    values = measures.collect(rows, 3, tmp_path, ("corruptions", "attacks"), "table4")
    by_title = {(v.row, v.measure.title): v for v in values}
    corruption = by_title["MixUp", "19 corruptions, %"]
    assert (corruption.ours.mean, corruption.ours.n) == (51.0, 2)
    assert corruption.ours.std == pytest.approx(2**0.5)
    assert corruption.paper.value == 58.10 and by_title["MixUp", "clean, %"].paper.value == 82.44
    assert by_title["AutoMix", "FGSM 8/255, error %"].paper.value == 55.34
    page = measures.markdown(values)
    assert "| MixUp | 80.50 ± 0.71 | 82.44 | 51.00 ± 1.41 | 58.1 |" in page
    assert "61.50 (n = 1)" in page and "common 15" not in page  # which was not measured
    content = json.loads(measures.as_json(values))
    assert len(content) == 2 * 5 and content[0]["published"]["source"] == "Table 4"


def test_measures_of_table_6():
    _, rows = choose("table6")
    measure = next(m for m in measures.MEASURES if m.suite == "localization")
    (value,) = (v for v in measures.collect(rows, 1, Path("/nowhere"),
                                            ("localization",), "table6")
                if v.row == "AutoMix" and v.measure is measure)  # fmt: skip
    assert value.ours.mean is None and value.paper.value == 54.46
    assert dataclasses.asdict(value.ours)["n"] == 0


# -- from the command to the pictures ------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("argv", "made"),
    [
        (["table4", "--methods=mixup"], ["measures.md", "measures.json"]),
        (["table8", "--methods=automix"], ["table8.png", "table8.svg", "table8.json"]),
        (["table9"], ["table9.png"]),
        (["fig1", "--methods=vanilla+mixup"], ["fig1.png"]),
        (["fig3"], ["fig3_cam.png"]),
        (["fig4"], ["measures.md", "fig4_mixups.png"]),
        (["fig6"], ["fig6.png", "fig6_training1.png", "fig6_training3.png"]),
        (["fig7"], ["fig7_training.png"]),
        (["fig8", "--methods=mixup+automix"], ["measures.json", "fig8.png"]),
        (["fig9"], ["fig9.png"]),
    ],
)
def test_from_the_command_to_the_pictures(argv, made, tmp_path, monkeypatch):
    """Trained for one epoch on tiny images; a second call trains nothing and draws the same."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    data = runs.write_npz(tmp_path / "data.npz")
    small = [field for field in runs.tiny(data) if "epochs" not in field]
    out = tmp_path / "out"
    command = ["reproduce", *argv, "--budget=cpu", "--epochs=1", "--seeds=1", f"--out={out}",
               *small, "--config.data.image_size=0"]  # fmt: skip
    assert cli.main(command) == 0
    for name in ("report.md", "report.csv", "report.json", "report.tex", *made):
        assert (out / name).stat().st_size > 0, name
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.jsonl")}
    assert before
    assert cli.main([*command, "--report"]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.jsonl")} == before

"""The tables and figures of the paper as sweeps: rows, published numbers, budgets."""

import contextlib
import errno
import functools
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from automix_jax import cli
from automix_jax.commands import follow_up
from automix_jax.commands.configs import load_named
from automix_jax.commands.reproduce import _default_out
from automix_jax.errors import CheckpointError, DataError
from automix_jax.sweep import cells as cells_lib
from automix_jax.sweep import published
from automix_jax.sweep.footnotes import differences
from automix_jax.sweep.presets import BUDGETS, PRESETS, Choice, find
from automix_jax.train.lock import locked
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
    layers = [fields(row)["model.layer"] for row in choose("table9", backbone="rx50")[1]]
    assert layers == ["", "stem", "stage1", "stage3", "stage4"]  # by the paper's parameters
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
        changed = {"epochs": 20} | (
            {"optimizer.mixblock_lr": 0.0} if row.method == "automix" else {}
        )
        assert fields(row) == fields(long) | changed
        number = published.get(row.paper)
        assert number.epochs == (800 if row.method == "comixup" else 200)
        notes = differences(row.config, row.reference)
        assert f"epochs 20 instead of {number.epochs}" in notes
        # The authors' pages go with their files: AutoMix's without λ in the features.
        embedded = "mixblock.lam_embed concat instead of none" in notes
        assert embedded == (row.method == "automix")
        by_channels = any("mixblock_lr" in note for note in notes)
        assert by_channels == (row.method == "automix")
    _, small = choose("table1", budget="cpu")
    assert all(not row.paper and row.reference is None for row in small)
    assert {row.config.data.name for row in small} == {"fashion_mnist_sample"}
    _, chosen = choose("table1", "cifar10", epochs=400, methods=("mixup", "automix"))
    assert [row.method for row in chosen] == ["mixup", "automix"]
    assert [published.get(row.paper).value for row in chosen] == [96.55, 97.08]


@pytest.mark.parametrize(
    ("name", "cell", "epochs", "method", "expected"),
    [
        ("table1", ("cifar100", "rx50"), 800, "cutmix", 81.67),  # the table's, not the pages' 78.32
        ("table1", ("cifar100", "rx50"), 200, "cutmix", 81.52),
        ("table1", ("tiny_imagenet", "r18"), 400, "automix", 67.33),
        ("table1", ("cifar100", "wrn28_8"), 0, "automix", 85.18),
        ("table2", ("imagenet", "r18"), 300, "automix", 72.05),
        ("table2", ("imagenet", "rx101"), 300, "automix", None),  # which nobody has published
    ],
)
def test_which_number_stands_beside_a_length(name, cell, epochs, method, expected):
    _, (row,) = choose(name, *cell, epochs=epochs, methods=(method,))
    assert (published.get(row.paper).value if row.paper else None) == expected
    assert expected is None or row.config.epochs == row.reference.epochs


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
        (["table1", "--budget=cpu", "--data=/data"], "leave out --data"),
        (["fig9", "--config.method.alpha=1"], "config.method.alpha is what the rows of fig9 set"),
        (["table8", "--config.teacher.enabled=True"], "config.teacher.enabled is what the rows"),
        (["table9", "--config.mixblock.share_qk=True"], "config.mixblock.share_qk is what"),
        (["table1", "--config.method.name=mixup"], "config.method.name is what the rows"),
        (["table4", "--boxes=b.csv"], "--boxes is for table6, not for table4"),
        (["table6", "--corruptions=DIR"], "--corruptions is for table4, not for table6"),
        (["table4", "--budget=cpu", "--corruptions=/nowhere"], "no folder: correct it"),
        (["table6", "--budget=cpu"], "fashion_mnist_sample has none: give --boxes.*--train-only"),
        (["table6", "--budget=cpu", "--boxes=/nowhere"], "no boxes at /nowhere"),
        (["table6"], "cub200 has no path"),
    ],
)
def test_bad_arguments(argv, message, capsys, monkeypatch, tmp_path):
    """Nothing is trained, and nothing written."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", *argv]) in (2, 64, 66)
    assert not list(tmp_path.iterdir())
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_plan(capsys):
    """It says what would be trained, and beside what; the list names all there is."""
    assert cli.main(["reproduce", "table9", "--plan", "--seeds=2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "10 trainings" in shown and "67.33" in shown and "Table 9" in shown
    assert "AutoMix, l = 3 Tiny-ImageNet, ResNet-18 400 67.33 Table 9:" in shown  # in one line
    assert cli.main(["reproduce"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PRESETS)


# -- what is measured beyond accuracy ------------------------------------------------------------


def write_suite(out, row, seed, suite, numbers):
    folder = out / cells_lib.trials(row, seed + 1)[seed].folder / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{suite}_student_mix.json").write_text(json.dumps({"numbers": numbers}))


def measured(name, out, seeds=3, budget="paper", **choice):
    preset, rows = choose(name, budget=budget, **choice)
    dataset, backbone = preset.settle("", "", budget)
    made = Choice(dataset, backbone, budget, load_named, **choice)
    todo = follow_up.FollowUp(preset, made, rows, seeds, out, Console(), None, None)
    follow_up.write_measures(todo)
    content = json.loads((out / "measures.json").read_text())
    return {(v["row"], v["measure"]): v for v in content}, (out / "measures.md").read_text()


def test_measures(tmp_path):
    """Mean and deviation over the seeds, the published numbers of Table 4 beside them."""
    _, rows = choose("table4", methods=("mixup", "automix"))
    mixup = rows[0]
    for seed, accuracy in enumerate((50.0, 52.0)):
        found = {"clean": 80.0 + seed, "accuracy_19": accuracy, "accuracy_15": None}
        found["comparable_to_published"] = seed == 0
        write_suite(tmp_path, mixup, seed, "corruptions", found)
    write_suite(tmp_path, mixup, 0, "attacks", {"errors": {"fgsm_8": 61.5, "pgd10_8": 99.0}})
    values, page = measured("table4", tmp_path, methods=("mixup", "automix"))
    assert len(values) == 2 * 5
    corruption = values["MixUp", "19 corruptions, %"]
    assert (corruption["ours"]["mean"], corruption["ours"]["n"]) == (51.0, 2)
    assert corruption["ours"]["std"] == pytest.approx(2**0.5)
    assert corruption["published"]["value"] == 58.10
    assert values["MixUp", "clean, %"]["published"]["value"] == 82.44
    fgsm = values["AutoMix", "FGSM 8/255, error %"]["published"]
    assert (fgsm["value"], fgsm["source"]) == (55.34, "Table 4")
    # What was corrupted anew is no accuracy on the published images; the clean one is the same.
    assert not corruption["comparable"] and "corrupted anew" in corruption["notes"][0]
    assert values["MixUp", "clean, %"]["comparable"]
    note = published.get("table4/cifar100/resnext50_32x4d/mixup/clean").note
    assert page.splitlines()[0].startswith("| method | clean, % | paper | 19 corruptions, % |")
    assert "| MixUp | 80.50 ± 0.71 | 82.44 <sup>1</sup> | 51.00 ± 1.41 <sup>2</sup> |" in page
    assert f"<sup>1</sup> {note}" in page and "<sup>2</sup> on images that were" in page
    assert "61.50 (n = 1)" in page and "common 15" not in page  # which was not measured


def test_measures_of_another_setting(tmp_path):
    """A short run's numbers stand beside the published ones with what differs."""
    _, rows = choose("table4", budget="gpu", methods=("automix",))
    cell = cells_lib.trials(rows[0], 1)[0]
    write_suite(tmp_path, rows[0], 0, "attacks", {"errors": {"fgsm_8": 61.5, "pgd10_8": 99.0}})
    data = {"name": "cifar100", "train_images": 50_000, "test_images": 10_000}
    record = {"key": cell.key, "compute_dtype": "bfloat16", "data": data,
              "config": fields(rows[0])}  # fmt: skip
    (tmp_path / "results.jsonl").write_text(json.dumps(record) + "\n")
    values, page = measured("table4", tmp_path, budget="gpu", methods=("automix",))
    fgsm = values["AutoMix", "FGSM 8/255, error %"]
    assert not fgsm["comparable"]
    assert any(note.startswith("epochs 20 instead of") for note in fgsm["notes"])
    assert fgsm["notes"][-1] == "computed in bfloat16" and "computed in bfloat16" in page
    # Without a published number there is nothing to differ from.
    assert values["AutoMix", "PGD-10 8/255, error %"]["notes"] == []


def test_measures_of_table_6_and_figure_8(tmp_path):
    """Co-Mixup as well, of which no table has an accuracy; the paper says nothing of the bins."""
    _, rows = choose("table6")
    boxed = {"max_box_acc_v2": 50.0, "centered_box_acc_v2": 40.0}
    write_suite(tmp_path, next(row for row in rows if row.method == "comixup"), 0,
                "localization", boxed)  # fmt: skip
    values, page = measured("table6", tmp_path)
    assert values["AutoMix", "MaxBoxAccV2, %"]["published"]["value"] == 54.46
    assert values["AutoMix", "MaxBoxAccV2, %"]["ours"]["n"] == 0
    comixup = values["Co-Mixup", "MaxBoxAccV2, %"]
    assert comixup["published"]["value"] == 54.13 and comixup["comparable"]
    assert "| Co-Mixup | 50.00 (n = 1) | 54.13 | 40.00 (n = 1) |" in page

    _, rows = choose("fig8", methods=("automix",))
    found = {"measured": {"ece_15": 0.021, "brier": 0.4}}
    write_suite(tmp_path, rows[0], 0, "calibration", found)
    values, page = measured("fig8", tmp_path, methods=("automix",))
    ece = values["AutoMix", "ECE, 15 bins, %"]
    assert (ece["ours"]["mean"], ece["published"]["value"]) == (pytest.approx(2.1), 2.3)
    assert ece["notes"] == ["15 bins; the paper does not state its own"]
    assert "| AutoMix | 2.10 (n = 1) <sup>1</sup> | 2.3 | 0.40 (n = 1) |" in page


# -- several processes, and what cannot be drawn -------------------------------------------------


def test_tasks_that_others_are_at(tmp_path, monkeypatch, capsys):
    """They wait until all else is done; what fails stops nothing, and is the exit code."""
    monkeypatch.setattr(follow_up, "_POLL", 0.01)
    holder, done, said = contextlib.ExitStack(), [], []
    holder.enter_context(locked(tmp_path / "a"))

    def task(name):
        with locked(tmp_path / name):
            done.append(name)
        if name == "b":
            raise DataError("no data.")
        return 0

    def say(text):
        assert done == ["b", "c"]
        said.append(text)
        holder.close()

    tasks = {name: functools.partial(task, name) for name in "abc"}
    assert follow_up.take_turns(tasks, say) == 64
    assert done == ["b", "c", "a"] and len(said) == 1 and said[0].startswith("a: another process")
    assert capsys.readouterr().err == "error: b: no data.\n"


def test_what_is_evaluated(tmp_path, monkeypatch):
    """The runs that have ended, by all suites of a preset at once; of a part its own alone."""
    asked = []
    monkeypatch.setattr(follow_up, "_evaluate", lambda argv: asked.append(argv) or 0)
    given = Path("boxes.csv"), Path("CIFAR-100-C")
    for name, suites in (("fig6", ""), ("table4", "corruptions,attacks")):
        preset, rows = choose(name, budget="cpu")
        choice = Choice(*preset.settle("", "", "cpu"), "cpu", load_named)
        todo = follow_up.FollowUp(preset, choice, rows, 1, tmp_path, Console(), *given)
        cells = [cells_lib.trials(row, 1)[0] for row in rows]
        for cell in cells[1:]:
            (tmp_path / cell.folder).mkdir()
            (tmp_path / cell.folder / "summary.json").touch()
        assert follow_up.evaluate(todo, None) == 0
        for argv, cell in zip(asked, cells[1:], strict=bool(suites)):
            assert argv[:2] == [str(tmp_path / cell.folder), f"--suite={suites}"]
            assert argv[4:] == ["--boxes=boxes.csv", "--corruptions=CIFAR-100-C"]
        assert bool(asked) == bool(suites)
    asked.clear()
    assert follow_up.evaluate(todo, (2, 3)) == 0  # the second and the fifth of six
    assert [argv[0] for argv in asked] == [str(tmp_path / cells[i].folder) for i in (1, 4)]


def test_what_cannot_be_drawn_is_said(tmp_path, capsys):
    """It changes no exit code; a picture has the number of its row, whatever has ended."""
    for name in ("fig9", "table7", "fig6", "fig8"):
        preset, rows = choose(name, budget="cpu")
        choice = Choice(*preset.settle("", "", "cpu"), "cpu", load_named)
        console = Console(soft_wrap=True)
        todo = follow_up.FollowUp(preset, choice, rows, 1, tmp_path, console, None, None)
        if name == "fig8":
            run = tmp_path / cells_lib.trials(rows[2], 1)[0].folder
            run.mkdir()
            (run / "summary.json").write_text("{}")
            assert list(follow_up._finished(todo)) == [3]
        assert follow_up.draw(todo) == 0
        shown = capsys.readouterr().out
        assert ("not drawn: the chart: " in shown) == (name != "fig8")
        for row in rows[1:2]:
            pending = f"not drawn: {row.name}: the run of its first seed has not ended."
            assert (pending in shown) == (name in ("fig6", "fig8"))
        assert ("not drawn: calibration: " in shown) == (name == "fig8")


def test_what_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    _, rows = choose("fig8", methods=("automix",))
    write_suite(tmp_path, rows[0], 0, "calibration", {"measured": {"ece_15": 0.02, "brier": 0.4}})
    monkeypatch.setattr("automix_jax.train.workdir.write_atomically", full)
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left"):
        measured("fig8", tmp_path, methods=("automix",))


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({}, "table1-cifar10-r18-paper"),
        ({"budget": "cpu"}, "table1-cpu"),
        ({"budget": "gpu", "variant": "released", "epochs": 50},
         "table1-cifar10-r18-gpu-released-ep50"),
        ({"methods": ("automix", "mixup")}, "table1-cifar10-r18-paper-mixup+automix"),
        ({"methods": find("table1").methods}, "table1-cifar10-r18-paper"),
    ],
)  # fmt: skip
def test_every_choice_has_a_folder_of_its_own(choice, name):
    preset = find("table1")
    budget = choice.pop("budget", "paper")
    made = Choice("cifar10", "r18", budget, load_named, **choice)
    assert _default_out(preset, made) == Path("runs", name)


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

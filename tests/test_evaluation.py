"""`automix evaluate`: the suites of a run, what they keep, and what they refuse."""

import importlib.util
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from PIL import Image

from automix_jax import cli, recipes
from automix_jax.errors import MemoryLimitError
from automix_jax.evaluate.calibration import TEMPERATURES, measure
from automix_jax.report import evaluation
from automix_jax.report.suites import accuracy, base
from automix_jax.report.suites.base import Options, open_subject
from automix_jax.train import loop
from automix_jax.train.build import build
from automix_jax.train.stop import Stop
from tests import runs
from tests.steps import data_mesh

CLASSES = ("dark", "dim", "light", "bright")
TRAIN, TEST = 8, 5  # images of a class


def write_pictures(root):
    """Pictures of 20 x 10 with a box whose colour tells the class, and a table of the boxes."""
    rng = np.random.default_rng(0)
    lines = ["path,x0,y0,x1,y1"]
    for split, count in (("train", TRAIN), ("test", TEST)):
        for k, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (10, 20, 3)).astype(np.uint8)
                x, y = int(rng.integers(0, 12)), int(rng.integers(0, 4))
                pixels[y : y + 6, x : x + 8] += np.uint8(60 * k)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
                if split == "test":
                    lines.append(f"{name}/{i}.png,{x},{y},{x + 7},{y + 5}")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a plain method on pictures, of which six are held out."""
    root = tmp_path_factory.mktemp("evaluation")
    write_pictures(root / "data")
    fields = {"data.name": "folder", "data.image_size": 16, "data.held_out": 6, "epochs": 1}
    config = recipes.override(
        recipes.load_config(f"{runs.RECIPE}:method=mixup"),
        [
            *runs.tiny(root / "data"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        patch.setattr(loop, "make_mesh", lambda: data_mesh(1))
        patch.setattr(loop, "build", lambda config, facts: build(config, facts, data_mesh(1)))
        loop.train(config, root / "run", loop.Options(Stop()))
    return root / "run"


@pytest.fixture(scope="module")
def subject(run):
    return open_subject(run, network=None, head=None, checkpoint="last", limit=None)


def evaluate(run, *argv):
    return cli.main(["evaluate", str(run), *argv])


def numbers(run, suite):
    return json.loads((run / "evaluation" / f"{suite}_student_mix.json").read_text())["numbers"]


def test_what_is_judged_is_what_training_evaluated(run, subject):
    """The accuracy is that of the run's own last evaluation."""
    assert evaluate(run, "--suite=accuracy,calibration") == 0
    found = numbers(run, "accuracy")
    recorded = runs.records(run)[-1]
    assert found["images"] == len(CLASSES) * TEST == len(subject.labels)
    assert found["top1"] == pytest.approx(recorded["eval/accuracy_student_mix"], abs=1e-5)
    assert found["nll"] == pytest.approx(recorded["eval/loss_student_mix"], rel=1e-5)
    assert sum(c["top1"] * c["images"] for c in found["classes"]) / 20 == pytest.approx(
        found["top1"]
    )
    share = found["top1"] / 100
    error = 100 * math.sqrt(share * (1 - share) / 20)
    assert found["top1_standard_error"] == pytest.approx(error)
    wrong = sum(pair["images"] for pair in found["confused"])
    assert wrong == round(20 * (1 - found["top1"] / 100))


def test_calibration_is_that_of_the_logits(run, subject):
    assert evaluate(run, "--suite=calibration") == 0
    found = numbers(run, "calibration")
    logits = subject.predict(subject.images, 20)
    expected = measure(logits, subject.labels)
    assert found["measured"]["ece_15"] == pytest.approx(expected["ece_15"], abs=1e-6)
    # Fitted to the images that training left out, and to no others.
    held_out = subject.predict(subject.held_out[0], 6)
    temperature = found["temperature"]
    assert temperature["images"] == 6 and temperature["fitted_to"] == "held-out"

    def loss(value):
        return measure(held_out / value, subject.held_out[1])["nll"]

    best = temperature["value"]
    around = np.clip([0.9 * best, 1.1 * best], *TEMPERATURES)
    assert loss(best) <= min(map(loss, around)) + 1e-9


def test_several_runs_side_by_side(run, tmp_path, capsys):
    assert evaluate(run, "--suite=calibration") == 0
    out = tmp_path / "grid.png"
    assert cli.main(["visualize", "calibration", str(run), f"--out={out}"]) == 0
    with Image.open(out) as image:
        assert image.format == "PNG"
    assert out.with_suffix(".svg").exists()
    assert cli.main(["visualize", "calibration", str(run), str(run), f"--out={out}"]) == 2
    assert "rename one" in capsys.readouterr().err
    missing = ["visualize", "calibration", str(run), "--head=clean", f"--out={out}"]
    assert cli.main(missing) == 2
    assert "calibration_student_clean.json is missing" in capsys.readouterr().err


def test_localization_of_pictures_with_boxes(run, capsys):
    boxes = run.parent / "data/boxes.csv"
    assert evaluate(run, "--suite=localization", f"--boxes={boxes}", "--batch-size=8") == 0
    found = numbers(run, "localization")
    assert found["images"] == 20 and found["method"] == "cam"
    assert 0 <= found["max_box_acc_v2"] <= 100
    assert "MaxBoxAccV2" in capsys.readouterr().out


def test_corruptions_of_a_set_and_on_the_way_agree(run, tmp_path):
    """Images that are corrupted beforehand are those that are corrupted on the way."""
    chosen = "--names=contrast,pixelate,gaussian_noise"
    assert evaluate(run, "--suite=corruptions", chosen) == 0
    made = numbers(run, "corruptions")
    data = f"folder:{run.parent / 'data'}"
    names = "--corruptions=contrast,pixelate,gaussian_noise"
    out = f"--out={tmp_path / 'c'}"
    assert cli.main(["data", "corrupt", data, "--size=16", "--workers=0", names, out]) == 0
    assert evaluate(run, "--suite=corruptions", chosen, f"--corruptions={tmp_path / 'c'}") == 0
    assert numbers(run, "corruptions")["table"] == made["table"]
    assert made["accuracy_19"] is None and made["by_corruption"].keys() == {
        "contrast",
        "pixelate",
        "gaussian_noise",
    }
    with pytest.MonkeyPatch.context() as patch:  # what was measured costs nothing again
        patch.setattr(base.Subject, "predict", None)
        assert evaluate(run, "--suite=corruptions", chosen, f"--corruptions={tmp_path / 'c'}") == 0


def test_an_interruption_costs_one_cell(run, subject, tmp_path, monkeypatch):
    options = Options(names=("contrast", "pixelate"))
    suite = evaluation.SUITES["corruptions"]
    calls = []

    class Interrupted:
        """Predicts nothing but the first class, and is interrupted once."""

        def __call__(self, images, batch_size):
            calls.append(len(images))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return np.eye(len(CLASSES), dtype=np.float32)[np.zeros(len(images), int)]

    monkeypatch.setitem(subject.__dict__, "predict", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        suite.measure(subject, options, 20, tmp_path / "corruptions")
    found, _ = suite.measure(subject, options, 20, tmp_path / "corruptions")
    assert len(calls) <= 2 * 5 + 2  # ten cells, the one that was interrupted, the clean images
    assert set(found["table"]["contrast"].values()) == {25.0}
    assert not list(tmp_path.glob(".*"))


def test_what_is_there_is_kept_unless_something_differs(run, subject, tmp_path):
    counted = accuracy.SUITE._replace(measure=lambda *args, **kw: ({"n": 0}, []), rows=lambda n: [])

    def kept(options, suite=counted, **again):
        (outcome,) = evaluation.evaluate(subject, [suite], options, tmp_path, **again)
        return outcome.kept

    assert not kept(Options())
    assert kept(Options()) and kept(Options(seed=1))  # the seed is nothing to this suite
    assert not kept(Options(), again=True)
    asking = counted._replace(asks=lambda options: {"seed": options.seed})
    assert [kept(Options(seed=s), asking) for s in (0, 0, 1)] == [False, True, False]
    (tmp_path / "accuracy_student_mix.json").write_text('{"numbers": ')
    assert not kept(Options())


def test_half_the_batch_where_memory_runs_out(subject, tmp_path):
    tried, said = [], []

    def measure(subject, options, size, stem):
        tried.append(size)
        if size > 4:
            raise MemoryError
        return {}, []

    suite = accuracy.SUITE._replace(measure=measure, rows=lambda numbers: [])
    list(evaluation.evaluate(subject, [suite], Options(), tmp_path, say=said.append))
    assert tried == [16, 8, 4] and len(said) == 2
    with pytest.raises(MemoryLimitError, match="for 5 images at once"):
        list(evaluation.evaluate(subject, [suite], Options(), tmp_path, batch_size=5, again=True))


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_no_number_depends_on_the_batch_size(subject, size):
    np.testing.assert_allclose(
        subject.predict(subject.images, size), subject.predict(subject.images, 16), atol=1e-5
    )


def test_some_of_the_images(run):
    some = open_subject(run, network=None, head=None, checkpoint="best", limit=7)
    whole = open_subject(run, network=None, head=None, checkpoint="best", limit=1000)
    assert whole.chosen is None and len(some.labels) == 7 == len(set(some.chosen))
    np.testing.assert_array_equal(some.images, whole.images[some.chosen])
    np.testing.assert_array_equal(some.labels, whole.labels[some.chosen])
    assert some.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (["--suite=calibrations"], 2, ["'calibrations'", "Did you mean 'calibration'?"]),
        (["--suite=localization"], 2, ["needs the boxes", "--boxes"]),
        (["--head=clean"], 2, ["no student_clean", "student_mix"]),
        (["--network=teacher"], 2, ["no teacher_mix"]),
        (["--limit=0"], 2, ["--limit is 0"]),
        (["--names=fogg"], 2, ["'fogg'", "Did you mean 'fog'?"]),
        (["--names="], 2, ["empty list"]),
        (["--corruptions=nowhere"], 64, ["no folder nowhere"]),
        (["--suite=mixed", "--methods=automix"], 2, ["automix", "--run of AutoMix"]),
        (["--suite=mixed", "--methods=mixap"], 2, ["Did you mean 'mixup'?"]),
        (["--suite=localization", "--boxes=nowhere"], 64, ["nowhere"]),
        (["--cam=camm"], 2, ["--cam"]),
    ],
)
def test_bad_arguments(run, argv, code, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate(run, *argv) == code
    captured = capsys.readouterr()
    for part in parts:
        assert part in captured.err
    assert "(0 s)" not in captured.out  # nothing was measured before


def test_what_lacks_something_is_left_out(monkeypatch):
    suites, lacking = evaluation.choose_suites(None, Options())
    assert [suite.name for suite in suites] == [
        name for name in evaluation.SUITES if name != "localization"
    ]
    assert lacking == {"localization": "--boxes"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "corruptions" in evaluation.choose_suites(None, Options())[1]
    given = Options(corruptions=Path("c"), boxes=Path("b"))
    assert evaluation.choose_suites(None, given) == (list(evaluation.SUITES.values()), {})


def test_no_run(tmp_path, capsys):
    assert evaluate(tmp_path) == 66
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("dark/0.png,0,0,20,40", ["line 2", "not within its image of 20 x 10"]),
        ("dark/0.png,5,0,2,4", ["line 2", "ends before it begins"]),
        ("other/0.png,0,0,2,4", ["have no box"]),
    ],
)
def test_bad_boxes(run, line, parts, tmp_path, capsys):
    boxes = (run.parent / "data/boxes.csv").read_text().splitlines()
    boxes[1] = line
    (tmp_path / "boxes.csv").write_text("\n".join(boxes))
    assert evaluate(run, "--suite=localization", f"--boxes={tmp_path / 'boxes.csv'}") == 64
    error = capsys.readouterr().err
    for part in parts:
        assert part in error


@pytest.mark.long
def test_everything_of_a_run(run, capsys):
    """All suites, their pictures and the report."""
    boxes = run.parent / "data/boxes.csv"
    assert evaluate(run, f"--boxes={boxes}", "--again", "--methods=mixup+cutmix") == 0
    folder = run / "evaluation"
    report = (folder / "student_mix.md").read_text()
    for suite in evaluation.SUITES:
        record = json.loads((folder / f"{suite}_student_mix.json").read_text())
        assert f"## {suite}" in report and record["pictures"]
        for name in record["pictures"]:
            path = folder / name
            if path.suffix == ".svg":
                ElementTree.parse(path)
            else:
                with Image.open(path) as image:
                    assert image.format == "PNG" and min(image.size) > 100
    assert "MaxBoxAccV2" in capsys.readouterr().out

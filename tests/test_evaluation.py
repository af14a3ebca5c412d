"""`automix evaluate`: the suites of a run, what they keep, and what they refuse."""

import dataclasses
import errno
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
from automix_jax.data.transforms.crop import resized_crop
from automix_jax.errors import ConfigError, DataError, MemoryLimitError, NumbersError
from automix_jax.evaluate.attacks import ATTACKS, CURVE
from automix_jax.evaluate.calibration import fit_temperature, measure
from automix_jax.evaluate.cam import make_cam
from automix_jax.evaluate.localization.metric import LocalizationScore
from automix_jax.evaluate.network import make_predict
from automix_jax.report import evaluation
from automix_jax.report.suites import accuracy
from automix_jax.report.suites import attacks as attacks_suite
from automix_jax.report.suites import corruptions as corruptions_suite
from automix_jax.report.suites import mixed as mixed_suite
from automix_jax.report.suites.base import Options, clean_logits, open_subject
from automix_jax.report.suites.localization import find_boxes
from automix_jax.train import loop
from automix_jax.train.build import build
from automix_jax.train.lock import locked
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
    fields = {"data.name": "folder", "data.image_size": 16, "data.held_out": 6, "epochs": 20}
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
    assert 25 < found["top1"] < 100  # or much could be wrong without a number that shows it
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


@pytest.mark.parametrize(("asked", "images"), [("held-out", 6), ("test", 20), ("none", None)])
def test_what_the_temperature_is_fitted_to(subject, tmp_path, asked, images):
    suite = evaluation.SUITES["calibration"]
    found, _ = suite.measure(subject, Options(temperature=asked), 20, tmp_path / "c")
    if images is None:
        assert found["temperature"] is None
        return
    x, y = subject.held_out if asked == "held-out" else (subject.images, subject.labels)
    fitted = fit_temperature(subject.predict(x, 20), y)
    assert found["temperature"]["images"] == images == len(y)
    assert found["temperature"]["value"] == pytest.approx(fitted, rel=1e-4)
    scaled = measure(clean_logits(subject, 20) / found["temperature"]["value"], subject.labels)
    assert found["temperature"]["measured"]["ece_15"] == pytest.approx(scaled["ece_15"])


def test_no_temperature_where_nothing_is_held_out(subject, tmp_path, monkeypatch):
    nothing = (subject.images[:0], subject.labels[:0])
    monkeypatch.setitem(subject.__dict__, "held_out", nothing)
    suite = evaluation.SUITES["calibration"]
    found, _ = suite.measure(subject, Options(), 20, tmp_path / "c")
    assert found["temperature"] is None
    assert ("temperature", "not fitted: no images were held out of training") in suite.rows(found)


@pytest.mark.parametrize(("gap", "text"), [(0.1, "+10.00: over-"), (-0.1, "-10.00: under-")])
def test_which_way_a_network_errs(subject, tmp_path, gap, text):
    suite = evaluation.SUITES["calibration"]
    found, _ = suite.measure(subject, Options(temperature="none"), 20, tmp_path / "c")
    found["measured"]["gap_15"] = gap
    assert text in dict(suite.rows(found))["confidence less accuracy [%]"]


def test_accuracy_of_given_logits(subject, tmp_path, monkeypatch):
    """The third class is seen in place of the second, which comes next."""
    labels = subject.labels
    logits = 4.0 * np.eye(4)[np.where(labels == 1, 2, labels)] + 2.0 * np.eye(4)[labels]
    monkeypatch.setitem(subject.logits, "test", logits)
    found, _ = accuracy.SUITE.measure(subject, Options(), 20, tmp_path / "a")
    assert found["top1"] == 75 and found["top5"] == 100
    names = subject.class_names
    assert found["confused"] == [{"class": names[1], "seen": names[2], "images": TEST}]
    assert [c["top1"] for c in found["classes"]] == [100, 0, 100, 100]
    assert dict(accuracy.SUITE.rows(found))["worst class"] == f"{names[1]}, 0.00 %"


def test_localization_of_pictures_with_boxes(run, subject, capsys):
    """As its parts make it of the same images."""
    boxes = run.parent / "data/boxes.csv"
    assert evaluate(run, "--suite=localization", f"--boxes={boxes}", "--batch-size=8") == 0
    assert "MaxBoxAccV2" in capsys.readouterr().out
    found = numbers(run, "localization")
    corners = {}
    for line in boxes.read_text().splitlines()[1:]:
        name, *box = line.split(",")
        corners[name] = [int(x) * 16 // side for x, side in zip(box, (20, 10, 20, 10), strict=True)]
    score = LocalizationScore(16)
    shown = np.stack([np.asarray(Image.open(run.parent / "data/test" / name)) for name in corners])
    images = np.stack(
        [resized_crop(Image.fromarray(x), (0, 0, 20, 10), 16, "bilinear") for x in shown]
    )
    labels = np.repeat([subject.class_names.index(name) for name in CLASSES], TEST)
    maps = make_cam(subject.network)(images / np.float32(255), labels)
    right = subject.predict(images, 20).argmax(-1) == labels
    score.add(np.asarray(maps), [np.array([box]) for box in corners.values()], right)
    expected = score.result()
    for name in ("max_box_acc", "max_box_acc_v2", "top1_localization", "centered_box_acc_v2"):
        assert found[name] == pytest.approx(expected[name]), name
    assert found["images"] == 20 and found["method"] == "cam"


def test_boxes_that_were_edited_are_measured_anew(run, tmp_path, capsys):
    lines = (run.parent / "data/boxes.csv").read_text().splitlines()
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(lines))
    where = [f"--boxes={path}", f"--out={tmp_path / 'out'}"]
    for kept in (False, True):
        assert evaluate(run, "--suite=localization", *where) == 0
        assert ("(kept)" in capsys.readouterr().out) == kept
    path.write_text(
        "\n".join([lines[0], *(line.rsplit(",", 4)[0] + ",0,0,1,1" for line in lines[1:])])
    )
    assert evaluate(run, "--suite=localization", *where) == 0
    assert "(kept)" not in capsys.readouterr().out


def test_attacks_are_given_what_was_asked_for(run, tmp_path, monkeypatch):
    some = open_subject(run, network=None, head=None, checkpoint="last", limit=9)
    calls = []

    def attack_errors(network, images, labels, batch_size, *, attacks=ATTACKS, **options):
        calls.append((network, images, labels, attacks, options))
        return {"clean": 1.0} | dict.fromkeys(attacks, 2.0)

    monkeypatch.setattr(attacks_suite, "attack_errors", attack_errors)
    monkeypatch.setattr(attacks_suite, "_CURVE_IMAGES", 4)
    found, _ = attacks_suite.SUITE.measure(some, Options(seed=3), 8, tmp_path / "a")
    (network, images, labels, attacks, options), (_, few, few_labels, curve, of_few) = calls
    assert network is some.network and attacks is ATTACKS and curve is CURVE
    np.testing.assert_array_equal(images, some.images)
    np.testing.assert_array_equal(labels, some.labels)
    assert options["seed"] == of_few["seed"] == 3
    np.testing.assert_array_equal(options["numbers"], some.chosen)
    places = np.searchsorted(some.chosen, of_few["numbers"])
    assert len(few) == 4 and places.tolist() != [0, 1, 2, 3]  # of all classes
    np.testing.assert_array_equal(few, some.images[places])
    np.testing.assert_array_equal(few_labels, some.labels[places])
    assert found["curve"]["images"] == 4 and found["errors"]["fgsm_8"] == 2


def test_mixed_data_are_given_what_was_asked_for(subject, tmp_path, monkeypatch):
    def mixed_accuracy(run, network, images, labels, methods, *, alpha, seed, batch, advance):
        assert run is subject.restored and network is subject.network
        assert images is subject.images and labels is subject.labels
        assert alpha == subject.trained.config.method.alpha and (seed, batch) == (5, 8)
        means = {"top1": 60.0, "top2": 20.0}
        each = {"lam": [0.0, 1.0], "top1": [50.0, 70.0], "top2": [10.0, 30.0], "beta": means}
        return {"pairs": 20, "alpha": alpha, "methods": dict.fromkeys(methods, each)}

    monkeypatch.setattr(mixed_suite, "mixed_accuracy", mixed_accuracy)
    options = Options(seed=5, methods=("mixup", "cutmix"))
    found, _ = mixed_suite.SUITE.measure(subject, options, 8, tmp_path / "m")
    assert list(found["methods"]) == ["mixup", "cutmix"]
    assert ("cutmix: top-1 / top-2 [%]", "60.00 / 20.00") in mixed_suite.SUITE.rows(found)


def test_corruptions_of_a_set_and_on_the_way_agree(run, tmp_path, capsys):
    """Images that are corrupted beforehand are those that are corrupted on the way."""
    chosen = "--names=contrast,pixelate,gaussian_noise"
    assert evaluate(run, "--suite=corruptions", chosen) == 0
    made = numbers(run, "corruptions")
    data = f"folder:{run.parent / 'data'}"
    names = "--corruptions=contrast,pixelate,gaussian_noise"
    out = f"--out={tmp_path / 'c'}"
    assert cli.main(["data", "corrupt", data, "--size=16", "--workers=0", names, out]) == 0
    given = ("--suite=corruptions", chosen, f"--corruptions={tmp_path / 'c'}")
    assert evaluate(run, *given) == 0
    assert numbers(run, "corruptions")["table"] == made["table"]
    assert made["accuracy_19"] is None and made["images"] == 20
    assert set(made["by_corruption"]) == {"contrast", "pixelate", "gaussian_noise"}
    capsys.readouterr()
    assert evaluate(run, *given) == 0 and "(kept)" in capsys.readouterr().out
    array = np.load(tmp_path / "c/contrast.npy")
    np.save(tmp_path / "c/contrast.npy", np.zeros_like(array))
    assert evaluate(run, *given) == 0 and "(kept)" not in capsys.readouterr().out
    assert set(numbers(run, "corruptions")["table"]["contrast"].values()) == {25.0}


def test_a_set_of_the_first_images_is_compared_with_these(run, subject, tmp_path):
    out, data = tmp_path / "c", f"folder:{run.parent / 'data'}"
    argv = ["--corruptions=contrast", "--size=16", "--limit=7", "--workers=0"]
    assert cli.main(["data", "corrupt", data, *argv, f"--out={out}"]) == 0
    suite = evaluation.SUITES["corruptions"]
    found, _ = suite.measure(subject, Options(corruptions=out), 20, tmp_path / "s")
    right = clean_logits(subject, 20).argmax(-1) == subject.labels
    assert found["images"] == 7 and found["clean"] == pytest.approx(100 * right[:7].mean())


def test_errors_are_divided_by_alexnets_for_imagenet_c_alone(subject, tmp_path, monkeypatch):
    for severity in range(1, 6):
        for name in CLASSES:
            folder = tmp_path / f"set/contrast/{severity}/{name}"
            folder.mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(folder / "0.png")
    suite, options = evaluation.SUITES["corruptions"], Options(corruptions=tmp_path / "set")
    options = dataclasses.replace(options, names=("contrast",))
    found, _ = suite.measure(subject, options, 20, tmp_path / "a")
    assert "mCE" not in found
    monkeypatch.setattr(corruptions_suite, "_IMAGENET", (4, 16))
    found, _ = suite.measure(subject, options, 20, tmp_path / "a")
    assert "mCE" in found
    found, _ = suite.measure(subject, Options(names=("contrast",)), 20, tmp_path / "b")
    assert "mCE" not in found


def test_an_interruption_costs_one_cell(subject, tmp_path, monkeypatch):
    """And a part of the corruptions none at all, afterwards."""
    suite, stem, calls = evaluation.SUITES["corruptions"], tmp_path / "corruptions", []

    class Interrupted:
        """Sees a class that tells how often it was asked, and is interrupted once."""

        def __call__(self, images, batch_size):
            calls.append(len(images))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return np.eye(4, dtype=np.float32)[np.full(len(images), len(calls) % 4)]

    monkeypatch.setitem(subject.__dict__, "predict", Interrupted())
    monkeypatch.setitem(subject.logits, "test", np.eye(4)[subject.labels])
    two = Options(names=("contrast", "pixelate"))
    with pytest.raises(KeyboardInterrupt):
        suite.measure(subject, two, 20, stem)
    found, _ = suite.measure(subject, two, 20, stem)
    assert len(calls) == 2 * 5 + 1  # ten cells, and the one that was interrupted
    assert set(found["table"]["contrast"].values()) == {25.0} and found["clean"] == 100
    again, _ = suite.measure(subject, Options(names=("pixelate",)), 20, stem)
    assert len(calls) == 11 and again["table"]["pixelate"] == found["table"]["pixelate"]
    suite.measure(subject, Options(names=("pixelate",), seed=1), 20, stem)  # other images
    suite.measure(subject, Options(names=("pixelate",), again=True), 20, stem)
    assert len(calls) == 11 + 5 + 5


def test_what_is_there_is_kept_unless_something_differs(subject, tmp_path):
    counted = accuracy.SUITE._replace(measure=lambda *args, **kw: ({"n": 0}, []), rows=lambda n: [])

    def kept(options, suite=counted):
        return evaluation.evaluate(subject, suite, options, tmp_path).kept

    assert not kept(Options())
    assert kept(Options()) and kept(Options(seed=1))  # the seed is nothing to this suite
    assert not kept(Options(again=True))
    asking = counted._replace(asks=lambda subject, options: {"seed": options.seed})
    assert [kept(Options(seed=s), asking) for s in (0, 0, 1)] == [False, True, False]
    assert not kept(Options(seed=1), asking._replace(version=2))
    (tmp_path / "accuracy_student_mix.json").write_text('{"numbers": ')
    assert not kept(Options())


def test_the_report_is_of_all_suites(subject, tmp_path):
    def outcome(name, **kw):
        suite = evaluation.SUITES[name]._replace(measure=lambda *a, **k: ({}, []), **kw)
        return evaluation.evaluate(subject, suite, Options(), tmp_path)

    with pytest.MonkeyPatch.context() as patch:
        rows = {"rows": lambda numbers: [("|a|", "1")]}
        patch.setitem(evaluation.SUITES, "mixed", evaluation.SUITES["mixed"]._replace(**rows))
        outcome("mixed")
        report = evaluation.write_report([outcome("accuracy", **rows)], subject, tmp_path)
    text = report.read_text()
    assert text.index("## accuracy") < text.index("## mixed") and "## attacks" not in text
    assert r"| \|a\| | 1 |" in text


def test_a_suite_that_fails_stops_no_other(run, tmp_path, monkeypatch, capsys):
    def fail(*args, **kw):
        raise DataError("no data.")

    broken = evaluation.SUITES["accuracy"]._replace(measure=fail)
    monkeypatch.setitem(evaluation.SUITES, "accuracy", broken)
    out = tmp_path / "out"
    assert evaluate(run, "--suite=accuracy,calibration", f"--out={out}") == 64
    assert "error: accuracy: no data." in capsys.readouterr().err
    assert "## calibration" in (out / "student_mix.md").read_text()


def test_what_cannot_work_is_left_out_unless_it_is_asked_for(run, monkeypatch, tmp_path, capsys):
    def refuse(subject, options):
        raise ConfigError("not here.")

    for name, suite in evaluation.SUITES.items():
        changed = suite._replace(measure=lambda *a, **k: ({}, []), rows=lambda numbers: [])
        changed = changed._replace(check=refuse if name == "mixed" else lambda *args: None)
        monkeypatch.setitem(evaluation.SUITES, name, changed)
    out = f"--out={tmp_path / 'out'}"
    assert evaluate(run, out) == 0
    assert "mixed is left out: not here." in capsys.readouterr().out
    assert not (tmp_path / "out/mixed_student_mix.json").exists()
    assert evaluate(run, "--suite=accuracy,mixed", out) == 2


def test_a_network_that_has_broken_is_not_judged(subject):
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), subject.network.variables)
    predict = make_predict(dataclasses.replace(subject.network, variables=broken))
    with pytest.raises(NumbersError, match="not finite for 3 of 3 images"):
        predict(subject.images[:3], 3)


def test_one_evaluation_at_a_time(run, tmp_path, capsys):
    """The second one reads no network before it is refused."""
    with locked(tmp_path):
        assert evaluate(run, "--suite=accuracy", f"--out={tmp_path}") == 66
    captured = capsys.readouterr()
    assert "is in use by" in captured.err and not captured.out


def test_a_full_disk_is_one_sentence(subject, tmp_path):
    def measure(*args, **kw):
        raise OSError(errno.ENOSPC, "No space left on device")

    suite = accuracy.SUITE._replace(measure=measure)
    with pytest.raises(
        ConfigError, match=r"cannot be written \(No space left on device\): make room"
    ):
        evaluation.evaluate(subject, suite, Options(), tmp_path)


def test_half_the_batch_where_memory_runs_out(subject, tmp_path):
    tried, said = [], []

    def measure(subject, options, size, stem):
        tried.append(size)
        if size > 4:
            raise MemoryError
        return {}, []

    suite = accuracy.SUITE._replace(measure=measure, rows=lambda numbers: [])
    evaluation.evaluate(subject, suite, Options(), tmp_path, say=said.append)
    assert tried == [16, 8, 4] and len(said) == 2
    with pytest.raises(MemoryLimitError, match="for 5 images at once"):
        evaluation.evaluate(subject, suite, Options(again=True), tmp_path, batch_size=5)


def test_not_even_one_image_fits(subject, tmp_path):
    def measure(*args, **kw):
        raise MemoryError

    suite = accuracy.SUITE._replace(measure=measure)
    with pytest.raises(MemoryLimitError, match="does not suffice for one image at a time"):
        evaluation.evaluate(subject, suite, Options(), tmp_path)


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_no_number_depends_on_the_batch_size(subject, size):
    np.testing.assert_allclose(
        subject.predict(subject.images, size), subject.predict(subject.images, 16), atol=1e-5
    )


def test_some_of_the_images(run):
    some = open_subject(run, network=None, head=None, checkpoint="best", limit=7)
    whole = open_subject(run, network=None, head=None, checkpoint="best", limit=1000)
    assert whole.chosen is None and len(some.labels) == 7 == len(set(some.chosen))
    assert some.chosen.tolist() != list(range(7))  # at random
    assert (some.name, whole.name) == ("student_mix_best_limit7", "student_mix_best")
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
        (["--suite=mixed", "--limit=1"], 2, ["two or more test images"]),
        (["--names=fogg"], 2, ["'fogg'", "Did you mean 'fog'?"]),
        (["--names="], 2, ["empty list"]),
        (["--corruptions=nowhere"], 64, ["no folder nowhere"]),
        (["--suite=mixed", "--methods=automix"], 2, ["automix", "--run of AutoMix"]),
        (["--suite=mixed", "--methods=mixap,cutmix"], 2, ["Did you mean 'mixup'?"]),
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
    assert lacking == {"localization": "it needs --boxes"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "corruptions" in evaluation.choose_suites(None, Options())[1]
    given = Options(corruptions=Path("c"), boxes=Path("b"))
    assert evaluation.choose_suites(None, given) == (list(evaluation.SUITES.values()), {})


def test_boxes_beside_the_images(run, tmp_path):
    assert find_boxes(run) is None
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"name": "tiny_imagenet", "path": str(tmp_path / "tiny")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "dataset.json").write_text((run / "dataset.json").read_text())
    assert find_boxes(tmp_path) is None
    (tmp_path / "tiny/val").mkdir(parents=True)
    (tmp_path / "tiny/val/val_annotations.txt").touch()
    assert find_boxes(tmp_path) == tmp_path / "tiny"


def test_no_run(tmp_path, capsys):
    assert evaluate(tmp_path / "nowhere") == 66
    assert "there is no folder" in capsys.readouterr().err
    assert evaluate(tmp_path / "nowhere", "--suite=localization", "--boxes=b.csv") == 66
    assert not (tmp_path / "nowhere").exists()
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

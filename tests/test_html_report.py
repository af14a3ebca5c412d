"""The page of a run, and the page that compares several."""

import base64
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from automix_jax.commands.report import report
from automix_jax.config import default_config
from automix_jax.errors import CheckpointError, ConfigError
from automix_jax.evaluate import samples
from automix_jax.report.evaluation import SUITES
from automix_jax.report.html import chart, markup, pictures, settings, write_report
from automix_jax.report.html.folder import read_run
from automix_jax.train.lock import locked
from tests import runs

STEPS = 10  # of an epoch
NASTY = "</script><b onload=\"x()\">&amp; 'it'"
CLASSES = ("cat", NASTY, "dog")
HEADS = ("student_mix", "student_clean", "teacher_mix", "teacher_clean")
VOID = ("meta", "br", "img", "input", "link")


class Page(HTMLParser):
    """A page read by a parser: raises where it is not well formed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        self.elements.append((tag, attributes))
        self.texts.append((len(self.elements) - 1, ""))
        if tag not in VOID:
            self.open.append((tag, len(self.elements) - 1))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, number in self.open:
            at, text = self.texts[number]
            self.texts[number] = (at, text + data)

    def find(self, tag, **attributes):
        """(attributes, text) of all elements of a tag that have these."""
        attributes = {key.rstrip("_"): value for key, value in attributes.items()}
        return [
            (found, self.texts[i][1])
            for i, (name, found) in enumerate(self.elements)
            if name == tag and attributes.items() <= found.items()
        ]

    def inside(self, id_):
        """The text of an element."""
        (text,) = [
            self.texts[i][1] for i, (_, found) in enumerate(self.elements) if found.get("id") == id_
        ]
        return text

    @property
    def data(self):
        return json.loads(self.inside("data"))

    @property
    def run(self):
        (only,) = self.data["runs"]
        return only

    @property
    def cells(self):
        return [text for _, text in self.find("td")]

    @property
    def words(self):
        return self.texts[0][1]


def check_page(path):
    """Parses a page, and makes sure that it loads nothing and has no ids twice."""
    text = path.read_bytes().decode("ascii")
    page = Page(text)
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(set(ids)) == len(ids)
    for tag, found in page.elements:
        assert not [key for key in found if key.startswith("on")]
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            if key in found:
                assert found[key].startswith("data:image/" if tag == "img" else "#")
                if found[key].startswith("#"):
                    assert found[key][1:] in ids
    for _, style in page.find("style"):
        assert "url(" not in style and "@import" not in style
    assert len(page.find("script")) == 2
    assert all(found.get("alt") for found, _ in page.find("img"))
    return page


def make_record(epoch, **changes):
    """What an epoch of AutoMix logs."""
    rng = np.random.default_rng(epoch)
    record = {"step": STEPS * epoch, "epoch": epoch}
    record |= {"train/loss": 5 / epoch, "train/loss_mix": 2 / epoch, "train/loss_mask": 0.1}
    record |= {"train/accuracy_clean": 50 + epoch, "train/mask_dropped": 0.0}
    record |= {"train/skipped_steps": 0, "lr/student": 0.1 / epoch, "lr/mixblock": 1.0 / epoch}
    record |= {f"eval/accuracy_{head}": float(rng.uniform(60, 90)) for head in HEADS}
    record |= {f"eval/loss_{head}": float(rng.uniform(0.5, 1)) for head in HEADS}
    record |= {"time/train": 8.0, "time/evaluate": 2.0, "time/seconds": 10.0 * epoch}
    return record | {"time/images_per_second": 100.0 + epoch} | changes


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_run(folder, epochs=3, total=3, *, finished=True, name="automix", **fields):
    """The folder of a run, as training leaves it."""
    folder.mkdir(parents=True)
    config = default_config()
    config.epochs, config.method.name = total, name
    for key, value in fields.items():
        section, _, field = key.partition("__")
        config[section][field] = value
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    data = {"name": "pets", "class_names": CLASSES, "image_shape": [8, 8, 3]}
    data |= {"train_images": 1000, "test_images": 20}
    (folder / "dataset.json").write_text(json.dumps(data))
    records = [make_record(epoch) for epoch in range(1, epochs + 1)]
    write_lines(folder / "metrics.jsonl", records)
    if finished:
        summary = {"headline": "student_mix", "epochs": total, "steps": STEPS * epochs}
        summary |= {"rollbacks": [], "seconds": {"train": 24.0, "evaluate": 6.0}}
        summary |= {"parameters": {"student": 1234567}, "device": "8 x tpu v4", "jax": "0.9.9"}
        (folder / "summary.json").write_text(json.dumps(summary))
    return records


def make_samples(folder, epochs, pairs=6):
    """Pictures and snapshots of epochs; returns the snapshots."""
    (folder / "samples").mkdir(exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)[: pairs + 1]
    shown = {}
    for epoch in epochs:
        rng = np.random.default_rng(epoch)
        mask = rng.uniform(size=(len(images), 8, 8, 1)).astype(np.float32)
        mixed = mask * images + (1 - mask) * np.roll(images, -1, 0)
        names = [CLASSES[i % 3] for i in range(len(images))]
        shown[epoch] = samples.snapshot(images, mask, mixed.astype(np.float32), names)
        path = folder / "samples" / f"epoch_{epoch:03d}"
        samples.save_snapshot(path.with_suffix(".npz"), shown[epoch])
        Image.fromarray(np.full((20, 30, 3), epoch % 256, np.uint8)).save(path.with_suffix(".png"))
    return shown


def make_evaluation(folder, subject="student_mix", step=30, **changes):
    """What two suites have found of a run."""
    (folder / "evaluation").mkdir(exist_ok=True)
    classes = [{"name": n, "images": 5, "top1": 60.0 + i} for i, n in enumerate(CLASSES)]
    numbers = {
        "accuracy": {"top1": 61.0, "top1_standard_error": 1.5, "nll": 0.75, "classes": classes},
        "attacks": {"errors": {"clean": 39.0, "fgsm_8": 77.25}},
    }
    for suite, found in numbers.items():
        stem = folder / "evaluation" / f"{suite}_{subject}"
        names = [f"{stem.name}.png", f"{stem.name}.svg"]
        record = {"suite": suite, "version": SUITES[suite].version, "step": step, "images": 15}
        record |= {"pictures": names, "numbers": found} | changes
        stem.with_suffix(".json").write_text(json.dumps(record))
        Image.new("RGB", (40, 30), "red").save(stem.with_suffix(".png"))
        stem.with_suffix(".svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return numbers


def write(folder, *others, **options):
    """The page of runs, checked."""
    out = folder.parent / "page.html"
    write_report([folder, *others], out, **options)
    return check_page(out)


def picture_bytes(attributes):
    return base64.b64decode(attributes["src"].partition("base64,")[2])


# -- a run -------------------------------------------------------------------------------------


def test_heading_says_what_and_how_good(tmp_path):
    records = make_run(tmp_path / "run", eval__headline="teacher_clean")
    page = write(tmp_path / "run")
    heading = page.find("header")[0][1]
    final = records[-1]["eval/accuracy_teacher_clean"]
    best = max(record["eval/accuracy_teacher_clean"] for record in records)
    for words in ("automix on pets", "resnet18", "3 of 3", "30 steps of 100", "finished"):
        assert words in heading
    for words in (f"{final:.2f} %", f"best {best:.2f} %", "8 x tpu v4", "30.0 s", "1,234,567"):
        assert words in heading
    assert "teacher clean, fixed beforehand" in heading
    (first, *_) = page.run["accuracy"]
    assert first == page.run["headline"] == "teacher_clean"
    assert page.run["accuracy"][first]["final"] == final
    for id_ in ("accuracy-curves", "test-loss"):
        assert next(iter(page.data["charts"][id_]["series"])) == "teacher clean"
    assert "notes" not in [found.get("class") for _, found in page.elements]


def test_all_numbers_are_in_the_json(tmp_path):
    records = make_run(tmp_path / "run")
    shown = make_samples(tmp_path / "run", (1, 3))
    make_evaluation(tmp_path / "run")
    page = write(tmp_path / "run")
    assert page.run["records"] == records
    assert page.run["summary"] == json.loads((tmp_path / "run/summary.json").read_text())
    assert [found["epoch"] for found in page.run["masks"]] == [1, 3]
    for found in page.run["masks"]:
        mean = shown[found["epoch"]].mean.astype(np.float64)
        assert found["mask_mean"] == mean.mean()
        assert found["mask_deviation"] == np.abs(mean - 0.5).mean()
    assert {each["suite"] for each in page.run["evaluation"]} == {"accuracy", "attacks"}
    # And every number of the table of all epochs.
    table = page.inside("curves")
    for record in records:
        for key, value in record.items():
            assert key in table and chart.shown(value).rstrip("0").rstrip(".") in table
    lines = page.data["charts"]["accuracy-curves"]["series"]
    assert list(lines) == [*(head.replace("_", " ") for head in HEADS), "training, clean"]
    for head in HEADS:
        expected = {str(r["epoch"]): r[f"eval/accuracy_{head}"] for r in records}
        assert lines[head.replace("_", " ")] == expected


def test_page_is_the_same_twice(tmp_path):
    make_run(tmp_path / "run")
    make_samples(tmp_path / "run", (1, 2))
    write(tmp_path / "run")
    before = (tmp_path / "page.html").read_bytes()
    write(tmp_path / "run")
    assert (tmp_path / "page.html").read_bytes() == before


def test_long_runs_stay_small(tmp_path):
    make_run(tmp_path / "run", 300, 300)
    make_samples(tmp_path / "run", range(10, 301, 10))
    page = write(tmp_path / "run")
    assert len(page.run["records"]) == 300
    assert (tmp_path / "page.html").stat().st_size < 2e6
    frames = page.find("figure", class_="frame")
    assert len(frames) == 12 and "18 others are in the folder" in page.inside("samples")
    assert [frames[0][1], frames[-1][1]] == ["epoch 10", "epoch 300"]


def test_texts_are_escaped(tmp_path):
    folder = tmp_path / "<i>&'\"</script>"
    make_run(folder, method__options={NASTY: NASTY}, data__path=NASTY)
    make_samples(folder, (1,))
    make_evaluation(folder)
    bad = {"split": "train", "index": 7, "name": NASTY + "\n\udcff", "reason": NASTY}
    write_lines(folder / "bad_records.jsonl", [bad])
    (folder / "changes.jsonl").write_text(
        json.dumps({"after_step": 10, "fields": {NASTY: {"before": NASTY, "now": 2}}})
    )
    (folder / "evaluation/attacks_student_mix.svg").write_text(f"<svg>{NASTY}</svg>")
    page = write(folder)
    assert str(folder) in page.inside("environment")
    assert "cat, " + NASTY + ", dog" in page.inside("environment")
    assert page.cells.count(NASTY) == 3  # a class in the evaluation, a reason, a changed field
    assert f"method.options.{NASTY}" in page.cells
    assert repr(NASTY) in page.cells
    assert NASTY + "\\n\\udcff" in page.cells
    assert page.run["data"]["class_names"] == list(CLASSES)
    assert page.run["path"] == str(folder)
    assert page.run["unreadable"] == [bad]
    # Of all elements none has come out of a text.
    assert not [found for tag, found in page.elements if "onload" in found]
    assert not page.find("i", id="x") and len(page.find("script")) == 2


@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="\r\xa0")))
@example(NASTY)
@example("&lt;&#39;&")
def test_escaped_text_reads_as_it_was(text):
    text = "".join(c for c in text if c.isprintable())
    page = Page(markup.element("p", text, title=text))
    assert page.find("p") == [({"title": text}, text)]


@pytest.mark.parametrize("text", ["a\0b", "a\x1bb", "a\udcffb", "a\ufffeb", "a\u202eb"])
def test_what_no_page_can_hold_becomes_an_escape(text):
    shown = markup.escape(text)
    shown.encode()
    assert shown.isprintable() and shown == text.encode("unicode_escape").decode()


def test_what_is_not_finite_is_null_in_json():
    page = Page(markup.embedded_json({"a": [math.nan, math.inf, 1.5], "<": {"b": -math.inf}}, "j"))
    assert json.loads(page.inside("j")) == {"a": [None, None, 1.5], "<": {"b": None}}


# -- states ------------------------------------------------------------------------------------


def test_config_alone_is_enough(tmp_path):
    make_run(tmp_path / "run", 0, finished=False)
    for name in ("dataset.json", "metrics.jsonl"):
        (tmp_path / "run" / name).unlink()
    page = write(tmp_path / "run")
    assert page.run["state"] == "stopped" and "no epoch is finished" in page.words
    assert "automix on fashion_mnist_sample" in page.words
    assert page.run["data"] is None and page.run["accuracy"] == {}
    assert not page.find("svg") and "there are no curves yet" in page.words


def test_run_in_progress(tmp_path):
    make_run(tmp_path / "run", 2, 5, finished=False)
    with locked(tmp_path / "run"):
        page = write(tmp_path / "run")
    assert page.run["state"] == "in progress"
    assert "in progress, at epoch 2 of 5" in page.words
    # Of what a finished run says at its end there is what the records tell.
    assert page.run["seconds"] == {"train": 16.0, "evaluate": 4.0}
    assert page.run["duration_seconds"] == 20.0


def test_stopped_run_whose_lock_was_left(tmp_path):
    make_run(tmp_path / "run", 2, 5, finished=False)
    (tmp_path / "run/lock").write_text("{}")
    saved = tmp_path / "run/checkpoints/last/25/info"
    saved.mkdir(parents=True)
    (saved / "metadata").write_text(json.dumps({"rollbacks": [{"from": 15, "to": 10}]}))
    page = write(tmp_path / "run")
    assert page.run["state"] == "stopped"
    assert "stopped after epoch 2 of 5, saved at step 25" in page.words
    assert page.run["rollbacks"] == [{"from": 15, "to": 10}]
    size = (saved / "metadata").stat().st_size
    assert page.run["checkpoints"] == [{"kind": "last", "step": 25, "size": size}]
    assert "automix train --config=CONFIG.py" in page.inside("commands")
    # The lock is free still.
    with locked(tmp_path / "run"):
        pass


def test_run_that_gave_up(tmp_path):
    make_run(tmp_path / "run", 2, finished=False)
    (tmp_path / "run/numbers.json").write_text("{}")
    page = write(tmp_path / "run")
    assert page.run["state"] == "given up" and "not finite" in page.find("header")[0][1]


def test_run_that_goes_on_with_more_epochs_is_not_finished(tmp_path):
    make_run(tmp_path / "run", 3, 3)
    config = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps(config | {"epochs": 6}))
    assert read_run(tmp_path / "run").state == "stopped"


def test_damaged_lines_are_told_and_the_others_shown(tmp_path):
    records = make_run(tmp_path / "run", 4, 4)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1][:40]
    damaged = [*lines[:3], "\x00\xff", "[1]", '{"loss": 1}', lines[3]]
    (tmp_path / "run/metrics.jsonl").write_text("\n".join(damaged), encoding="latin-1")
    (tmp_path / "run/summary.json").write_text("{")
    page = write(tmp_path / "run")
    (notes,) = page.find("div", class_="notes")
    assert "metrics.jsonl: 3 damaged lines left out (2, 4, 5)." in notes[1]
    assert "1 line without step and epoch left out" in notes[1]
    assert "summary.json is damaged" in notes[1]
    assert page.run["records"] == [records[0], records[2], records[3]]
    assert len(page.run["notes"]) == 3


def test_line_cut_short_is_told(tmp_path):
    records = make_run(tmp_path / "run")
    text = (tmp_path / "run/metrics.jsonl").read_text()
    (tmp_path / "run/metrics.jsonl").write_text(text[:-30])
    page = write(tmp_path / "run")
    assert "metrics.jsonl: the last line is cut short" in page.find("div", class_="notes")[0][1]
    assert page.run["records"] == records[:2]


def test_numbers_that_are_not_finite_interrupt_the_line(tmp_path):
    make_run(tmp_path / "run", 5, 5)
    records = [make_record(e, **({"train/loss": math.nan} if e == 3 else {})) for e in range(1, 6)]
    write_lines(tmp_path / "run/metrics.jsonl", records)
    page = write(tmp_path / "run")
    assert "not finite" in page.inside("loss")
    assert page.run["records"][2]["train/loss"] is None
    (path, *_) = [f["d"] for f, _ in page.find("path") if f["d"].count("M") == 2]
    assert path.count("L") == 2


def test_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        write_report([tmp_path / "none"], tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        write_report([tmp_path / "empty"], tmp_path / "page.html")
    for text in ("{", "[]", '{"data": 1, "model": 2, "method": 3}'):
        (tmp_path / "empty/config.json").write_text(text)
        with pytest.raises(CheckpointError, match="is not the configuration of a run"):
            write_report([tmp_path / "empty"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# -- curves ------------------------------------------------------------------------------------


def places(page, id_):
    """The points of each line of a chart, from its SVG, in the order of drawing."""
    text = page_part(page, id_)
    lines = re.findall(r'<g class="line[^"]*">(.*?)</g>', text)
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", line)]
        for line in lines
    ]


def page_part(path, id_):
    """A chart as text."""
    return re.search(rf'id="{id_}".*?</figure>|<figure[^>]*id="{id_}".*?</figure>', path, re.S)[0]


def test_lines_go_where_the_axes_say():
    values = {2: 0.31, 4: 0.77, 5: -0.4, 9: 1.05}
    drawn = chart.draw(chart.Chart("c", "C", [chart.Series("a", values)]))
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', drawn)
    across = [(float(t), float(x)) for x, _, side, t in labels if side == "middle"]
    up = [(float(t), float(y) - 4) for _, y, side, t in labels if side == "end"]
    assert len(across) > 3 and len(up) > 3
    x = np.polyfit(*np.transpose(across), 1)
    y = np.polyfit(*np.transpose(up), 1)
    (points,) = places(drawn.replace("<figure", '<figure id="c"'), "c")
    # Places are rounded to hundredths.
    np.testing.assert_allclose([p[0] for p in points], np.polyval(x, list(values)), atol=0.011)
    np.testing.assert_allclose(
        [p[1] for p in points], np.polyval(y, list(values.values())), atol=0.011
    )


def test_numbers_come_up_over_their_epochs():
    series = [chart.Series("a", {1: 1.0, 2: 2.0}), chart.Series("b", {2: 0.5, 4: math.inf})]
    page = Page(chart.draw(chart.Chart("c", "C", series)))
    bands = page.find("rect", class_="band")
    assert [text for _, text in bands] == [
        "epoch 1\na  1.000",
        "epoch 2\na  2.000\nb  0.5000",
        "epoch 4\nb  not finite",
    ]
    assert [found["data-s"] for found, _ in bands] == ["s0", "s0|s1", "s1"]
    edges = [(float(f["x"]), float(f["x"]) + float(f["width"])) for f, _ in bands]
    assert all(a[1] == pytest.approx(b[0]) for a, b in itertools.pairwise(edges))
    assert all(left <= float(f["data-x"]) <= right
               for (left, right), (f, _) in zip(edges, bands, strict=True))  # fmt: skip


@given(
    st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 8)
)  # fmt: skip
def test_ticks_are_round_and_cover(low, size, most):
    high = low + size
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    found = chart.ticks(low, high, most)
    step = found[1] - found[0]
    slack = 1e-6 * step + 1e-9 * abs(low)
    assert found[0] <= low + slack and high - slack <= found[-1]
    assert 2 <= len(found) <= most + 2
    np.testing.assert_allclose(np.diff(found), step, rtol=1e-3)
    digits = f"{step:.3e}"
    assert (digits[0] in "125" and digits[1:5] in (".000",)) or step < 1e-9 * abs(low)


@pytest.mark.parametrize(
    ("values", "count"), [({1: 5.0}, 1), ({1: 0.0, 2: 0.0}, 2), ({3: 7.0, 4: 7.0}, 2)]
)
def test_single_points_and_flat_lines_are_drawn(values, count):
    page = Page(chart.draw(chart.Chart("c", "C", [chart.Series("a", values)])))
    dots = page.find("circle")
    assert len(dots) == count
    assert all(10 < float(found["cy"]) < 200 for found, _ in dots)


def test_trouble_is_marked(tmp_path):
    make_run(tmp_path / "run", 4, 4)
    records = [make_record(e, **{"train/skipped_steps": 3 * (e > 1)}) for e in range(1, 5)]
    write_lines(tmp_path / "run/metrics.jsonl", records)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    summary["rollbacks"] = [{"from": 25, "to": 10}]
    (tmp_path / "run/summary.json").write_text(json.dumps(summary))
    changes = [{"after_step": 30, "fields": {"optimizer.lr": {"before": 0.1, "now": 0.05}}}]
    write_lines(tmp_path / "run/changes.jsonl", changes)
    page = write(tmp_path / "run")
    marks = {mark["kind"]: (mark["epoch"], mark["text"]) for mark in page.run["marks"]}
    assert marks == {
        "skipped": (2.0, "3 steps skipped in epoch 2"),
        "rollback": (2.5, "back from step 25 to step 10"),
        "changed": (3.0, "optimizer.lr changed after step 30"),
    }
    charts = len(page.find("figure", class_="chart"))
    for kind in marks:
        assert len(page.find("line", class_=f"mark {kind}")) == charts
    assert "back from step 25 to step 10" in page.inside("happened")
    assert page.cells[page.cells.index("optimizer.lr") :][:3] == ["optimizer.lr", "0.1", "0.05"]
    for words in ("the run went back", "steps skipped", "configuration changed"):
        assert words in page.inside("curves")


def test_marks_beyond_the_axis_are_not_drawn():
    marks = [chart.Mark("rollback", epoch, "back") for epoch in (0.5, 2.0, 2.5)]
    drawn = chart.Chart("c", "C", [chart.Series("a", {1: 1.0, 2: 2.0})], marks)
    lines = Page(chart.draw(drawn)).find("line", class_="mark rollback")
    dots = Page(chart.draw(drawn)).find("circle")
    # What was before the first epoch had ended is at its place.
    assert [found["x1"] for found, _ in lines] == [found["cx"] for found, _ in dots]


def test_rates_of_other_sizes_are_drawn_apart(tmp_path):
    make_run(tmp_path / "apart")
    page = write(tmp_path / "apart")
    assert [list(page.data["charts"][f"rate-{i}"]["series"]) for i in (0, 1)] == [
        ["student"],
        ["MixBlock"],
    ]
    make_run(tmp_path / "close")
    records = [make_record(e, **{"lr/mixblock": 0.2 / e}) for e in range(1, 4)]
    write_lines(tmp_path / "close/metrics.jsonl", records)
    page = write(tmp_path / "close")
    assert list(page.data["charts"]["rate-0"]["series"]) == ["student", "MixBlock"]
    assert "rate-1" not in page.data["charts"]


# -- pictures ----------------------------------------------------------------------------------


def test_samples_are_in_the_page_as_they_are(tmp_path):
    make_run(tmp_path / "run")
    make_samples(tmp_path / "run", (1, 2, 3))
    page = write(tmp_path / "run")
    found = [f for f, _ in page.find("img") if f["alt"].startswith("mixed images, epoch")]
    files = sorted((tmp_path / "run/samples").glob("*.png"))
    assert [picture_bytes(f) for f in found] == [file.read_bytes() for file in files]
    assert {(f["width"], f["height"]) for f in found} == {("30", "20")}
    (control,) = page.find("div", class_="control")
    assert "hidden" in control[0]  # without scripts it would do nothing
    (slider,) = page.find("input", type="range")
    assert (slider[0]["max"], slider[0]["value"]) == ("2", "2")


def test_pictures_that_cannot_be_read_are_told(tmp_path):
    make_run(tmp_path / "run")
    make_samples(tmp_path / "run", (1, 2, 3))
    (tmp_path / "run/samples/epoch_002.png").write_bytes(b"\x89PNG")
    (tmp_path / "run/samples/epoch_003.npz").write_bytes(b"PK")
    page = write(tmp_path / "run")
    assert [text for _, text in page.find("figure", class_="frame")] == ["epoch 1", "epoch 3"]
    (notes,) = page.find("div", class_="notes")
    assert "epoch_002.png is no picture" in notes[1]
    assert "The masks are not shown" in notes[1] and "epoch_003.npz" in notes[1]
    assert page.run["masks"] == [] and "masks" not in page.data["charts"]


def test_masks_of_few_pairs_are_drawn(tmp_path):
    make_run(tmp_path / "run")
    make_samples(tmp_path / "run", (2, 3), pairs=1)
    page = write(tmp_path / "run")
    assert "mask-pictures" in [found.get("id") for found, _ in page.find("section")]
    assert list(page.data["charts"]["masks"]["series"]["mean"]) == ["2", "3"]


def test_large_pictures_are_made_smaller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (found,) = Page(pictures.embed(tmp_path / "noise.png", "noise")).find("img")
    assert found[0]["src"].startswith("data:image/jpeg")
    assert len(picture_bytes(found[0])) < (tmp_path / "noise.png").stat().st_size / 2
    assert (found[0]["width"], found[0]["height"]) == ("400", "300")


# -- evaluation --------------------------------------------------------------------------------


def test_evaluation_is_shown(tmp_path):
    make_run(tmp_path / "run")
    numbers = make_evaluation(tmp_path / "run")
    make_evaluation(tmp_path / "run", "student_clean_best", step=20)
    page = write(tmp_path / "run")
    for suite, found in numbers.items():
        for name, value in SUITES[suite].rows(found):
            at = page.cells.index(name)
            assert page.cells[at + 1] == value
    assert [text for _, text in page.find("h3")][:2] == [
        "student mix, step 30",
        "student clean best, step 20 (the run is at 30)",
    ]
    # The SVG of each, in place of the PNG.
    sources = [f["src"] for f, _ in page.find("img")]
    assert len(sources) == 4 and all(s.startswith("data:image/svg+xml") for s in sources)
    assert page.run["evaluation"][0]["numbers"] == numbers["accuracy"]


@pytest.mark.parametrize(
    "changes", [{"version": 99}, {"numbers": {}}, {"numbers": []}, {"pictures": 1}, {"step": "x"}]
)
def test_evaluation_of_another_version_is_told(tmp_path, changes):
    make_run(tmp_path / "run")
    make_evaluation(tmp_path / "run", **changes)
    page = write(tmp_path / "run")
    (notes,) = page.find("div", class_="notes")
    assert "accuracy_student_mix.json is of another version or not whole" in notes[1]
    assert page.run["evaluation"] == []


def test_missing_picture_of_an_evaluation_is_told(tmp_path):
    make_run(tmp_path / "run")
    make_evaluation(tmp_path / "run")
    (tmp_path / "run/evaluation/attacks_student_mix.svg").unlink()
    page = write(tmp_path / "run")
    assert "attacks_student_mix.svg is no picture" in page.find("div", class_="notes")[0][1]
    assert "77.25" in page.cells


# -- configuration, and the rest ---------------------------------------------------------------


def test_what_differs_from_the_defaults(tmp_path):
    make_run(
        tmp_path / "run",
        total=3,
        optimizer__lr=0.7,
        data__mean=(0.1,),
        method__options={"a": 1, "b": None},
    )
    run = read_run(tmp_path / "run")
    assert settings.different(run.fields) == {
        "epochs": (3, 100),
        "optimizer.lr": (0.7, 0.1),
        "data.mean": ([0.1], [0.5]),
        "method.options.a": (1, None),
        "method.options.b": (None, None),
    }
    page = write(tmp_path / "run")
    assert page.run["config"] == run.fields
    at = page.cells.index("optimizer.lr")
    assert page.cells[at : at + 3] == ["optimizer.lr", "0.7", "0.1"]
    # All fields are listed once more.
    assert set(run.fields) <= set(page.cells)
    assert len(page.find("tr", class_="other")) == 5


def test_unreadable_images_are_listed(tmp_path):
    make_run(tmp_path / "run")
    bad = [
        {"split": "test", "index": i, "name": f"a{i}.jpg", "reason": "truncated"}
        for i in range(250)
    ]
    write_lines(tmp_path / "run/bad_records.jsonl", bad)
    page = write(tmp_path / "run")
    words = page.inside("unreadable")
    assert "250 images could not be read, of which 200 are listed" in words
    assert "a199.jpg" in words and "a200.jpg" not in words
    assert len(page.run["unreadable"]) == 250


def test_commands_are_quoted(tmp_path):
    folder = tmp_path / "a run; rm"
    make_run(folder)
    (folder / "checkpoints/last/30").mkdir(parents=True)
    words = write(folder).inside("commands")
    for command in ("evaluate", "export", "visualize mixups --run="):
        assert re.search(rf"automix {command} ?'{re.escape(str(folder))}'", words)


# -- several runs ------------------------------------------------------------------------------


def test_runs_are_compared(tmp_path):
    records = {"mixup": make_run(tmp_path / "a", name="mixup", optimizer__lr=0.2)}
    records["cutmix"] = make_run(tmp_path / "b", 4, 4, name="cutmix")
    make_evaluation(tmp_path / "b")
    page = write(tmp_path / "a", tmp_path / "b")
    assert [run["name"] for run in page.data["runs"]] == ["mixup", "cutmix"]
    lines = page.data["charts"]["accuracy"]["series"]
    assert {name: list(line.values()) for name, line in lines.items()} == {
        name: [r["eval/accuracy_student_mix"] for r in found] for name, found in records.items()
    }
    for found in records.values():
        assert f"{found[-1]['eval/accuracy_student_mix']:.2f}" in page.cells
    for field, *values in (("epochs", "3", "4"), ("optimizer.lr", "0.2", "0.1")):
        at = page.cells.index(field)
        assert page.cells[at + 1 : at + 3] == values
    assert "77.25" in page.cells
    assert "notes" not in [found.get("class") for _, found in page.elements]
    assert len(page.find("path")) == 2 * len(page.data["charts"])


def test_runs_that_do_not_compare_are_told(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", 2, finished=False, eval__headline="teacher_mix")
    data = json.loads((tmp_path / "b/dataset.json").read_text()) | {"name": "birds"}
    (tmp_path / "b/dataset.json").write_text(json.dumps(data))
    page = write(tmp_path / "a", tmp_path / "b")
    (notes,) = page.find("div", class_="notes")
    for words in ("birds, pets: their accuracies do not compare", "different heads", "Not all"):
        assert words in notes[1]
    # Both are of one method: they are told apart by their folders.
    assert [run["name"] for run in page.data["runs"]] == ["a", "b"]


def test_one_run_twice(tmp_path):
    make_run(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ConfigError, match="is given twice"):
        write_report([tmp_path / "a", tmp_path / "link"], tmp_path / "page.html")


# -- the command -------------------------------------------------------------------------------


def test_command_writes_into_the_run(tmp_path, capsys):
    make_run(tmp_path / "run")
    assert report([str(tmp_path / "run")]) == 0
    out = tmp_path / "run/report.html"
    assert capsys.readouterr().out == f"{out}  {out.stat().st_size:,} bytes\n"
    check_page(out)
    assert report([str(tmp_path / "run")]) == 0  # over the page of before
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_command_tells_what_is_wrong_with_the_folder(tmp_path, capsys):
    make_run(tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_text("{")
    assert report([str(tmp_path / "run"), f"--out={tmp_path / 'page.html'}"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "note: metrics.jsonl: the last line is cut short, and left out.\n"
    assert shown.out.startswith(str(tmp_path / "page.html"))


def test_command_replaces_only_pages(tmp_path):
    make_run(tmp_path / "run")
    out = tmp_path / "mine.html"
    out.write_text("<p>my notes")
    with pytest.raises(ConfigError, match=r"is no page of `automix report`.*--force"):
        report([str(tmp_path / "run"), f"--out={out}"])
    assert out.read_text() == "<p>my notes"
    assert report([str(tmp_path / "run"), f"--out={out}", "--force"]) == 0
    check_page(out)
    out.unlink()
    out.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        report([str(tmp_path / "run"), f"--out={out}", "--force"])


def test_command_refuses_what_cannot_work(tmp_path):
    make_run(tmp_path / "a")
    for argv, words in (
        ([], "required"),
        (["a", "b"], "several runs need --out"),
        ([str(tmp_path / "a"), "--out=page.txt"], r"give FILE\.html"),
        ([str(tmp_path / "a"), "--out=nowhere/page.html"], "there is no folder nowhere"),
    ):
        with pytest.raises(ConfigError, match=words):
            report(argv)


def test_page_that_cannot_be_written(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "run/report.tmp").mkdir()  # where it is written first
    with pytest.raises(ConfigError, match=r"report\.html cannot be written"):
        report([str(tmp_path / "run")])


@pytest.mark.long
def test_page_of_a_trained_run(tmp_path):
    data = runs.write_npz(tmp_path / "data.npz")
    argv = runs.arguments(
        data, tmp_path / "run", "--config.epochs=2", "--config.run.sample_epochs=1"
    )
    code, _, err = runs.finish(runs.start(argv, tmp_path / "cache"))
    assert code == 0, err
    program = ("-m", "automix_jax.cli")
    suites = "--suite=accuracy,calibration,attacks"
    code, _, err = runs.finish(
        runs.start(["evaluate", str(tmp_path / "run"), suites], tmp_path / "cache", program)
    )
    assert code == 0, err
    page = write(tmp_path / "run")
    assert page.run["state"] == "finished" and page.run["notes"] == []
    assert list(page.data["charts"]) == [
        *("accuracy-curves", "loss", "test-loss", "rate-0", "rate-1", "masks", "speed"),
    ]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert page.run["accuracy"] == summary["accuracy"]
    assert {each["suite"] for each in page.run["evaluation"]} == {
        *("accuracy", "calibration", "attacks")
    }
    assert len(page.run["checkpoints"]) == 3
    assert len(page.find("figure", class_="frame")) == 2
    assert Path(page.run["path"]) == tmp_path / "run"

"""Runs whose images are read by worker processes while they train."""

import json

import numpy as np
import pytest
from PIL import Image

from tests import runs

CLASSES = ("dark", "dusk", "dawn", "day")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of 48 + 20 photographs of several sizes, and one that is none."""
    folder = tmp_path_factory.mktemp("stream")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(CLASSES):
            (folder / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 60, (12 + i, 20 - i, 3)) + 45 * label
                path = folder / "data" / split / name / f"{i}.jpg"
                Image.fromarray(noise.astype(np.uint8)).save(path, quality=95)
    (folder / "data/train/dusk/3.jpg").write_text("not an image")
    return folder


def arguments(place, name, *overrides):
    data = place / "data"
    return [
        *runs.arguments(data, place / name),
        "--config.data.name=folder",
        "--config.data.loading=stream",
        "--config.data.image_size=8",
        "--config.data.test_resize=10",
        "--config.data.crop=random_resized",
        "--config.data.rand_augment=rand-m9-mstd0.5-inc1",
        "--config.data.erase=0.25",
        "--config.data.mean=(0.5,0.5,0.5)",
        "--config.data.std=(0.25,0.25,0.25)",
        "--config.run.checkpoint_steps=2",
        *overrides,
    ]


@pytest.fixture(scope="module")
def uninterrupted(place):
    argv = arguments(place, "whole", "--config.run.workers=0", "--config.run.sample_epochs=3")
    code, out, err = runs.finish(runs.start(argv, place / "cache"))
    assert code == 0, err
    return place / "whole", out


def test_a_streamed_run_learns_and_leaves_what_a_run_leaves(uninterrupted):
    workdir, out = uninterrupted
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["steps"] == 18
    assert summary["accuracy"]["student_mix"]["best"] > 40  # of four classes
    assert {"input", "train", "evaluate"} <= set(summary["seconds"])
    assert "48 training and 20 test images" in out
    assert (workdir / "samples/epoch_003.png").exists()


def test_unreadable_images_are_listed(uninterrupted):
    lines = (uninterrupted[0] / "bad_records.jsonl").read_text().splitlines()
    (bad,) = map(json.loads, lines)
    assert bad["name"].endswith("dusk/3.jpg") and "cannot read the image" in bad["reason"]


def test_killed_and_resumed_with_other_workers_ends_with_the_same_bits(place, uninterrupted):
    first = arguments(place, "killed", "--config.run.workers=2")
    then = arguments(place, "killed", "--config.run.workers=1")
    step = runs.kill_and_resume(first, then, place / "killed", place / "cache", seed=0)
    assert 0 < step <= 18
    runs.assert_same_bits(place / "killed", uninterrupted[0])


def test_too_many_unreadable_images_stop_the_run(place):
    argv = arguments(place, "stopped", "--config.run.workers=0", "--config.data.bad_share=0")
    code, _, err = runs.finish(runs.start(argv, place / "cache"))
    assert code == 64
    assert "bad_records.jsonl" in err and "dusk/3.jpg" in err
    assert err.count("\n") == 1

"""Runs whose images are read by worker processes while they train."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from automix_jax.config import default_config
from automix_jax.data import open_dataset
from automix_jax.errors import DataError
from automix_jax.train.feed import StreamFeed
from tests import runs
from tests.steps import data_mesh
from tests.test_bad_images import KINDS, encoded, flat, write

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
    assert out.count("1 training and 0 test images cannot be read") == 1
    assert summary["unreadable_images"] == {"train": 1}
    assert (workdir / "samples/epoch_003.png").exists()


def test_unreadable_images_are_listed(uninterrupted):
    lines = (uninterrupted[0] / "bad_records.jsonl").read_text().splitlines()
    (bad,) = map(json.loads, lines)
    assert bad["name"].endswith("dusk/3.jpg") and "cannot read the image" in bad["reason"]


@pytest.mark.long
def test_killed_and_resumed_with_other_workers_ends_with_the_same_bits(place, uninterrupted):
    first = arguments(place, "killed", "--config.run.workers=2")
    then = arguments(place, "killed", "--config.run.workers=1")
    step, err = runs.kill_and_resume(first, then, place / "killed", place / "cache", seed=0)
    assert 0 < step < 18
    # Worker processes end in silence. (Python may say that it gives back their last shared memory.)
    assert "Traceback" not in err
    runs.assert_same_bits(place / "killed", uninterrupted[0])


def test_too_many_unreadable_images_stop_the_run(place):
    argv = arguments(place, "stopped", "--config.run.workers=0", "--config.data.bad_share=0")
    code, _, err = runs.finish(runs.start(argv, place / "cache"))
    assert code == 64
    assert "bad_records.jsonl" in err and "dusk/3.jpg" in err
    assert err.count("\n") == 1


@contextlib.contextmanager
def stream(folder, workdir, batch_size):
    """One epoch of the images of a folder, read by threads of this process."""
    config = default_config()
    config.epochs, config.batch_size = 1, batch_size
    config.data.loading, config.data.image_size = "stream", 8
    config.data.crop, config.data.bad_share = "random_resized", 0.001
    config.eval.batch_size = 4
    config.run.workers = 0
    workdir.mkdir()
    with contextlib.closing(
        StreamFeed(config, open_dataset("folder", folder), data_mesh(), workdir)
    ) as feed:
        yield feed


def listed(workdir):
    file = workdir / "bad_records.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_odd_images_are_shown_and_broken_ones_listed(tmp_path):
    broken = set()
    for number, (kind, (suffix, make, colour)) in enumerate(KINDS.items()):
        if make is None or kind == "unreadable":  # a broken link; root may read everything
            continue
        write(tmp_path / f"data/train/odd/{number:02d}{suffix}", make())
        if colour is None:
            broken.add(f"train/odd/{number:02d}{suffix}")
    (tmp_path / "data/train/odd/link.png").symlink_to(tmp_path / "nothing")
    broken.add("train/odd/link.png")
    for name in ("train/plain/0.png", "test/plain/0.png", "test/plain/1.png"):
        write(tmp_path / "data" / name, encoded(flat(), "PNG"))
    write(tmp_path / "data/test/plain/2.png", b"not an image")

    with stream(tmp_path / "data", tmp_path / "run", batch_size=4) as feed:
        steps = feed.facts.train_images // 4
        assert feed.facts.train_images == len(KINDS)  # all but one, and the plain image
        batches = [feed.dispatch(step, 1) for step in range(steps)]
        assert all(images.shape == (4, 8, 8, 3) for images, _, _ in batches)
        ((_, _, valid),) = feed.test_batches()
    assert valid.tolist() == [True, True, False]
    names = {record["name"] for record in listed(tmp_path / "run")}
    seen = {record["name"] for record in listed(tmp_path / "run") if record["split"] == "train"}
    assert "test/plain/2.png" in names
    assert seen <= broken and len(seen) >= len(broken) - len(KINDS) % 4  # the rest is left over


@pytest.mark.parametrize(("bad", "stops"), [(1, False), (10, False), (11, True)])
def test_a_stream_stops_at_its_budget(tmp_path, bad, stops):
    """Of 2,000 images: 0.05 %, 0.5 %, which are the ten that may be, and one more."""
    picture = encoded(flat(size=(4, 4)), "PNG")
    for i in range(2000):
        write(
            tmp_path / f"data/train/a/{i:04d}.png", picture if i % 180 or i // 180 >= bad else b""
        )
    for name in ("test/a/0.png", "test/a/1.png"):
        write(tmp_path / "data" / name, picture)
    stop = pytest.raises(
        DataError, match=r"11 training images or more cannot be read.* allows for 10"
    )
    expected = stop if stops else contextlib.nullcontext()
    with stream(tmp_path / "data", tmp_path / "run", batch_size=100) as feed, expected:
        for step in range(20):
            feed.dispatch(step, 1)
    assert len(listed(tmp_path / "run")) == bad

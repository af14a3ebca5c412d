"""Images that training leaves out."""

import numpy as np
import pytest

from automix_jax.config import default_config
from automix_jax.data import load_dataset, open_dataset
from automix_jax.data.dataset import Dataset, Split
from automix_jax.data.hold_out import hold_out_images, hold_out_records
from automix_jax.errors import ConfigError
from automix_jax.train.build import make_mesh
from automix_jax.train.feed import open_feed
from tests import runs


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return runs.write_npz(tmp_path_factory.mktemp("data") / "data.npz")


def configure(path, **fields):
    config = default_config()
    config.data.name, config.data.path = "npz", str(path)
    config.batch_size = config.eval.batch_size = 8
    config.data.update(fields)
    return config


@pytest.mark.parametrize("loading", ["memory", "stream"])
def test_no_step_sees_them(path, loading):
    fields = {"crop": "none", "flip": False, "image_size": 8}
    feed = open_feed(configure(path, loading=loading, held_out=13, **fields), make_mesh())
    images, labels = feed.held_out_examples()
    assert len(images) == len(labels) == 13 and feed.facts.train_images == 48 - 13
    seen = {image.tobytes() for x in feed.training_images(range(8)) for image in np.asarray(x)}
    whole = load_dataset("npz", path).train
    known = {image.tobytes(): label for image, label in zip(*vars(whole).values(), strict=True)}
    assert [known[image.tobytes()] for image in images] == labels.tolist()
    assert len(seen) == 35  # in two epochs, of which each leaves out three
    assert seen <= known.keys() - {image.tobytes() for image in images}


def test_the_same_from_memory_and_from_a_stream(path):
    rest, taken = hold_out_images(load_dataset("npz", path), 5)
    rest_of_records, records = hold_out_records(open_dataset("npz", path), 5)
    for split, examples in ((taken, records), (rest.train, rest_of_records.train)):
        assert len(split.labels) == len(examples)
        for i in range(len(examples)):
            np.testing.assert_array_equal(split.images[i], examples[i].image)


def test_always_the_same():
    """Or a temperature would be fitted to images that a run of before was trained on."""
    arrays = Split(np.zeros((1000, 1, 1, 3), np.uint8), np.arange(1000, dtype=np.int32))
    _, taken = hold_out_images(Dataset("numbers", arrays, arrays, tuple("ab")), 5)
    assert taken.labels.tolist() == [134, 293, 526, 732, 958]


def test_none_leaves_the_data_as_it_is(path):
    dataset = load_dataset("npz", path)
    rest, taken = hold_out_images(dataset, 0)
    assert rest is dataset and len(taken.labels) == 0
    for fields in ({}, {"loading": "stream", "image_size": 8}):
        images, labels = open_feed(configure(path, **fields), make_mesh()).held_out_examples()
        assert images.shape == (0, 8, 8, 3) and labels.shape == (0,)


def test_all_is_too_many(path):
    with pytest.raises(ConfigError, match=r"config\.data\.held_out is 48, but npz has 48 training"):
        hold_out_images(load_dataset("npz", path), 48)

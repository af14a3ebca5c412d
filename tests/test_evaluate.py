"""Evaluation counts every image once, and recalibration measures what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax.config import default_config
from automix_jax.data import Dataset, Split
from automix_jax.evaluate.accuracy import make_evaluate, make_recalibrate
from automix_jax.models import Classifier, create_model
from automix_jax.train.feed import MemoryFeed
from tests.steps import data_mesh


def scale(images):
    return images.astype(jnp.float32) / 255


@pytest.fixture(scope="module")
def network():
    model = Classifier(create_model("resnet8", num_classes=0, stem="cifar", width=4), 4)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    noise = jax.random.normal(jax.random.key(1), (4, 4))
    heads = {name: {"kernel": jnp.tile(noise, (4, 1)) * k, "bias": noise[0]} for k, name in
             ((1.0, "head_mix"), (-2.0, "head_clean"))}  # fmt: skip
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (21, 8, 8, 3)), jnp.uint8)
    labels = jnp.asarray(rng.integers(0, 4, 21), jnp.int32)
    return model, {**variables["params"], **heads}, variables["batch_stats"], images, labels


@pytest.mark.parametrize(("batch_size", "devices"), [(21, 1), (8, 1), (5, 4), (64, 1)])
def test_every_image_counts_once(network, batch_size, devices):
    model, params, stats, images, labels = network
    logits, _ = model.apply({"params": params, "batch_stats": stats}, scale(images))
    config = default_config()
    config.eval.batch_size = batch_size
    arrays = np.asarray(images), np.asarray(labels)
    data = Dataset("random", Split(*arrays), Split(*arrays), ("a", "b", "c", "d"))
    feed = MemoryFeed(config, data, data_mesh(devices))
    networks = {"student": (params, stats), "teacher": (jax.tree.map(jnp.negative, params), stats)}
    got = make_evaluate(model, scale)(networks, feed.test_batches())
    assert got["images"] == 21
    for head in model.heads:
        expected = 100 * np.mean(np.argmax(logits[head], 1) == np.asarray(labels))
        assert 0 < expected < 100
        np.testing.assert_allclose(got[f"accuracy_student_{head}"], expected, rtol=1e-6)
        assert got[f"loss_teacher_{head}"] != got[f"loss_student_{head}"]
        losses = -np.asarray(jax.nn.log_softmax(logits[head]))[np.arange(21), np.asarray(labels)]
        np.testing.assert_allclose(got[f"loss_student_{head}"], losses.mean(), rtol=1e-5)


def test_recalibration_is_the_mean_of_the_batches_statistics(network):
    model, params, stats, images, _ = network
    recalibrate = make_recalibrate(model, lambda rng, x: scale(x))
    new = recalibrate(params, stats, [images[:8], images[8:16]], jax.random.key(0))
    kernel = params["backbone"]["stem_conv"]["kernel"]
    out = jax.lax.conv_general_dilated(
        scale(images[:16]), kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    batches = np.asarray(out).reshape(2, 8 * 8 * 8, 4)
    stem = new["backbone"]["stem_bn"]
    np.testing.assert_allclose(stem["mean"], batches.mean(1).mean(0), atol=1e-6)
    np.testing.assert_allclose(stem["var"], batches.var(1).mean(0), rtol=1e-5)

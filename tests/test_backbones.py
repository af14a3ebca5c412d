"""Every backbone against its PyTorch original: recorded numbers, the same weights and images."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax.weights.convert import fit, from_state_dict, to_state_dict, variable_shapes
from tests import originals
from tests.conftest import x64

CASES = {case.key: case for case in originals.CASES}


def ours(case):
    """Our network with the case's weights."""
    record = originals.recorded().cases[case.key]
    shapes = record.shapes
    if case.name.startswith("swin"):  # a table for every offset within 7 x 7 at any image size
        shapes = originals.recorded().cases[f"{case.name}/224"].shapes
    options = {}
    if case.name == "efficientnet_b0" and case.stem == "tf":
        options["convention"] = "tf"
    pretrained, _ = from_state_dict(originals.weights(shapes, case.gain), case.name, **options)
    assert pretrained.num_classes == originals.NUM_CLASSES
    return pretrained.model(), pretrained.variables


def run(case, dtype):
    """Our logits and feature maps."""
    model, variables = ours(case)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
    images = jnp.asarray(originals.images(case.size), dtype)
    return jax.jit(functools.partial(model.apply))(variables, images)


def deviations(case, logits, features):
    """The largest deviation over the largest value, by quantity."""
    record = originals.recorded().cases[case.key]
    assert set(features) == set(record.features)
    worst = {"logits": np.abs(logits - record.logits).max() / np.abs(record.logits).max()}
    for name, feature in record.features.items():
        found = np.asarray(features[name])
        assert found.shape == feature.shape
        rms = feature.norm / np.sqrt(found.size)
        worst[name] = np.abs(originals.sample(name, found) - feature.values).max() / rms
        worst[f"{name} norm"] = abs(np.linalg.norm(found.astype(np.float64)) / feature.norm - 1)
    return worst


@pytest.mark.parametrize("key", CASES)
def test_float64(key):
    with x64():
        worst = deviations(CASES[key], *run(CASES[key], jnp.float64))
    print(key, max(worst.items(), key=lambda item: item[1]))
    assert max(worst.values()) < 1e-9, worst


@pytest.mark.parametrize("key", CASES)
def test_float32(key):
    worst = deviations(CASES[key], *run(CASES[key], jnp.float32))
    print(key, max(worst.items(), key=lambda item: item[1]))
    assert max(worst.values()) < 1e-5, worst

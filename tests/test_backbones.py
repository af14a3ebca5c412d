"""Every backbone against its PyTorch original: recorded numbers, the same weights and images.

The originals and the record are those of `tests/originals.py`. By default a case or two of every
network run, but for those that are others with more blocks; AUTOMIX_BACKBONES=all (make
test-backbones) runs every case in both precisions.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax.models import list_models
from automix_jax.weights.convert import from_state_dict
from tests import originals
from tests.conftest import x64

CASES = {case.key: case for case in originals.CASES}
FLOAT64 = ("resnext50_32x4d/cifar/32", "deit_s/64", "swin_t/64")
if os.environ.get("AUTOMIX_BACKBONES") == "all":
    FLOAT32 = FLOAT64 = tuple(CASES)
else:
    deeper = ("resnet101", "resnext101_32x4d", "wrn28_10", "convnext_s", "deit_b", "swin_s")
    smallest: dict[tuple[str, str], str] = {}
    for case in originals.CASES:
        if case.name not in deeper:
            smallest.setdefault((case.name, case.stem), case.key)
    large = [f"{name}/224" for name in ("resnet50/imagenet", "deit_s", "efficientnet_b0/tf")]
    FLOAT32 = (*smallest.values(), *large)


def run(case, dtype):
    """Our logits and feature maps with the case's weights."""
    cases = originals.recorded().cases
    # Swin's bias tables are for every offset within 7 x 7, at any image size.
    shapes = cases[f"{case.name}/224" if case.name.startswith("swin") else case.key].shapes
    options = {"convention": "tf"} if case.stem == "tf" else {}
    pretrained, _ = from_state_dict(originals.weights(shapes, case.gain), case.name, **options)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), pretrained.variables)
    images = jnp.asarray(originals.images(case.size), dtype)
    return jax.jit(pretrained.model().apply)(variables, images)


def deviations(case, logits, features):
    """By quantity the largest deviation, as a share of the quantity's root mean square."""
    record = originals.recorded().cases[case.key]
    assert set(features) - {"attention"} == set(record.features)  # the originals return none
    scale = np.sqrt(np.square(record.logits).mean())
    worst = {"logits": np.abs(logits - record.logits).max() / scale}
    for name, feature in record.features.items():
        found = np.asarray(features[name])
        assert found.shape == feature.shape
        scale = feature.norm / np.sqrt(found.size)
        worst[name] = np.abs(originals.sample(name, found) - feature.values).max() / scale
        norm = np.linalg.norm(found.astype(np.float64))
        worst[f"norm of {name}"] = abs(norm / feature.norm - 1)
    return worst


def test_every_model_has_a_case():
    assert {case.name for case in originals.CASES} == set(list_models()) - {"resnet8"}


@pytest.mark.parametrize("key", FLOAT64)
def test_float64(key):
    """Through a hundred layers the rounding of float64 has stayed below 1e-13."""
    with x64():
        worst = deviations(CASES[key], *run(CASES[key], jnp.float64))
    assert max(worst.values()) < 1e-9, worst


@pytest.mark.parametrize("key", FLOAT32)
def test_float32(key):
    """PyTorch's own float32 strays as far from its float64."""
    worst = deviations(CASES[key], *run(CASES[key], jnp.float32))
    assert max(worst.values()) < 1e-5, worst

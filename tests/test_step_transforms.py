"""Crops and erasing inside the step: equal to Pillow, torchvision and timm, and distributed so."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_array_equal as assert_equal
from PIL import Image

from automix_jax.data import augment as aug
from automix_jax.data import boxes, resample
from automix_jax.data.transforms import crop
from automix_jax.errors import ConfigError
from tests.test_transforms import FILTERS, IMAGENET, RECORDED, assert_crop_distribution, few


def pil(pixels):
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


@pytest.mark.parametrize("shape", [(64, 64, 3), (28, 28, 1), (23, 50, 3), (1, 7, 3)])
@pytest.mark.parametrize("name", FILTERS)
def test_resized_boxes_in_the_step_equal_pillow_exactly(shape, name):
    height, width, _ = shape
    images = np.random.default_rng(0).integers(0, 256, (60, *shape), np.uint8)
    images[:20] = np.where(images[:20] < 128, 0, 255)  # so that the filter overshoots
    drawn = boxes.random_crop_boxes(jax.random.key(0), 60, height, width, (0.01, 1.0), (0.3, 3.0))
    drawn = np.array(drawn)
    drawn[:3] = (0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1)
    resized = jax.jit(resample.resize_boxes, static_argnums=2)(images, drawn, name)
    assert resized.dtype == jnp.uint8
    for image, (top, left, h, w), result in zip(images, drawn.tolist(), resized, strict=True):
        cropped = pil(image).crop((left, top, left + w, top + h))
        expected = cropped.resize((width, height), FILTERS[name])
        assert_equal(result, np.asarray(expected).reshape(shape))


@pytest.mark.parametrize("name", FILTERS)
def test_resized_boxes_in_the_step_equal_torchvision(name):
    drawn = jnp.asarray(RECORDED["step_boxes"])
    images = jnp.asarray(RECORDED["small"])[None].repeat(len(drawn), 0)
    assert_equal(resample.resize_boxes(images, drawn, name), RECORDED[f"step_{name}"])


def test_crop_sizes_in_the_step_equal_torchvision_under_its_draws():
    for shape in np.unique(RECORDED["crop_shapes"], axis=0):
        rows = (RECORDED["crop_shapes"] == shape).all(1)
        width, height = map(int, shape[:2])
        areas, aspects = jnp.asarray(RECORDED["crop_draws"][rows], jnp.float32).swapaxes(0, 1)
        sizes, fits = boxes.crop_sizes(areas, aspects, height, width)
        left, top, right, bottom = RECORDED["crop_boxes"][rows].T
        central = [
            crop.first_fitting(width, height, *draws.tolist()) is None
            for draws in RECORDED["crop_draws"][rows]
        ]
        assert_equal(~fits, central)
        expected = np.stack([bottom - top, right - left], 1)
        assert_equal(np.asarray(sizes)[fits], expected[fits])


def test_boxes_in_the_step_are_distributed_as_specified():
    drawn = boxes.random_crop_boxes(jax.random.key(0), 4000, 4000, 4000, **IMAGENET)
    assert_crop_distribution(*np.asarray(drawn).T, 4000)


@few
@hypothesis.given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    seed=st.integers(0, 99),
)
def test_boxes_in_the_step_lie_in_the_image(height, width, scale, ratio, seed):
    rng = jax.random.key(seed)
    drawn = boxes.random_crop_boxes(rng, 50, height, width, scale, ratio)
    erased = boxes.random_erase_boxes(rng, 50, height, width, 0.5)
    for found, least in ((drawn, 1), (erased, 0)):
        corner, size = np.asarray(found)[:, :2], np.asarray(found)[:, 2:]
        assert (corner >= 0).all()
        assert (size >= least).all()
        assert (corner + size <= [height, width]).all()


def test_a_crop_of_no_fitting_attempt_is_central():
    drawn = boxes.random_crop_boxes(jax.random.key(0), 50, 4, 300, **IMAGENET)
    left, top, right, bottom = crop.central_box(300, 4, IMAGENET["ratio"])
    assert (left, right) == (147, 152)
    assert (np.asarray(drawn) == [top, left, bottom - top, right - left]).all()


def test_erased_sizes_equal_timm_under_its_draws():
    none = halves = 0
    for shape in np.unique(RECORDED["erase_shapes"], axis=0):
        rows = (RECORDED["erase_shapes"] == shape).all(1)
        height, width = map(int, shape)
        draws = RECORDED["erase_draws"][rows]
        areas, aspects = jnp.asarray(draws, jnp.float32).swapaxes(0, 1)
        sizes, fits = boxes.erase_sizes(areas, aspects, height, width)
        expected = RECORDED["erase_boxes"][rows][:, 2:]
        actual = np.where(fits[:, None], sizes, 0)
        actual[(actual == 0).any(1)] = 0  # timm erases nothing where a side rounds to 0.
        none += (expected == 0).all(1).sum()
        # Single precision may round half a pixel to the other side.
        area, aspect = draws.swapaxes(0, 1) * [[[height * width]], [[1]]]
        sides = np.sqrt([area * aspect, area / aspect])
        half = (np.abs(sides % 1 - 0.5) < 1e-5).any((0, 2))
        halves += half.sum()
        assert_equal(actual[~half], expected[~half])
        assert np.abs(actual[half] - expected[half]).max(initial=0) <= 1
    assert 0 < none < 40
    assert halves <= 1


def test_erasing_equals_timm_under_its_draws():
    images, noise = RECORDED["erased_images"], RECORDED["erased_noise"]
    erased = aug.erase(
        jnp.asarray(images), jnp.asarray(RECORDED["erased_boxes"]), jnp.asarray(noise)
    )
    assert_equal(erased, RECORDED["erased"])
    assert (RECORDED["erased"] != images).any((1, 2, 3)).all()


def test_erased_boxes_are_distributed_as_specified():
    side, batch = 1000, 8000
    drawn = np.asarray(boxes.random_erase_boxes(jax.random.key(0), batch, side, side, 0.25))
    erased = drawn[:, 2] > 0
    assert scipy.stats.binomtest(int(erased.sum()), batch, 0.25).pvalue > 1e-3
    assert not drawn[~erased, 2:].any()
    top, left, height, width = drawn[erased].T
    rng = np.random.default_rng(0)
    areas = rng.uniform(0.02, 1 / 3, 40000) * side**2
    aspects = np.exp(rng.uniform(math.log(0.3), -math.log(0.3), 40000))
    fits = (np.sqrt([areas * aspects, areas / aspects]) < side).all(0)
    assert scipy.stats.ks_2samp(height * width, areas[fits]).pvalue > 1e-3
    assert scipy.stats.ks_2samp(height / width, aspects[fits]).pvalue > 1e-3
    for start, length in ((top, height), (left, width)):
        place = (start + 0.5) / (side - length + 1)
        assert scipy.stats.kstest(place, "uniform").pvalue > 1e-3


def test_random_erasing_is_noise_in_a_box_of_some_images():
    images = jnp.full((400, 16, 16, 3), 7.0)
    erase = jax.jit(aug.random_erase, static_argnums=2)
    erased = np.asarray(erase(jax.random.key(0), images, 0.25))
    changed = (erased != 7).any(-1)  # [B, H, W]
    assert scipy.stats.binomtest(int(changed.any((1, 2)).sum()), 400, 0.25).pvalue > 1e-3
    rows, cols = changed.any(2), changed.any(1)
    assert_equal(changed, rows[:, :, None] & cols[:, None, :])
    assert scipy.stats.kstest(erased[changed].ravel(), "norm").pvalue > 1e-3
    again = erase(jax.random.key(0), images, 0.25)
    assert_equal(again, erased)
    assert (np.asarray(erase(jax.random.key(0), images, 0.0)) == 7).all()
    half = erase(jax.random.key(0), images.astype(jnp.bfloat16), 0.25)
    assert half.dtype == jnp.bfloat16
    assert_equal(half, again.astype(jnp.bfloat16))


@pytest.mark.parametrize("choice", ["random_resized", "none"])
def test_augment_takes_the_crop_it_is_told(choice):
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), np.uint8))

    def expected(rng, images):
        crop_rng, flip_rng = jax.random.split(rng)
        if choice == "random_resized":
            images = aug.random_resized_crop(crop_rng, images, (0.2, 1.0), (0.5, 1.5), "bilinear")
        return aug.random_flip(flip_rng, images)

    def run(rng, images):
        ranges = {"scale": (0.2, 1.0), "ratio": (0.5, 1.5), "interpolation": "bilinear"}
        return aug.augment(rng, images, flip=True, crop=choice, **ranges)

    result = jax.jit(run)(jax.random.key(3), images)
    assert_equal(result, jax.jit(expected)(jax.random.key(3), images))
    flipped = (result == images).all((1, 2, 3)) | (result == images[:, :, ::-1]).all((1, 2, 3))
    assert flipped.all() == (choice == "none")


def test_faults_in_the_step_name_the_value_and_the_remedy():
    rng, images = jax.random.key(0), jnp.zeros((2, 4, 4, 3), jnp.uint8)
    with pytest.raises(ConfigError, match=r'the crop is "center"; use "padded", "random_resized"'):
        aug.augment(rng, images, flip=True, crop="center")
    with pytest.raises(ConfigError, match=r"config.data.scale is \(0.5, 0.1\): give the least"):
        aug.random_resized_crop(rng, images, scale=(0.5, 0.1))
    with pytest.raises(ConfigError, match=r'interpolation is "nearest"; use "bicubic"'):
        aug.random_resized_crop(rng, images, interpolation="nearest")
    with pytest.raises(ConfigError, match=r"probability of erasing is 1.5; use 0 to 1"):
        aug.random_erase(rng, images.astype(jnp.float32), 1.5)

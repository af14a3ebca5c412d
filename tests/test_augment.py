"""Augmentation against NumPy loops, by distribution, and under jit."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from automix_jax.data import augment as aug
from automix_jax.errors import ConfigError

NUMPY_MODE = {"zero": "constant", "reflect": "reflect"}
CROPS = {"zero": aug._zero_padded_crop, "reflect": aug._reflected_crop}

few = hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)


def random_images(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def reference_crop(images, offsets, padding, mode):
    height, width = images.shape[1:3]
    out = np.empty_like(images)
    for i, (top, left) in enumerate(offsets):
        pad = ((padding, padding), (padding, padding), (0, 0))
        padded = np.pad(images[i], pad, mode=NUMPY_MODE[mode])
        out[i] = padded[top : top + height, left : left + width]
    return out


def position_images(batch, size):
    """Images whose pixels say where they were: 1 + row * size + column, float32."""
    positions = 1 + np.arange(size * size, dtype=np.float32).reshape(1, size, size, 1)
    return jnp.asarray(np.repeat(positions, batch, 0))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crop_at_every_offset_equals_numpy(mode, dtype):
    offsets = np.stack(np.meshgrid(np.arange(7), np.arange(7)), -1).reshape(-1, 2)
    images = random_images(0, 49, 6, 5, 3).astype(dtype)
    cropped = CROPS[mode](jnp.asarray(images), jnp.asarray(offsets), 3)
    assert cropped.dtype == dtype
    np.testing.assert_array_equal(cropped, reference_crop(images, offsets, 3, mode))


@few
@hypothesis.given(data=st.data())
def test_crop_of_odd_sizes_equals_numpy(data):
    mode = data.draw(st.sampled_from(["zero", "reflect"]))
    batch, height, width = (data.draw(st.integers(1, n)) for n in (3, 9, 9))
    channels = data.draw(st.sampled_from([1, 3]))
    padding = data.draw(st.integers(0, min(height, width) - 1 if mode == "reflect" else 12))
    images = random_images(data.draw(st.integers(0, 99)), batch, height, width, channels)
    offsets = np.array(
        data.draw(
            st.lists(st.tuples(*[st.integers(0, 2 * padding)] * 2), min_size=batch, max_size=batch)
        )
    )
    cropped = CROPS[mode](jnp.asarray(images), jnp.asarray(offsets), padding)
    np.testing.assert_array_equal(cropped, reference_crop(images, offsets, padding, mode))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_crop_offsets_are_uniform_and_independent(mode):
    # The centre pixel is never padding, and says which offset was drawn.
    size, padding, batch = 5, 2, 5000
    images = position_images(batch, size)
    cropped = aug.random_padded_crop(jax.random.key(0), images, padding, mode)
    centre = np.asarray(cropped)[:, size // 2, size // 2, 0].astype(int) - 1
    counts = np.bincount(centre, minlength=25)  # All 25 (top, left) pairs.
    assert len(counts) == 25
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    pairs = np.histogram2d(centre[:-1] // 5, centre[1:] // 5, bins=5)[0]  # Neighbours in the batch.
    assert scipy.stats.chi2_contingency(pairs).pvalue > 1e-3


def test_crop_without_padding_gives_the_images_back():
    images = jnp.asarray(random_images(0, 3, 4, 5, 3))
    np.testing.assert_array_equal(
        aug.random_padded_crop(jax.random.key(0), images, 0, "zero"), images
    )


def test_flip_flips_half_of_the_images_exactly():
    images = random_images(0, 2000, 3, 4, 1)
    flipped = np.asarray(aug.random_flip(jax.random.key(1), jnp.asarray(images)))
    is_same = (flipped == images).all((1, 2, 3))
    is_mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (is_same ^ is_mirrored).all()
    assert scipy.stats.binomtest(int(is_mirrored.sum()), 2000).pvalue > 1e-3


@few
@hypothesis.given(
    shape=st.tuples(
        st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3])
    ),
    seed=st.integers(0, 99),
)
def test_flip_of_odd_sizes(shape, seed):
    images = random_images(seed, *shape)
    flipped = np.asarray(aug.random_flip(jax.random.key(seed), jnp.asarray(images)))
    assert flipped.dtype == np.uint8
    for before, after in zip(images, flipped, strict=True):
        assert (after == before).all() or (after == before[:, ::-1]).all()


@pytest.mark.parametrize(
    ("mean", "std"), [((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)), ((0.5,), (0.25,))]
)
def test_normalize_equals_numpy(mean, std):
    images = np.arange(256 * 3, dtype=np.uint16).reshape(1, 16, 16, 3).astype(np.uint8)
    expected = (images / 255 - np.array(mean)) / np.array(std)  # float64
    normalized = aug.normalize(jnp.asarray(images), mean, std, jnp.float32)
    assert normalized.dtype == jnp.float32
    # Near the mean the difference cancels: there the error is an ulp of 1, divided by std.
    np.testing.assert_allclose(normalized, expected, rtol=3e-7, atol=1.2e-7 / min(std))
    half = aug.normalize(jnp.asarray(images), mean, std, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, normalized.astype(jnp.bfloat16))


def test_normalize_gray():
    normalized = aug.normalize(jnp.full((2, 3, 3, 1), 255, jnp.uint8), (0.5,), (0.5,), jnp.float32)
    np.testing.assert_allclose(normalized, 1.0)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("flip", [True, False])
def test_augment_is_crop_then_flip_the_same_under_jit(mode, flip):
    images = jnp.asarray(random_images(0, 8, 7, 6, 3))
    rng = jax.random.key(3)

    def run(rng, images):
        return aug.augment(rng, images, flip=flip, padding=2, mode=mode)

    eager = run(rng, images)
    crop_rng, flip_rng = jax.random.split(rng)
    expected = aug.random_padded_crop(crop_rng, images, 2, mode)
    if flip:
        expected = aug.random_flip(flip_rng, expected)
    assert eager.dtype == jnp.uint8
    np.testing.assert_array_equal(eager, expected)
    np.testing.assert_array_equal(jax.jit(run)(rng, images), eager)
    np.testing.assert_array_equal(run(rng, images), eager)
    assert (np.asarray(run(jax.random.key(4), images)) != np.asarray(eager)).any()


def test_normalize_is_the_same_under_jit():
    images = jnp.asarray(random_images(0, 2, 5, 5, 3))
    eager = aug.normalize(images, (0.5,), (0.2,), jnp.float32)
    jitted = jax.jit(lambda images: aug.normalize(images, (0.5,), (0.2,), jnp.float32))(images)
    np.testing.assert_allclose(jitted, eager, rtol=3e-7, atol=6e-7)


def test_faults_name_the_value_and_the_remedy():
    images, rng = jnp.zeros((2, 4, 6, 3), jnp.uint8), jax.random.key(0)
    with pytest.raises(ConfigError, match=r'padding_mode is "mirror": use "zero" or "reflect"'):
        aug.random_padded_crop(rng, images, 2, "mirror")
    with pytest.raises(ConfigError, match=r"config.data.padding is -1: use 0 to 4 for images"):
        aug.augment(rng, images, flip=True, padding=-1, mode="zero")
    with pytest.raises(ConfigError, match=r"padding is 4: use 0 to 3 for images of 4 x 6 and"):
        aug.random_padded_crop(rng, images, 4, "reflect")
    with pytest.raises(ConfigError, match=r"padding is 5: use 0 to 4 for images of 4 x 6 and the"):
        aug.random_padded_crop(rng, images, 5, "zero")
    with pytest.raises(ConfigError, match=r"mean of the images has 2 numbers; give 1 or 3"):
        aug.normalize(images, (0.5, 0.5), (0.5,), jnp.float32)
    with pytest.raises(ConfigError, match=r"std of the images is \(0.0,\); every number"):
        aug.normalize(images, (0.5,), (0.0,), jnp.float32)

"""AugMix: its operations against Pillow, the laws of its draws, the mix, and its loss."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial.distance
import scipy.stats
from PIL import Image, ImageOps

from automix_jax.losses import jsd
from automix_jax.mixups.augmix import augment, augmix
from automix_jax.mixups.pixel_ops import IDENTITY, OPS, apply_ops

module = importlib.import_module("automix_jax.mixups.augmix")  # the package has the function there

CLASSES = 5
SIZES = ((32, 32, 3), (31, 45, 1))
# Eighths and 64ths: no law meets an integer except where float32 and Pillow's float64 both do.
LEVELS = (0.125, 0.59375, 1.0, 1.71875, 2.359375, 2.984375, 4.765625, 7.015625, 9.96875)
MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.3, 0.2)

run_ops = jax.jit(apply_ops)


def pillow(op, pixels, level, sign):
    """One operation as AugMix's authors call Pillow."""
    if op == IDENTITY:
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

    def whole(most):
        return int(level * most / 10)

    def affine(*coefficients):
        return image.transform(image.size, Image.AFFINE, coefficients, resample=Image.BILINEAR)

    width, height = image.size
    shear = sign * level * 0.3 / 10
    result = {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - whole(4)),
        "solarize": lambda: ImageOps.solarize(image, 256 - whole(256)),
        "rotate": lambda: image.rotate(sign * whole(30), resample=Image.BILINEAR),
        "shear_x": lambda: affine(1, shear, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, shear, 1, 0),
        "translate_x": lambda: affine(1, 0, sign * whole(width / 3), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, sign * whole(height / 3)),
    }[OPS[op]]()
    return np.asarray(result).reshape(pixels.shape)


def pictures(size, count):
    """Noise, noise of few bytes, smooth, flat and two-valued images, in turn: [count, H, W, C]."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, *size))
    smooth = scipy.ndimage.gaussian_filter(noise - 128.0, (0, 3, 3, 0))
    kinds = (noise, 37 + noise % 113, 8 * smooth + 128, np.full_like(noise, 90), noise // 128 * 77)
    images = np.stack([np.clip(kind[i :: len(kinds)], 0, 255) for i, kind in enumerate(kinds)], 1)
    return images.reshape(-1, *size).astype(np.uint8)


@functools.cache
def both(size):
    """Every operation, level and sign on five kinds of images: (op, images, ours, Pillow's)."""
    cases = [(op, level, sign) for op in range(len(OPS)) for level in LEVELS for sign in (1, -1)]
    op, level, sign = (np.repeat(column, 5) for column in zip(*cases, strict=True))
    images = pictures(size, len(op))
    ours = np.asarray(run_ops(images, op, level.astype(np.float32), sign))
    drawn = zip(op, images, level, sign.tolist(), strict=True)
    return op, images, ours, np.stack([pillow(*one) for one in drawn])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("op", OPS)
def test_ops_equal_pillow(op, size):
    """To the bit, but where a result is so near an integer that it is rounded to either side."""
    ops, _, ours, theirs = both(size)
    drawn = ops == OPS.index(op)
    difference = np.abs(ours[drawn].astype(int) - theirs[drawn])
    # Bytes are rounded down, and a weight is known to 2^-24: one byte in some thousands.
    rounded = {"autocontrast": 1e-3, "rotate": 5e-4, "shear_x": 5e-4, "shear_y": 5e-4}
    assert difference.max() <= (1 if op in rounded else 0)
    assert (difference > 0).mean() <= rounded.get(op, 0)
    assert (ours[drawn] != both(size)[1][drawn]).mean() > 0.1  # something happened


@pytest.mark.parametrize("size", SIZES)
def test_autocontrast_rounds_down(size):
    """Where it is not Pillow's byte it is the exact quotient's."""
    ops, images, ours, _ = both(size)
    drawn = ops == OPS.index("autocontrast")
    images, ours = images[drawn].astype(int), ours[drawn]
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    exact = np.where(high > low, (images - low) * 255 // np.maximum(high - low, 1), images)
    np.testing.assert_array_equal(ours, exact)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 9, 3), (150, 7, 1)])
def test_ops_on_odd_sizes(size):
    """Too few pixels to equalise, sides of one, a shift across a narrow image."""
    op = np.repeat(np.arange(len(OPS)), 2)
    level, sign = np.full(len(op), 9.96875, np.float32), np.tile([1, -1], len(OPS))
    images = np.random.default_rng(0).integers(0, 256, (len(op), *size)).astype(np.uint8)
    ours = np.asarray(run_ops(images, op, level, sign)).astype(int)
    drawn = zip(op, images, level.tolist(), sign.tolist(), strict=True)
    theirs = np.stack([pillow(*one) for one in drawn])
    assert np.abs(ours - theirs).max() <= 1


def test_identity_leaves_bytes():
    images = pictures(SIZES[0], 5)
    op, sign = np.full(5, IDENTITY), np.ones(5, int)
    np.testing.assert_array_equal(run_ops(images, op, np.full(5, 2.5, np.float32), sign), images)


# -- chains ------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """The draws of `augment` of (rng, count, severity, depth): op, level, sign, each [n, steps]."""

    def write(pixels, op, level, sign):
        """In the place of an operation: each step writes its draws into the image, as bytes."""
        level = jax.lax.bitcast_convert_type(level, jnp.uint8)  # [n, 4]
        code = jnp.concatenate([op[:, None], level, sign[:, None] + 1], 1).astype(jnp.uint8)
        return jnp.concatenate([pixels[:, :, 1:], code[:, None, None]], 2)

    def run(rng, count, severity, depth):
        blank = jnp.zeros((count, 1, depth if depth > 0 else 3, 6), jnp.uint8)
        with monkeypatch.context() as patch:
            patch.setattr(module, "apply_ops", write)
            codes = np.asarray(augment(rng, blank, severity, depth))[:, 0]  # [n, steps, 6]
        level = np.ascontiguousarray(codes[..., 1:5]).view(np.float32)[..., 0]
        return codes[..., 0].astype(int), level, codes[..., 5].astype(int) - 1

    return run


def test_chains_follow_their_laws(drawn):
    """Depth, operation, level and sign, at a fixed seed."""
    op, level, sign = drawn(jax.random.key(0), 9000, 3.0, -1)
    depth = (op != IDENTITY).sum(1)
    np.testing.assert_array_equal(op != IDENTITY, np.arange(3) < depth[:, None])
    for values, low, high in ((depth, 1, 3), (op[op != IDENTITY], 0, len(OPS) - 1)):
        assert (values.min(), values.max()) == (low, high)
        assert scipy.stats.chisquare(np.bincount(values)[low:]).pvalue > 1e-3
    assert scipy.stats.kstest(level.ravel(), scipy.stats.uniform(0.1, 2.9).cdf).pvalue > 1e-3
    assert sorted(np.unique(sign)) == [-1, 1]
    assert abs(sign.mean()) < 4 / np.sqrt(sign.size)


def test_given_depth(drawn):
    op, level, _ = drawn(jax.random.key(0), 50, 10.0, 5)
    assert op.shape == (50, 5)
    assert (op != IDENTITY).all()
    assert 9 < level.max() <= 10


def test_chains_equal_pillow(drawn):
    """One operation after the other. A byte off by 1 may spread where a later curve is steep."""
    rng, images = jax.random.key(1), pictures(SIZES[0], 60)
    ours = np.asarray(jax.jit(augment, static_argnums=(2, 3))(rng, images, 3.0, -1)).astype(int)
    theirs = images
    for op, level, sign in zip(*(x.T for x in drawn(rng, 60, 3.0, -1)), strict=True):
        steps = zip(op, theirs, level.tolist(), sign.tolist(), strict=True)
        theirs = np.stack([pillow(*one) for one in steps])
    assert (ours != theirs).mean() < 1e-3
    assert (ours != images).mean() > 0.3


# -- the mix -----------------------------------------------------------------------------------


@functools.cache
def compiled(**options):
    def run(seed, images, labels, lam=None):
        rng = jax.random.key(seed)
        return augmix(
            rng, images, labels, num_classes=CLASSES, lam=lam, mean=MEAN, std=STD, **options
        )

    return jax.jit(run)


def batch(count, dtype=jnp.float32):
    """(images, labels): normalised bytes."""
    images = (pictures((31, 45, 3), 5)[:count] / 255.0 - MEAN) / STD
    return jnp.asarray(images, dtype), jnp.arange(count) % CLASSES


@pytest.fixture
def lit(monkeypatch):
    """AugMix whose chain i of n lights channel i alone: its images at ratio 0 show the weights."""

    def augment(rng, pixels, severity, depth):
        chain = jnp.arange(len(pixels)) // (len(pixels) // 3)  # the chains one after the other
        return jnp.broadcast_to(
            255 * jnp.eye(3, dtype=jnp.uint8)[chain][:, None, None], pixels.shape
        )

    monkeypatch.setattr(module, "augment", augment)
    return functools.partial(augmix, num_classes=CLASSES, mean=MEAN, std=STD)


def test_weights_of_chains_are_dirichlet(lit):
    """Each has the margin Beta(1, 2); they sum to 1 and two correlate by -1/2."""
    images, labels = jnp.zeros((4000, 1, 1, 3)), jnp.zeros(4000, jnp.int32)
    mixed = lit(jax.random.key(0), images, labels, lam=0.0)
    weights = np.asarray(mixed.images, np.float64)[:, 0, 0] * STD + MEAN
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)  # some roundings of float32
    assert scipy.stats.kstest(weights.ravel()[::4], scipy.stats.beta(1, 2).cdf).pvalue > 1e-3
    assert np.corrcoef(weights.T)[0, 1] == pytest.approx(-0.5, abs=4 / np.sqrt(4000))


def test_clean_weights_are_uniform_and_used(lit):
    images, labels = jnp.ones((4000, 1, 1, 3)), jnp.zeros(4000, jnp.int32)
    mixed = lit(jax.random.key(0), images, labels)
    clean = np.asarray(mixed.info["clean"], np.float64)
    assert scipy.stats.kstest(clean, "uniform").pvalue > 1e-3
    again = lit(jax.random.key(0), images, labels, lam=0.0)
    expected = clean[:, None, None, None] + (1 - clean)[:, None, None, None] * again.images
    np.testing.assert_allclose(mixed.images, expected, atol=1e-5)  # roundings of values up to 3


def test_chains_that_do_nothing_give_the_images_back(monkeypatch):
    """Every chain starts from the own image's bytes, and is normalised as the image was."""
    monkeypatch.setattr(module, "augment", lambda rng, pixels, severity, depth: pixels)
    images, labels = batch(5)
    mixed = augmix(
        jax.random.key(0), images, labels, num_classes=CLASSES, mean=MEAN, std=STD, lam=0.0
    )
    np.testing.assert_allclose(mixed.images, images, atol=2e-6)  # roundings of values up to 3


def test_one_chain_is_the_normalised_bytes(drawn):
    """Of width 1 and ratio 0 the result is the augmented image itself."""
    images, labels = batch(4)
    rng = jax.random.key(3)
    mixed = augmix(
        rng, images, labels, num_classes=CLASSES, width=1, depth=1, mean=MEAN, std=STD, lam=0.0
    )
    op, level, sign = (x[:, 0] for x in drawn(jax.random.split(rng, 3)[0], 4, 3.0, 1))
    steps = zip(op, pictures((31, 45, 3), 5), level.tolist(), sign.tolist(), strict=False)
    expected = np.stack([pillow(*one) for one in steps])
    bytes_shown = 255 * (np.asarray(mixed.images, np.float64) * STD + MEAN)
    difference = np.abs(bytes_shown - expected)
    assert difference.max() < 1 + 1e-3
    assert (difference > 1e-3).mean() < 1e-2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_targets_stay_and_ratio_one_gives_the_image_back(dtype):
    images, labels = batch(3, dtype)
    mixed = compiled()(0, images, labels, 1.0)
    np.testing.assert_array_equal(mixed.images, images)
    assert mixed.images.dtype == dtype
    np.testing.assert_array_equal(mixed.targets, np.eye(CLASSES)[np.asarray(labels)])
    np.testing.assert_array_equal(mixed.info["lam"], 1)
    np.testing.assert_array_equal(mixed.info["perm"], np.arange(3))
    np.testing.assert_array_equal(mixed.info["clean"], 1)


def test_given_ratios_are_used():
    """One each; the image changes as much as the rest allows."""
    images, labels = batch(5)
    lam = jnp.asarray([0.0, 0.25, 0.5, 1.0, 1.0])
    mixed, augmented = compiled()(1, images, labels, lam), compiled()(1, images, labels, lam * 0)
    weight = np.asarray(lam)[:, None, None, None]
    np.testing.assert_allclose(
        mixed.images, weight * images + (1 - weight) * augmented.images, atol=2e-6
    )
    assert np.isfinite(augmented.images).all()
    assert np.abs(augmented.images - images).mean((1, 2, 3))[0] > 0.05


def test_groups_equal_one_by_one():
    images, labels = batch(4)
    grouped = images.reshape(2, 2, *images.shape[1:]), labels.reshape(2, 2)
    together = jax.jit(jax.vmap(compiled()))(jnp.arange(2), *grouped)
    for i in range(2):
        alone = compiled()(i, grouped[0][i], grouped[1][i])
        # Bytes are the same; the blend is rounded as it is compiled.
        np.testing.assert_allclose(together.images[i], alone.images, atol=2e-6)
    assert len(np.unique(together.info["clean"])) == 4


# -- the loss ----------------------------------------------------------------------------------


def test_recorded_divergence(vectors):
    with np.load(vectors / "baselines_golden.npz") as file:
        divergence = jsd(jnp.asarray(file["augmix_logits"]))
        np.testing.assert_allclose(divergence, file["augmix_jsd"], rtol=1e-6)


def test_divergence_of_two_equals_scipy():
    logits = jax.random.normal(jax.random.key(0), (2, 7, CLASSES)) * 3
    p, q = np.asarray(jax.nn.softmax(logits), np.float64)
    expected = scipy.spatial.distance.jensenshannon(p, q, axis=1) ** 2
    np.testing.assert_allclose(jsd(logits), expected.mean(), rtol=2e-6)


def test_divergence_at_its_ends():
    """0 among equal predictions, log n among disjoint ones; no NaN where a probability is 0."""
    same = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (4, CLASSES)), (3, 4, CLASSES))
    assert jsd(same) == pytest.approx(0, abs=1e-7)
    disjoint = 1000 * jnp.eye(3)[:, None]
    assert jsd(disjoint) == pytest.approx(np.log(3), rel=1e-6)
    assert np.isfinite(jax.grad(jsd)(disjoint)).all()
    assert jsd(disjoint.astype(jnp.bfloat16)).dtype == jnp.float32

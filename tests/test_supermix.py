"""SuperMix: its search re-derived in NumPy, its smoothing against SciPy, when a mix succeeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.special
import scipy.stats

from automix_jax.errors import ConfigError
from automix_jax.mixups.supermix import Search, descend, masks, ranked_first, smoothing, supermix

CLASSES = 6
SIZE = (31, 45, 3)
GRID = 4


@functools.cache
def teacher(seed=0, size=SIZE, sharpness=10.0):
    """A linear teacher's weights: [H * W * C, K]."""
    pixels = int(np.prod(size))
    weights = np.random.default_rng(seed).standard_normal((pixels, CLASSES)) / np.sqrt(pixels)
    return (sharpness * weights).astype(np.float32)


def predict(images, weights):
    return images.reshape(len(images), -1).astype(jnp.float32) @ weights


def batch(count, size=SIZE, dtype=jnp.float32):
    """(images, labels): noise that a linear teacher tells apart; labels say nothing of it."""
    images = np.random.default_rng(1).standard_normal((count, *size))
    return jnp.asarray(images, dtype), jnp.zeros(count, jnp.int32)


@functools.cache
def compiled(**options):
    """SuperMix under jit, of (seed, images, weights of the teacher, lam, perm)."""

    def run(seed, images, weights, lam=None, perm=None):
        return supermix(
            jax.random.key(seed),
            images,
            jnp.zeros(len(images), jnp.int32),
            num_classes=CLASSES,
            predict=functools.partial(predict, weights=weights),
            lam=lam,
            perm=perm,
            **{"grid": GRID, **options},
        )

    return jax.jit(run)


# -- the search --------------------------------------------------------------------------------


def interpolation(cells, pixels):
    """The matrix of bilinear upsampling between centres, [pixels, cells]."""
    at = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    left = np.minimum(at.astype(int), cells - 2)
    matrix = np.zeros((pixels, cells))
    matrix[np.arange(pixels), left] = 1 - (at - left)
    matrix[np.arange(pixels), left + 1] = at - left
    return matrix


class Reference:
    """The search for one mix in float64, by finite differences."""

    def __init__(self, images, weights, shares, sparsity, sigma):
        self.images, self.weights = np.asarray(images, float), np.asarray(weights, float)
        self.sparsity, self.sigma = sparsity, sigma
        classes = (self.images.reshape(len(images), -1) @ self.weights).argmax(-1)
        self.targets = np.zeros(CLASSES)
        np.add.at(self.targets, classes, shares)
        self.logits = np.zeros((len(images), GRID, GRID))

    def mask(self, logits):
        height, width = self.images.shape[1:3]
        rows, columns = interpolation(GRID, height), interpolation(GRID, width)
        weights = scipy.special.expit(rows @ logits @ columns.T)
        return weights / weights.sum(0)

    def loss(self, logits):
        mask = self.mask(logits)
        scores = (mask[..., None] * self.images).sum(0).reshape(-1) @ self.weights
        log_q = scores - scipy.special.logsumexp(scores)
        divergence = (scipy.special.xlogy(self.targets, self.targets) - self.targets * log_q).sum()
        return divergence + self.sparsity * np.abs(mask * (mask - 1)).mean()

    def gradient(self, logits, epsilon=1e-5):
        steps = epsilon * np.eye(logits.size).reshape(-1, *logits.shape)
        losses = [self.loss(logits + step) - self.loss(logits - step) for step in steps]
        return np.reshape(losses, logits.shape) / (2 * epsilon)

    def step(self):
        gradient = self.gradient(self.logits)
        smooth = np.stack([smoothed(cells, self.sigma) for cells in gradient])
        length = abs(self.loss(self.logits)) / ((gradient * smooth).sum() + 1e-10)
        self.logits = self.logits - np.clip(length, 1e-4, 2000) * smooth


def smoothed(cells, sigma):
    """Convolves by the published Gaussian: floor(5 sigma) cells, more of them down and right."""
    size = int(5 * sigma)
    kernel = scipy.signal.windows.gaussian(size, size / 5)
    origin = -1 if size % 2 == 0 else 0
    for axis in (0, 1):
        cells = scipy.ndimage.correlate1d(
            cells, kernel / kernel.sum(), axis, mode="constant", origin=origin
        )
    return cells


@pytest.mark.parametrize(
    ("iterations", "options", "atol"),
    # A step divides float32 sums, and further steps multiply its error.
    [
        (1, {}, 1e-5),
        (3, {}, 1e-4),
        (3, {"sigma": 2.0, "sparsity": 3.0}, 1e-4),
        (3, {"images_per_mix": 3}, 1e-4),
    ],
)
def test_search_equals_numpy(iterations, options, atol):
    """The masks after some steps, of mixes that took them all."""
    count, (images, _) = options.get("images_per_mix", 2), batch(16)
    mixed = compiled(iterations=iterations, tolerance=0.0, **options)(0, images, teacher())
    before = compiled(iterations=iterations - 1, tolerance=0.0, **options)(0, images, teacher())
    assert iterations > 1 or not before.info["success"].any()  # at the start nothing counts
    classes = (np.asarray(images).reshape(16, -1) @ teacher()).argmax(-1)
    members = (np.arange(16)[:, None] + np.arange(count)) % 16
    # Where two images are of one class the targets do not tell their shares.
    told = np.asarray([len(set(classes[row])) == count for row in members])
    checked = np.flatnonzero(told & ~np.asarray(before.info["success"]))
    assert len(checked) >= 3
    for i in checked[:3]:
        shares = np.asarray(mixed.targets, float)[i, classes[members[i]]]
        reference = Reference(
            np.asarray(images)[members[i]],
            teacher(),
            shares,
            options.get("sparsity", 25.0),
            options.get("sigma", 1.0),
        )
        for _ in range(iterations):
            reference.step()
        np.testing.assert_allclose(
            mixed.info["mask"][i, ..., 0], reference.mask(reference.logits)[0], atol=atol
        )


def test_lengths_of_steps():
    """loss / |gradient|^2, no shorter than 1e-4 nor longer than 2000; none after success."""
    loss, gradient = jnp.asarray([3.0, 0.0, 3.0, 3.0]), jnp.asarray([2.0, 2.0, 1e-3, 2.0])
    cells = jnp.ones((4, 1, 1, 1))
    search = Search(
        step=jnp.asarray(1),
        logits=cells,
        active=jnp.asarray([True, True, True, False]),
        loss=loss,
        gradient=cells * gradient[:, None, None, None],
        scores=jnp.zeros((4, CLASSES)),
    )
    expected = 1 - np.asarray([3 / 4, 1e-4, 2000, 0]) * np.asarray(gradient)
    logits = descend(search, jnp.ones((1, 1))).ravel()
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.6, 1.0, 1.4, 2.0, 3.5])
def test_smoothing_equals_scipy(sigma):
    """Of an odd number of cells it is SciPy's Gaussian; below a cell it is none."""
    cells = np.random.default_rng(0).standard_normal((8, 8))
    matrix = np.asarray(smoothing(8, sigma), np.float64)
    ours = matrix @ cells @ matrix.T
    if sigma == 0.1:
        np.testing.assert_array_equal(ours, cells)
        return
    np.testing.assert_allclose(ours, smoothed(cells, sigma), atol=1e-6)  # weights in float32
    if (5 * sigma) % 2 == 1:
        theirs = scipy.ndimage.gaussian_filter(
            cells, sigma, mode="constant", radius=int(5 * sigma) // 2
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


# -- success -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_success_is_equality_of_sets(count):
    """Random scores, half of them of a mix whose classes rank first."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((400, CLASSES)).astype(np.float32)
    order = np.argsort(-scores, 1)
    chosen = np.where(np.arange(400)[:, None] % 2, order, rng.permuted(order, axis=1))[:, :count]
    targets = np.zeros((400, CLASSES), np.float32)
    np.put_along_axis(targets, chosen, rng.uniform(0.1, 1, chosen.shape), 1)
    expected = [set(row[:count]) == set(mine) for row, mine in zip(order, chosen, strict=True)]
    np.testing.assert_array_equal(ranked_first(jnp.asarray(scores), jnp.asarray(targets)), expected)
    assert 0.5 <= np.mean(expected) < 0.8


@functools.cache
def by_iterations():
    """Results on 16 images after 1, 2, 3 and 50 steps at most, by their number."""
    images, _ = batch(16)
    return {
        steps: compiled(iterations=steps, tolerance=0.0)(0, images, teacher())
        for steps in (1, 2, 3, 50)
    }


def test_success_is_what_the_teacher_says():
    """`success` and `teacher` follow from its scores on the images that come back."""
    images, _ = batch(16)
    classes = (np.asarray(images).reshape(16, -1) @ teacher()).argmax(-1)
    for mixed in by_iterations().values():
        scores = np.asarray(mixed.images).reshape(16, -1) @ teacher()
        order = np.argsort(-scores, 1)
        np.testing.assert_array_equal(mixed.info["teacher"], order[:, 0])
        for i, partner in enumerate(np.roll(classes, -1)):
            wanted = {classes[i], partner}
            assert mixed.info["success"][i] == (set(order[i, : len(wanted)]) == wanted)


def test_successes_are_frozen():
    """Once a mix has succeeded its mask stays to the bit, while others go on."""
    earlier, *later = by_iterations().values()
    counts = [int(earlier.info["success"].sum())]
    for mixed in later:
        done = np.asarray(earlier.info["success"])
        assert np.asarray(mixed.info["success"])[done].all()
        np.testing.assert_array_equal(mixed.images[done], earlier.images[done])
        counts.append(int(mixed.info["success"].sum()))
        earlier = mixed
    assert counts[0] < counts[2] < counts[-1]


def test_tolerance_ends_the_search():
    """The first number of steps that leaves at most as many is the last."""
    images, _ = batch(16)
    left = {
        steps: 16 - int(mixed.info["success"].sum()) for steps, mixed in by_iterations().items()
    }
    assert left[1] > left[2]
    some = compiled(tolerance=left[2] / 16)(0, images, teacher())
    np.testing.assert_array_equal(some.info["mask"], by_iterations()[2].info["mask"])


def test_images_of_one_class():
    """Two images of one class succeed when the teacher sees that class."""
    images, _ = batch(1)
    images = jnp.concatenate([images, 0.5 * images])
    mixed = compiled()(0, images, teacher())
    np.testing.assert_array_equal(mixed.info["success"], True)
    np.testing.assert_allclose(mixed.targets.max(1), 1, atol=1e-6)


# -- the mix -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_mix_is_what_its_info_says(dtype):
    """Own images by their mask, partners by the rest; targets of the teacher's classes."""
    images, _ = batch(16, dtype=dtype)
    mixed = compiled()(1, images, teacher())
    perm, mask = np.asarray(mixed.info["perm"]), np.asarray(mixed.info["mask"], np.float64)
    np.testing.assert_array_equal(perm, np.roll(np.arange(16), -1))
    wide = np.asarray(images, np.float64)
    rounding = 1e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(
        np.asarray(mixed.images, np.float64),
        mask * wide + (1 - mask) * wide[perm],
        rtol=rounding,
        atol=rounding,
    )
    assert mixed.images.dtype == dtype
    classes, lam = (wide.reshape(16, -1) @ teacher()).argmax(-1), np.asarray(mixed.info["lam"])
    eye = np.eye(CLASSES)
    targets = lam[:, None] * eye[classes] + (1 - lam[:, None]) * eye[classes[perm]]
    np.testing.assert_allclose(mixed.targets, targets, atol=1e-6)
    assert ((mask > 0) & (mask < 1)).any()


def test_three_images_share():
    images, _ = batch(16)
    mixed = compiled(images_per_mix=3)(0, images, teacher(), 0.5)
    np.testing.assert_allclose(mixed.targets.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(mixed.info["lam"], 0.5)
    assert ((mixed.targets > 0).sum(1) == 3).any()


def test_shares_are_dirichlet():
    """Their margin is Beta(alpha, alpha); chance of a false alarm 1e-3 at a fixed seed."""
    images, weights = jnp.zeros((3000, 1, 1, 1)), jnp.zeros((1, CLASSES))
    mixed = compiled(iterations=0)(0, images, weights)
    assert scipy.stats.kstest(mixed.info["lam"], scipy.stats.beta(3, 3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("lam", [1.0, 0.0])
def test_whole_shares_give_whole_images(lam):
    images, _ = batch(16)
    perm = jnp.roll(jnp.arange(16), 3)
    mixed = compiled()(0, images, teacher(), lam, perm)
    shown = images if lam else images[perm]
    np.testing.assert_array_equal(mixed.images, shown)
    np.testing.assert_array_equal(mixed.info["perm"], perm)
    np.testing.assert_array_equal(mixed.info["lam"], lam)
    np.testing.assert_array_equal(mixed.info["success"], True)
    classes = predict(shown, teacher()).argmax(-1)
    np.testing.assert_array_equal(mixed.targets, np.eye(CLASSES)[np.asarray(classes)])


def test_masks_stay_finite_far_out():
    """Where every sigmoid is 0 in float32 the larger logit still shows."""
    logits = jnp.stack([jnp.full((1, 2, 2), -300.0), jnp.full((1, 2, 2), -301.0)], 1)
    mask = masks(logits, jnp.full((1, 2), 0.5), (4, 4))
    np.testing.assert_allclose(mask[0, 0], scipy.special.expit(1.0), rtol=1e-5)


def test_groups_equal_one_by_one():
    images, _ = batch(16)
    grouped = images.reshape(2, 8, *images.shape[1:])
    together = jax.jit(jax.vmap(compiled(), (0, 0, None)))(jnp.arange(2), grouped, teacher())
    for i in range(2):
        alone = compiled()(i, grouped[i], teacher())
        np.testing.assert_array_equal(together.info["success"][i], alone.info["success"])
        # Sums are rounded as they are compiled, and steps multiply the error.
        np.testing.assert_allclose(together.info["mask"][i], alone.info["mask"], atol=1e-3)


def test_gradient_goes_through_the_mix_alone():
    images, _ = batch(16)
    total, back = jax.vjp(lambda x: compiled()(0, x, teacher()).images.sum((1, 2, 3)), images)
    gradient = back(jnp.arange(16.0))[0]
    mask = np.asarray(compiled()(0, images, teacher()).info["mask"])
    weight = np.arange(16.0)[:, None, None, None]
    expected = weight * mask + np.roll(weight * (1 - mask), 1, 0)
    np.testing.assert_allclose(gradient, np.broadcast_to(expected, images.shape), atol=1e-4)
    assert total.shape == (16,)


def test_no_teacher():
    images, labels = batch(2)
    with pytest.raises(ConfigError, match="supermix needs predict="):
        supermix(jax.random.key(0), images, labels, num_classes=CLASSES)

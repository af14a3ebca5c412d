"""The mixups: what holds of any method and batch, CutMix's box in NumPy, and how draws fall."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from automix_jax import mixups
from automix_jax.errors import ConfigError
from automix_jax.mixups.sampling import sample_lam, sample_perm
from tests.steps import data_mesh

CLASSES = 5
METHODS = mixups.list_mixups()
# Every batch size, both image sizes, gray and RGB, both dtypes: one compilation each a method.
SHAPES = (
    (1, 31, 45, 1, "float32"),
    (2, 31, 45, 3, "bfloat16"),
    (3, 8, 8, 3, "float32"),
)
# Shorter searches: their own tests look at what they find.
OPTIONS = {
    "puzzlemix": {"blocks": (2, 4), "iterations": 10},
    "supermix": {"grid": 4, "iterations": 2},
}
UNPAIRED = {"augmix", "comixup"}  # an output is not two inputs, lam and perm say less
BLENDS = set(METHODS) - UNPAIRED - {"resizemix", "puzzlemix", "manifoldmix", "alignmix"}
# The label weighs what is seen: exactly, or as near as whole pixels come.
AREA = {"cutmix", "saliencymix", "resizemix", "attentivemix", "gridmix", "smoothmix", "puzzlemix",
        "comixup", "fmix", "randomgrid"}  # fmt: skip


def looked_at(method, images):
    """What a method looks at beside the batch."""
    kind = mixups.needs(method)
    gray = jnp.abs(images.astype(jnp.float32)).mean(-1)
    if kind == "saliency":
        return {"saliency": gray}
    if kind == "attention":
        return {"attention": jax.image.resize(gray, (len(gray), 7, 7), "linear")}
    if kind == "predict":
        weights = jax.random.normal(jax.random.key(0), (images[0].size, CLASSES))
        return {"predict": lambda x: x.reshape(len(x), -1).astype(jnp.float32) @ weights}
    assert not kind
    return {}


def make(method, **options):
    """A mixup of (rng, images, labels, lam, perm) that has what it looks at."""
    mix = mixups.create(method, **OPTIONS.get(method, {}), **options)

    def run(rng, images, labels, lam=None, perm=None):
        extra = looked_at(method, images)
        return mix(rng, images, labels, num_classes=CLASSES, lam=lam, perm=perm, **extra)

    return run


@functools.cache
def compiled(method, given_draws, **options):
    """A mixup under jit, of (seed, images, labels[, lam, perm])."""
    mix = make(method, **options)
    if given_draws:
        return jax.jit(lambda seed, *arguments: mix(jax.random.key(seed), *arguments))
    return jax.jit(lambda seed, images, labels: mix(jax.random.key(seed), images, labels))


def batch(shape, seed, flat):
    """(images, labels): noise, or every image of one number."""
    count, height, width, channels, dtype = shape
    rng = np.random.default_rng(seed)
    size = (1, 1, 1) if flat else (height, width, channels)
    images = np.broadcast_to(rng.standard_normal((count, *size)), (count, height, width, channels))
    return jnp.asarray(images, dtype), jnp.asarray(rng.integers(0, CLASSES, count))


def blend(images, perm, weight):
    """weight * own + (1 - weight) * partner in float64."""
    images = np.asarray(images, np.float64)
    return weight * images + (1 - weight) * images[perm]


def weights_of(mixed):
    """The weight of every own pixel that a result claims."""
    lam = np.asarray(mixed.info["lam"], np.float64)[:, None, None, None]
    return np.asarray(mixed.info.get("mask", lam), np.float64)


batches = st.builds(batch, st.sampled_from(SHAPES), st.integers(0, 2**31 - 1), st.booleans())
seeds = st.integers(0, 2**31 - 1)
ratios = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1e-7]), st.floats(0, 1, width=32))
few = settings(max_examples=25, deadline=None, derandomize=True)  # compilations take seconds


# -- properties --------------------------------------------------------------------------------


SLOW = [pytest.param(name, marks=pytest.mark.long) if name in ("comixup", "puzzlemix") else name
        for name in METHODS]  # fmt: skip


@pytest.mark.parametrize("method", SLOW)
@few
@given(batches, seeds)
def test_own_draws(method, data, seed):
    """A result is what its `info` says of pairing, ratio and mask, and its targets agree."""
    images, labels = data
    mixed = compiled(method, False)(seed, images, labels)
    perm, lam = np.asarray(mixed.info["perm"]), np.asarray(mixed.info["lam"])
    assert mixed.images.shape == images.shape
    assert mixed.images.dtype == images.dtype
    assert np.isfinite(np.asarray(mixed.images, np.float64)).all()
    assert ((lam >= 0) & (lam <= 1)).all()
    assert mixed.targets.dtype == jnp.float32
    np.testing.assert_allclose(mixed.targets.sum(1), 1, atol=1e-6)
    assert (np.asarray(mixed.targets) >= 0).all()
    if "mask" in mixed.info:
        mask = np.asarray(mixed.info["mask"], np.float64)
        assert mask.shape == (*images.shape[:3], 1)
        assert ((mask >= 0) & (mask <= 1)).all()
        if method in AREA:
            nearest = 1 / mask[0].size if method == "fmix" else 0
            # Float32 sums of up to 1395 pixels.
            np.testing.assert_allclose(mask.mean((1, 2, 3)), lam, atol=nearest + 2e-6)
    if method not in UNPAIRED:
        assert sorted(perm) == list(range(len(labels)))
        eye = np.eye(CLASSES)
        seen = labels
        if method == "supermix":  # the classes are the teacher's
            seen = looked_at(method, images)["predict"](images).argmax(-1)
        own, partner = eye[np.asarray(seen)], eye[np.asarray(seen)[perm]]
        targets = lam[:, None] * own + (1 - lam[:, None]) * partner
        np.testing.assert_allclose(mixed.targets, targets, atol=1e-6)
    if method in BLENDS:
        rounding = 2**-8 if images.dtype == jnp.bfloat16 else 1e-6
        expected = blend(images, perm, weights_of(mixed))
        # Up to five deviations of noise, rounded a few times.
        np.testing.assert_allclose(
            np.asarray(mixed.images, np.float64), expected, rtol=rounding, atol=5 * rounding
        )


@pytest.mark.parametrize("method", METHODS)
@few
@given(batches, seeds, ratios)
def test_given_draws(method, data, seed, lam):
    """A given ratio and pairing are those used; ratio 1 leaves images and labels as they are."""
    images, labels = data
    perm = jnp.roll(jnp.arange(len(labels)), 1)
    mixed = compiled(method, True)(seed, images, labels, lam, perm)
    used = np.asarray(mixed.info["lam"])
    assert np.isfinite(np.asarray(mixed.images, np.float64)).all()
    if method == "vanilla" or (lam == 1 and method != "comixup"):
        np.testing.assert_array_equal(mixed.images, images)
        # Shares are counted in float32: up to one rounding off.
        np.testing.assert_allclose(used, 1, atol=1e-7)
        if method != "supermix":
            targets = np.eye(CLASSES)[np.asarray(labels)]
            np.testing.assert_allclose(mixed.targets, targets, atol=1e-7)
    if method not in UNPAIRED and method != "vanilla":
        np.testing.assert_array_equal(mixed.info["perm"], perm)
    if method in ("mixup", "manifoldmix", "alignmix", "fmix"):
        np.testing.assert_allclose(used, lam, atol=1e-7)
    if method == "cutmix":
        mask = np.asarray(mixed.info["mask"])
        assert set(np.unique(mask)) <= {0, 1}
        assert (used >= lam - 1e-6).all()  # the box is never larger than asked
        assert (mask == mask[:1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_jit_does_not_compile_again(method):
    images, labels = batch(SHAPES[2], 0, False)
    mix = compiled(method, False)
    first = mix(0, images, labels)
    programs = mix._cache_size()
    second = mix(1, images + 1, labels[::-1])
    assert mix._cache_size() == programs
    if method not in ("vanilla", "supermix"):
        assert (np.asarray(first.images) != np.asarray(second.images - 1)).any()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((name, {}) for name in ("mixup", "cutmix", "mixup_cutmix", "fmix", "resizemix",
                                  "gridmix", "smoothmix", "attentivemix", "puzzlemix")),
        ("saliencymix", {"per": "sample"}),  # by batch it looks at the first partner alone
    ],
)  # fmt: skip
def test_order_of_the_batch(method, options):
    """Images in another order, with the same partners, give the same results in that order."""
    images, labels = batch((5, 8, 8, 3, "float32"), 0, False)
    perm, order = jnp.array([2, 0, 4, 1, 3]), jnp.array([3, 1, 4, 0, 2])
    place = jnp.argsort(order)  # where an image has gone
    mix = compiled(method, True, **options)
    mixed = mix(0, images, labels, 0.4, perm)
    moved = mix(0, images[order], labels[order], 0.4, place[perm[order]])
    np.testing.assert_allclose(moved.images, mixed.images[order], atol=1e-6)
    np.testing.assert_allclose(moved.targets, mixed.targets[order], atol=1e-6)
    np.testing.assert_array_equal(moved.info["perm"], place[mixed.info["perm"][order]])


@pytest.mark.long
def test_groups_and_devices():
    """All methods in one program: eight groups under vmap, one by one, and on eight devices."""
    shape = (8 * 3, 8, 8, 3, "float32")
    images, labels = batch(shape, 0, False)
    grouped = (images.reshape(8, 3, 8, 8, 3), labels.reshape(8, 3))
    rngs = jax.random.split(jax.random.key(0), 8)
    mixes = {method: make(method) for method in METHODS}

    def run(rng, images, labels):
        mixed = {name: mix(rng, images, labels) for name, mix in mixes.items()}
        return {name: (m.images, m.targets, m.info["lam"]) for name, m in mixed.items()}

    grouped_run = jax.jit(jax.vmap(run))
    on_gpu = grouped_run.trace(rngs, *grouped).lower(lowering_platforms=("cuda",)).as_text()
    assert "callback" not in on_gpu
    together = grouped_run(rngs, *grouped)
    split = jax.sharding.PartitionSpec("data")
    apart = jax.jit(
        jax.shard_map(
            lambda *group: jax.tree.map(lambda x: x[None], run(*(x[0] for x in group))),
            mesh=data_mesh(8),
            in_specs=split,
            out_specs=split,
        )
    )(rngs, *grouped)
    for method in METHODS:
        if method == "comixup":  # it takes the best of several solutions, which may be as good
            same = np.isclose(apart[method][0], together[method][0], atol=1e-5).all((2, 3, 4))
            assert same.mean() >= 0.75
            continue
        jax.tree.map(  # to the rounding of sums in another order
            functools.partial(np.testing.assert_allclose, atol=1e-5, err_msg=method),
            apart[method],
            together[method],
        )
        if method not in ("vanilla", "augmix"):
            assert len(np.unique(together[method][2])) > 1


@pytest.mark.parametrize("method", ["vanilla", "mixup", "cutmix", "fmix", "smoothmix"])
def test_gradient_reaches_the_images(method):
    """Each pixel gets its own weight and what its image gives as a partner."""
    images, labels = batch(SHAPES[2], 0, False)
    mix = functools.partial(mixups.create(method), jax.random.key(3), num_classes=CLASSES)

    @jax.jit
    def run(images):
        def total(images):
            mixed = mix(images=images, labels=labels)
            return (mixed.images.sum((1, 2, 3)) * jnp.arange(1.0, 4.0)).sum(), mixed

        return jax.grad(total, has_aux=True)(images)

    gradient, mixed = run(images)
    weight, own = np.broadcast_to(weights_of(mixed), (*images.shape[:3], 1)), np.arange(1.0, 4.0)
    expected = weight * own[:, None, None, None]
    np.add.at(expected, np.asarray(mixed.info["perm"]), (1 - weight) * own[:, None, None, None])
    np.testing.assert_allclose(gradient, np.broadcast_to(expected, images.shape), atol=1e-5)


# -- CutMix's box ------------------------------------------------------------------------------


def box_mask(height, width, lam, row, column):
    """The law as published: even sides, clipped, half-open."""
    mask = np.ones((height, width))
    cut_height, cut_width = (int(side * np.sqrt(1 - lam)) // 2 for side in (height, width))
    top, left = max(row - cut_height, 0), max(column - cut_width, 0)
    mask[top : row + cut_height, left : column + cut_width] = 0
    return mask


@pytest.fixture
def cutmix_at(monkeypatch):
    """CutMix under jit with its centre given: of (images, labels, perm, lam, row, column)."""

    @jax.jit
    def run(images, labels, perm, lam, row, column):
        height, width = images.shape[1:3]
        asked = iter([(height, row), (width, column)])

        def randint(key, shape, low, high):
            side, value = next(asked)
            assert (shape, low, high) == ((1,), 0, side)
            return jnp.asarray([value])

        with monkeypatch.context() as patch:
            patch.setattr(jax.random, "randint", randint)
            return mixups.cutmix(
                jax.random.key(0), images, labels, num_classes=CLASSES, lam=lam, perm=perm
            )

    return run


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]])
def test_box_equals_numpy(cutmix_at, shape):
    images, labels = batch(shape, 0, False)
    perm = jnp.roll(jnp.arange(len(labels)), 1)
    height, width = images.shape[1:3]
    for row in (0, 1, height // 2, height - 1):
        for column in (0, width // 3, width - 1):
            # At 0.36 = 1 - 0.8^2 and the like float32 may round a side to the next integer.
            for lam in (0.0, 0.013, 0.3, 0.51, 0.77, 0.9371, 0.9999, 1.0):
                mixed = cutmix_at(images, labels, perm, lam, row, column)
                expected = box_mask(height, width, lam, row, column)
                np.testing.assert_array_equal(mixed.info["mask"][0, ..., 0], expected)
                np.testing.assert_allclose(mixed.info["lam"], expected.mean(), atol=1e-6)


def test_recorded_boxes(vectors, cutmix_at):
    """The authors' function under scripted draws: images and masks to the bit."""
    with np.load(vectors / "baselines_golden.npz") as file:
        recorded = dict(file)
    images = jnp.asarray(recorded["common_x"].transpose(0, 2, 3, 1))
    labels, perm = (jnp.asarray(recorded[f"common_{name}"]) for name in ("y", "perm"))
    cases = recorded["cutmix_cases_lam_cx_cy_lamadj"]
    assert len(cases) == 7
    for i, (lam, row, column, adjusted) in enumerate(cases):
        mixed = cutmix_at(images, labels, perm, lam, int(row), int(column))
        theirs = recorded[f"cutmix_{i}_x"].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(mixed.images, theirs)
        mask = np.asarray(mixed.info["mask"][0, ..., 0])
        assert {*np.unique(recorded[f"cutmix_{i}_mask"])} <= {0, 1}
        np.testing.assert_array_equal(1 - mask, recorded[f"cutmix_{i}_mask"])
        np.testing.assert_allclose(mixed.info["lam"], adjusted, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "alpha", "mean", "empty"), [(32, 1.0, 0.7008, None), (32, 0.2, 0.7244, 0.174)]
)
def test_box_statistics(side, alpha, mean, empty):
    """Against 200 000 draws in NumPy; 20 000 have a standard error of 0.002 (ratio), 0.003."""
    images, labels = jnp.zeros((1, side, side, 1)), jnp.zeros(1, jnp.int32)

    @jax.jit
    @jax.vmap
    def ratios(rng):
        mix = mixups.create("cutmix", alpha=alpha)
        return mix(rng, images, labels, num_classes=CLASSES).info["lam"][0]

    lam = ratios(jax.random.split(jax.random.key(0), 20_000))
    assert lam.mean() == pytest.approx(mean, abs=0.008)
    if empty is not None:
        assert (lam == 1).mean() == pytest.approx(empty, abs=0.012)


# -- draws -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    """20 000 ratios by alpha, from one compilation."""
    draw = jax.jit(lambda alpha: sample_lam(jax.random.key(7), alpha, (20_000,)))
    return functools.cache(lambda alpha: np.asarray(draw(jnp.float32(alpha)), np.float64))


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_ratios_are_beta(unchecked, many, alpha):
    """Kolmogorov-Smirnov at a fixed seed; mean and variance within four standard errors."""
    lam, beta = many(alpha), scipy.stats.beta(alpha, alpha)
    assert ((lam >= 0) & (lam <= 1)).all()  # false for NaN
    # Float32 is fine near 0 but coarse near 1, where it rounds 1.7 % of Beta(0.2, 0.2) to 1. So
    # the lower half is held against the distribution, all against a sample rounded the same way.
    lower = lam[lam < 0.5]
    assert scipy.stats.kstest(lower, lambda x: 2 * beta.cdf(x)).pvalue > 1e-3
    rounded = beta.rvs(200_000, random_state=0).astype(np.float32)
    assert scipy.stats.ks_2samp(lam, rounded).pvalue > 1e-3
    error = 4 / np.sqrt(len(lam))
    assert lam.mean() == pytest.approx(0.5, abs=error * beta.std())
    kurtosis = float(beta.stats("k")) + 3
    assert lam.var() == pytest.approx(beta.var(), rel=error * np.sqrt(kurtosis - 1))


def test_ratios_are_symmetric_at_the_ends(unchecked, many):
    """Small alpha comes close to 0 and, as far as float32 goes, to 1 alike."""
    lam = many(0.2)
    expected = scipy.stats.beta(0.2, 0.2).cdf(1e-4)
    error = 4 * np.sqrt(expected / len(lam))
    assert (lam < 1e-4).mean() == pytest.approx(expected, abs=error)
    assert (lam > 1 - 1e-4).mean() == pytest.approx(expected, abs=error)


def test_ratios_of_any_shape():
    lam = sample_lam(jax.random.key(0), 1.0, (2, 3))
    assert lam.shape == (2, 3)
    assert lam.dtype == jnp.float32
    assert len(np.unique(lam)) == 6
    np.testing.assert_array_equal(lam, sample_lam(jax.random.key(0), 1.0, (2, 3)))
    assert sample_lam(jax.random.key(0), 1.0).shape == ()


def test_ratios_at_extreme_draws(monkeypatch):
    """Where a uniform draw is at the end of its range, nothing is NaN."""
    tiny = jnp.finfo(jnp.float32).tiny
    # As the draws are: u up to the last float below 1, v from 0, and cos(2 pi v) near 0.
    values = iter([jnp.array([tiny, 1 - 2.0**-24] * 3), jnp.repeat(jnp.array([0, 0.25, 0.5]), 2)])
    monkeypatch.setattr(jax.random, "uniform", lambda *args, **options: next(values))
    lam = sample_lam(jax.random.key(0), 0.2, (6,))
    assert ((lam >= 0) & (lam <= 1)).all()


def test_permutations_are_uniform():
    """Chi-square over the 24 orders of four, at a fixed seed."""
    rngs = jax.random.split(jax.random.key(0), 6000)
    perms = np.asarray(jax.jit(jax.vmap(lambda rng: sample_perm(rng, 4)))(rngs))
    assert (np.sort(perms, 1) == np.arange(4)).all()
    _, counts = np.unique(perms, axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", [1, 2, 257])
def test_permutations_of_any_size(size):
    perm = sample_perm(jax.random.key(1), size)
    assert sorted(np.asarray(perm)) == list(range(size))


# -- by name -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cutmx", {}, "'cutmx' is not known. Did you mean 'cutmix'"),
        ("foo", {}, r"'foo' is not known\. Use vanilla, mixup, cutmix"),
        ("mixup", {"alhpa": 1.0}, "no option 'alhpa'. Did you mean 'alpha'. It has alpha, per"),
        ("vanilla", {"alpha": 1.0}, "no option 'alpha'. It has none"),
        ("mixup", {"lam": 0.5}, "no option 'lam'"),
        ("puzzlemix", {"saliency": 0.5}, "no option 'saliency'"),
        ("cutmix", {"alpha": 0.0}, r"alpha of 'cutmix' is 0\.0: it must be above 0\.$"),
        ("mixup", {"alpha": -1.0}, "alpha of 'mixup' is -1.0"),
        ("mixup", {"alpha": np.nan}, "alpha of 'mixup' is nan"),
        ("mixup", {"alpha": "1"}, r"is '1': it must be of the kind of its default, 1\.0\."),
        ("mixup", {"alpha": True}, "is True: it must be of the kind"),
        ("transmix", {"cutmix_alpha": 0.0}, "cutmix_alpha of 'transmix' is 0.0"),
        ("transmix", {"switch_prob": 1.5}, r"is 1\.5: it must be from 0 to 1\.$"),
        ("mixup_cutmix", {"smoothing": -0.1}, r"is -0\.1: it must be from 0 to 1\.$"),
        (
            "cutmix",
            {"per": "smaple"},
            r"^per of 'cutmix' is 'smaple', which is not known\. Did you mean 'sample'\?"
            r" Use batch, sample\.$",
        ),
        ("cutmix", {"per": "pair"}, r"is 'pair', which is not known\. Use batch, sample\.$"),
        ("fmix", {"variant": "publshed"}, "Did you mean 'published'. Use paper, published"),
        ("resizemix", {"interpolation": "bicubic"}, "Use nearest, bilinear"),
        ("mixup_cutmix", {"partner": "reverse"}, "Did you mean 'reversed'"),
        ("saliencymix", {"detector": "spectrum"}, "Did you mean 'spectral'"),
        ("manifoldmix", {"layers": "stage1"}, "is 'stage1': it must be of the kind .* 'stage2'"),
        ("manifoldmix", {"layers": ()}, r"layers of 'manifoldmix' is \(\)"),
        ("alignmix", {"layer": ("stage4",)}, "it must be of the kind of its default, 'stage4'"),
        ("resizemix", {"scope": (0.8, 0.1)}, "from 0 to 1, the smaller first"),
        ("resizemix", {"scope": (0.1, 1.1)}, "from 0 to 1, the smaller first"),
        ("resizemix", {"scope": (0.1, 0.5, 0.8)}, "it must be of the kind of its default"),
        ("puzzlemix", {"blocks": (2, 0)}, r"is \(2, 0\): it must be 1 or more"),
        ("puzzlemix", {"blocks": 4}, "is 4: it must be of the kind"),
        ("puzzlemix", {"iterations": 0}, "it must be 1 or more"),
        ("comixup", {"blocks": 0}, "it must be 1 or more"),
        ("comixup", {"group": 2.5}, "is 2.5: it must be of the kind of its default, 20"),
        ("augmix", {"width": 0}, "it must be 1 or more"),
        ("augmix", {"severity": 0.0}, "it must be from 0.1 to 10"),
        ("augmix", {"depth": 0}, "it must be 1 or more, or -1"),
        ("augmix", {"std": (0.5, 0.0, 0.5)}, "it must be above 0"),
        ("supermix", {"images_per_mix": 1}, "it must be 2 or more"),
        ("supermix", {"sparsity": -1.0}, "it must be 0 or more"),
    ],
)
def test_create_errors(name, options, message):
    with pytest.raises(ConfigError, match=message):
        mixups.create(name, **options)


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_checked(name):
    """The defaults pass; None passes for none, nor an empty sequence or a number out of range."""
    mixups.create(name, **mixups.defaults(name))
    for option, default in mixups.defaults(name).items():
        wrong = [None, ()]
        if option != "mean" and not isinstance(np.ravel(default)[0], str):
            least = np.full_like(np.asarray(default), -2)  # below the range of each
            wrong.append(tuple(least.tolist()) if least.ndim else least.item())
        for value in wrong:
            with pytest.raises(ConfigError, match=f"^{option} of '{name}' is "):
                mixups.create(name, **{option: value})


def test_other_values_of_the_kinds():
    """Whole numbers for floats, NumPy's numbers, and lists, which are what JSON has."""
    mixups.create("mixup", alpha=1)
    mixups.create("mixup", alpha=np.float32(0.5))
    mixups.create("augmix", width=np.int64(2), depth=-1, severity=10)
    mixups.create("puzzlemix", blocks=[4], mean=[0.5, 0.4, 0.3])
    mixups.create("resizemix", scope=[0, 0.5])
    mixups.create("transmix", switch_prob=0.0)


def test_what_a_method_wants_of_the_network():
    assert {name: mixups.map_option(name) for name in METHODS if mixups.map_option(name)} == {
        "manifoldmix": "layers",
        "alignmix": "layer",
    }
    for name in METHODS:
        assert mixups.map_option(name) in ("", *mixups.defaults(name))
    assert {name for name in METHODS if not mixups.suits(name, tokens=False)} == {"transmix"}
    assert {name for name in METHODS if not mixups.suits(name, tokens=True)} == {
        "manifoldmix",
        "alignmix",
    }
    with pytest.raises(ConfigError, match="'cutmx' is not known"):
        mixups.suits("cutmx", tokens=False)


@pytest.mark.parametrize("name", [name for name in METHODS if mixups.needs(name)])
def test_what_a_method_looks_at_is_asked_for(name):
    images, labels = batch(SHAPES[2], 0, False)
    with pytest.raises(ConfigError, match=f"^{name} needs {mixups.needs(name)}="):
        mixups.create(name)(jax.random.key(0), images, labels, num_classes=CLASSES)


def test_create_fills_in_alpha():
    """A large alpha keeps ratios near one half."""
    images, labels = batch(SHAPES[2], 0, False)
    mix = mixups.create("mixup", alpha=1e6)
    lam = mix(jax.random.key(0), images, labels, num_classes=CLASSES).info["lam"]
    np.testing.assert_allclose(lam, 0.5, atol=0.01)


@pytest.mark.parametrize(
    "name", [name for name in METHODS if "per" in mixups.defaults(name) and name != "transmix"]
)
def test_a_ratio_for_each_image(name):
    """By sample, images differ in their ratios where those are drawn, and a given one is each's."""
    images, labels = batch((6, 8, 8, 3, "float32"), 0, False)
    mixed = compiled(name, False, per="sample")(0, images, labels)
    assert len(np.unique(mixed.info["lam"])) > 2
    lam = jnp.array([1.0, 0.0, 1.0, 0.5, 1.0, 0.2])
    perm = jnp.array([1, 2, 3, 4, 5, 0])
    mixed = compiled(name, True, per="sample")(0, images, labels, lam, perm)
    np.testing.assert_array_equal(mixed.images[::2][:2], images[::2][:2])
    np.testing.assert_allclose(mixed.info["lam"][:3:2], 1, atol=1e-7)
    assert mixed.info["lam"][1] < 1

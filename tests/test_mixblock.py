"""MixBlock against plain NumPy, and what must hold of any mask."""

import functools
import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from automix_jax.errors import ConfigError
from automix_jax.mixblock import MixBlock, mask_loss, mix_images
from tests import reference

PERM = np.array([2, 0, 1], np.int32)
LAM = {"scalar": np.float64(0.3), "per_sample": np.array([0.1, 0.55, 0.9])}
SIZES = ((8, 12), (4, 9))  # factors (4, 4) and (2, 3) from the grid of 2 x 3
EXACT = {"rtol": 0, "atol": 1e-12}  # float64 rounding over a few hundred operations


def problem(reduction=2, share_qk=True, lam_embed="concat", channels=4, seed=0):
    rng = np.random.default_rng(seed)
    params = reference.make_params(rng, channels, reduction, share_qk, lam_embed == "concat")
    return params, rng.standard_normal((3, 2, 3, channels))


def masks_by(block, size, params, features, lam, perm=PERM):
    params, features, lam, perm = jax.tree.map(jnp.asarray, (params, features, lam, perm))
    return block.apply({"params": params}, features, lam, perm, image_size=size)


@pytest.fixture(scope="module")
def init_mask():
    """A compiled float32 block of 16 channels: (module, its parameters, mask function)."""
    block = MixBlock()
    features = jnp.zeros((3, 4, 4, 16))
    variables = block.init(jax.random.key(0), features, 0.5, jnp.arange(3), image_size=(8, 8))
    mask = jax.jit(functools.partial(masks_by, block, (8, 8)))
    return block, variables["params"], mask


# -- against NumPy -----------------------------------------------------------------------------


@pytest.mark.parametrize(("reduction", "share_qk", "lam_embed", "upsample"), reference.CASES)
def test_masks_equal_numpy(float64, reduction, share_qk, lam_embed, upsample):
    """The reference concatenates the ratio literally, at the keys too, where ours leaves it out."""
    params, features = problem(reduction, share_qk, lam_embed)
    block = MixBlock(reduction, share_qk, lam_embed, upsample)

    @jax.jit
    def masks(params, features, lams):
        each = zip(SIZES, lams, strict=True)
        return [masks_by(block, size, params, features, lam) for size, lam in each]

    ours = masks(params, features, list(LAM.values()))
    for size, lam, mask in zip(SIZES, LAM.values(), ours, strict=True):
        theirs = reference.mixblock(params, features, lam, PERM, size, upsample)
        assert mask.dtype == jnp.float64
        assert np.ptp(theirs) > 0.1  # the case says something
        np.testing.assert_allclose(mask, theirs, **EXACT)


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_sizes_that_the_grid_does_not_divide(float64, upsample):
    params, features = problem()
    mask = masks_by(MixBlock(upsample=upsample), (31, 45), params, features, 0.3)
    theirs = reference.mixblock(params, features, 0.3, PERM, (31, 45), upsample)
    assert mask.shape == (3, 31, 45, 1)
    if upsample == "bilinear":  # a nearest cell can tie, where rounding decides
        np.testing.assert_allclose(mask, theirs, **EXACT)
    assert {*np.round(np.unique(mask), 6)} <= {*np.round(np.unique(theirs), 6)}


@pytest.mark.parametrize("lam_name", LAM)
@pytest.mark.parametrize("form", reference.FORMS)
def test_mask_losses_equal_numpy(float64, form, lam_name):
    rng = np.random.default_rng(1)
    mask, lam = rng.uniform(0, 1, (3, 4, 6, 1)) ** 2, LAM[lam_name]
    loss = functools.partial(mask_loss, jnp.asarray(mask), jnp.asarray(lam))
    for per_sample in (True, False) if lam_name == "scalar" else (True,):
        for margin in (0.0, 0.1):
            ours = loss(form=form, margin=margin, per_sample=per_sample)
            theirs = reference.mask_loss(mask, lam, form, margin, per_sample)
            np.testing.assert_allclose(ours, theirs, **EXACT)
            assert ours != 0 or form == "l1"


def test_mask_loss_reduces_to_single_numbers(float64):
    """By hand: areas 0.2 and 0.6 against 0.5 leave 0.2 and 0 beyond the margin."""
    mask = jnp.stack([jnp.full((2, 2, 1), 0.2), jnp.full((2, 2, 1), 0.6)])
    np.testing.assert_allclose(mask_loss(mask, 0.5), 0.1, **EXACT)
    np.testing.assert_allclose(mask_loss(mask, 0.5, per_sample=False), 0.0, **EXACT)
    l2 = mask_loss(mask, 0.5, form="l2_variance")
    np.testing.assert_allclose(l2, (0.3**2 - 0.1**2) / 2, **EXACT)
    sparsity = mask_loss(mask, 0.5, form="sparsity")
    np.testing.assert_allclose(sparsity, (0.06 + 0.14) / 2, **EXACT)


@pytest.mark.parametrize(
    ("share_qk", "lam_embed", "upsample", "lam_name"),
    [
        (True, "concat", "nearest", "per_sample"),
        (True, "none", "bilinear", "scalar"),
        (False, "concat", "bilinear", "scalar"),
        (False, "none", "nearest", "per_sample"),
    ],
)
def test_gradients_equal_numpys_differences(float64, share_qk, lam_embed, upsample, lam_name):
    """Of the mixed image against a random cotangent, and of every mask loss."""
    params, features = problem(2, share_qk, lam_embed)
    rng = np.random.default_rng(2)
    images, cotangent = rng.standard_normal((2, 3, 4, 6, 1))
    lam, size = LAM[lam_name], (4, 6)
    block = MixBlock(2, share_qk, lam_embed, upsample)
    losses = list(itertools.product(reference.FORMS, (True, False)[: 2 if lam.ndim == 0 else 1]))

    def ours(params, features):
        mask = masks_by(block, size, params, features, lam)
        values = [(mix_images(jnp.asarray(images), mask, jnp.asarray(PERM)) * cotangent).sum()]
        for form, per_sample in losses:
            loss = mask_loss(mask, jnp.asarray(lam), form=form, margin=0.01, per_sample=per_sample)
            values.append(loss)
        return jnp.stack(values)

    def theirs(params, features):
        mask = reference.mixblock(params, features, lam, PERM, size, upsample)
        values = [(reference.mix_images(images, mask, PERM) * cotangent).sum()]
        return np.stack(values + [reference.mask_loss(mask, lam, f, 0.01, s) for f, s in losses])

    gradients, by_features = jax.jit(jax.jacrev(ours, argnums=(0, 1)))(params, features)
    # Differences of step 1e-5 are good to 1e-10; entries are of order one.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9)
    close(by_features, reference.central_differences(lambda x: theirs(params, x), features))
    assert (np.abs(by_features).reshape(1 + len(losses), -1).max(1) > 1e-4).all()
    for module, leaf in itertools.product(params, ("kernel", "bias")):

        def at(x, module=module, leaf=leaf):
            changed = params[module] | {leaf: x}
            return theirs(params | {module: changed}, features)

        differences = reference.central_differences(at, params[module][leaf])
        close(gradients[module][leaf], differences, err_msg=f"{module}/{leaf}")


# -- against recorded numbers ------------------------------------------------------------------


def test_recorded_cases(float64):
    """The file holds what the NumPy reference still gives, and ours gives it too."""
    assert reference.RECORDED.stat().st_size < 50_000
    with np.load(reference.RECORDED) as file:
        recorded = dict(file)
    for name, value in reference.recorded_problems().items():
        np.testing.assert_allclose(recorded.pop(name), value, **EXACT, err_msg=name)
    assert not recorded


@pytest.mark.parametrize("case", range(len(reference.CASES)))
def test_masks_equal_the_record(float64, case):
    with np.load(reference.RECORDED) as file:
        at = {name: file[name][case] for name in file if name != "params"}
        params = reference.recorded_params(file["params"])[case]
    block = MixBlock(*reference.CASES[case])
    mask = masks_by(block, (4, 6), params, at["features"], at["lam"], at["perm"])
    np.testing.assert_allclose(mask, at["mask"], **EXACT)
    losses = [mask_loss(mask, jnp.asarray(at["lam"]), form=form) for form in reference.FORMS]
    np.testing.assert_allclose(losses, at["losses"], **EXACT)


def test_golden_cases(float64, vectors):
    """Masks are printed with eight digits from inputs with six."""
    golden = json.loads((vectors / "automix_golden.json").read_text())
    features, perm, lam = np.array(golden["z"]), np.array(golden["idx"]), golden["lam"]
    size = tuple(golden["scale"] * side for side in features.shape[1:3])
    names = {"L1": "l1", "L1Var": "l1_variance", "L2Var": "l2_variance", "Sparsity": "sparsity"}
    assert len(golden["cases"]) == 4
    for case in golden["cases"]:
        params = {
            "query": {"kernel": np.array(case["Wq"])[None, None], "bias": np.array(case["bq"])},
            "value": {
                "kernel": np.array(case["wv"])[None, None, :, None],
                "bias": np.array([case["bv"]]),
            },
        }
        lam_embed = "concat" if case["lam_concat"] else "none"
        block = MixBlock(lam_embed=lam_embed, upsample=case["mode"])
        mask = masks_by(block, size, params, features, lam, perm)
        np.testing.assert_allclose(1 - mask[..., 0], case["s_j"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(1 - mask.mean(), case["s_j_mean"], rtol=0, atol=1e-6)
        assert case["losses"].keys() == names.keys()
        for name, value in case["losses"].items():
            ours = mask_loss(mask, lam, form=names[name], per_sample=False)
            np.testing.assert_allclose(ours, value, rtol=0, atol=1e-6)


# -- what must hold of any mask ----------------------------------------------------------------


def test_swapping_own_and_partner():
    """An image's mask is its partner's complement: mixing and all losses see no difference."""
    rng = np.random.default_rng(3)
    images = jnp.asarray(rng.standard_normal((3, 4, 4, 2)), jnp.float32)
    mask = jnp.asarray(rng.uniform(0, 1, (3, 4, 4, 1)), jnp.float32)
    perm, inverse = jnp.array([1, 2, 0]), jnp.array([2, 0, 1])
    mixed = mix_images(images, mask, perm)
    swapped = mix_images(images[perm], 1 - mask, inverse)
    assert np.abs(mixed - images).max() > 0.1
    np.testing.assert_allclose(swapped, mixed, atol=1e-6)  # float32 rounding of values up to 3
    for form, per_sample in itertools.product(reference.FORMS, (True, False)):
        loss = functools.partial(mask_loss, form=form, per_sample=per_sample)
        np.testing.assert_allclose(loss(mask, 0.2), loss(1 - mask, 0.8), atol=1e-6)


def test_order_of_the_batch_does_not_matter(float64):
    params, features = problem()
    block, order = MixBlock(), np.array([1, 2, 0])
    mask = masks_by(block, (4, 6), params, features, LAM["per_sample"])
    position = np.argsort(order)  # where each image went
    moved = masks_by(
        block, (4, 6), params, features[order], LAM["per_sample"][order], position[PERM[order]]
    )
    np.testing.assert_allclose(moved, mask[order], **EXACT)


@pytest.mark.parametrize("lam_embed", ["concat", "none"])
def test_the_ratio_matters_only_where_it_is_embedded(float64, lam_embed):
    params, features = problem(lam_embed=lam_embed)
    block = MixBlock(lam_embed=lam_embed)
    low, high = (masks_by(block, (4, 6), params, features, lam) for lam in (0.1, 0.9))
    change = np.abs(low - high).max()
    assert change > 0.01 if lam_embed == "concat" else change == 0


def test_mixing_keeps_the_images_dtype():
    images = jnp.ones((2, 4, 4, 3), jnp.bfloat16)
    mask = jnp.full((2, 4, 4, 1), 0.3, jnp.float32)
    mixed = mix_images(images, mask, jnp.array([1, 0]))
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(mixed.astype(jnp.float32), 1)


def test_untrained_masks_are_one_half(init_mask):
    """Values are weighted by 0.01; features of order one leave the logits below 0.1."""
    _, params, mask = init_mask
    features = jax.random.normal(jax.random.key(1), (3, 4, 4, 16))
    untrained = mask(params, features, 0.5, jnp.array([1, 2, 0]))
    np.testing.assert_allclose(untrained, 0.5, atol=0.025)
    assert np.ptp(untrained) > 0


def test_initial_parameters():
    """Standard deviation 0.01 within 3 of the estimate's errors at 16 640 draws, biases zero."""
    features = jnp.zeros((1, 1, 1, 256))
    params = MixBlock(share_qk=False).init(jax.random.key(0), features, method="project")["params"]
    for name in ("query", "key"):
        kernel = params[name]["kernel"]
        np.testing.assert_allclose(kernel.std(), 0.01, rtol=3 / np.sqrt(2 * kernel.size))
    for leaves in params.values():
        np.testing.assert_array_equal(leaves["bias"], 0)


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_bfloat16(upsample):
    block = MixBlock(dtype=jnp.bfloat16, upsample=upsample)

    @functools.partial(jax.jit, static_argnums=0)
    def run(block, params, features):
        def loss(params):
            mask = masks_by(block, (8, 12), params, features, 0.3)
            return mask_loss(mask, 0.9), mask

        return jax.grad(loss, has_aux=True)(params)

    params, features = problem(channels=8)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    kinds = {"ordinary": features, "huge": 1e4 * features, "constant": np.ones_like(features)}
    masks = {}
    for kind, features in kinds.items():
        gradient, mask = run(block, params, jnp.asarray(features, jnp.bfloat16))
        assert mask.dtype == jnp.float32
        assert ((mask >= 0) & (mask <= 1)).all(), kind  # false for NaN
        for leaf in jax.tree.leaves(gradient):
            assert leaf.dtype == jnp.float32
            assert jnp.isfinite(leaf).all(), kind
        masks[kind] = mask
    _, wide = run(block.clone(dtype=None), params, jnp.asarray(kinds["ordinary"], jnp.float32))
    np.testing.assert_allclose(masks["ordinary"], wide, atol=0.05)  # 8 bits, sums of 9 channels
    assert np.ptp(masks["constant"]) == pytest.approx(0, abs=1e-6)
    assert np.ptp(masks["ordinary"]) > 0.1


# -- the interface -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "lam_embed", "count"),
    [
        (256, "none", 33_153),
        (256, "concat", 33_282),
        (1024, "none", 525_825),
        (1024, "concat", 526_338),
        (384, "concat", 74_498),
        (192, "concat", 18_818),
        (320, "concat", 51_842),
        (768, "concat", 296_450),
    ],
)
def test_parameter_counts(channels, lam_embed, count):
    """The published counts, and the same by formula; separate keys add one more projection."""
    shape = jax.ShapeDtypeStruct((2, 4, 4, channels), jnp.float32)

    def shapes(**options):
        block = MixBlock(lam_embed=lam_embed, **options)
        init = functools.partial(block.init, image_size=(8, 8))
        params = jax.eval_shape(init, jax.random.key(0), shape, 0.5, jnp.arange(2))["params"]
        return jax.tree.map(lambda leaf: leaf.shape, params, is_leaf=lambda x: hasattr(x, "shape"))

    def total(params):
        return sum(int(np.prod(s)) for leaves in params.values() for s in leaves.values())

    wide, depth = channels + (lam_embed == "concat"), channels // 2
    projection = {"kernel": (1, 1, wide, depth), "bias": (depth,)}
    value = {"kernel": (1, 1, wide, 1), "bias": (1,)}
    assert shapes() == {"query": projection, "value": value}
    assert total(shapes()) == wide * depth + depth + wide + 1 == count
    apart = shapes(share_qk=False)
    assert apart == {"query": projection, "key": projection, "value": value}
    assert shapes(reduction=2 * channels)["query"]["bias"] == (1,)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"lam_embed": "mul"}, "lam_embed"),
        ({"upsample": "cubic"}, "upsample"),
        ({"reduction": 0}, "reduction"),
    ],
)
def test_unknown_options(unchecked, options, field):
    with pytest.raises(ConfigError, match=f"{field} is"):
        MixBlock(**options).init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)), method="project")


def test_unknown_mask_loss(unchecked):
    with pytest.raises(ConfigError, match=r"mask loss form is 'l3'.*sparsity"):
        mask_loss(jnp.zeros((1, 2, 2, 1)), 0.5, form="l3")


def test_in_a_training_loop_of_ones_own(init_mask):
    """The mask learns to show half of one image's positive pixels: an MSE and the area loss."""
    _, params, mask_of = init_mask
    features = jax.random.normal(jax.random.key(1), (3, 4, 4, 16))
    target = jnp.repeat(jnp.repeat(features[..., :1] > 0, 2, 1), 2, 2)
    optimizer = optax.adam(3e-2)

    def loss(params):
        mask = mask_of(params, features, 0.5)
        return jnp.square(mask - target).mean() + 0.1 * mask_loss(mask, 0.5)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[1]

    losses = train(params)
    assert losses[0] == pytest.approx(0.25, abs=0.01)  # one half everywhere
    assert losses[-1] < 0.6 * losses[0]


def test_inside_another_linen_module(init_mask):
    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, features):
            perm = jnp.arange(len(features))[::-1]
            return MixBlock(name="block")(features, 0.5, perm, image_size=(8, 8))

    features = jax.random.normal(jax.random.key(1), (3, 4, 4, 16))
    _, params, mask = init_mask
    ours = Wrapped().apply({"params": {"block": params}}, features)
    theirs = mask(params, features, 0.5, jnp.array([2, 1, 0]))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)  # compiled against not


def test_inside_nnx(init_mask):
    _, params, mask = init_mask
    features = jax.random.normal(jax.random.key(1), (3, 4, 4, 16))
    perm = jnp.array([1, 2, 0])
    model = nnx.bridge.ToNNX(MixBlock(), rngs=nnx.Rngs(0))
    model.lazy_init(features, 0.5, perm, image_size=(8, 8))
    nnx.update(model, nnx.State(jax.tree.map(nnx.Param, params)))
    ours = model(features, 0.5, perm, image_size=(8, 8))
    np.testing.assert_allclose(ours, mask(params, features, 0.5, perm), atol=1e-6)

"""Mixups that act inside the network or look at one: recorded numbers, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import create_model, mixups
from automix_jax.errors import ConfigError
from automix_jax.guide import Guide
from automix_jax.mixups.alignmix import assignment, blend_aligned
from automix_jax.mixups.attentivemix import top_cells
from automix_jax.mixups.grids import downsample, upsample
from automix_jax.mixups.transmix import attended

CLASSES = 5
PERM = jnp.array([2, 3, 1, 0])


@pytest.fixture
def recorded(vectors):
    with np.load(vectors / "baselines_golden.npz") as file:
        return {name: file[name] for name in file.files}


@functools.cache
def network(name="resnet8", **options):
    """A narrow network, images and labels for it, and its variables."""
    size = 32 if name == "deit_t" else 8
    model = create_model(name, num_classes=CLASSES, **options)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((4, size, size, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    # Residual branches start at zero: after this every layer counts.
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32),
        variables["params"],
    )
    variables = {**variables, "params": params}
    return model, variables, images, jnp.array([3, 1, 4, 1])


def jitted(name, **options):
    """A mixup under jit, of (seed, images, labels, and what else it takes)."""
    mix = functools.partial(mixups.create(name, **options), num_classes=CLASSES)
    return jax.jit(lambda seed, *args, **more: mix(jax.random.key(seed), *args, **more))


resnet = functools.partial(network, "resnet8", stem="cifar", width=4)


# -- ManifoldMix -------------------------------------------------------------------------------


def blended(x, lam):
    return lam * x + (1 - lam) * x[PERM]


@functools.cache
def manifold(layers):
    model, variables, images, labels = resnet()

    @jax.jit
    def run(seed, lam):
        mix = mixups.create("manifoldmix", layers=layers)
        mixed = mix(jax.random.key(seed), images, labels, num_classes=CLASSES, lam=lam, perm=PERM)
        logits, features = model.apply(variables, mixed.images, transform=mixed.transform)
        return mixed.images, features, logits, mixed.info["layer"], mixed.targets

    return run


def test_manifoldmix_blends_at_one_place():
    """Maps before the place are the clean images', the map there is blended, others follow."""
    model, variables, images, _ = resnet()
    _, clean = jax.jit(model.apply)(variables, images)
    layers, seen = ("input", "stage1", "stage2"), set()
    for seed in range(12):
        mixed_images, features, _, layer, targets = manifold(layers)(seed, 0.3)
        place = layers[int(layer)]
        seen.add(place)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        if place == "input":
            np.testing.assert_allclose(mixed_images, blended(images, 0.3), atol=1e-6)
            continue
        np.testing.assert_array_equal(mixed_images, images)
        order = ("stem", "stage1", "stage2", "stage3")
        for name in order[: order.index(place)]:
            np.testing.assert_allclose(features[name], clean[name], atol=1e-5)
        expected = blended(clean[place], 0.3)
        np.testing.assert_allclose(features[place], expected, rtol=1e-5, atol=1e-5)
        after = order[order.index(place) + 1]
        assert np.abs(features[after] - clean[after]).max() > 1e-2
    assert seen == set(layers)


def test_manifoldmix_at_ratio_one_changes_nothing():
    model, variables, images, labels = resnet()
    logits, _ = jax.jit(model.apply)(variables, images)
    for seed in range(3):
        _, _, mixed, _, targets = manifold(("input", "stage1", "stage2"))(seed, 1.0)
        np.testing.assert_array_equal(targets, np.eye(CLASSES, dtype=np.float32)[labels])
        np.testing.assert_allclose(mixed, logits, atol=1e-5)


def test_manifoldmix_gradients_reach_both_images():
    """One image's logits depend on its own pixels and on its partner's, and on no others."""
    model, variables, images, labels = resnet()
    mix = mixups.create("manifoldmix", layers=("stage1",))

    @jax.jit
    def gradient(images):
        def first(images):
            mixed = mix(jax.random.key(0), images, labels, num_classes=CLASSES, lam=0.4, perm=PERM)
            return model.apply(variables, mixed.images, transform=mixed.transform)[0][0].sum()

        return jax.grad(first)(images)

    size = np.abs(gradient(images)).max((1, 2, 3))
    assert size[0] > 0
    assert size[int(PERM[0])] > 0
    assert size[1] == size[3] == 0


# -- AlignMix ----------------------------------------------------------------------------------


def test_alignment_equals_the_recorded(recorded):
    """Exponentials of costs far above the smoothing: float32 leaves 6e-7 of a plan of ones."""
    features = jnp.asarray(recorded["align_feat"].transpose(0, 2, 3, 1))  # [4, 4, 4, 8]
    flat = features.reshape(4, 16, 8)
    plan = jax.jit(assignment)(flat, flat[PERM])
    np.testing.assert_allclose(plan, recorded["align_plan_times_HW"], atol=2e-6)
    for own_stays, name in ((True, "align_dir0"), (False, "align_dir1")):
        ours = blend_aligned(features, features[PERM], jnp.array([0.3]), jnp.asarray(own_stays))
        np.testing.assert_allclose(ours, recorded[name].transpose(0, 2, 3, 1), atol=2e-6)


def test_alignment_finds_moved_positions():
    """Features in another order are put back: the blend is the own map whatever the ratio."""
    rng = np.random.default_rng(0)
    own = 10 * rng.standard_normal((2, 3, 5, 8)).astype(np.float32)
    order = rng.permutation(15)
    moved = own.reshape(2, 15, 8)[:, order].reshape(own.shape)
    kept = blend_aligned(jnp.asarray(own), jnp.asarray(moved), jnp.array([0.3]), jnp.asarray(True))
    # The plan's rows sum to one but for log(1/n + 1e-8) and the tolerance at which it stops.
    np.testing.assert_allclose(kept, own, rtol=1e-3, atol=1e-3)
    there = blend_aligned(
        jnp.asarray(own), jnp.asarray(moved), jnp.array([0.3]), jnp.asarray(False)
    )
    np.testing.assert_allclose(there, moved, rtol=1e-3, atol=1e-3)


def test_alignmix_mixes_inputs_or_aligned_features():
    model, variables, images, labels = resnet()
    _, clean = jax.jit(model.apply)(variables, images)
    mix = mixups.create("alignmix", layer="stage3")

    @jax.jit
    def run(seed):
        mixed = mix(jax.random.key(seed), images, labels, num_classes=CLASSES, lam=0.3, perm=PERM)

        def loss(images):
            logits, features = model.apply(variables, images, transform=mixed.transform)
            return jnp.square(logits).sum(), features["stage3"]

        gradient, last = jax.grad(loss, has_aux=True)(mixed.images)
        return mixed.images, last, gradient, mixed.info["at_input"]

    ways = set()
    for seed in range(16):
        mixed_images, last, gradient, at_input = run(seed)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0
        if at_input:
            np.testing.assert_allclose(mixed_images, blended(images, 0.3), atol=1e-6)
            ways.add("input")
            continue
        np.testing.assert_array_equal(mixed_images, images)
        x = clean["stage3"]
        both = [blend_aligned(x, x[PERM], jnp.array([0.3]), jnp.asarray(w)) for w in (True, False)]
        off = [float(np.abs(last - way).max()) for way in both]
        assert min(off) < 1e-3 < max(off)
        ways.add(int(np.argmin(off)))
    assert ways == {"input", 0, 1}


def test_alignmix_refuses_tokens():
    model, variables, images, labels = network("deit_t", width=24, blocks=2)
    mixed = jitted("alignmix", layer="block2")(0, images, labels)
    with pytest.raises(ConfigError, match=r"block2 holds the tokens of a transformer"):
        jax.eval_shape(
            lambda images: model.apply(variables, images, transform=mixed.transform), mixed.images
        )


# -- TransMix ----------------------------------------------------------------------------------


def test_attention_on_a_mask_equals_the_recorded(recorded):
    """Half of the recorded ratio is the area's; the class token's row, the mean over heads."""
    attention = recorded["transmix_attn"][:, :, 0, 1:].mean(1).reshape(4, 2, 2, 1)
    pasted = recorded["transmix_mask"].astype(np.float32)
    share = attended(jnp.asarray(1 - pasted), jnp.asarray(attention))
    area = 1 - pasted.mean((1, 2))
    np.testing.assert_allclose((area + share) / 2, recorded["transmix_lam"], atol=1e-7)


def test_transmix_weighs_labels_by_the_networks_attention():
    model, variables, images, labels = network("deit_t", width=24, blocks=2)

    @functools.partial(jax.jit, static_argnames="switch")
    def run(seed, images, switch):
        mix = mixups.create("transmix", switch_prob=switch)
        mixed = mix(jax.random.key(seed), images, labels, num_classes=CLASSES, perm=PERM)

        def loss(images):
            logits, features = model.apply(variables, images)
            targets = mixed.retarget(features["attention"])
            return -(targets * jax.nn.log_softmax(logits)).sum(), (targets, features["attention"])

        gradient, (targets, attention) = jax.grad(loss, has_aux=True)(mixed.images)
        return mixed, targets, attention, gradient

    for seed in range(4):
        mixed, targets, attention, gradient = run(seed, images, switch=1.0)
        assert attention.shape == (4, 2, 2, 1)
        assert (np.asarray(attention) > 0).all()
        share = attended(mixed.info["mask"][..., 0], attention)
        weight = np.asarray((mixed.info["lam"] + share) / 2)[:, None]
        eye = np.eye(CLASSES)
        expected = weight * eye[labels] + (1 - weight) * eye[labels[PERM]]
        np.testing.assert_allclose(targets, expected, atol=1e-6)
        assert np.isfinite(gradient).all()
        mixed, targets, _, _ = run(seed, images, switch=0.0)  # plain MixUp
        np.testing.assert_allclose(targets, mixed.targets, atol=1e-6)


def test_transmix_targets_are_constants():
    """No gradient flows through the attention into the labels."""
    images, labels = jnp.ones((4, 8, 8, 1)), jnp.arange(4)
    mixed = jitted("transmix")(0, images, labels)
    gradient = jax.grad(lambda a: mixed.retarget(a)[:, 0].sum())(jnp.ones((4, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, 0)


# -- AttentiveMix+ -----------------------------------------------------------------------------


def test_attended_cells_equal_the_recorded(recorded):
    """Masks of three ratios to the pixel."""
    attention = jnp.asarray(recorded["attentive_feat"].mean(1))
    for lam in (0.01, 0.35, 0.97):
        mask = upsample(top_cells(attention, jnp.array([lam])), (224, 224))
        np.testing.assert_array_equal(mask, recorded[f"attentive_lam{lam}_mask"])
        np.testing.assert_allclose(mask[0].mean(), recorded[f"attentive_lam{lam}_lam"], atol=1e-7)


def test_published_ratio_is_the_first_images():
    """At 32 pixels seven cells differ in size, so masks of as many cells differ in area."""
    rng = np.random.default_rng(0)
    images, labels = (
        jnp.asarray(rng.standard_normal((6, 32, 32, 3)), jnp.float32),
        jnp.arange(6) % 5,
    )
    attention = jnp.asarray(rng.standard_normal((6, 7, 7)), jnp.float32)
    found = {}
    for variant in ("paper", "published"):
        mix = jitted("attentivemix", variant=variant)
        mixed = mix(0, images, labels, attention=attention, lam=0.5)
        found[variant] = np.asarray(mixed.info["lam"])
        area = np.asarray(mixed.info["mask"]).mean((1, 2, 3))
    assert len(np.unique(area)) > 1
    np.testing.assert_allclose(found["paper"], area, atol=1e-6)
    np.testing.assert_allclose(found["published"], area[0], atol=1e-6)


@pytest.mark.parametrize("published", [False, True])
def test_guide_sees_what_it_was_trained_on(published):
    """Gray images become three equal channels of the network's normalisation and size."""
    model = create_model("resnet8", num_classes=0, stem="cifar", width=4)
    own = {"own_mean": (0.4, 0.5, 0.6), "own_std": (0.2, 0.3, 0.4)}
    guide = Guide(model, (0.5,), (0.25,), **own, image_size=(16, 16), published=published)
    rng = np.random.default_rng(0)
    pixels = rng.random((3, 8, 8, 1)).astype(np.float32)
    images = (pixels - 0.5) / 0.25
    prepared = guide.prepare(jnp.asarray(images))
    assert prepared.shape == (3, 16, 16, 3)
    expected = np.repeat(images, 3, -1)
    if not published:
        expected = (pixels - own["own_mean"]) / np.array(own["own_std"])
    # Bilinear without antialias, as the originals enlarge: corners stay.
    np.testing.assert_allclose(prepared[:, ::15, ::15], expected[:, ::7, ::7], atol=1e-5)
    variables = jax.jit(model.init)(jax.random.key(0), prepared)
    attention = jax.jit(guide.attention)(variables, jnp.asarray(images))
    trained = {"train": True, "mutable": ["batch_stats"]} if published else {}
    out = jax.jit(functools.partial(model.apply, **trained))(variables, prepared)
    features = out[0][1] if published else out[1]
    np.testing.assert_allclose(attention, features["stage3"].mean(-1), atol=1e-6)


def test_cells_and_pixels():
    """Pixel r is in cell floor(rh / H), and cell i starts at floor(iH / h)."""
    cells = jnp.arange(6.0).reshape(1, 2, 3)
    pixels = np.asarray(upsample(cells, (5, 7)))[0]
    np.testing.assert_array_equal(pixels[:, 0], [0, 0, 0, 3, 3])
    np.testing.assert_array_equal(pixels[0], [0, 0, 0, 1, 1, 2, 2])
    picked = downsample(jnp.arange(35.0).reshape(1, 5, 7), (2, 3))[0]
    np.testing.assert_array_equal(picked, [[0, 2, 4], [14, 16, 18]])


# -- MixUp or CutMix ---------------------------------------------------------------------------


def test_switched_target_equals_the_recorded(recorded):
    """timm's smoothed target of a reversed batch at ratio 0.3."""
    labels = jnp.asarray(recorded["common_y"])
    mix = mixups.create("mixup_cutmix", smoothing=0.1, switch_prob=0.0)
    mixed = mix(jax.random.key(0), jnp.ones((4, 2, 2, 1)), labels, num_classes=6, lam=0.3)
    np.testing.assert_allclose(mixed.targets, recorded["timm_target_lam0.3_eps0.1_K6"], atol=1e-7)
    np.testing.assert_array_equal(mixed.info["perm"], [3, 2, 1, 0])


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_who_shares_a_draw(per):
    """By pair, an image and its mirror in the batch share coin, ratio and box."""
    images, labels = jnp.ones((40, 8, 8, 1)), jnp.zeros(40, jnp.int32)
    info = jitted("mixup_cutmix", per=per, alpha=1.0)(0, images, labels).info
    lam, cut, mask = (np.asarray(info[name]) for name in ("lam", "cut", "mask"))
    constant = (mask == mask[:, :1, :1]).all((1, 2, 3))
    assert constant[~cut].all()
    np.testing.assert_allclose(mask.mean((1, 2, 3)), lam, atol=1e-6)
    if per == "batch":
        assert len(np.unique(lam)) == 1
    else:
        assert len(np.unique(lam)) > 10
        assert 5 < cut.sum() < 35
        paired = all((x == x[::-1]).all() for x in (lam, cut, mask))
        assert paired == (per == "pair")


def test_odd_batches_leave_the_middle_to_itself():
    images = jnp.arange(3.0).reshape(3, 1, 1, 1) * jnp.ones((3, 4, 4, 1))
    mixed = jitted("mixup_cutmix", per="pair")(1, images, jnp.arange(3))
    np.testing.assert_allclose(mixed.images[1], images[1], atol=1e-6)

"""Losses, the teacher's average, schedules and optimizers against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from automix_jax.ema import ema_update
from automix_jax.errors import ConfigError
from automix_jax.losses import cross_entropy, mix_labels, soft_cross_entropy
from automix_jax.models import create_model
from automix_jax.optim import adamw, by_group, kernels, sgd
from automix_jax.schedules import cosine_lr, ema_rate, mask_weight, warmed_up

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def at(schedule, steps):
    """A schedule at many steps: of int32, as an optimizer counts, but of int64 in float64 tests."""
    return np.asarray(jax.vmap(schedule)(jnp.asarray(steps)))


# -- losses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.3, np.array([0.0, 0.4, 1.0, 0.25])])
def test_soft_cross_entropy_of_mixed_labels(float64, lam):
    """Equals lam CE(own) + (1 - lam) CE(partner), by NumPy."""
    logits = 3 * np.random.default_rng(0).standard_normal((4, 5))
    own, partner, lam = np.array([0, 1, 2, 2]), np.array([4, 1, 0, 3]), np.asarray(lam)
    targets = mix_labels(jnp.asarray(own), jnp.asarray(partner), jnp.asarray(lam), 5)
    np.testing.assert_allclose(targets.sum(1), 1, **EXACT)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.arange(4)
    each = -lam * log_p[rows, own] - (1 - lam) * log_p[rows, partner]
    ours = soft_cross_entropy(jnp.asarray(logits), targets)
    np.testing.assert_allclose(ours, each.mean(), **EXACT)
    ours = cross_entropy(jnp.asarray(logits), jnp.asarray(own))
    np.testing.assert_allclose(ours, -log_p[rows, own].mean(), **EXACT)


def test_losses_of_bfloat16_logits_are_float32():
    logits, labels = jnp.array([[2.0, 0.0]], jnp.bfloat16), jnp.array([1])
    expected = np.log(1 + np.exp(2.0))
    for loss in (cross_entropy(logits, labels), soft_cross_entropy(logits, jnp.eye(2)[labels])):
        assert loss.dtype == jnp.float32
        assert float(loss) == pytest.approx(expected, rel=1e-6)  # bfloat16 would be 4e-3 off


# -- teacher -----------------------------------------------------------------------------------


def test_ema_update(float64):
    rng = np.random.default_rng(0)
    teacher, student = ({"a": rng.standard_normal(3), "b": {"c": rng.standard_normal(())}},) * 2
    student = jax.tree.map(lambda x: 2 - x, student)
    ours = ema_update(*jax.tree.map(jnp.asarray, (teacher, student)), 0.003)
    theirs = jax.tree.map(lambda t, s: 0.997 * t + 0.003 * s, teacher, student)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), ours, theirs)
    for rate, expected in ((0.0, teacher), (1.0, student)):
        ours = ema_update(*jax.tree.map(jnp.asarray, (teacher, student)), rate)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), ours, expected)


RELEASED = {"start": 0.999, "end": 1 - 1e-6, "hold": 0.1}


def momentum(steps, total, start, end, hold):
    """As the authors' hook has it."""
    cosine = end - (end - start) * (np.cos(np.pi * steps / total) + 1) / 2
    return np.where(steps < int(hold * total), start, cosine)


@pytest.mark.parametrize("total", [1000, 50_000])
@pytest.mark.parametrize("options", [{"start": 0.999, "end": 1.0, "hold": 0.0}, RELEASED])
def test_ema_rate(float64, total, options):
    steps = np.linspace(0, total, 101).astype(int)
    ours = at(ema_rate(total, **options), steps)
    np.testing.assert_allclose(ours, 1 - momentum(steps, total, **options), **EXACT)


def test_ema_rate_of_the_paper_is_the_default(float64):
    ours = at(ema_rate(100), [0, 50, 100])
    np.testing.assert_allclose(ours, [1e-3, 5e-4, 0], **EXACT)


def test_ema_rate_of_the_released_code(float64):
    ours = 1 - at(ema_rate(10_000, **RELEASED), [0, 999, 1000, 10_000])
    np.testing.assert_allclose(ours[:2], 0.999, **EXACT)
    np.testing.assert_allclose(ours[2], 0.999024, atol=5e-7)  # the jump, as published
    np.testing.assert_allclose(ours[3], 1 - 1e-6, **EXACT)


@pytest.mark.parametrize("total", [1000, 50_000, 400_000])
def test_ema_rate_in_float32(total):
    """The rate is right where 1 - m in float32 would be 5 % off."""
    steps = np.linspace(0, total, 101).astype(int)
    ours = at(ema_rate(total, **RELEASED), steps)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, 1 - momentum(steps, total, **RELEASED), rtol=1e-3)
    # Towards momentum 1 the rate passes below rounding; what is left is of no consequence.
    ours = at(ema_rate(total), steps)
    np.testing.assert_allclose(ours, 1 - momentum(steps, total, 0.999, 1, 0), rtol=1e-3, atol=1e-10)
    assert (ours >= 0).all()


# -- learning rate -----------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_learning_rate_by_epoch(float64, floor):
    """Constant within an epoch; the last one runs above the floor."""
    epochs, length = 10, 7
    schedule = cosine_lr(0.1, floor, epochs=epochs, steps_per_epoch=length)
    epoch = np.repeat(np.arange(epochs), length)
    expected = floor + (0.1 - floor) * (1 + np.cos(np.pi * epoch / epochs)) / 2
    ours = at(schedule, np.arange(epochs * length))
    np.testing.assert_allclose(ours, expected, **EXACT)
    assert ours[0] == ours[length - 1] == 0.1
    assert ours[length] < 0.1
    assert ours[-1] == ours[-length] > floor


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_learning_rate_by_step(float64, floor):
    schedule = cosine_lr(0.1, floor, epochs=10, steps_per_epoch=7, by="step")
    steps = np.arange(71)
    expected = floor + (0.1 - floor) * (1 + np.cos(np.pi * steps / 70)) / 2
    ours = at(schedule, steps)
    np.testing.assert_allclose(ours, expected, **EXACT)
    np.testing.assert_allclose(ours[[0, 35, 70]], [0.1, (0.1 + floor) / 2, floor], **EXACT)
    assert (np.diff(ours) < 0).all()


@pytest.mark.parametrize("by", ["epoch", "step"])
def test_learning_rate_in_float32(by):
    """At the boundaries of long runs, where a step count must not be rounded into its epoch."""
    epochs, length = 1200, 1251
    schedule = cosine_lr(0.1, 0.0, epochs=epochs, steps_per_epoch=length, by=by)
    first = np.arange(1, epochs, 31) * length
    for steps in (first, first - 1):
        done = steps // length / epochs if by == "epoch" else steps / length / epochs
        expected = 0.1 * (1 + np.cos(np.pi * done)) / 2
        np.testing.assert_allclose(at(schedule, steps), expected, atol=2e-8)  # rounding of 0.1


def test_learning_rate_by_what():
    with pytest.raises(ConfigError, match="'week': use 'epoch' or 'step'"):
        cosine_lr(0.1, 0.0, epochs=1, steps_per_epoch=1, by="week")


# -- weight of the mask loss -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("constant", lambda t: np.ones_like(t)),
        ("linear", lambda t: 1 - t),
        ("cosine", lambda t: (1 + np.cos(np.pi * t)) / 2),
    ],
)
def test_mask_weight(float64, kind, share):
    steps = np.array([0, 1, 500, 999, 1000, 1500])
    expected = 0.1 * share(np.minimum(steps / 1000, 1))
    np.testing.assert_allclose(at(mask_weight(kind, 0.1, 1000), steps), expected, **EXACT)


@pytest.mark.parametrize("total", [1000, 50_000])
def test_mask_weight_that_compounds(total):
    """The running product of the released hook, which starts again from the current value."""
    product = 0.1 * np.cumprod((1 + np.cos(np.pi * np.arange(total) / total)) / 2)
    # Most of the run is the tail, so half of the steps are from where there still is a weight.
    alive = np.flatnonzero(product > 1e-37)[-1]
    steps = np.unique(np.linspace([0, 0], [alive, total - 1], 50).astype(int))
    ours = at(mask_weight("compounding", 0.1, total), steps)
    assert ours.dtype == np.float32
    # Float32 stores the product; where that is subnormal nothing is asked but nearness to zero.
    np.testing.assert_allclose(ours, product[steps], rtol=1e-6, atol=1e-38)
    assert ours[0] == np.float32(0.1)
    assert (np.diff(ours) <= 0).all()
    assert ours[-1] == 0
    assert alive < 0.5 * total


def test_mask_weight_that_compounds_falls_as_published():
    """100 epochs of 5004 steps: to a tenth after 1.8 epochs and to a millionth after 3.2."""
    weights = at(mask_weight("compounding", 0.1, 100 * 5004), np.arange(4 * 5004))
    for share, epochs in ((0.1, 1.8), (1e-6, 3.2)):
        assert np.argmax(weights < 0.1 * share) / 5004 == pytest.approx(epochs, abs=0.05)


def test_unknown_mask_weight(unchecked):
    with pytest.raises(ConfigError, match=r"'square': use 'linear', .*'compounding'"):
        mask_weight("square", 0.1, 10)


# -- optimizers --------------------------------------------------------------------------------


def torch_sgd(weights, gradient, rates, momentum, weight_decay):
    """`torch.optim.SGD` as its documentation writes it, without dampening."""
    weights, buffer = weights.copy(), None
    for rate in rates:
        g = gradient(weights) + weight_decay * weights
        buffer = g if buffer is None else momentum * buffer + g
        weights -= rate * buffer
        yield weights.copy()


# Tolerances are the rounding of ten steps.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_sgd_equals_pytorchs(float64, dtype, tolerance, momentum, weight_decay):
    start = np.random.default_rng(0).standard_normal((3, 2))
    rates = np.linspace(0.1, 0.01, 10)
    table = jnp.asarray(rates, dtype)
    tx = sgd(lambda step: table[step], momentum=momentum, weight_decay=weight_decay)
    params = {"w": jnp.asarray(start, dtype)}
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    for theirs in torch_sgd(start, np.sin, rates, momentum, weight_decay):
        params, state = step(params, state)
        assert params["w"].dtype == dtype
        np.testing.assert_allclose(params["w"], theirs, rtol=0, atol=tolerance)


def test_groups_do_not_touch_each_other(float64):
    """Each group moves as under its own optimizer alone, whatever the other's gradient."""
    rng = np.random.default_rng(0)
    names = ("student", "mixblock")
    params, grads, other = (
        {name: {"w": jnp.asarray(rng.standard_normal(3))} for name in names} for _ in range(3)
    )
    groups = {
        "student": sgd(0.1, momentum=0.9, weight_decay=0.1),
        "mixblock": sgd(0.01, momentum=0.0, weight_decay=0.0),
    }
    tx = by_group(groups)

    def two_steps(tx, params, grads):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    both = two_steps(tx, params, grads)
    for name in names:
        alone = two_steps(groups[name], params[name], grads[name])
        np.testing.assert_allclose(both[name]["w"], alone["w"], **EXACT)
        assert np.abs(both[name]["w"] - params[name]["w"]).min() > 1e-4
        changed = two_steps(tx, params, grads | {name: other[name]})
        (rest,) = set(names) - {name}
        np.testing.assert_array_equal(changed[rest]["w"], both[rest]["w"])
        assert (changed[name]["w"] != both[name]["w"]).any()


def torch_adamw(weights, gradient, rates, weight_decay):
    """`torch.optim.AdamW` as its documentation writes it, with its default betas and epsilon."""
    weights, mean, square = weights.copy(), 0.0, 0.0
    for step, rate in enumerate(rates, 1):
        g = gradient(weights)
        weights *= 1 - rate * weight_decay
        mean = 0.9 * mean + 0.1 * g
        square = 0.999 * square + 0.001 * g**2
        weights -= rate * mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        yield weights.copy()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_adamw_equals_pytorchs(float64, dtype, tolerance):
    """Kernels decay and biases do not."""
    start = np.random.default_rng(0).standard_normal((3, 2))
    rates = np.linspace(0.1, 0.01, 10)
    table = jnp.asarray(rates, dtype)
    tx = adamw(lambda step: table[step], weight_decay=0.05)
    params = {"fc": {"kernel": jnp.asarray(start, dtype), "bias": jnp.asarray(start, dtype)}}
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    decaying = torch_adamw(start, np.sin, rates, 0.05)
    for kernel, bias in zip(decaying, torch_adamw(start, np.sin, rates, 0.0), strict=True):
        params, state = step(params, state)
        np.testing.assert_allclose(params["fc"]["kernel"], kernel, rtol=0, atol=tolerance)
        np.testing.assert_allclose(params["fc"]["bias"], bias, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["swin_t", "deit_t", "convnext_t"])
def test_what_decays(name):
    """Matrices of layers; no table, no token, no scale."""
    model = create_model(name, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(kernels(shapes)), strict=True)
    for leaf, decays in leaves:
        assert decays == (leaf.ndim > 1 and leaf.shape[0] != 1 and leaf.shape[0] != 169)


def test_clipping_reads_both_groups(float64):
    """The common norm is 13: gradients shrink to 10/13 of themselves; below the limit they stay."""
    params = {"student": {"w": jnp.zeros(2)}, "mixblock": {"w": jnp.zeros(1)}}
    grads = {"student": {"w": jnp.array([3.0, 4.0])}, "mixblock": {"w": jnp.array([12.0])}}
    plain = sgd(1.0, momentum=0.0, weight_decay=0.0)
    for clip, share in ((10.0, 10 / 13), (14.0, 1.0), (0.0, 1.0)):
        tx = by_group({"student": plain, "mixblock": plain}, clip)
        updates, _ = tx.update(grads, tx.init(params), params)
        for name, gradient in grads.items():
            np.testing.assert_allclose(updates[name]["w"], -share * gradient["w"], **EXACT)


def test_warm_up(float64):
    """The schedule's own value times a line from 1e-5 to 1; nothing changes without warm-up."""
    cosine = cosine_lr(0.5, 0.1, epochs=10, steps_per_epoch=4, by="step")
    steps = np.arange(40)
    factor = np.minimum(1 - (1 - steps / 8) * (1 - 1e-5), 1)
    np.testing.assert_allclose(at(warmed_up(cosine, 8), steps), factor * at(cosine, steps), **EXACT)
    assert warmed_up(cosine, 0) is cosine

"""Losses, the teacher's average and schedules against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax.config import default_config
from automix_jax.ema import ema_update
from automix_jax.errors import ConfigError
from automix_jax.losses import (
    CROSS_ENTROPY,
    Classification,
    cross_entropy,
    mix_labels,
    soft_cross_entropy,
)
from automix_jax.schedules import chosen_steps, cosine_lr, ema_rate, mask_weight, warmed_up
from automix_jax.train.build import make_lr

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


def one_hot(labels, classes):
    return np.eye(classes)[labels]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["ce", "bce"])
def test_classification(float64, name, smoothing):
    """Both losses by NumPy, against labels and against mixed labels, which are what they mix."""
    classes, lam = 6, 0.3
    logits = 3 * np.random.default_rng(0).standard_normal((4, classes))
    own, partner = np.array([0, 1, 2, 2]), np.array([4, 1, 0, 3])

    def loss(targets):
        if name == "ce":
            each = -targets * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))
        else:
            p = 1 / (1 + np.exp(-logits))
            each = -targets * np.log(p) - (1 - targets) * np.log(1 - p)
        return each.sum(1).mean()

    def smooth(labels):
        return (1 - smoothing) * one_hot(labels, classes) + smoothing / classes

    criterion = Classification(name, smoothing)
    ours = criterion(jnp.asarray(logits), jnp.asarray(own))
    np.testing.assert_allclose(ours, loss(smooth(own)), **EXACT)
    mixed = mix_labels(jnp.asarray(own), jnp.asarray(partner), jnp.asarray(lam), classes)
    ours = criterion(jnp.asarray(logits), mixed)
    expected = lam * loss(smooth(own)) + (1 - lam) * loss(smooth(partner))
    np.testing.assert_allclose(ours, expected, **EXACT)


def test_plain_cross_entropy_is_the_default():
    """To the bit, by the two functions for labels and for soft targets."""
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((8, 5)), jnp.float32)
    labels = jnp.arange(8) % 5
    assert Classification() == CROSS_ENTROPY
    assert CROSS_ENTROPY(logits, labels) == cross_entropy(logits, labels)
    targets = mix_labels(labels, labels[::-1], jnp.asarray(0.3), 5)
    assert CROSS_ENTROPY(logits, targets) == soft_cross_entropy(logits, targets)


def test_smoothed_targets_equal_timms(float64, vectors):
    """The recorded target of timm's mixup, which smooths each label before it mixes the two."""
    with np.load(vectors / "baselines_golden.npz") as file:
        recorded, labels = file["timm_target_lam0.3_eps0.1_K6"], file["common_y"]
    labels = jnp.asarray(labels) % 6
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((len(labels), 6)))
    targets = mix_labels(labels, labels[::-1], jnp.asarray(0.3), 6)
    ours = Classification(smoothing=0.1)(logits, targets)
    np.testing.assert_allclose(ours, soft_cross_entropy(logits, jnp.asarray(recorded)), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["ce", "bce"])
def test_classification_of_bfloat16_is_float32(name, smoothing):
    criterion = Classification(name, smoothing)
    logits, labels = jnp.array([[2.0, 0.0], [100.0, -100.0]], jnp.bfloat16), jnp.array([1, 1])
    wide = logits.astype(jnp.float32)
    for targets in (labels, jnp.eye(2)[labels]):
        loss = criterion(logits, targets)
        assert loss.dtype == jnp.float32 and jnp.isfinite(loss)
        assert loss == criterion(wide, targets)


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
@pytest.mark.parametrize("options", [{"start": 0.999, "end": 1.0, "hold": 0.0}, RELEASED])
def test_ema_rate_in_float32(total, options):
    """The rate of every step is right where 1 - m in float32 would be 5 % off."""
    steps = np.arange(total + 1)
    ours = at(ema_rate(total, **options), steps)
    assert ours.dtype == np.float32
    # Float64's own rounding of 1 - m is what is allowed beside float32's of the rate.
    expected = 1 - momentum(steps, total, **options)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=3e-16)
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


def test_warm_up(float64):
    """The schedule's own value times a line from 1e-5 to 1; nothing changes without warm-up."""
    cosine = cosine_lr(0.5, 0.1, epochs=10, steps_per_epoch=4, by="step")
    steps = np.arange(40)
    factor = np.minimum(1 - (1 - steps / 8) * (1 - 1e-5), 1)
    np.testing.assert_allclose(at(warmed_up(cosine, 8), steps), factor * at(cosine, steps), **EXACT)
    assert warmed_up(cosine, 0) is cosine


# What the recipes have: (epochs, steps an epoch, by what, epochs of warm-up), then the student's
# rates and MixBlock's, from and to.
WHOLE_RUNS = {
    "cifar": ((800, 500, "epoch", 0), (0.1, 0.0), (0.1, 0.05)),
    "tiny": ((400, 1000, "epoch", 0), (0.2, 0.05), (0.1, 1e-3)),
    "imagenet": ((100, 5004, "epoch", 0), (0.1, 0.0), (0.1, 1e-3)),
    "deit": ((300, 1251, "step", 5), (1e-3, 1e-5), (1e-3, 1e-4)),
    "swin": ((300, 1251, "step", 20), (1e-3, 1e-5), (1e-3, 1e-4)),
    "cifar_swin": ((200, 500, "step", 20), (5e-4, 1e-4), (1e-3, 1e-4)),
    "rsb_a2": ((300, 625, "epoch", 5), (5e-3, 1e-6), (5e-3, 0.0)),
    "rsb_a3": ((100, 625, "epoch", 5), (8e-3, 1e-6), (8e-3, 0.0)),
    "cub": ((200, 374, "epoch", 0), (1e-3, 0.0), (1e-2, 5e-4)),
}


@pytest.mark.parametrize("name", WHOLE_RUNS)
def test_learning_rates_of_whole_runs(name):
    """Every step in float32 has the formulas' value, to the last of it: rounding is all."""
    (epochs, length, by, warmup), student, mixblock = WHOLE_RUNS[name]
    config = default_config()
    config.epochs = epochs
    config.optimizer.update(
        {"schedule": by, "warmup_epochs": float(warmup), "lr": student[0], "min_lr": student[1]}
    )
    config.optimizer.update({"mixblock_lr": mixblock[0], "mixblock_min_lr": mixblock[1]})
    lr = make_lr(config, length)

    t = np.arange(epochs * length)
    done = t // length / epochs if by == "epoch" else t / t.size
    cosine = np.cos(0.5 * np.pi * done) ** 2  # (1 + cos) / 2, which is too coarse in the tail
    rise = np.minimum(1 - (1 - t / (warmup * length or 1)) * (1 - 1e-5), 1)
    for group, (top, floor), factor in (("student", student, rise), ("mixblock", mixblock, 1)):
        ours = at(lr[group], t)
        assert ours.dtype == np.float32
        if group == "student" and not warmup:
            factor = 1
        np.testing.assert_allclose(ours, factor * (floor + (top - floor) * cosine), rtol=1e-6)


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


# -- chosen steps --------------------------------------------------------------------------------


def test_chosen_steps():
    """A share of them, independent from one step to the next, and other ones with another key."""
    steps = np.arange(20_000)
    chosen = at(chosen_steps(0.8, jax.random.key(0)), steps)
    spread = np.sqrt(0.8 * 0.2 / steps.size)
    assert abs(chosen.mean() - 0.8) < 4 * spread
    other = at(chosen_steps(0.8, jax.random.key(1)), steps)
    for a, b in ((chosen[1:], chosen[:-1]), (chosen, other)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(steps.size)
    assert at(chosen_steps(1.0, jax.random.key(0)), steps).all()
    assert not at(chosen_steps(0.0, jax.random.key(0)), steps).any()

"""Optimizers against PyTorch's and timm's recorded steps, and what they do with the groups."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from automix_jax import config as config_lib
from automix_jax.models import create_model
from automix_jax.optim import DECAYS, LAMB_CLIP, adamw, by_group, kernels, lamb, sgd
from automix_jax.train.build import make_lr, make_optimizer
from tests import record_optimizers
from tests.conftest import x64
from tests.record_optimizers import CASES, STEPS

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def tree(arrays, dtype):
    """Nested dicts from arrays by path."""
    return unflatten_dict({tuple(k.split("/")): jnp.asarray(v, dtype) for k, v in arrays.items()})


def descend(tx, params, gradients):
    """Yields the parameters after each step, by path."""
    state = tx.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for grads in gradients:
        params, state = step(params, state, grads)
        yield flatten_dict(params, sep="/")


def configured(case):
    """A configuration whose optimizer is that of a recorded case."""
    config = config_lib.default_config()
    config.optimizer.name, config.optimizer.weight_decay = case.optimizer, case.weight_decay
    config.optimizer.momentum = config.optimizer.mixblock_momentum = case.momentum
    config.optimizer.decay, config.optimizer.clip = case.decay, case.clip
    return config


def worst_deviation(name, dtype):
    """The largest of all parameters and steps of a recorded case."""
    case = CASES[name]
    rates = {group: jnp.asarray(case.rates(group), dtype) for group in ("student", "mixblock")}
    lr = {group: lambda step, rate=rate: rate[step] for group, rate in rates.items()}
    tx = make_optimizer(configured(case), lr)
    gradients = (tree(record_optimizers.gradients(i), dtype) for i in range(STEPS))
    theirs, worst = record_optimizers.recorded(name, dtype), 0.0
    for i, ours in enumerate(descend(tx, tree(record_optimizers.start(), dtype), gradients)):
        for key, value in ours.items():
            assert value.dtype == dtype
            worst = max(worst, float(np.abs(value - theirs[key][i]).max()))
    return worst


@pytest.mark.parametrize("name", CASES)
def test_steps_equal_the_originals(name):
    """To the rounding of ten steps.

    Clipped float64 steps differ by what PyTorch adds to the norm before it divides by it, 1e-6;
    LAMB, which clips by itself, adds nothing.
    """
    assert worst_deviation(name, "float32") < 1e-6
    with x64():
        assert worst_deviation(name, "float64") < (1e-7 if CASES[name].clip else 1e-13)


def test_recorded_cases_differ():
    """Each setting matters, by far more than the tolerance, and clipping is met and not met."""
    after = {
        name: np.concatenate(
            [x[-1].ravel() for x in record_optimizers.recorded(name, "float64").values()]
        )
        for name in CASES
    }
    names = list(CASES)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert np.abs(after[one] - after[other]).max() > 1e-4, (one, other)
    norms = [
        math.sqrt(sum(np.square(g).sum() for g in record_optimizers.gradients(i).values()))
        for i in range(STEPS)
    ]
    for clip in (LAMB_CLIP, 5.0):
        assert min(norms) < 0.9 * clip and max(norms) > 1.1 * clip


def test_lamb_equals_openmixups(vectors):
    """Ten steps, recorded from the code behind the published tables."""
    with np.load(vectors / "baselines_golden.npz") as file:
        recorded = {name: file[f"lamb_{name}"] for name in ("w0", "b0", "gw", "gb", "w", "b")}
    names = {"w": "student/fc/kernel", "b": "student/fc/bias"}
    params = tree({path: recorded[f"{key}0"] for key, path in names.items()}, "float32")
    gradients = (
        tree({path: recorded[f"g{key}"][i] for key, path in names.items()}, "float32")
        for i in range(10)
    )
    tx = by_group({"student": lamb(5e-3, weight_decay=0.02)}, LAMB_CLIP)
    for i, ours in enumerate(descend(tx, params, gradients)):
        for key, path in names.items():
            np.testing.assert_allclose(ours[path], recorded[key][i], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "decay", "clip", "expected"),
    [
        ("sgd", "", 0.0, ("all", 0.0)),
        ("sgd", "kernels", 3.0, ("kernels", 3.0)),
        ("adamw", "", 0.0, ("kernels", 0.0)),
        ("adamw", "all", 5.0, ("all", 5.0)),
        ("lamb", "", 0.0, ("kernels", 1.0)),
        ("lamb", "all", 2.0, ("all", 2.0)),
        ("lamb", "", math.inf, ("kernels", 0.0)),
    ],
)
def test_what_the_fields_mean(float64, optimizer, decay, clip, expected):
    """Two steps of the configured optimizer, against one that is put together by hand."""
    config = config_lib.default_config()
    config.optimizer.name, config.optimizer.decay = optimizer, decay
    config.optimizer.clip, config.optimizer.weight_decay = clip, 0.1
    config.optimizer.momentum, config.optimizer.mixblock_momentum = 0.9, 0.0
    lr = {"student": lambda _: 0.1, "mixblock": lambda _: 0.01}
    decays = DECAYS[expected[0]]
    make = {
        "sgd": lambda group, rate: sgd(
            rate,
            momentum={"student": 0.9, "mixblock": 0.0}[group],
            weight_decay=0.1,
            decays=decays,
        ),
        "adamw": lambda _, rate: adamw(rate, weight_decay=0.1, decays=decays),
        "lamb": lambda _, rate: lamb(rate, weight_decay=0.1, decays=decays),
    }[optimizer]
    by_hand = by_group({group: make(group, rate) for group, rate in lr.items()}, expected[1])
    params = tree(record_optimizers.start(), "float64")
    grads = [tree(record_optimizers.gradients(i), "float64") for i in (3, 9)]  # norms of 10 and 4
    for ours, theirs in zip(
        descend(make_optimizer(config, lr), params, grads),
        descend(by_hand, params, grads),
        strict=True,
    ):
        for name, value in ours.items():
            np.testing.assert_allclose(value, theirs[name], **EXACT)


def test_mixblock_has_its_own_rate_without_warm_up():
    """In every optimizer, as in the released AdamW recipes."""
    config = config_lib.default_config()
    config.epochs = 10
    for name in ("sgd", "adamw", "lamb"):
        config.optimizer.name = name
        config.optimizer.update({"lr": 0.2, "min_lr": 0.1, "warmup_epochs": 5.0})
        config.optimizer.update({"mixblock_lr": 0.03, "mixblock_min_lr": 0.02})
        lr = make_lr(config, steps_per_epoch=10)
        assert float(lr["mixblock"](0)) == pytest.approx(0.03)
        assert float(lr["student"](0)) == pytest.approx(0.2e-5)
        for group, (top, floor) in {"student": (0.2, 0.1), "mixblock": (0.03, 0.02)}.items():
            expected = floor + (top - floor) * (1 + math.cos(math.pi * 0.7)) / 2
            assert float(lr[group](79)) == pytest.approx(expected)
    config.method.name = "mixup"
    assert set(make_lr(config, steps_per_epoch=10)) == {"student"}


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


@pytest.mark.parametrize("name", ["swin_t", "deit_t", "convnext_t", "resnet50", "mobilenet_v2"])
def test_what_decays(name):
    """Matrices of layers; no table, no token, no scale."""
    model = create_model(name, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(kernels(shapes)), strict=True)
    for leaf, decays in leaves:
        matrix = leaf.ndim > 1 and (leaf.ndim == 4 or leaf.shape[0] not in (1, 169))
        assert decays == matrix

"""The training step: where gradients go, what it costs, and that devices do not matter."""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import ConvNeXtT, MobileNetV2, SwinT
from automix_jax.models.mobile import Stage
from automix_jax.objective import Frozen
from tests.steps import Setup, preprocess

BATCH = 32


def relative(ours, reference) -> float:
    """Norm of the deviation over the norm of the values, for the worst module.

    A bias of one value has a gradient that is a sum with cancellation: its rounding is judged on
    the scale of the kernel beside it.
    """
    deviations, scales = collections.Counter(), collections.Counter()
    pairs = zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(reference), strict=True)
    for (path, a), b in pairs:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        module = jax.tree_util.keystr(path[:-1])
        deviations[module] += np.square(a - b).sum()
        scales[module] += np.square(b).sum()
    return max(math.sqrt(deviations[key] / (scales[key] or 1)) for key in scales)


def numbers(state):
    """All of a state but its key, which has no arithmetic."""
    return {name: value for name, value in vars(state).items() if name != "rng"}


@pytest.fixture(scope="module")
def losses_by_group():
    """Gradients of each loss with respect to params and the teacher, with random parameters."""
    setup = Setup(width=4)
    state = setup.create(jax.random.key(0))

    def shaken(tree, seed):  # zero-initialised scales and flat masks would hide missing gradients
        leaves, treedef = jax.tree.flatten(tree)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        shaken = [
            x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(treedef, shaken)

    params, teacher = shaken(state.params, 1), shaken(state.teacher, 2)
    images, labels = setup.batch(8)
    images = preprocess(jax.random.key(3), images)
    draws = setup.objective.draw(jax.random.split(jax.random.key(4), 1), 8)
    # A ratio far from the area of any mask, so that the mask loss is active.
    draws = draws.replace(lam_mixblock=jnp.full(1, 0.99), lam_student=jnp.full(1, 0.4))

    def losses(arguments):
        params, teacher = arguments
        frozen = Frozen(teacher, state.student_stats, state.teacher_stats)
        _, outcome = setup.objective.loss(
            params, frozen, images, jnp.asarray(labels), draws, jnp.zeros((), int)
        )
        return {k: v for k, v in outcome.metrics.items() if k.startswith("loss_")}

    @jax.jit
    def gradients(arguments):
        values, pull = jax.vjp(losses, arguments)
        zeros = {name: jnp.zeros(()) for name in values}
        return {name: pull(zeros | {name: jnp.ones(())})[0] for name in values}

    return gradients((params, teacher))


@pytest.mark.parametrize(
    ("loss", "group"),
    [
        ("loss_clean", "student"),
        ("loss_mix", "student"),
        ("loss_generate", "mixblock"),
        ("loss_mask", "mixblock"),
    ],
)
def test_each_loss_reaches_its_own_group_and_no_other(losses_by_group, loss, group):
    params, teacher = losses_by_group[loss]
    other = {"student": "mixblock", "mixblock": "student"}[group]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(params[other]))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(teacher))
    unreached = {
        "loss_clean": {"head_mix"},
        "loss_mix": {"head_clean"},
    }.get(loss, set())
    for path, leaf in jax.tree.leaves_with_path(params[group]):
        reached = path[0].key not in unreached
        assert bool((leaf != 0).any()) == reached, jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("model", "stem", "image", "classes", "limit"),
    [("resnet18", "cifar", 32, 10, 2.95), ("resnet50", "imagenet", 224, 1000, 2.98)],
)
def test_flops_over_vanilla(model, stem, image, classes, limit):
    flops = {
        method: Setup(method, model, stem, "stage3", image, classes)
        .lower(16)
        .cost_analysis()["flops"]
        for method in ("vanilla", "automix")
    }
    # Four forward and five backward passes' worth at least: less would mean a missing part.
    assert 2.8 < flops["automix"] / flops["vanilla"] <= limit


@pytest.fixture(scope="module")
def one_device():
    """The state and metrics after a step on one device, by number of groups."""
    results = {}

    def run(groups):
        if groups not in results:
            results[groups] = take_step(Setup(groups=groups))[:2]
        return results[groups]

    return run


def take_step(setup):
    step = jax.jit(setup.step, out_shardings=setup.whole)
    state = setup.create(jax.random.key(0))
    images, labels = jax.device_put(setup.batch(BATCH), setup.split)
    compiled = step.lower(state, images, labels).compile()
    state, metrics = compiled(state, images, labels)
    return jax.device_get(numbers(state)), jax.device_get(metrics), compiled


LONG = [pytest.param(*case, marks=pytest.mark.long) for case in ((1, 2), (2, 8), (8, 2))]


# Eight groups on two to eight devices, and fewer groups than devices. A step's sums are taken in
# another order, no more: 1e-6 is a few units in the last place.
@pytest.mark.parametrize(("groups", "devices"), [(8, 8), *LONG])
def test_devices_do_not_matter(one_device, groups, devices):
    state, metrics, compiled = take_step(Setup(groups=groups, devices=devices))
    expected_state, expected_metrics = one_device(groups)
    # Where a group is spread over devices, the partitioner of old versions sums in longer chains.
    old = jax.__version_info__ < (0, 8) and groups % devices
    limit = 3e-6 if old else 1e-6
    assert relative(metrics, expected_metrics) < limit
    assert relative(state, expected_state) < limit
    if groups % devices == 0:
        check_collectives(compiled.as_text(), state["params"])


def check_collectives(text: str, params) -> None:
    """One reduction of about the parameters' size crosses the wire, and nothing else."""
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert other not in text
    shapes = [line.split(" all-reduce(")[0] for line in text.splitlines() if " all-reduce(" in line]
    assert shapes, "no all-reduce found: has its spelling in the compiled text changed?"
    sizes = [
        np.prod([int(n) for n in dims.split(",") if n], dtype=int)
        for shape in shapes
        for dims in re.findall(r"f32\[([\d,]*)\]", shape)
    ]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert parameters <= sum(sizes) <= 1.05 * parameters


@pytest.mark.long
def test_devices_do_not_matter_to_what_is_dropped():
    """Branches and features that are left out are drawn by group, not by device.

    What stays is doubled, and so is its rounding.
    """
    drops = {"drop_path": 0.5, "dropout": 0.5}
    (one, m1, _), (two, m2, _), (none, _, _) = (
        take_step(Setup(width=4, groups=4, devices=devices, options=options))
        for devices, options in ((1, drops), (2, drops), (1, {}))
    )
    assert relative(two, one) < 2e-6
    assert relative(m2, m1) < 2e-6
    assert relative(none["params"], one["params"]) > 1e-4


# Every kind of block of each family, once or as often as one differs from the next.
DROPPING = {"drop_path": 0.1}
FAMILIES = {
    "mobilenet": (
        functools.partial(
            MobileNetV2,
            stages=(Stage(3, 16, 1, 1, 1), Stage(3, 24, 2, 2, 6), Stage(3, 32, 1, 2, 6)),
        ),
        {"stem": None, "layer": "stage2", "options": DROPPING},
    ),
    "convnext": (
        functools.partial(ConvNeXtT, stage_sizes=(1, 1, 2, 1)),
        {"stem": "cifar", "width": 8, "layer": "stage3", "options": DROPPING},
    ),
    "deit": (
        "deit_t",
        {"stem": None, "width": 24, "layer": "block1", "options": {"blocks": 2} | DROPPING},
    ),
    "swin": (
        functools.partial(SwinT, stage_sizes=(2, 1, 1, 1)),
        {"stem": None, "width": 24, "layer": "merge2", "options": DROPPING},
    ),
}


@pytest.mark.parametrize(
    "family", ["deit", *(pytest.param(f, marks=pytest.mark.long) for f in FAMILIES if f != "deit")]
)
def test_other_families_take_steps(family):
    """A step moves every parameter but the keys' biases, which the softmax cancels."""
    model, fields = FAMILIES[family]
    setup = Setup(model=model, image=32, **fields)
    state = setup.create(jax.random.key(0))
    images, labels = setup.batch(8)
    after, metrics = jax.jit(setup.step)(state, images, labels)
    assert all(math.isfinite(value) for value in metrics.values())
    for path, leaf in jax.tree.leaves_with_path(after.params):
        before = state.params
        for entry in path:
            before = before[entry.key]
        assert bool(jnp.isfinite(leaf).all())
        assert bool((leaf != before).any()), jax.tree_util.keystr(path)


def test_groups_do_matter(one_device):
    """Ratios, partners and batch norm act within groups: other groups are another computation."""
    assert relative(one_device(8)[0]["params"], one_device(1)[0]["params"]) > 1e-4


def test_early_exit_changes_only_later_teacher_statistics():
    states = []
    for full_forward in (False, True):
        setup = Setup(width=4, full_forward=full_forward)
        state, metrics = jax.jit(setup.step)(setup.create(jax.random.key(0)), *setup.batch(8))
        states.append(jax.device_get((state, metrics)))
    (early, early_metrics), (full, full_metrics) = states
    assert relative(early_metrics, full_metrics) < 1e-6
    for name in ("params", "teacher", "student_stats", "opt_state"):
        assert relative(getattr(early, name), getattr(full, name)) < 1e-6
    early, full = early.teacher_stats["backbone"], full.teacher_stats["backbone"]
    for name in early:
        if name.startswith("stage3"):
            assert relative(early[name], full[name]) > 1e-3
        else:
            assert relative(early[name], full[name]) < 1e-6


@pytest.mark.parametrize("method", ["vanilla", "mixup", "cutmix"])
def test_plain_methods_train(method):
    setup = Setup(method, width=8)
    state = setup.create(jax.random.key(0))
    batch = setup.batch(32)
    step = jax.jit(setup.step)
    losses = []
    for _ in range(20):
        state, metrics = step(state, *batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert state.teacher == {} and "mixblock" not in state.params


def test_draws_depend_on_seed_and_step_only():
    setup = Setup(width=4)
    step = jax.jit(setup.step)
    state, batch = setup.create(jax.random.key(0)), setup.batch(8)
    (first, m1), (again, m2) = step(state, *batch), step(state, *batch)
    assert relative(numbers(first), numbers(again)) == 0 and relative(m1, m2) == 0
    _, later = step(state.replace(step=state.step + 1), *batch)
    _, other = step(state.replace(rng=jax.random.key(5)), *batch)
    assert m1["loss_generate"] != later["loss_generate"]
    assert m1["loss_generate"] != other["loss_generate"]

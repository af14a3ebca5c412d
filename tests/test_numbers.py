"""Steps whose numbers are not finite are not taken; extreme numbers that are finite stay so."""

import dataclasses
import functools
import json
import math
import types

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import attention, automix, optim
from automix_jax.automix import AutoMix
from automix_jax.losses import CROSS_ENTROPY, Classification
from automix_jax.mixblock import MixBlock, mask_loss
from automix_jax.models.resnet import BasicBlock, ResNet
from automix_jax.objective import Frozen, Outcome
from automix_jax.train import metrics as metrics_lib
from automix_jax.train import numbers
from automix_jax.train.build import make_run_steps
from automix_jax.train.diagnosis import diagnose
from automix_jax.train.sharding import replicated
from automix_jax.train.state import TrainState
from automix_jax.train.step import train_step
from tests.steps import Setup, data_mesh
from tests.test_step import relative

BAD = [math.nan, math.inf, -math.inf]
STANDSTILL = 100  # the step at which the learning rate is 0
UNSEEN = -(10**9)
SMALL = {
    "model": functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock),
    "layer": "stage1",
    "width": 4,
    "image": 8,
}


@jax.custom_vjp
def spoiled_gradient(x, fault):
    """The same, but for its gradient, to which the fault is added."""
    return x


spoiled_gradient.defvjp(
    lambda x, fault: (x, fault), lambda fault, g: (g.at[0].add(fault), jnp.zeros_like(fault))
)


def bits(tree):
    """The bytes of every array, a key's too."""
    data = jax.tree.map(
        lambda x: (
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ),
        tree,
    )
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(data)]


def kept(state):
    """What a skipped step leaves as it is."""
    return {k: v for k, v in vars(state).items() if k not in ("step", "skipped")}


# -- a step of AutoMix, with a fault as an argument ----------------------------------------------


@dataclasses.dataclass(frozen=True)
class FaultyCriterion(Classification):
    """Cross entropy; a fault is added to the first entry of soft targets."""

    fault: object = None

    def __call__(self, logits, targets):
        if targets.ndim == 2:
            targets = targets.at[0, 0].add(self.fault)
        return CROSS_ENTROPY(logits, targets)


class FaultyAutoMix(AutoMix):
    """AutoMix with what `frozen.guide` names added in its places: nothing, 0, or a fault."""

    def loss(self, params, frozen, images, labels, draws, step):
        fault = frozen.guide
        head = params["student"]["head_clean"]
        head = head | {"bias": spoiled_gradient(head["bias"], fault["gradient"])}
        params = params | {"student": params["student"] | {"head_clean": head}}
        lam = jnp.where(fault["lam"] == DRAWN, draws.lam_mixblock, fault["lam"])
        automix = AutoMix(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
            | {"criterion": FaultyCriterion(fault=fault["target"])}
        )
        draws = draws.replace(lam_mixblock=lam)
        loss, outcome = automix.loss(params, frozen, images, labels, draws, step)
        loss = loss + fault["loss"]
        return loss, outcome.replace(metrics=outcome.metrics | {"loss": loss})


DRAWN = -1.0  # no ratio: the drawn one stays
MARKED = 0.45  # at this ratio the mask loss is infinite, and has no gradient
NO_FAULT = {"gradient": 0.0, "target": 0.0, "loss": 0.0, "lam": [DRAWN, DRAWN]}


def faults(**values):
    return jax.tree.map(jnp.float32, NO_FAULT | {k: jnp.array(v) for k, v in values.items()},
                        is_leaf=lambda x: isinstance(x, list))  # fmt: skip


def spoiled_mask_loss(mask, lam, **options):
    vanishing = jnp.where(lam == jnp.float32(MARKED), 0 * mask.mean(), 1)
    return mask_loss(mask, lam, **options) - jnp.log(vanishing)


@pytest.fixture(scope="module")
def faulty():
    """A compiled step (state, images, labels, fault), a state, a batch and the step's setup."""
    setup = Setup(groups=2, **SMALL)

    def schedule(step):
        return jnp.where(step == STANDSTILL, 0.0, 0.05)

    tx = optim.by_group(
        {
            "student": optim.adamw(schedule, weight_decay=0.01),
            "mixblock": optim.sgd(schedule, momentum=0.9, weight_decay=0.0),
        }
    )
    objective = FaultyAutoMix(**vars(setup.objective))
    step = functools.partial(
        setup.step.func,
        **setup.step.keywords
        | {"objective": objective, "tx": tx, "preprocess": lambda rng, images: images},
    )
    state = setup.create(jax.random.key(0))
    state = state.replace(opt_state=tx.init(state.params))
    images, labels = setup.batch(8)
    batch = images.astype(np.float32) / 100 - 1, labels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automix, "mask_loss", spoiled_mask_loss)
        compiled = jax.jit(step).lower(state, *batch, faults()).compile()
    return types.SimpleNamespace(step=compiled, state=state, batch=batch, objective=objective)


@pytest.fixture(scope="module")
def expected(faulty):
    """What a clean batch makes of the state at step 1."""
    return faulty.step(faulty.state.replace(step=jnp.int32(1)), *faulty.batch, faults())


def spoil(place, value, faulty):
    """State, batch and fault with a value in a place."""
    state, (images, labels), fault = faulty.state, faulty.batch, faults()
    if place == "pixel":
        images = images.copy()
        images[5, 4, 4, 1] = value
    elif place == "variance":
        stats = jax.tree.map(lambda x: x, state.student_stats)
        stats["backbone"]["stage2_block1"]["bn1"]["var"] = jnp.ones(8).at[3].set(value)
        state = state.replace(student_stats=stats)
    elif place == "lam":
        fault = faults(lam=[DRAWN, value])
    else:
        fault = faults(**{place: value})
    return state, images, labels, fault


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", ["pixel", "target", "lam", "loss", "gradient", "variance"])
def test_a_bad_step_changes_nothing(faulty, expected, place, value):
    before, *batch = spoil(place, value, faulty)
    after, metrics = faulty.step(before, *batch)
    assert bits(kept(after)) == bits(kept(before))
    assert after.step == 1 and after.skipped.count == 1
    assert after.skipped.recent.tolist() == [UNSEEN] * 9 + [0]
    if place in ("gradient", "variance"):  # which the losses do not show
        assert all(math.isfinite(value) for value in metrics.values())
    # The next batch is taken as if the bad one had never been; bad statistics are mended before.
    mended = after.replace(student_stats=faulty.state.student_stats)
    after, metrics = faulty.step(mended, *faulty.batch, faults())
    assert after.step == 2 and after.skipped.count == 1
    assert bits((kept(after), metrics)) == bits((kept(expected[0]), expected[1]))
    assert bits(after.params) != bits(faulty.state.params)


@pytest.mark.parametrize("label", [10, 2**31 - 1, -(2**31)])
def test_a_class_that_does_not_exist(faulty, label):
    images, labels = faulty.batch
    labels = np.where(np.arange(8) == 2, label, labels).astype(np.int32)
    after, _ = faulty.step(faulty.state, images, labels, faults())
    assert bits(kept(after)) == bits(kept(faulty.state)) and after.skipped.count == 1


def test_a_clean_step_is_taken(faulty):
    after, metrics = faulty.step(faulty.state, *faulty.batch, faults())
    assert after.step == 1 and after.skipped.count == 0
    assert after.skipped.recent.tolist() == [UNSEEN] * 10
    for name in ("params", "teacher", "student_stats", "teacher_stats", "opt_state"):
        assert relative(getattr(after, name), getattr(faulty.state, name)) > 1e-6, name
    assert set(metrics) == set(faulty.objective.metric_names) and metrics["mask_dropped"] == 0


def test_skipped_steps_do_not_delay_the_learning_rate(faulty):
    """Five skipped steps before the one at which the rate is 0; Adam has counted none of them."""
    state = faulty.state.replace(step=jnp.int32(STANDSTILL - 5))
    for _ in range(5):
        state, _ = faulty.step(state, *faulty.batch, faults(loss=math.nan))
    assert state.step == STANDSTILL and state.skipped.count == 5
    after, _ = faulty.step(state, *faulty.batch, faults())
    assert bits(after.params) == bits(state.params)
    assert bits(after.student_stats) != bits(state.student_stats)
    counts = {
        jax.tree_util.keystr(path): int(leaf)
        for path, leaf in jax.tree.leaves_with_path(after.opt_state)
        if leaf.dtype == jnp.int32
    }
    assert sorted(counts.values()) == [1, STANDSTILL + 1, STANDSTILL + 1]  # Adam's and two rates
    after, _ = faulty.step(after, *faulty.batch, faults())
    assert relative(after.params, state.params) > 1e-6


def test_a_mask_loss_alone_is_dropped(faulty):
    """In one group of two: as at a ratio beside the marked one, where it is 0 and flat."""
    beside = float(np.nextafter(np.float32(MARKED), np.float32(1)))
    dropped, metrics = faulty.step(faulty.state, *faulty.batch, faults(lam=[MARKED, 0.9]))
    assert dropped.skipped.count == 0
    assert metrics["mask_dropped"] == 0.5 and metrics["loss_mask"] > 0.1
    flat, flat_metrics = faulty.step(faulty.state, *faulty.batch, faults(lam=[beside, 0.9]))
    assert flat_metrics.pop("mask_dropped") == 0
    # The ratios differ by 3e-8, which is what the losses and gradients of generation show.
    for name, value in flat_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    momentum, flat_momentum = (
        state.opt_state.inner_states["mixblock"].inner_state[1].trace["mixblock"]
        for state in (dropped, flat)
    )
    assert relative(momentum, flat_momentum) < 1e-5
    # It is the gradient of the other group's mask loss that is there.
    both, metrics = faulty.step(faulty.state, *faulty.batch, faults(lam=[MARKED, MARKED]))
    assert both.skipped.count == 0
    assert metrics["mask_dropped"] == 1 and metrics["loss_mask"] == 0
    assert bits(both.params) != bits(faulty.state.params)


# -- several steps, several devices --------------------------------------------------------------


@flax.struct.dataclass
class LineDraws:
    """A ratio for each group, as AutoMix has them."""

    lam: object
    rngs: object


class Line:
    """The smallest objective: softmax regression on the mean colour, with running statistics.

    `guide["steps"]` are the steps whose loss is not finite.
    """

    model = None
    metric_names = ("loss",)

    def draw(self, rngs, group_size):
        return LineDraws(jax.vmap(jax.random.uniform)(rngs), rngs)

    def loss(self, params, frozen, images, labels, draws, step):
        colour = images.mean((1, 2))  # [B, C]
        lam = jnp.repeat(draws.lam, len(images) // len(draws.lam))  # [B]
        logits = (1 + lam[:, None]) * (colour @ params["student"]["kernel"])
        loss = CROSS_ENTROPY(logits, labels)
        if frozen.guide is not None:
            loss = loss + jnp.where(jnp.isin(step, frozen.guide["steps"]), jnp.nan, 0)
        stats = {"mean": 0.9 * frozen.student_stats["mean"] + 0.1 * colour.mean(0)}
        return loss, Outcome(stats, frozen.teacher_stats, {"loss": loss}, {})


def line_step(devices=1, accumulation=1):
    tx = optim.by_group({"student": optim.sgd(0.1, momentum=0.9, weight_decay=0.0)})
    return tx, functools.partial(
        train_step,
        objective=Line(),
        tx=tx,
        ema_rate=lambda step: jnp.float32(0.1),
        preprocess=lambda rng, images: jnp.asarray(images, jnp.float32) / 255,
        num_groups=8,
        mesh=data_mesh(devices),
        accumulation=accumulation,
    )


def line_state(tx, **changes):
    params = {"student": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)}}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        teacher=jax.tree.map(jnp.copy, params["student"]),
        student_stats={"mean": jnp.zeros(3)},
        teacher_stats={},
        opt_state=tx.init(params),
        rng=jax.random.key(1),
    ).replace(**changes)


def line_batch(size=16):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 4, 4, 3)).astype(np.uint8)
    return images, rng.integers(0, 4, size).astype(np.int32)


@pytest.fixture(scope="module")
def dispatch():
    """Sixty steps in one program, from the bad ones among them to state and metrics."""
    tx, step = line_step()
    run_steps = make_run_steps(step, data_mesh(), replicated(data_mesh()))
    images, labels = line_batch()
    order = np.random.default_rng(1)
    indices = np.stack([order.permutation(16) for _ in range(60)])

    def run(bad):
        padded = np.full(60, -1, np.int32)
        padded[: len(bad)] = bad
        state, metrics = jax.device_put(
            (line_state(tx), metrics_lib.collection(("loss",)).empty()), replicated(data_mesh())
        )
        return run_steps(state, metrics, images, labels, indices, {"steps": padded})

    run.indices = indices
    return run


@pytest.mark.parametrize("k", [1, 2, 3, 4, 50])
def test_bad_steps_in_a_row_within_a_dispatch(dispatch, k):
    """They lie in the middle, and what follows was taken: the record says it all the same."""
    state, metrics = dispatch(range(5, 5 + k))
    assert state.step == 60 and state.skipped.count == k
    recent = np.asarray(state.skipped.recent)
    newest = list(range(5, 5 + k))[-10:]
    assert recent.tolist() == [UNSEEN] * (10 - len(newest)) + newest
    assert metrics.loss.count == 60 - k
    assert math.isfinite(metrics_lib.compute(metrics)["loss"])
    said = numbers.trouble(recent, int(state.skipped.count))
    if k < 3:
        assert said is None
    else:
        assert said.startswith(f"{len(newest)} steps in a row, {newest[0]} to {newest[-1]}, ")
        assert f"{k} skipped" in said
        assert numbers.first_of_trouble(recent) == newest[0]


def test_a_dispatch_is_its_steps(dispatch):
    """One after the other, with the bad one left out by hand."""
    state, metrics = dispatch([7])
    tx, step = line_step()
    step = jax.jit(step)
    images, labels = line_batch()
    expected, losses = line_state(tx), []
    for number, batch in enumerate(dispatch.indices):
        if number == 7:
            expected = expected.replace(step=expected.step + 1)
            continue
        expected, values = step(expected, images[batch], labels[batch])
        losses.append(float(values["loss"]))
    assert relative(kept_numbers(state), kept_numbers(expected)) < 1e-5  # sixty steps of rounding
    np.testing.assert_allclose(metrics_lib.compute(metrics)["loss"], np.mean(losses), rtol=1e-5)


def test_a_dispatch_of_bad_steps(dispatch):
    state, metrics = dispatch(range(60))
    assert bits(kept(state)) == bits(kept(line_state(line_step()[0])))
    assert state.step == state.skipped.count == 60
    assert math.isnan(metrics_lib.compute(metrics)["loss"])  # the mean of no step


@pytest.fixture(scope="module")
def on_one_device():
    """State and metrics after a clean step 1 on one device."""
    tx, step = line_step()
    images, labels = line_batch()
    return jax.jit(step)(line_state(tx, step=jnp.int32(1)), images.astype(np.float32), labels)


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (2, 1), (8, 1), (1, 4), (2, 2)])
def test_devices_and_parts_decide_alike(on_one_device, devices, parts):
    """One image of the last group is bad: the step is skipped everywhere, and else taken."""
    tx, step = line_step(devices, parts)
    mesh = step.keywords["mesh"]
    step = jax.jit(step, out_shardings=replicated(mesh))
    state = jax.device_put(line_state(tx), replicated(mesh))
    images, labels = line_batch()
    images = images.astype(np.float32)
    bad = images.copy()
    bad[15, 0, 0, 0] = math.inf
    after, _ = step(state, bad, labels)
    assert bits(kept(after)) == bits(kept(state))
    assert after.skipped.count == 1 and after.skipped.recent[-1] == 0
    assert all(shard.data == 1 for shard in after.skipped.count.addressable_shards)
    taken, metrics = step(after, images, labels)
    assert taken.skipped.count == 1 and taken.step == 2
    expected, expected_metrics = on_one_device
    assert relative(kept_numbers(taken), kept_numbers(expected)) < 1e-6  # sums in another order
    assert relative(metrics, expected_metrics) < 1e-6


def kept_numbers(state):
    return {k: v for k, v in kept(state).items() if k != "rng"}


def test_finite_gradients_that_lead_nowhere():
    """The update overflows, though loss and gradients are finite."""
    tx, step = line_step()
    state = line_state(tx)
    huge = jax.tree.map(lambda x: jnp.full_like(x, 3e38), state.opt_state.inner_states)
    before = state.replace(opt_state=state.opt_state._replace(inner_states=huge))
    kernel = {"student": {"kernel": jnp.full((3, 4), -3.3e38)}}
    small = line_batch()[0] * 0, line_batch()[1]
    after, metrics = jax.jit(step)(before.replace(params=kernel), *small)
    assert math.isfinite(metrics["loss"])
    assert after.skipped.count == 1
    assert bits(after.params) == bits(kernel) and bits(after.opt_state) == bits(before.opt_state)


# -- the record, looked at -----------------------------------------------------------------------


def remembered(steps):
    """`Skipped.recent` after these skipped steps, by the function that the step compiles."""
    skipped = numbers.none_skipped()
    for step in range(max(steps, default=-1) + 1):
        if step in steps:
            skipped = record(skipped, step)
    assert skipped.count == len(steps)
    return np.asarray(skipped.recent)


@jax.jit
def record(skipped, step):
    return numbers.record(skipped, step, jnp.array(False))


@pytest.mark.parametrize(
    ("steps", "first", "says"),
    [
        ([], None, None),
        ([7], None, None),
        ([7, 8], None, None),
        ([7, 8, 10, 11, 13], None, None),
        ([0, 1, 2], 0, "3 steps in a row, 0 to 2, are not finite (3 skipped in all)"),
        ([3, 117, 118, 119, 200], 117, "3 steps in a row, 117 to 119, "),
        ([3, 4, 7, 8, 9, 10, 12], 7, "4 steps in a row, 7 to 10, "),
        # Ten of 1,000 steps, and ten of 1,001.
        ([*range(5, 95, 10), 1004], 5, "10 of 1,000 steps, 5 to 1004, are not finite (10 "),
        ([*range(5, 95, 10), 1005], None, None),
        ([1, *range(5, 95, 10), 1005], None, None),
        ([1, *range(205, 295, 10), 1005], 205, "10 of 801 steps, 205 to 1005, are"),
        ([2, 3, 4, *range(205, 295, 10), 1005], 205, "10 of 801 steps"),
    ],
)
def test_trouble(steps, first, says):
    recent = remembered(steps)
    said = numbers.trouble(recent, len(steps))
    if first is None:
        assert said is None
        with pytest.raises(ValueError, match="no trouble"):
            numbers.first_of_trouble(recent)
    else:
        assert said.startswith(says)
        assert numbers.first_of_trouble(recent) == first


def test_metrics_of_a_skipped_step_leave_no_trace():
    empty = metrics_lib.collection(("loss", "accuracy")).empty()

    @jax.jit
    def update(running, loss, taken):
        return metrics_lib.update(running, {"loss": loss, "accuracy": 2 * loss}, taken)

    assert all(math.isnan(value) for value in metrics_lib.compute(empty).values())
    running = update(empty, jnp.float32(3), jnp.array(True))
    for value in BAD:
        running = update(running, jnp.float32(value), jnp.array(False))
    running = update(running, jnp.float32(5), jnp.array(True))
    assert metrics_lib.compute(running) == {"loss": 4, "accuracy": 8}


def test_diagnosis():
    """What is bad is named, the rest is in numbers, and all of it is JSON; on two devices."""
    tx, step = line_step(devices=2)
    images, labels = line_batch()
    images = images.astype(np.float32)
    arguments = {
        name: step.keywords[name] for name in ("objective", "preprocess", "num_groups", "mesh")
    }
    state = line_state(tx, step=jnp.int32(7))
    good = diagnose(state, jnp.asarray(images), jnp.asarray(labels), **arguments)
    assert json.loads(json.dumps(good, allow_nan=False)) == good
    assert good["step"] == 7 and good["metrics"]["loss"] > 0
    assert len(good["lam"]["lam"]) == 8 and set(good["lam"]) == {"lam"}
    assert 0 < good["gradient_norms"]["student"] < 10
    assert not any(good["not_finite"].values())
    # The ratios and losses are those of the step itself.
    _, metrics = jax.jit(step)(state, images, labels)
    np.testing.assert_allclose(good["metrics"]["loss"], metrics["loss"], rtol=1e-6)
    images[3, 0, 0, 1] = -math.inf
    bad = diagnose(state, jnp.asarray(images), jnp.asarray(labels), **arguments)
    assert json.loads(json.dumps(bad, allow_nan=False)) == bad
    assert bad["metrics"] == {"loss": "inf"} and bad["gradient_norms"] == {"student": "nan"}
    assert bad["not_finite"] == {
        "gradients": ["student/kernel"],
        "student_stats": ["mean"],
        "teacher_stats": [],
    }
    assert bad["lam"] == good["lam"]


# -- extremes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def extreme(request, faulty):
    """Loss, gradients and masks of AutoMix from (params, frozen, images, lam); and arguments."""
    dtype = jnp.dtype(request.param)
    setup = Setup(options={"dtype": dtype}, mixblock=MixBlock(dtype=dtype), **SMALL)
    state, (images, labels) = faulty.state, faulty.batch

    @jax.jit
    def compute(params, teacher, images, lam):
        frozen = Frozen(teacher, state.student_stats, state.teacher_stats)
        draws = setup.objective.draw(jax.random.split(jax.random.key(4), 1), 8)
        draws = draws.replace(lam_mixblock=lam, lam_student=lam)
        loss = jax.value_and_grad(setup.objective.loss, has_aux=True)
        (_, outcome), grads = loss(params, frozen, images, jnp.asarray(labels), draws, jnp.int32(0))
        masks = {name: outcome.intermediates[name] for name in ("mask", "student_mask")}
        stats = (outcome.student_stats, outcome.teacher_stats)
        return masks, outcome.metrics, grads, stats

    def run(*arguments):
        return compute(*jax.device_put(arguments, setup.whole))  # always the same program

    return run, state, jnp.asarray(images)


def replaced(params, module, leaf, change):
    return params | {module: params[module] | {leaf: change(params[module][leaf])}}


def noise(x, scale):
    return scale * jax.random.normal(jax.random.key(9), x.shape)


def logits_times(params, factor):
    heads = {
        name: jax.tree.map(lambda x: factor * (x + noise(x, 1.0)), params[name])
        for name in ("head_clean", "head_mix")
    }
    return params | heads


CASES = ("logits", "query 1e20", "one sign 1e20", "value 1e20", "equal maps", "equal images",
         "lam 0", "lam 1")  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_extremes(extreme, case):
    compute, state, images = extreme
    params, teacher, lam = state.params, state.teacher, 0.3
    block = params["mixblock"]
    if case == "logits":
        student = logits_times(params["student"], 1e4)
        params, teacher = params | {"student": student}, logits_times(teacher, 1e4)
    elif case == "query 1e20":
        block = replaced(block, "query", "kernel", lambda x: noise(x, 1e20))
    elif case == "one sign 1e20":
        block = replaced(block, "query", "bias", lambda x: x + 1e20)
    elif case == "value 1e20":
        block = replaced(block, "value", "kernel", lambda x: noise(x, 1e20))
    elif case == "equal maps":
        teacher = jax.tree.map(jnp.zeros_like, teacher)
    elif case == "equal images":
        images = jnp.ones_like(images)
    else:
        lam = float(case[-1])
    params = params | {"mixblock": block}
    masks, metrics, grads, stats = compute(params, teacher, images, jnp.full(1, lam, jnp.float32))
    for mask in masks.values():
        assert bool(jnp.isfinite(mask).all()) and mask.min() >= 0 and mask.max() <= 1
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    bad = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.leaves_with_path((grads, stats))
        if not np.isfinite(leaf).all()
    ]
    assert not bad
    if case == "logits":
        assert metrics["loss_clean"] > 1e3  # the case says something


@functools.cache
def chosen(limit):
    """The compiled output and gradients of the form that `attend` chooses at a limit."""

    @jax.jit
    def compute(inputs, cotangent):
        output, pullback = jax.vjp(attention.attend, *inputs)
        return output, *pullback(cotangent)

    return compute


def attention_results(monkeypatch, inputs, cotangent):
    """Output and gradients of the naive form, and of the blockwise one."""
    for limit in (attention.NAIVE_LIMIT, 0):
        monkeypatch.setattr(attention, "NAIVE_LIMIT", limit)
        yield [np.asarray(x, np.float32) for x in chosen(limit)(inputs, cotangent)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("winners", [1, 150, 300])
def test_both_forms_bear_products_that_overflow(monkeypatch, winners, dtype):
    """Of 300 keys the first ones have the largest logit: the output is the mean of their values."""
    rng = np.random.default_rng(0)
    query, key = np.full((2, 5, 1), 1e20), np.full((2, 300, 1), 1e20)
    key[:, winners:] *= -1
    value = jnp.asarray(rng.standard_normal((2, 300)), dtype)
    cotangent = jnp.asarray(rng.standard_normal((2, 5)), dtype)
    inputs = (jnp.asarray(query, dtype), jnp.asarray(key, dtype), value)
    mean = np.asarray(value, np.float32)[:, :winners].mean(1, keepdims=True)
    per_value = np.where(np.arange(300) < winners, 1 / winners, 0)
    limit = 1e-6 if dtype == jnp.float32 else 2e-2  # sums of 300 terms of order one
    for output, *gradients in attention_results(monkeypatch, inputs, cotangent):
        np.testing.assert_allclose(output, np.broadcast_to(mean, (2, 5)), atol=limit)
        assert all(np.abs(gradient).max() < 1e-9 for gradient in gradients[:2])  # logits do little
        expected = np.asarray(cotangent, np.float32).sum(1, keepdims=True) * per_value
        np.testing.assert_allclose(gradients[2], expected, atol=limit)


def test_both_forms_bear_products_of_either_sign(monkeypatch):
    """The largest logit takes all."""
    rng = np.random.default_rng(0)
    inputs = [
        jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)
        for scale, shape in ((1e20, (2, 5, 8)), (1e20, (2, 300, 8)), (1, (2, 300)))
    ]
    query, key, value = (np.asarray(x, np.float64) for x in inputs)
    winner = np.einsum("bnd,bmd->bnm", query, key).argmax(-1)
    expected = np.take_along_axis(value, winner, 1)
    for output, *gradients in attention_results(monkeypatch, inputs, jnp.ones((2, 5))):
        np.testing.assert_allclose(output, expected, rtol=1e-6)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_ordinary_attention_keeps_its_bits():
    rng = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)
        for scale, shape in ((1e3, (2, 9, 4)), (1e3, (2, 9, 4)), (1, (2, 9)))
    )

    @functools.partial(jax.jit, static_argnums=0)
    def compute(form, *inputs):
        output, pullback = jax.vjp(form, *inputs)
        return output, *pullback(jnp.ones_like(output))

    inputs = query, key, value
    assert bits(compute(attention.attend, *inputs)) == bits(
        compute(attention.attend_naive, *inputs)
    )

"""What a recipe may choose about a step: its loss, steps without generation, parts, a teacher."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import config as config_lib
from automix_jax import mixups
from automix_jax.data import Facts
from automix_jax.errors import ConfigError
from automix_jax.losses import Classification
from automix_jax.mixup_training import AugMixTraining, MixupTraining
from automix_jax.objective import Frozen
from automix_jax.schedules import chosen_steps
from automix_jax.train.build import build
from automix_jax.validation import validate
from tests import runs
from tests.steps import Setup, data_mesh, preprocess
from tests.test_step import numbers, relative

NARROW = {"width": 4, "image": 8}


def change(setup, objective=None, **arguments):
    """The setup with another objective, or other arguments of `train_step`."""
    setup.objective = objective or setup.objective
    keywords = {**setup.step.keywords, "objective": setup.objective, **arguments}
    setup.step = functools.partial(setup.step.func, **keywords)
    return setup


def compiled(setup, size):
    """The step as it runs, and the state and batch that it takes."""
    state = setup.create(jax.random.key(0))
    images, labels = jax.device_put(setup.batch(size), setup.split)
    step = jax.jit(setup.step, out_shardings=setup.whole)
    return step.lower(state, images, labels).compile(), state, (images, labels)


# -- the loss ------------------------------------------------------------------------------------


class Seven(Classification):
    """A criterion that is known by its value, and leaves little to compile."""

    def __call__(self, logits, targets):
        return jnp.float32(7)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("automix", {"loss_clean": 7, "loss_mix": 7, "loss_generate": 7}),
        ("mixup", {"loss": 7}),
        ("comixup", {"loss_clean": 7, "loss_mix": 7, "loss": 7 + 0.5 * 7}),
        ("augmix", {"loss_clean": 7}),
    ],
)
def test_each_loss_of_classification_is_the_criterions(method, expected):
    setup = Setup(method="automix" if method == "automix" else "mixup", **NARROW)
    state, (images, labels) = setup.create(jax.random.key(0)), setup.batch(8)
    model = setup.objective.model
    if method == "automix":
        objective = dataclasses.replace(setup.objective, criterion=Seven())
    elif method == "augmix":
        objective = AugMixTraining(model, mixups.create(method), criterion=Seven())
    else:
        weight = 0.5 if method == "comixup" else 0.0
        mix = mixups.create(method)
        objective = MixupTraining(model, mix, bool(weight), weight, criterion=Seven())

    @jax.jit
    def metrics(params, images):
        frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats)
        draws = objective.draw(jax.random.split(jax.random.key(4), 1), 8)
        images = preprocess(jax.random.key(3), images)
        step = jnp.zeros((), int)
        return objective.loss(params, frozen, images, jnp.asarray(labels), draws, step)[1].metrics

    ours = metrics(state.params, images)
    assert {name: float(ours[name]) for name in expected} == expected


def test_saliency_is_of_the_criterion():
    """With the sum over classes the gradient that PuzzleMix looks at is another."""
    setup = Setup(method="mixup", **NARROW)
    state, (images, labels) = setup.create(jax.random.key(0)), setup.batch(8)
    images = preprocess(jax.random.key(3), images)
    frozen = Frozen({}, state.student_stats, {})
    mix = mixups.create("puzzlemix")

    def saliency(criterion):
        objective = MixupTraining(setup.objective.model, mix, True, criterion=criterion)
        look = jax.jit(objective.look)
        return look(state.params, frozen, images, jnp.asarray(labels))["saliency"]

    bce = Classification("bce")

    @jax.jit
    @jax.grad
    def expected(images):
        variables = {"params": state.params["student"], "batch_stats": state.student_stats}
        return bce(setup.objective.model.apply(variables, images)[0]["mix"], jnp.asarray(labels))

    norms = jnp.sqrt(jnp.square(expected(images)).mean(-1))
    ours = saliency(bce)
    np.testing.assert_allclose(ours, norms, rtol=1e-5, atol=1e-6 * float(norms.max()))
    assert relative({"x": {"y": saliency(Classification())}}, {"x": {"y": ours}}) > 0.1


# -- steps without generation --------------------------------------------------------------------


def test_what_is_left_out():
    """The teacher's pass on mixed images, its loss and its gradient; all else stays."""
    setup = Setup(**NARROW)
    state, (images, labels) = setup.create(jax.random.key(0)), setup.batch(8)
    images, labels = preprocess(jax.random.key(3), images), jnp.asarray(labels)
    # A ratio far from the area of any mask, so that the mask loss is active.
    draws = setup.objective.draw(jax.random.split(jax.random.key(4), 1), 8)
    draws = draws.replace(lam_mixblock=jnp.full(1, 0.99), lam_student=jnp.full(1, 0.4))
    frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats)

    def run(objective):
        loss = jax.value_and_grad(objective.loss, has_aux=True)

        def compute(step):
            (_, outcome), grads = loss(state.params, frozen, images, labels, draws, step)
            return grads, outcome.metrics, outcome.teacher_stats

        return jax.jit(compute)

    @jax.jit
    @jax.grad
    def of_mask(params):
        _, outcome = setup.objective.loss(params, frozen, images, labels, draws, jnp.array(0))
        return 0.1 * outcome.metrics["loss_mask"]

    whole = run(setup.objective)(jnp.array(0))
    drawn = run(dataclasses.replace(setup.objective, generates=lambda step: step % 2 == 0))
    assert relative(drawn(jnp.array(0)), whole) < 1e-6

    grads, metrics, stats = drawn(jnp.array(1))
    assert metrics["loss_generate"] == 0 < whole[1]["loss_generate"]
    for name in ("loss_clean", "loss_mix", "loss_mask", "accuracy_clean"):
        np.testing.assert_allclose(metrics[name], whole[1][name], rtol=1e-6)
    total = metrics["loss_clean"] + metrics["loss_mix"] + 0.1 * metrics["loss_mask"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
    expected = of_mask(state.params)["mixblock"]
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(expected))
    assert relative(grads["mixblock"], expected) < 1e-6
    assert relative(whole[0]["mixblock"], expected) > 1e-2
    assert relative(grads["student"], whole[0]["student"]) < 1e-6
    # The pass on clean images stops at stage 2, so these statistics are of the mixed ones alone.
    before = state.teacher_stats["backbone"]
    last = [name for name in before if name.startswith("stage3")]
    assert last
    for name in last:
        assert relative(stats["backbone"][name], before[name]) == 0
        assert relative(whole[2]["backbone"][name], before[name]) > 1e-3


def test_a_step_without_generation_costs_less():
    """The teacher's forward pass and the backward pass to the images: 2 of 8.85 passes."""

    def flops(generates):
        setup = Setup(width=4)
        objective = dataclasses.replace(setup.objective, generates=generates)
        return change(setup, objective).lower(16).cost_analysis()["flops"]

    whole = flops(None)
    # Of a choice at run time the costlier branch is counted.
    assert flops(lambda step: step % 2 == 0) == pytest.approx(whole, rel=1e-6)
    assert flops(lambda step: jnp.array(False)) / whole == pytest.approx(1 - 2 / 8.85, abs=0.01)


@functools.cache
def left_out(devices):
    """Which of eight steps generate, and the state after them."""
    setup = Setup(groups=8, devices=devices, **NARROW)
    generates = chosen_steps(0.5, jax.random.key(7))
    change(setup, dataclasses.replace(setup.objective, generates=generates))
    step, state, batch = compiled(setup, 32)
    assert " conditional(" in step.as_text()  # a branch that is taken or not, no selection
    generated = []
    for _ in range(8):
        state, metrics = step(state, *batch)
        generated.append(bool(metrics["loss_generate"] != 0))
    return generated, jax.device_get(numbers(state))


@pytest.mark.long
def test_steps_without_generation_do_not_depend_on_devices():
    generates = chosen_steps(0.5, jax.random.key(7))
    expected = [bool(generates(jnp.array(step))) for step in range(8)]
    assert set(expected) == {True, False}
    (one, state_of_one), (eight, state_of_eight) = left_out(1), left_out(8)
    assert one == eight == expected
    # Eight steps of training enlarge the rounding of the first.
    assert relative(state_of_eight, state_of_one) < 1e-4


# -- a teacher to evaluate -----------------------------------------------------------------------


def test_a_run_of_a_mixup_with_a_teacher(tmp_path):
    """Both networks are evaluated, and the fields of this page are of use together."""
    data = runs.write_npz(tmp_path / "data.npz")
    fields = ("method.name=mixup", "teacher.enabled=True", "teacher.momentum=0.5",
              "eval.headline=teacher_mix", "optimizer.name=lamb", "loss.name=bce",
              "loss.smoothing=0.1", "num_groups=2", "accumulation=2")  # fmt: skip
    argv = runs.arguments(data, tmp_path / "run", *(f"--config.{field}" for field in fields))
    code, _, err = runs.finish(runs.start(argv, tmp_path / "cache"))
    assert code == 0, err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert set(summary["accuracy"]) == {"student_mix", "teacher_mix"}
    assert all(value["best"] > 30 for value in summary["accuracy"].values())  # chance is 25


# -- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "devices", "message"),
    [
        ({"accumulation": -1}, 1, "config.accumulation is -1: it must be 0 or more"),
        (
            {"accumulation": 3, "num_groups": 8},
            2,
            r"accumulation is 3, .* \(8\) over 2 .* 1, 2, 4\.",
        ),
        ({"accumulation": 2, "num_groups": 2}, 4, r"is 2, .* \(2\) over 4 .* use 1\."),
        ({"method.generate_share": 1.2}, 1, "generate_share is 1.2: it must be within 0 and 1"),
        ({"method.generate_share": 0.8, "method.name": "mixup"}, 1, "leave it at 1.0"),
        ({"loss.name": "mse"}, 1, "config.loss.name is 'mse', which is not known. Use ce, bce"),
        ({"loss.smoothing": 1.0}, 1, "config.loss.smoothing is 1.0: it must be below 1"),
        ({"loss.smoothing": -0.1}, 1, "config.loss.smoothing is -0.1: it must be 0 or more"),
        ({"optimizer.name": "lars"}, 1, "optimizer.name is 'lars', .* Use sgd, adamw, lamb"),
        ({"optimizer.decay": "kernel"}, 1, "'kernel', .* Did you mean 'kernels'"),
    ],
)
def test_bad_fields(fields, devices, message):
    config = config_lib.default_config()
    config.batch_size = 128
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=message):
        validate(config, devices)


@pytest.mark.parametrize(
    ("parts", "groups", "devices"), [(1, 4, 8), (2, 8, 4), (4, 4, 1), (8, 8, 1)]
)
def test_good_fields(parts, groups, devices):
    config = config_lib.default_config()
    fields = {"accumulation": parts, "num_groups": groups, "batch_size": 128}
    config.update_from_flattened_dict(fields | {"method.generate_share": 0.0})
    validate(config, devices)


def built(**fields):
    """The experiment of a narrow configuration for one device."""
    config = config_lib.default_config()
    config.batch_size, config.num_groups = 16, 2
    config.update_from_flattened_dict(
        {"model.stem": "cifar", "model.name": "resnet8", "model.width": 4} | fields
    )
    validate(config, 1)
    return build(config, Facts("random", ("a", "b", "c", "d"), (8, 8, 3), 64, 20), data_mesh())


def test_fields_reach_the_step():
    """Loss and share are the objective's, and the share's draws are the seed's."""
    fields = {"loss.name": "bce", "loss.smoothing": 0.1}
    for method in ("automix", "mixup", "augmix"):
        experiment = built(**{"method.name": method} | fields)
        assert experiment.objective.criterion == Classification("bce", 0.1)
    assert built().objective.generates is None
    one, same, other = (
        built(**{"method.generate_share": 0.8, "seed": seed}).objective.generates
        for seed in (0, 0, 1)
    )
    first, again, third = (jax.vmap(chosen)(jnp.arange(200)) for chosen in (one, same, other))
    assert (first == again).all() and (first != third).any()
    assert 0.7 < first.mean() < 0.9

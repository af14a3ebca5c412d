"""The switches of the paper's ablations: without CE, without momentum, without the pipeline."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import config as config_lib
from automix_jax import mixups
from automix_jax.automix import AutoMix, JointAutoMix
from automix_jax.config import default_config
from automix_jax.data import Facts
from automix_jax.errors import ConfigError
from automix_jax.mixup_training import MixupTraining
from automix_jax.models import Classifier, create_model
from automix_jax.objective import Frozen
from automix_jax.schedules import ema_rate
from automix_jax.train import summary
from automix_jax.train.build import build
from automix_jax.validation import validate
from tests import runs
from tests.conftest import x64
from tests.steps import Setup


def make(kind=AutoMix, clean=True, dtype=jnp.float32):
    """An objective on a narrow network, and what its loss takes."""
    setup = Setup(width=4, image=8)
    heads = ("mix", "clean") if clean else ("mix",)
    backbone = create_model("resnet8", num_classes=0, width=4, stem="cifar")
    fields = {f.name: getattr(setup.objective, f.name) for f in dataclasses.fields(AutoMix)}
    objective = kind(**fields | {"model": Classifier(backbone, 10, heads), "clean": clean})
    state = setup.create(jax.random.key(0))
    images, labels = setup.batch(8)
    draws = objective.draw(jax.random.split(jax.random.key(1), 1), 8)
    params = dict(state.params)
    if not clean:
        params["student"] = {k: v for k, v in params["student"].items() if k != "head_clean"}
    # Masks beyond those of an untrained block, which answers one half everywhere.
    params["mixblock"] = jax.tree.map(lambda x: 30 * x, params["mixblock"])
    frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats)
    if not clean:
        frozen = dataclasses.replace(
            frozen, teacher={k: v for k, v in frozen.teacher.items() if k != "head_clean"}
        )
    params, frozen = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, (params, frozen)
    )
    images = jnp.asarray(images, dtype) / 128 - 1
    return objective, params, (frozen, images, jnp.asarray(labels), draws, jnp.int32(3))


def gradients(objective, params, rest):
    quick = {"xla_backend_optimization_level": 0}  # run once
    return jax.jit(jax.grad(objective.loss, has_aux=True), compiler_options=quick)(params, *rest)


def apart(one, other):
    """The largest difference of two trees, of the second's largest number."""
    one, other = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (one, other))
    return np.abs(one - other).max() / np.abs(other).max()


def test_without_clean_images():
    """The other losses and MixBlock's gradient are the same; the student's lacks one term."""
    grads, outcome = gradients(*make(clean=False))
    whole_grads, whole = gradients(*make(clean=True))
    assert set(outcome.metrics) == set(make(clean=False)[0].metric_names)
    assert set(whole.metrics) - set(outcome.metrics) == {"loss_clean", "accuracy_clean"}
    for name in ("loss_mix", "loss_generate", "loss_mask"):
        np.testing.assert_allclose(outcome.metrics[name], whole.metrics[name], rtol=1e-6)
    difference = whole.metrics["loss"] - outcome.metrics["loss"]
    np.testing.assert_allclose(difference, whole.metrics["loss_clean"], rtol=1e-6)
    # Two programs round differently, 1e-7 of the largest at each of some ten layers.
    for one, other in zip(*map(jax.tree.leaves, (grads["mixblock"], whole_grads["mixblock"])),
                          strict=True):  # fmt: skip
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())
    head, whole_head = (g["student"]["head_mix"]["kernel"] for g in (grads, whole_grads))
    np.testing.assert_allclose(head, whole_head, atol=1e-5 * np.abs(head).max())
    assert apart(grads["student"]["backbone"], whole_grads["student"]["backbone"]) > 1e-2


def moved(length, x, direction):
    return x + length * direction


def test_gradients_of_the_joint_network():
    """Both parts learn from one loss: its derivative along any direction is the gradient's.

    With a stop of the gradient anywhere between mask, features and network it would not be.
    """
    with x64():
        objective, params, rest = make(JointAutoMix, False, jnp.float64)
        # Away from the start, where scales are 0, and so are many inputs of ReLU.
        params = jax.tree.map(
            lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size) + 1.0).reshape(x.shape), params
        )
        grads, outcome = gradients(objective, params, rest)
        assert set(outcome.metrics) == set(objective.metric_names)
        assert not {"loss_generate"} & set(outcome.metrics)
        loss = jax.jit(lambda params: objective.loss(params, *rest)[0])
        for part in ("student", "mixblock"):
            leaves, tree = jax.tree.flatten(params[part])
            keys = jax.random.split(jax.random.key(7), len(leaves))
            toward = tree.unflatten(
                [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
            )
            ahead, behind = (
                loss(
                    params
                    | {part: jax.tree.map(functools.partial(moved, side), params[part], toward)}
                )
                for side in (1e-6, -1e-6)
            )
            slope = (ahead - behind) / 2e-6
            given = sum(
                jnp.vdot(g, d)
                for g, d in zip(*map(jax.tree.leaves, (grads[part], toward)), strict=True)
            )
            assert abs(given) > 1e-3
            # A central difference of step 1e-6 is good to 1e-10 of the value, over 1e-6.
            np.testing.assert_allclose(given, slope, rtol=1e-4)


def test_teacher_that_copies_the_student():
    """With momentum 0 (m = 0) the teacher is the student, bit for bit, after each step."""
    setup = Setup(width=4, image=8)
    keywords = {**setup.step.keywords, "ema_rate": ema_rate(10, start=0.0, end=0.0)}
    step = jax.jit(functools.partial(setup.step.func, **keywords))
    state = setup.create(jax.random.key(0))
    for seed in range(2):
        state, _ = step(state, *setup.batch(8, seed))
        for one, other in zip(*map(jax.tree.leaves, (state.teacher, state.params["student"])),
                              strict=True):  # fmt: skip
            np.testing.assert_array_equal(one, other)


def test_clean_images_of_a_mixup():
    """MixUp and CE: the loss of clean images is added, and their gradient with it."""
    setup = Setup(method="mixup", width=4, image=8)
    state = setup.create(jax.random.key(0))
    images, labels = setup.batch(8)
    images, labels = jnp.asarray(images, jnp.float32) / 128 - 1, jnp.asarray(labels)
    frozen = Frozen({}, state.student_stats, {})
    rest = (frozen, images, labels, jax.random.split(jax.random.key(1), 1), jnp.int32(0))

    def grads(weight):
        objective = MixupTraining(
            setup.objective.model, mixups.create("mixup"), clean_weight=weight
        )
        found, outcome = gradients(objective, state.params, rest)
        return jax.tree.leaves(found), outcome.metrics

    none, mixed = grads(0.0)
    one, both = grads(1.0)
    half, _ = grads(0.5)
    assert set(both) == {"loss", "loss_clean", "loss_mix"}
    np.testing.assert_allclose(both["loss"], both["loss_mix"] + both["loss_clean"], rtol=1e-6)
    np.testing.assert_allclose(both["loss_mix"], mixed["loss"], rtol=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(one, none, strict=True)) > 1e-2
    for zero, middle, whole in zip(none, half, one, strict=True):
        np.testing.assert_allclose(middle, (zero + whole) / 2, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("automix", {"teacher.enabled": False, "method.generate_share": 0.5}, "in every step"),
        ("automix", {"method.clean_weight": 1.0}, "clean_branch is True"),
        ("mixup", {"method.clean_branch": False}, "mixup has no use for it"),
        ("augmix", {"method.clean_weight": 1.0}, "augmix has no use for it"),
        ("automix", {"method.clean_branch": False, "eval.headline": "student_clean"}, "evaluates"),
    ],
)
def test_switches_that_cannot_work(method, change, message):
    config = default_config()
    config.method.name = method
    config.teacher.enabled = method == "automix"
    for name, value in change.items():
        part, field = name.split(".")
        config[part][field] = value
    with pytest.raises(ConfigError, match=message):
        validate(config, 1)


def test_heads():
    config = default_config()
    assert config_lib.evaluated(config) == (
        "student_mix", "student_clean", "teacher_mix", "teacher_clean"
    )  # fmt: skip
    config.method.clean_branch = config.teacher.enabled = False
    assert config_lib.evaluated(config) == ("student_mix",)


@pytest.mark.long
def test_run_without_the_pipeline(tmp_path):
    """From the command line to pictures and the accuracy that is left."""
    data = runs.write_npz(tmp_path / "data.npz")
    switches = ("--config.teacher.enabled=False", "--config.method.clean_branch=False",
                "--config.run.sample_epochs=1", "--config.epochs=1")  # fmt: skip
    argv = runs.arguments(data, tmp_path / "run", *switches)
    process = runs.start(argv, tmp_path / "cache")
    output = "".join(process.communicate(timeout=300))
    assert process.returncode == 0, output
    found = json.loads((tmp_path / "run/summary.json").read_text())
    assert set(found["accuracy"]) == {"student_mix"}
    with np.load(tmp_path / "run/samples/epoch_001.npz") as snapshot:
        assert snapshot["masks"].shape[1:] == (8, 8, 1)


def record(std, deviation):
    return {"train/mask_std": std, "train/mask_deviation": deviation}


@pytest.mark.parametrize(
    ("std", "deviation", "says"),
    [(0.0, 0.5, True), (0.01, 0.31, True), (0.0, 0.1, False), (0.2, 0.45, False)],
)
def test_masks_that_show_one_image_are_told(std, deviation, says):
    """Not those of plain MixUp, nor those that have a shape."""
    line = summary.collapsed(record(std, deviation))
    assert (line is not None) == says
    assert line is None or "config.optimizer.mixblock_lr" in line


def test_what_is_said_of_masks():
    """White and black masks are as far from their ratios as can be; one half is not."""
    objective, params, rest = make()
    steep = jax.tree.map(jnp.zeros_like, params["mixblock"])
    one_image = steep | {"value": steep["value"] | {"bias": jnp.array([1e3])}}
    lam = float(rest[3].lam_mixblock[0])
    loss = jax.jit(lambda params: objective.loss(params, *rest)[1].metrics)
    # The value is the partner's share: one half, or all of it.
    for block, expected in ((steep, abs(0.5 - lam)), (one_image, lam)):
        metrics = loss(params | {"mixblock": block})
        np.testing.assert_allclose(metrics["mask_deviation"], expected, rtol=1e-6)
        assert metrics["mask_std"] < 1e-6


@pytest.mark.parametrize(
    ("optimizer", "width", "set_to", "expected"),
    [("sgd", 4, 0.0, 2.56 / 8), ("sgd", 128, 0.0, 0.01), ("sgd", 4, 0.5, 0.5),
     ("adamw", 4, 0.0, 2e-3)],
)  # fmt: skip
def test_rate_of_mixblock(optimizer, width, set_to, expected):
    """Where none is set it follows the channels that are read: twice the width, at stage 2."""
    config = default_config()
    config.model.name, config.model.stem, config.model.width = "resnet8", "cifar", width
    config.optimizer.name, config.optimizer.lr = optimizer, 2e-3
    config.optimizer.mixblock_lr, config.optimizer.mixblock_min_lr = set_to, 0.0
    config.batch_size = 8
    facts = Facts("data", ("a", "b"), (8, 8, 3), 16, 8)
    rate = build(config, facts).lr["mixblock"](0)
    np.testing.assert_allclose(rate, expected, rtol=1e-6)

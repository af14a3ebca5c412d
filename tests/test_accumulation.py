"""A step in parts, and with a teacher that only follows: the same numbers in less memory."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from automix_jax.data.augment import augment
from automix_jax.ema import ema_update
from automix_jax.train.state import create_state
from tests.conftest import x64
from tests.steps import Setup
from tests.test_step import numbers, relative
from tests.test_step_options import NARROW, change, compiled

RATE = 0.3  # at which the teacher follows


def wide(rng, images):
    """Preprocesses in float64."""
    images = augment(rng, jnp.asarray(images), flip=True, padding=2, mode="reflect")
    return images.astype(jnp.float64) / 64 - 1


@functools.cache
def accumulated(method, parts, devices):
    """States before and after a step in float64, its metrics, and the program; with a teacher."""
    with x64():
        setup = Setup(method=method, groups=4, devices=devices, **NARROW)
        change(setup, accumulation=parts, preprocess=wide, ema_rate=lambda step: jnp.float64(RATE))

        def create(rng):
            state = create_state(
                rng,
                model=setup.objective.model,
                tx=setup.tx,
                image_shape=(setup.image, setup.image, 3),
                mixblock=setup.mixblock if method == "automix" else None,
                layer=setup.layer,
            )
            return jax.tree.map(
                lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state
            )

        setup.create = jax.jit(create, out_shardings=setup.whole)
        step, before, batch = compiled(setup, 32)
        after, metrics = jax.device_get(step(before, *batch))
        return jax.device_get(numbers(before)), numbers(after), metrics, step


@pytest.mark.parametrize(
    ("method", "parts", "devices"),
    [
        ("automix", 4, 1),
        pytest.param("automix", 2, 2, marks=pytest.mark.long),
        ("mixup", 2, 2),
    ],
)
def test_accumulation_changes_no_number(method, parts, devices):
    """State, statistics, optimizer and metrics, to the order of float64's sums."""
    _, state, metrics, _ = accumulated(method, 1, 1)
    _, ours, our_metrics, _ = accumulated(method, parts, devices)
    assert set(our_metrics) == set(metrics)
    assert relative(our_metrics, metrics) < 1e-12
    assert relative(ours, state) < 1e-12


def test_accumulation_needs_less_memory():
    """The activations of a quarter of the batch, and one more copy of the gradients."""
    whole, quarter = (
        accumulated("automix", parts, 1)[-1].memory_analysis().temp_size_in_bytes
        for parts in (1, 4)
    )
    assert quarter < 0.35 * whole


def test_accumulation_reduces_once():
    """After the last part, outside the loop, little more than as many numbers as parameters."""
    state, _, _, step = accumulated("automix", 2, 2)
    count = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    computations = step.as_text().split("\n}\n")
    reducing = [text for text in computations if " all-reduce(" in text]
    assert [text.lstrip().split()[0] for text in reducing] == ["ENTRY"]
    lines = [line for line in reducing[0].splitlines() if " all-reduce(" in line]
    results = " ".join(line.split(" all-reduce(")[0] for line in lines)
    shapes = re.findall(r"f64\[([\d,]*)\]", results)
    reduced = sum(math.prod(int(n) for n in dims.split(",") if n) for dims in shapes)
    assert count <= reduced <= 1.1 * count  # statistics and metrics beside the gradients


def test_a_mixup_may_have_a_teacher():
    """It follows the student; its statistics wait for its evaluation."""
    before, after, _, _ = accumulated("mixup", 1, 1)
    followed = ema_update(before["teacher"], after["params"]["student"], RATE)
    assert relative(after["teacher"], followed) < 1e-12
    assert relative(after["teacher"], before["teacher"]) > 1e-3
    assert relative(after["teacher"], after["params"]["student"]) > 1e-3
    assert relative(after["teacher_stats"], before["teacher_stats"]) == 0
    assert relative(after["student_stats"], before["student_stats"]) > 1e-3

"""Rematerialisation: the same numbers from the same variables, with less to keep in between.

XLA's CPU backend takes what is computed again for a copy and drops it, unless it is told to keep
the barriers that keep the two apart: then its programs compute and hold what those of others do.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax.models import ARCHITECTURE, create_model
from automix_jax.models.convnext import ConvNeXt
from automix_jax.models.mobile import MobileNet, Stage
from automix_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from automix_jax.models.transformer import SwinTransformer, VisionTransformer
from automix_jax.models.wide_resnet import WideResNet
from tests.conftest import x64
from tests.steps import Setup
from tests.test_models import random_variables
from tests.test_step import numbers, relative
from tests.test_step_options import NARROW, change

KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
ROWS = (Stage(3, 4, 1, 1, 1), Stage(3, 4, 2, 1, 6))
RESNET = {"stage_sizes": (2, 1), "stem": "cifar", "width": 4}
NARROW_BOTTLENECK = functools.partial(Bottleneck, cardinality=2, group_width=32)
SMALL = {
    "resnet": functools.partial(ResNet, block=BasicBlock, **RESNET),
    "resnext": functools.partial(ResNet, block=NARROW_BOTTLENECK, **RESNET),
    "wide_resnet": functools.partial(WideResNet, width=4, blocks=1),
    "mobilenet": functools.partial(MobileNet, stages=ROWS, activation=jax.nn.relu6),
    "efficientnet": functools.partial(
        MobileNet, stages=ROWS, activation=jax.nn.silu, squeeze=0.25, convention="tf"
    ),
    "convnext": functools.partial(ConvNeXt, stage_sizes=(2, 1), stem="cifar", width=4),
    "deit": functools.partial(VisionTransformer, width=16, heads=2, blocks=2, patch=4),
    "swin": functools.partial(SwinTransformer, stage_sizes=(2, 1), width=8, heads=2),
}


def in_training(model, images, variables, stop_at=None, transform=None):
    """The loss as a function of the parameters; beside it logits, feature maps and statistics."""
    stats = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params):
        (logits, features), updated = model.apply(
            {"params": params, **stats},
            images,
            True,
            stop_at,
            transform,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )
        last = features[stop_at] if stop_at else logits
        return jnp.square(last).mean(), (logits, features, updated)

    return loss


def kept(loss, params):
    """The bytes that the forward pass keeps for the backward pass, on any hardware."""
    backward = jax.eval_shape(lambda params: jax.vjp(loss, params, has_aux=True)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))


def plain_and_ours(make, size, **arguments):
    """Of a network without and with rematerialisation gradients, results and bytes, in float64."""
    found = []
    with x64():
        images = jax.random.normal(jax.random.key(1), (4, size, size, 3))
        variables = random_variables(make(), images)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        for remat in (False, True):
            loss = in_training(make(remat=remat), images, variables, **arguments)
            lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"])
            program = lowered.compile(compiler_options=KEEP_BARRIERS)
            gradients, results = program(variables["params"])
            held = program.memory_analysis().temp_size_in_bytes
            found.append((gradients, results, held))
    return found


def assert_the_same(plain, ours):
    """To the order of float64's sums: the two are compiled, and so fused, in other ways."""
    assert relative(ours[1], plain[1]) < 1e-12
    assert relative(ours[0], plain[0]) < 1e-12
    assert relative(jax.tree.map(np.zeros_like, plain[0]), plain[0]) == 1  # which are not zero


@pytest.mark.parametrize("name", SMALL)
def test_less_is_kept_for_the_same_variables(name):
    """Names and shapes are the same, so that checkpoints and weights go either way."""
    images, trees, sizes = jnp.zeros((4, 8, 8, 3)), [], []
    for remat in (False, True):
        model = SMALL[name](num_classes=5, drop_path=0.5, remat=remat)
        trees.append(jax.eval_shape(model.init, jax.random.key(0), images))
        loss = in_training(model, images, jax.tree.map(lambda x: jnp.zeros(x.shape), trees[-1]))
        sizes.append(kept(loss, trees[-1]["params"]))
    assert trees[0] == trees[1]
    # Most of what the small MobileNets keep is of their last convolution, beyond the blocks.
    assert sizes[1] < (0.9 if name in ("mobilenet", "efficientnet") else 0.6) * sizes[0]


def test_values_start_the_same():
    """And whoever reads weights does not ask for the option."""
    variables = [
        jax.jit(create_model("resnet8", width=4, remat=remat).init)(
            jax.random.key(0), jnp.zeros((2, 8, 8, 3))
        )
        for remat in (False, True)
    ]
    assert relative(*variables) == 0
    assert "remat" not in ARCHITECTURE


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "deit" else pytest.mark.long) for name in SMALL],
)
def test_same_numbers(name):
    """Outputs, statistics and gradients, with the draws of drop path and dropout."""
    make = functools.partial(SMALL[name], num_classes=5, drop_path=0.5, dropout=0.5)
    plain, ours = plain_and_ours(make, 16)
    assert_the_same(plain, ours)
    assert ours[2] < plain[2]


def test_same_numbers_on_the_way():
    """Of a network that ends early, with its activations changed between blocks."""
    make = functools.partial(SMALL["resnet"], num_classes=5, drop_path=0.5)
    plain, ours = plain_and_ours(
        make, 8, stop_at="stage2", transform=lambda name, x: x[::-1] if name == "stage1" else x
    )
    assert plain[1][0] is None
    assert_the_same(plain, ours)


def step_of(method, remat):
    """A step of two devices that take two groups each, one after the other."""
    setup = Setup(method=method, groups=4, devices=2, options={"remat": remat}, **NARROW)
    return change(setup, accumulation=2)


def test_a_step_computes_again():
    """A quarter more for a third that is forward: stem, head and mixing are not done again."""
    plain, ours = (
        step_of("manifoldmix", remat).lower(32).cost_analysis()["flops"] for remat in (False, True)
    )
    assert 1.2 * plain < ours < 1.35 * plain


@pytest.mark.long
@pytest.mark.parametrize("method", ["automix", "manifoldmix"])
def test_same_step(method):
    """With several groups a device, in parts, and mixing or an early end inside the network."""
    found = []
    for remat in (False, True):
        setup = step_of(method, remat)
        batch = jax.device_put(setup.batch(32), setup.split)
        program = setup.lower(32).compile(compiler_options=KEEP_BARRIERS)
        state, metrics = program(setup.create(jax.random.key(0)), *batch)
        held = program.memory_analysis().temp_size_in_bytes
        found.append(({"state": numbers(state), "metrics": metrics}, held))
    (plain, all_held), (ours, held) = found
    assert relative(ours, plain) < 1e-6  # float32
    assert held < 0.8 * all_held

"""Where arrays lie: a state in slices takes the same steps, in a fraction of the memory."""

import collections
import contextlib
import re
import types

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from automix_jax import recipes
from automix_jax.data import Facts
from automix_jax.errors import ConfigError
from automix_jax.evaluate.accuracy import make_evaluate
from automix_jax.train import sharding
from automix_jax.train.build import build, make_mesh, named_key
from automix_jax.train.checkpoints import Checkpoints
from automix_jax.train.feed import own_shard
from tests import runs

FACTS = Facts("tiny", tuple("abcd"), (8, 8, 3), 48, 16)
SMALL = ("--config.model.name=resnet8", "--config.model.width=32", "--config.model.layer=stage2")
MIXUP = ("--config.method.name=mixup",)  # with a teacher, which AutoMix needs
STEPS = 3


def experiment(*overrides, devices=None):
    """That of a tiny run with eight groups, on eight devices."""
    tiny = [*runs.tiny("data.npz"), "--config.num_groups=8", "--config.batch_size=16"]
    config = recipes.override(recipes.load_config(str(runs.RECIPE)), [*tiny, *overrides])
    return build(config, FACTS, make_mesh(devices))


def data():
    """48 images and labels, of which step i takes 16 from 16 i on."""
    images = np.random.default_rng(0).integers(0, 255, (48, 8, 8, 3)).astype(np.uint8)
    return images, (np.arange(48) % 4).astype(np.int32)


def take_steps(made):
    """The compiled step's text, and the state and metrics after a few of them."""
    inputs = sharding.put_replicated(data(), made.mesh)
    split = NamedSharding(made.mesh, PartitionSpec(None, "data"))
    order = [sharding.put(np.arange(16 * i, 16 * i + 16, dtype=np.int32)[None], split)
             for i in range(STEPS)]  # fmt: skip
    templates = made.state_template(), made.metrics_template()
    program = made.run_steps.lower(*templates, *inputs, order[0], None).compile()
    state, metrics = made.create(named_key(0, "state")), made.create_metrics()
    for indices in order:
        state, metrics = program(state, metrics, *inputs, indices, None)
    return program.as_text(), state, metrics


def numbers_of(tree):
    """The arrays of a tree, in the host's memory, by path."""
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(leaf)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def assert_same(ours, expected, atol=0.0):
    ours, expected = numbers_of(ours), numbers_of(expected)
    assert ours.keys() == expected.keys()
    for key in ours:
        np.testing.assert_allclose(ours[key], expected[key], rtol=0, atol=atol, err_msg=key)


def collectives(text):
    """Kind and result of every collective of a compiled program."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    return re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)


@pytest.fixture(scope="module")
def whole():
    return take_steps(experiment(*SMALL, *MIXUP))


@pytest.fixture(scope="module")
def sliced():
    made = experiment(*SMALL, *MIXUP, "--config.run.fsdp=True")
    return made, *take_steps(made)


# -- the rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((3, 3, 64, 128), (None, None, None, "data")),
        ((3, 3, 128, 64), (None, None, "data")),
        ((512, 512), ("data",)),  # the first of the longest
        ((8, 1001), ("data",)),  # the longest that eight divides
        ((8191,), ()),
        ((63, 65), ()),
        ((64,), ()),  # not worth it
        ((), ()),
    ],
)
def test_which_axis_is_split(shape, spec):
    leaf = jax.ShapeDtypeStruct(shape, np.float32)
    mesh = make_mesh()
    assert sharding.state_shardings([leaf], mesh, True)[0].spec == PartitionSpec(*spec)
    assert sharding.state_shardings([leaf], mesh, False)[0].spec == PartitionSpec()


def test_resnet18_takes_a_sixth_of_the_memory():
    """The network of the CIFAR recipes, from shapes alone."""
    held = [
        sharding.bytes_per_device(
            experiment(
                "--config.model.name=resnet18",
                "--config.model.width=64",
                "--config.model.stem=cifar",
                f"--config.run.fsdp={fsdp}",
            ).state_template()
        )
        for fsdp in (False, True)
    ]
    # Student, its momentum and teacher of 11.2 million parameters each, in four bytes.
    assert held[0] > 3 * 4 * 11.1e6
    assert held[1] <= held[0] / 6


# -- steps -----------------------------------------------------------------------------------------


def test_a_sliced_state_takes_the_same_steps(whole, sliced):
    """Slices are updated by the numbers that the whole arrays are: not a bit differs."""
    _, _, state, metrics = sliced
    assert_same((state, metrics), whole[1:])
    assert sharding.bytes_per_device(state) <= sharding.bytes_per_device(whole[1]) / 6


def test_a_state_lies_where_it_should(sliced):
    made, _, state, _ = sliced
    for leaf, expected in zip(
        jax.tree.leaves(state), jax.tree.leaves(made.state_sharding), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim)
    for tree in (state.params, state.teacher, state.opt_state):
        assert not all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(tree))


def test_what_crosses_the_wire(whole, sliced):
    """One sum of gradients, as without; parameters are gathered, images never."""
    made, text, _, _ = sliced
    plain = collectives(whole[0])
    assert collections.Counter(kind for _, kind in plain) == {"all-reduce": 1}
    got = collectives(text)
    sums = [result for result, kind in got if kind == "all-reduce"]
    assert sum("f32" in result for result in sums) == 1
    assert all("pred[" in result for result in sums if "f32" not in result)  # all is finite
    gathered = [result for result, kind in got if kind == "all-gather"]
    params = jax.tree.leaves(made.state_template().params)
    split = [leaf for leaf in params if not leaf.sharding.is_fully_replicated]
    assert len(gathered) == len(split)
    assert len(got) == len(sums) + len(gathered)


@pytest.mark.long
def test_automix_takes_the_same_steps_in_slices():
    made = experiment(*SMALL, "--config.run.fsdp=True")
    _, state, metrics = take_steps(made)
    _, *expected = take_steps(experiment(*SMALL))
    assert_same((state, metrics), tuple(expected))


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "atol"),
    [
        (("--config.optimizer.name=adamw", "--config.optimizer.clip=1.0"), 0.0),
        (("--config.optimizer.name=lamb",), 1e-6),  # whose norms are sums of sums
        (("--config.num_groups=1",), 1e-6),  # the compiler splits arrays inside the group
    ],
)
def test_others_take_the_same_steps_in_slices(overrides, atol):
    options = (*SMALL, *MIXUP, "--config.optimizer.lr=0.01", *overrides)
    _, *got = take_steps(experiment(*options, "--config.run.fsdp=True"))
    _, *expected = take_steps(experiment(*options))
    assert_same(tuple(got), tuple(expected), atol)


# -- what reads a state ----------------------------------------------------------------------------


def test_a_gathered_state_is_evaluated_as_a_whole_one(whole, sliced):
    made, _, state, _ = sliced
    evaluate = make_evaluate(made.model, made.normalize)
    images, labels = data()
    batch = (images[:16], labels[:16], np.ones(16, bool))
    split = sharding.split(made.mesh)

    def metrics(state):
        networks = {
            "student": (state.params["student"], state.student_stats),
            "teacher": (state.teacher, state.teacher_stats),
        }
        return evaluate(networks, [tuple(sharding.put(part, split) for part in batch)])

    assert metrics(sharding.gathered(state, made.mesh)) == metrics(whole[1])


@pytest.mark.parametrize(
    ("devices", "fsdp"),
    [
        (8, False),
        (4, True),
        pytest.param(8, True, marks=pytest.mark.long),
        pytest.param(1, False, marks=pytest.mark.long),
    ],
)
def test_a_checkpoint_of_slices_is_restored_anywhere(tmp_path, sliced, devices, fsdp):
    made, _, state, metrics = sliced
    chosen = jax.devices()[:devices]
    there = experiment(*SMALL, *MIXUP, f"--config.run.fsdp={fsdp}", devices=chosen)
    tree = {"state": state, "metrics": metrics}
    template = {"state": there.state_template(), "metrics": there.metrics_template()}
    with contextlib.closing(Checkpoints(tmp_path, 1)) as checkpoints:
        checkpoints.save(STEPS, tree, {})
        checkpoints.wait()
        step, restored, _ = checkpoints.restore(template)
        assert step == STEPS
        assert_same(restored, tree)
        for leaf, expected in zip(
            jax.tree.leaves(restored), jax.tree.leaves(template), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim)
        checkpoints.save(STEPS + 1, restored, {})  # and back again
        checkpoints.wait()
        back = {"state": made.state_template(), "metrics": made.metrics_template()}
        assert_same(checkpoints.restore(back)[1], tree)


# -- devices and processes -------------------------------------------------------------------------


def test_devices_of_a_process_lie_side_by_side():
    shuffled = [jax.devices()[i] for i in (3, 0, 7, 1)]
    assert [device.id for device in make_mesh(shuffled).devices] == [0, 1, 3, 7]


def mesh_of(*processes):
    """Devices of these processes."""
    devices = [types.SimpleNamespace(process_index=index) for index in processes]
    return types.SimpleNamespace(devices=np.array(devices))


@pytest.mark.usefixtures("unchecked")
def test_the_part_of_a_process(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    shard = own_shard(mesh_of(0, 0, 2, 2, 3, 3))
    assert (shard.index, shard.count) == (1, 3)
    with pytest.raises(
        ConfigError, match=r"\(process 0 has 1, process 2 has 2\), so that they can"
    ):
        own_shard(mesh_of(0, 2, 2))

"""Where arrays lie: whole on every device, or split among the devices of all processes."""

import functools
import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

_SMALL = 4096  # numbers of an array that is not worth splitting: its collective costs more


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Every device holds its part of a batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def state_shardings(state: PyTree, mesh: Mesh, fsdp: bool) -> PyTree:
    """Where every array of a state lies between two steps.

    Args:
        state: of `jax.ShapeDtypeStruct`s.
        mesh: one axis, "data".
        fsdp: splits what is large along its longest axis that the devices divide, as in fully
            sharded data parallelism; everything is whole on every device otherwise.

    Returns:
        A tree of the same structure.
    """

    def sharding(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        if not fsdp or math.prod(leaf.shape) < _SMALL:
            return replicated(mesh)
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "data"))

    return jax.tree.map(sharding, state)


def described(tree: PyTree, shardings: PyTree) -> PyTree:
    """A tree of shapes with where each lies: what arrays are compiled for, or restored as."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts arrays of the host's memory, the same on every process, on every device.

    Unlike `jax.device_put` the processes do not compare what they have.
    """
    everywhere = replicated(mesh)
    return jax.tree.map(lambda array: put(np.asarray(array), everywhere), tree)


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Puts an array that every process has whole on the devices, each of which gets its part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def gathered(tree: PyTree, mesh: Mesh) -> PyTree:
    """Gathers what is split, so that every device holds every array whole; the rest stays.

    All processes call it together. Evaluation and pictures read networks so: their programs then
    have nothing to gather for each batch.
    """
    if all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        return tree
    return _identity(replicated(mesh))(tree)


@functools.cache
def _identity(sharding: NamedSharding) -> jax.stages.Wrapped:
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def bytes_per_device(tree: PyTree) -> int:
    """How much one device holds of a tree of arrays, or of their shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )

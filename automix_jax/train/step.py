"""One training step: the whole of it on this page.

The batch is read as `num_groups` groups. Ratios, partners and batch norm act within a group, and
every random number is a function of (seed, step, group), so the numbers do not depend on how many
devices share the work.

A step that leads to a number that is not finite is not taken: the state stays as it was, bit for
bit, and the run goes on with the next batch.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Key, PRNGKeyArray, PyTree, Shaped

from automix_jax.ema import ema_update
from automix_jax.objective import Frozen, Objective
from automix_jax.train import numbers
from automix_jax.train.state import TrainState

Preprocess = Callable[[PRNGKeyArray, Array], Array]  # (key, images of a group) -> normalised


def train_step(
    state: TrainState,
    images: Shaped[Array, "b h w c"],
    labels: Int[Array, " b"],
    guide: PyTree = None,
    *,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema_rate: optax.Schedule,
    preprocess: Preprocess,
    num_groups: int,
    mesh: Mesh,
    accumulation: int = 1,
) -> tuple[TrainState, dict[str, Array]]:
    """Takes one step: losses, gradients, update, teacher.

    Where a metric, a gradient or a number of the state after the step is not finite, the step is
    skipped: only `state.step` and `state.skipped` change.

    Args:
        state: before the step.
        images: a batch as it is stored, for `preprocess`.
        labels: their classes.
        guide: variables of the pretrained network that the method looks at, if any.
        objective: the method.
        tx: optimizer of `state.params`.
        ema_rate: schedule of the share by which the teacher follows the student.
        preprocess: augments and normalises the images of one group.
        num_groups: of the batch. Where they divide among the devices each computes its own share;
            otherwise the compiler splits the arrays inside the groups, at the price of more
            communication.
        mesh: one axis, "data".
        accumulation: parts in which each device takes its groups, one after the other, which it
            has to divide. The numbers stay the same, and the activations of one part are all that
            is held at a time.

    Returns:
        The state after the step and the metrics, means over the batch.
    """
    grads, student_stats, teacher_stats, metrics = compute_gradients(
        state,
        images,
        labels,
        guide,
        objective=objective,
        preprocess=preprocess,
        num_groups=num_groups,
        mesh=mesh,
        accumulation=accumulation,
    )
    opt_state = schedules_at(state.step, state.opt_state)
    updates, opt_state = tx.update(grads, opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    teacher = state.teacher
    if teacher:
        teacher = ema_update(teacher, params["student"], ema_rate(state.step))
    after = dataclasses.replace(
        state,
        params=params,
        teacher=teacher,
        student_stats=student_stats,
        teacher_stats=teacher_stats,
        opt_state=opt_state,
    )
    # All of it was reduced before, so that every device comes to the same answer by itself.
    taken = numbers.all_finite((metrics, grads, after))
    state = dataclasses.replace(
        jax.tree.map(lambda new, old: jnp.where(taken, new, old), after, state),
        step=state.step + 1,
        skipped=numbers.record(state.skipped, state.step, taken),
    )
    return state, metrics


def compute_gradients(
    state: TrainState,
    images: Shaped[Array, "b h w c"],
    labels: Int[Array, " b"],
    guide: PyTree = None,
    *,
    objective: Objective,
    preprocess: Preprocess,
    num_groups: int,
    mesh: Mesh,
    accumulation: int = 1,
) -> tuple[PyTree, PyTree, PyTree, dict[str, Array]]:
    """The part of `train_step` that reads the batch, with its arguments.

    Returns:
        Gradients by `state.params`, the new running statistics of student and teacher, and the
        metrics; each a mean over the groups of the batch.
    """

    def gradients(params: PyTree, frozen: Frozen, images, labels, keys, step):
        """The same of the groups whose keys these are."""
        groups = len(keys)
        grouped = images.reshape(groups, -1, *images.shape[1:])
        images = jax.vmap(preprocess)(keys[:, 0], grouped)
        images = images.reshape(-1, *images.shape[2:])
        draws = objective.draw(keys[:, 1], len(images) // groups)
        grads, outcome = jax.grad(objective.loss, has_aux=True)(
            params, frozen, images, labels, draws, step
        )
        return grads, outcome.student_stats, outcome.teacher_stats, outcome.metrics

    def accumulated(params: PyTree, frozen: Frozen, images, labels, keys, step):
        """The same as the mean over parts of the groups: every result is a mean over groups."""
        if accumulation == 1:
            return gradients(params, frozen, images, labels, keys, step)
        parts = jax.tree.map(
            lambda x: x.reshape(accumulation, -1, *x.shape[1:]), (images, labels, keys)
        )

        def of_part(part):
            return gradients(params, frozen, *part, step)

        def add(total, part):
            return jax.tree.map(jnp.add, total, of_part(part)), None

        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, first))
        total, _ = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda x: x / accumulation, total)

    def reduced(*arguments):
        return jax.lax.pmean(accumulated(*arguments), "data")  # all that crosses the wire, at once

    if num_groups % mesh.size == 0:
        whole, split = PartitionSpec(), PartitionSpec("data")
        in_specs = (whole, whole, split, split, split, whole)
        compute = jax.shard_map(
            reduced, mesh=mesh, in_specs=in_specs, out_specs=whole, check_vma=False
        )
    else:
        compute = accumulated

    frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats, guide)
    # What is split between steps is gathered once, before the networks run.
    params, frozen = jax.lax.with_sharding_constraint(
        (state.params, frozen), NamedSharding(mesh, PartitionSpec())
    )
    keys = keys_of(state, num_groups)
    return compute(params, frozen, images, labels, keys, state.step)


def keys_of(state: TrainState, num_groups: int) -> Key[Array, "{num_groups} 2"]:
    """The keys of a step: for each group one for `preprocess` and one for the objective's draws."""
    rngs = jax.random.split(jax.random.fold_in(state.rng, state.step), num_groups)
    return jax.vmap(lambda rng: jax.random.split(rng, 2))(rngs)


def schedules_at(step: Int[Array, ""], opt_state: PyTree) -> PyTree:
    """An optimizer's state whose schedules stand at a step.

    Optax's schedules count the updates by themselves, so each skipped step would delay them by one
    for the rest of the run, and the learning rate would not reach its end. Adam's count stays: its
    bias correction is a matter of the updates that were made.
    """

    def set_count(state):
        return state._replace(count=step) if is_schedule(state) else state

    def is_schedule(state):
        return isinstance(state, optax.ScaleByScheduleState)

    return jax.tree.map(set_count, opt_state, is_leaf=is_schedule)

"""One training step: the whole of it on this page.

The batch is read as `num_groups` groups. Ratios, partners and batch norm act within a group, and
every random number is a function of (seed, step, group), so the numbers do not depend on how many
devices share the work.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Shaped

from automix_jax.ema import ema_update
from automix_jax.objective import Frozen, Objective
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

    def gradients(params: PyTree, frozen: Frozen, images, labels, rngs, step):
        """Mean gradients, new running statistics and metrics of the groups whose keys these are."""
        groups = len(rngs)
        keys = jax.vmap(lambda rng: jax.random.split(rng, 2))(rngs)  # [g, 2]
        grouped = images.reshape(groups, -1, *images.shape[1:])
        images = jax.vmap(preprocess)(keys[:, 0], grouped)
        images = images.reshape(-1, *images.shape[2:])
        draws = objective.draw(keys[:, 1], len(images) // groups)
        grads, outcome = jax.grad(objective.loss, has_aux=True)(
            params, frozen, images, labels, draws, step
        )
        return grads, outcome.student_stats, outcome.teacher_stats, outcome.metrics

    def accumulated(params: PyTree, frozen: Frozen, images, labels, rngs, step):
        """The same as the mean over parts of the groups: every result is a mean over groups."""
        if accumulation == 1:
            return gradients(params, frozen, images, labels, rngs, step)
        parts = jax.tree.map(
            lambda x: x.reshape(accumulation, -1, *x.shape[1:]), (images, labels, rngs)
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

    rngs = jax.random.split(jax.random.fold_in(state.rng, state.step), num_groups)
    frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats, guide)
    grads, student_stats, teacher_stats, metrics = compute(
        state.params, frozen, images, labels, rngs, state.step
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    teacher = state.teacher
    if teacher:
        teacher = ema_update(teacher, params["student"], ema_rate(state.step))
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        teacher=teacher,
        student_stats=student_stats,
        teacher_stats=teacher_stats,
        opt_state=opt_state,
    )
    return state, metrics

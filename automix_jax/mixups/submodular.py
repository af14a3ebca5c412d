"""The labelling problem of Co-Mixup: which inputs show in which cells of which outputs.

A labelling is an array [o, r, c, 2]: the two inputs that each cell of each output shows, half each.
Mostly they are the same one, and the cell shows nothing else.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BETA = 0.32  # weight of neighbours that differ; like GAMMA of a grid, whatever its cells
GAMMA = 1.0  # weight of inputs that several outputs show
TAU = 0.83  # how much of an input the other outputs show for free, in outputs
ROUNDS = 4  # over all outputs
SWEEPS = 2  # over an output's cells in a round; with more, results are no better
_BONUS = 5e-4  # what a cell of two inputs saves
_STOP = 1e-6  # relative change of the objective that ends the rounds

Labelling = Int[Array, "o r c 2"]


def solve(
    starts: Int[Array, "s o r c"],
    cost: Float[Array, "i r c"],
    compatibility: Float[Array, "i i"],
) -> Labelling:
    """Labels the cells of several outputs at low cost: the algorithm of Kim et al. (2021).

    Round after round, each output in its turn takes the labels that cost it least while the others
    stand still. It pays for its cells, for neighbours that differ, and for inputs of which the
    others show more than `TAU`. From the second round on, cells may show halves of two of the
    output's most used inputs; before the last, outputs of the same inputs are set apart.

    Where the authors cut graphs, an output's cells take their best labels in turn, the black ones
    of a checkerboard and then the white, beginning with the labels so far. Such small steps end
    at a lower objective than the cuts, and the best of several starts at a lower one still.

    Args:
        starts: random labels to begin with; each is solved and the lowest objective kept.
        cost: of showing an input in a cell.
        compatibility: [i, j] is how much input j, shown elsewhere, weighs against input i.

    Returns:
        The labelling of as many outputs as in `starts`; a pair of inputs is in ascending order.
    """
    labellings = jax.vmap(_descend, (0, None, None))(starts, cost, compatibility)
    values = jax.vmap(objective, (0, None))(labellings, cost)
    return labellings[jnp.argmin(values)]


def objective(
    labelling: Labelling, cost: Float[Array, "i r c"], tau: float = TAU
) -> Float[Array, ""]:
    """What a labelling costs: its cells, neighbours that differ, and inputs that show repeatedly.

    That is z * cost + BETA / 2 * |z - z'|^2 + GAMMA * own * others, the last where others > tau,
    summed over cells, neighbours, outputs and inputs: z and z' are the shares of the inputs in a
    cell and its neighbour, `own` and `others` what an output and all others show of an input.
    BETA, GAMMA and tau are those of a grid of one cell.

    Args:
        labelling: of all outputs.
        cost: of showing an input in a cell.
        tau: threshold; 0 is the objective without one.
    """
    cells = cost[0].size
    shares = _shares(labelling, len(cost))  # [o, r, c, i]
    own = shares.sum((1, 2))  # [o, i]
    others = own.sum(0) - own
    overlap = jnp.where(others > tau * cells, own * others, 0).sum()
    changes = sum(jnp.square(jnp.diff(shares, axis=axis)).sum() for axis in (1, 2))
    shown = (shares * jnp.moveaxis(cost, 0, -1)).sum()
    return shown + BETA / cells / 2 * changes + GAMMA / cells * overlap


def minimise(
    labels: Int[Array, "r c 2"], choices: Int[Array, "l 2"], unary: Float[Array, "l r c"]
) -> Int[Array, "r c 2"]:
    """Improves one output: its cells take their best choice in turn, given their neighbours.

    Args:
        labels: to begin with.
        choices: the labels that a cell may have; those of two inputs in ascending order.
        unary: cost of each of them in each cell.
    """
    height, width = unary.shape[1:]
    beta = BETA / (height * width)
    black = (jnp.arange(height)[:, None] + jnp.arange(width)) % 2 == 0
    for turn in (black, ~black) * SWEEPS:
        # Beyond the border is a label that differs from all, which favours none.
        around = jnp.pad(labels, ((1, 1), (1, 1), (0, 0)), constant_values=-1)
        neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
        total = unary + beta * sum(_distance(choices[:, None, None], near) for near in neighbours)
        best = choices[jnp.argmin(total, 0)]
        labels = jnp.where(turn[..., None], best, labels)
    return labels


def resolve(used: Bool[Array, "o i"]) -> Float[Array, "o i"]:
    """Marks inputs to avoid, so that outputs of the same two or more inputs part.

    Of every two such outputs the former is to avoid the first of their inputs, the latter the
    second.

    Args:
        used: which inputs an output shows.

    Returns:
        1 where marked.
    """
    same = (used[:, None] == used).all(-1) & (used.sum(1) > 1)  # [o, o]
    inputs = jnp.arange(used.shape[1])
    first = inputs == jnp.argmax(used, 1)[:, None]
    second = inputs == jnp.argmax(used & ~first, 1)[:, None]
    former, latter = (part.any(1)[:, None] for part in (jnp.triu(same, 1), jnp.tril(same, -1)))
    return ((first & former) | (second & latter)).astype(jnp.float32)


class _State(NamedTuple):
    round: Int[Array, ""]
    labelling: Labelling
    marks: Float[Array, "o i"]  # of `resolve`
    value: Float[Array, ""]  # of the objective without threshold
    settled: Bool[Array, ""]


def _descend(
    start: Int[Array, "o r c"], cost: Float[Array, "i r c"], compatibility: Float[Array, "i i"]
) -> Labelling:
    """`solve` from one start."""

    def advance(state: _State) -> _State:
        labelling = _round(state, cost, compatibility)
        used = _shares(labelling, len(cost)).any((1, 2))
        marks = jnp.where(state.round == ROUNDS - 2, resolve(used), state.marks)
        value = objective(labelling, cost, tau=0.0)
        settled = jnp.abs(state.value - value) < _STOP * jnp.abs(value)
        return _State(state.round + 1, labelling, marks, value, settled)

    labelling = jnp.stack([start, start], -1)
    value = objective(labelling, cost, tau=0.0)
    # No marks, and not settled: made of the inputs, since `shard_map` wants to see at the start of
    # a loop that they differ between devices.
    marks, settled = 0 * _shares(labelling, len(cost)).sum((1, 2)), value < -jnp.inf
    state = _State(jnp.array(0), labelling, marks, value, settled)
    state = jax.lax.while_loop(lambda s: (s.round < ROUNDS) & ~s.settled, advance, state)
    return state.labelling


def _round(
    state: _State, cost: Float[Array, "i r c"], compatibility: Float[Array, "i i"]
) -> Labelling:
    """Relabels the outputs one after the other."""
    inputs, cells = len(cost), cost[0].size

    def relabel(
        output: Int[Array, ""], carry: tuple[Labelling, Float[Array, "o i"]]
    ) -> tuple[Labelling, Float[Array, "o i"]]:
        labelling, own = carry
        others = own.sum(0) - own[output]
        # Sums, as matrix products are of low precision on some devices.
        beyond = (compatibility * others).sum(1) > TAU * cells
        crowd = (compatibility * jnp.where(beyond, others, 0)).sum(1)
        charge = 2 * crowd + state.marks[output]
        choices, saving = _choices(own[output], state.round > 0)
        unary = (cost + GAMMA / cells * charge[:, None, None])[choices].mean(1)  # [l, r, c]
        labels = minimise(labelling[output], choices, unary - saving[:, None, None])
        shown = _shares(labels[None], inputs).sum((0, 1, 2))
        return labelling.at[output].set(labels), own.at[output].set(shown)

    own = _shares(state.labelling, inputs).sum((1, 2))
    return jax.lax.fori_loop(0, len(own), relabel, (state.labelling, own))[0]


def _choices(
    own: Float[Array, " i"], halves: Bool[Array, ""]
) -> tuple[Int[Array, "l 2"], Float[Array, " l"]]:
    """The labels for an output's cells and what each saves.

    Args:
        own: what the output shows of the inputs so far.
        halves: whether its most used inputs may share cells.

    Returns:
        The i inputs and the 3 pairs of the most used; a pair that may not be saves -infinity.
    """
    whole = jnp.stack([jnp.arange(len(own))] * 2, -1)
    own = jnp.pad(own, (0, max(3 - len(own), 0)))  # one or two inputs have no three most used
    shown, most = jax.lax.top_k(own, 3)
    first, second = jnp.array([0, 0, 1]), jnp.array([1, 2, 2])
    pairs = jnp.sort(jnp.stack([most[first], most[second]], -1))
    bonus = jnp.where((shown[second] > 0) & halves, _BONUS, -jnp.inf)
    return jnp.concatenate([whole, pairs]), jnp.concatenate([jnp.zeros(len(whole)), bonus])


def _distance(a: Int[Array, "*n 2"], b: Int[Array, "*m 2"]) -> Float[Array, "..."]:
    """Of labels: 1, or 1/4 between an input and a pair that it is of, or 0."""
    same = (a == b).all(-1)
    one_is_pair = (a[..., 0] == a[..., 1]) != (b[..., 0] == b[..., 1])
    meet = (a[..., :, None] == b[..., None, :]).any((-2, -1))
    return jnp.where(same, 0.0, jnp.where(meet & one_is_pair, 0.25, 1.0))


def _shares(labelling: Labelling, inputs: int) -> Float[Array, "o r c {inputs}"]:
    """The share of each input in each cell."""
    return jax.nn.one_hot(labelling, inputs).mean(-2)

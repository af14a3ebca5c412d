"""Which image each cell of a grid shows: the labelling problem of Puzzle Mix and its solver.

A cell's label is 0 where the own image is seen, 1 where both are, at half, and 2 where the partner
is. A label costs the saliency of what it hides; unlike neighbours cost more, and most where the
two images would meet in a visible seam (Kim et al., "Puzzle Mix", 2020).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BETA, GAMMA, ETA = 1.2, 0.5, 0.2  # weights of unlike neighbours, of seams, of the ratio
SEAM_PIXELS = 4  # side of the patches whose colours are compared along a seam
POLISH = 8  # half-sweeps over single cells that end the search
# The largest eigenvalue of K'K, K the map from the bits of the cells to their differences.
SQUARED_NORM = 16.0
# First step of the solver and the convexity that it counts on (1 or less is safe): the fastest of
# those tried on random images.
STEP, CONVEXITY = 0.2, 0.2

Bits = tuple[Float[Array, "r c b"], Float[Array, "r c b"]]  # label >= 1, label >= 2


class Problem(NamedTuple):
    """Costs of labels on grids of r x c cells, one grid an image.

    Attributes:
        unary: of each label in each cell.
        down: of labels 0 and 2 in a cell and the one below; a quarter of it for a step of one.
        right: likewise for a cell and the one to its right.
    """

    unary: Float[Array, "b r c 3"]
    down: Float[Array, "b r-1 c"]
    right: Float[Array, "b r c-1"]


# -- cells of images ---------------------------------------------------------------------------


def cell_of(side: int, cells: int) -> np.ndarray:
    """The cell of each pixel along an axis, as `grids.upsample` has it."""
    return np.arange(side) * cells // side


def split(side: int, blocks: int, pixels: int) -> int:
    """Into how many parts of about so many pixels each block of an axis falls; 1 for 0 pixels."""
    return max(side // blocks // pixels, 1) if pixels > 0 else 1


def pool(x: Float[Array, "b h w ..."], grid: tuple[int, ...]) -> Float[Array, "b r c ..."]:
    """Averages images over the cells of a grid."""
    rows, columns = (
        np.equal(np.arange(cells)[:, None], cell_of(side, cells)).astype(np.float32)
        for side, cells in zip(x.shape[1:3], grid, strict=True)
    )
    total = jnp.einsum("rh,bhw...,cw->brc...", rows, x, columns, precision="highest")
    count = rows.sum(1)[:, None] * columns.sum(1)  # [r, c]
    return total / count.reshape(*grid, *[1] * (x.ndim - 3))


def shares(saliency: Float[Array, "b h w"], grid: tuple[int, ...]) -> Float[Array, "b r c"]:
    """The saliency of the cells, a sum of 1; equal where there is none at all."""
    pooled = pool(saliency, grid) + jnp.finfo(jnp.float32).tiny
    return pooled / pooled.sum((1, 2), keepdims=True)


# -- the problem -------------------------------------------------------------------------------


def make_problem(
    pixels: Float[Array, "b h w c"],
    saliency: Float[Array, "b h w"],
    perm: Int[Array, " b"],
    lam: Float[Array, " n"],
    blocks: int,
) -> Problem:
    """The costs of mixing each image with its partner, on blocks x blocks cells.

    Args:
        pixels: images in [0, 1].
        saliency: of each pixel.
        perm: the partners.
        lam: share of the own image to aim for, one for all or one each.
        blocks: side of the grid; not above the image's.
    """
    hide_own = shares(saliency, (blocks, blocks))
    hide_partner = hide_own[perm]
    parts = tuple(split(side, blocks, SEAM_PIXELS) for side in pixels.shape[1:3])
    patches = pool(pixels, (blocks * parts[0], blocks * parts[1]))
    beta = BETA / (16 * blocks)
    weights = []
    for axis in (1, 2):
        seams = _seams(patches, perm, blocks, axis, parts[axis - 1]) * (beta * GAMMA)
        (both_own, own_first), (own_second, both_partner) = seams
        hide_partner += _collect((own_first + both_own) / 2, (own_second + both_own) / 2, axis)
        hide_own += _collect((own_second + both_partner) / 2, (own_first + both_partner) / 2, axis)
        weight = (own_first + own_second - both_own - both_partner) / 2 + beta
        weights.append(jnp.maximum(weight, 0))  # always, where pixels are in [0, 1]
    unary = jnp.stack([hide_partner, (hide_own + hide_partner) / 2, hide_own], -1)
    prior = jnp.stack([lam**2, 2 * lam * (1 - lam), (1 - lam) ** 2], -1)  # [n, 3]
    prior = -jnp.log(prior + 1e-8)[:, None, None]
    return Problem(unary + ETA / blocks**2 * prior, *weights)


def _seams(
    patches: Float[Array, "b h w c"], perm: Int[Array, " b"], blocks: int, axis: int, parts: int
) -> Float[Array, "2 2 b i j"]:
    """How much colours differ across the edges along an axis.

    The first two axes say which image is before the edge and which after it, 0 the own one.
    """
    side = patches.shape[axis]
    before = jax.lax.slice_in_dim(patches, parts - 1, side - 1, parts, axis)
    after = jax.lax.slice_in_dim(patches, parts, side, parts, axis)
    before, after = (jnp.stack([x, x[perm]]) for x in (before, after))
    differences = jnp.abs(before[:, None] - after[None]).mean(-1)  # [2, 2, B, ...]
    edges = (blocks - 1, blocks) if axis == 1 else (blocks, blocks - 1)
    flat = differences.reshape(-1, *differences.shape[3:])
    return pool(flat, edges).reshape(*differences.shape[:3], *edges)


def energy(problem: Problem, labels: Int[Array, "b r c"]) -> Float[Array, " b"]:
    """What labels cost."""
    total = jnp.take_along_axis(problem.unary, labels[..., None], -1).sum((1, 2, 3))
    for axis, weight in ((1, problem.down), (2, problem.right)):
        first, second = _ends(labels, axis)
        total += (weight * jnp.square(first - second) / 4).sum((1, 2))
    return total


# -- edges -------------------------------------------------------------------------------------


def _ends(x: Array, axis: int) -> tuple[Array, Array]:
    """What is in the first and in the second cell of every edge along an axis."""
    side = x.shape[axis]
    return (
        jax.lax.slice_in_dim(x, 0, side - 1, axis=axis),
        jax.lax.slice_in_dim(x, 1, side, axis=axis),
    )


def _collect(first: Array, second: Array, axis: int) -> Array:
    """Sums in every cell what the edges along an axis give to their first and second cells."""

    def pad(x: Array, *width: int) -> Array:
        return jnp.pad(x, [width if i == axis else (0, 0) for i in range(x.ndim)])

    return pad(first, 0, 1) + pad(second, 1, 0)


# -- the solver --------------------------------------------------------------------------------


def solve(problem: Problem, iterations: int) -> Int[Array, "b r c"]:
    """Labels of least energy, or close to it.

    Written in two bits a cell, label >= 1 and label >= 2, the energy is that of a cut (Ishikawa,
    2003). Extended to real bits it is convex; and where half their square is added, the signs of
    the best real bits are a best labelling (Chambolle and Darbon, 2009). An accelerated
    primal-dual method finds those (Chambolle and Pock, 2011, algorithm 2); then single cells
    change their labels where that is cheaper, in the two colours of a chessboard by turns.

    Args:
        problem: the costs.
        iterations: of the primal-dual method. On up to 16 x 16 cells 100 find the least energy in
            98 of 100 random problems or more, 200 in all that were tried; the original's graph
            cuts find it in 42 to 99 (benchmarks/puzzlemix.py).
    """
    # The batch last: neighbours are then whole rows of memory, twice as fast on a CPU.
    unary, *weights = (jnp.moveaxis(x, 0, -1) for x in problem)
    low, middle, high = jnp.moveaxis(unary, 2, 0)  # [r, c, B]
    some, all_ = _relaxed((middle - low, high - middle), weights, iterations)
    labels = (some > 0).astype(jnp.int32) + (all_ > 0)  # some >= all
    return jnp.moveaxis(_polished(labels, (low, middle, high), weights), -1, 0)


def _relaxed(slopes: Bits, weights: list[Array], iterations: int) -> Bits:
    """The best real bits, the second never above the first.

    An edge of weight w costs w/4 for each bit that differs between its cells, and w/2 where the
    second bit of one exceeds the first bit of the other: 0, w/4 and w for labels 0, 1, 2 apart.
    The dual variables are the forces by which an edge pulls these together, no more than its cost.
    """
    bounds = [((-w / 4, w / 4),) * 2 + ((jnp.zeros_like(w), w / 2),) * 2 for w in weights]

    def iterate(_, state):
        bits, ahead, forces, step = state
        forces = [
            tuple(
                jnp.clip(force + gap / (SQUARED_NORM * step), *bound)
                for force, gap, bound in zip(forces[axis], _gaps(ahead, axis), limits, strict=True)
            )
            for axis, limits in enumerate(bounds)
        ]
        new = _ordered(
            *(
                (bit - step * (slope + pull)) / (1 + step)
                for bit, slope, pull in zip(bits, slopes, _pull(forces), strict=True)
            )
        )
        rate = 1 / jnp.sqrt(1 + 2 * CONVEXITY * step)
        ahead = tuple(x + rate * (x - old) for x, old in zip(new, bits, strict=True))
        return new, ahead, forces, rate * step

    zero = (jnp.zeros_like(slopes[0]),) * 2
    forces = [tuple(jnp.zeros_like(high) for _, high in limits) for limits in bounds]
    state = (zero, zero, forces, jnp.float32(STEP))
    return jax.lax.fori_loop(0, iterations, iterate, state)[0]


def _gaps(bits: Bits, axis: int) -> tuple[Array, ...]:
    """What the edges along an axis charge for: differences of bits, and bits out of order."""
    (some, some_2), (all_, all_2) = (_ends(x, axis) for x in bits)
    return some - some_2, all_ - all_2, all_ - some_2, all_2 - some


def _pull(forces: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """The transpose of `_gaps`, both axes together: the forces on each bit."""
    (some, all_), (some_2, all_2) = (
        (
            _collect(same_some - order_2, -same_some - order, axis),
            _collect(same_all + order, order_2 - same_all, axis),
        )
        for axis, (same_some, same_all, order, order_2) in enumerate(forces)
    )
    return some + some_2, all_ + all_2


def _ordered(some: Float[Array, "r c b"], all_: Float[Array, "r c b"]) -> Bits:
    """The nearest bits of which the second is not above the first."""
    middle = (some + all_) / 2
    return jnp.maximum(some, middle), jnp.minimum(all_, middle)


def _polished(
    labels: Int[Array, "r c b"], costs: tuple[Array, ...], weights: list[Array]
) -> Int[Array, "r c b"]:
    """Gives single cells the label that is best beside their neighbours, a few times over."""
    rows, columns = labels.shape[:2]
    colour = (np.arange(rows)[:, None] + np.arange(columns))[..., None] % 2
    total = sum(_collect(w, w, axis) for axis, w in enumerate(weights))

    def half_sweep(i, labels):
        pull = jnp.zeros_like(total)
        for axis, w in enumerate(weights):
            first, second = _ends(labels, axis)
            pull += _collect(w * second, w * first, axis)
        # The sum over neighbours n of w (label - n)^2 / 4, less what all labels have in common.
        candidates = [
            cost + (label**2 * total - 2 * label * pull) / 4 for label, cost in enumerate(costs)
        ]
        best = jnp.argmin(jnp.stack(candidates), 0).astype(labels.dtype)
        return jnp.where(colour == i % 2, best, labels)

    return jax.lax.fori_loop(0, POLISH, half_sweep, labels)

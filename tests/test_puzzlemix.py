"""Puzzle Mix: the labelling problem and its solver, transport, and the authors' results."""

import functools
import importlib.util
import itertools
import pathlib
import sys
import types

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from automix_jax.errors import ConfigError
from automix_jax.mixups import labelling
from automix_jax.mixups.gradient import input_saliency
from automix_jax.mixups.labelling import Problem, energy, make_problem, solve
from automix_jax.mixups.pixels import to_unit
from automix_jax.mixups.puzzlemix import arrange, pixel_sources, puzzlemix, take, transport

CLASSES = 5
# Of the recorded images.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
RECORDED = list(itertools.product((2, 4, 8, 16), ("0.3", "0.5", "0.8")))

problem_of = jax.jit(make_problem, static_argnames="blocks")
solved = jax.jit(solve, static_argnames="iterations")
energy_of = jax.jit(energy)
arranged = jax.jit(arrange, static_argnames="transport_size")
transported = jax.jit(transport)


@functools.cache
def compiled(**options):
    """Puzzle Mix under jit, of (seed, images, labels, saliency, lam, perm)."""

    def run(seed, images, labels, saliency, lam=None, perm=None):
        mix = functools.partial(puzzlemix, num_classes=CLASSES, **options)
        return mix(jax.random.key(seed), images, labels, saliency=saliency, lam=lam, perm=perm)

    return jax.jit(run)


def batch(count, height, width, channels, seed=0, dtype="float32"):
    """(images, labels, saliency), where neighbours in an image and its saliency are alike."""
    rng = np.random.default_rng(seed)
    rough = rng.standard_normal((count, height // 4 + 1, width // 4 + 1, channels + 1))
    smooth = rough.repeat(4, 1).repeat(4, 2)[:, :height, :width]
    smooth = smooth + 0.1 * rng.standard_normal(smooth.shape)
    images = jnp.asarray(np.clip(smooth[..., :channels] / 2, -1, 1), dtype)
    saliency = jnp.asarray(np.exp(smooth[..., -1]), jnp.float32)
    return images, jnp.asarray(rng.integers(0, CLASSES, count)), saliency


def random_problem(rng, count, rows, columns):
    """Costs where cells and neighbours matter alike."""
    sizes = ((rows, columns, 3), (rows - 1, columns), (rows, columns - 1))
    unary, down, right = (rng.uniform(0, 1, (count, *size)).astype(np.float32) for size in sizes)
    return Problem(jnp.asarray(unary), jnp.asarray(down), jnp.asarray(right))


# -- the authors' results ----------------------------------------------------------------------


@pytest.fixture
def recorded(vectors):
    with np.load(vectors / "baselines_golden.npz") as file:
        return {key: value for key, value in file.items() if key.startswith(("common_", "puzzle_"))}


def recorded_batch(recorded):
    images = jnp.asarray(recorded["common_x"].transpose(0, 2, 3, 1))
    return images, jnp.asarray(recorded["common_saliency"]), jnp.asarray(recorded["common_perm"])


@pytest.mark.parametrize(("blocks", "lam"), RECORDED)
def test_recorded_problem(recorded, blocks, lam):
    images, saliency, perm = recorded_batch(recorded)
    pixels = to_unit(images, MEAN, STD)
    problem = problem_of(pixels, saliency, perm, jnp.float32([float(lam)]), blocks=blocks)
    for ours, name in zip(problem, ("unary", "edge_rows", "edge_cols"), strict=True):
        theirs = recorded[f"puzzle_b{blocks}_lam{lam}_{name}"]
        # Sums of a few float32 terms in another order: two roundings of the largest.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2.4e-7 * theirs.max())


@pytest.mark.parametrize(("blocks", "lam"), RECORDED)
def test_solver_is_never_above_the_recorded_labels(recorded, blocks, lam):
    """Those of graph cuts, alpha-beta swap; and 100 iterations find the least energy there is."""
    key = f"puzzle_b{blocks}_lam{lam}_"
    names = ("unary", "edge_rows", "edge_cols")
    problem = Problem(*(jnp.asarray(recorded[key + name]) for name in names))
    ours = energy_of(problem, solved(problem, iterations=100))
    theirs = energy_of(problem, recorded_labels(recorded, key))
    assert (ours <= theirs + 1e-6).all()  # sums of up to 736 float32 costs, about 1 in all
    least = [least_energy([x[i] for x in problem]) for i in range(len(ours))]
    np.testing.assert_allclose(ours, least, rtol=0, atol=CUT)


def recorded_labels(recorded, key):
    return jnp.asarray(2 - 2 * recorded[key + "mask_gco_swap"], jnp.int32)


@pytest.mark.parametrize(("blocks", "lam"), RECORDED)
def test_recorded_images(recorded, blocks, lam):
    """Given the mask: transport, images and ratios to the bit."""
    images, saliency, perm = recorded_batch(recorded)
    key = f"puzzle_b{blocks}_lam{lam}_"
    labels = recorded_labels(recorded, key)
    mask, own, partner = arranged(labels, saliency, perm, transport_size=4)
    mine, theirs = take(images, jnp.arange(len(perm)), own), take(images, perm, partner)
    mixed = mask * mine + (1 - mask) * theirs
    np.testing.assert_array_equal(mixed, recorded[key + "x"].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(mask.mean((1, 2, 3)), recorded[key + "lam"])


def test_recorded_images_from_the_whole_method(recorded):
    """Where the labels of least energy are those recorded, so is everything."""
    images, saliency, perm = recorded_batch(recorded)
    labels = jnp.asarray(recorded["common_y"], jnp.int32) % CLASSES
    mix = compiled(blocks=(4,), transport_size=4, mean=MEAN, std=STD)
    mixed = mix(0, images, labels, saliency, jnp.float32(0.3), perm)
    theirs = recorded["puzzle_b4_lam0.3_mask_gco_swap"].repeat(8, 1).repeat(8, 2)
    same = (mixed.info["mask"][..., 0] == theirs).all((1, 2))
    assert same.any()
    np.testing.assert_array_equal(
        mixed.images[same], recorded["puzzle_b4_lam0.3_x"].transpose(0, 2, 3, 1)[same]
    )
    np.testing.assert_array_equal(mixed.info["lam"][same], recorded["puzzle_b4_lam0.3_lam"][same])


# -- the problem -------------------------------------------------------------------------------


def pooled(x, grid):
    """Means over cells, the pixel at row r in cell floor(r * rows / height), in float64."""
    x = np.asarray(x, np.float64)
    row, column = (
        np.arange(side) * cells // side for side, cells in zip(x.shape, grid, strict=False)
    )
    return np.array(
        [[x[row == i][:, column == j].mean((0, 1)) for j in range(grid[1])] for i in range(grid[0])]
    )


def problem_in_numpy(pixels, saliency, perm, lam, blocks):
    """The definition, edge by edge."""
    height, width = saliency.shape[1:]
    parts = max(height // blocks // 4, 1), max(width // blocks // 4, 1)
    beta, gamma, eta = 1.2 / (16 * blocks), 0.5, 0.2
    shares = [pooled(x, (blocks, blocks)) for x in saliency]
    shares = [x / x.sum() for x in shares]
    patches = [pooled(x, (blocks * parts[0], blocks * parts[1])) for x in pixels]
    unary, down, right = [], [], []
    prior = -np.log(np.array([lam**2, 2 * lam * (1 - lam), (1 - lam) ** 2]) + 1e-8)
    for i, j in enumerate(perm):
        hide = {"own": shares[i].copy(), "partner": shares[j].copy()}
        weights = []
        for axis in (0, 1):
            weight = np.zeros((blocks - 1, blocks) if axis == 0 else (blocks, blocks - 1))
            for r, c in np.ndindex(*weight.shape):
                first, second = (r, c), (r + (axis == 0), c + (axis == 1))

                def seam(a, b, first=first, second=second, axis=axis):
                    """Mean difference between the facing patches of two neighbouring blocks."""
                    across = 1 - axis
                    total = 0.0
                    for k in range(parts[across]):
                        here, there = [0, 0], [0, 0]
                        here[axis] = second[axis] * parts[axis] - 1
                        there[axis] = second[axis] * parts[axis]
                        here[across] = there[across] = first[across] * parts[across] + k
                        total += np.abs(a[tuple(here)] - b[tuple(there)]).mean()
                    return beta * gamma * total / parts[across]

                own, partner = patches[i], patches[j]
                d11, d10 = seam(own, own), seam(own, partner)
                d01, d00 = seam(partner, own), seam(partner, partner)
                hide["partner"][first] += (d10 + d11) / 2
                hide["own"][first] += (d01 + d00) / 2
                hide["partner"][second] += (d01 + d11) / 2
                hide["own"][second] += (d10 + d00) / 2
                weight[r, c] = (d10 + d01 - d11 - d00) / 2 + beta
            weights.append(weight)
        costs = (hide["partner"], (hide["partner"] + hide["own"]) / 2, hide["own"])
        unary.append(np.stack(costs, -1) + eta * prior / blocks**2)
        down.append(weights[0])
        right.append(weights[1])
    return unary, down, right


@pytest.mark.parametrize(
    ("height", "width", "channels", "blocks"), [(31, 45, 1, 4), (31, 45, 3, 2), (7, 9, 3, 5)]
)
def test_problem_on_sides_that_blocks_do_not_divide(height, width, channels, blocks):
    images, _, saliency = batch(3, height, width, channels)
    pixels, perm = to_unit(images, (0.5,), (0.5,)), jnp.array([2, 0, 1])
    lam = jnp.float32([0.3])
    ours = problem_of(pixels, saliency, perm, lam, blocks=blocks)
    theirs = problem_in_numpy(pixels, saliency, perm, 0.3, blocks)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, np.array(b), rtol=2e-6)  # float32 against float64


def test_problem_without_saliency_or_colours():
    """Nothing to hide and no seams: only the prior and the price of unlike neighbours remain."""
    pixels, saliency = jnp.full((2, 6, 6, 3), 0.5), jnp.zeros((2, 6, 6))
    problem = problem_of(pixels, saliency, jnp.array([1, 0]), jnp.float32([0.5]), blocks=3)
    prior = -np.log([0.25, 0.5, 0.25])
    expected = np.broadcast_to(1 / 9 + 0.2 / 9 * prior, (2, 3, 3, 3))
    np.testing.assert_allclose(problem.unary, expected, rtol=1e-6)
    np.testing.assert_allclose(problem.down, np.full((2, 2, 3), 1.2 / 48), rtol=1e-6)
    np.testing.assert_allclose(problem.right, np.full((2, 3, 2), 1.2 / 48), rtol=1e-6)


# -- the solver --------------------------------------------------------------------------------


def energy_in_numpy(problem, labels):
    """The definition, cell by cell, of one grid."""
    unary, down, right = (np.asarray(x, np.float64) for x in problem)
    total = sum(unary[r, c, labels[r, c]] for r, c in np.ndindex(*labels.shape))
    for r, c in np.ndindex(*down.shape):
        total += down[r, c] * (labels[r, c] - labels[r + 1, c]) ** 2 / 4
    for r, c in np.ndindex(*right.shape):
        total += right[r, c] * (labels[r, c] - labels[r, c + 1]) ** 2 / 4
    return total


def test_energy_equals_numpy():
    rng = np.random.default_rng(0)
    problem = random_problem(rng, 4, 3, 5)
    labels = rng.integers(0, 3, (4, 3, 5))
    ours = energy_of(problem, jnp.asarray(labels))
    for i in range(4):
        expected = energy_in_numpy([x[i] for x in problem], labels[i])
        assert ours[i] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 5), (3, 2)])
def test_least_energy_of_all_labellings(rows, columns):
    problem = random_problem(np.random.default_rng(1), 300, rows, columns)
    labellings = np.array([*itertools.product(range(3), repeat=rows * columns)])
    cells = labellings.reshape(-1, rows, columns)
    unary, down, right = (np.asarray(x, np.float64) for x in problem)
    total = np.einsum("nrck,lrck->nl", unary, np.eye(3)[cells])
    total += np.einsum("nrc,lrc->nl", down, np.square(np.diff(cells, axis=1)) / 4)
    total += np.einsum("nrc,lrc->nl", right, np.square(np.diff(cells, axis=2)) / 4)
    ours = energy_of(problem, solved(problem, iterations=200))
    np.testing.assert_allclose(ours, total.min(1), rtol=0, atol=2e-6)  # float32, energies up to 6


CUT = 2e-6  # a cut's costs are rounded to 1e-7, and some hundred of them add up


def least_energy(problem):
    """The minimum of one problem: a minimum cut through the bits label >= 1 and label >= 2."""
    unary, down, right = (np.asarray(x, np.float64) for x in problem)
    rows, columns = unary.shape[:2]
    count, scale = rows * columns, 1e7
    bit = np.arange(2 * count).reshape(2, rows, columns)  # node of (bit, cell)
    source, sink = 2 * count, 2 * count + 1
    arcs = []  # (from, to, cost where only the first is on the side of the source)
    forbidden = 100.0
    for r, c in np.ndindex(rows, columns):
        some, all_ = bit[:, r, c]
        low, middle, high = unary[r, c]
        arcs.append((all_, some, forbidden))
        for node, slope in ((some, middle - low), (all_, high - middle)):
            # A bit is on where its node is with the source.
            arcs.append((node, sink, slope) if slope > 0 else (source, node, -slope))
    for weights, (dr, dc) in ((down, (1, 0)), (right, (0, 1))):
        for r, c in np.ndindex(*weights.shape):
            w, other = weights[r, c], (r + dr, c + dc)
            for k in (0, 1):
                a, b = bit[k, r, c], bit[k][other]
                arcs += [(a, b, w / 4), (b, a, w / 4)]
            arcs += [(bit[1, r, c], bit[0][other], w / 2), (bit[1][other], bit[0, r, c], w / 2)]
    start, end, cost = (np.array(x) for x in zip(*arcs, strict=True))
    capacity = csr_array(
        (np.rint(cost * scale).astype(np.int32), (start, end)), shape=(2 * count + 2,) * 2
    )
    flow = maximum_flow(capacity, source, sink).flow_value / scale
    # The cut counts slopes: what is lost where all bits are 0, and the bonus of negative slopes.
    slopes = np.diff(unary, axis=-1)
    return unary[..., 0].sum() + np.minimum(slopes, 0).sum() + flow


def test_near_the_least_energy():
    """Against minimum cuts on grids of 16 x 16: most are met, and nothing is above by much."""
    images, _, saliency = batch(16, 32, 32, 3)
    pixels, perm = to_unit(images, (0.5,), (0.5,)), jnp.roll(jnp.arange(16), 1)
    problem = problem_of(pixels, saliency, perm, jnp.linspace(0.1, 0.9, 16), blocks=16)
    least = np.array([least_energy([x[i] for x in problem]) for i in range(16)])
    random = jnp.asarray(np.random.default_rng(0).integers(0, 3, (16, 16, 16)), jnp.int32)
    above = np.asarray(energy_of(problem, solved(problem, iterations=100))) - least
    assert (above < CUT).mean() >= 0.9
    assert (above / (np.asarray(energy_of(problem, random)) - least)).max() < 1e-3
    assert above.min() > -CUT


def test_forces_are_the_transpose_of_gaps():
    """And the squared norm, by which steps are chosen, bounds the map on grids of any size."""
    for rows, columns in ((2, 2), (5, 6)):
        bits = tuple(jnp.zeros((rows, columns, 1)) for _ in range(2))

        def gaps(bits):
            return [labelling._gaps(bits, axis) for axis in (0, 1)]

        shapes = jax.eval_shape(gaps, bits)
        forces = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)

        def matrix(function, at):
            flat, unravel = jax.flatten_util.ravel_pytree(at)
            run = jax.vmap(lambda x: jax.flatten_util.ravel_pytree(function(unravel(x)))[0])
            return np.asarray(jax.jit(run)(np.eye(len(flat), dtype=np.float32))).T

        forward, backward = matrix(gaps, bits), matrix(labelling._pull, forces)
        np.testing.assert_array_equal(forward, backward.T)
        assert np.linalg.norm(forward, 2) ** 2 <= labelling.SQUARED_NORM


# -- transport ---------------------------------------------------------------------------------


def transport_in_numpy(wanted, saliency):
    """As published: every cell its best place, every place its best cell, losers pay 1, and so on.

    Returns the cell that comes to each place, or -1.
    """
    rows, columns = wanted.shape
    at = np.array([*np.ndindex(rows, columns)], np.float64) / [
        max(rows - 1, 1),
        max(columns - 1, 1),
    ]
    far = np.square(at[:, None] - at).sum(-1).astype(np.float32)
    gain = saliency.reshape(-1, 1) * wanted.reshape(1, -1)
    cost = np.float32(0.8) * far - gain.astype(np.float32)
    for _ in range(max(rows, columns)):
        plan = np.zeros(cost.shape, bool)
        plan[np.arange(len(cost)), cost.argmin(1)] = True
        best = np.where(plan, cost, 0).argmin(0)
        winners = plan & (np.arange(len(cost))[:, None] == best)
        cost += plan & ~winners
    return np.where(winners.any(0), winners.argmax(0), -1).reshape(rows, columns)


def crowds(rows, columns, count=60):
    """(wanted, saliency) where many cells want to move: few of them are salient."""
    rng = np.random.default_rng(rows * columns)
    saliency = rng.dirichlet(np.full(rows * columns, 0.1), count).astype(np.float32) + 1e-9
    wanted = rng.random((count, rows, columns)) < rng.uniform(0.1, 0.9, (count, 1, 1))
    return wanted, saliency.reshape(count, rows, columns)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (8, 8), (5, 5), (4, 7), (1, 1)])
def test_transport_equals_numpy(rows, columns):
    wanted, saliency = crowds(rows, columns)
    ours = np.asarray(transported(jnp.asarray(wanted), jnp.asarray(saliency)))
    for i in range(len(wanted)):
        theirs = transport_in_numpy(wanted[i], saliency[i])
        np.testing.assert_array_equal(ours[i][wanted[i]], theirs[wanted[i]])
    stays = np.arange(rows * columns).reshape(rows, columns)
    moved = (ours != stays) & wanted
    assert rows * columns <= 4 or moved.any((1, 2)).mean() > 0.5
    np.testing.assert_array_equal(ours[~wanted], np.broadcast_to(stays, ours.shape)[~wanted])


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (4, 7)])
def test_transport_serves_every_wanted_place(rows, columns):
    """Each once, by a cell of the image that is worth its way more than the one displaced."""
    wanted, saliency = crowds(rows, columns)
    ours = np.asarray(transported(jnp.asarray(wanted), jnp.asarray(saliency)))
    for source, want, value in zip(ours, wanted, saliency, strict=True):
        cells = source[want]
        assert len(np.unique(cells)) == len(cells)
        row, column = np.indices(want.shape)[:, want]
        far = ((cells // columns - row) / (rows - 1)) ** 2
        far = far + ((cells % columns - column) / (columns - 1)) ** 2
        worth = value.ravel()[cells] - 0.8 * far
        moved = cells != row * columns + column
        assert (worth[moved] > value[want][moved]).all()
        np.testing.assert_array_equal(worth[~moved], value[want][~moved])


def test_cells_that_are_shown_stay_unless_outbid():
    """Where all are shown nothing moves; a hidden one passes over a less salient neighbour."""
    saliency = jnp.asarray([[[0.1, 0.7, 0.1, 0.1]]]) + 0.0
    everything = transported(jnp.ones((1, 1, 4), bool), saliency)
    np.testing.assert_array_equal(everything[0, 0], [0, 1, 2, 3])
    hidden = transported(jnp.asarray([[[True, False, True, True]]]), saliency)
    np.testing.assert_array_equal(hidden[0, 0], [1, 1, 2, 3])  # to the first of two as near


def test_pixels_follow_their_cells():
    """On 31 x 45 pixels: the same offset in the cell, or the last row or column of a narrow one."""
    size, grid = (31, 45), (4, 7)
    rng = np.random.default_rng(0)
    sources = rng.integers(0, 28, (1, *grid)).astype(np.int32)
    ours = np.asarray(pixel_sources(jnp.asarray(sources), size))
    cell = [np.arange(side) * cells // side for side, cells in zip(size, grid, strict=True)]
    for n, r, c in np.ndindex(1, *size):
        source = divmod(sources[n, cell[0][r], cell[1][c]], grid[1])
        expected = []
        for at, axis in ((r, 0), (c, 1)):
            here = np.flatnonzero(cell[axis] == cell[axis][at])
            there = np.flatnonzero(cell[axis] == source[axis])
            expected.append(there[min(at - here[0], len(there) - 1)])
        assert ours[n, r, c] == expected[0] * size[1] + expected[1]
    stays = np.arange(28, dtype=np.int32).reshape(1, *grid)
    still = pixel_sources(jnp.asarray(stays), size)
    np.testing.assert_array_equal(still[0], np.arange(31 * 45).reshape(size))


# -- the method --------------------------------------------------------------------------------

SHAPES = ((1, 31, 45, 1, "float32"), (3, 16, 16, 3, "bfloat16"), (2, 3, 5, 1, "float32"))
EYE = np.eye(CLASSES)


# On 2 x 2 cells or on 16 x 16, of which the smallest image gets 3 x 3.
two_grids = compiled(blocks=(2, 16), transport_size=4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flat", [False, True])
def test_mask_and_ratio(shape, flat):
    """Masks of 0, 1/2 and 1; the label's weight is the mask's mean; nothing is NaN."""
    images, labels, saliency = batch(*shape[:4], dtype=shape[4])
    if flat:
        images, saliency = jnp.full_like(images, 0.3), jnp.zeros_like(saliency)
    lam, perm = jnp.linspace(0.3, 0.7, len(labels)), jnp.roll(jnp.arange(len(labels)), 1)
    for seed in range(4):
        mixed = two_grids(seed, images, labels, saliency, lam, perm)
        mask, ratio = np.asarray(mixed.info["mask"]), np.asarray(mixed.info["lam"])
        assert mixed.images.shape == images.shape
        assert mixed.images.dtype == images.dtype
        assert mask.shape == (*images.shape[:3], 1)
        assert set(np.unique(mask)) <= {0, 0.5, 1}
        np.testing.assert_allclose(ratio, mask.mean((1, 2, 3)), rtol=1e-6)  # float32 sums
        assert np.isfinite(np.asarray(mixed.images, np.float32)).all()
        own, partner = EYE[labels], EYE[labels[perm]]
        targets = ratio[:, None] * own + (1 - ratio[:, None]) * partner
        np.testing.assert_allclose(mixed.targets, targets, atol=1e-6)
        np.testing.assert_array_equal(mixed.info["perm"], perm)
        if flat:
            np.testing.assert_array_equal(mixed.images, images)


@pytest.mark.parametrize("shape", SHAPES)
def test_ratios_0_and_1_leave_one_image(shape):
    """To the bit, however much a few pixels of the other image want to be seen."""
    images, labels, saliency = batch(*shape[:4], dtype=shape[4])
    saliency = saliency**8
    count, perm = len(labels), jnp.roll(jnp.arange(len(labels)), 1)
    for seed, lam in itertools.product(range(4), (jnp.linspace(1, 0, count), jnp.zeros(count))):
        mixed = two_grids(seed, images, labels, saliency, lam, perm)
        for i, ratio in enumerate(lam):
            if ratio in (0, 1):
                shown = i if ratio == 1 else perm[i]
                np.testing.assert_array_equal(mixed.images[i], images[shown])
                np.testing.assert_array_equal(mixed.targets[i], EYE[labels[shown]])
                assert mixed.info["lam"][i] == ratio
                assert (mixed.info["mask"][i] == ratio).all()


def test_shows_what_is_salient():
    """Salient halves of both are seen; saliency has no scale."""
    images, labels = batch(2, 16, 16, 3)[:2]
    left = jnp.broadcast_to(jnp.arange(16) < 8, (16, 16))
    saliency = jnp.stack([left, ~left]).astype(jnp.float32) + 0.01
    mix = compiled(blocks=(4,))
    perm = jnp.array([1, 0])
    mixed = mix(0, images, labels, saliency, jnp.float32(0.5), perm)
    expected = np.stack([left, ~left])[..., None]
    np.testing.assert_array_equal(mixed.info["mask"], expected)
    np.testing.assert_array_equal(mixed.images[0], mixed.images[1])
    scaled = mix(0, images, labels, saliency * 2**20, jnp.float32(0.5), perm)
    jax.tree.map(np.testing.assert_array_equal, mixed, scaled)


def test_hidden_saliency_moves_to_where_it_is_seen():
    """The partner's one salient cell, at the left, comes to the partner's share at the right."""
    size = (8, 16)
    stays = np.arange(128).reshape(size)
    saliency = jnp.full((2, *size), 0.01).at[1, 2:4, :4].set(1.0)
    cells = jnp.asarray([[[0, 0, 2, 2]] * 4, [[0, 0, 0, 0]] * 4], jnp.int32)
    _, own, partner = arranged(cells, saliency, jnp.array([1, 0]), transport_size=0)
    np.testing.assert_array_equal(own[0], stays)
    expected = stays.copy()
    expected[2:4, 8:12] = stays[2:4, :4]
    np.testing.assert_array_equal(partner[0][:, 8:], expected[:, 8:])


def test_one_grid_is_drawn_for_a_call():
    """Cells of 4 and of 8 pixels both come up, as often as chance has it."""
    images, labels, saliency = batch(6, 16, 16, 1)
    mix = functools.partial(
        puzzlemix, num_classes=CLASSES, saliency=saliency, blocks=(2, 4), iterations=20, lam=0.5
    )
    rngs = jax.random.split(jax.random.key(0), 200)
    mask = np.asarray(jax.jit(jax.vmap(lambda rng: mix(rng, images, labels).info["mask"]))(rngs))[
        ..., 0
    ]  # [draw, B, H, W]
    fine = mask[:, :, ::4, ::4]
    np.testing.assert_array_equal(mask, fine.repeat(4, 2).repeat(4, 3))
    coarse = fine[:, :, ::2, ::2].repeat(2, 2).repeat(2, 3)
    of_two = (fine == coarse).all((1, 2, 3))
    assert of_two.mean() == pytest.approx(0.5, abs=0.15)  # four standard errors


def test_grids_are_no_finer_than_the_image():
    """The same program as for as many cells as there are rows."""
    given = (0, *batch(2, 3, 5, 1))
    huge, whole = (jax.make_jaxpr(compiled(blocks=blocks))(*given) for blocks in ((16, 64), (3,)))
    assert str(huge) == str(whole)


def test_ratio_per_sample_or_batch():
    """With nothing to see, ratios alone decide: one for all gives equal masks."""
    images, labels = jnp.zeros((16, 8, 8, 1)), jnp.zeros(16, jnp.int32)
    saliency = jnp.zeros((16, 8, 8))
    one = compiled(blocks=(2,))(3, images, labels, saliency)
    each = compiled(blocks=(2,), per="sample")(3, images, labels, saliency)
    assert len(np.unique(one.info["lam"])) == 1
    assert set(np.unique(each.info["lam"])) == {0, 0.5, 1}


def test_gradient_follows_the_pixels():
    """Choices have no gradient, even of a saliency that has one: all is linear in the images."""
    images, labels, _ = batch(4, 16, 16, 3)
    weight = jnp.asarray(np.random.default_rng(0).standard_normal(images.shape), jnp.float32)
    mix = functools.partial(puzzlemix, num_classes=CLASSES, blocks=(4,), lam=0.5)

    @jax.jit
    @jax.value_and_grad
    def value(images):
        saliency = jnp.square(images).mean(-1)
        mixed = mix(jax.random.key(0), images, labels, saliency=saliency)
        return (weight * mixed.images).sum()

    total, gradient = value(images)
    assert abs(total) > 1
    # A sum of 3072 float32 products with cancellation.
    assert float((gradient * images).sum()) == pytest.approx(float(total), rel=1e-4)


def test_shard_map_needs_no_exception():
    """Each device its own part of the batch, with JAX's checks of what varies between devices."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    images, labels, saliency = batch(6, 8, 8, 1)
    mix = functools.partial(puzzlemix, num_classes=CLASSES, blocks=(2,), iterations=20)

    def run(rngs, images, labels, saliency):
        mixed = mix(rngs[0], images, labels, saliency=saliency)
        return mixed.images, mixed.targets

    rngs = jax.random.split(jax.random.key(0))
    sharded = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec))
    both = sharded(rngs, images, labels, saliency)
    last = slice(3, 6)
    alone = jax.jit(run)(rngs[1:], images[last], labels[last], saliency[last])
    for ours, theirs in zip(both, alone, strict=True):
        np.testing.assert_array_equal(ours[last], theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "puzzlemix needs saliency=.*input_saliency"),
        ({"saliency": jnp.ones((2, 8, 8)), "blocks": ()}, r"blocks of puzzlemix is \(\)"),
        ({"saliency": jnp.ones((2, 8, 8)), "blocks": (0, 4)}, r"is \(0, 4\): it must be"),
    ],
)
def test_errors(options, message):
    images, labels, _ = batch(2, 8, 8, 3)
    with pytest.raises(ConfigError, match=message):
        puzzlemix(jax.random.key(0), images, labels, num_classes=CLASSES, **options)


# -- saliency ----------------------------------------------------------------------------------


def test_input_saliency_equals_finite_differences():
    rng = np.random.default_rng(0)
    images, weight = rng.standard_normal((2, 3, 4, 3)), rng.standard_normal((2, 3, 4, 3))

    def loss(images, module):
        return (module.sin(images) * weight).sum() + module.square(images.mean())

    step, gradient = 1e-5, np.zeros_like(images)
    for index in np.ndindex(*images.shape):
        up, down = images.copy(), images.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (loss(up, np) - loss(down, np)) / (2 * step)
    expected = np.sqrt(np.square(gradient).mean(-1))
    ours = input_saliency(lambda images: loss(images, jnp), jnp.asarray(images, jnp.float32))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-5)  # float32 against float64


def test_input_saliency_is_float32():
    """Of bfloat16 images too: the loss sees them widened, exactly."""
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 3)), jnp.bfloat16)
    ours = input_saliency(lambda images: jnp.exp(images).sum(), images)
    assert ours.dtype == jnp.float32
    wide = np.asarray(images, np.float64)
    expected = np.sqrt(np.square(np.exp(wide)).mean(-1))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


# -- the benchmark -----------------------------------------------------------------------------


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module; `benchmarks` is a folder, not a package."""
    path = pathlib.Path(__file__).resolve().parents[1] / "benchmarks/puzzlemix.py"
    spec = importlib.util.spec_from_file_location("puzzlemix_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    return module


def test_benchmark_without_graph_cuts(benchmark, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gco", None)
    assert benchmark.main([]) == 2
    assert "needs gco-wrapper, so install it" in capsys.readouterr().err


def test_benchmark_compares(benchmark, monkeypatch):
    """With cell by cell choices in the place of graph cuts: neighbours do not count there."""

    def cut_grid_graph(unary, distance, down, right, algorithm):
        assert algorithm == "swap"
        assert {x.dtype.name for x in (unary, down, right)} == {"int32"}
        np.testing.assert_array_equal(distance, [[0, 0.25, 1], [0.25, 0, 0.25], [1, 0.25, 0]])
        return unary.argmin(-1).ravel()

    stub = types.SimpleNamespace(cut_grid_graph=cut_grid_graph)
    monkeypatch.setitem(sys.modules, "gco", stub)
    flags = ["--problems=20", "--iterations=20", "--repeats=1"]
    found = benchmark.compare(benchmark.parse_args(flags), 32, 2)
    greedy, ours = found["gco swap"], found["20 iterations"]
    assert set(ours) == set(benchmark.COLUMNS.values())
    assert greedy["gap"] > 0.01 > ours["gap"] >= 0
    assert greedy["not_above_gco"] == greedy["agreement"] == ours["not_above_gco"] == 1
    assert greedy["least"] < ours["least"]

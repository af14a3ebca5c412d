"""How low Co-Mixup's labelling problem is solved, how fast, and how its authors' solver compares.

Batches of random saliency, in groups of 20 images on a grid of 4 x 4 cells: smooth fields, and
noise of uneven strength like the gradients of a network. Both solvers get the same problems, and
the authors' starts from the first of our random labellings. Lower objectives are better.

The authors' algorithm is written anew in NumPy and cuts its graphs with gco-wrapper, which this
project does not depend on: pip install gco-wrapper.
"""

import argparse
import functools
import importlib
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # automix_jax of this checkout

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track
from scipy.ndimage import gaussian_filter

from automix_jax.errors import ConfigError
from automix_jax.mixups import submodular
from automix_jax.mixups.comixup import STARTS, compatibility, costs, peaks
from automix_jax.mixups.labelling import shares

BLOCKS, GROUP, ALPHA = 4, 20, 2.0  # the method's own
EPILOG = """\
  python benchmarks/comixup.py --gco --out=docs/results/comixup.json

Exit codes: 0 done, 2 flags that cannot work or a package that is missing.
"""


# -- problems ----------------------------------------------------------------------------------


def smooth(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Saliency [count, size, size] that varies slowly."""
    noise = rng.standard_normal((count, size, size))
    return np.abs(gaussian_filter(noise, (0, size / 8, size / 8), mode="wrap"))


def gradients(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Saliency [count, size, size] of gradients that are noise, stronger in some places."""
    noise = rng.standard_normal((count, size, size, 3))
    field = gaussian_filter(rng.standard_normal((count, size, size)), (0, size / 10, size / 10))
    noise *= np.exp(0.3 * size * field)[..., None]
    return np.sqrt(np.square(noise).mean(-1))


KINDS = {"smooth": smooth, "gradients": gradients}


@functools.partial(jax.jit, static_argnames="starts")
def problems(rng: jax.Array, saliency: jax.Array, starts: int) -> tuple[jax.Array, ...]:
    """A batch as groups: starts [g, s, o, h, w], costs [g, i, h, w], compatibilities [g, i, i]."""
    count = len(saliency) // GROUP
    rngs = jax.random.split(rng, (2, count))
    shown = shares(saliency, (BLOCKS, BLOCKS)).reshape(count, GROUP, BLOCKS, BLOCKS)
    liking = jax.vmap(lambda rng: jax.random.loggamma(rng, ALPHA, (GROUP,)))(rngs[0])
    peak = peaks(saliency).reshape(count, GROUP, 2)
    size = (starts, GROUP, BLOCKS, BLOCKS)
    start = jax.vmap(lambda rng: jax.random.randint(rng, size, 0, GROUP))(rngs[1])
    return start, jax.vmap(costs)(shown, liking), jax.vmap(compatibility)(peak)


# -- the authors' solver -----------------------------------------------------------------------


class GraphCuts:
    """Algorithm 1 of Kim et al. (2021) with its inner problem solved by alpha-beta swaps."""

    def __init__(self, gco: ModuleType):
        self.cut = gco.cut_grid_graph

    def __call__(
        self, start: np.ndarray, cost: np.ndarray, compatibility: np.ndarray
    ) -> np.ndarray:
        """Returns a labelling [o, h, w, 2]; see `submodular.solve`, of a single start [o, h, w]."""
        cells, inputs = cost[0].size, len(cost)
        labelling = np.stack([start, start], -1)
        marks = np.zeros((len(start), inputs), bool)
        before = float(value_of(labelling, cost, 0.0))
        for round_ in range(submodular.ROUNDS):
            for output in range(len(start)):
                own = counts(labelling, inputs)
                others = own.sum(0) - own[output]
                beyond = compatibility @ others > submodular.TAU * cells
                charge = 2 * compatibility @ (others * beyond) + marks[output]
                unary = cost + submodular.GAMMA / cells * charge[:, None, None]
                pairs = pairs_of(own[output]) if round_ else []
                labelling[output] = self._label(unary, pairs)
            if round_ == submodular.ROUNDS - 2:
                marks = same_inputs(counts(labelling, inputs) > 0)
            value = float(value_of(labelling, cost, 0.0))
            if abs(before - value) < 1e-6 * abs(value):
                break
            before = value
        return labelling

    def _label(self, unary: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
        """Labels [h, w, 2] of one output; pairs of inputs are further labels."""
        inputs, height, width = unary.shape
        labels = np.array([(i, i) for i in range(inputs)] + pairs)
        more = [(unary[i] + unary[j]) / 2 - 5e-4 for i, j in pairs]
        costs = np.ascontiguousarray(np.stack([*unary, *more], -1), np.float32)
        distance = 1 - np.eye(len(labels), dtype=np.float32)
        for k, pair in enumerate(pairs, inputs):
            distance[k, list(pair)] = distance[list(pair), k] = 0.25
        beta = np.float32(submodular.BETA / (height * width))
        down = np.full((height - 1, width), beta)
        right = np.full((height, width - 1), beta)
        chosen = self.cut(costs, distance, down, right, algorithm="swap")
        return labels[chosen.reshape(height, width)]


def counts(labelling: np.ndarray, inputs: int) -> np.ndarray:
    """How many cells each output shows of each input [o, i]."""
    return np.stack([np.bincount(x.ravel(), minlength=inputs) / 2 for x in labelling])


def pairs_of(own: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of an output's most used inputs, three at most."""
    most = sorted(i for i in np.argsort(-own, kind="stable")[:3] if own[i] > 0)
    return [(i, j) for k, i in enumerate(most) for j in most[k + 1 :]]


def same_inputs(used: np.ndarray) -> np.ndarray:
    """Marks what outputs of the same two or more inputs should avoid [o, i]."""
    marks = np.zeros_like(used)
    for i, first in enumerate(used):
        for j in range(i + 1, len(used)):
            if (first == used[j]).all() and first.sum() > 1:
                one, two = np.flatnonzero(first)[:2]
                marks[i, one] = marks[j, two] = True
    return marks


# -- measuring ---------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="tau")
def value_of(labelling: jax.Array, cost: jax.Array, tau: float) -> jax.Array:
    """The objective of one group's labelling."""
    return submodular.objective(labelling, cost, tau)


def describe(labellings: np.ndarray, cost: jax.Array) -> dict[str, float]:
    """The numbers of a batch's labellings [g, o, h, w, 2]."""
    values = {
        name: sum(float(value_of(*group, tau)) for group in zip(labellings, cost, strict=True))
        for name, tau in (("objective", submodular.TAU), ("objective_without_threshold", 0.0))
    }
    used = [np.unique(output).size for group in labellings for output in group]
    half = labellings[..., 0] != labellings[..., 1]
    return {**values, "inputs_per_output": mean(used), "cells_of_two": float(half.mean())}


def summarise(rows: Sequence[dict[str, float]], seconds: Sequence[float]) -> dict[str, Any]:
    """Means over batches; the objective of each batch as well."""
    values = [row["objective"] for row in rows]
    return {
        **{name: mean(row[name] for row in rows) for name in rows[0]},
        "objective_deviation": stdev(values) if len(values) > 1 else 0.0,
        "seconds_per_batch": {"median": median(seconds), "min": min(seconds)},
        "objectives": values,
    }


def measure(kind: str, args: argparse.Namespace, cuts: GraphCuts | None) -> dict[str, Any]:
    """All numbers for one kind of saliency."""
    rng = np.random.default_rng(args.seed)
    solve = jax.jit(jax.vmap(submodular.solve))
    batches = [
        problems(
            key, jnp.asarray(KINDS[kind](rng, args.batch, args.size), jnp.float32), args.starts
        )
        for key in jax.random.split(jax.random.key(args.seed), args.batches)
    ]
    begin = time.perf_counter()
    program = solve.lower(*batches[0]).compile()
    compile_seconds = time.perf_counter() - begin
    jax.block_until_ready(program(*batches[0]))  # the first call also allocates

    def timed(run: Callable[..., Any]) -> dict[str, Any]:
        rows, seconds = [], []
        for batch in track(batches, kind, transient=True):
            begin = time.perf_counter()
            labellings = np.asarray(run(*batch))
            seconds.append(time.perf_counter() - begin)
            rows.append(describe(labellings, batch[1]))
        return summarise(rows, seconds)

    report = {"jax": timed(program) | {"compile_seconds": compile_seconds}}
    if cuts is not None:

        def cut(starts: jax.Array, *problem: jax.Array) -> list[np.ndarray]:
            groups = zip(*map(np.asarray, (starts[:, 0], *problem)), strict=True)
            return [cuts(*group) for group in groups]

        report["gco"] = timed(cut)
        pairs = zip(report["jax"]["objectives"], report["gco"]["objectives"], strict=True)
        report["batches_lower_than_gco"] = sum(ours < theirs for ours, theirs in pairs)
    return report


def load_gco() -> GraphCuts:
    """Imports gco-wrapper.

    Raises:
        ConfigError: if it is missing.
    """
    try:
        return GraphCuts(importlib.import_module("gco"))
    except ImportError as error:
        raise ConfigError(f"--gco needs a package: pip install gco-wrapper ({error}).") from error


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(
        "comixup.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--batches", type=int, default=20, help="of each kind (default: %(default)s)")
    add(
        "--batch",
        type=int,
        default=100,
        help=f"images, a multiple of {GROUP} (default: %(default)s)",
    )
    add("--size", type=int, default=32, help="side of the images (default: %(default)s)")
    add("--starts", type=int, default=STARTS,
        help="random labellings to solve from, the best kept (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--gco", action="store_true", help="the authors' solver too; needs gco-wrapper")
    add("--out", type=Path, metavar="FILE.json", help="write the report to this file too")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Raises ConfigError for flags that cannot work."""
    for name in ("batches", "batch", "starts"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} is {getattr(args, name)}: it must be 1 or more.")
    if args.batch % GROUP:
        raise ConfigError(f"--batch is {args.batch}: it must be a multiple of {GROUP}.")
    if args.size < BLOCKS:
        raise ConfigError(f"--size is {args.size}: it must be {BLOCKS} or more.")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints JSON; returns the exit code."""
    args = parse_args(argv)
    try:
        check(args)
        cuts = load_gco() if args.gco else None
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
        **{name: getattr(args, name) for name in ("batches", "batch", "size", "starts", "seed")},
        "problems": {kind: measure(kind, args, cuts) for kind in KINDS},
    }
    text = json.dumps(report, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

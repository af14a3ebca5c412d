"""Puzzle Mix's masks: how good and how fast its solver is beside the graph cuts of the original.

Makes labelling problems from random smooth images and saliency, on several grids, and solves them
by this library's solver with several numbers of iterations, all in one jitted call, and by the
alpha-beta swap of gco-wrapper, one problem after the other on the CPU. Energies are compared with
the least that any of them, or a search ten times as long, has found.
"""

import argparse
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # automix_jax of this checkout

import jax
import numpy as np
from rich.console import Console
from rich.table import Column, Table

from automix_jax.errors import AutoMixError, ConfigError
from automix_jax.mixups.labelling import Problem, energy, make_problem, solve

GRIDS = {32: (2, 4, 8, 16), 224: (2, 4, 8)}  # by side of the images
ROUNDING = 1e-6  # energies are sums of float32 numbers, about 1
EPILOG = """\
  python benchmarks/puzzlemix.py --out=docs/results/puzzlemix.json

Needs gco-wrapper: pip install gco-wrapper. Exit codes: 0 done, 2 flags that cannot work or a
package that is missing.
"""
NOTES = (
    "gap: mean of E - least, in units of that of random labels.",
    "not above gco, least: shares of the problems whose energy is not above that of gco, not above"
    " the least found; within 1e-6, the rounding of float32.",
    "s / 100: seconds for 100 problems, the least of the repeats. gco works on one core.",
    "agreement, lam off: share of the cells with the labels of gco, and mean difference in the"
    " share of the own image.",
)
COLUMNS = {
    "gap": "gap", "not above gco": "not_above_gco", "least": "least",
    "agreement": "agreement", "lam off": "lam_off", "s / 100": "seconds_per_100",
}  # fmt: skip


def positive(text: str) -> int:
    """Reads a whole number, 1 or more, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser("puzzlemix.py", description=__doc__, epilog=EPILOG, **layout)
    add, count = parser.add_argument, {"type": positive, "metavar": "N"}
    add("--problems", **count, default=400, help="of each size (default: 400)")
    add("--iterations", **count, nargs="+", default=[25, 50, 100, 200], help="of the solver "
        "(default: 25 50 100 200)")  # fmt: skip
    add("--sizes", type=int, nargs="+", choices=GRIDS, default=list(GRIDS), help="sides of the "
        "images (default: 32 224)")  # fmt: skip
    add("--repeats", **count, default=5, help="of each timing (default: 5)")
    add("--seed", type=int, default=0, help="of the problems (default: 0)")
    add("--out", type=Path, metavar="FILE.json", help="write everything to this file")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Raises ConfigError for what would fail later."""
    if args.out and (args.out.is_dir() or not os.access(args.out.resolve().parent, os.W_OK)):
        raise ConfigError(f"--out={args.out} cannot be written: name a file in a folder of yours.")
    try:
        import gco  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"This needs gco-wrapper, so install it ({error}).") from error


# -- problems ----------------------------------------------------------------------------------


def smooth(rng: np.random.Generator, count: int, side: int, power: float) -> np.ndarray:
    """Random fields in [0, 1], [count, side, side], whose spectrum falls with the frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1 / side
    real, imaginary = rng.standard_normal((2, count, *frequency.shape))
    field = np.fft.irfft2((real + 1j * imaginary) / frequency**power, (side, side))
    field -= field.min((1, 2), keepdims=True)
    return (field / field.max((1, 2), keepdims=True)).astype(np.float32)


def make_problems(count: int, side: int, blocks: int, seed: int) -> Problem:
    """Problems of random images, saliency, partners and ratios."""
    rng = np.random.default_rng([seed, side, blocks])
    images = np.stack([smooth(rng, count, side, 1.5) for _ in range(3)], -1)
    saliency = smooth(rng, count, side, 1.0) ** 4 + 1e-3  # few peaks, as gradients have
    perm, lam = rng.permutation(count), rng.uniform(size=count).astype(np.float32)
    make = jax.jit(make_problem, static_argnames="blocks")
    return make(images, saliency, perm, lam, blocks=blocks)


def swap(problem: Problem) -> np.ndarray:
    """The labels of the original: graph cuts on costs in whole numbers."""
    import gco

    blocks = problem.unary.shape[1]
    labels = np.arange(3, dtype=np.float32)
    distance = np.square(labels[:, None] - labels) / 4
    scale = 1000 * blocks**2
    costs = [(scale * np.asarray(x, np.float64)).astype(np.int32) for x in problem]
    solutions = [
        gco.cut_grid_graph(unary, distance, down, right, algorithm="swap")
        for unary, down, right in zip(*costs, strict=True)
    ]
    return np.reshape(solutions, (-1, blocks, blocks)).astype(np.int32)


# -- comparison --------------------------------------------------------------------------------


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result of a function and the least of its seconds; one call goes before."""
    result, seconds = jax.block_until_ready(run()), []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def compare(args: argparse.Namespace, side: int, blocks: int) -> dict[str, dict[str, float]]:
    """Solves the problems of a size by all means; the results by solver."""
    problem = make_problems(args.problems, side, blocks, args.seed)
    jitted = jax.jit(solve, static_argnames="iterations")
    found = {"gco swap": timed(functools.partial(swap, problem), args.repeats)}
    for iterations in args.iterations:
        run = functools.partial(jitted, problem, iterations=iterations)
        found[f"{iterations} iterations"] = timed(run, args.repeats)
    cost = jax.jit(energy)
    energies = {name: np.asarray(cost(problem, labels)) for name, (labels, _) in found.items()}
    longest = np.asarray(cost(problem, jitted(problem, iterations=10 * max(args.iterations))))
    least = np.min([longest, *energies.values()], 0)
    rng = np.random.default_rng(args.seed)
    shape = (args.problems, blocks, blocks)
    worst = np.asarray(cost(problem, rng.integers(0, 3, shape, np.int32)))
    theirs = found["gco swap"][0]
    return {
        name: {
            "gap": float((energies[name] - least).mean() / (worst - least).mean()),
            "not_above_gco": float((energies[name] <= energies["gco swap"] + ROUNDING).mean()),
            "least": float((energies[name] <= least + ROUNDING).mean()),
            "agreement": float((labels == theirs).mean()),
            "lam_off": float(np.abs((labels - theirs).mean((1, 2)) / 2).mean()),
            "seconds_per_100": 100 / args.problems * seconds,
        }
        for name, (labels, seconds) in found.items()
    }


def show(report: dict[str, Any]) -> None:
    console = Console(width=max(Console().width, 100))
    table = Table("image", "grid", "solver", *(Column(name, justify="right") for name in COLUMNS))
    for case in report["cases"]:
        for name, result in case["solvers"].items():
            cells = (f"{result[key]:.2g}" for key in COLUMNS.values())
            table.add_row(str(case["side"]), str(case["blocks"]), name, *cells)
        table.add_section()
    console.print(table)
    for part in ("settings", "environment"):
        print(f"{part}:", ", ".join(f"{k} {v}" for k, v in report[part].items() if v is not None))
    print("* " + "\n* ".join(report["notes"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    args, before, cases = parse_args(argv), os.getloadavg(), []
    try:
        check(args)
        with Console(stderr=True).status("starting") as status:
            for side in args.sizes:
                for blocks in GRIDS[side]:
                    status.update(f"{side} pixels, {blocks} x {blocks} cells")
                    solvers = compare(args, side, blocks)
                    cases.append({"side": side, "blocks": blocks, "solvers": solvers})
    except AutoMixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report = {
        "settings": vars(args) | {"out": args.out and str(args.out)},
        "environment": {
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "backend": jax.default_backend(), "cpu_count": os.cpu_count(),
            "python": platform.python_version(), "jax": jax.__version__,
            "load_before": before, "load_after": os.getloadavg(),
        },
        "cases": cases,
        "notes": NOTES,
    }  # fmt: skip
    show(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Times one training step of every mixup against a vanilla step of the same network.

One process builds all steps and runs them in turn, round after round, so that a disturbance of the
machine meets all of them; a ratio is the median of the ratios within a round. Beside it stands the
time of the mixing alone, with what it looks at given: for the methods that solve a problem for
every batch, the time of their solver.

    python benchmarks/mixups.py --preset=r18 --out=mixups.json
    python benchmarks/mixups.py --preset=deit --methods mixup_cutmix transmix
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # step.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # automix_jax of this checkout

import jax
import jax.numpy as jnp
import step as steps
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from automix_jax import config as config_lib
from automix_jax import mixups
from automix_jax.errors import AutoMixError, ConfigError
from automix_jax.validation import validate
from configs import common

PRESETS = {
    "r18": {"model": "resnet18", "stem": "cifar", "image_size": 32, "batch": 100, "classes": 100},
    "r50": {"model": "resnet50", "stem": "imagenet", "image_size": 224, "classes": 1000},
    "deit": {"model": "deit_t", "stem": "", "image_size": 224, "classes": 1000},
}
OFFLINE = ("supermix",)  # not a part of a step
NOTES = (
    "ratio: median (least, most) of the step's time over vanilla's within a round; CPU: of the"
    " process's CPU time; FLOPs: as lowered, the same on every machine.",
    "mix: the mixing of a batch alone, median milliseconds, with saliency or attention given.",
    "attentivemix includes its guide, a ResNet at 224 x 224 with random weights; augmix trains on"
    " three versions of every image.",
)


def suitable(preset: str) -> tuple[str, ...]:
    """The methods that a preset's network can train."""
    if preset == "deit":  # what differs by network
        return ("mixup", "cutmix", "mixup_cutmix", "transmix")
    others = (*OFFLINE, "vanilla", "automix")
    rivals = [name for name in config_lib.METHODS if name not in others]
    return ("automix", *(name for name in rivals if mixups.suits(name, False)))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags; a preset fills in what was not given."""
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser("mixups.py", description=__doc__, **layout)
    add, count = parser.add_argument, {"type": steps.positive, "metavar": "N"}
    add("--preset", choices=PRESETS, default="r18", help="r18 (default): 32 x 32, batch 100. r50, "
        "deit: 224 x 224, batch 64 or on a CPU 4.")  # fmt: skip
    add("--methods", nargs="+", metavar="NAME", help="default: all that the network can train")
    add("--batch", **count, help="images a step")
    add("--width", **count, help="channels of the first stage (default: the architecture's)")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of convolutions")
    add("--repeats", **count, default=10, help="rounds that are timed (default: 10)")
    add("--warmup", **count, default=2, help="rounds before them (default: 2)")
    add("--out", type=Path, metavar="FILE.json", help="write everything to this file")
    args = parser.parse_args(argv)
    preset = {"batch": 4 if jax.default_backend() == "cpu" else 64} | PRESETS[args.preset]
    args.batch = args.batch or preset.pop("batch")
    for name, value in preset.items():
        if name != "batch":
            setattr(args, name, value)
    args.methods = args.methods or list(suitable(args.preset))
    args.steps_per_dispatch, args.layer = 1, ""
    return args


def make_config(args: argparse.Namespace, method: str) -> ConfigDict:
    """The configuration of a training run with this method."""
    config = steps.make_config(args)
    common.set_method(config, method, "cifar" if args.image_size <= 64 else "imagenet")
    config.guide.weights = "random"  # they stay as the state is made
    validate(config, jax.device_count())
    return config


def mixing(args: argparse.Namespace, method: str) -> Callable[[], None] | None:
    """The mixing alone of a normalised batch, compiled; None for AutoMix, which has none."""
    if method == "automix":
        return None
    options = config_lib.method_options(make_config(args, method))
    options.pop("layer", None)
    mix = mixups.create(method, **options)
    shape = (args.batch, args.image_size, args.image_size)
    noise = jax.random.normal(jax.random.key(0), (*shape, 3))
    coarse = jax.image.resize(jnp.abs(noise[:, ::4, ::4, 0]), shape, "bilinear")
    extra = {"saliency": coarse, "attention": coarse[:, :7, :7]}
    extra = {name: value for name, value in extra.items() if name == mixups.needs(method)}
    labels = jnp.arange(args.batch) % args.classes

    @jax.jit
    def run(rng, images, labels, extra):
        mixed = mix(rng, images, labels, num_classes=args.classes, **extra)
        return mixed.images, mixed.targets

    keys = iter(jax.random.split(jax.random.key(1), args.warmup + args.repeats + 1))
    lowered = run.lower(jax.random.key(0), noise, labels, extra)
    if "callback" in lowered.as_text():
        raise ConfigError(f"{method} calls back to the host.")
    compiled = lowered.compile()
    return lambda: jax.block_until_ready(compiled(next(keys), noise, labels, extra))


def measure(args: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """All numbers, by method."""
    cases, mixes = [], {}
    for method in ("vanilla", *args.methods):
        say(f"compiling {method} ...")
        cases.append(steps.jax_case(args, method, make_config(args, method)))
        mixes[method] = mixing(args, method)
    steps.run_rounds(cases, args, say)
    rows = []
    for method, case in zip(("vanilla", *args.methods), cases, strict=True):
        seconds = []
        for _ in range(args.warmup + args.repeats) if (mix := mixes[method]) else ():
            start = time.perf_counter()
            mix()
            seconds.append(time.perf_counter() - start)
        rows.append({
            "method": method,
            "step_seconds": steps.summary(case.wall),
            "to_vanilla": steps.ratios(case, cases[0]),
            "temp_bytes": case.program["temp_bytes"],
            "compile_seconds": case.program["compile_seconds"],
            "mix_seconds": median(seconds[args.warmup :]) if seconds else None,
        })  # fmt: skip
    return rows


def make_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for the screen."""
    table = Table()
    for column in ("method", "ratio", "CPU", "FLOPs", "step, ms", "mix, ms", "compile, s"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        wall, cpu, flops = (row["to_vanilla"][kind] for kind in ("wall", "cpu", "flops"))
        table.add_row(
            row["method"],
            f"{wall['median']:.3f} ({wall['min']:.2f}, {wall['max']:.2f})",
            f"{cpu['median']:.3f}",
            f"{flops:.3f}",
            f"{1e3 * row['step_seconds']['median']:.0f}",
            "" if row["mix_seconds"] is None else f"{1e3 * row['mix_seconds']:.2f}",
            f"{row['compile_seconds']:.1f}",
        )
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    args, load = parse_args(argv), os.getloadavg()
    try:
        for method in args.methods:
            make_config(args, method)
        with Console(stderr=True).status("starting") as status:
            rows = measure(args, status.update)
    except AutoMixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    Console(width=110).print(make_table(rows))
    print("* " + "\n* ".join(NOTES))
    if args.out:
        report = {
            "preset": args.preset, "batch": args.batch, "repeats": args.repeats,
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "cpu_count": os.cpu_count(), "load_before": load, "load_after": os.getloadavg(),
            "jax": jax.__version__, "python": platform.python_version(),
            "rows": rows, "notes": NOTES,
        }  # fmt: skip
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

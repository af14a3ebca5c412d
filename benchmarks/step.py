"""Times one training step: vanilla, MixUp and AutoMix, and on request a PyTorch peer beside them.

One process builds all steps and runs them in turn, round after round (A B C A B C ...), so that a
disturbance of the machine meets all of them. A ratio is the median of the ratios within a round.

A JAX step is the program that training runs, in one jit that takes over the buffers of its state:
a batch gathered from uint8 images on the device, augmentation, normalisation, losses, gradients,
optimizer, teacher and metrics.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# Read at the imports. PyTorch needs a share of the GPU's memory; and its CPU threads must not spin
# while they wait, which on a busy machine makes its steps several times slower.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # automix_jax of this checkout

import flax
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Column, Table

from automix_jax.config import default_config
from automix_jax.data.dataset import Dataset, Split
from automix_jax.errors import AutoMixError, ConfigError
from automix_jax.models import list_models, model_options, paper_layer
from automix_jax.train.build import Experiment, build, compute_dtype, named_key, replicated
from automix_jax.validation import validate

METHODS = ("vanilla", "mixup", "automix")
TORCH_DEPTHS = {"resnet18": 18, "resnet50": 50}
PRESETS = {
    "r18": {"model": "resnet18", "stem": "cifar", "image_size": 32, "batch": 100, "classes": 10},
    "r50": {"model": "resnet50", "stem": "imagenet", "image_size": 224, "classes": 1000},
}
EPILOG = """\
  python benchmarks/step.py --preset=r50 --torch --torch-compile --out=r50.json

A low ratio of AutoMix to vanilla may also come from a slow vanilla step: look at the seconds, and
at --torch. Exit codes: 0 done, 2 flags that cannot work or a package that is missing.
"""
NOTES = (
    "x vanilla, x JAX: median of the ratios within a round. x JAX above 1: the JAX step is faster.",
    "CPU ms is that of all threads; on a GPU it only says how busy the host was. Peak memory is of"
    " the whole process, all steps together, and not of one method.",
    "FLOPs: of a step as lowered, the same on any machine; compiled: after XLA's passes, the body"
    " of a scan counted once. FLOPs and bytes are those of one device, bytes of a whole dispatch.",
    "The torch steps begin with float images: only those of JAX augment and normalise. Torch's"
    " AutoMix is built like the released code: whole teacher forward, projections for each mask.",
    "Set for PyTorch unless the environment says otherwise: OMP_WAIT_POLICY=PASSIVE.",
    "On a CPU XLA runs convolutions inside a scan several times slower: leave a step a dispatch.",
)
TABLES = {  # header: (path in a step's entry of the report, unit)
    "Time of a step, median of the rounds": {
        "wall ms": ("wall_seconds/median", 1e-3), "min": ("wall_seconds/min", 1e-3),
        "max": ("wall_seconds/max", 1e-3), "CPU ms": ("cpu_seconds/median", 1e-3),
        "x vanilla": ("to_vanilla/wall/median", 1), "x JAX": ("to_jax/wall/median", 1),
        "CPU x vanilla": ("to_vanilla/cpu/median", 1), "CPU x JAX": ("to_jax/cpu/median", 1),
        "img/s": ("images_per_second", 1),
    },
    "Compiled programs": {
        "GFLOP": ("flops", 1e9), "x vanilla": ("to_vanilla/flops", 1),
        "compiled GFLOP": ("flops_compiled", 1e9), "temp MB": ("temp_bytes", 1e6),
        "args MB": ("argument_bytes", 1e6), "compile s": ("compile_seconds", 1),
    },
}  # fmt: skip


@dataclasses.dataclass
class Case:
    """A step to be timed: what is known before it runs, and its seconds in each round."""

    name: str  # framework/method
    run: Callable[[], None]  # one dispatch, until the device is done
    program: dict[str, float | None]
    wall: list[float] = dataclasses.field(default_factory=list)  # of one step
    cpu: list[float] = dataclasses.field(default_factory=list)


def positive(text: str) -> int:
    """Reads a whole number, 1 or more, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags; a preset fills in what was not given."""
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser("step.py", description=__doc__, epilog=EPILOG, **layout)
    add, count = parser.add_argument, {"type": positive, "metavar": "N"}
    add("--preset", choices=PRESETS, default="r18", help="r18 (default): 32 x 32, batch 100, "
        "10 classes. r50: 224 x 224, batch 64 or on a CPU 4, 1000 classes.")  # fmt: skip
    add("--model", choices=list_models(), metavar="NAME", help=", ".join(list_models()))
    add("--stem", choices=("cifar", "imagenet"), help="first layers: 3 x 3, or 7 x 7 and pooling")
    add("--image-size", **count, help="pixels; up to 64 the step flips and crops")
    add("--batch", **count, help="images a step")
    add("--classes", **count, help="classes of the labels")
    add("--layer", help="feature map for MixBlock (default: that of the authors' recipes)")
    add("--width", **count, help="channels of the first stage (default: the architecture's)")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of convolutions "
        "and matrix products; auto is float32 on a CPU, else bfloat16")  # fmt: skip
    add("--repeats", **count, default=10, help="rounds that are timed (default: 10)")
    add("--warmup", **count, default=3, help="rounds before them (default: 3)")
    add("--steps-per-dispatch", **count, default=1, help="in one lax.scan; times are of one step")
    add("--torch", action="store_true", help="also time the PyTorch peer, benchmarks/torch_step.py")
    add("--torch-compile", action="store_true", help="and through torch.compile; implies --torch")
    add("--out", type=Path, metavar="FILE.json", help="write everything to this file")
    args = parser.parse_args(argv)
    args.torch |= args.torch_compile
    preset = {"batch": 4 if jax.default_backend() == "cpu" else 64} | PRESETS[args.preset]
    for name, value in preset.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.layer = args.layer or paper_layer(args.model)
    if "stem" not in model_options(args.model):
        args.stem = ""
    return args


def check(args: argparse.Namespace) -> None:
    """Raises ConfigError, before anything is compiled, for what would fail later."""
    build(make_config(args, "automix"), make_dataset(args).facts)  # checks sizes and names
    if args.out and (args.out.is_dir() or not os.access(args.out.resolve().parent, os.W_OK)):
        raise ConfigError(f"--out={args.out} cannot be written: name a file in a folder of yours.")
    if not args.torch:
        return
    try:
        import torch
    except ImportError as error:
        raise ConfigError(f"--torch needs PyTorch, so install it ({error}).") from error
    backend, dtype, why = jax.default_backend(), compute_dtype(make_config(args)).name, ""
    if args.model not in TORCH_DEPTHS:
        why = f"has no {args.model}, only {' and '.join(TORCH_DEPTHS)}"
    elif backend not in ("cpu", "gpu") or (backend == "gpu" and not torch.cuda.is_available()):
        why = f"cannot run on the {backend} that JAX runs on"
    elif dtype != ("float32" if backend == "cpu" else "bfloat16"):
        why = f"does not compute in {dtype} on a {backend}: take --dtype=auto"
    elif jax.device_count() > 1:
        why = f"takes one device and JAX {jax.device_count()}: hide the others"
    if why:
        raise ConfigError(f"--torch: the PyTorch peer {why}, or leave out --torch.")


def make_config(args: argparse.Namespace, method: str = "vanilla") -> ConfigDict:
    """The configuration of a training run with this method."""
    config = default_config()
    config.batch_size, config.compute_dtype = args.batch, args.dtype
    config.num_groups = jax.device_count()  # data parallel: each device its share of the batch
    config.epochs = (args.warmup + args.repeats) * args.steps_per_dispatch  # of one step
    config.data.flip = args.image_size <= 64
    config.data.padding = 4 if config.data.flip else 0
    config.model.name, config.model.stem = args.model, args.stem
    config.model.layer, config.model.width = args.layer, args.width
    config.method.name = method
    if method == "mixup":
        config.method.alpha = 1.0
    config.teacher.enabled = method == "automix"
    validate(config, jax.device_count())
    return config


def make_dataset(args: argparse.Namespace) -> Dataset:
    """One batch of random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.batch, args.image_size, args.image_size, 3), np.uint8)
    split = Split(images, rng.integers(0, args.classes, args.batch).astype(np.int32))
    return Dataset("random", split, split, tuple(map(str, range(args.classes))))


def jax_case(args: argparse.Namespace, method: str, config: ConfigDict | None = None) -> Case:
    """Compiles the training program of a method and puts its arguments on the device."""
    data, key = make_dataset(args).train, named_key(0, "state")
    experiment = build(config or make_config(args, method), make_dataset(args).facts)
    mesh, run_steps = experiment.mesh, experiment.run_steps
    batch = jax.device_put((data.images, data.labels), replicated(mesh))
    order = np.tile(np.arange(args.batch, dtype=np.int32), (args.steps_per_dispatch, 1))
    order = jax.device_put(order, NamedSharding(mesh, PartitionSpec(None, "data")))
    # Made once and not timed: not worth the compiler's optimisations, which are slow here.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    create = experiment.create.lower(key).compile(compiler_options=quick)
    state, metrics = jax.block_until_ready((create(key), experiment.create_metrics()))
    guide = make_guide(experiment, data.images[:1]) if experiment.guide else None
    arguments = (state, metrics, *batch)
    one_step, steps = (run_steps.lower(*arguments, o, guide) for o in (order[:1], order))
    start = time.perf_counter()
    compiled = steps.compile()
    seconds, memory = time.perf_counter() - start, compiled.memory_analysis()
    sizes = ("temp", "argument", "output")
    program = {
        "flops": (one_step.cost_analysis() or {}).get("flops"),
        "flops_compiled": (compiled.cost_analysis() or {}).get("flops"),
        "compile_seconds": seconds,
        **{f"{size}_bytes": getattr(memory, f"{size}_size_in_bytes", None) for size in sizes},
    }

    def run() -> None:
        nonlocal state, metrics
        state, metrics = compiled(state, metrics, *batch, order, guide)
        jax.block_until_ready((state, metrics))

    return Case(f"jax/{method}", run, program)


def make_guide(experiment: Experiment, images: np.ndarray) -> Any:
    """Random variables of the network that a mixup looks at."""
    guide = experiment.guide
    make = jax.jit(lambda x: guide.model.init(jax.random.key(0), guide.prepare(x)))
    return jax.device_put(make(experiment.normalize(images)), replicated(experiment.mesh))


def torch_case(args: argparse.Namespace, method: str, compile: bool) -> Case:
    """Builds the peer's step of a method."""
    import torch_step

    start, device = time.perf_counter(), "cuda" if jax.default_backend() == "gpu" else "cpu"
    step = torch_step.make_step(
        method, depth=TORCH_DEPTHS[args.model], stem=args.stem, num_classes=args.classes,
        batch_size=args.batch, image_size=args.image_size, width=args.width or 64, device=device,
        layer=int(args.layer.removeprefix("stage")), compile=compile,
        lam_embed=default_config().mixblock.lam_embed,
    )  # fmt: skip
    program = {"compile_seconds": time.perf_counter() - start if compile else None}

    def run() -> None:
        for _ in range(args.steps_per_dispatch):
            step()
        torch_step.synchronize(device)

    return Case(f"{'torch-compiled' if compile else 'torch'}/{method}", run, program)


def make_cases(args: argparse.Namespace, say: Callable[[str], None]) -> list[Case]:
    """Builds and compiles everything that will be timed."""
    cases = []
    for method in METHODS:
        say(f"compiling jax/{method} ...")
        cases.append(jax_case(args, method))
    for compile in (False, True)[: args.torch + args.torch_compile]:
        say(f"{'compiling' if compile else 'building'} the PyTorch steps ...")
        cases += [torch_case(args, method, compile) for method in METHODS]
    return cases


def run_rounds(cases: list[Case], args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Runs every case once a round and keeps the seconds of the rounds after the warm-up."""
    for i in range(-args.warmup, args.repeats):
        say(f"round {i + 1} of {args.repeats}" if i >= 0 else f"warming up, {-i} rounds")
        for case in cases:
            wall, cpu = time.perf_counter(), time.process_time()
            case.run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if i >= 0:
                case.wall.append(wall / args.steps_per_dispatch)
                case.cpu.append(cpu / args.steps_per_dispatch)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and all values in the order of the rounds."""
    return {"median": median(values), "min": min(values), "max": max(values), "all": list(values)}


def ratios(case: Case, base: Case) -> dict[str, Any]:
    """What a step costs in units of another one, round by round; FLOPs where both have them."""
    flops, per = case.program.get("flops"), base.program.get("flops")
    wall = [a / b for a, b in zip(case.wall, base.wall, strict=True)]
    cpu = [a / max(b, 1e-9) for a, b in zip(case.cpu, base.cpu, strict=True)]
    return {"wall": summary(wall), "cpu": summary(cpu), "flops": flops and per and flops / per}


def describe(case: Case, cases: dict[str, Case], batch: int) -> dict[str, Any]:
    """All numbers of a step."""
    ours = cases["jax/" + case.name.split("/")[1]]
    return case.program | {
        "wall_seconds": summary(case.wall),
        "cpu_seconds": summary(case.cpu),
        "images_per_second": batch / median(case.wall),
        "to_vanilla": ratios(case, cases[case.name.split("/")[0] + "/vanilla"]),
        "to_jax": None if case is ours else ratios(case, ours),
    }


def make_report(args: argparse.Namespace, cases: list[Case], load: Sequence[Any]) -> dict[str, Any]:
    """What the JSON file holds."""
    torch, config = sys.modules["torch"] if args.torch else None, make_config(args)
    by_name = {case.name: case for case in cases}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "settings": vars(args) | {
            "dtype": compute_dtype(config).name, "out": args.out and str(args.out),
            "augmentation": "flip, crop padded by 4 pixels" if config.data.flip else "none",
        },
        "environment": {
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "backend": jax.default_backend(), "cpu_count": os.cpu_count(),
            "python": platform.python_version(), "jax": jax.__version__, "flax": flax.__version__,
            "torch": torch and str(torch.__version__), "load_before": load[0],
            "torch_threads": torch and torch.get_num_threads(), "load_after": load[1],
        },
        "process_peak_bytes": {
            "jax_device": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
            "torch_device": (torch and torch.cuda.max_memory_allocated()) or None,
            "host_rss": rss * (1 if sys.platform == "darwin" else 1024),
        },
        "steps": {name: describe(case, by_name, args.batch) for name, case in by_name.items()},
        "notes": NOTES,
    }  # fmt: skip


def show(report: dict[str, Any]) -> None:
    """Prints the report."""

    def cell(step: dict[str, Any], path: str, unit: float) -> str:
        value = functools.reduce(lambda found, key: found and found.get(key), path.split("/"), step)
        value = None if value is None else value / unit
        return "-" if value is None else f"{value:.4g}" if value < 9999 else f"{value:.0f}"

    console = Console(width=max(Console().width, 116))
    for title, columns in TABLES.items():
        table = Table("", *(Column(header, justify="right") for header in columns), title=title)
        for name, step in report["steps"].items():
            table.add_row(name, *(cell(step, *where) for where in columns.values()))
        console.print(table)
    for part in ("settings", "environment", "process_peak_bytes"):
        print(f"{part}:", ", ".join(f"{k} {v}" for k, v in report[part].items() if v is not None))
    print("* " + "\n* ".join(report["notes"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    args, before = parse_args(argv), os.getloadavg()
    try:
        check(args)
        with Console(stderr=True).status("starting") as status:
            cases = make_cases(args, status.update)
            run_rounds(cases, args, status.update)
    except AutoMixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report = make_report(args, cases, (before, os.getloadavg()))
    show(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

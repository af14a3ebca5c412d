"""What AutoMix costs on every backbone, and whether MixBlock learns on each.

For each network, at the image size of its recipe: parameters, FLOPs of a step over those of a
vanilla step, memory of the compiled step, and twenty AutoMix steps on one batch with the same draws
and a frozen teacher, in which MixBlock's own loss has to fall. Prints a Markdown table.
"""

import argparse
import dataclasses
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # automix_jax of this checkout

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console

from automix_jax import config as config_lib
from automix_jax.data import Facts
from automix_jax.errors import AutoMixError, ConfigError
from automix_jax.models import list_models, model_options
from automix_jax.train.build import build, compute_dtype, named_key, replicated
from automix_jax.train.metrics import compute
from automix_jax.validation import validate

SMALL = ("resnet8", "wrn28_8", "wrn28_10")  # for images of 32 x 32
CLASSES = {32: 100, 224: 1000}


@dataclasses.dataclass(frozen=True)
class Network:
    """A backbone at the image size of its recipe."""

    name: str
    stem: str
    size: int

    @property
    def title(self) -> str:
        """What its row is called."""
        stem = ", CIFAR stem" if self.stem == "cifar" else ""
        return f"{self.name}{stem}, {self.size}²"


def networks(names: Sequence[str]) -> list[Network]:
    """Every network, those with two stems at both sizes."""
    result = []
    for name in names:
        stems = "stem" in model_options(name)
        if stems or name in SMALL:
            result.append(Network(name, "cifar" if stems else "", 32))
        if name not in SMALL:
            result.append(Network(name, "imagenet" if stems else "", 224))
    return result


def make_config(network: Network, method: str, args: argparse.Namespace) -> ConfigDict:
    """A run's configuration whose teacher stands still."""
    config = config_lib.default_config()
    config.batch_size, config.compute_dtype = args.batch, args.dtype
    config.data.flip, config.data.padding = False, 0
    config.data.mean, config.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.model.name, config.model.stem = network.name, network.stem
    config.method.name = method
    config.teacher.enabled = method == "automix"
    config.teacher.momentum = 1.0
    config.optimizer.lr = 0.01
    config.optimizer.mixblock_lr = args.mixblock_lr
    validate(config, jax.device_count())
    return config


def load_images(folder: Path | None, size: int, count: int) -> np.ndarray:
    """The first photographs of a folder, or noise."""
    if folder is None:
        shape = (count, size, size, 3)
        return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))
    if len(paths) < count:
        raise ConfigError(f"--images={folder} has {len(paths)} JPEG files: {count} are needed.")
    resized = [Image.open(path).convert("RGB").resize((size, size)) for path in paths[:count]]
    return np.stack([np.asarray(image) for image in resized])


def measure(network: Network, args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of a network."""
    classes = CLASSES[network.size]
    images = load_images(args.images, network.size, args.batch)
    labels = np.arange(args.batch, dtype=np.int32) * 7 % classes
    facts = Facts("batch", tuple(map(str, range(classes))), images.shape[1:], args.batch, 1)
    lowered, seconds, programs = {}, {}, {}
    for method in ("vanilla", "automix"):
        experiment = build(make_config(network, method, args), facts)
        everywhere = replicated(experiment.mesh)
        batch = jax.device_put((images, labels), everywhere)
        order = jax.device_put(
            np.arange(args.batch, dtype=np.int32)[None],
            NamedSharding(experiment.mesh, PartitionSpec(None, "data")),
        )
        key = named_key(0, "state")
        shapes = jax.eval_shape(experiment.create, key)
        metrics = jax.eval_shape(experiment.create_metrics)
        lowered[method] = experiment.run_steps.lower(shapes, metrics, *batch, order, None)
        start = time.perf_counter()
        programs[method] = lowered[method].compile()
        seconds[method] = time.perf_counter() - start

    flops = {method: step.cost_analysis()["flops"] / args.batch for method, step in lowered.items()}
    memory = {
        method: program.memory_analysis().temp_size_in_bytes for method, program in programs.items()
    }
    config = make_config(network, "automix", args)
    losses: list[float] = []
    state = experiment.create(key)
    start = time.perf_counter()
    for _ in range(args.steps):
        state, metrics = programs["automix"](
            state, experiment.create_metrics(), *batch, order, None
        )
        values = compute(metrics)
        losses.append(values["loss_generate"] + config.mask_loss.weight * values["loss_mask"])
        first = jax.device_put(jnp.zeros((), jnp.int32), everywhere)
        state = dataclasses.replace(state, step=first)  # the same draws again
    step_seconds = (time.perf_counter() - start) / args.steps
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))
    count = parameter_overview.count_parameters
    return {
        "network": network.title,
        "layer": config_lib.layer(config),
        "parameters": {name: int(count(params)) for name, params in state.params.items()},
        "flops_per_image": flops,
        "flops_ratio": flops["automix"] / flops["vanilla"],
        "temp_bytes_per_image": {method: value / args.batch for method, value in memory.items()},
        "compile_seconds": seconds,
        "step_seconds": step_seconds,
        "mixblock_losses": losses,
        "finite": finite,
        "falls": losses[-1] < losses[0],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = [
        "| network | layer | student, M | MixBlock, M | GFLOP an image, vanilla → AutoMix | ratio |"
        " temporaries an image, MB | MixBlock's loss, first → last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        parameters, flops, memory = (
            row["parameters"],
            row["flops_per_image"],
            row["temp_bytes_per_image"],
        )
        losses = row["mixblock_losses"]
        lines.append(
            f"| {row['network']} | {row['layer']} | {parameters['student'] / 1e6:.2f} |"
            f" {parameters['mixblock'] / 1e6:.3f} | {flops['vanilla'] / 1e9:.2f} →"
            f" {flops['automix'] / 1e9:.2f} | {row['flops_ratio']:.2f} |"
            f" {memory['vanilla'] / 1e6:.0f} → {memory['automix'] / 1e6:.0f} |"
            f" {losses[0]:.4f} → {losses[-1]:.4f} |"
        )
    return "\n".join(lines)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser("backbones.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--models", nargs="+", choices=list_models(), default=list_models(), metavar="NAME",
        help=f"default: all of {', '.join(list_models())}")  # fmt: skip
    add("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    add("--steps", type=int, default=20, help="on the one batch (default: %(default)s)")
    add("--mixblock-lr", type=float, default=0.1, help="(default: %(default)s)")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    add("--images", type=Path, metavar="DIR", help="JPEG photographs for the batch; else noise")
    add("--out", type=Path, metavar="FILE.json", help="write everything to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code, 1 where a loss did not fall."""
    args = parse_args(argv)
    rows: list[dict[str, Any]] = []
    report = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "batch": args.batch,
        "rows": rows,
    }
    try:
        with Console(stderr=True).status("starting") as status:
            for network in networks(args.models):
                status.update(network.title)
                rows.append(measure(network, args))
                report["dtype"] = compute_dtype(make_config(network, "automix", args)).name
                if args.out:
                    args.out.write_text(json.dumps(report, indent=1) + "\n")
    except AutoMixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(rows))
    return 0 if all(row["finite"] and row["falls"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What an AutoMix step holds on a device: state, and activations with and without what saves them.

    python benchmarks/memory.py --out docs/results/memory.json
    python benchmarks/memory.py --compile r18      # and what XLA's program for this CPU holds

Activations are what the forward pass keeps for the backward pass, counted in the traced step: the
same on any hardware, and an upper bound, since XLA computes some of it again where it fuses. FLOPs
are those of the lowered step. Nothing is run.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # automix_jax of this checkout

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from automix_jax import recipes
from automix_jax.data import Facts
from automix_jax.objective import Frozen
from automix_jax.train import memory
from automix_jax.train.build import Experiment, build, compute_dtype, make_mesh
from automix_jax.train.sharding import bytes_per_device, described, state_shardings

ROOT = Path(__file__).resolve().parents[1]
GROUPS = 4  # of the batch of a device: as many parts as it can be taken in
CASES = {  # recipe, images a device, their side, classes
    "r18": ("configs/cifar100_r18.py", 100, 32, 100),
    "r50": ("configs/imagenet_r50.py", 64, 224, 1000),
    "deit_s": ("configs/imagenet_deit_s.py", 128, 224, 1000),
}
# XLA's CPU backend undoes rematerialisation, but for this.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def make_config(case: str, remat: bool, accumulation: int = 1) -> ConfigDict:
    """The recipe's configuration for one device, in GPUs' and TPUs' precision."""
    recipe, batch, _, _ = CASES[case]
    config = recipes.load_config(str(ROOT / recipe))
    config.batch_size, config.num_groups, config.accumulation = batch, GROUPS, accumulation
    config.compute_dtype = "bfloat16"
    config.model.remat = remat
    return config


def make_experiment(case: str, config: ConfigDict) -> Experiment:
    """The step on images of the case's shape."""
    _, batch, side, classes = CASES[case]
    names = tuple(map(str, range(classes)))
    facts = Facts("shapes", names, (side, side, 3), 100 * batch, batch)
    return build(config, facts, make_mesh(jax.devices()[:1]))


def kept(experiment: Experiment, groups: int, size: int, side: int) -> int:
    """Bytes that the forward pass keeps of some groups, beside the parameters that it reads."""
    state, objective = experiment.state_template(), experiment.objective
    frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats)
    images = jax.ShapeDtypeStruct((groups * size, side, side, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((groups * size,), jnp.int32)
    draws = jax.eval_shape(
        lambda: objective.draw(jax.random.split(jax.random.key(0), groups), size)
    )

    def backward(params, frozen, images, labels, draws, step):
        inputs = {id(leaf) for leaf in jax.tree.leaves((params, frozen))}
        found = jax.vjp(
            lambda params: objective.loss(params, frozen, images, labels, draws, step),
            params,
            has_aux=True,
        )[1]
        arrays = {id(leaf): leaf for leaf in jax.tree.leaves(found)}  # each of them once
        return [leaf for key, leaf in arrays.items() if key not in inputs]

    found = jax.eval_shape(backward, state.params, frozen, images, labels, draws, state.step)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in found)


def lower(case: str, experiment: Experiment) -> jax.stages.Lowered:
    """The step on a streamed batch, from shapes."""
    _, batch, side, _ = CASES[case]
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    templates = experiment.state_template(), experiment.metrics_template()
    return experiment.run_steps.lower(*templates, images, labels, None, None)


def measure(case: str) -> dict[str, Any]:
    """The figures of a case, in bytes and FLOPs of one device."""
    _, batch, side, _ = CASES[case]
    plain, ours = (make_experiment(case, make_config(case, remat)) for remat in (False, True))
    state = plain.state_template()
    shards = described(state, state_shardings(state, make_mesh(), fsdp=True))
    size = batch // GROUPS
    return {
        "batch": batch,
        "side": side,
        "dtype": compute_dtype(make_config(case, False)).name,
        "state": bytes_per_device(state),
        "state_fsdp": bytes_per_device(shards),
        "gradients": bytes_per_device(state.params),
        "kept": kept(plain, GROUPS, size, side),
        "kept_remat": kept(ours, GROUPS, size, side),
        "kept_parts": kept(plain, 1, size, side),
        "kept_remat_parts": kept(ours, 1, size, side),
        "flops": lower(case, plain).cost_analysis()["flops"],
        "flops_remat": lower(case, ours).cost_analysis()["flops"],
    }


def compile_case(case: str) -> dict[str, int]:
    """Bytes of the temporaries of the program for this CPU, in float32 as CPUs compute."""
    found = {}
    for accumulation in (1, GROUPS):
        for remat in (False, True):
            config = make_config(case, remat, accumulation)
            config.compute_dtype = "float32"
            lowered = lower(case, make_experiment(case, config))
            estimate = memory.estimate(lowered.compile(compiler_options=KEEP_BARRIERS))
            assert estimate is not None  # a CPU's compiler gives an account
            name = f"{'remat' if remat else 'plain'}_{accumulation}"
            found[name] = estimate.temporaries
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser("memory.py", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--compile", nargs="+", choices=CASES, default=[])
    args = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", 8)  # that fsdp splits the state among
    report: dict[str, Any] = {"jax": jax.__version__, "groups": GROUPS, "devices_fsdp": 8}
    report["cases"] = {case: measure(case) for case in args.cases}
    report["compiled_float32"] = {case: compile_case(case) for case in args.compile}
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

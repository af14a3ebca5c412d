"""Our backbones against their PyTorch originals, live: every number of every feature map.

    python -m tests.live_backbones [--cases KEY ...]     # keys of tests/originals.py; all of them

Needs PyTorch, torchvision and timm, which the tests do without: `tests/test_backbones.py` compares
samples that were recorded. Each case runs with the same weights and images on both sides; then our
weights go into a fresh original by way of a .pth file, which has to give the same logits.

Prints a line a case, each deviation as a share of the root mean square of what it deviates from:

    float64   the largest of any element of logits and feature maps; below 1e-9
    float32   the same, from PyTorch's float32; below 1e-5
    back      largest of logits of the original that read our file; below 1e-5

Single elements of float32 maps may be further apart where PyTorch's own float32 is as far from its
float64 (`own`): two roundings, at most twice that. Then logits, and the norm of each map's
difference over its norm, have to be below 1e-5.

Exits with 1 if a limit is exceeded.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from automix_jax.weights import from_state_dict, to_state_dict, write_pth
from tests import originals
from tests.conftest import x64
from tests.test_backbones import run

LIMITS = {"float64": 1e-9, "float32": 1e-5, "back": 1e-5}
LIBRARIES = ("torch", "torchvision", "timm")
# As users compute, optimised; `tests.conftest`, which is imported above, is for compiling fast. JAX
# reads them when it makes its first array.
FLAGS = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=3"


def worst(found, expected):
    """The largest difference of any element, as a share of the root mean square expected."""
    found, expected = (np.asarray(array, np.float64) for array in (found, expected))
    if found.shape != expected.shape:
        return np.inf
    gap = np.abs(found - expected).max() / np.sqrt(np.square(expected).mean())
    return float(gap) if np.isfinite(gap) else np.inf


def relative_norm(found, expected):
    """The norm of the difference over the norm expected."""
    found, expected = (np.asarray(array, np.float64) for array in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def named(logits, features):
    return {"logits": logits, **features}


def deviations(case):
    """The deviations of a case by kind."""
    exact = named(*originals.outputs(case, "float64"))
    rounded = named(*originals.outputs(case, "float32"))
    with x64():
        wide = named(*run(case, jnp.float64))
        assert wide["logits"].dtype == np.float64
        wide = {name: np.asarray(array) for name, array in wide.items()}
    narrow = named(*run(case, jnp.float32))
    assert wide.keys() == narrow.keys() == exact.keys()
    assert all(array.dtype == np.float32 for array in narrow.values())
    return {
        "float64": max(worst(wide[name], exact[name]) for name in exact),
        "float32": max(worst(narrow[name], rounded[name]) for name in exact),
        "own": max(worst(rounded[name], exact[name]) for name in exact),
        "logits": worst(narrow["logits"], rounded["logits"]),
        "norm": max(relative_norm(narrow[name], rounded[name]) for name in exact),
    }


def there_and_back(case):
    """How far the logits of a fresh original with our weights are from the original's."""
    import torch

    model = originals.original(case)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    options = {"convention": "tf"} if case.stem == "tf" else {}
    pretrained, report = from_state_dict(state, case.name, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ours.pth"
        ours = to_state_dict(pretrained.model(), pretrained.variables, report.naming)
        write_pth(path, ours)
        loaded = torch.load(path, weights_only=True)
    fresh = originals.build(case)
    fresh.load_state_dict(loaded, strict=True)
    images = originals.images(case.size).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        found, expected = (net.eval()(torch.from_numpy(images)) for net in (fresh, model))
    return worst(found.numpy(), expected.numpy())


def check(case):
    """The line of a case, and whether it is within the limits."""
    start = time.perf_counter()
    values = deviations(case)
    within = values["float64"] < LIMITS["float64"]
    line = f"{case.key:28} float64 {values['float64']:.1e}  float32 {values['float32']:.1e}"
    limit = LIMITS["float32"]
    if values["float32"] >= limit:
        line += "".join(f", {kind} {values[kind]:.1e}" for kind in ("own", "logits", "norm"))
        within &= values["float32"] < 2 * values["own"]
        within &= max(values["logits"], values["norm"]) < limit
    if case.name.startswith("swin") and case.size < 224:
        line += "  back: timm's tables are smaller"
    else:
        values["back"] = there_and_back(case)
        within &= values["back"] < LIMITS["back"]
        line += f"  back {values['back']:.1e}"
    return f"{line}  {time.perf_counter() - start:.0f} s{'' if within else '  ABOVE'}", within


def main(arguments):
    """Compares; returns the exit code."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    import torch

    os.environ["XLA_FLAGS"] = FLAGS
    cases = {case.key: case for case in originals.CASES}
    parser = argparse.ArgumentParser(description="Our backbones against their originals.")
    parser.add_argument(
        "--cases", nargs="+", metavar="KEY", choices=tuple(cases), default=tuple(cases)
    )
    torch.set_num_threads(1)
    print(", ".join(f"{name} {version}" for name, version in originals.versions().items()))
    failed = 0
    for key in parser.parse_args(arguments).cases:
        line, within = check(cases[key])
        failed += not within
        print(line, flush=True)
    print(f"{failed} above the limits" if failed else "all within the limits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

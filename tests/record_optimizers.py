"""Ten steps of PyTorch's and timm's optimizers, to hold ours against without PyTorch.

    python -m tests.record_optimizers --record      # writes tests/data/optimizers.npz
    python -m tests.record_optimizers --compare     # recomputes; exits 1 above 1e-12

Both need PyTorch and timm; `recorded`, `CASES` and the rest need NumPy only. Student and MixBlock
are parameters of one optimizer, with learning rates of their own, as in the authors' code. Their
gradients are random, with norms over both together from 0.1 to 10; one kernel starts at 0, another
starts at 0 and has no gradient.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = Path(__file__).parent / "data" / "optimizers.npz"
DTYPES = ("float32", "float64")
STEPS = 10
SHAPES = {
    "student/stem/kernel": (2, 2, 2, 3),
    "student/stem/bias": (3,),
    "student/norm/scale": (3,),
    "student/zero/kernel": (3, 2),
    "student/unused/kernel": (2, 2),
    "mixblock/query/kernel": (1, 1, 5, 3),
    "mixblock/query/bias": (3,),
}
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer with its settings."""

    optimizer: str  # sgd, adamw, lamb
    lr: float  # of the student at the start; it falls to a tenth, and MixBlock's is half of it
    weight_decay: float
    decay: str = "kernels"  # all, kernels
    momentum: float = 0.0
    clip: float = 0.0

    def rates(self, group: str) -> np.ndarray:
        """The learning rate of each step."""
        return np.linspace(1, 0.1, STEPS) * self.lr * (0.5 if group == "mixblock" else 1)


CASES = {
    "sgd": Case("sgd", 0.1, 1e-2, "all", 0.9),
    "sgd_kernels": Case("sgd", 0.1, 1e-2, "kernels", 0.9),
    "sgd_no_momentum": Case("sgd", 0.1, 1e-2, "all"),
    "sgd_clip": Case("sgd", 0.1, 1e-2, "all", 0.9, clip=1.0),
    "adamw": Case("adamw", 1e-2, 0.05),
    "adamw_all_clip": Case("adamw", 1e-2, 0.05, "all", clip=5.0),
    "lamb": Case("lamb", 8e-3, 0.02),
    "lamb_all": Case("lamb", 8e-3, 0.02, "all"),
    "lamb_no_decay": Case("lamb", 8e-3, 0.0),
}


def start() -> Arrays:
    """The parameters before the first step."""
    rng = np.random.RandomState(0)
    return {
        name: np.zeros(shape) if "zero" in name or "unused" in name else rng.standard_normal(shape)
        for name, shape in SHAPES.items()
    }


def gradients(step: int) -> Arrays:
    """What the parameters' gradients are in a step."""
    rng = np.random.RandomState(1 + step)
    grads = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    grads["student/unused/kernel"] = np.zeros(SHAPES["student/unused/kernel"])
    norm = np.sqrt(sum(np.square(grad).sum() for grad in grads.values()))
    scale = 10 ** np.linspace(-1, 1, STEPS)[(3 * step) % STEPS]
    return {name: scale / norm * grad for name, grad in grads.items()}


def recorded(case: str, dtype: str) -> Arrays:
    """The parameters after each step, [STEPS, ...]."""
    with np.load(ARRAYS) as arrays:
        return {name: arrays[f"{case}/{dtype}/{name}"] for name in SHAPES}


def original(case: Case, dtype: str) -> Arrays:
    """The same, of PyTorch and timm."""
    import torch
    from timm.optim.lamb import Lamb

    params = {
        name: torch.nn.Parameter(torch.tensor(value.astype(dtype)))
        for name, value in start().items()
    }
    groups: list[dict[str, Any]] = [
        {
            "params": [param],
            "lr": case.lr,
            "weight_decay": case.weight_decay
            if case.decay == "all" or name.endswith("kernel")
            else 0.0,
        }
        for name, param in params.items()
    ]
    optimizer: torch.optim.Optimizer
    if case.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=case.momentum)
    else:
        optimizer = {"adamw": torch.optim.AdamW, "lamb": Lamb}[case.optimizer](groups)
    after: dict[str, list[np.ndarray]] = {name: [] for name in SHAPES}
    for step in range(STEPS):
        for (name, grad), group in zip(
            gradients(step).items(), optimizer.param_groups, strict=True
        ):
            params[name].grad = torch.tensor(grad.astype(dtype))
            group["lr"] = float(case.rates(name.split("/")[0])[step])
        if case.clip:
            torch.nn.utils.clip_grad_norm_(params.values(), case.clip)
        optimizer.step()
        for name, param in params.items():
            after[name].append(param.detach().numpy().copy())
    return {name: np.stack(values) for name, values in after.items()}


def main(arguments: list[str]) -> int:
    """Records, or compares what was recorded with a fresh computation."""
    if arguments not in (["--record"], ["--compare"]):
        print(__doc__)
        return 2
    fresh = {
        f"{case}/{dtype}/{name}": value
        for case, settings in CASES.items()
        for dtype in DTYPES
        for name, value in original(settings, dtype).items()
    }
    if arguments == ["--record"]:
        np.savez_compressed(ARRAYS, **fresh)
        return 0
    worst = dict.fromkeys(DTYPES, 0.0)
    for case in CASES:
        for dtype in DTYPES:
            for name, value in recorded(case, dtype).items():
                deviation = np.abs(value - fresh[f"{case}/{dtype}/{name}"]).max()
                worst[dtype] = max(worst[dtype], float(deviation))
    print(worst)
    return int(worst["float64"] > 1e-12 or worst["float32"] > 1e-6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""MixBlock and its losses in plain NumPy, one image after the other, to hold ours against.

    python -m tests.reference

records `tests/data/mixblock_reference.npz` anew. Nothing here is shared with the library: the
ratio is really concatenated to both feature maps, attention and resizing are written out.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).parent / "data" / "mixblock_reference.npz"
FORMS = ("l1", "l1_variance", "l2_variance", "sparsity")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(row: np.ndarray) -> np.ndarray:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def resize_nearest(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The grid cell under each pixel's centre."""
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(grid.shape, size, strict=True)
    )
    return grid[rows][:, columns]


def resize_bilinear(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Between the centres of grid cells; beyond the outermost centres their value goes on."""
    out = np.zeros(size)
    for r, c in np.ndindex(*size):
        y = np.clip((r + 0.5) * grid.shape[0] / size[0] - 0.5, 0, grid.shape[0] - 1)
        x = np.clip((c + 0.5) * grid.shape[1] / size[1] - 0.5, 0, grid.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
        above = (1 - (x - left)) * grid[top, left] + (x - left) * grid[top, right]
        below = (1 - (x - left)) * grid[bottom, left] + (x - left) * grid[bottom, right]
        out[r, c] = (1 - (y - top)) * above + (y - top) * below
    return out


def mixblock(
    params: dict[str, dict[str, np.ndarray]],
    features: np.ndarray,
    lam: Any,
    perm: np.ndarray,
    size: tuple[int, int],
    upsample: str = "nearest",
) -> np.ndarray:
    """The mask [B, H, W, 1] of the own image, from parameters named and shaped as in Flax."""
    batch, height, width, channels = features.shape
    lam = np.broadcast_to(lam, batch)
    weights = {name: p["kernel"].reshape(p["kernel"].shape[2:]) for name, p in params.items()}
    key_name = "key" if "key" in params else "query"
    masks = []
    for i, j in enumerate(perm):
        own, partner = (features[n].reshape(height * width, channels) for n in (i, j))
        if len(weights["query"]) == channels + 1:
            own = np.column_stack([own, np.full(len(own), lam[i])])
            partner = np.column_stack([partner, np.full(len(partner), 1 - lam[i])])
        query = own @ weights["query"] + params["query"]["bias"]
        key = partner @ weights[key_name] + params[key_name]["bias"]
        value = partner @ weights["value"] + params["value"]["bias"]
        logits = np.zeros(height * width)
        for n, q in enumerate(query):
            logits[n] = softmax(key @ q / np.sqrt(len(q))) @ value[:, 0]
        grid = logits.reshape(height, width)
        resized = {"nearest": resize_nearest, "bilinear": resize_bilinear}[upsample](grid, size)
        masks.append(1 - sigmoid(resized))
    return np.stack(masks)[..., None]


def mix_images(images: np.ndarray, mask: np.ndarray, perm: np.ndarray) -> np.ndarray:
    mixed = [mask[i] * images[i] + (1 - mask[i]) * images[j] for i, j in enumerate(perm)]
    return np.stack(mixed)


def mask_loss(mask: np.ndarray, lam: Any, form: str, margin: float, per_sample: bool) -> float:
    """The mean over images of each one's loss, or one loss of all pixels together."""
    if per_sample:
        lam = np.broadcast_to(lam, len(mask))
        each = [mask_loss(mask[i : i + 1], lam[i], form, margin, False) for i in range(len(mask))]
        return float(np.mean(each))
    partner = 1 - mask  # the authors write their losses for the partner's mask
    mean = partner.mean()
    variance = ((partner - mean) ** 2).mean()
    if form == "l1":
        return max(abs(1 - mean - lam) - margin, 0)
    if form == "l1_variance":
        return max(abs(1 - mean - lam) - margin, 0) - 2 * variance
    if form == "l2_variance":
        return max((1 - mean - lam) ** 2 - margin**2, 0) - 2 * variance
    if form == "sparsity":
        return max(np.abs(partner * (partner - 1)).mean() - margin, 0)
    raise ValueError(form)


def central_differences(
    function: Callable[[np.ndarray], Any], x: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    """The derivative of a function's outputs [...] by every entry of x: [..., *x.shape]."""
    columns = []
    for index in np.ndindex(*x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += step
        behind[index] -= step
        columns.append((np.asarray(function(ahead)) - np.asarray(function(behind))) / (2 * step))
    stacked = np.stack(columns, -1)
    return stacked.reshape(*stacked.shape[:-1], *x.shape)


# -- problems ----------------------------------------------------------------------------------


def make_params(
    rng: np.random.Generator, channels: int, reduction: int, share_qk: bool, concat: bool
) -> dict[str, dict[str, np.ndarray]]:
    """Parameters big enough that masks are far from one half."""
    widths = {"query": channels // reduction, "value": 1}
    if not share_qk:
        widths["key"] = channels // reduction
    return {
        name: {
            "kernel": rng.standard_normal((1, 1, channels + concat, width)),
            "bias": rng.standard_normal(width),
        }
        for name, width in widths.items()
    }


CASES = tuple(itertools.product((1, 2), (True, False), ("concat", "none"), ("nearest", "bilinear")))


def recorded_problems() -> dict[str, np.ndarray]:
    """Inputs and outputs of all cases, stacked; their parameters one after the other."""
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("features", "lam", "perm", "mask", "losses", "params")
    }
    for n, (reduction, share_qk, lam_embed, upsample) in enumerate(CASES):
        rng = np.random.default_rng(n)
        params = make_params(rng, 4, reduction, share_qk, lam_embed == "concat")
        features, lam = rng.standard_normal((3, 2, 3, 4)), rng.uniform(0, 1, 3)
        perm = np.roll(np.arange(3), 1 + n % 2)
        mask = mixblock(params, features, lam, perm, (4, 6), upsample)
        losses = np.array([mask_loss(mask, lam, form, 0.1, True) for form in FORMS])
        leaves = [leaf.ravel() for module in params.values() for leaf in module.values()]
        row = (features, lam, perm, mask, losses, np.concatenate(leaves))
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    params_column = columns.pop("params")
    stacked = {name: np.stack(column) for name, column in columns.items()}
    return stacked | {"params": np.concatenate(params_column)}


def recorded_params(flat: np.ndarray) -> list[dict[str, dict[str, np.ndarray]]]:
    """The parameters of each case, out of the recorded vector."""
    cases, start = [], 0
    for reduction, share_qk, lam_embed, _ in CASES:
        rng = np.random.default_rng(0)
        params = make_params(rng, 4, reduction, share_qk, lam_embed == "concat")
        for module in params.values():
            for leaf, like in module.items():
                module[leaf] = flat[start : start + like.size].reshape(like.shape)
                start += like.size
        cases.append(params)
    return cases


def record() -> None:
    """Writes the file that `tests/test_mixblock.py` reads."""
    RECORDED.parent.mkdir(exist_ok=True)
    np.savez_compressed(RECORDED, **recorded_problems())


if __name__ == "__main__":
    record()

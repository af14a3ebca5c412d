"""Compares this implementation with numbers recorded from the authors' PyTorch code.

    python -m tests.parity DIR

DIR holds `cases.json` and recorded training iterations (`CASE_init_f64.npz` and `CASE_itN_f64.npz`
with full arrays, or one `CASE_f64.npz` with norms and first values of each) and recorded MixBlock
outputs (`mixblock_*.npz`). Prints the worst relative deviation by file and quantity: the greatest
absolute difference over the greatest absolute recorded value of a tensor. Files of other kinds are
passed over. Exits 1 when a float64 file is above 1e-8 or none was found.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

from automix_jax.attention import attend_naive
from automix_jax.automix import AutoMix, AutoMixDraws
from automix_jax.mixblock import MixBlock, mask_loss, mix_images
from automix_jax.models import Classifier, create_model
from automix_jax.objective import Frozen
from automix_jax.optim import by_group, sgd
from automix_jax.train.state import TrainState
from automix_jax.train.step import train_step

LIMIT = 1e-8  # float64; float32 files are shown, not judged: batch norm over six images drifts
Arrays = Mapping[str, np.ndarray]
Worst = dict[str, tuple[float, str]]  # quantity -> (deviation, the tensor's name)


def default_folder() -> Path | None:
    """Where the vectors are: $AUTOMIX_PARITY_DIR, else ../shared/parity, else None."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("AUTOMIX_PARITY_DIR", root.parent / "shared" / "parity"))
    return folder if (folder / "cases.json").is_file() else None


# -- layouts: the authors' NCHW, OIHW, (out, in) and names against ours ---------------------------


def to_ours(value: np.ndarray) -> np.ndarray:
    """A PyTorch weight in Flax's layout."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def to_theirs(value: np.ndarray) -> np.ndarray:
    """A Flax weight in PyTorch's layout."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 else value


def nchw(value: Any) -> np.ndarray:
    return np.asarray(value).transpose(0, 3, 1, 2)


_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def our_path(key: str) -> tuple[str, ...]:
    """Where the authors' state key lives in ours: (tree, *path), tree a name of `TrainState`.

    Raises:
        KeyError: for a key without a counterpart.
    """
    module, *rest = key.split(".")
    leaf = rest[-1]
    if module == "mix_block":
        return "params", "mixblock", rest[0], {"weight": "kernel", "bias": "bias"}[leaf]
    owner = {"q": ("params", "student"), "k": ("teacher",)}[module[-1]]
    if module.startswith("head"):
        head = {"head_one": "head_clean", "head_mix": "head_mix"}[module[:-2]]
        return *owner, head, {"weight": "kernel", "bias": "bias"}[leaf]
    layer = rest[:-1]
    if layer[0].startswith("layer"):
        block = f"stage{layer[0][5:]}_block{int(layer[1]) + 1}"
        if layer[2] == "downsample":
            name = {"0": "shortcut_conv", "1": "shortcut_bn"}[layer[3]]
        else:
            name = layer[2]
        path = (block, name)
    else:
        path = ({"conv1": "stem_conv", "bn1": "stem_bn"}[layer[0]],)
    if "conv" in path[-1]:
        return *owner, "backbone", *path, "kernel"
    if leaf.startswith("running"):
        owner = {"q": ("student_stats",), "k": ("teacher_stats",)}[module[-1]]
    return *owner, "backbone", *path, _NORM[leaf]


def insert(tree: dict, path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def lookup(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


# -- comparing ---------------------------------------------------------------------------------


def deviation(ours: Any, recorded: np.ndarray) -> float:
    """Greatest absolute difference over greatest recorded absolute value; NaN is infinite."""
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    if ours.shape != recorded.shape:
        raise ValueError(f"shape {ours.shape} against the recorded {recorded.shape}")
    scale = np.abs(recorded).max() or 1.0
    worst = np.abs(ours - recorded).max() / scale
    return float(worst) if np.isfinite(worst) else float("inf")


# How a reduced file writes a tensor: suffix -> what it keeps of it.
_REDUCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda x: x,
    ".norm": lambda x: np.linalg.norm(x.astype(np.float64).ravel()),
    ".first8": lambda x: x.ravel()[:8],
    ".sum_chw": lambda x: x.reshape(len(x), -1).sum(1),
    ".samples0-1": lambda x: x[:2],
}


class Comparison:
    """Collects the worst deviation of each quantity against one file."""

    def __init__(self, recorded: Arrays):
        self.recorded = recorded
        self.worst: Worst = {}

    def add(self, quantity: str, key: str, ours: Any) -> bool:
        """Compares with every recorded form of `key`; returns whether there was any."""
        found = [suffix for suffix in _REDUCTIONS if key + suffix in self.recorded]
        for suffix in found:
            value = deviation(_REDUCTIONS[suffix](np.asarray(ours)), self.recorded[key + suffix])
            if value >= self.worst.get(quantity, (-1.0, ""))[0]:
                self.worst[quantity] = (value, key + suffix)
        return bool(found)


# -- whole training iterations -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RecordedAutoMix(AutoMix):
    """AutoMix with recorded draws in the place of random ones."""

    draws: AutoMixDraws | None = None

    def draw(self, rngs, group_size):
        return self.draws


def make_objective(case: dict[str, Any]) -> RecordedAutoMix:
    """The authors' released settings for a case of `cases.json`."""
    backbone = create_model(
        f"resnet{case['depth']}",
        num_classes=0,
        stem=case["stem"],
        width=case["width"],
        bn_unbiased=True,
    )
    stride = 1 if case["stem"] == "cifar" else 4
    stage = int(np.log2(case["scale"] // stride)) + 1
    return RecordedAutoMix(
        model=Classifier(backbone, case["num_classes"]),
        mixblock=MixBlock(
            reduction=case["reduction"], lam_embed=case["lam_embed"], upsample=case["upsample"]
        ),
        layer=f"stage{stage}",
        mask_weight=optax.constant_schedule(0.0),
        mask_margin=case["margin"],
        mask_per_sample=False,
        lam_margin=case["lam_margin"],
        full_forward=True,
    )


def recipe_value(key: str, index: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The starting value of a reduced file's state key number `index`, in float32 throughout."""
    draw = np.random.RandomState(seed * 10000 + index).standard_normal(shape).astype(np.float32)
    tenth, fifth = np.float32(0.1), np.float32(0.2)
    if key.endswith("running_var"):
        return 1 + fifth * np.abs(draw)
    if key.endswith("running_mean") or key.startswith("mix_block") or ".fc." in key:
        return tenth * draw
    if draw.ndim == 4:
        return draw * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return 1 + fifth * draw if key.endswith("weight") else fifth * draw


def initial_state(case: dict[str, Any], init: Arrays | None, reduced: Arrays | None, dtype) -> dict:
    """The state before the first iteration, as nested dicts by the names of `TrainState`."""
    if init is not None:
        values = {key[5:]: value for key, value in init.items() if key.startswith("init/")}
    else:
        assert reduced is not None
        shapes = template_shapes(case)
        keys = [str(key) for key in reduced["meta/state_keys_sorted"]]
        seed = int(reduced["meta/seed"])
        values = {
            key: recipe_value(key, i, shapes[our_path(key)], seed)
            for i, key in enumerate(keys)
            if not key.endswith("num_batches_tracked")
        }
    tree: dict = {}
    for key, value in values.items():
        if not key.endswith("num_batches_tracked"):
            insert(tree, our_path(key), jnp.asarray(to_ours(value), dtype))
    return tree


def template_shapes(case: dict[str, Any]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The authors' shape of every tensor, by its path in ours, from our own modules."""
    objective = make_objective(case)
    images = jnp.zeros((1, case["image"], case["image"], 3))
    variables = jax.eval_shape(objective.model.init, jax.random.key(0), images)
    _, features = jax.eval_shape(objective.model.apply, variables, images)
    block = jax.eval_shape(
        lambda z: objective.mixblock.init(jax.random.key(0), z, method="project"),
        features[objective.layer],
    )
    trees = {
        ("params", "student"): variables["params"],
        ("teacher",): variables["params"],
        ("student_stats",): variables["batch_stats"],
        ("teacher_stats",): variables["batch_stats"],
        ("params", "mixblock"): block["params"],
    }
    return {
        (*owner, *path): to_theirs(np.empty(leaf.shape)).shape
        for owner, tree in trees.items()
        for path, leaf in flax.traverse_util.flatten_dict(tree).items()
    }


def run_step_case(
    case: dict[str, Any], init: Arrays | None, iterations: list[Arrays], dtype
) -> list[Worst]:
    """Trains through the recorded iterations; returns the worst deviations, one dict a file.

    With `init` each file holds one iteration, otherwise one file holds them all.

    Raises:
        ValueError: if an iteration lacks its gradients or the state after it.
    """
    base = make_objective(case)
    devices = jax.devices()[:1]
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    reduced = iterations[0] if init is None else None
    tree = initial_state(case, init, reduced, dtype)
    count = len(iterations)
    if reduced is not None:
        count = 1 + max(int(key[2 : key.index("/")]) for key in reduced if key.startswith("it"))
    files = iterations if init is not None else iterations * count
    for i, file in enumerate(files):
        for kind in ("grad", "after"):
            if not any(key.startswith(f"it{i}/{kind}/") for key in file):
                raise ValueError(f"iteration {i} has no {kind!r} entries")

    rates = {
        name: jnp.asarray([float(files[i][f"it{i}/lr_{key}"]) for i in range(count)], dtype)
        for name, key in (("student", "backbone"), ("mixblock", "mix_block"))
    }
    follow = jnp.asarray([1 - float(files[i][f"it{i}/momentum"]) for i in range(count)], dtype)
    weights = jnp.asarray([float(files[i][f"it{i}/mask_loss_weight"]) for i in range(count)], dtype)
    tx = by_group(
        {
            name: sgd(
                lambda step, rate=rate: rate[step],
                momentum=case["sgd_momentum"],
                weight_decay=case["weight_decay"],
            )
            for name, rate in rates.items()
        }
    )
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        opt_state=tx.init(tree["params"]),
        rng=jax.random.key(0),
        **tree,
    )

    def compute(state: TrainState, images, labels, draws: AutoMixDraws):
        objective = dataclasses.replace(base, draws=draws, mask_weight=lambda step: weights[step])
        frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats)
        (_, outcome), grads = jax.value_and_grad(objective.loss, has_aux=True)(
            state.params, frozen, images, labels, draws, state.step
        )
        state, _ = train_step(
            state,
            images,
            labels,
            objective=objective,
            tx=tx,
            ema_rate=lambda step: follow[step],
            preprocess=lambda rng, images: images,
            num_groups=1,
            mesh=mesh,
        )
        return state, grads, outcome

    compute = jax.jit(compute)
    comparisons = [Comparison(file) for file in iterations]
    for i in range(count):
        recorded = files[i]
        images = recorded.get(f"it{i}/img")
        if images is None:
            seed, size = int(recorded["meta/seed"]), case["image"]
            shape = (case["batch"], 3, size, size)
            draw = np.random.RandomState(seed * 1000 + 1 + i).standard_normal(shape)
            images = draw.astype(np.float32)
        lam = jnp.asarray(recorded[f"it{i}/lam"], dtype)
        draws = AutoMixDraws(
            lam_mixblock=lam[:1],
            lam_student=lam[1:],
            perm_mixblock=jnp.asarray(recorded[f"it{i}/index_mb"])[None],
            perm_student=jnp.asarray(recorded[f"it{i}/index_bb"])[None],
            rngs=jax.random.split(jax.random.key(0), (1, 4)),
        )
        state, grads, outcome = compute(
            state,
            jnp.asarray(images.transpose(0, 2, 3, 1), dtype),
            jnp.asarray(recorded[f"it{i}/label"]),
            draws,
        )
        comparison = comparisons[i] if init is not None else comparisons[0]
        compare_iteration(comparison, i, state, grads, outcome, weights[i])
    return [comparison.worst for comparison in comparisons]


def compare_iteration(comparison: Comparison, i: int, state, grads, outcome, weight) -> None:
    """Adds every quantity of one iteration that the file holds."""
    metrics, seen = outcome.metrics, outcome.intermediates
    for key, ours in {
        "loss_total": metrics["loss"],
        "loss_one_q": metrics["loss_clean"],
        "loss_mix_q": metrics["loss_mix"],
        "loss_mix_k": metrics["loss_generate"],
        "mask_loss_unweighted": metrics["loss_mask"],
        "mask_loss_weighted": weight * metrics["loss_mask"],
    }.items():
        comparison.add("loss", f"it{i}/{key}", ours)
    comparison.add("mask", f"it{i}/mask_mb", 1 - nchw(seen["mask"])[:, 0])
    comparison.add("mask", f"it{i}/mask_bb_raw", 1 - nchw(seen["student_mask"])[:, 0])
    comparison.add("mixed image", f"it{i}/img_mix_mb", nchw(seen["mixed"]))
    comparison.add("mixed image", f"it{i}/img_mix_bb", nchw(seen["student_mixed"]))
    comparison.add("teacher feature", f"it{i}/feature", nchw(seen["features"]))

    kinds = (
        ("gradient", f"it{i}/grad/", lambda path: lookup({"params": grads}, path)),
        ("after", f"it{i}/after/", lambda path: lookup(vars(state), path)),
        ("momentum buffer", f"it{i}/sgd_momentum_buffer/", lambda path: trace(state, path)),
    )
    for kind, prefix, ours in kinds:
        names = {_stem(key[len(prefix) :]) for key in comparison.recorded if key.startswith(prefix)}
        names = {name for name in names if not name.endswith("num_batches_tracked")}
        for name in sorted(names):
            path = our_path(name)
            quantity = kind
            if kind == "after":
                quantity = {
                    "params": "parameter",
                    "teacher": "teacher parameter",
                    "student_stats": "running statistic",
                    "teacher_stats": "running statistic",
                }[path[0]]
            comparison.add(quantity, prefix + name, to_theirs(np.asarray(ours(path))))


def trace(state: TrainState, path: tuple[str, ...]) -> Any:
    """The momentum buffer of a parameter; path is ("params", group, ...)."""
    buffer = state.opt_state.inner_states[path[1]].inner_state[1].trace
    return lookup(buffer, path[1:])


def _stem(key: str) -> str:
    return re.sub(r"\.(norm|first8)$", "", key)


# -- MixBlock alone ----------------------------------------------------------------------------


def run_mixblock_case(recorded: Arrays, dtype) -> Worst:
    """Compares MixBlock's outputs and gradients with one recorded case."""
    concat = bool(recorded["lam_concat"])
    block = MixBlock(
        reduction=int(recorded["reduction"]),
        lam_embed="concat" if concat else "none",
        upsample=str(recorded["mode"]),
    )
    size, scale = int(recorded["H"]), int(recorded["scale_factor"])
    batch, channels = int(recorded["N"]), int(recorded["C"])
    names = ("value.weight", "value.bias", "query.conv.weight", "query.conv.bias")
    if "in.z" in recorded:
        theirs = {name: recorded[f"w.{name}"] for name in names}
        features, images, cotangent = (recorded[f"in.{name}"] for name in ("z", "img", "G"))
    else:
        wide, depth = channels + concat, channels // int(recorded["reduction"])
        shapes = ((1, wide, 1, 1), (1,), (depth, wide, 1, 1), (depth,))
        seed, scale_by = int(recorded["seed"]), np.float32(recorded["wstd"])

        def draw(offset: int, *shape: int) -> np.ndarray:
            rng = np.random.RandomState(seed * 100 + offset)
            return rng.standard_normal(shape).astype(np.float32)

        theirs = {
            name: draw(i, *shape) * scale_by
            for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
        }
        features = np.maximum(draw(50, batch, channels, size, size), 0)
        images = draw(51, batch, 3, size * scale, size * scale)
        cotangent = draw(52, batch, 3, size * scale, size * scale)

    params: dict = {}
    for name, value in theirs.items():
        insert(params, our_path(f"mix_block.{name}")[2:], jnp.asarray(to_ours(value), dtype))
    features, images, cotangent = (
        jnp.asarray(x.transpose(0, 2, 3, 1), dtype) for x in (features, images, cotangent)
    )
    lam, perm = jnp.asarray(recorded["lam"], dtype), jnp.asarray(recorded["index"])
    form = {"L1": "l1", "L1+Variance": "l1_variance", "L2+Variance": "l2_variance"}.get(
        str(recorded["mask_loss_mode"]), str(recorded["mask_loss_mode"]).lower()
    )

    def image_loss(params, features):
        mask = block.apply({"params": params}, features, lam, perm, image_size=images.shape[1:3])
        mixed = mix_images(images, mask, perm)
        return 100 * (mixed * cotangent).mean(), (mask, mixed)

    def area_loss(params, features):
        _, (mask, _) = image_loss(params, features)
        margin = float(recorded["mask_loss_margin"])
        return mask_loss(mask, lam, form=form, margin=margin, per_sample=False)

    (loss, (mask, mixed)), image_grads = jax.jit(
        jax.value_and_grad(image_loss, argnums=(0, 1), has_aux=True)
    )(params, features)
    area, area_grads = jax.jit(jax.value_and_grad(area_loss, argnums=(0, 1)))(params, features)

    comparison = Comparison(recorded)
    projections = block.apply({"params": params}, features, method="project")
    value = projections.value[perm]
    query = projections.query
    if concat:
        query = query + lam * projections.lam_query
        value = value + (1 - lam) * projections.lam_value
    logits = attend_naive(query, projections.key[perm], value)
    identity = jnp.broadcast_to(jnp.eye(size * size, dtype=dtype), (batch, size**2, size**2))
    attention = jax.vmap(
        lambda column: attend_naive(query, projections.key[perm], column), in_axes=2, out_axes=2
    )(identity)
    grid = (batch, size, size)
    low = logits.reshape(batch, 1, size, size)
    partner = 1 - nchw(mask)[:, 0]
    comparison.add("value", "out.value_v", value.reshape(grid))
    comparison.add("attention", "out.attention", attention)
    comparison.add("attention", "out.attention_head", attention[:, :4])
    comparison.add("mask logit", "out.mask_low_logit", low)
    comparison.add("mask", "out.mask_low_sigmoid", jax.nn.sigmoid(low))
    comparison.add("mask", "out.mask1", partner)
    comparison.add("mask", "out.mask", np.stack([1 - partner, partner], 1))
    comparison.add("mask", "out.mask_mean_1", partner.mean())
    comparison.add("mixed image", "out.mixed", nchw(mixed))
    comparison.add("mixed image", "out.mixed_ch0_img0", mixed[0, :, :, 0])
    comparison.add("mixed image", "out.mixed_sum", mixed.sum((1, 2, 3)))
    comparison.add("loss", "out.L_img", loss)
    comparison.add("loss", "out.mask_loss", area)
    for scalar, grads in (("grad_img", image_grads), ("grad_maskloss", area_grads)):
        ours = {name: lookup(grads[0], our_path(f"mix_block.{name}")[2:]) for name in names}
        ours = {name: to_theirs(np.asarray(value)) for name, value in ours.items()}
        ours["z"] = nchw(grads[1])
        for name, value in ours.items():
            key, flat = f"{scalar}.{name}", value.astype(np.float64).ravel()
            probe = np.random.RandomState(77).standard_normal(flat.size).astype(np.float32)
            first = value[:16] if name != "z" else value[:, :16]
            added = comparison.add("gradient", key, value)
            added |= comparison.add("gradient", f"{key}.first16", first)
            # A projection is a sum with cancellation: it is judged on the gradient's own scale.
            if f"{key}.proj" in recorded:
                scale_of = max(float(recorded[f"{key}.norm"]), abs(float(recorded[f"{key}.proj"])))
                gap = abs(flat @ probe.astype(np.float64) - float(recorded[f"{key}.proj"]))
                gap = gap / scale_of if scale_of else gap
                if gap >= comparison.worst.get("gradient", (-1.0, ""))[0]:
                    comparison.worst["gradient"] = (gap, f"{key}.proj")
            if not added:
                raise ValueError(f"{key} is not in the file")
    return comparison.worst


# -- the folder --------------------------------------------------------------------------------


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive}


def merge(into: Worst, other: Worst) -> None:
    for quantity, (value, name) in other.items():
        if value >= into.get(quantity, (-1.0, ""))[0]:
            into[quantity] = (value, name)


def run_folder(folder: Path) -> Iterator[tuple[str, str, Worst]]:
    """Yields (file name, precision, worst deviations) for every file that this reader knows."""
    for path in sorted(folder.glob("mixblock_*_f*.npz")):
        precision = path.stem[-3:]
        recorded = load(path)
        cases = sorted({key.split("/")[0] for key in recorded if "/" in key})
        worst: Worst = {}
        for case in cases or [""]:
            prefix = f"{case}/" if case else ""
            part = {k[len(prefix) :]: v for k, v in recorded.items() if k.startswith(prefix)}
            merge(worst, run_mixblock_case(part, _dtype(precision)))
        yield path.name, precision, worst
    cases = json.loads((folder / "cases.json").read_text())
    for name, case in cases.items():
        for precision in case["precisions"]:
            if case["form"] == "reduced":
                paths, init = [folder / f"{name}_{precision}.npz"], None
            else:
                init_path = folder / f"{name}_init_{precision}.npz"
                paths = sorted(folder.glob(f"{name}_it[0-9]*_{precision}.npz"))
                init = load(init_path) if init_path.is_file() else None
            if not paths or not all(path.is_file() for path in paths):
                continue
            worsts = run_step_case(case, init, [load(path) for path in paths], _dtype(precision))
            for path, worst in zip(paths, worsts, strict=True):
                yield path.name, precision, worst


def _dtype(precision: str):
    return {"f64": jnp.float64, "f32": jnp.float32}[precision]


def main(arguments: list[str]) -> int:
    """Prints the comparison of a folder; returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    folder = Path(arguments[0])
    if not (folder / "cases.json").is_file():
        print(f"{folder} has no cases.json: give the folder that holds the recorded vectors.")
        return 1
    judged, failed = 0, 0
    for name, precision, worst in run_folder(folder):
        print(f"{name} ({precision})")
        for quantity, (value, tensor) in worst.items():
            bad = precision == "f64" and not value <= LIMIT
            print(f"  {quantity:18} {value:9.2e}  {tensor}{'  ABOVE ' + str(LIMIT) if bad else ''}")
            failed += bad
        judged += precision == "f64"
    print(f"{judged} float64 files, {failed} quantities above {LIMIT}")
    return 1 if failed or not judged else 0


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(main(sys.argv[1:]))

"""The PyTorch peer of the benchmark computes AutoMix: checked against recorded training steps."""

from __future__ import annotations

import importlib.util
import math
import os
import pathlib
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed, so the benchmark's peer step cannot be checked"
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
VECTORS = pathlib.Path(os.environ.get("AUTOMIX_PARITY_DIR") or ROOT.parent / "shared" / "parity")
STEP = "automix_step_cifar_r18w4_{}_f64.npz"
LOSSES = {
    "total": "loss_total",
    "mixed": "loss_mix_q",
    "clean": "loss_one_q",
    "generator": "loss_mix_k",
    "mask": "mask_loss_unweighted",
}


def load_peer() -> types.ModuleType:
    """The module under test; `benchmarks` is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location("torch_step", ROOT / "benchmarks/torch_step.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


peer = load_peer()


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Small arrays gain nothing from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of a recorded file; skips the test where there is none."""
    path = VECTORS / name
    if not path.is_file():
        pytest.skip(f"the recorded vectors {path} are not there; set AUTOMIX_PARITY_DIR")
    with np.load(path) as arrays:
        return dict(arrays)


def own_name(key: str) -> str:
    """Our name of a recorded state key."""
    module, rest = key.split(".", 1)
    if module == "mix_block":
        return "mix_block." + rest.replace("query.conv.", "query.")
    part, network = module.rsplit("_", 1)
    return f"{ {'q': 'student', 'k': 'teacher'}[network] }.{part}.{rest.replace('fc.', '', 1)}"


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    """The recorded state or gradients below `prefix`, by our names."""
    return {
        own_name(key.removeprefix(prefix)): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith(prefix)
    }


def deviation(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest recorded entry."""
    largest = theirs.abs().max().item()
    return (ours - theirs).abs().max().item() / (largest or 1.0)


def test_three_recorded_iterations() -> None:
    """Losses, gradients and the state after SGD and EMA; the second falls back to mixup."""
    start = recorded(STEP.format("init"))
    iterations = [recorded(STEP.format(f"it{i}")) for i in range(3)]
    model = peer.make_model("automix", depth=18, stem="cifar", num_classes=10, width=4).double()
    missing, unexpected = model.load_state_dict(under(start, "init/"), strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    optimizer = peer.make_optimizer(model)

    for i, arrays in enumerate(iterations):
        at = {
            key: torch.from_numpy(np.asarray(value))
            for key, value in arrays.items()
            if value.dtype.kind in "fi"
        }
        assert at[f"it{i}/lr_backbone"] == at[f"it{i}/lr_mix_block"] == peer.LR
        assert at[f"it{i}/momentum"] == peer.EMA_MOMENTUM
        lam_mb, lam_bb = at[f"it{i}/lam"]
        draws = peer.Draws(lam_mb, lam_bb, at[f"it{i}/index_mb"], at[f"it{i}/index_bb"])
        image = at[f"it{i}/img"].contiguous(memory_format=torch.channels_last)
        losses = model.losses(image, at[f"it{i}/label"], draws)
        peer.update(model, optimizer, losses["total"])

        tolerance = 1e-8 if i == 0 else 1e-7  # batch norm over six images amplifies rounding
        for ours, theirs in LOSSES.items():
            assert deviation(losses[ours], at[f"it{i}/{theirs}"]) < tolerance, (i, ours)
        gradients = under(arrays, f"it{i}/grad/")
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert gradients.keys() == trained.keys()
        for name, theirs in gradients.items():
            assert deviation(trained[name], theirs) < tolerance, (i, name)
        state = model.state_dict()
        after = under(arrays, f"it{i}/after/")
        assert after.keys() == state.keys()
        for name, theirs in after.items():
            assert deviation(state[name], theirs) < tolerance, (i, name)


@pytest.mark.parametrize("embed", [0, 1])
def test_recorded_mixblock(embed: int) -> None:
    """The mask, with and without lam in its input, at every upsampling factor."""
    arrays = recorded(f"mixblock_small_lc{embed}_f64.npz")
    for scale in (2, 4, 8, 16):
        case = f"lc{embed}_nearest_s{scale}/"
        at = {
            key.removeprefix(case): value for key, value in arrays.items() if key.startswith(case)
        }
        block = peer.MixBlock(16, "concat" if embed else "none").double()
        block.load_state_dict(
            {
                key.removeprefix("w.").replace("query.conv.", "query."): torch.from_numpy(value)
                for key, value in at.items()
                if key.startswith("w.")
            }
        )
        z, image, perm, lam = (
            torch.from_numpy(np.asarray(at[key])) for key in ("in.z", "in.img", "index", "lam")
        )
        mask = block(z, perm, lam, tuple(image.shape[2:]))
        mixed = peer.blend(image, perm, mask)
        assert deviation(mixed, torch.from_numpy(at["out.mixed"])) < 1e-10
        (100 * (mixed * torch.from_numpy(at["in.G"])).mean()).backward()
        for name, parameter in block.named_parameters():
            theirs = at["grad_img." + name.replace("query.", "query.conv.")]
            assert deviation(parameter.grad, torch.from_numpy(theirs)) < 1e-8, name


@pytest.mark.parametrize(
    ("method", "depth", "stem", "lam_embed"),
    [
        ("vanilla", 18, "cifar", "none"),
        ("mixup", 18, "cifar", "none"),
        ("automix", 18, "cifar", "none"),
        ("automix", 50, "imagenet", "concat"),
    ],
)
def test_steps_stay_finite(method: str, depth: int, stem: str, lam_embed: str) -> None:
    """Whole steps on random data; the loss starts at what chance gives."""
    step = peer.make_step(
        method,
        depth=depth,
        stem=stem,
        num_classes=10,
        batch_size=4,
        image_size=16 if stem == "cifar" else 32,
        lam_embed=lam_embed,
        width=4,
    )
    values = [float(step()) for _ in range(3)]
    assert all(math.isfinite(value) for value in values)
    terms = 3 if method == "automix" else 1
    assert values[0] == pytest.approx(terms * math.log(10), abs=0.2 * terms)
    peer.synchronize("cpu")
    assert peer.peak_memory("cpu") is None


def test_draws() -> None:
    """Beta(2, 2) for AutoMix, real permutations, and the same numbers from the same seed."""
    generator = torch.Generator().manual_seed(3)
    lam = torch.stack([peer.draw(2, "automix", generator).lam_bb for _ in range(4000)])
    assert lam.mean().item() == pytest.approx(1 / 2, abs=0.02)
    assert lam.var().item() == pytest.approx(1 / 20, abs=0.005)
    draws = peer.draw(50, "mixup", generator.manual_seed(4))
    assert sorted(draws.perm_bb.tolist()) == sorted(draws.perm_mb.tolist()) == list(range(50))
    again = peer.draw(50, "mixup", generator.manual_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(draws, again, strict=True))


def test_unknown_choices() -> None:
    """A choice that does not exist is refused by name."""
    for wrong in ({"method": "cutmix"}, {"depth": 20}, {"stem": "tiny"}, {"lam_embed": "mul"}):
        choice = {"method": "automix", "depth": 18, "stem": "cifar", "lam_embed": "none"} | wrong
        with pytest.raises(ValueError, match="want"):
            peer.make_model(**choice, num_classes=10, width=4)

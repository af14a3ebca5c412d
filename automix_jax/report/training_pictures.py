"""How the mixed images of the same pairs change while a run is trained."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from automix_jax.errors import ConfigError, DataError
from automix_jax.evaluate import panel
from automix_jax.evaluate.samples import HALF, Snapshot, load_snapshot
from automix_jax.train.workdir import write_json

_FILE = re.compile(r"epoch_(\d+)\.npz")
_COLUMNS = 10  # epochs side by side, where none are asked for
_TILES = 12  # side by side, of several pairs where one has few
_NOTE = (
    "Left: an image above its partner. Right: the mixed image after each epoch, at ratio {half:g},"
    " above the mask, white where the image shows, black where its partner does, and its mean."
)


def find(run: Path) -> dict[int, Path]:
    """The snapshots of a run by epoch, in their order.

    Raises:
        DataError: if there are none.
    """
    folder = run / "samples"
    found = {int(match[1]): path for path in folder.glob("*.npz")
             if (match := _FILE.fullmatch(path.name))}  # fmt: skip
    if not found:
        raise DataError(
            f"{folder} holds no epoch_NNN.npz, which a run with config.run.sample_epochs above 0"
            " leaves there: train one."
        )
    return dict(sorted(found.items()))


def choose(epochs: Sequence[int], asked: Sequence[int] | None) -> list[int]:
    """The epochs to show: the asked ones, or a few from the first to the last.

    Raises:
        ConfigError: for an epoch without a snapshot.
    """
    if asked is None:
        picked = np.linspace(0, len(epochs) - 1, min(_COLUMNS, len(epochs)))
        return [epochs[i] for i in picked.round().astype(int)]
    for epoch in asked:
        if epoch not in epochs:
            have = ", ".join(map(str, epochs))
            raise ConfigError(f"--epochs names {epoch}, of which the run has no samples: {have}.")
    return list(asked)


def draw(
    run: Path, path: Path, epochs: Sequence[int] | None = None, pairs: int = 4
) -> tuple[int, int]:
    """Writes the picture as a PNG, and the numbers of all epochs beside it as JSON.

    Args:
        run: the folder of a run.
        path: of the picture; its folder exists.
        epochs: one column each; None for some from the first to the last.
        pairs: one row each.

    Returns:
        Width and height.

    Raises:
        DataError: if the run has no snapshots, or they cannot be used.
        ConfigError: for an epoch without one, or if the files cannot be written.
    """
    files = find(run)
    chosen = choose(list(files), epochs)
    snapshots = {epoch: load_snapshot(file) for epoch, file in files.items()}
    first = snapshots[chosen[0]]
    if pairs > len(first.images):
        raise ConfigError(f"--pairs is {pairs}: the run has samples of {len(first.images)}.")
    for epoch, shown in snapshots.items():
        if not np.array_equal(shown.images, first.images):
            raise DataError(
                f"{files[epoch]} shows other images than {files[chosen[0]]}: remove it."
            )
    columns = {epoch: snapshots[epoch] for epoch in chosen}
    blocks = [_block(columns, first, pair) for pair in range(pairs)]
    across = max(_TILES // (1 + len(chosen)), 1)
    page = panel.draw(blocks, _NOTE.format(half=HALF), across)
    panel.save(page, path)
    numbers = path.with_suffix(".json")
    try:
        write_json(numbers, {"epochs": [_numbers(*item) for item in snapshots.items()]})
    except OSError as error:
        raise ConfigError(
            f"{numbers} cannot be written ({error.strerror or error}): choose another folder."
        ) from error
    return page.size


def _block(columns: Mapping[int, Snapshot], first: Snapshot, pair: int) -> panel.Block:
    """A pair: the image and its mixes, above the partner and the masks."""
    channels = first.images.shape[-1]
    mixed = [first.images[pair], *(shown.mixed[pair] for shown in columns.values())]
    masks = [np.repeat(255.0 * shown.masks[pair], channels, -1) for shown in columns.values()]
    names = (first.names[pair], first.partner_names[pair])
    title = " and ".join(str(name).replace("_", " ") for name in names)
    means = [f"{shown.mean[pair]:.2f}" for shown in columns.values()]
    above = panel.Strip(np.stack(mixed), ["image", *(f"epoch {epoch}" for epoch in columns)])
    below = panel.Strip(np.stack([first.partners[pair], *masks]), ["partner", *means])
    return panel.Block(title, [above, below])


def _numbers(epoch: int, shown: Snapshot) -> dict[str, Any]:
    """How large the masks after an epoch are, and how uniform: means over the pairs."""
    mean, std = (values.astype(np.float64) for values in (shown.mean, shown.std))
    return {
        "epoch": epoch,
        "pairs": len(mean),
        "lam": HALF,
        "mask_mean": float(mean.mean()),
        "mask_std": float(std.mean()),
        "mask_deviation": float(np.abs(mean - HALF).mean()),
    }

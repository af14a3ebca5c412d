"""A trained network as files for other programs, with a card that says what they are."""

from collections.abc import Sequence
from pathlib import Path

import automix_jax
from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.new_folder import new_folder
from automix_jax.train.card import write_card
from automix_jax.train.trained import Trained
from automix_jax.weights import to_state_dict, write_pth, write_safetensors
from automix_jax.weights.detection import write_detection
from automix_jax.weights.formats import to_detectron2, to_stablehlo, write_detectron2
from automix_jax.weights.names import namings

_SUFFIXES = {
    "safetensors": ".safetensors",
    "pth": ".pth",
    "detectron2": ".detectron2.pkl",
    "stablehlo": ".stablehlo",
}
FORMATS = tuple(_SUFFIXES)


def check_formats(formats: Sequence[str]) -> None:
    """Raises a ConfigError for a format that is not of FORMATS."""
    for name in formats:
        if name not in FORMATS:
            hint = did_you_mean(name, FORMATS)
            raise ConfigError(
                f"format {name!r} is not known.{hint} Use some of {','.join(FORMATS)}."
            )


def export(
    trained: Trained, out: str | Path, formats: Sequence[str], naming: str | None = None
) -> list[Path]:
    """Writes a network in some formats, and its card; returns the paths.

    Beside Detectron2's weights lie the configurations and the script that they are trained with.

    Args:
        trained: from `load_run`.
        out: a folder that does not exist, or is empty; it appears when all is written.
        formats: of FORMATS.
        naming: of the tensors in safetensors and pth, see `namings`; the network's first when None.

    Raises:
        ConfigError: for an unknown format.
        WeightsError: if a format or naming cannot hold the network, or the folder is not empty or
            cannot be written.
    """
    check_formats(formats)
    model, variables = trained.model, trained.variables
    naming = naming or next(iter(namings(model)))
    tensors = to_state_dict(model, variables, naming)
    author = f"automix_jax {automix_jax.__version__}"
    stem, data = trained.config.model.name, trained.config.data
    out = Path(out).expanduser()
    with new_folder(out) as folder:
        paths = [folder / f"{stem}{_SUFFIXES[name]}" for name in formats]
        beside: list[Path] = []
        for name, path in zip(formats, paths, strict=True):
            match name:
                case "safetensors":
                    write_safetensors(path, tensors, {"format": "pt", "author": author})
                case "pth":
                    write_pth(path, tensors)
                case "detectron2":
                    renamed = to_detectron2(model, variables)
                    write_detectron2(path, renamed, author)
                    beside += write_detection(folder, path.name, renamed, data.mean, data.std)
                case "stablehlo":
                    path.write_bytes(to_stablehlo(model, variables, trained.image_shape))
        paths += beside
        paths += write_card(folder, trained, paths, naming)
    return [out / path.name for path in paths]

"""A trained network as files for other programs, with a card that says what they are."""

from collections.abc import Sequence
from pathlib import Path

import automix_jax
from automix_jax.errors import ConfigError, WeightsError
from automix_jax.train.card import write_card
from automix_jax.train.trained import Trained
from automix_jax.weights import to_state_dict, write_pth, write_safetensors
from automix_jax.weights.convert import namings
from automix_jax.weights.formats import to_detectron2, to_stablehlo, write_detectron2

FORMATS = ("safetensors", "pth", "detectron2", "stablehlo")


def export(
    trained: Trained, out: str | Path, formats: Sequence[str], naming: str | None = None
) -> list[Path]:
    """Writes a network in some formats, and its card; returns the paths.

    Args:
        trained: from `load_run`.
        out: a folder, which is made; files of the same names are replaced.
        formats: of FORMATS.
        naming: of the tensors in safetensors and pth, see `namings`; the network's first when None.

    Raises:
        ConfigError: for an unknown format.
        WeightsError: if a format cannot hold the network, before anything is written; or if the
            folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"format {name!r} is not known: use {', '.join(FORMATS)}.")
    out, model, variables = Path(out), trained.model, trained.variables
    naming = naming or next(iter(namings(model)))
    tensors = to_state_dict(model, variables, naming)
    if "detectron2" in formats:
        detectron = to_detectron2(model, variables)
    if "stablehlo" in formats:
        program = to_stablehlo(model, variables, trained.facts.image_shape)
    author = f"automix_jax {automix_jax.__version__}"
    stem = trained.config.model.name
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        if "safetensors" in formats:
            paths.append(out / f"{stem}.safetensors")
            write_safetensors(paths[-1], tensors, {"format": "pt", "author": author})
        if "pth" in formats:
            paths.append(out / f"{stem}.pth")
            write_pth(paths[-1], tensors)
        if "detectron2" in formats:
            paths.append(out / f"{stem}.detectron2.pkl")
            write_detectron2(paths[-1], detectron, author)
        if "stablehlo" in formats:
            paths.append(out / f"{stem}.stablehlo")
            paths[-1].write_bytes(program)
        paths += write_card(out, trained, paths, naming)
    except OSError as error:
        raise WeightsError(
            f"{out} cannot be written ({error.strerror}): choose another --out."
        ) from error
    return paths

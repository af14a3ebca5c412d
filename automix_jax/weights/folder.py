"""Imported weights as a folder: `weights.safetensors`, and in `model.json` how to use it."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from automix_jax.errors import WeightsError
from automix_jax.models import create_model
from automix_jax.new_folder import new_folder
from automix_jax.weights.convert import Pretrained, from_state_dict
from automix_jax.weights.files import read_state_dict, write_safetensors
from automix_jax.weights.layout import image_channels, variable_shapes
from automix_jax.weights.recognise import check_options

_FORMAT = 1


def save(folder: str | Path, pretrained: Pretrained, **facts: Any) -> None:
    """Writes weights and what they need to be used.

    Args:
        folder: must not exist, or be empty; it appears when all is written.
        pretrained: the weights.
        **facts: to be kept in model.json, such as where the weights come from.

    Raises:
        WeightsError: if there is something already, or it cannot be written.
    """
    flat = flax.traverse_util.flatten_dict(pretrained.variables, sep="/")
    with new_folder(folder) as new:
        write_safetensors(new / "weights.safetensors", flat)
        card = {
            "format": _FORMAT,
            "model": pretrained.name,
            "options": pretrained.options,
            "num_classes": pretrained.num_classes,
            "image_size": pretrained.image_size,
            "sha256": sha256(new / "weights.safetensors"),
            **facts,
        }
        (new / "model.json").write_text(json.dumps(card, indent=2) + "\n")


def load(path: str | Path, name: str | None = None, **options: Any) -> Pretrained:
    """Reads weights from a folder that `save` has written, or a file of PyTorch's libraries.

    Args:
        path: a folder, or a `.safetensors` or `.pth` file.
        name: of the model; may be left out for a folder, which knows it.
        **options: of the model, see `from_state_dict`.

    Raises:
        WeightsError: if it cannot be read, is another model's, or made with other options.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        if name is None:
            raise WeightsError(f"{path} is a file: say the name of its model, as in 'resnet50'.")
        return from_state_dict(read_file(path), name, **options)[0]
    card = _read_card(path)
    if name not in (None, card["model"]):
        raise WeightsError(f"{path} holds the weights of {card['model']}, not of {name}.")
    check_options(card["model"], options)
    model = create_model(card["model"], **card["options"])
    for option, value in options.items():
        if getattr(model, option) != value:
            raise WeightsError(
                f"{path} was made with {option}={getattr(model, option)!r}, not {value!r}: use"
                " that, or other weights."
            )
    return _read(path, card)


def read_file(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict; first checks the digits that torchvision puts into a file's name.

    Raises:
        WeightsError: if the file does not have the SHA-256 that its name begins to tell, as in
            resnet50-0676ba61.pth, or cannot be read.
    """
    tensors = read_state_dict(path)
    digits = re.search(r"-([0-9a-f]{8})\.", Path(path).name)
    if digits and not digits[1].isdecimal() and not sha256(path).startswith(digits[1]):
        raise WeightsError(
            f"{path} has a SHA-256 of {sha256(path)[:8]}..., not the {digits[1]}... in its name:"
            " download it again, or take the digits out of the name of a file of your own."
        )
    return tensors


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / "model.json").read_text())
        fields = {"model": str, "options": dict, "num_classes": int, "image_size": int}
        if not isinstance(card, dict) or card["format"] != _FORMAT:
            raise ValueError("it is of another format")
        for field, kind in (fields | {"sha256": str}).items():
            if type(card[field]) is not kind:
                raise ValueError(f"its {field} is {card[field]!r}")
        create_model(card["model"], **card["options"])
    except FileNotFoundError as error:
        raise WeightsError(
            f"{folder} has no model.json: give a folder of `automix import-weights`, or a file."
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{folder / 'model.json'} cannot be used ({error}): import the weights again."
        ) from error
    return card


def _read(folder: Path, card: dict[str, Any]) -> Pretrained:
    path = folder / "weights.safetensors"
    tensors = read_state_dict(path)
    if sha256(path) != card["sha256"]:
        raise WeightsError(f"{path} is not the file that model.json was written for: import again.")
    model = create_model(card["model"], num_classes=card["num_classes"], **card["options"])
    size = (card["image_size"], card["image_size"])
    found = {tuple(key.split("/")): value.shape for key, value in tensors.items()}
    try:
        fits = found == variable_shapes(model, size, image_channels(found))
    except (KeyError, IndexError):
        fits = False
    if not fits:
        raise WeightsError(f"{path} is not {card['model']}'s in this version: import again.")
    variables = flax.traverse_util.unflatten_dict(
        {key: np.asarray(value) for key, value in tensors.items()}, sep="/"
    )
    return Pretrained(
        card["model"], card["options"], card["num_classes"], card["image_size"], variables
    )

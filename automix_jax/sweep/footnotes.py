"""What a row of a table does otherwise than the published number beside it, in few words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax.sweep import labels

# Fields that change no number, or nothing but the rounding, or that a table shows elsewhere.
_SILENT = (
    "config.seed",
    "config.accumulation",
    "config.steps_per_dispatch",
    "config.compute_dtype",  # what came of it is in the results
    "config.init_from",  # a path
    "config.data.path",
    "config.data.bad_share",
    "config.guide.weights",  # a path
    "config.model.name",
    "config.model.layer",
    "config.model.remat",
    "config.eval.headline",
    "config.eval.batch_size",
    "config.eval.every_epochs",
)
# The fields that are known by other names, which come first.
_NAMES = {
    "config.epochs": "epochs",
    "config.batch_size": "batch size",
    "config.num_groups": "groups of the batch",
    "config.data.image_size": "image size",
    "config.data.held_out": "held-out training images",
    "config.model.width": "width of the network",
    "config.method.alpha": "alpha",
    "config.optimizer.lr": "learning rate",
    "config.optimizer.min_lr": "lowest learning rate",
    "config.optimizer.weight_decay": "weight decay",
}


def differences(config: ConfigDict, reference: ConfigDict) -> list[str]:
    """What a configuration has otherwise than the one that a published number is of.

    Fields that change no number are left out, and those that describe the data where the data is
    another.

    Args:
        config: of the row.
        reference: the published number's.

    Returns:
        Such as ["epochs 20 instead of 800", "ResNet-8 instead of ResNet-18"].
    """
    ours, theirs = dict(config_lib.fields(config)), dict(config_lib.fields(reference))
    other_data = config.data.name != reference.data.name
    found = []
    if other_data:
        found.append(f"{labels.dataset(config)} instead of {labels.dataset(reference)}")
    if config.model.name != reference.model.name:
        found.append(f"{labels.backbone(config)} instead of {labels.backbone(reference)}")
    elif config_lib.layer(config) != config_lib.layer(reference):
        layers = (config_lib.layer(config), config_lib.layer(reference))
        found.append("MixBlock reads {} instead of {}".format(*layers))
    if bool(config.init_from) != bool(reference.init_from):
        kinds = ("pretrained", "random") if config.init_from else ("random", "pretrained")
        found.append("{} initial weights instead of {} ones".format(*kinds))
    for name in dict.fromkeys((*_NAMES, *theirs, *ours)):
        if name in _SILENT or name.startswith("config.run."):
            continue
        if other_data and name.startswith("config.data."):
            continue
        here, there = _show(ours.get(name)), _show(theirs.get(name))
        if here != there:
            label = _NAMES.get(name, name.removeprefix("config."))
            found.append(f"{label} {here} instead of {there}")
    return found


def of_data(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the data of finished runs has otherwise than the official archives.

    Args:
        records: lines of results.jsonl.

    Returns:
        Such as ["10,000 of 50,000 training images"].
    """
    found: dict[str, None] = {}  # a set that keeps its order
    for record in records:
        data, config = record["data"], record["config"]
        train, test = labels.IMAGES.get(config["data.name"], (None, None))
        # Those held out are a difference of their own, of the configuration.
        seen = data["train_images"] + config["data.held_out"]
        if train not in (None, seen, data["train_images"]):
            found[f"{_share(data['train_images'], train)} training images"] = None
        if test not in (None, data["test_images"]):
            found[f"{_share(data['test_images'], test)} test images"] = None
    return list(found)


def of_precision(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Says that finished runs did not compute in float32, which no configuration need say."""
    dtypes = dict.fromkeys(record["compute_dtype"] for record in records)
    return [f"computed in {dtype}" for dtype in dtypes if dtype != "float32"]


class Footnotes:
    """The footnotes of a table, each numbered once."""

    def __init__(self) -> None:
        """Has none yet."""
        self._numbers: dict[str, int] = {}

    def mark(self, texts: Sequence[str]) -> tuple[int, ...]:
        """The numbers of some footnotes, from 1, which become the table's."""
        return tuple(self._numbers.setdefault(text, len(self._numbers) + 1) for text in texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them, the first first."""
        return tuple(self._numbers)


def _share(here: int, there: int) -> str:
    return f"{here:,} of {there:,}" if here < there else f"{here:,} instead of {there:,}"


def _show(value: Any) -> str:
    """A field's value in a footnote; a list and a tuple are the same, as JSON makes one of both."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_show, value))})"
    return "none" if value in (None, "") else str(value)

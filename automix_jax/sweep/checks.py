"""What can be known to be wrong with a sweep before it trains."""

import dataclasses
import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from automix_jax.data import Facts, open_dataset
from automix_jax.data.hold_out import hold_out_records
from automix_jax.errors import AutoMixError, ConfigError
from automix_jax.sweep.cells import Cell, looked_at
from automix_jax.sweep.protocol import window
from automix_jax.train.feed import stream_facts
from automix_jax.validation import validate, validate_data


def check(cells: Sequence[Cell], everything: Sequence[Cell], num_devices: int) -> None:
    """Checks configurations, and that their data is there; no image is decoded.

    Args:
        cells: to be trained.
        everything: the cells of the sweep.
        num_devices: of each training.

    Raises:
        AutoMixError: naming a cell, what is wrong with it and the remedy.
    """
    opened: dict[str, Facts | None] = {}
    for cell in cells:
        try:
            _check_network(cell, everything)
            validate(_guided(cell), num_devices)
            _check_window(cell.config)
            data = json.dumps(cell.config.data.to_dict())
            if data not in opened:
                opened[data] = _facts(cell.config)
            if (facts := opened[data]) is not None:
                validate_data(cell.config, facts)
        except AutoMixError as error:
            raise type(error)(f"{cell.recipe}-{cell.method}: {error}") from error


def _check_network(cell: Cell, everything: Sequence[Cell]) -> None:
    if cell.looks and looked_at(cell, everything) is None:
        raise ConfigError(
            f"{cell.method} needs a trained network, and the sweep has no vanilla cell of"
            f" {cell.recipe}: add vanilla to the methods."
        )


def _guided(cell: Cell) -> ConfigDict:
    """The configuration with what it will have when the network it looks at is trained."""
    config = cell.config.copy_and_resolve_references()
    if cell.looks and cell.method != "supermix":
        config.guide.weights = "the network of vanilla"
        config.guide.model = config.model.name
    return config


def _check_window(config: ConfigDict) -> None:
    """Checks that every epoch is evaluated whose accuracy a median is of."""
    every, size = config.eval.every_epochs, window(config.epochs)
    epochs = range(config.epochs - size + 1, config.epochs)  # the last one is, always
    if any(epoch % every for epoch in epochs):
        raise ConfigError(
            f"config.eval.every_epochs is {every}, but what is reported is the median of the"
            f" accuracies after the last {size} of {config.epochs} epochs: set it to 1."
        )


def _facts(config: ConfigDict) -> Facts | None:
    """What there is to know of data; None where only its images say how large they are."""
    data = config.data
    dataset, _ = hold_out_records(open_dataset(data.name, data.path or None), data.held_out)
    facts = stream_facts(config, dataset)
    if data.image_size:
        return facts
    stored = getattr(dataset.train[0].image, "shape", None) if facts.train_images else None
    if stored is None:
        return None
    height, width = stored[:2]
    return dataclasses.replace(facts, image_shape=(height, width, dataset.channels))

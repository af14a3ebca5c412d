"""Recipes: Python files that give a configuration, and overrides of its fields."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from automix_jax import config as config_lib
from automix_jax.errors import ConfigError, did_you_mean


class Cell(NamedTuple):
    """A published accuracy of AutoMix that a recipe is for.

    Attributes:
        source: "Table 1" and the like, of the paper; "Appendix"; or "OpenMixup", the tables of the
            authors' code.
        name: of dataset and network, and what else tells it from other cells.
        accuracy: top-1, in percent.
        argument: of the recipe.
    """

    source: str
    name: str
    accuracy: float
    argument: str = ""


def load_config(recipe: str) -> ConfigDict:
    """Returns what a recipe's `get_config` gives.

    Args:
        recipe: the path of a Python file, and after a colon the argument of its `get_config`.

    Raises:
        ConfigError: if the file does not exist or is not a recipe, or refuses the argument.
    """
    path, _, argument = recipe.partition(":")
    module = _load_module(path)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"recipe {path!r} has no get_config(arg); configs/ shows how.")
    return module.get_config(argument)


def load_cells(path: str) -> tuple[Cell, ...]:
    """Returns the published results that a recipe's file names in `CELLS`, if any.

    Raises:
        ConfigError: if the file does not exist.
    """
    return getattr(_load_module(path), "CELLS", ())


def _load_module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("automix_jax_recipe", path)
    if not Path(path).is_file():
        near = [str(file) for file in Path(path).parent.glob("*.py")]
        near += [str(file) for file in Path("configs").glob("*.py")]
        hint = did_you_mean(path, near)
        raise ConfigError(f"recipe {path!r} is not there.{hint} `automix configs` lists them.")
    if spec is None or spec.loader is None:
        raise ConfigError(f"recipe {path!r} is not a Python file; configs/ holds the recipes.")
    sys.path.insert(0, str(Path(path).resolve().parents[1]))  # recipes import configs.common
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def override(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """Sets the fields of a configuration that arguments of the form --config.FIELD=VALUE name.

    Raises:
        ConfigError: for any other argument, an unknown field, or a value of another type.
    """
    names = [name.removeprefix("config.") for name, _ in config_lib.fields(config)]
    for argument in arguments:
        name, equals, _ = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not equals:
            raise ConfigError(
                f"argument {argument!r} is not known: fields are set by --config.FIELD=VALUE."
            )
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(f"config.{name} is not a field of the configuration.{hint}")
    try:
        return _parse_fields(config, arguments)
    except _FLAG_ERRORS as error:
        for argument in arguments:  # which of them is it?
            name, _, value = argument.removeprefix("--config.").partition("=")
            try:
                _parse_fields(config, [argument])
            except _FLAG_ERRORS:
                default = dict(config_lib.fields(config))[f"config.{name}"]
                raise ConfigError(
                    f"config.{name} is {value!r}: give a value like {default!r}, its default here."
                ) from error
        raise


_FLAG_ERRORS = (flags.Error, TypeError, ValueError)


def _parse_fields(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    values = flags.FlagValues()
    argv = ["train", *arguments]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    values(argv)
    return values.config

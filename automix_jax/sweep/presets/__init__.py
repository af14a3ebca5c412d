"""The tables and figures of the paper as sweeps: what each trains, and what is drawn of it."""

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.sweep.presets import figures, tables
from automix_jax.sweep.presets.base import BUDGETS, Choice, Preset

__all__ = ["BUDGETS", "PRESETS", "Choice", "Preset", "find"]

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (*tables.PRESETS, *figures.PRESETS)}


def find(name: str) -> Preset:
    """Returns a preset by its name, such as "table1".

    Raises:
        ConfigError: if there is none.
    """
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS)
        raise ConfigError(f"{name!r} is not reproduced.{hint} Use {', '.join(PRESETS)}.")
    return PRESETS[name]

"""The plain mixups: one file a method, one contract, a registry by name."""

import functools
import inspect
from typing import Any

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.mixups.base import Mixed, Mixup
from automix_jax.mixups.blend import mixup, vanilla
from automix_jax.mixups.cutmix import cutmix

__all__ = ["Mixed", "Mixup", "create", "cutmix", "list_mixups", "mixup", "vanilla"]

_MIXUPS: dict[str, Mixup] = {"vanilla": vanilla, "mixup": mixup, "cutmix": cutmix}
_GIVEN_LATER = inspect.signature(vanilla).parameters  # what every call gives: the contract


def list_mixups() -> tuple[str, ...]:
    """The names that `create` knows."""
    return tuple(_MIXUPS)


def create(name: str, **options: Any) -> Mixup:
    """Makes a mixup by name, with its options filled in.

    Args:
        name: one of `list_mixups()`.
        **options: of the method; "mixup" and "cutmix" have `alpha`, of Beta(alpha, alpha).

    Raises:
        ConfigError: for an unknown name or option, or an alpha that is not positive.
    """
    if name not in _MIXUPS:
        hint = did_you_mean(name, _MIXUPS)
        raise ConfigError(f"mixup {name!r} is not known.{hint} Use {', '.join(_MIXUPS)}.")
    known = [key for key in inspect.signature(_MIXUPS[name]).parameters if key not in _GIVEN_LATER]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"mixup {name!r} has no option {option!r}; it has {', '.join(known) or 'none'}."
            )
    if options.get("alpha", 1.0) <= 0:
        raise ConfigError(f"alpha of {name!r} is {options['alpha']}: it must be above 0.")
    return functools.partial(_MIXUPS[name], **options)

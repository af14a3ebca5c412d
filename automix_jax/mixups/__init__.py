"""The plain mixups: one file a method, one contract, a registry by name."""

import difflib
from collections.abc import Callable

from automix_jax.errors import ConfigError
from automix_jax.mixups.base import Mixed, Mixup
from automix_jax.mixups.blend import MixUp, Vanilla
from automix_jax.mixups.cutmix import CutMix

__all__ = ["CutMix", "MixUp", "Mixed", "Mixup", "Vanilla", "create", "list_mixups"]

_MIXUPS: dict[str, Callable[..., Mixup]] = {
    "vanilla": Vanilla,
    "mixup": MixUp,
    "cutmix": CutMix,
}


def list_mixups() -> tuple[str, ...]:
    """The names that `create` knows."""
    return tuple(_MIXUPS)


def create(name: str, **options: float) -> Mixup:
    """Makes a mixup by name.

    Args:
        name: one of `list_mixups()`.
        **options: of the method; all but "vanilla" take `alpha`, the ratio's Beta(alpha, alpha).

    Raises:
        ConfigError: for an unknown name or option, or an alpha that is not positive.
    """
    if name not in _MIXUPS:
        close = difflib.get_close_matches(name, _MIXUPS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"mixup {name!r} is unknown.{hint} Known: {', '.join(_MIXUPS)}.")
    if options.get("alpha", 1.0) <= 0:
        raise ConfigError(f"alpha of {name!r} is {options['alpha']}: it must be above 0.")
    try:
        return _MIXUPS[name](**options)
    except TypeError as error:
        raise ConfigError(f"mixup {name!r} does not take these options: {error}.") from error

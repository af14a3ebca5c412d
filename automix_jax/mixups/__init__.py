"""The mixups: one file a method, one contract, a registry by name.

A new method is a file with a function of the contract (`Mixup`) and a line in `_MIXUPS`.
"""

import functools
import inspect
from typing import Any, NamedTuple

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.mixups.alignmix import alignmix
from automix_jax.mixups.attentivemix import attentivemix
from automix_jax.mixups.augmix import augmix
from automix_jax.mixups.base import Mixed, Mixup
from automix_jax.mixups.blend import mixup, vanilla
from automix_jax.mixups.comixup import comixup
from automix_jax.mixups.cutmix import cutmix
from automix_jax.mixups.fmix import fmix
from automix_jax.mixups.gradient import input_saliency
from automix_jax.mixups.gridmix import gridmix
from automix_jax.mixups.manifoldmix import manifoldmix
from automix_jax.mixups.options import check
from automix_jax.mixups.puzzlemix import puzzlemix
from automix_jax.mixups.randomgrid import randomgrid
from automix_jax.mixups.resizemix import resizemix
from automix_jax.mixups.saliencymix import saliencymix
from automix_jax.mixups.smoothmix import smoothmix
from automix_jax.mixups.supermix import supermix
from automix_jax.mixups.switch import mixup_cutmix
from automix_jax.mixups.transmix import transmix

__all__ = [
    "Mixed",
    "Mixup",
    "alignmix",
    "attentivemix",
    "augmix",
    "comixup",
    "create",
    "cutmix",
    "defaults",
    "fmix",
    "gridmix",
    "input_saliency",
    "list_mixups",
    "manifoldmix",
    "map_option",
    "mixup",
    "mixup_cutmix",
    "needs",
    "puzzlemix",
    "randomgrid",
    "resizemix",
    "saliencymix",
    "smoothmix",
    "suits",
    "supermix",
    "transmix",
    "vanilla",
]


class _Entry(NamedTuple):
    mix: Mixup
    needs: str = ""  # the keyword of what it looks at beside the batch
    maps: str = ""  # the option that names feature maps of the network
    tokens: bool | None = None  # a network with (True) or without a class token; None: any


_MIXUPS = {
    "vanilla": _Entry(vanilla),
    "mixup": _Entry(mixup),
    "cutmix": _Entry(cutmix),
    "mixup_cutmix": _Entry(mixup_cutmix),
    # It mixes tokens as well, but by default at the stages of a convolutional network.
    "manifoldmix": _Entry(manifoldmix, maps="layers", tokens=False),
    "attentivemix": _Entry(attentivemix, "attention"),
    "saliencymix": _Entry(saliencymix),
    "fmix": _Entry(fmix),
    "resizemix": _Entry(resizemix),
    "puzzlemix": _Entry(puzzlemix, "saliency"),
    "comixup": _Entry(comixup, "saliency"),
    "supermix": _Entry(supermix, "predict"),
    "augmix": _Entry(augmix),
    "gridmix": _Entry(gridmix),
    "smoothmix": _Entry(smoothmix),
    "randomgrid": _Entry(randomgrid),
    "alignmix": _Entry(alignmix, maps="layer", tokens=False),
    "transmix": _Entry(transmix, tokens=True),
}
_CONTRACT = inspect.signature(vanilla).parameters  # what every call gives


def list_mixups() -> tuple[str, ...]:
    """The names that `create` knows."""
    return tuple(_MIXUPS)


def create(name: str, **options: Any) -> Mixup:
    """Makes a mixup by name, with its options filled in.

    Args:
        name: one of `list_mixups()`.
        **options: of the method; `defaults` lists them.

    Raises:
        ConfigError: for an unknown name or option, or a value that cannot work.
    """
    known, mix = defaults(name), _MIXUPS[name].mix
    parameters = inspect.signature(mix).parameters
    for option, value in options.items():
        if option not in known:
            hint = did_you_mean(option, known)
            raise ConfigError(
                f"mixup {name!r} has no option {option!r}.{hint} It has"
                f" {', '.join(known) or 'none'}."
            )
        check(name, option, value, parameters[option])
    return functools.partial(mix, **options)


def defaults(name: str) -> dict[str, Any]:
    """The options of a method and their defaults.

    Raises:
        ConfigError: for a name that is not known.
    """
    entry = _entry(name)
    given_later = {*_CONTRACT, entry.needs}
    parameters = inspect.signature(entry.mix).parameters
    return {key: p.default for key, p in parameters.items() if key not in given_later}


def needs(name: str) -> str:
    """The keyword of what a method looks at beside the batch; empty for most.

    Raises:
        ConfigError: for a name that is not known.
    """
    return _entry(name).needs


def map_option(name: str) -> str:
    """The option in which a method names the feature maps that it mixes; empty for most.

    Raises:
        ConfigError: for a name that is not known.
    """
    return _entry(name).maps


def suits(name: str, tokens: bool) -> bool:
    """Whether a network can train a method as it is by default.

    Args:
        name: one of `list_mixups()`.
        tokens: whether the network has a class token, whose attention it reports; otherwise it
            pools a feature map.

    Raises:
        ConfigError: for a name that is not known.
    """
    return _entry(name).tokens in (None, tokens)


def _entry(name: str) -> _Entry:
    if name not in _MIXUPS:
        hint = did_you_mean(name, _MIXUPS)
        raise ConfigError(f"mixup {name!r} is not known.{hint} Use {', '.join(_MIXUPS)}.")
    return _MIXUPS[name]

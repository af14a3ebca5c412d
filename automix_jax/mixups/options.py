"""Checks of a method's options: their kinds by its annotations, their ranges by their names."""

import inspect
import numbers
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np

from automix_jax.errors import ConfigError, did_you_mean


class _Range(NamedTuple):
    holds: Callable[[np.ndarray], Any]  # of a number, or of each in a sequence
    words: str


_POSITIVE = _Range(lambda x: x > 0, "above 0")
_NOT_NEGATIVE = _Range(lambda x: x >= 0, "0 or more")
_COUNT = _Range(lambda x: x >= 1, "1 or more")
_SHARE = _Range(lambda x: (x >= 0) & (x <= 1), "from 0 to 1")
_RANGES = {
    "alpha": _POSITIVE,
    "cutmix_alpha": _POSITIVE,
    "sigma": _POSITIVE,
    "std": _POSITIVE,
    "decay": _NOT_NEGATIVE,
    "sparsity": _NOT_NEGATIVE,
    "transport_size": _NOT_NEGATIVE,
    "blocks": _COUNT,
    "cell": _COUNT,
    "group": _COUNT,
    "grid": _COUNT,
    "iterations": _COUNT,
    "width": _COUNT,
    "switch_prob": _SHARE,
    "smoothing": _SHARE,
    "tolerance": _SHARE,
    "scope": _Range(lambda x: _SHARE.holds(x) & (x[0] <= x[1]), "from 0 to 1, the smaller first"),
    "severity": _Range(lambda x: (x >= 0.1) & (x <= 10), "from 0.1 to 10"),
    "depth": _Range(lambda x: (x == -1) | (x >= 1), "1 or more, or -1"),
    "images_per_mix": _Range(lambda x: x >= 2, "2 or more"),
}


def check(method: str, option: str, value: Any, parameter: inspect.Parameter) -> None:
    """Checks the value of an option that a method has.

    Args:
        method: its name.
        option: its name.
        value: to be checked.
        parameter: the method's, with its annotation and default.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    found = f"{option} of {method!r} is {value!r}"
    if get_origin(parameter.annotation) is Literal:
        known = get_args(parameter.annotation)
        if value not in known:
            hint = did_you_mean(str(value), known)
            raise ConfigError(f"{found}, which is not known.{hint} Use {', '.join(known)}.")
    elif not _is(value, parameter.annotation):
        raise ConfigError(f"{found}: it must be of the kind of its default, {parameter.default!r}.")
    if option in _RANGES and not np.all(_RANGES[option].holds(np.asarray(value))):
        raise ConfigError(f"{found}: it must be {_RANGES[option].words}.")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotation: a string, a number, or several of them."""
    members = get_args(kind)
    if not members:
        numeric = {int: numbers.Integral, float: numbers.Real}
        return isinstance(value, numeric.get(kind, kind)) and not isinstance(value, bool)
    # A tuple of as many as are annotated; one or more where that is `...`, or for a sequence.
    count = len(members) if get_origin(kind) is tuple and ... not in members else None
    return (
        isinstance(value, tuple | list)
        and len(value) > 0
        and count in (None, len(value))
        and all(_is(member, members[0]) for member in value)
    )

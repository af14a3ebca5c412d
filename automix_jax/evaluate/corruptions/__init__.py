"""The 19 corruptions of CIFAR-C, Tiny-ImageNet-C and ImageNet-C."""

from automix_jax.evaluate.corruptions.corrupt import corrupt
from automix_jax.evaluate.corruptions.tables import (
    COMMON,
    DETERMINISTIC,
    EXTRA,
    FAMILIES,
    NAMES,
    SEVERITIES,
    SIZES,
)

__all__ = [
    "COMMON",
    "DETERMINISTIC",
    "EXTRA",
    "FAMILIES",
    "NAMES",
    "SEVERITIES",
    "SIZES",
    "corrupt",
]

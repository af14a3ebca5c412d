"""Pixels between bytes and [0, 1], and what several operators are made of."""

from types import ModuleType

import numpy as np
from jaxtyping import Float, UInt8

from automix_jax.errors import ConfigError

Images = UInt8[np.ndarray, "n s s 3"]  # RGB


def to_unit(images: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Bytes as float64 in [0, 1]."""
    return images / 255.0


def to_bytes(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Clips to [0, 1] and cuts to bytes without rounding, as the published sets do.

    The product is of the values' own precision: where a value lies on a whole level, that decides
    which level it becomes.
    """
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def smooth(
    values: Float[np.ndarray, "n s s *channels"],
    sigma: float,
    mode: str = "nearest",
    reach: float = 4.0,
) -> Float[np.ndarray, "n s s *channels"]:
    """A Gaussian filter over rows and columns.

    Args:
        values: keep their precision, also between the two passes.
        sigma: in pixels.
        mode: what lies beyond the edges, as SciPy names it.
        reach: of the kernel, in sigmas.
    """
    from scipy import ndimage

    sigmas = (0, sigma, sigma, 0)[: values.ndim]
    return ndimage.gaussian_filter(values, sigmas, mode=mode, truncate=reach)


def opencv() -> ModuleType:
    """OpenCV, if it is installed.

    Raises:
        ConfigError: if it is not.
    """
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"corrupting images needs OpenCV ({error}): install it with"
            " `pip install opencv-python-headless`."
        ) from error
    return cv2

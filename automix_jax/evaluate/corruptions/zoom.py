"""Enlarging about the centre as one linear map, the same for a whole batch."""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def zoomed(
    images: Float[np.ndarray, "n s s *channels"], factor: float
) -> Float[np.ndarray, "n s s *channels"]:
    """The images enlarged about their centre by linear interpolation, and cropped to their size.

    Args:
        images: float64.
        factor: by which to enlarge, at least 1.
    """
    return from_columns(zoom_matrix(images.shape[1], factor) @ to_columns(images), images.shape)


def to_columns(images: np.ndarray) -> np.ndarray:
    """[N, S, S, ...] to a row for each pixel, [S S, N ...]."""
    side = images.shape[1]
    return np.moveaxis(images, 0, 2).reshape(side * side, -1)


def from_columns(columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[S S, N ...] back to [N, S, S, ...], of which `shape` is the shape."""
    count, side, _, *channels = shape
    return np.moveaxis(columns.reshape(side, side, count, *channels), 2, 0)


@functools.lru_cache(maxsize=32)  # Zoom blur has up to 26 factors; at 224 pixels each is 3 MB.
def zoom_matrix(side: int, factor: float) -> "csr_array":
    """The map from the pixels of an image to those of its enlargement, [S S, S S].

    Along an axis it is SciPy's own zoom of the unit vectors; the two axes are independent. Each row
    has four weights at most.
    """
    from scipy import ndimage, sparse

    kept = math.ceil(side / factor)  # pixels of the image, along an axis, that stay in view
    before = (side - kept) // 2
    axis = ndimage.zoom(np.eye(kept), (factor, 1), order=1)  # [enlarged, kept]
    trim = (len(axis) - side) // 2
    weights = np.zeros((side, side))
    weights[:, before : before + kept] = axis[trim : trim + side]
    return sparse.csr_array(sparse.kron(weights, weights, format="csr"))

"""Score maps at the size of the image, as the benchmark of MaxBoxAcc resizes and scales them."""

import numpy as np
from jaxtyping import Float

_A = -0.75  # of Keys' cubic kernel, as OpenCV has it; -0.5 elsewhere


def upsample_cubic(
    maps: Float[np.ndarray, "n h w"], height: int, width: int
) -> Float[np.ndarray, "n height width"]:
    """Resizes by OpenCV's INTER_CUBIC: half-pixel centres, borders repeated, no antialiasing.

    Args:
        maps: [N, h, w].
        height, width: of the result, in pixels.

    Returns:
        float64 [N, height, width]; OpenCV itself rounds its weights to float32.
    """
    rows, columns = (
        _cubic_matrix(*sides) for sides in ((height, maps.shape[1]), (width, maps.shape[2]))
    )
    return rows @ maps.astype(np.float64) @ columns.T


def normalize_maps(maps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h w"]:
    """Scales each map so that its least value is 0 and its greatest 1.

    Args:
        maps: [N, H, W].

    Returns:
        float64 [N, H, W]; zeros for a map that is constant or holds a value that is not finite.
    """
    maps = maps.astype(np.float64)
    finite = np.isfinite(maps).all((1, 2), keepdims=True)
    maps = np.where(finite, maps, 0.0)
    least = maps.min((1, 2), keepdims=True)
    span = maps.max((1, 2), keepdims=True) - least
    return (maps - least) / np.where(span > 0, span, 1.0)


def _cubic_matrix(size: int, source: int) -> Float[np.ndarray, "size source"]:
    """The weight of each of `source` pixels in each of `size`; rows sum to 1."""
    centers = (np.arange(size) + 0.5) * (source / size) - 0.5
    taps = np.floor(centers).astype(int)[:, None] + np.arange(-1, 3)  # [size, 4]
    weights = _cubic(np.abs(centers[:, None] - taps))
    matrix = np.zeros((size, source))
    np.add.at(matrix, (np.arange(size)[:, None], np.clip(taps, 0, source - 1)), weights)
    return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel at distances 0 <= x <= 2."""
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = _A * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, far)

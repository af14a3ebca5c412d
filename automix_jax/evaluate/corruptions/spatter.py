"""Spatter: drops of water or of mud on the lens."""

import numpy as np
from jaxtyping import Float, UInt8

from automix_jax.evaluate.corruptions.pixels import Images, opencv, smooth, to_bytes
from automix_jax.evaluate.corruptions.tables import Parameters

_WATER = (175, 238, 238)  # pale turquoise
_MUD = (63, 42, 20)
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])  # light from the upper left


def draw_drops(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray]:
    """A field of normal noise."""
    return (rng.normal(parameters[0], parameters[1], image.shape[:2]),)


def spatter(images: Images, parameters: Parameters, layers: Float[np.ndarray, "n s s"]) -> Images:
    """Drops where smooth noise is high.

    Args:
        parameters: mean and standard deviation of the noise, sigma that smooths it, threshold of a
            drop, then of water how strong it shines, of mud the sigma of its edges; 0 for water, 1
            for mud.
        layers: see `draw_drops`.
    """
    _, _, sigma, threshold, strength, mud = parameters
    unit = images.astype(np.float32) / np.float32(255)
    liquid = smooth(layers, sigma)
    liquid[liquid < threshold] = 0
    if mud:
        shade = smooth((liquid > threshold).astype(np.float32), strength)[..., None]
        shade[shade < 0.8] = 0
        return to_bytes(unit * (1 - shade) + _colour(_MUD) * shade)
    shine = np.stack([_shine(layer) for layer in (liquid * 255).astype(np.uint8)])[..., None]
    greatest = shine.max(axis=(1, 2), keepdims=True)
    shine /= np.where(greatest == 0, np.float32(1), greatest)
    return to_bytes(unit + shine * np.float32(strength) * _colour(_WATER))


def _colour(rgb: tuple[int, int, int]) -> Float[np.ndarray, "3"]:
    return (np.array(rgb) / 255).astype(np.float32)


def _shine(liquid: UInt8[np.ndarray, "s s"]) -> Float[np.ndarray, "s s"]:
    """Where drops catch the light: their depth times the relief of the distance to their edges."""
    cv2 = opencv()
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    relief = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    relief = cv2.filter2D(cv2.equalizeHist(relief), cv2.CV_8U, _EMBOSS)
    return liquid * cv2.blur(relief, (3, 3)).astype(np.float32)

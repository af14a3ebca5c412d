"""Noise: Gaussian, shot, impulse and speckle."""

import numpy as np
from jaxtyping import Float, Int

from automix_jax.evaluate.corruptions.pixels import Images, to_bytes, to_unit
from automix_jax.evaluate.corruptions.tables import Parameters

Field = Float[np.ndarray, "n s s 3"]  # a number for each value of each image


def draw_normal(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray]:
    """A field of normal noise; the parameter is its standard deviation."""
    return (rng.normal(0, parameters[0], image.shape),)


def gaussian_noise(images: Images, parameters: Parameters, noise: Field) -> Images:
    """Adds noise."""
    del parameters
    return to_bytes(to_unit(images) + noise)


def speckle_noise(images: Images, parameters: Parameters, noise: Field) -> Images:
    """Adds noise in proportion to the pixels."""
    del parameters
    unit = to_unit(images)
    return to_bytes(unit + unit * noise)


def draw_counts(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray]:
    """How many photons are counted; the parameter is how many a white pixel sends."""
    return (rng.poisson(to_unit(image) * parameters[0]),)


def shot_noise(
    images: Images, parameters: Parameters, counts: Int[np.ndarray, "n s s 3"]
) -> Images:
    """What a count of photons makes of the images."""
    del images
    return to_bytes(counts / parameters[0])


def draw_impulses(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray, np.ndarray]:
    """Two uniform fields: of being flipped, and of becoming white."""
    del parameters
    return rng.random(image.shape), rng.random(image.shape)


def impulse_noise(images: Images, parameters: Parameters, flips: Field, salt: Field) -> Images:
    """Sets a share of the values, each channel by itself, to 0 or 255, each as often."""
    extremes = np.where(salt <= 0.5, 255, 0).astype(np.uint8)
    return np.where(flips <= parameters[0], extremes, images)

"""SaliencyMix: CutMix whose box lies where the pasted image draws the eye."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, Variant, masked
from automix_jax.mixups.boxes import box_around, outside, random_centre
from automix_jax.mixups.pixels import to_uint8
from automix_jax.mixups.saliency import fine_grained, spectral_residual
from automix_jax.mixups.sampling import draws, lam_or_draw, perm_or_draw

_DETECTORS = {"fine_grained": fine_grained, "spectral": spectral_residual}


def saliencymix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 1.0,
    detector: Literal["fine_grained", "spectral"] = "fine_grained",
    per: Per = "batch",
    variant: Variant = "paper",
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """SaliencyMix (Uddin et al., 2021): CutMix with its box around the most salient pixel.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        detector: what finds the pixel, see `automix_jax.mixups.saliency`.
        per: "batch" is the original, one ratio and one box for all images of a call, around the
            peak of the first image that is pasted; "sample" is a ratio each and each pasted
            image's own peak.
        variant: "published" draws the centre, as in CutMix: the authors' code and OpenMixup give
            OpenCV a float image, whose bytes it reads for pixels, so their peaks have nothing to
            do with the image.
        mean, std: of the images' normalisation; saliency is computed on bytes.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups.saliencymix import saliencymix
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = saliencymix(jax.random.key(0), images, labels, num_classes=10, per="sample")
        >>> bool(jnp.allclose(mixed.info["mask"].mean((1, 2, 3)), mixed.info["lam"]))
        True
    """
    rng_lam, rng_perm, rng_centre = jax.random.split(rng, 3)
    count, size = draws(per, len(labels)), images.shape[1:3]
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    if variant == "published":
        centre = random_centre(rng_centre, count, size)
    else:
        saliency = _DETECTORS[detector](to_uint8(images[perm[:count]], mean, std))
        centre = jnp.divmod(saliency.reshape(count, -1).argmax(1), size[1])
    box = box_around(centre, jnp.sqrt(1 - lam), size)
    return masked(images, labels, perm, outside(box, size), num_classes)

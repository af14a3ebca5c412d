"""What a network sees in mixed images or photographs, and where: the picture and its numbers."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from rich.console import Console
from rich.progress import track

from automix_jax.errors import ConfigError
from automix_jax.evaluate.cam import default_layer, default_method
from automix_jax.evaluate.network import Network
from automix_jax.guide import IMAGENET_MEAN, IMAGENET_STD
from automix_jax.report import gallery, mixes
from automix_jax.report.cam_looks import look_at, make_looker, save, split
from automix_jax.report.pictures import choose
from automix_jax.train.trained import Restored, Trained
from automix_jax.weights.convert import Pretrained
from automix_jax.weights.layout import image_channels

_TILES = 12  # side by side
_PHOTOS = 6  # in a row
_WHERE = (
    "Below each image, the two classes that the network finds likeliest, with their probabilities,"
    " and where it sees them: red where most speaks for the class, blue where least does ({how})."
)
_WHOSE = (
    "Each image is mixed with the one to its right, the last with the first, at ratio {lam:g}."
    " Frames are green for the class of the image, blue for its partner's, red for others."
)
_NOTES = {
    "augmix": "augmix mixes an image with itself, augmented.",
    "comixup": "comixup chooses its own ratios and partners, which all the others count as.",
}


def draw_mixes(
    path: Path,
    methods: Sequence[str],
    run: Restored,
    trained: Trained,
    data: str | None = None,
    *,
    size: int | None = None,
    lam: float = 0.5,
    pairs: int = 4,
    seed: int = 0,
    method: str | None = None,
    layer: str | None = None,
) -> tuple[int, int]:
    """Draws the images and what every method makes of them, as a run's network sees them.

    Args:
        path: of the PNG; its folder exists. FILE.json and FILE.npz are written beside it.
        methods: that can be drawn, see `mixes.settle`.
        run: gives AutoMix, and the network that some methods look at.
        trained: the network of the run that looks at the mixed images.
        data: see `pictures.choose`; by default the run's.
        size: side of the images, see `pictures.choose`.
        lam: the ratio.
        pairs: how many images; each is mixed with the next.
        seed: of the choice of images and of the methods' draws.
        method, layer: see `make_cam`.

    Returns:
        Width and height of the picture.

    Raises:
        DataError: for data that cannot be used.
        ConfigError: for a method or layer that the network does not allow, or if the files cannot
            be written.
    """
    config = trained.config
    network = Network(trained.model, trained.variables, config.data.mean, config.data.std)
    look = make_looker(network, method, layer)
    pictures = gallery.choose_images(data, pairs, size, seed, run)
    labels = np.asarray(mixes.labels_of(pictures, run))
    rows = track(
        mixes.mix(methods, pictures, lam, seed, run),
        "mixing",
        len(methods),
        disable=not sys.stderr.isatty(),
        console=Console(stderr=True),
        transient=True,
    )
    blocks = [look_at("images", pictures.images, _plain(pictures.names), look, labels)]
    for row in rows:
        captions = [f"{weight:.2f}" for weight in row.lam]
        partners = _partners(row.method, labels)
        blocks.append(look_at(row.method, row.images, captions, look, labels, partners))
    settled = _settled(network, method, layer)
    where = _WHERE.format(how=", ".join(settled.values()))
    notes = [_WHOSE.format(lam=lam), where, *(_NOTES[name] for name in methods if name in _NOTES)]
    across = max(_TILES // pairs, 1)
    about = {
        "model": config.model.name,
        "network": f"{trained.network}_{trained.head}",
        "step": trained.step,
        "lam": lam,
        **settled,
    }
    return save(path, blocks, " ".join(notes), across, trained.facts.class_names, about)


def draw_photos(
    path: Path,
    folder: Path,
    weights: Pretrained,
    class_names: Sequence[str] | None = None,
    *,
    size: int | None = None,
    count: int = 4,
    seed: int = 0,
    method: str | None = None,
    layer: str | None = None,
) -> tuple[int, int]:
    """Draws photographs as a network that was trained on ImageNet sees them.

    Args:
        path: of the PNG; its folder exists. FILE.json and FILE.npz are written beside it.
        folder: of the photographs, see `pictures.choose`.
        weights: of the network.
        class_names: of its classes; by default their numbers.
        size: side of the images; by default that of the weights.
        count: how many photographs.
        seed: of their choice.
        method, layer: see `make_cam`.

    Returns:
        Width and height of the picture.

    Raises:
        DataError: for photographs that cannot be used.
        ConfigError: for names, a method or a layer that do not suit the network, or if the files
            cannot be written.
    """
    network = Network(weights.model(), weights.variables, IMAGENET_MEAN, IMAGENET_STD)
    class_names = _class_names(weights, class_names)
    look = make_looker(network, method, layer)
    pictures = choose(f"folder:{folder}", count, size=size or weights.image_size, seed=seed)
    shown = look_at("", pictures.images, _plain(pictures.names), look)
    settled = _settled(network, method, layer)
    note = _WHERE.format(how=", ".join(settled.values()))
    blocks = split(shown, _PHOTOS)
    return save(path, blocks, note, 1, class_names, {"model": weights.name, **settled})


def _class_names(weights: Pretrained, names: Sequence[str] | None) -> Sequence[str]:
    """The names of the classes of imported weights, by default their numbers.

    Raises:
        ConfigError: if there are more or fewer, or the network does not read colours.
    """
    kernels = {path: leaf.shape for path, leaf in flatten_dict(weights.variables).items()}
    if image_channels(kernels) != 3:
        raise ConfigError(f"this {weights.name} does not read three channels: give other weights.")
    if names is None:
        return [f"class {i}" for i in range(weights.num_classes)]
    if len(names) != weights.num_classes:
        raise ConfigError(
            f"--classes has {len(names)} names, but the network {weights.num_classes} classes: give"
            " one in each line."
        )
    return names


def _settled(network: Network, method: str | None, layer: str | None) -> dict[str, str]:
    """The method and the layer that are looked at."""
    return {
        "method": method or default_method(network),
        "layer": layer or default_layer(network),
    }


def _plain(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def _partners(method: str, labels: np.ndarray) -> np.ndarray | None:
    """The classes that a method may have mixed each image with, [B, n]."""
    if method == "augmix":
        return None
    if method == "comixup":
        return np.tile(labels, (len(labels), 1))
    return np.roll(labels, -1)[:, None]

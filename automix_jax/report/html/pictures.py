"""Pictures within a page, and a slider through those of a run's epochs."""

import base64
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from automix_jax.errors import AutoMixError, DataError
from automix_jax.evaluate.samples import load_snapshot
from automix_jax.report import training_pictures
from automix_jax.report.html.lines import read_json
from automix_jax.report.html.markup import Markup, element

_EPOCHS = 12  # of which a page shows pictures
_PAIRS = 4  # whose masks it shows
_LARGE = 200_000  # bytes, from which a picture is written anew
_SAMPLE = re.compile(r"epoch_(\d+)\.png")


def embed(path: Path, text: str, scale: int = 1) -> Markup:
    """A picture as part of the page: a PNG (large ones become JPEGs) or an SVG.

    Args:
        path: of the picture.
        text: what it shows, for those who do not see it.
        scale: pixels of the picture for one of the page, in both directions.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".svg":
            return _image(data, "svg+xml", text)
        with Image.open(io.BytesIO(data)) as picture:
            width, height = (side // scale for side in picture.size)
            smaller = _as_jpeg(picture)  # decodes it, whether or not it is needed
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no picture that can be read ({error}): remove it.") from error
    if len(data) > _LARGE and len(smaller) < len(data):
        return _image(smaller, "jpeg", text, width, height)
    return _image(data, "png", text, width, height)


def _as_jpeg(picture: Image.Image) -> bytes:
    """The picture with losses that are hardly seen."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=88, optimize=True)
    return buffer.getvalue()


def _image(
    data: bytes, kind: str, text: str, width: int | None = None, height: int | None = None
) -> Markup:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return element("img", src=source, alt=text, width=width, height=height)


def _find_samples(run: Path) -> dict[int, Path]:
    """The pictures of mixed images of a run by epoch, in their order."""
    found = {
        int(match[1]): path
        for path in (run / "samples").glob("*.png")
        if (match := _SAMPLE.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def samples(run: Path, notes: list[str]) -> Markup | None:
    """A slider through the pictures of mixed images; None where there are none.

    Args:
        run: folder of the run.
        notes: gets a sentence on each picture that cannot be read.
    """
    files = _find_samples(run)
    frames = []
    chosen = _spread(list(files), _EPOCHS)
    for epoch in chosen:
        try:
            frames.append((f"epoch {epoch}", embed(files[epoch], f"mixed images, epoch {epoch}")))
        except DataError as error:
            notes.append(str(error))
    if not frames:
        return None
    left_out = len(files) - len(chosen)
    more = f" {left_out} others are in the folder samples." if left_out else ""
    return element(
        "div",
        element("p", f"{_SAMPLES_NOTE}{more}", class_="note"),
        _slider("samples-slider", frames),
    )


_SAMPLES_NOTE = (
    "The same test images after each epoch, mixed with their partners at four ratios; masks are"
    " white where the image shows."
)


def _spread(items: Sequence[int], most: int) -> list[int]:
    """Some of them, the first and the last among them, at equal distances."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _slider(id_: str, frames: Sequence[tuple[str, Markup]]) -> Markup:
    """Pictures with names, one at a time; side by side where there are no scripts."""
    control = element(
        "div",
        element("button", "▶", type="button", class_="play", aria_label="play"),
        element(
            "input",
            type="range",
            min=0,
            max=len(frames) - 1,
            value=len(frames) - 1,
            aria_label="epoch",
        ),
        element("output", frames[-1][0]),
        class_="control",
        hidden=True,
    )
    figures = [
        element("figure", picture, element("figcaption", name), class_="frame")
        for name, picture in frames
    ]
    return element(
        "div", control, element("div", *figures, class_="frames"), id=id_, class_="slider"
    )


def masks(run: Path, notes: list[str]) -> tuple[Markup | None, list[dict[str, Any]]]:
    """The picture of the masks of the same pairs, and the numbers of all snapshots.

    Args:
        run: folder of the run.
        notes: gets a sentence where there are snapshots that cannot be used.

    Returns:
        None and no numbers where there are no snapshots.
    """
    if not (run / "samples").is_dir() or not any((run / "samples").glob("*.npz")):
        return None, []
    try:
        files = training_pictures.find(run)
        pairs = min(_PAIRS, len(load_snapshot(next(iter(files.values()))).images))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "masks.png"
            training_pictures.draw(run, path, pairs=pairs)
            text = "mixed images and masks of the same pairs, epoch after epoch"
            picture = embed(path, text, scale=2)  # it is drawn for sharp screens
            numbers, _ = read_json(path.with_suffix(".json"))
    except AutoMixError as error:
        notes.append(f"The masks are not shown: {error}")
        return None, []
    assert numbers is not None  # it was just written
    return element("div", picture, class_="wide picture"), numbers["epochs"]

"""Top-1 and top-5 of imported weights on a folder of labelled photographs.

    automix import-weights mobilenet_v2-b0353104.pth --model mobilenet_v2 --out mobilenet
    python benchmarks/classify.py mobilenet PHOTOS

PHOTOS/labels.tsv has the columns file, imagenet_index and name. The photographs are resized to 256
(the shorter side), cropped to 224 and normalised as torchvision's weights want.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # automix_jax of this checkout

import jax
import numpy as np
from PIL import Image
from rich.progress import track

from automix_jax import weights
from automix_jax.errors import AutoMixError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def read(path: Path, resize: int, crop: int) -> np.ndarray:
    """A normalised photograph [crop, crop, 3]."""
    image = Image.open(path).convert("RGB")
    scale = resize / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - crop) // 2, (height - crop) // 2
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop))) / 255
    return ((pixels - MEAN) / STD).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints JSON; returns the exit code."""
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser("classify.py", description=__doc__, **layout)
    parser.add_argument("weights", type=Path, help="folder of import-weights")
    parser.add_argument("photos", type=Path, help="folder with labels.tsv")
    args = parser.parse_args(argv)
    try:
        pretrained = weights.load(args.weights)
    except AutoMixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    model = pretrained.model()
    predict = jax.jit(lambda variables, images: model.apply(variables, images)[0])
    with (args.photos / "labels.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    first, five, missed = 0, 0, []
    for row in track(rows, "classifying"):
        image = read(args.photos / row["file"], 256, pretrained.image_size)
        order = np.argsort(-np.asarray(predict(pretrained.variables, image[None])[0]))
        rank = int(np.flatnonzero(order == int(row["imagenet_index"]))[0])
        first, five = first + (rank == 0), five + (rank < 5)
        if rank:
            missed.append({"name": row["name"], "rank": rank + 1})
    percent = {"top1": 100 * first / len(rows), "top5": 100 * five / len(rows)}
    print(json.dumps({"photos": len(rows), **percent, "missed": missed}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

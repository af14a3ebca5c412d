"""Rows of a table, and results as a sweep writes them, of which nothing was trained."""

import random

from automix_jax import recipes
from automix_jax.config import evaluated
from automix_jax.sweep.cells import Row, flat, trials
from tests.runs import ROOT

NAMES = {"vanilla": "Vanilla", "mixup": "MixUp", "cutmix": "CutMix", "automix": "AutoMix"}


def make_row(method, name=None, recipe="cifar10_r18", epochs=20, paper=True, **fields):
    """A row of a short run of a recipe, beside the number of the whole one."""
    path = ROOT / "configs" / f"{recipe}.py"
    config = recipes.load_config(f"{path}:method={method},epochs={epochs}")
    reference = recipes.load_config(f"{path}:method={method}")
    with config.unlocked():
        for field, value in fields.items():
            section, _, leaf = field.rpartition("__")
            setattr(config[section] if section else config, leaf, value)
    number = f"table1/cifar10/resnet18/{method}" if paper else ""
    return Row(name or NAMES[method], config, "", number, reference, recipe, method)


def result(row, trial, accuracy, *, hours=1.0, lists=None, **changes):
    """A line of results.jsonl: `accuracy` at the end of the run, or `lists` by head."""
    cell = trials(row, trial + 1)[trial]
    config = cell.config
    if lists is None:
        lists = {
            head: [accuracy - (0.5 if head.startswith("teacher") else 0.0)] * config.epochs
            for head in evaluated(config)
        }
    return {
        "key": cell.key,
        "folder": cell.folder,
        "recipe": cell.recipe,
        "method": cell.method,
        "seed": config.seed,
        "headline": config.eval.headline,
        "epochs": config.epochs,
        "steps": 500 * config.epochs,
        "accuracy": lists,
        "loss": [1.0] * config.epochs,
        "skipped_steps": 0,
        "seconds": {
            "total": 3600 * hours,
            "train": 3000 * hours,
            "input": 60 * hours,
            "evaluate": 540 * hours,
        },
        "images_per_second": 1000.0,
        "parameters": {"student": 11_173_962, "mixblock": 65_921},
        "device": "1 x NVIDIA H100",
        "compute_dtype": "float32",
        "jax": "0.10.2",
        "automix_jax": "0.8.0",
        "data": {
            "name": config.data.name,
            "train_images": 50_000,
            "test_images": 10_000,
            "num_classes": 10,
        },
        "config": flat(config),
    } | changes


def curve(end, epochs, noise, rng=None):
    """Accuracies by epoch that rise to `end`."""
    rng = rng or random.Random(0)
    return [
        round(end - (end - 30) * 0.8**epoch + rng.gauss(0, noise), 2)
        for epoch in range(1, epochs + 1)
    ]

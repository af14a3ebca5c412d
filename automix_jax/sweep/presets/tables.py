"""Tables 1 to 9."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from automix_jax.sweep import published
from automix_jax.sweep.cells import Row
from automix_jax.sweep.presets.base import NAMES, Choice, Preset, make_row

COMMON = ("vanilla", "mixup", "cutmix", "manifoldmix", "saliencymix", "fmix", "puzzlemix",
           "resizemix", "automix")  # fmt: skip
_SMALL = {
    "cifar10": ("r18", "rx50"),
    "cifar100": ("r18", "rx50", "wrn28_8"),
    "tiny_imagenet": ("r18", "rx50"),
}
# AutoMix without its clean images, as the rows of Table 8 above the last have it.
NO_CE = "method.clean_branch=False"


def compared(table: str, methods: Sequence[str]) -> Callable[[Choice], list[Row]]:
    """The rows of a table of methods."""

    def rows(choice: Choice) -> list[Row]:
        if choice.backbone == "wrn28_8" and choice.budget == "paper" and not choice.epochs:
            choice = dataclasses.replace(choice, epochs=400)  # as its numbers are
        return [
            make_row(choice, NAMES[method], method, _number(table, choice, method))
            for method in methods
            if choice.wants(method)
        ]

    return rows


def _number(table: str, choice: Choice, method: str) -> str:
    """The name of a method's published accuracy; empty where there is none.

    It is the table's own, unless only the authors' pages have one of the length that is trained. A
    short run stands beside the shortest that is published.
    """
    if choice.small:
        return ""
    part = {"table2": f"/{300 if choice.epochs == 300 else 100}"}.get(table, "")
    own = f"{table}/{choice.column}{part}/{method}"
    own += "/clean" if table == "table4" else ""
    length = choice.epochs or (200 if choice.budget == "gpu" else 0)
    other = f"openmixup/{choice.column}/{length}/{method}"
    if not published.has(own) or published.get(own).epochs != length:
        own = other if published.has(other) else own
    return own if published.has(own) else ""


def _table7(choice: Choice) -> list[Row]:
    """From random grids to MixBlock, part by part."""
    # Cells as large as MixBlock's: of the third stage for small images, of the second of ResNet-8.
    grids = (f"method.options.cell={2 if choice.small else 4}", "method.clean_weight=1.0")
    no_loss, no_lam = "mask_loss.weight=0.0", "mixblock.lam_embed=none"
    steps = {
        "random_grids": ("random grids (our reading)", "randomgrid", grids),
        "cross_attention": ("+ cross attention", "automix", (no_lam, no_loss)),
        "lam_embedding": ("+ λ embedding", "automix", ("mixblock.lam_embed=concat", no_loss)),
        "lam_loss": ("+ loss of λ", "automix", ("mixblock.lam_embed=concat",)),
    }
    return [
        make_row(choice, name, method, f"table7/{choice.column}/{step}", fields=fields)
        for step, (name, method, fields) in steps.items()
        if choice.wants(method)
    ]


def _table8(choice: Choice) -> list[Row]:
    """With and without momentum pipeline and clean images, for MixUp, CutMix and MixBlock."""
    rows = []
    for method in ("mixup", "cutmix"):
        with_ce = ("method.clean_weight=1.0",)
        rows += [
            _ablation(choice, method, "none", "none"),
            # Their momentum pipeline is the teacher that is evaluated; the training is the same.
            _ablation(choice, method, "+ MP", "mp", head="teacher_mix"),
            _ablation(choice, method, "+ MP + CE", "mp_ce", with_ce, "teacher_mix"),
        ]
    alone = ("teacher.enabled=False", NO_CE)
    copied = ("teacher.momentum=0.0", "teacher.momentum_end=0.0", "teacher.hold=0.0", NO_CE)
    rows += [
        _ablation(choice, "automix", "none", "none", alone, "student_mix"),
        _ablation(choice, "automix", "+ MP (m = 0)", "mp_m0", copied),
        _ablation(choice, "automix", "+ MP", "mp", (NO_CE,)),
        _ablation(choice, "automix", "+ MP + CE", "mp_ce"),
    ]
    return [row for row in rows if choice.wants(row.method)]


def _ablation(
    choice: Choice, method: str, name: str, part: str, fields: Sequence[str] = (), head: str = ""
) -> Row:
    if head == "student_mix":
        fields = (*fields, "eval.headline=student_mix")
    number = f"table8/{choice.dataset}/{method}/{part}"
    return make_row(choice, f"{NAMES[method]}, {name}", method, number, fields=fields, head=head)


def _table9(choice: Choice) -> list[Row]:
    """The feature map that MixBlock reads."""
    rows = [make_row(choice, "MixUp", "mixup", f"table9/{choice.column}/mixup")]
    maps = ["stage1", "stage2"] if choice.small else [f"stage{layer}" for layer in range(1, 5)]
    if choice.backbone == "rx50" and not choice.small:  # by the parameters that the paper counts
        maps[:2] = ["stem", "stage1"]
    for layer, feature_map in enumerate(maps, 1):
        # They are of two projections.
        fields = (f"model.layer={feature_map}", "mixblock.share_qk=False")
        number = f"table9/{choice.column}/l{layer}"
        name, chosen = f"AutoMix, l = {layer}", layer == min(3, len(maps))
        rows.append(make_row(choice, name, "automix", number, fields=fields, against=chosen))
    return [row for row in rows if choice.wants(row.method)]


def of_methods(
    name: str,
    about: str,
    cells: Mapping[str, tuple[str, ...]],
    methods: tuple[str, ...] = COMMON,
    *,
    numbers: str = "",
    **rest: Any,
) -> Preset:
    """A table, or a figure, that compares methods.

    Args:
        name, about, cells, methods: see `Preset`.
        numbers: the table that has their accuracies; empty for this one.
        rest: see `Preset`.
    """
    return Preset(name, about, cells, compared(numbers or name, methods), methods, **rest)


IMAGENET = {"imagenet": ("r50", "r18", "r34", "r101", "rx101")}
_FINE = {"cub200": ("r18", "rx50"), "aircraft": ("r18", "rx50"), "inat2017": ("r50", "rx101"),
         "inat2018": ("r50", "rx101"), "places205": ("r18", "r50")}  # fmt: skip
_BY_TIME = "time_against_accuracy"
PRESETS = (
    of_methods("table1", "methods on small images", _SMALL,
               (*COMMON[:-2], "comixup", *COMMON[-2:]), chart=_BY_TIME),
    of_methods("table2", "methods on ImageNet, 100 epochs or --epochs=300", IMAGENET,
               chart=_BY_TIME),
    of_methods("table3", "methods on fine-grained classes and scenes", _FINE, chart=_BY_TIME),
    of_methods("table4", "methods under corruptions and attacks", {"cifar100": ("rx50",)},
               ("vanilla", "mixup", "cutmix", "augmix", "puzzlemix", "automix"),
               suites=("corruptions", "attacks")),
    of_methods("table5", "networks for detection; docs/detection.md says how it goes on",
               {"imagenet": ("r50",)},
               ("vanilla", "mixup", "cutmix", "puzzlemix", "resizemix", "automix"),
               numbers="table2"),
    of_methods("table6", "where networks see what they classify", {"cub200": ("r18", "rx50")},
               ("vanilla", "mixup", "cutmix", "fmix", "puzzlemix", "comixup", "automix"),
               numbers="table3", suites=("localization",)),
    Preset("table7", "MixBlock part by part", {"tiny_imagenet": ("r18", "rx50")}, _table7,
           ("randomgrid", "automix"), chart="ablation_bars"),
    Preset("table8", "momentum pipeline (MP) and clean images (CE)",
           {"cifar100": ("r18",), "tiny_imagenet": ("r18",), "imagenet": ("r18",)}, _table8,
           ("mixup", "cutmix", "automix"), chart="ablation_bars"),
    Preset("table9", "the feature map that MixBlock reads", {"tiny_imagenet": ("r18", "rx50")},
           _table9, ("mixup", "automix"), chart="accuracy_by_layer"),
)  # fmt: skip

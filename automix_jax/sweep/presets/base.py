"""What the presets have in common: the choices of a user, and rows made of recipes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.sweep import published
from automix_jax.sweep.cells import Row, flat
from automix_jax.sweep.published import Published

NETWORKS = {  # of the recipes' file names
    "r18": "resnet18", "r34": "resnet34", "r50": "resnet50", "r101": "resnet101",
    "rx50": "resnext50_32x4d", "rx101": "resnext101_32x4d", "wrn28_8": "wrn28_8",
}  # fmt: skip
NAMES = {
    "vanilla": "Vanilla", "mixup": "MixUp", "cutmix": "CutMix", "manifoldmix": "ManifoldMix",
    "saliencymix": "SaliencyMix", "fmix": "FMix", "puzzlemix": "PuzzleMix", "comixup": "Co-Mixup",
    "resizemix": "ResizeMix", "augmix": "AugMix", "automix": "AutoMix",
}  # fmt: skip


_TEACHER = "teacher.enabled=True"  # of rivals as well: nothing reads it but its evaluation


class Budget(NamedTuple):
    """How much is trained.

    Attributes:
        about: in words.
        recipe: to train in the place of the published cell's; empty for that.
        fields: of every configuration, --config.FIELD=VALUE without the dashes.
        epochs: of training; 0 for those of the recipe.
        automix: fields of AutoMix's configurations, likewise, unless the variant is "released".
    """

    about: str
    recipe: str = ""
    fields: tuple[str, ...] = ()
    epochs: int = 0
    automix: tuple[str, ...] = ()


BUDGETS = {
    "paper": Budget("the whole recipe, as it is published"),
    "gpu": Budget(
        "the recipe's data and network for 20 epochs: minutes a row for CIFAR on a GPU",
        epochs=20,
        # At the recipes' 0.1 MixBlock collapsed in such a run: docs/results/cifar10_h200.md.
        automix=("optimizer.mixblock_lr=0.0",),
    ),
    "cpu": Budget(
        "a small network on the embedded images at 14 x 14: minutes a row on two cores",
        recipe="quickstart",
        fields=("data.image_size=14", "data.padding=1", "run.sample_epochs=5"),
        epochs=15,
    ),
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a user has asked for.

    Attributes:
        dataset: as in the recipes' file names; empty for the budget's.
        backbone: likewise, "r18".
        budget: a name of `BUDGETS`.
        load: makes a configuration from a recipe's file name and argument, as in
            "cifar10_r18:method=mixup", and --config.FIELD=VALUE arguments.
        overrides: --config.FIELD=VALUE arguments of the user, for what is trained.
        variant: "paper" or "released".
        epochs: in the place of the recipe's or the budget's; 0 for those.
        methods: some of the preset's; None for all.
    """

    dataset: str
    backbone: str
    budget: str
    load: Callable[[str, Sequence[str]], ConfigDict]
    overrides: tuple[str, ...] = ()
    variant: str = "paper"
    epochs: int = 0
    methods: tuple[str, ...] | None = None

    @property
    def recipe(self) -> str:
        """The file name of the recipe that is trained."""
        return BUDGETS[self.budget].recipe or self.published_recipe

    @property
    def published_recipe(self) -> str:
        """The file name of the recipe of the published number."""
        return f"{self.dataset}_{self.backbone}"

    @property
    def small(self) -> bool:
        """Whether the budget has data and a network of its own."""
        return bool(BUDGETS[self.budget].recipe)

    @property
    def column(self) -> str:
        """The part of a published number's name that tells data and network."""
        return f"{self.dataset}/{NETWORKS.get(self.backbone, self.backbone)}"

    def wants(self, method: str) -> bool:
        """Whether a method is one of those that were asked for."""
        return self.methods is None or method in self.methods

    def config(self, method: str, fields: Sequence[str] = ()) -> ConfigDict:
        """The configuration of a row.

        Args:
            method: of `method=`.
            fields: that the row sets, FIELD=VALUE each.
        """
        budget = BUDGETS[self.budget]
        epochs = self.epochs or budget.epochs
        argument = f"method={method},variant={self.variant}"
        if epochs:
            argument += f",epochs={epochs}"
        automix = budget.automix if (method, self.variant) == ("automix", "paper") else ()
        own = [f"--config.{field}" for field in (_TEACHER, *budget.fields, *automix, *fields)]
        return self.load(f"{self.recipe}:{argument}", [*own, *self.overrides])

    def reference(self, method: str, fields: Sequence[str], number: Published) -> ConfigDict:
        """The configuration that a published number is of.

        The paper's are of what the paper states; the authors' pages go with their files.
        """
        variant = "released" if number.source == "OpenMixup" else "paper"
        argument = f"method={method},variant={variant}"
        if number.epochs:
            argument += f",epochs={number.epochs}"
        own = [f"--config.{field}" for field in (_TEACHER, *fields)]
        return self.load(f"{self.published_recipe}:{argument}", own)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A table or figure of the paper.

    Attributes:
        name: "table1".
        about: what it shows.
        cells: datasets and their networks, the default first.
        rows: what it trains, of a choice.
        suites: of `automix evaluate` that follow, with what they need.
        chart: name of a function of `automix_jax.report.paper_charts`; empty for none.
        picture: what is drawn of the runs: "" or a command of `automix visualize`.
        methods: that a user can choose among.
    """

    name: str
    about: str
    cells: Mapping[str, tuple[str, ...]]
    rows: Callable[[Choice], list[Row]]
    methods: tuple[str, ...]
    suites: tuple[str, ...] = ()
    chart: str = ""
    picture: str = ""

    def settle(self, dataset: str, backbone: str, budget: str) -> tuple[str, str]:
        """The dataset and network that a user has asked for, or the defaults.

        Raises:
            ConfigError: for one that the table does not have, or a budget that has its own.
        """
        if budget not in BUDGETS:
            hint = did_you_mean(budget, BUDGETS)
            raise ConfigError(f"--budget is {budget!r}.{hint} Use {', '.join(BUDGETS)}.")
        if BUDGETS[budget].recipe and (dataset or backbone):
            raise ConfigError(
                f"--budget={budget} has data and a network of its own: leave out --dataset and"
                " --backbone, or choose another --budget."
            )
        dataset = dataset or next(iter(self.cells))
        if dataset not in self.cells:
            hint = did_you_mean(dataset, self.cells)
            raise ConfigError(
                f"--dataset is {dataset!r}, which {self.name} does not have.{hint} Use"
                f" {', '.join(self.cells)}."
            )
        backbone = backbone or self.cells[dataset][0]
        if backbone not in self.cells[dataset]:
            hint = did_you_mean(backbone, self.cells[dataset])
            raise ConfigError(
                f"--backbone is {backbone!r}, which {self.name} does not have on {dataset}.{hint}"
                f" Use {', '.join(self.cells[dataset])}."
            )
        return dataset, backbone

    def check_methods(self, methods: Sequence[str] | None) -> None:
        """Raises a ConfigError for a method that is none of its rows'."""
        for method in methods or ():
            if method not in self.methods:
                hint = did_you_mean(method, self.methods)
                raise ConfigError(
                    f"--methods has {method!r}, which is not in {self.name}.{hint} Use some of"
                    f" {'+'.join(self.methods)}."
                )


def own_fields(choice: Choice, rows: Sequence[Row]) -> list[str]:
    """The fields that the rows of a table set themselves: what it is about.

    They are the method's name, and what any row has otherwise than its method alone has it. How a
    run is kept is not among them.

    Args:
        choice: that the rows are of.
        rows: of a preset.

    Returns:
        Their names, such as "method.alpha".
    """
    found = {"method.name": None}  # a set that keeps its order
    for row in rows:
        plain = flat(choice.config(row.method))
        changed = (name for name, value in flat(row.config).items() if plain.get(name) != value)
        found |= dict.fromkeys(name for name in changed if not name.startswith("run."))
    return list(found)


def make_row(
    choice: Choice,
    name: str,
    method: str,
    paper: str = "",
    *,
    fields: Sequence[str] = (),
    head: str = "",
    against: bool = False,
) -> Row:
    """A row of a table.

    Args:
        choice: of the user.
        name: in the table.
        method: that is trained.
        paper: name of its published number; left out where the budget has other data.
        fields: that it sets, FIELD=VALUE each.
        head: whose accuracy it shows; empty for the headline's.
        against: whether the others are compared with it; see `Row`.
    """
    reference, number = None, ""
    if paper and not choice.small:
        number = paper
        reference = choice.reference(method, fields, published.get(paper))
    return Row(
        name=name,
        config=choice.config(method, fields),
        head=head,
        paper=number,
        reference=reference,
        recipe=choice.recipe,
        method=method,
        against=against,
    )

"""`automix reproduce`: a table or figure of the paper, ours beside the published numbers."""

import dataclasses
import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from automix_jax.commands import follow_up
from automix_jax.commands.base import Parser, wide_console
from automix_jax.commands.sweep import add_sweep_options, check_sweep_options
from automix_jax.errors import ConfigError
from automix_jax.sweep import presets
from automix_jax.sweep.cells import Row, cells, flat, trials
from automix_jax.sweep.presets import Choice, Preset
from automix_jax.sweep.presets.base import own_fields

_HELP = """\
Trains what a table or figure of the paper shows, and writes ours beside the published numbers:

    automix reproduce                                    # lists what there is
    automix reproduce table1 --dataset=cifar10 --backbone=r18 --data=DIR --jobs=8
    automix reproduce table8 --budget=cpu                # the same rows in an hour on two cores
    automix reproduce table7 --data=DIR --plan           # what would be trained; trains nothing

--budget says how much is trained:

    paper   {paper}
    gpu     {gpu}
    cpu     {cpu}

With gpu and cpu the numbers are not the paper's, and footnotes say what differs: they show whether
the order of the rows is. --epochs=N overrides the length, --config.FIELD=VALUE any field.

The folder --out gets report.md, .csv, .json and .tex, the runs, and pictures with their numbers.
Tables 4 and 6 and Figures 4 and 8 also evaluate what was trained, into measures.md and .json: see
automix evaluate --help; --train-only leaves that out.

The same command goes on where it stopped, --jobs trains several at once, and the tasks of a SLURM
array that run the same command on one folder share the work: see automix sweep --help. With
--report nothing is trained: what is there is reported.
"""


def reproduce(argv: Sequence[str]) -> int:
    """Runs `automix reproduce`; returns the exit code of `automix_jax.sweep.run.sweep`.

    Raises:
        AutoMixError: for arguments that cannot be used, or a sweep that cannot begin.
    """
    from automix_jax.sweep import run

    about = {name: budget.about for name, budget in presets.BUDGETS.items()}
    parser = Parser("reproduce", _HELP.format(**about))
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="table1 to table9, fig1, fig3, fig4, fig6 to fig9")
    add("--dataset", default="", help="of the table's (default: its first)")
    add("--backbone", default="", help="of the table's on that dataset (default: its first)")
    add("--budget", default="paper", metavar="NAME", help="see above (default: %(default)s)")
    add("--variant", choices=("paper", "released"), default="paper", help="(default: %(default)s)")
    add("--methods", metavar="A+B", help="some of the table's (default: all)")
    add("--epochs", type=int, default=0, metavar="N", help="of training (default: the budget's)")
    add("--data", metavar="PATH", help="of the images: config.data.path")
    add("--out", type=Path, metavar="DIR", help="(default: runs/NAME-..., of what is chosen)")
    add("--boxes", type=Path, metavar="PATH", help="table6: as for automix evaluate")
    add("--corruptions", type=Path, metavar="DIR", help="table4: as for automix evaluate")
    add("--train-only", action="store_true", help="leave out the suites that follow")
    add("--plan", action="store_true", help="show what would be trained, and train nothing")
    add("--report", action="store_true", help="report what has been trained, and train nothing")
    add_sweep_options(parser)
    parser.set_defaults(seeds=3)
    arguments, overrides = parser.parse_known_args(argv)
    console = wide_console()
    if arguments.name is None:
        console.print(_listed())
        return 0
    check_sweep_options(arguments)
    if arguments.epochs < 0:
        raise ConfigError(f"--epochs is {arguments.epochs}: it must be 1 or more, or left out.")
    preset = presets.find(arguments.name)
    choice = _choose(preset, arguments, overrides)
    rows = preset.rows(choice)
    _check_overrides(preset, choice, rows)
    follow_up.check_flags(preset, arguments.boxes, arguments.corruptions)
    if arguments.plan:
        console.print(_plan(rows, arguments.seeds))
        return 0
    out = (arguments.out or _default_out(preset, choice)).expanduser()
    given = arguments.boxes, arguments.corruptions
    todo = follow_up.FollowUp(preset, choice, rows, arguments.seeds, out, console, *given)
    evaluates = not (arguments.report or arguments.train_only)
    if evaluates:
        follow_up.check_needs(todo)
    code = run.sweep(
        rows,
        out,
        seeds=arguments.seeds,
        jobs=arguments.jobs,
        shard=arguments.shard,
        console=console,
        only_report=arguments.report,
        command=shlex.join(["automix", "reproduce", *argv]),
    )
    if code > 1:  # a signal: the same command goes on
        return code
    if evaluates:
        code = follow_up.evaluate(todo, arguments.shard) or code
    follow_up.write_measures(todo)
    return follow_up.draw(todo) or code


def _choose(preset: Preset, arguments: Namespace, overrides: Sequence[str]) -> Choice:
    """What the arguments ask for."""
    from automix_jax.commands.configs import load_named

    dataset, backbone = preset.settle(arguments.dataset, arguments.backbone, arguments.budget)
    methods = tuple(arguments.methods.split("+")) if arguments.methods else None
    preset.check_methods(methods)
    if arguments.data and presets.BUDGETS[arguments.budget].recipe:
        raise ConfigError(
            f"--budget={arguments.budget} has data and a network of its own: leave out --data, or"
            " choose another --budget."
        )
    if arguments.data:
        overrides = [f"--config.data.path={arguments.data}", *overrides]
    return Choice(
        dataset,
        backbone,
        arguments.budget,
        load_named,
        overrides=tuple(overrides),
        variant=arguments.variant,
        epochs=arguments.epochs,
        methods=methods,
    )


def _check_overrides(preset: Preset, choice: Choice, rows: Sequence[Row]) -> None:
    """Raises a ConfigError for a field of the user that is what the rows differ by."""
    plain = dataclasses.replace(choice, overrides=())
    intended = preset.rows(plain)
    for name in own_fields(plain, intended):
        for row, meant in zip(rows, intended, strict=True):
            if flat(row.config).get(name) != flat(meant.config).get(name):
                raise ConfigError(
                    f"--config.{name} is what the rows of {preset.name} set themselves: leave it"
                    " out; automix sweep trains any recipes."
                )


def _default_out(preset: Preset, choice: Choice) -> Path:
    """A folder of its own for each choice, as each has a report of its own."""
    parts = [preset.name, choice.budget]
    if not choice.small:
        parts[1:1] = [choice.dataset, choice.backbone]
    if choice.variant != "paper":
        parts.append(choice.variant)
    if choice.epochs:
        parts.append(f"ep{choice.epochs}")
    chosen = [method for method in preset.methods if choice.wants(method)]
    if len(chosen) < len(preset.methods):
        parts.append("+".join(chosen))
    return Path("runs", "-".join(parts))


def _listed() -> Table:
    """What can be reproduced."""
    table = Table("name", "shows", "--dataset", "--backbone", box=None, pad_edge=False)
    for preset in presets.PRESETS.values():
        for place, (dataset, backbones) in enumerate(preset.cells.items()):
            first = (preset.name, preset.about) if place == 0 else ("", "")
            table.add_row(*first, dataset, ", ".join(backbones))
    return table


def _plan(rows: Sequence[Row], seeds: int) -> Table:
    """The trainings of a sweep, and the published numbers that they stand beside."""
    from automix_jax.sweep import labels, published

    total = len(cells(rows, seeds))
    table = Table(
        "row", "data, network", "epochs", "published", "of", "trainings",
        title=f"{total} trainings", box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        number = published.get(row.paper) if row.paper else None
        folders = [cell.folder.rpartition("-")[2] for cell in trials(row, seeds)]
        table.add_row(
            row.name,
            f"{labels.dataset(row.config)}, {labels.backbone(row.config)}",
            str(row.config.epochs),
            f"{number.value:g}" if number else "",
            f"{number.source}: {number.cell}" if number else "",
            " ".join(folders),
        )
    return table

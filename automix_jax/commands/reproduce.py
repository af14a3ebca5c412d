"""`automix reproduce`: a table or figure of the paper, ours beside the published numbers."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from automix_jax.commands.base import Parser
from automix_jax.commands.sweep import add_sweep_options, check_sweep_options
from automix_jax.errors import AutoMixError, ConfigError
from automix_jax.sweep import presets
from automix_jax.sweep.cells import Row, cells, trials
from automix_jax.sweep.presets import Choice, Preset

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
    add("--out", type=Path, metavar="DIR", help="(default: runs/NAME-DATASET-BACKBONE-BUDGET)")
    add("--plan", action="store_true", help="show what would be trained, and train nothing")
    add("--report", action="store_true", help="report what has been trained, and train nothing")
    add_sweep_options(parser)
    parser.set_defaults(seeds=3)
    arguments, overrides = parser.parse_known_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    if arguments.name is None:
        console.print(_listed())
        return 0
    check_sweep_options(arguments)
    if arguments.epochs < 0:
        raise ConfigError(f"--epochs is {arguments.epochs}: it must be 1 or more, or left out.")
    preset = presets.find(arguments.name)
    choice = _choose(preset, arguments, overrides)
    rows = preset.rows(choice)
    if arguments.plan:
        console.print(_plan(rows, arguments.seeds))
        return 0
    out = (arguments.out or _default_out(preset, choice)).expanduser()
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
    if not arguments.report:
        code = _evaluate(preset, rows, arguments.seeds, out) or code
    _write_measures(preset, rows, arguments.seeds, out, console)
    for path in _draw(preset, rows, arguments.seeds, out):
        console.print(str(path))
    return code


def _choose(preset: Preset, arguments: Namespace, overrides: Sequence[str]) -> Choice:
    """What the arguments ask for."""
    from automix_jax.commands.configs import load_named

    dataset, backbone = preset.settle(arguments.dataset, arguments.backbone, arguments.budget)
    methods = tuple(arguments.methods.split("+")) if arguments.methods else None
    preset.check_methods(methods)
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


def _default_out(preset: Preset, choice: Choice) -> Path:
    where = () if choice.small else (choice.dataset, choice.backbone)
    return Path("runs", "-".join((preset.name, *where, choice.budget)))


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


def _evaluate(preset: Preset, rows: Sequence[Row], seeds: int, out: Path) -> int:
    """Measures what the table shows beside accuracy; returns the last exit code that is not 0."""
    from automix_jax.commands.evaluate import evaluate

    failed = 0
    for suite in preset.suites:
        for row in rows:
            network, _, head = (row.head or row.config.eval.headline).partition("_")
            for cell in trials(row, seeds):
                if not (out / cell.folder / "summary.json").exists():
                    continue
                argv = [str(out / cell.folder), f"--suite={suite}"]
                try:
                    failed = evaluate([*argv, f"--network={network}", f"--head={head}"]) or failed
                except (
                    AutoMixError
                ) as error:  # the other runs and suites can be measured all the same
                    sys.stderr.write(f"error: {cell.folder}: {error}\n")
                    failed = error.exit_code
    return failed


def _write_measures(
    preset: Preset, rows: Sequence[Row], seeds: int, out: Path, console: Console
) -> None:
    """Writes and shows what was measured beside accuracy."""
    from automix_jax.sweep import measures
    from automix_jax.train.workdir import write_atomically

    if not preset.suites:
        return
    values = measures.collect(rows, seeds, out, preset.suites, preset.name)
    write_atomically(out / "measures.json", measures.as_json(values))
    write_atomically(out / "measures.md", measures.markdown(values))
    console.print(measures.markdown(values), markup=False)


def _draw(preset: Preset, rows: Sequence[Row], seeds: int, out: Path) -> list[Path]:
    """The figure of a preset, where something has been trained that it can show."""
    from automix_jax.report import paper_charts
    from automix_jax.sweep import results, table

    found = results.read_results(out)
    made = []
    if preset.chart and found:
        chart = getattr(paper_charts, preset.chart)
        made += chart(table.make(rows, found.values(), seeds), out / preset.name)
    finished = [(row, out / trials(row, 1)[0].folder) for row in rows]
    finished = [(row, run) for row, run in finished if (run / "summary.json").exists()]
    if preset.picture and finished:
        made += _picture(preset.picture, [run for _, run in finished], out / preset.name)
    return made


def _picture(kind: str, runs: Sequence[Path], stem: Path) -> list[Path]:
    """What `automix visualize` draws of the runs of the first seed."""
    from automix_jax.commands.visualize import visualize

    if kind == "calibration":
        visualize(["calibration", *map(str, runs), f"--out={stem}.png"])
        return [stem.with_suffix(".png")]
    made = []
    for number, run in enumerate(runs, 1):
        path = stem.with_name(f"{stem.name}_{kind}{number if len(runs) > 1 else ''}.png")
        place = [str(run)] if kind == "training" else [f"--run={run}"]
        visualize([kind, *place, f"--out={path}"])
        made.append(path)
    return made

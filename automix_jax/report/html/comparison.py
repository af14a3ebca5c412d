"""The page of several runs: their curves over each other, and one table."""

from collections.abc import Mapping, Sequence
from typing import Any

from automix_jax.errors import ConfigError
from automix_jax.report.html import curves, evaluation, settings, upkeep
from automix_jax.report.html.chart import COLORS, draw, shown
from automix_jax.report.html.folder import Run
from automix_jax.report.html.frame import Section, document
from automix_jax.report.html.markup import ABSENT, Markup, element, joined, table
from automix_jax.report.html.page import (
    Page,
    chart_numbers,
    data_name,
    notes_list,
    numbers,
)


def make_comparison(runs: Sequence[Run]) -> Page:
    """The page of several runs, and what is wrong with their folders.

    Raises:
        ConfigError: if two of them are one.
    """
    named = name_runs(runs)
    notes = [f"{name}: {note}" for name, run in named.items() for note in run.notes]
    notes += _incomparable(named)
    found: dict[str, list[evaluation.Found]] = {}
    for name, run in named.items():
        problems: list[str] = []
        found[name] = evaluation.read_evaluation(run, problems)
        notes += [f"{name}: {problem}" for problem in problems]
    charts = curves.overlaid(named)
    grid = element("div", *map(draw, charts), class_="charts") if charts else None
    sections = [
        Section("summary", "Summary", _summary(named)),
        Section("curves", "Curves", grid),
        Section("evaluation", "Evaluation", evaluation.side_by_side(found)),
        Section("differences", "Where they differ", settings.draw_differences(named)),
    ]
    data: dict[str, Any] = {
        "runs": [
            {"name": name, **numbers(run, found[name], [], [])} for name, run in named.items()
        ],
        "charts": chart_numbers(charts),
    }
    title = f"{len(runs)} runs: {', '.join(named)}"
    heading = joined([element("h1", title), notes_list("To be minded", notes)])
    return Page(document(title, heading, sections, data), notes)


def name_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Names of the runs: the shortest of method, folder and path that tell them apart.

    Raises:
        ConfigError: if two of them are one.
    """
    folders = [run.path.resolve() for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"{folder} is given twice: give each run once.")
    methods = [str(run.fields["method.name"]) for run in runs]
    choices = (
        methods,
        [folder.name for folder in folders],
        [str(folder) for folder in folders],
    )
    names = next(names for names in choices if len(set(names)) == len(names))
    return dict(zip(names, runs, strict=True))


def _incomparable(runs: Mapping[str, Run]) -> list[str]:
    """Why their accuracies may not be compared."""
    notes = []
    data = sorted({data_name(run) for run in runs.values()})
    if len(data) > 1:
        notes.append(f"The runs are on {', '.join(data)}: their accuracies do not compare.")
    headlines = sorted({run.headline for run in runs.values()})
    if len(headlines) > 1:
        notes.append(f"Their headlines are of different heads: {', '.join(headlines)}.")
    if any(run.state != "finished" for run in runs.values()):
        notes.append("Not all of the runs are finished.")
    return notes


def _cell(name: str, run: Run, color: int) -> Markup:
    """The name of a run in its colour, above its folder."""
    key = element("i", class_=f"key s{color % COLORS}")
    return element("div", key, name, element("code", str(run.path)), class_="run")


def _summary(runs: Mapping[str, Run]) -> Markup:
    """What each run is, and how good: a row each."""
    found = {name: run.accuracies.get(run.headline, {}) for name, run in runs.items()}
    best = max((row["final"] for row in found.values() if row), default=None)
    rows = []
    for i, (name, run) in enumerate(runs.items()):
        row = found[name]
        final = shown(row.get("final"))
        rate = run.records[-1].get("time/images_per_second") if run.records else None
        rows.append(
            [
                _cell(name, run, i),
                str(run.fields["method.name"]),
                data_name(run),
                str(run.fields["model.name"]),
                run.state,
                f"{run.epoch} of {run.epochs}",
                element("b", final) if row and row["final"] == best else final,
                shown(row.get("best")),
                shown(row.get("median_last_10")),
                shown(rate),
                ABSENT if run.duration is None else upkeep.duration(run.duration),
            ]
        )
    head = [
        *("run", "method", "data", "network", "state", "epochs"),
        *("headline [%]", "best", "median of last 10", "images per second", "time"),
    ]
    note = (
        "The headline is the accuracy of the last epoch, of the head that each configuration has"
        " chosen. The best epoch is chosen by the test images, and flatters."
    )
    return joined([table(head, rows, texts=5), element("p", note, class_="note")])

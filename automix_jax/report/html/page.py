"""The page of one run."""

import dataclasses
from typing import Any, NamedTuple

from automix_jax.report.html import curves, evaluation, pictures, settings, upkeep
from automix_jax.report.html.chart import Chart, shown
from automix_jax.report.html.folder import Run
from automix_jax.report.html.frame import Section, document
from automix_jax.report.html.markup import ABSENT, Markup, element, joined, table


class Page(NamedTuple):
    """What a page is made of."""

    html: str
    notes: list[str]


def make_page(run: Run) -> Page:
    """The page of a run, and what is wrong with its folder."""
    notes = list(run.notes)
    masks, mask_numbers = pictures.masks(run.path, notes)
    found = evaluation.read_evaluation(run, notes)
    charts = curves.charts(run, mask_numbers)
    judged = evaluation.draw(run, found, notes) if found else None
    sections = [
        Section("curves", "Curves", _curves(run, charts)),
        Section("accuracy", "Accuracy", _accuracies(run)),
        Section("samples", "Mixed images over the epochs", pictures.samples(run.path, notes)),
        Section("mask-pictures", "Masks of the same pairs", masks),
        Section("evaluation", "Evaluation", judged),
        Section("happened", "What has happened", upkeep.happenings(run)),
        Section("configuration", "Configuration", settings.draw(run)),
        Section("environment", "Environment", upkeep.environment(run)),
        Section("checkpoints", "Checkpoints", upkeep.checkpoints(run)),
        Section("unreadable", "Unreadable images", upkeep.unreadable(run)),
        Section("commands", "To go on", upkeep.commands(run)),
    ]
    data = {"runs": [numbers(run, found, mask_numbers, notes)], "charts": chart_numbers(charts)}
    title = f"{run.fields['method.name']} on {data_name(run)}"
    html = document(title, _heading(run, title, notes), sections, data)
    return Page(html, notes)


def numbers(
    run: Run,
    found: list[evaluation.Found],
    masks: list[dict[str, Any]],
    notes: list[str],
) -> dict[str, Any]:
    """All numbers of a run, for programs."""
    return {
        "path": str(run.path),
        "state": run.state,
        "method": run.fields["method.name"],
        "dataset": data_name(run),
        "network": run.fields["model.name"],
        "epoch": run.epoch,
        "epochs": run.epochs,
        "headline": run.headline,
        "accuracy": run.accuracies,
        "duration_seconds": run.duration,
        "seconds": run.seconds,
        "summary": run.summary,
        "data": None
        if run.facts is None
        else {
            "train_images": run.facts.train_images,
            "test_images": run.facts.test_images,
            "image_shape": run.facts.image_shape,
            "class_names": run.facts.class_names,
        },
        "config": run.fields,
        "not_default": {name: list(both) for name, both in settings.different(run.fields).items()},
        "records": run.records,
        "masks": masks,
        "evaluation": [
            each.record | {"subject": each.subject, "rows": [list(row) for row in each.rows]}
            for each in found
        ],
        "checkpoints": [dataclasses.asdict(checkpoint) for checkpoint in run.checkpoints],
        "rollbacks": run.rollbacks,
        "changes": run.changes,
        "marks": [mark._asdict() for mark in curves.marks(run)],
        "unreadable": run.unreadable,
        "notes": notes,
    }


def chart_numbers(charts: list[Chart]) -> dict[str, Any]:
    """The lines of all charts, by the charts' ids."""
    return {
        chart.id: {"title": chart.title, "series": {s.name: s.values for s in chart.series}}
        for chart in charts
    }


def _state_in_words(run: Run) -> str:
    """How far the run is."""
    if run.state == "finished":
        return "finished"
    if run.state == "in progress":
        return f"in progress, at epoch {run.epoch} of {run.epochs}"
    if run.state == "given up":
        return f"given up after epoch {run.epoch} of {run.epochs}: not finite"
    step = upkeep.saved(run.checkpoints)
    if not run.records and not step:
        return "no epoch is finished"
    at = f", saved at step {step:,}" if step else ""
    return f"stopped after epoch {run.epoch} of {run.epochs}{at}"


def data_name(run: Run) -> str:
    """Of the data that it is trained on."""
    return run.facts.name if run.facts is not None else str(run.fields["data.name"])


def _heading(run: Run, title: str, notes: list[str]) -> Markup:
    """What the run is, and how good."""
    accuracies = run.accuracies
    row = accuracies.get(run.headline)
    name = run.headline.replace("_", " ")
    tiles = [
        _tile(
            f"{name}, fixed beforehand",
            ABSENT if row is None else f"{row['final']:.2f} %",
            "not evaluated yet"
            if row is None
            else f"best {row['best']:.2f} % in epoch {row['best_epoch']}",
            big=True,
        ),
        _tile("network", str(run.fields["model.name"]), _sizes(run)),
        _tile("epochs", f"{run.epoch} of {run.epochs}", _steps(run)),
        _tile(
            "time",
            ABSENT if run.duration is None else upkeep.duration(run.duration),
            _speed(run),
        ),
        _tile(
            "device",
            str((run.summary or {}).get("device", ABSENT)),
            _versions(run),
        ),
    ]
    badge = element("span", _state_in_words(run), class_=f"badge {run.state.replace(' ', '-')}")
    return joined(
        [
            element("h1", title),
            element("p", badge, " ", element("code", str(run.path)), class_="under"),
            element("div", *tiles, class_="tiles"),
            notes_list("Not all of the folder could be used", notes),
        ]
    )


def notes_list(title: str, notes: list[str]) -> Markup:
    """What a reader has to know first; nothing where there is nothing."""
    if not notes:
        return Markup("")
    return element(
        "div",
        element("b", title),
        element("ul", *(element("li", note) for note in notes)),
        class_="notes",
        role="note",
    )


def _tile(name: str, value: str, below: str, *, big: bool = False) -> Markup:
    return element(
        "div",
        element("small", name),
        element("strong", value),
        element("span", below),
        class_="tile big" if big else "tile",
    )


def _sizes(run: Run) -> str:
    parameters = (run.summary or {}).get("parameters", {})
    return ", ".join(f"{name} {count:,}" for name, count in parameters.items())


def _steps(run: Run) -> str:
    """Steps, and the batch."""
    steps = f"{run.records[-1]['step']:,} steps of" if run.records else "steps of"
    return f"{steps} {run.fields['batch_size']:,} images"


def _versions(run: Run) -> str:
    """What it was computed in, and with; known at the end."""
    if run.summary is None:
        return ""
    return f"{run.summary.get('compute_dtype', ABSENT)}, JAX {run.summary.get('jax', ABSENT)}"


def _speed(run: Run) -> str:
    rate = run.records[-1].get("time/images_per_second") if run.records else None
    return "" if rate is None else f"{shown(rate)} images per second"


def _curves(run: Run, charts: list[Chart]) -> Markup | None:
    """The charts, and what they are drawn from."""
    if not charts:
        return element("p", "No epoch is finished: there are no curves yet.", class_="note")
    return joined([curves.draw_all(charts), curves.numbers_table(run)])


def _accuracies(run: Run) -> Markup | None:
    """The accuracies of all heads; None before the first evaluation."""
    found = run.accuracies
    if not found:
        return None
    rows = [
        [
            element("b", f"{name.replace('_', ' ')} (headline)")
            if name == run.headline
            else name.replace("_", " "),
            f"{row['final']:.2f}",
            f"{row['best']:.2f}",
            str(row["best_epoch"]),
            f"{row['median_last_10']:.2f}",
        ]
        for name, row in found.items()
    ]
    head = ["network and head, top-1 [%]", "last", "best", "in epoch", "median of last 10"]
    note = (
        "The headline was chosen in the configuration, before training. The best epoch is chosen by"
        " the test images, and flatters."
    )
    return joined([table(head, rows), element("p", note, class_="note")])

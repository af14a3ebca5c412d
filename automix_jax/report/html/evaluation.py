"""What `automix evaluate` has found of a run, as its folder evaluation keeps it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from automix_jax.errors import DataError
from automix_jax.report.evaluation import SUITES
from automix_jax.report.html.folder import Run
from automix_jax.report.html.lines import read_json
from automix_jax.report.html.markup import ABSENT, Markup, element, folded, joined, table
from automix_jax.report.html.pictures import embed

_TITLES = {
    "accuracy": "Accuracy",
    "calibration": "Calibration",
    "corruptions": "Corruptions",
    "attacks": "Attacks",
    "localization": "Localisation",
    "mixed": "Mixed images",
}


class Found(NamedTuple):
    """What a suite has found.

    Attributes:
        suite: its name.
        subject: which network and head, and which part of it or of the images.
        record: as it is in the file.
        rows: names and values for people.
        pictures: paths of those that are shown.
    """

    suite: str
    subject: str
    record: dict[str, Any]
    rows: list[tuple[str, str]]
    pictures: list[Path]


def read_evaluation(run: Run, notes: list[str]) -> list[Found]:
    """All results of a run: the headline's first, and suites in the order of the command.

    Args:
        run: whose.
        notes: gets a sentence on each file that cannot be used.
    """
    found = []
    for name in SUITES:
        for path in sorted((run.path / "evaluation").glob(f"{name}_*.json")):
            record, problems = read_json(path)
            notes += problems
            if record is None:
                continue
            try:
                found.append(_read(name, path, record))
            except (KeyError, TypeError, ValueError, AttributeError):
                notes.append(
                    f"{path.name} is of another version or not whole, and left out: `automix"
                    f" evaluate --suite={name}` measures it anew."
                )
    found.sort(key=lambda each: (each.subject != run.headline, each.subject))
    return found


def _read(name: str, path: Path, record: dict[str, Any]) -> Found:
    """What a file says.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is not of this version.
    """
    suite = SUITES[name]
    if (record["suite"], record["version"]) != (name, suite.version):
        raise ValueError
    record["step"] + record["images"]
    # Of two formats the one that is sharp at every size.
    names = list(record["pictures"])
    best = [n for n in names if n.endswith(".svg") or n.removesuffix("png") + "svg" not in names]
    pictures = [path.parent / Path(n).name for n in best if n.endswith((".svg", ".png"))]
    rows = suite.rows(record["numbers"])
    return Found(name, path.stem.removeprefix(f"{name}_"), record, rows, pictures)


def draw(run: Run, found: Sequence[Found], notes: list[str]) -> Markup:
    """Tables and pictures of all results."""
    parts: list[Markup] = []
    for subject in dict.fromkeys(each.subject for each in found):
        here = [each for each in found if each.subject == subject]
        steps = sorted({each.record["step"] for each in here})
        at = " and ".join(f"{step:,}" for step in steps)
        title = f"{subject.replace('_', ' ')}, step {at}"
        if run.records and run.records[-1]["step"] > steps[0]:
            title += f" (the run is at {run.records[-1]['step']:,})"
        cards = [_card(each, notes) for each in here]
        parts += [element("h3", title), element("div", *cards, class_="cards")]
    return joined(parts)


def _card(found: Found, notes: list[str]) -> Markup:
    """A result: its table and pictures."""
    pictures = []
    for path in found.pictures:
        try:
            pictures.append(embed(path, f"{_TITLES[found.suite]} of {found.subject}"))
        except DataError as error:
            notes.append(str(error))
    classes = found.record["numbers"].get("classes", []) if found.suite == "accuracy" else []
    rows = [[c["name"], f"{c['images']:,}", f"{c['top1']:.2f}"] for c in classes if c["images"]]
    return element(
        "article",
        element("h4", _TITLES[found.suite]),
        table([], [list(row) for row in found.rows]),
        *([folded("Each class", table(["class", "images", "top-1 [%]"], rows))] if rows else []),
        *(element("div", picture, class_="picture") for picture in pictures),
        element("p", f"{found.record['images']:,} images", class_="note"),
        class_="card",
    )


def side_by_side(found: Mapping[str, Sequence[Found]]) -> Markup | None:
    """The results of several runs by their names; None where there are none.

    Of each suite a table, with a column for each run that it has judged.
    """
    parts = []
    for suite in SUITES:
        # The first of a run is that of its headline, if there is one.
        first = {
            name: next(each for each in results if each.suite == suite)
            for name, results in found.items()
            if any(each.suite == suite for each in results)
        }
        if not first:
            continue
        have = {name: dict(each.rows) for name, each in first.items()}
        what = dict.fromkeys(row for rows in have.values() for row in rows)
        rows = [
            ["network and head", *(each.subject.replace("_", " ") for each in first.values())],
            ["test images", *(f"{each.record['images']:,}" for each in first.values())],
            *([row, *(rows.get(row, ABSENT) for rows in have.values())] for row in what),
        ]
        parts += [element("h3", _TITLES[suite]), table(["", *first], rows)]
    return joined(parts) if parts else None

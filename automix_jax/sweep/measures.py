"""What `automix evaluate` finds of the runs of a sweep, beside the published numbers.

They are those of Tables 4 and 6 and of Figure 8. Each measure is read from the file that its suite
has written into a run's folder.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from automix_jax.sweep import footnotes, protocol, published, results
from automix_jax.sweep.cells import Row, trials
from automix_jax.sweep.footnotes import Footnotes
from automix_jax.sweep.lines import Record
from automix_jax.sweep.protocol import Summary
from automix_jax.sweep.published import Published

Numbers = Mapping[str, Any]  # that a suite has found


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a suite.

    Attributes:
        suite: of `automix evaluate`.
        title: of its column.
        read: takes it from the suite's numbers; None where it was not measured.
        part: the last part of the name of its published number, "-" where the method is the last;
            empty for none.
        caveat: why it cannot be compared with the published number, from the suite's numbers; empty
            where it can.
    """

    suite: str
    title: str
    read: Callable[[Numbers], float | None]
    part: str = ""
    caveat: Callable[[Numbers], str] = lambda numbers: ""


def _corrupted_anew(numbers: Numbers) -> str:
    anew = not numbers["comparable_to_published"]
    return "on images that were corrupted anew, not those that were published" if anew else ""


def _binned(numbers: Numbers) -> str:
    del numbers
    return "15 bins; the paper does not state its own"


MEASURES = (
    Measure("corruptions", "clean, %", lambda n: n["clean"], "clean"),
    Measure("corruptions", "19 corruptions, %", lambda n: n["accuracy_19"], "corruption",
            _corrupted_anew),
    Measure("corruptions", "common 15, %", lambda n: n["accuracy_15"]),
    Measure("attacks", "FGSM 8/255, error %", lambda n: n["errors"]["fgsm_8"], "fgsm"),
    Measure("attacks", "PGD-10 8/255, error %", lambda n: n["errors"]["pgd10_8"]),
    Measure("localization", "MaxBoxAccV2, %", lambda n: n["max_box_acc_v2"], "-"),
    Measure("localization", "best centred square, %", lambda n: n["centered_box_acc_v2"]),
    Measure("calibration", "ECE, 15 bins, %", lambda n: 100 * n["measured"]["ece_15"],
            "-", _binned),
    Measure("calibration", "Brier score", lambda n: n["measured"]["brier"]),
    Measure("mixed", "top-1 of mixes, %", lambda n: _mixed(n, "top1")),
    Measure("mixed", "both classes seen, %", lambda n: _mixed(n, "top2")),
)  # fmt: skip


def _mixed(numbers: Numbers, name: str) -> float | None:
    """The mean over drawn ratios of the run's own mixed images, where it makes any."""
    own = numbers["methods"].get("automix")
    return own and own["beta"][name]


@dataclasses.dataclass(frozen=True)
class Value:
    """A measure of a row.

    Attributes:
        row: name of the row.
        measure: what.
        ours: over the seeds.
        paper: the published number, or None.
        comparable: whether the setting is the published number's, but for the precision.
        notes: how ours was found otherwise than the published number.
    """

    row: str
    measure: Measure
    ours: Summary
    paper: Published | None
    comparable: bool
    notes: tuple[str, ...]


def collect(
    rows: Sequence[Row],
    seeds: int,
    out: Path,
    suites: Sequence[str],
    table: str,
    column: str,
    reference: Callable[[Row, Published], ConfigDict],
) -> list[Value]:
    """Reads the measures of the runs of a sweep.

    Args:
        rows: of the table.
        seeds: trials of each row.
        out: the folder of the sweep.
        suites: whose measures.
        table: name of the paper's, "table4" or "figure8", for the published numbers.
        column: of it, "cub200/resnet18"; empty where none is comparable.
        reference: the configuration that a published number of a row is of.
    """
    done = results.read_results(out)
    values = []
    for row in rows:
        for measure in (m for m in MEASURES if m.suite in suites):
            ours, records, caveats = _ours(row, measure, seeds, out, done)
            paper = _published(row, measure, table, column)
            if paper is None:
                values.append(Value(row.name, measure, ours, None, comparable=False, notes=()))
                continue
            texts = footnotes.differences(row.config, reference(row, paper))
            texts += [*footnotes.of_data(records), *caveats]
            notes = (*texts, *footnotes.of_precision(records))
            values.append(Value(row.name, measure, ours, paper, not texts, notes))
    return values


def _ours(
    row: Row, measure: Measure, seeds: int, out: Path, done: Mapping[str, Record]
) -> tuple[Summary, list[Record], list[str]]:
    """A measure over the seeds; the results of its runs, and their caveats, each once."""
    head = row.head or row.config.eval.headline
    values, records, caveats = [], [], []
    for cell in trials(row, seeds):
        path = out / cell.folder / "evaluation" / f"{measure.suite}_{head}.json"
        if not path.exists():
            continue
        numbers = json.loads(path.read_text())["numbers"]
        if (value := measure.read(numbers)) is not None:
            values.append(value)
            records += [done[cell.key]] if cell.key in done else []
            caveats.append(measure.caveat(numbers))
    return protocol.summarize(values, seeds), records, list(dict.fromkeys(filter(None, caveats)))


def _published(row: Row, measure: Measure, table: str, column: str) -> Published | None:
    """The published number of a measure, where there is one."""
    if not column or not measure.part:
        return None
    name = f"{table}/{column}/{row.method}"
    if measure.part != "-":
        name += f"/{measure.part}"
    return published.get(name) if published.has(name) else None


def markdown(values: Sequence[Value]) -> str:
    """A line for each row, a column for each measure that was found, and footnotes."""
    measures = [m for m in MEASURES if any(v.measure is m and v.ours.n for v in values)]
    header = ["method"]
    for measure in measures:
        header += [measure.title, *(["paper"] if _has_paper(values, measure) else [])]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    notes = Footnotes()
    for row in dict.fromkeys(value.row for value in values):
        line = [row]
        for measure in measures:
            (value,) = (v for v in values if v.row == row and v.measure is measure)
            line.append(_marked(_show(value.ours), notes, value.notes))
            if _has_paper(values, measure):
                number = value.paper
                said = (number.note,) if number and number.note else ()
                line.append(_marked(f"{number.value:g}" if number else "", notes, said))
        lines.append(line)
    page = "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
    below = "  \n".join(f"<sup>{n}</sup> {text}" for n, text in enumerate(notes.texts, 1))
    return f"{page}\n{below}\n" if below else page


def _has_paper(values: Sequence[Value], measure: Measure) -> bool:
    return any(value.measure is measure and value.paper for value in values)


def _show(ours: Summary) -> str:
    if ours.mean is None:
        return ""
    if ours.std is None:
        return f"{ours.mean:.2f} (n = 1)"
    return f"{ours.mean:.2f} ± {ours.std:.2f}"


def _marked(text: str, notes: Footnotes, said: Sequence[str]) -> str:
    """A cell with the numbers of its footnotes; one that is empty has none."""
    if not text or not said:
        return text
    return f"{text} <sup>{','.join(map(str, notes.mark(said)))}</sup>"


def as_json(values: Sequence[Value]) -> str:
    """Everything, nothing rounded."""
    content = [
        {
            "row": value.row,
            "suite": value.measure.suite,
            "measure": value.measure.title,
            "ours": dataclasses.asdict(value.ours),
            "published": value.paper and dataclasses.asdict(value.paper),
            "comparable": value.comparable,
            "notes": list(value.notes),
        }
        for value in values
    ]
    return json.dumps(content, indent=1, allow_nan=False) + "\n"

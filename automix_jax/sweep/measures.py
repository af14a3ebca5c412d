"""What `automix evaluate` finds of the runs of a sweep, beside the published numbers (Tables 4, 6).

Each measure is read from the file that its suite has written into a run's folder.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from automix_jax.sweep import protocol, published
from automix_jax.sweep.cells import Row, trials
from automix_jax.sweep.protocol import Summary
from automix_jax.sweep.published import Published


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a suite.

    Attributes:
        suite: of `automix evaluate`.
        title: of its column.
        read: takes it from the suite's numbers; None where it was not measured.
        part: the last part of the name of its published number; empty for none.
    """

    suite: str
    title: str
    read: Callable[[Mapping[str, Any]], float | None]
    part: str = ""


MEASURES = (
    Measure("corruptions", "clean, %", lambda n: n["clean"], "clean"),
    Measure("corruptions", "19 corruptions, %", lambda n: n["accuracy_19"], "corruption"),
    Measure("corruptions", "common 15, %", lambda n: n["accuracy_15"]),
    Measure("attacks", "FGSM 8/255, error %", lambda n: n["errors"]["fgsm_8"], "fgsm"),
    Measure("attacks", "PGD-10 8/255, error %", lambda n: n["errors"]["pgd10_8"]),
    Measure("localization", "MaxBoxAccV2, %", lambda n: n["max_box_acc_v2"], "-"),
    Measure("localization", "best centred square, %", lambda n: n["centered_box_acc_v2"]),
    Measure("calibration", "ECE, 15 bins, %", lambda n: 100 * n["measured"]["ece_15"]),
    Measure("calibration", "Brier score", lambda n: n["measured"]["brier"]),
    Measure("mixed", "top-1 of mixes, %", lambda n: _mixed(n, "top1")),
    Measure("mixed", "both classes seen, %", lambda n: _mixed(n, "top2")),
)


def _mixed(numbers: Mapping[str, Any], name: str) -> float | None:
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
    """

    row: str
    measure: Measure
    ours: Summary
    paper: Published | None


def collect(
    rows: Sequence[Row], seeds: int, out: Path, suites: Sequence[str], table: str
) -> list[Value]:
    """Reads the measures of the runs of a sweep.

    Args:
        rows: of the table.
        seeds: trials of each row.
        out: the folder of the sweep.
        suites: whose measures.
        table: name of the paper's, "table4", for the published numbers.
    """
    values = []
    for row in rows:
        network_head = row.head or row.config.eval.headline
        for measure in (m for m in MEASURES if m.suite in suites):
            found = []
            for cell in trials(row, seeds):
                path = out / cell.folder / "evaluation" / f"{measure.suite}_{network_head}.json"
                if path.exists():
                    found.append(measure.read(json.loads(path.read_text())["numbers"]))
            ours = protocol.summarize([value for value in found if value is not None], seeds)
            values.append(Value(row.name, measure, ours, _published(row, measure, table)))
    return values


def _published(row: Row, measure: Measure, table: str) -> Published | None:
    """The published number of a measure, of a row that has one for its accuracy."""
    if not row.paper or not measure.part:
        return None
    column = "/".join(row.paper.split("/")[1:3])
    name = f"{table}/{column}/{row.method}"
    if measure.part != "-":
        name += f"/{measure.part}"
    return published.get(name) if published.has(name) else None


def markdown(values: Sequence[Value]) -> str:
    """A table with a line for each row, and a column for each measure that was found."""
    measures = [m for m in MEASURES if any(v.measure is m and v.ours.n for v in values)]
    header = ["method"]
    for measure in measures:
        header += [measure.title, *(["paper"] if _has_paper(values, measure) else [])]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in dict.fromkeys(value.row for value in values):
        line = [row]
        for measure in measures:
            (value,) = (v for v in values if v.row == row and v.measure is measure)
            line.append(_show(value.ours))
            if _has_paper(values, measure):
                line.append(f"{value.paper.value:g}" if value.paper else "")
        lines.append(line)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _has_paper(values: Sequence[Value], measure: Measure) -> bool:
    return any(value.measure is measure and value.paper for value in values)


def _show(ours: Summary) -> str:
    if ours.mean is None:
        return ""
    if ours.std is None:
        return f"{ours.mean:.2f} (n = 1)"
    return f"{ours.mean:.2f} ± {ours.std:.2f}"


def as_json(values: Sequence[Value]) -> str:
    """Everything, nothing rounded."""
    content = [
        {
            "row": value.row,
            "suite": value.measure.suite,
            "measure": value.measure.title,
            "ours": dataclasses.asdict(value.ours),
            "published": value.paper and dataclasses.asdict(value.paper),
        }
        for value in values
    ]
    return json.dumps(content, indent=1, allow_nan=False) + "\n"

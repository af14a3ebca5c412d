"""How a table is written for programs: CSV and JSON, nothing rounded."""

import csv as csv_lib
import dataclasses
import io
import json as json_lib
from typing import Any

from automix_jax.sweep import protocol, table_cells
from automix_jax.sweep.lines import Line
from automix_jax.sweep.protocol import Summary
from automix_jax.sweep.table import Table


def csv(table: Table) -> str:
    """The rows with unrounded numbers; empty where there is none."""
    records = [
        {
            name: table_cells.flat(value) if isinstance(value, str) else value
            for name, value in _csv_record(line, table).items()
        }
        for line in table.lines
    ]
    text = io.StringIO()
    if records:
        writer = csv_lib.DictWriter(text, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return text.getvalue()


def _csv_record(line: Line, table: Table) -> dict[str, Any]:
    number, teacher, marks = line.paper, line.teacher, (*line.marks, *line.paper_marks)
    return {
        "name": line.name,
        "method": line.method,
        "backbone": line.backbone,
        "dataset": line.dataset,
        "head": line.head,
        "epochs": line.epochs,
        "window": protocol.window(line.epochs),
        "seeds_done": line.ours.n,
        "seeds": line.ours.expected,
        "mean": line.ours.mean,
        "std": line.ours.std,
        "standard_error": line.ours.standard_error,
        "interval_95": line.ours.interval,
        "teacher_mean": teacher and teacher.mean,
        "teacher_std": teacher and teacher.std,
        "published": number and number.value,
        "published_name": number and number.name,
        "source": number and f"{number.source}: {number.cell}",
        "difference": line.difference,
        "best": line.best,
        "last": line.last,
        "hours": sum(line.hours) if line.hours else None,
        "training_hours": sum(line.training_hours) if line.training_hours else None,
        "parameters": line.parameters,
        "status": line.status,
        "notes": "; ".join(table.footnotes[mark - 1] for mark in marks),
    }


def json(table: Table) -> str:
    """Everything, with the trials."""
    content = {
        "facts": table.facts,
        "seeds": table.seeds,
        "rows": [_json_line(line) for line in table.lines],
        "paired": [
            {
                "name": pair.line.name,
                "backbone": pair.line.backbone,
                "dataset": pair.line.dataset,
                "reference": pair.reference,
                "difference": _json_summary(pair.difference),
                "clear": pair.clear,
            }
            for pair in table.pairs
        ],
        "verdicts": list(table.verdicts),
        "footnotes": list(table.footnotes),
        "sources": table_cells.sources(table),
    }
    return json_lib.dumps(content, indent=1, allow_nan=False) + "\n"


def _json_line(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "method": line.method,
        "backbone": line.backbone,
        "dataset": line.dataset,
        "head": line.head,
        "epochs": line.epochs,
        "window": protocol.window(line.epochs),
        "ours": _json_summary(line.ours),
        "best": line.best,
        "last": line.last,
        "teacher": line.teacher and _json_summary(line.teacher),
        "published": line.paper and dataclasses.asdict(line.paper),
        "difference": line.difference,
        "comparable": line.comparable,
        "clear": line.clear,
        "footnotes": [*line.marks, *line.paper_marks],
        "hours": list(line.hours),
        "training_hours": list(line.training_hours),
        "parameters": line.parameters,
        "status": line.status,
        "rank": line.rank,
        "trials": [
            {"key": key, "status": trial.status, **dataclasses.asdict(trial)}
            for key, trial in zip(line.keys, line.trials, strict=True)
        ],
    }


def _json_summary(summary: Summary) -> dict[str, Any]:
    return {
        **dataclasses.asdict(summary),
        "standard_error": summary.standard_error,
        "interval_95": summary.interval,
    }

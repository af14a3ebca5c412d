"""A run's folder: whose it is, and what it says at the end."""

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.table import Table

from automix_jax.config import default_config
from automix_jax.data import Facts
from automix_jax.errors import CheckpointError

# Fields that the hardware decides where they are left open, by the value that leaves them so. A run
# keeps what it has begun with.
_OPEN = {"compute_dtype": "auto", "steps_per_dispatch": 0, "accumulation": 0}
# Fields that change the rounding and nothing else, and may change between two starts.
_ROUNDING = ("steps_per_dispatch", "accumulation")
# Fields that may be changed in the middle of a run where the user insists.
OVERRIDABLE = (
    "compute_dtype",
    "data.bad_share",
    "data.path",
    "epochs",
    "eval.batch_size",
    "eval.every_epochs",
    "model.remat",
    "optimizer.lr",
    "optimizer.min_lr",
    "optimizer.mixblock_lr",
    "optimizer.mixblock_min_lr",
    "optimizer.weight_decay",
)


def take_open(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Gives fields that are left to the hardware the values that the run of a folder has.

    Raises:
        CheckpointError: if there is something in the folder that is no run.
    """
    config = config.copy_and_resolve_references()
    if (workdir / "config.json").exists():
        saved = _saved(workdir)
        for name, left_open in _OPEN.items():
            if config[name] == left_open:
                config[name] = saved[name]
    return config


def claim(
    workdir: Path, config: ConfigDict, facts: Facts, *, override: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Makes the folder of a run, or makes sure that it belongs to this configuration.

    The folder then says what was trained, and on what: config.json and dataset.json. The section
    `config.run` may differ: it says how a run is kept; and what changes the rounding alone.

    Args:
        workdir: of the run.
        config: with all settled that a start settles.
        facts: of the data.
        override: whether the fields of `OVERRIDABLE` may differ, too.

    Returns:
        The fields that differ, with the values of before and of now; nothing of them is written
        yet: see `keep_changes`.

    Raises:
        CheckpointError: if the folder is another run's, or cannot be used; nothing is changed.
    """
    path = workdir / "config.json"
    resolved = json.loads(json.dumps(config.to_dict()))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists() and has_checkpoint(workdir):
            raise CheckpointError(
                f"{workdir} holds checkpoints but no config.json, so they cannot be trusted to be"
                " this run's: choose another --workdir."
            )
        changes = check_same(workdir, config, override=override) if path.exists() else {}
        about_data = workdir / "dataset.json"
        found = json.loads(json.dumps(dataclasses.asdict(facts)))
        if about_data.exists():
            _check_data(about_data, found, workdir)
        if not path.exists():
            write_json(path, resolved)
        write_json(about_data, found)
        return changes
    except OSError as error:
        raise CheckpointError(
            f"--workdir {workdir} cannot be used ({error.strerror}): choose another."
        ) from error


def keep_changes(
    workdir: Path, config: ConfigDict, changes: dict[str, tuple[Any, Any]], step: int
) -> None:
    """Makes the changes of a configuration those of the run, once it has gone on with them.

    A line of changes.jsonl says after which step which fields have changed, but for those that
    change the rounding alone.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    fields = {
        name: {"before": before, "now": now}
        for name, (before, now) in changes.items()
        if name not in _ROUNDING
    }
    try:
        if fields:
            with (workdir / "changes.jsonl").open("a") as file:
                file.write(json.dumps({"after_step": step, "fields": fields}) + "\n")
        write_json(workdir / "config.json", json.loads(json.dumps(config.to_dict())))
    except OSError as error:
        raise CheckpointError(
            f"--workdir {workdir} cannot be written ({error.strerror}): make room, or choose"
            " another."
        ) from error


def check_same(
    workdir: Path, config: ConfigDict, flag: str = "--workdir", *, override: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Makes sure that a folder's run is of this configuration, but for what may differ.

    Args:
        workdir: of the run.
        config: with all settled that a start settles.
        flag: that has chosen the folder.
        override: whether the fields of `OVERRIDABLE` may differ.

    Returns:
        The fields that differ and may, with the values of before and of now.

    Raises:
        CheckpointError: naming the fields that differ and may not.
    """
    given = json.loads(json.dumps(config.to_dict()))
    old, new = (dict(_flatten({**c, "run": {}})) for c in (_saved(workdir), given))
    different = {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }
    allowed = (*_ROUNDING, *(OVERRIDABLE if override else ()))
    refused = [
        f"config.{name} is {now!r} here and {before!r} there"
        for name, (before, now) in different.items()
        if name not in allowed
    ]
    if refused:
        shown = "; ".join(refused[:5]) + ("; ..." if len(refused) > 5 else "")
        insist = (
            f" ({', '.join(OVERRIDABLE)} may change with --override)"
            if override or all(name in (*_ROUNDING, *OVERRIDABLE) for name in different)
            else ""
        )
        raise CheckpointError(
            f"{workdir} holds a run with another configuration ({shown}): choose another {flag}, or"
            f" give the fields the values that it was started with{insist}."
        )
    return different


def read(workdir: Path) -> tuple[ConfigDict, Facts]:
    """Reads what a run of before was trained as, and on what.

    Raises:
        CheckpointError: if the folder is not that of a run.
    """
    if not workdir.is_dir():
        raise CheckpointError(f"there is no folder {workdir}: give the --workdir of a run.")
    try:
        config = ConfigDict(_with_defaults(json.loads((workdir / "config.json").read_text())))
        facts = json.loads((workdir / "dataset.json").read_text())
        facts["class_names"] = tuple(facts["class_names"])
        facts["image_shape"] = tuple(facts["image_shape"])
        return config, Facts(**facts)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{workdir} has no {Path(error.filename).name}: give the --workdir of a run; the"
            " command that trained it writes the file anew."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{workdir} cannot be read as a run ({error}): put its config.json and dataset.json"
            " back, or give another."
        ) from error


def has_checkpoint(workdir: Path, kind: str = "last") -> bool:
    """Whether a checkpoint of a run was saved whole."""
    return any(path.name.isdigit() for path in workdir.glob(f"checkpoints/{kind}/*"))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that at every moment, on the disk too, it is the old or the new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _saved(workdir: Path) -> dict[str, Any]:
    """The configuration of a folder's run, with the fields that have come since.

    Raises:
        CheckpointError: if it is none.
    """
    path = workdir / "config.json"
    try:
        return _with_defaults(json.loads(path.read_text()))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not the configuration of a run ({error}): put it back, or choose another"
            " --workdir."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, as `write_atomically` does."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def _check_data(path: Path, found: dict[str, Any], workdir: Path) -> None:
    try:
        saved = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not describe data ({error}): put it back, or choose another --workdir."
        ) from error
    different = [name for name in found if saved.get(name) != found[name]]
    if different:
        shown = ", ".join(
            name
            if name == "class_names"
            else f"{name} {found[name]} here and {saved.get(name)} there"
            for name in different
        )
        raise CheckpointError(
            f"{workdir} holds a run on other data ({shown} differ): choose another --workdir, or"
            " give it the data that it was started with."
        )


def _with_defaults(saved: Any) -> dict[str, Any]:
    """A saved configuration with the fields that have come since it was written."""
    if not isinstance(saved, dict) or not {"data", "model", "method"} <= saved.keys():
        raise ValueError("config.json is not a configuration")
    config = default_config().to_dict()
    for name, value in saved.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    return json.loads(json.dumps(config))


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            items += _flatten(value, f"{prefix}{name}.")
        else:
            items.append((prefix + name, value))
    return items


def accuracies(records: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Summarises each accuracy over a run: final, best with its epoch, median of the last ten.

    Raises:
        CheckpointError: if the records have none, though the run is at its end.
    """
    result = {}
    for name in names:
        values = [
            (r["epoch"], r[f"eval/accuracy_{name}"])
            for r in records
            if f"eval/accuracy_{name}" in r
        ]
        if not values:
            raise CheckpointError(
                "metrics.jsonl has no accuracies, though the run is at its end: put the file back"
                " or train again in another --workdir."
            )
        best_epoch, best = max(values, key=lambda item: (item[1], -item[0]))
        result[name] = {
            "final": values[-1][1],
            "best": best,
            "best_epoch": best_epoch,
            "median_last_10": statistics.median(value for _, value in values[-10:]),
        }
    return result


def table(summary: dict[str, Any]) -> Table:
    """The accuracies of a summary as a table for the screen."""
    result = Table(title=f"Test accuracy in percent; the headline is {summary['headline']}")
    for column in ("network and head", "final", "best", "at epoch", "median of last 10"):
        result.add_column(column, justify="left" if column.startswith("network") else "right")
    for name, row in summary["accuracy"].items():
        result.add_row(
            name,
            f"{row['final']:.2f}",
            f"{row['best']:.2f}",
            str(row["best_epoch"]),
            f"{row['median_last_10']:.2f}",
            style="bold" if name == summary["headline"] else None,
        )
    return result

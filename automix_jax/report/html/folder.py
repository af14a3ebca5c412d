"""What the folder of a run says of it, whole or not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from automix_jax import config as config_lib
from automix_jax.data import Facts
from automix_jax.errors import CheckpointError
from automix_jax.report.html.lines import read_json, read_lines
from automix_jax.report.html.markup import Number
from automix_jax.train import workdir as workdir_lib

_ACCURACY, _RATE = "eval/accuracy_", "time/images_per_second"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A step that is saved: its kind, "last" or "best", and its size on the disk."""

    kind: str
    step: int
    size: int


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, as far as its folder tells.

    Attributes:
        path: of the folder, as the user gave it.
        fields: of the configuration, by dotted name.
        facts: of its data; None before it has read them.
        records: of its epochs, in their order: numbers by name, with "step" and "epoch".
        summary: that it has written at its end; None before.
        state: a word, see `_state`.
        checkpoints: of each kind, the newest last.
        rollbacks: the steps "from" which and "to" which it went back.
        changes: of the configuration in the middle: "after_step" which, and "fields".
        unreadable: images that could not be read: "split", "index", "name", "reason".
        events: names of the files of TensorBoard events.
        notes: what is wrong with the folder, in sentences.
    """

    path: Path
    fields: dict[str, Any]
    facts: Facts | None
    records: list[dict[str, Number]]
    summary: dict[str, Any] | None
    state: str
    checkpoints: list[Checkpoint]
    rollbacks: list[dict[str, int]]
    changes: list[dict[str, Any]]
    unreadable: list[dict[str, Any]]
    events: list[str]
    notes: list[str]

    @property
    def epochs(self) -> int:
        """How many it is to have."""
        return self.fields["epochs"]

    @property
    def epoch(self) -> int:
        """The last that was recorded; 0 for none."""
        return int(self.records[-1]["epoch"]) if self.records else 0

    @property
    def headline(self) -> str:
        """The accuracy that counts, network_head, which was fixed beforehand."""
        return self.fields["eval.headline"]

    @property
    def steps_per_epoch(self) -> int | None:
        """None as long as nothing tells."""
        if self.records and self.records[-1]["epoch"]:
            return int(self.records[-1]["step"] / self.records[-1]["epoch"])
        return self.facts.train_images // self.fields["batch_size"] if self.facts else None

    @property
    def accuracies(self) -> dict[str, dict[str, Any]]:
        """By network_head, the headline's first: see `workdir.accuracies`."""
        keys = dict.fromkeys(key for record in self.records for key in record)
        names = [key.removeprefix(_ACCURACY) for key in keys if key.startswith(_ACCURACY)]
        names.sort(key=lambda name: name != self.headline)
        return workdir_lib.accuracies(self.records, names)

    @property
    def seconds(self) -> dict[str, Number]:
        """How long it has done what, over all recorded epochs."""
        if self.summary is not None:
            return dict(self.summary.get("seconds", {}))
        total: dict[str, Number] = {}
        for record in self.records:
            for key, value in record.items():
                if key.startswith("time/") and key not in ("time/seconds", _RATE):
                    name = key.removeprefix("time/")
                    total[name] = total.get(name, 0.0) + value
        return total

    @property
    def duration(self) -> Number | None:
        """Seconds over all starts; None as long as nothing was recorded."""
        last = self.records[-1].get("time/seconds") if self.records else None
        return last if last is not None else sum(self.seconds.values()) or None


def read_run(path: Path) -> Run:
    """Reads the folder of a run: finished, in progress, stopped, or hardly begun.

    Raises:
        CheckpointError: if it is not that of a run.
    """
    notes: list[str] = []
    fields, facts = _configuration(path)
    lines, problems = read_lines(path / "metrics.jsonl")
    records = [record for line in lines if (record := _numbers(line)) is not None]
    notes += problems
    if len(records) < len(lines):
        count = len(lines) - len(records)
        what = f"{count} line{'s' if count > 1 else ''} without step and epoch"
        notes.append(f"metrics.jsonl: {what} left out.")
    # A line for an epoch: the last, should there be several.
    records = list({record["epoch"]: record for record in records}.values())
    records.sort(key=lambda record: record["step"])
    summary, problems = _summary(path / "summary.json")
    notes += problems
    changes, problems = read_lines(path / "changes.jsonl")
    notes += problems
    unreadable, problems = read_lines(path / "bad_records.jsonl")
    notes += problems
    checkpoints = _checkpoints(path)
    return Run(
        path=path,
        fields=fields,
        facts=facts,
        records=records,
        summary=summary,
        state=_state(path, fields["epochs"], summary),
        checkpoints=checkpoints,
        rollbacks=_rollbacks(path, summary, checkpoints),
        changes=[change for change in changes if {"after_step", "fields"} <= change.keys()],
        unreadable=unreadable,
        events=sorted(file.name for file in path.glob("events.out.tfevents.*")),
        notes=notes,
    )


def _configuration(path: Path) -> tuple[dict[str, Any], Facts | None]:
    """The fields of config.json, with those that have come since, and what the data is.

    Raises:
        CheckpointError: if the folder is not that of a run.
    """
    if (path / "dataset.json").exists() or not (path / "config.json").exists():
        config, facts = workdir_lib.read(path)
        return _flat(config.to_dict()), facts
    try:
        saved = json.loads((path / "config.json").read_text())
        if not all(isinstance(saved[name], dict) for name in ("data", "model", "method")):
            raise TypeError("data, model and method are no sections")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path / 'config.json'} is not the configuration of a run ({error}): give the folder"
            " of a run."
        ) from error
    return defaults() | _flat(saved), None


def defaults() -> dict[str, Any]:
    """The fields of the default configuration by dotted name."""
    return _flat(json.loads(json.dumps(config_lib.default_config().to_dict())))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _summary(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """What a run has written at its end, or None; and sentences on what is wrong with it."""
    summary, problems = read_json(path)
    kinds = {"seconds": dict, "parameters": dict, "rollbacks": list, "epochs": int}
    if summary is None or all(isinstance(summary.get(k, t()), t) for k, t in kinds.items()):
        return summary, problems
    return None, [f"{path.name} is not a run's, and left out."]


def _numbers(line: dict[str, Any]) -> dict[str, Number] | None:
    """The numbers of a record; None if it does not say of which step and epoch they are."""
    found = {
        key: value
        for key, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    whole = all(isinstance(found.get(key), int) for key in ("step", "epoch"))
    return found if whole else None


def _state(path: Path, epochs: int, summary: dict[str, Any] | None) -> str:
    """Finished, in progress, given up (its numbers were not finite), or stopped."""
    if _is_locked(path / "lock"):
        return "in progress"
    # With more epochs than it has ended with before, it goes on.
    if summary is not None and summary.get("epochs") == epochs:
        return "finished"
    return "given up" if (path / "numbers.json").exists() else "stopped"


def _is_locked(path: Path) -> bool:
    """Whether a process holds a lock: of one that was killed, the file alone is left."""
    try:
        import fcntl
    except ImportError:  # Windows, where there are no locks
        return path.exists()
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no file, or a file system without locks
        return False
    return False


def _checkpoints(path: Path) -> list[Checkpoint]:
    """All that are there, by kind and step."""
    found = []
    for kind in ("last", "best"):
        folders = [f for f in path.glob(f"checkpoints/{kind}/*") if f.name.isdigit()]
        for folder in sorted(folders, key=lambda folder: int(folder.name)):
            try:
                size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            except FileNotFoundError:  # removed meanwhile by the run, which keeps a few
                continue
            found.append(Checkpoint(kind, int(folder.name), size))
    return found


def _rollbacks(
    path: Path, summary: dict[str, Any] | None, checkpoints: list[Checkpoint]
) -> list[dict[str, int]]:
    """As the summary has them, or else the newest checkpoint."""
    source = summary
    newest = [checkpoint for checkpoint in checkpoints if checkpoint.kind == "last"][-1:]
    if source is None and newest:
        info = path / "checkpoints" / "last" / str(newest[0].step) / "info" / "metadata"
        source, _ = read_json(info)
    found = (source or {}).get("rollbacks", [])
    return [each for each in found if isinstance(each, dict) and {"from", "to"} <= each.keys()]

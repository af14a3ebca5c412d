"""JSON as a run leaves it, also one that was killed: what cannot be read is left out and told."""

import json
from pathlib import Path
from typing import Any

_SHOWN = 5  # numbers of damaged lines


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects of a file with one on each line; none if it is not there.

    Returns:
        What can be read, and sentences on what cannot.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{path.name} cannot be read ({error.strerror})."]
    found, damaged = [], []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        value = _parse(line)
        if isinstance(value, dict):
            found.append(value)
        elif line.strip():
            damaged.append(number)
    cut = damaged == [len(lines)]  # the last line alone, without an end
    if cut:
        return found, [f"{path.name}: the last line is cut short, and left out."]
    if damaged:
        shown = ", ".join(map(str, damaged[:_SHOWN])) + (", ..." if len(damaged) > _SHOWN else "")
        s = "s" if len(damaged) > 1 else ""
        return found, [f"{path.name}: {len(damaged)} damaged line{s} left out ({shown})."]
    return found, []


def read_json(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The object of a file, or None; and sentences on what is wrong with it."""
    try:
        value = _parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None, []
    except OSError as error:
        return None, [f"{path.name} cannot be read ({error.strerror})."]
    if not isinstance(value, dict):
        return None, [f"{path.name} is damaged, and left out."]
    return value, []


def _parse(text: str) -> Any:
    """The value of a JSON text; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

"""The configuration of a run as a table."""

from collections.abc import Mapping
from typing import Any

from automix_jax.report.html.folder import Run, defaults
from automix_jax.report.html.markup import ABSENT, Markup, element, folded, joined, table

_MISSING = object()


def different(fields: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that are not as by default: their values, and the defaults.

    A field of which there is no default, as an option of a method, has None for it.
    """
    default = defaults()
    return {
        name: (value, default.get(name))
        for name, value in fields.items()
        if value != default.get(name, _MISSING)
    }


def draw(run: Run) -> Markup:
    """What differs from the defaults, and all fields, which can be searched."""
    changed = different(run.fields)
    default = defaults()
    rows = [
        [_name(name), _value(value), _value(before) if name in default else ABSENT]
        for name, (value, before) in sorted(changed.items())
    ]
    fields = element(
        "tbody",
        *(
            element(
                "tr",
                element("td", _name(name)),
                element("td", _value(value)),
                class_="other" if name in changed else None,
            )
            for name, value in sorted(run.fields.items())
        ),
    )
    search = element(
        "input",
        type="search",
        placeholder="search, such as optimizer or lr",
        aria_label="search the fields",
        hidden=True,
    )
    note = (
        "Against the defaults of the package, as the recipe that set them is not kept; some are"
        " settled by the hardware."
    )
    return joined(
        [
            element("p", note, class_="note"),
            table(["field", "value", "default"], rows, texts=3),
            folded(
                f"All {len(run.fields)} fields",
                search,
                element("div", element("table", fields), class_="wide"),
            ),
        ]
    )


def draw_differences(runs: Mapping[str, Run]) -> Markup | None:
    """The fields in which runs differ, a column for each by its name; None where in none."""
    names = dict.fromkeys(name for run in runs.values() for name in sorted(run.fields))
    rows = []
    for name in names:
        values = [run.fields.get(name) for run in runs.values()]
        if any(value != values[0] for value in values):
            has = [name in run.fields for run in runs.values()]
            cells = [_value(v) if h else ABSENT for v, h in zip(values, has, strict=True)]
            rows.append([_name(name), *cells])
    if not rows:
        return None
    return table(["field", *runs], rows, texts=1 + len(runs))


def _name(name: str) -> Markup:
    return element("code", name)


def _value(value: Any) -> Markup:
    return element("code", repr(value))

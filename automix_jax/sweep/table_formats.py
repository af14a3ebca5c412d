"""How a table is shown to readers: Markdown, LaTeX, and for a terminal."""

import re
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from automix_jax.sweep import table_cells
from automix_jax.sweep.lines import Line
from automix_jax.sweep.table import Pair, Table
from automix_jax.sweep.table_cells import Column, Item, flat


def markdown(table: Table) -> str:
    """As GitHub shows it."""
    escape = _escape_markdown
    parts = ["\n".join(f"- {name}: {escape(text)}" for name, text in table.facts.items())]
    parts.append(_markdown_table(table_cells.columns(table), table.lines))
    if table.footnotes:
        notes = (f"<sup>{n}</sup> {escape(text)}" for n, text in enumerate(table.footnotes, 1))
        parts.append("  \n".join(notes))
    if table.pairs:
        parts.append("Paired differences, seed by seed:")
        parts.append(_markdown_table(table_cells.pair_columns(table), table.pairs))
    return "\n\n".join([*parts, *map(escape, table_cells.below(table))]) + "\n"


def _markdown_table(columns: Sequence[Column], rows: Sequence[Line | Pair]) -> str:
    def write(item: Item) -> str:
        text = _escape_markdown(item.text)
        text = {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(item.rank, text)
        marks = ",".join(map(str, item.marks))
        return f"{text} <sup>{marks}</sup>" if marks else text

    lines = [
        [column.heading for column in columns],
        ["---:" if column.numbers else "---" for column in columns],
        *([write(column.show(row)) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", flat(text))


def latex(table: Table) -> str:
    """For a paper that loads booktabs."""
    escape = _escape_latex
    parts = ["\n".join(f"% {name}: {flat(text)}" for name, text in table.facts.items())]
    parts.append(_latex_table(table_cells.columns(table), table.lines))
    if table.footnotes:
        notes = (
            rf"\textsuperscript{{{n}}} {escape(text)}" for n, text in enumerate(table.footnotes, 1)
        )
        parts.append("\\\\\n".join(notes))
    if table.pairs:
        parts.append(_latex_table(table_cells.pair_columns(table), table.pairs))
    return "\n\n".join([*parts, *map(escape, table_cells.below(table))]) + "\n"


def _latex_table(columns: Sequence[Column], rows: Sequence[Line | Pair]) -> str:
    def write(item: Item) -> str:
        text = _escape_latex(item.text)
        command = {1: "textbf", 2: "underline"}.get(item.rank)
        text = rf"\{command}{{{text}}}" if command else text
        marks = ",".join(map(str, item.marks))
        return rf"{text}\textsuperscript{{{marks}}}" if marks else text

    body = (" & ".join(write(column.show(row)) for column in columns) for row in rows)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{''.join('r' if c.numbers else 'l' for c in columns)}}}",
            r"\toprule",
            " & ".join(_escape_latex(column.heading) for column in columns) + r" \\",
            r"\midrule",
            *(rf"{line} \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


_LATEX = {
    **{char: rf"\{char}" for char in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "λ": r"$\lambda$",
    "\N{SCRIPT SMALL L}": r"$\ell$",
}


def _escape_latex(text: str) -> str:
    text = "".join(_LATEX.get(char, char) for char in flat(text))
    return "--" if text == "-" else re.sub(r"^-(?=\d)", "$-$", text)  # a dash, a sign


def rich(table: Table) -> RenderableType:
    """For a terminal."""
    parts: list[RenderableType] = [
        Text(f"{name}: {flat(text)}") for name, text in table.facts.items()
    ]
    parts.append(_rich_table(table_cells.columns(table), table.lines))
    parts += [Text(f"{n}  {flat(text)}") for n, text in enumerate(table.footnotes, 1)]
    if table.pairs:
        parts.append(Text("Paired differences, seed by seed:"))
        parts.append(_rich_table(table_cells.pair_columns(table), table.pairs))
    return Group(*parts, *(Text(flat(text)) for text in table_cells.below(table)))


def _rich_table(columns: Sequence[Column], rows: Sequence[Line | Pair]) -> RichTable:
    def write(item: Item) -> Text:
        style = " ".join(filter(None, ({1: "bold", 2: "underline"}.get(item.rank), item.color)))
        text = Text(flat(item.text), style)
        marks = ",".join(map(str, item.marks))
        return text.append(f" [{marks}]", "dim") if marks else text

    shown = RichTable()
    for place, column in enumerate(columns):
        # On a narrow screen numbers are folded before a row loses its name.
        named = min(max((len(column.show(row).text) for row in rows), default=0), 20)
        shown.add_column(
            column.heading,
            justify="right" if column.numbers else "left",
            overflow="fold",
            min_width=None if place else named,
        )
    for row in rows:
        shown.add_row(*(write(column.show(row)) for column in columns))
    return shown

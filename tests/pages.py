"""The pages that users read, and the commands and code in them."""

import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.runs import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)


class Command(NamedTuple):
    """One command of a shell block.

    Attributes:
        page: where it stands, from the root.
        words: program and arguments, without quotes.
        environment: assignments before the program.
    """

    page: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return shlex.join((*(f"{name}={value}" for name, value in self.environment), *self.words))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, without the indentation that they have in a list."""
    found = _FENCE.findall(page.read_text())
    return [textwrap.dedent(body) for _, name, body in found if name == language]


def commands(page: Path) -> list[Command]:
    """Every command of a page's shell blocks, those of loops once for each turn."""
    name = page.relative_to(ROOT).as_posix()
    return [command for block in blocks(page, "bash") for command in parse(block, name)]


def parse(script: str, page: str = "") -> list[Command]:
    """Reads a script of commands, `&&`, `;`, assignments, comments and `for` loops.

    Raises:
        ValueError: for any other construct of the shell.
    """
    tokens = list(_tokens(script))
    found = list(_read(tokens, {}, page))
    if tokens:
        raise ValueError(f"{page}: {tokens[0]!r} without a loop")
    return found


def _tokens(script: str) -> Iterator[str]:
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        yield from lexer
        yield ";"


def _read(tokens: list[str], variables: Mapping[str, str], page: str) -> Iterator[Command]:
    """Takes commands off the front, up to the end or to a loop's `done`."""
    words: list[str] = []
    while tokens and not (tokens[0] == "done" and not words):
        token = tokens.pop(0)
        if token in (";", "&&"):
            yield from _finish(words, variables, page)
            words = []
        elif token == "for" and not words:
            yield from _loop(tokens, variables, page)
        elif re.fullmatch(r"[();<>|&]+", token):
            raise ValueError(f"{page}: {token!r} is not understood")
        else:
            words.append(token)
    yield from _finish(words, variables, page)


def _loop(tokens: list[str], variables: Mapping[str, str], page: str) -> Iterator[Command]:
    """`for NAME in VALUES ; do ... done`, whose `for` has been taken."""
    name, _, *values = tokens[: tokens.index(";")]
    del tokens[: tokens.index("do") + 1]
    for turn, value in enumerate(values, 1):
        body = tokens if turn == len(values) else list(tokens)
        yield from _read(body, {**variables, name: value}, page)
    del tokens[0]  # done


def _finish(words: Sequence[str], variables: Mapping[str, str], page: str) -> Iterator[Command]:
    words = [_VARIABLE.sub(lambda match: variables[match[1]], word) for word in words]
    environment = []
    while words and (match := _ASSIGNMENT.fullmatch(words[0])):
        environment.append((match[1], match[2]))
        words.pop(0)
    if words:
        yield Command(page, tuple(words), tuple(environment))

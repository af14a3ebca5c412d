"""The site: it has all pages, its reference all public names, and it builds without a word."""

import importlib
import os
import re
import subprocess
import sys
import zlib
from types import ModuleType
from typing import Any

import pytest
import yaml

import automix_jax
from automix_jax import mixups, models
from automix_jax.evaluate import corruptions
from tests import pages
from tests.runs import ROOT

DOCS = ROOT / "docs"
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
DIRECTIVES = [
    name
    for page in sorted((DOCS / "api").glob("*.md"))
    for name in DIRECTIVE.findall(page.read_text())
]


def nav() -> list[str]:
    """The pages in the order of the navigation."""
    text = re.sub(r"!!python/name:\S+", "null", (ROOT / "mkdocs.yml").read_text())

    def flat(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        entries = entry.values() if isinstance(entry, dict) else entry
        return [page for each in entries for page in flat(each)]

    return flat(yaml.safe_load(text)["nav"])


def described(name: str) -> Any:
    """What a directive of the reference names."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, member = name.rpartition(".")
        return getattr(importlib.import_module(module), member)


def in_reference(value: Any) -> bool:
    """Whether a directive names an object, or the module that defines it."""
    for name in DIRECTIVES:
        found = described(name)
        if found is value:
            return True
        if isinstance(found, ModuleType) and found.__name__ == getattr(value, "__module__", ""):
            return True
        # Partial functions do not say where they were made: where the source assigns them.
        if isinstance(found, ModuleType) and not hasattr(value, "__qualname__"):
            assigned = [key for key, member in vars(found).items() if member is value]
            source = pages.ROOT.joinpath(*name.split(".")).with_suffix(".py")
            text = source.read_text() if source.exists() else ""
            if any(re.search(rf"^{key}\b.*=", text, re.MULTILINE) for key in assigned):
                return True
    return False


def test_every_page_is_in_the_navigation_once():
    written = {page.relative_to(DOCS).as_posix() for page in DOCS.glob("**/*.md")}
    assert sorted(nav()) == sorted(written)


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_in_lists_are_indented_for_both_renderers(page):
    """GitHub takes three spaces for a part of a list's item, Python-Markdown four and no less."""
    for indent in re.findall(r"^( *)```", page.read_text(), re.MULTILINE):
        assert len(indent) % 4 == 0


def test_directives_name_what_is_there():
    assert len(DIRECTIVES) == len(set(DIRECTIVES)) > 60
    for name in DIRECTIVES:
        assert described(name).__doc__, name


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module.__name__, name)
        for module in (automix_jax, mixups, models, corruptions, automix_jax.weights)
        for name in module.__all__
    ],
)
def test_public_name_is_in_the_reference(module, name):
    value = getattr(importlib.import_module(module), name)
    if name in ("mixups", "weights"):  # whose own names are among these
        return
    assert in_reference(value) or in_reference_as_constant(name), f"{module}.{name}"


def in_reference_as_constant(name: str) -> bool:
    """Whether a described module assigns a name of plain values, which know no module."""
    return name.isupper() and any(
        isinstance(found := described(directive), ModuleType) and hasattr(found, name)
        for directive in DIRECTIVES
    )


def test_what_is_not_described_is_found():
    assert not in_reference(subprocess.run)


@pytest.mark.long
def test_the_site_builds_without_a_word(tmp_path):
    """As `make docs` builds it; its inventory then holds every public name."""
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    words = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    inventory = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]
    names = {
        line.split()[0].rpartition(".")[2]
        for line in zlib.decompress(inventory).decode().splitlines()
    }
    assert {*automix_jax.__all__, *mixups.__all__} - {"mixups", "weights"} <= names
    for page in nav():
        assert (tmp_path / page).with_suffix(".html").exists()
    assert (tmp_path / "source/automix_jax/automix.py.html").exists()  # links to source files
    assert "source/automix_jax/automix.py.html" in (tmp_path / "algorithm.html").read_text()

"""The README's Python runs as it stands there."""

import doctest
import re

import pytest

from automix_jax import mixups
from tests.runs import ROOT

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
README = (ROOT / "README.md").read_text()
BLOCKS = PYTHON.findall(README)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_python_of_the_readme(block):
    namespace = {}
    exec(BLOCKS[block], namespace)
    if "grads" in namespace:
        import jax

        assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(namespace["grads"]))


def test_python_of_the_page_on_models():
    namespace = {}
    exec(PYTHON.findall((ROOT / "docs/models.md").read_text())[0], namespace)
    assert namespace["features"]["merge3"].shape == (2, 7, 7, 768)
    assert namespace["paper_layer"]("swin_t") == "merge3"


def test_the_training_loop_takes_twenty_lines():
    loop = next(block for block in BLOCKS if "value_and_grad" in block)
    assert len([line for line in loop.splitlines() if line.strip()]) <= 20


def test_files_that_the_readme_names_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(
        r"--config=(configs/\w+\.py)", README
    )
    assert len(links) > 8
    for link in links:
        assert (ROOT / link).exists(), link


def anchors(page):
    """What can be linked to in a page, as GitHub names its headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if re.match(r"\w+:", link):  # another site
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_mixups_page():
    """The blocks of the page build on each other."""
    namespace: dict = {}
    for block in PYTHON.findall((ROOT / "docs/mixups.md").read_text()):
        exec(block, namespace)
    assert namespace["mixed"].targets.shape == (8, 10)


@pytest.mark.parametrize("name", mixups.list_mixups())
def test_example_of_a_mixup(name):
    """Every method's docstring has an example, and it runs."""
    function = getattr(mixups, name)
    examples = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(result.attempted for result in results) or name == "vanilla"
    assert not sum(result.failed for result in results)

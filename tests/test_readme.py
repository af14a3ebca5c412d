"""The Python and the links of the README and of all pages."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from tests import pages
from tests.runs import ROOT

README = ROOT / "README.md"
# Blocks that compile whole networks one operation at a time, train one, or import one.
SLOW = (
    "AutoMix(",
    "nnx.bridge",
    "make_cam(",
    "write_safetensors(",
    "transmix(",
    "train(config",
    "weights.load(",
)


def blocks(name: str) -> list[str]:
    """The Python of a page."""
    return pages.blocks(ROOT / name, "python")


def check_library(names: dict[str, Any]) -> None:
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(names["grads"]))
    assert names["mixed"].images.shape == (8, 32, 32, 3) and names["mixed"].targets.shape == (8, 10)
    if "summary" in names:
        assert all(bool(jax.numpy.isfinite(value)) for value in names["metrics"].values())
        assert names["mask"].shape == (4, 32, 32, 1)
        moved = jax.numpy.abs(names["attacked"] - names["stored"] / 255.0)
        assert 0.9 * 8 / 255 < moved.max() < 1.01 * 8 / 255
        assert names["maps"].shape == (8, 4, 4) and names["again"].variables
        assert names["faded"].shape == names["stored"].shape
        assert names["summary"]["accuracy"]["student_mix"]["final"] > 20  # 10 is chance
        assert names["logits"].shape == (1, 10)


def check_models(names: dict[str, Any]) -> None:
    assert names["features"]["merge3"].shape == (2, 7, 7, 768)
    assert names["paper_layer"]("swin_t") == "merge3"
    if "pretrained" in names:
        assert names["logits"].shape == (2, 1000)


def check_mixups(names: dict[str, Any]) -> None:
    assert names["mixed"].targets.shape == (8, 10)


def check_data(names: dict[str, Any]) -> None:
    assert names["name"] == "test/0" and names["image"].shape == (28, 28, 1)


# Of each page that has Python, what must have come of it.
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "docs/library.md": check_library,
    "docs/models.md": check_models,
    "docs/mixups.md": check_mixups,
    "docs/data.md": check_data,
}


def execute(name: str, kept: Callable[[str], bool]) -> None:
    """Runs those blocks of a page that are kept, which build on each other."""
    names: dict[str, Any] = {}
    for block in filter(kept, blocks(name)):
        exec(compile(block, name, "exec"), names)
    CHECKS[name](names)


@pytest.mark.parametrize("name", CHECKS)
def test_python_of_a_page(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(name, lambda block: not any(word in block for word in SLOW))


@pytest.mark.long
@pytest.mark.parametrize("name", CHECKS)
def test_all_python_of_a_page(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    if name == "docs/models.md":  # which says how to import these first
        save_weights("resnext50_32x4d", tmp_path / "weights/rx50")
    execute(name, lambda block: True)


def save_weights(name: str, folder: Path) -> None:
    """What `automix import-weights` makes, of random numbers."""
    from automix_jax import create_model, weights

    model = create_model(name)
    variables = jax.jit(model.init)(jax.random.key(0), jax.numpy.zeros((1, 64, 64, 3)))
    tensors = weights.to_state_dict(model, variables)
    folder.parent.mkdir()
    weights.save(folder, weights.from_state_dict(tensors, name)[0])


def test_python_is_on_these_pages_alone():
    found = {page.relative_to(ROOT).as_posix() for page in pages.PAGES}
    assert {name for name in found if blocks(name)} == {*CHECKS, "README.md"}


def test_python_of_the_readme_is_that_of_the_page_on_the_library():
    assert blocks("README.md") == blocks("docs/library.md")[:1]


def test_the_training_loop_takes_twenty_lines():
    (loop,) = blocks("README.md")
    assert len([line for line in loop.splitlines() if line.strip()]) <= 20


# -- links ---------------------------------------------------------------------------------------


def anchors(page):
    """What can be linked to in a page, as GitHub names its headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):  # another site
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_begins_with_the_picture():
    picture = README.read_text().split("\n\n")[1]
    assert re.fullmatch(r"!\[[^\]]+\]\(docs/images/samples\.png\)", picture)

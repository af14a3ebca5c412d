"""The examples in docstrings: they run, and print what stands below them."""

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import automix_jax
from automix_jax import mixups
from tests.runs import ROOT

PACKAGE = ROOT / "automix_jax"
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)
# What takes seconds to compile, of which other tests run the same.
SLOW = [
    "automix_jax.evaluate.cam",
    *(f"automix_jax.mixups.{name}" for name in ("alignmix", "attentivemix", "augmix", "comixup")),
    *(f"automix_jax.mixups.{name}" for name in ("manifoldmix", "pixel_ops", "puzzlemix")),
    *(f"automix_jax.mixups.{name}" for name in ("saliency", "saliencymix", "supermix")),
    "automix_jax.mixups.transmix",
]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(module: ModuleType) -> list[doctest.DocTest]:
    """What a module documents itself; functions that beartype wraps are seen through."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {test.name: test for test in finder.find(module, module.__name__, globs={})}
    for name, member in vars(module).items():
        inner = inspect.unwrap(member) if callable(member) else None
        if getattr(inner, "__module__", "") == module.__name__:
            for test in finder.find(member, f"{module.__name__}.{name}", globs={}):
                found.setdefault(test.name, test)
    return [test for test in found.values() if test.examples]


def marked(name: str):
    """A module's name, where it is slow as a test that takes long."""
    return pytest.param(name, marks=pytest.mark.long) if name in SLOW else name


@pytest.mark.parametrize("name", MODULES)
def test_no_example_is_overlooked(name):
    module = importlib.import_module(name)
    found = sum(len(test.examples) for test in examples(module))
    assert found == Path(module.__file__).read_text().count(">>> ")


@pytest.mark.parametrize("name", [marked(name) for name in MODULES])
def test_examples(name):
    for test in examples(importlib.import_module(name)):
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test)
        assert result.failed == 0, test.name


@pytest.mark.parametrize("name", sorted({*mixups.list_mixups()} - {"vanilla"}))
def test_every_mixup_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(mixups, name))


CALLED = [
    *("MixBlock", "create_model", "cutmix", "list_models", "mask_loss", "mix_images", "mixup"),
    "paper_layer",
]


@pytest.mark.parametrize("name", CALLED)
def test_what_the_library_exports_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(automix_jax, name))

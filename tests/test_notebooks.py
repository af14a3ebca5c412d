"""The notebooks' cells run from top to bottom, at a size that is small enough for a test.

Nothing in a notebook is there for these tests: they replace settings in the text of the cells, and
what a shell or a notebook would do is done by functions of this file.
"""

import ast
import hashlib
import importlib.machinery
import json
import re
import shlex
import subprocess
import sys
import types
from importlib import metadata, util
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from automix_jax import cli
from automix_jax.data.prepare import get_preparer
from automix_jax.errors import DataError
from tests import miniatures, runs

NAMES = ("cifar10_automix", "explore_mixups", "mixblock_in_your_loop", "reproduce_a_cell")
LINE = re.compile(r"^( *)(!|%pip )(.+)$", re.MULTILINE)
# Of a recipe: so little that a step takes milliseconds, and compiles fast.
SMALL = """
config.num_groups = 1
config.model.name, config.model.width, config.eval.batch_size = "resnet8", 4, 16
config.teacher.recalibration_batches, config.run.tensorboard = 1, False
"""
TINY_CELL = (
    "--epochs=1 --config.model.width=4 --config.batch_size=8 --config.eval.batch_size=16"
    " --config.teacher.recalibration_batches=1 --config.run.tensorboard=False"
)

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of tensorboardX


def read(name):
    return json.loads((runs.ROOT / f"colab/{name}.ipynb").read_text())


def code(name):
    """The sources of the code cells."""
    return ["".join(c["source"]) for c in read(name)["cells"] if c["cell_type"] == "code"]


class Notebook:
    """Runs a notebook's cells; `shown` is what they display, `installed` what they install."""

    def __init__(self, name, **replaced):
        """`replaced` are the settings, by name: `NAME = ` and what follows up to a comment."""
        self.name, self.shown, self.installed = name, [], []
        self.cells = code(name)
        for setting, value in replaced.items():
            self.replace(f"(?m)^{setting} = .*?(?=  #|$)", f"{setting} = {value!r}")
        self.namespace = {"display": self.show, "shell": shell, "pip": self.pip, "_exit_code": 0}

    def replace(self, pattern, text):
        """Replaces a piece of text that is there once."""
        found = [len(re.findall(pattern, cell)) for cell in self.cells]
        assert sum(found) == 1, (pattern, found)
        self.cells = [re.sub(pattern, lambda _: text, cell) for cell in self.cells]

    def append(self, after, text):
        """Adds lines to the cell in which a piece of text is."""
        (place,) = (i for i, cell in enumerate(self.cells) if after in cell)
        self.cells[place] += text

    def run(self):
        for cell in self.cells:
            self.run_cell(cell)
        return self

    def run_cell(self, cell):
        """Runs a cell, whose last expression is shown."""
        tree = ast.parse(LINE.sub(_call, cell))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, self.name, "exec"), self.namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), self.name, "eval"), self.namespace)
            if value is not None:
                self.show(value)

    def show(self, value):
        self.shown.append(kept(value))

    def pip(self, line):
        self.installed += shlex.split(line)

    @property
    def pictures(self):
        return [np.asarray(shown) for shown in self.shown if isinstance(shown, Image.Image)]


def _call(line):
    """`!COMMAND` and `%pip ARGUMENTS`, whose braces hold expressions, as calls."""
    indent, kind, text = line.groups()
    return f"{indent}{'shell' if kind == '!' else 'pip'}(f{text!r})"


def kept(value):
    """What is displayed, as it is now; pictures are read from their files."""
    return value.copy() if isinstance(value, Image.Image) else value


def shell(line):
    program, *arguments = shlex.split(line.removesuffix(" | cat"))
    if arguments[:2] == ["-m", "automix_jax.cli"]:
        assert program == sys.executable and cli.main(arguments[2:]) == 0, line
    else:
        subprocess.run([program, *arguments], check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    """The folder in which a notebook is open, and the path that it changes."""
    monkeypatch.chdir(runs.ROOT / "colab")
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def widgets(monkeypatch):
    """ipywidgets, which need not be installed; yields what was made of each kind."""
    made = {"FloatSlider": [], "Dropdown": [], "Image": [], "VBox": []}
    module = types.ModuleType("ipywidgets")
    module.__spec__ = importlib.machinery.ModuleSpec("ipywidgets", None)
    for kind, widgets in made.items():
        monkeypatch.setattr(module, kind, _maker(widgets), raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", module)
    return made


class Widget:
    """What a notebook sees of a control, or of a picture."""

    def __init__(self, value=None, options=(), **_):
        self.value, self.options, self.observers = value, options, []
        if options:
            self.value = options[0]

    def observe(self, function, names):
        assert names == "value"
        self.observers.append(function)

    def move(self, value):
        self.value = value
        for function in self.observers:
            function({"new": value})


def _maker(made):
    def make(*arguments, **options):
        made.append(Widget(*arguments, **options))
        return made[-1]

    return make


@pytest.fixture
def ipython(monkeypatch):
    """What notebooks import of IPython, which need not be installed; yields what is displayed."""
    displayed = []
    module = types.ModuleType("IPython.display")
    module.Markdown, module.display = str, lambda value: displayed.append(kept(value))
    package = types.ModuleType("IPython")
    package.version_info = (9, 0)  # which Matplotlib asks
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return displayed


# -- the files ---------------------------------------------------------------------------------


def test_all_notebooks_are_tested():
    assert sorted(path.stem for path in (runs.ROOT / "colab").glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_as_committed(name):
    """Of the form 4.5, without outputs, and a sentence before whatever is run."""
    notebook = read(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", id_) for id_ in ids)
    assert notebook["cells"][0]["source"][0].startswith("# ")
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert len(cell["source"]) <= 45, cell["id"]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = "".join("".join(c["source"]) for c in read(name)["cells"] if c["cell_type"] != "code")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (runs.ROOT / "colab" / link).exists(), link
    for path in re.findall(r"`((?:docs|configs|automix_jax)/[\w/]+\.\w+)", text):
        assert (runs.ROOT / path).exists(), path


def test_checksums_are_the_published_ones():
    python = {n: get_preparer(n).downloads[0][0].checksum for n in ("cifar10", "cifar100")}
    assert f'MD5 = "{python["cifar10"]}"' in "".join(code("cifar10_automix"))
    cell = next(cell for cell in code("reproduce_a_cell") if "MD5 = " in cell)
    for name, checksum in python.items():
        assert f'"{name}": "{checksum}"' in cell


# -- set up ------------------------------------------------------------------------------------


def test_setup_is_the_same_everywhere():
    assert len({code(name)[0] for name in NAMES}) == 1


def test_setup_finds_the_checkout_and_keeps_jax():
    notebook = Notebook(NAMES[0])
    for _ in range(2):  # it is safe to run again
        notebook.run_cell(notebook.cells[0])
        assert Path.cwd() == runs.ROOT and sys.path[0] == str(runs.ROOT)
    assert f"jax=={metadata.version('jax')}" in notebook.installed
    assert ".[tensorboard]" in notebook.installed


def test_setup_without_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = Notebook(NAMES[0])
    with pytest.raises(FileNotFoundError, match="REPOSITORY"):
        notebook.run_cell(notebook.cells[0])


def test_setup_clones(tmp_path, monkeypatch):
    source, here = tmp_path / "a source", tmp_path / "content"
    (source / "configs").mkdir(parents=True)
    (source / "configs/quickstart.py").touch()
    here.mkdir()
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.chdir(here)
    notebook = Notebook(NAMES[0], REPOSITORY=f"file://{source}")
    notebook.run_cell(notebook.cells[0])
    assert Path.cwd() == here / "automix_jax" and Path("configs/quickstart.py").exists()
    notebook.run_cell(notebook.cells[0])
    assert Path.cwd() == here / "automix_jax"


# -- CIFAR-10 ----------------------------------------------------------------------------------


def on_cifar(folder):
    """The notebook on CIFAR-10, with an archive of a few images in the place of the official."""
    official = miniatures.write_archives(miniatures.build("cifar10"), folder / "official")
    (archive,) = official.iterdir()
    notebook = Notebook(
        "cifar10_automix",
        DATA="cifar10",
        BATCH_SIZE=16,
        EPOCHS=2,
        URL=archive.as_uri(),
        MD5=hashlib.md5(archive.read_bytes()).hexdigest(),
        archive=folder / "data" / archive.name,
    )
    notebook.cells = [cell.replace("PosixPath(", "Path(") for cell in notebook.cells]
    notebook.replace('f"runs/{chosen}-', f'f"{folder}/{{chosen}}-')
    notebook.append("load_config", SMALL)
    return notebook


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """The notebook after it ran."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(runs.ROOT)
        monkeypatch.setattr(sys, "path", list(sys.path))
        assert jax.device_count() == 8  # of conftest.py
        return on_cifar(tmp_path_factory.mktemp("cifar")).run()


def test_cifar10(cifar, capsys):
    workdir = Path(cifar.namespace["WORKDIR"])
    config, summary = cifar.namespace["config"], cifar.namespace["summary"]
    assert (config.data.name, config.batch_size, config.epochs) == ("cifar10", 16, 2)
    assert summary["steps"] == 2 and set(summary["accuracy"]) >= {"student_mix", "teacher_clean"}
    curves, masks, ratios = cifar.pictures
    assert curves.shape[:2] == (450, 1350)  # 9 x 3 inches
    assert masks.std() > 0 and ratios.std() > 0
    exported = {path.name for path in (workdir / "exported").iterdir()}
    assert exported >= {"card.json", "README.md", "resnet8.safetensors"}
    assert any("stablehlo" in name for name in exported)
    # Again, all of it: nothing is downloaded, trained or exported a second time.
    before = (workdir / "metrics.jsonl").stat().st_mtime_ns
    for cell in cifar.cells:
        cifar.run_cell(cell)
    assert (workdir / "metrics.jsonl").stat().st_mtime_ns == before
    assert "* the headline" in capsys.readouterr().out


def test_archive_that_is_not_there_or_not_whole(tmp_path):
    notebook = on_cifar(tmp_path)
    place = next(i for i, cell in enumerate(notebook.cells) if "MD5 = " in cell)
    for cell in notebook.cells[:place]:
        notebook.run_cell(cell)
    with pytest.raises(DataError, match=r"put the file at .*cifar-10-python.tar.gz"):
        notebook.run_cell(re.sub(r"file://\S+official", "file:///nowhere", notebook.cells[place]))
    with pytest.raises(DataError, match="not the official archive"):
        notebook.run_cell(re.sub(r"MD5 = '\w+'", "MD5 = 'another'", notebook.cells[place]))
    notebook.run_cell(notebook.cells[place])  # which downloads it once more
    assert notebook.namespace["is_whole"]()


@pytest.mark.long
def test_cifar10_without_an_accelerator(tmp_path):
    """The embedded images, all of them, and their recipe."""
    notebook = Notebook("cifar10_automix", EPOCHS=1)
    notebook.replace('f"runs/{chosen}-', f'f"{tmp_path}/{{chosen}}-')
    notebook.append("load_config", SMALL)
    notebook.run()
    assert notebook.namespace["config"].data.name == "fashion_mnist_sample"
    assert not notebook.namespace["archive"].exists() and len(notebook.pictures) == 3


# -- the others --------------------------------------------------------------------------------


@pytest.mark.long
def test_mixblock_in_your_loop(capsys):
    notebook = Notebook("mixblock_in_your_loop", STEPS=2, BATCH=8).run()
    text = "".join(notebook.cells)
    assert not re.search(r"automix_jax\.(train|config|recipes|automix|objective)\b", text)
    before, after = notebook.pictures
    assert before.shape == after.shape == (576, 768) and (before != after).any()
    masks = before.reshape(6, 96, 8, 96)[2, 6:90, :, 6:90].transpose(1, 0, 2)
    assert np.ptp(masks) <= 8  # of 255: about one half everywhere
    assert abs(masks.mean() - 127) < 32
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("step    1") for line in lines) == 2  # Linen's and NNX's
    assert sum("% of 2,000 test images" in line for line in lines) == 4


def test_explore_mixups(cifar, tmp_path, widgets, monkeypatch):
    """On the network of the other notebook, and on pictures of a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, size in enumerate(((40, 30), (30, 50), (64, 64), (20, 20))):
        Image.new("RGB", size, (60 * i, 20, 200 - 50 * i)).save(folder / f"picture{i}.png")
    notebook = Notebook(
        "explore_mixups",
        FOLDER=str(folder),
        SIZE=24,
        RUN=cifar.namespace["WORKDIR"],
        METHODS="cutmix+automix",
    )
    notebook.replace(r'"runs/explore"', f'"{tmp_path}/made"')
    notebook.replace(r"settle\(None, None\)", 'settle(["mixup", "cutmix", "fmix"], None)')
    notebook.run()
    assert notebook.namespace["mine"].images.shape == (4, 24, 24, 3)
    assert len(notebook.pictures) == 4 and len(widgets["VBox"]) == 2
    for slider, picture in zip(widgets["FloatSlider"], widgets["Image"], strict=True):
        before = picture.value
        slider.move(0.9)
        assert picture.value != before and picture.value.startswith(b"\x89PNG")
    (menu,), (first, _) = widgets["Dropdown"], widgets["Image"]
    assert set(menu.options) == {"mixup", "cutmix", "fmix"}
    before = first.value
    menu.move("fmix")
    assert first.value != before
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert {"mixups.png", "of_run.png", "training.png", "cam.png"} <= made
    # Where there are no widgets, three ratios are shown.
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    notebook.namespace["slide"](notebook.namespace["show"], method=["mixup", "cutmix"])
    assert len(notebook.pictures) == 7


def test_ratio_of_a_slider_is_that_of_the_picture(tmp_path):
    """At ratio 1 a method shows the images, at 0 their partners."""
    notebook = Notebook("explore_mixups")
    notebook.replace(r'"runs/explore"', f'"{tmp_path}"')
    notebook.replace(r"settle\(None, None\)", 'settle(["mixup"], None)')
    for cell in notebook.cells[:4]:  # up to where `mix` is made
        notebook.run_cell(cell)
    images = notebook.namespace["mine"].images
    for lam, expected in ((1.0, images), (0.0, np.roll(images, -1, axis=0))):
        mixed, masks, weights = notebook.namespace["mix"](images, lam, "mixup")
        # float32, after a division by 127.5 and its inverse
        np.testing.assert_allclose(mixed, expected, atol=1e-4)
        assert (np.asarray(masks) == 255 * lam).all() and (np.asarray(weights) == lam).all()


@pytest.mark.long
def test_explore_mixups_as_it_is(tmp_path, widgets):
    """All methods, on the embedded images, and a network that is trained there."""
    notebook = Notebook("explore_mixups", RUN=str(tmp_path / "run"))
    notebook.replace(r'"runs/explore"', f'"{tmp_path}/made"')
    notebook.cells = [cell.replace("    train(", f"{indented(SMALL)}    train(")
                      .replace("quickstart.py", "quickstart.py:epochs=1")
                      if "    train(" in cell else cell for cell in notebook.cells]  # fmt: skip
    notebook.run()
    assert len(notebook.namespace["methods"]) > 8 and len(widgets["VBox"]) == 2


def indented(text):
    return "".join(f"    {line}\n" for line in text.split("\n") if line)


def reproduced(tmp_path, **settings):
    """The notebook, with trainings of a few steps."""
    data = runs.write_npz(tmp_path / "data.npz")
    notebook = Notebook("reproduce_a_cell", **settings)
    notebook.cells = [cell.replace('"runs/', f'"{tmp_path}/') for cell in notebook.cells]
    small = TINY_CELL
    if settings.get("BUDGET", "auto") != "gpu":
        small += f" --config.data.name=npz --config.data.path={data} --config.data.num_classes=0"
    notebook.replace(r" --out=\{out\}", f" {small} --out={{out}}")
    return notebook


def test_reproduce_a_cell(tmp_path, ipython, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # one device for each
    notebook = reproduced(tmp_path, METHODS="mixup").run()
    text = capsys.readouterr().out
    assert "cpu: budget cpu" in text and "1 trainings" in text
    report, *pictures = ipython
    assert report.count("| MixUp |") == 1 and "1/1" in report
    assert all(isinstance(picture, Image.Image) for picture in pictures)
    assert Path(notebook.namespace["out"], "results.jsonl").read_text().count("\n") == 1


@pytest.mark.long
def test_reproduce_a_cell_of_cifar10(tmp_path, ipython):
    """Beside the published numbers; and again with another seed, which trains what is missing."""
    official = miniatures.write_archives(miniatures.build("cifar10"), tmp_path / "official")
    (archive,) = official.iterdir()
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    notebook = reproduced(tmp_path, BUDGET="gpu", PAGE=official.as_uri())
    notebook.replace(r'Path\("data"', f'Path("{tmp_path}/data"')
    notebook.replace(get_preparer("cifar10").downloads[0][0].checksum, md5)
    notebook.run()
    assert "97.34" in ipython[0] and "epochs 1 instead of 800" in ipython[0]
    notebook.cells = [cell.replace("SEEDS = 1", "SEEDS = 2") for cell in notebook.cells]
    for cell in notebook.cells[1:]:
        notebook.run_cell(cell)
    lines = Path(notebook.namespace["out"], "results.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["seed"] for line in lines) == [0, 0, 1, 1]

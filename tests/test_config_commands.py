"""`automix configs`: the list, one recipe, two of them side by side, and the page of the docs."""

import re
import signal
import subprocess
import sys

import pytest

from automix_jax.commands.configs import configs, find_folder
from automix_jax.config import fields
from automix_jax.errors import ConfigError
from automix_jax.recipes import load_cells
from tests.runs import ROOT
from tests.test_configs import RECIPES, WITHOUT_CELLS, load

# AutoMix's rows of the paper's Tables 1 to 3, in their order.
PUBLISHED = {
    "Table 1": (97.34, 97.65, 82.04, 83.64, 85.18, 67.33, 70.72),
    "Table 2": (70.50, 74.52, 77.91, 79.87, 80.89, 72.05, 76.10, 79.25, 80.98),
    "Table 3": (79.87, 86.56, 81.37, 86.72, 63.08, 68.03, 64.73, 70.49, 59.74, 64.06),
    "Appendix": (78.44, 80.28, 74.61, 77.58, 71.16, 73.19, 80.78, 81.80, 82.28),
}


def run(capsys, *argv):
    assert configs(argv) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_cell_of_the_paper_has_a_recipe():
    found: dict[str, list[float]] = {}
    for recipe in RECIPES:
        cells = load_cells(f"configs/{recipe}.py")
        assert bool(cells) == (recipe not in WITHOUT_CELLS)
        for cell in cells:
            found.setdefault(cell.source, []).append(cell.accuracy)
            load(recipe, cell.argument)
        if cells:  # the file's first lines say what it is for
            text = (ROOT / f"configs/{recipe}.py").read_text()
            head, usage = text.split("\n\n")[:2]
            assert f"AutoMix {cells[0].accuracy:.2f}" in head
            assert f"--config=configs/{recipe}.py" in usage
    assert found.keys() == {*PUBLISHED, "OpenMixup"}
    for source, accuracies in PUBLISHED.items():
        assert sorted(found[source]) == sorted(accuracies)


def test_list(capsys):
    lines = run(capsys).splitlines()
    columns = [re.split(r"\s{2,}", line) for line in lines]
    assert columns[0] == ["recipe", "published in", "cell", "AutoMix", "data", "settings"]
    assert [
        *("imagenet_r50:recipe=rsb_a2", "Appendix", "ImageNet, R-50, RSB A2", "80.28", "imagenet"),
        "LAMB 0.005, batch 2048, 300 epochs, 224 px",
    ] in columns
    starts = {line.index(row[-1]) for line, row in zip(lines, columns, strict=True)}
    assert len(starts) == 1  # aligned
    assert {row[0].partition(":")[0] for row in columns[1:]} == set(RECIPES)
    assert columns[1][0] == "cifar10_r18" and columns[-1][0] == "quickstart_deit"


def test_show_prints_every_field(capsys):
    text = run(capsys, "show", "cifar100_r18:epochs=200", "--config.optimizer.lr=0.2")
    shown = dict(line.split(maxsplit=1) for line in text.splitlines())
    expected = dict(fields(load("cifar100_r18", "epochs=200")))
    expected["config.optimizer.lr"] = 0.2
    assert shown == {name: repr(value) for name, value in expected.items()}


def test_diff_prints_what_differs(capsys):
    lines = run(capsys, "diff", "cifar100_r18", "configs/cifar100_r18.py:variant=released")
    title, *rows = [re.split(r"\s{2,}", line) for line in lines.splitlines()]
    assert title == ["", "cifar100_r18", "configs/cifar100_r18.py:variant=released"]
    assert ["config.mixblock.lam_embed", "'concat'", "'none'"] in rows
    assert len(rows) == 10
    assert run(capsys, "diff", "cifar10_r18", "cifar10_r18:method=automix") == "no field differs\n"


def test_an_override_belongs_to_the_recipe_before_it(capsys):
    one, two = "--config.optimizer.lr=0.3", "--config.epochs=7"
    text = run(capsys, "diff", "cifar10_r18", one, "cifar10_r18:method=cutmix", two)
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    assert rows[0] == ["", f"cifar10_r18 {one}", f"cifar10_r18:method=cutmix {two}"]
    assert ["config.optimizer.lr", "0.3", "0.1"] in rows
    assert ["config.epochs", "800", "7"] in rows
    assert ["config.method.options.per", "-", "'batch'"] in rows  # automix has no such option


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["show"], "automix configs show takes 1 recipe"),
        (["diff", "cifar10_r18"], "automix configs diff takes 2 recipe"),
        (["list", "cifar10_r18"], "automix configs list takes 0 recipe"),
        (["print"], "invalid choice: 'print'"),
        (["show", "cifar10_r81"], "'cifar10_r81' is not in configs. Did you mean 'cifar10_r18'"),
        (["show", "runs/none.py"], "'runs/none.py' is not there"),
        (["diff", "cifar10_r18", "cifar10_r18:lr=1"], "config argument 'lr=1' is not known"),
        (["diff", "cifar10_r18", "cifar10_r18:method=mixop"], "Did you mean 'mixup'"),
        (["show", "cifar10_r18", "--config.optimiser.lr=1"], "Did you mean 'optimizer.lr'"),
        (["show", "cifar10_r18", "--config.epochs=many"], "config.epochs"),
        (["--config.epochs=3"], "has no recipe before it"),
        (["list", "--folder=docs"], "no recipes in docs: name their folder"),
    ],
)
def test_bad_arguments(argv, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        configs(argv)
    assert "\n" not in str(raised.value)


def test_recipes_are_found_away_from_the_repository(tmp_path, monkeypatch, capsys):
    """Beside the package, in the folder that is named, and by their paths."""
    monkeypatch.chdir(tmp_path)
    assert find_folder() == ROOT / "configs"
    assert run(capsys, f"--folder={ROOT}/configs") == run(capsys)
    mine = tmp_path / "mine/recipe.py"
    mine.parent.mkdir()
    mine.write_text(
        (ROOT / "configs/quickstart.py").read_text().replace("epochs = 6", "epochs = 5")
    )
    rows = run(capsys, "diff", "quickstart", str(mine)).splitlines()[1:]
    assert [row.split() for row in rows] == [["config.epochs", "6", "5"]]
    monkeypatch.setattr("automix_jax.__file__", str(tmp_path / "lib/automix_jax/__init__.py"))
    with pytest.raises(ConfigError, match=rf"no recipes in configs or {tmp_path}/lib/configs"):
        configs([])


def test_page_of_the_docs(capsys):
    """`automix configs --markdown > docs/configs.md` mends it."""
    page = run(capsys, "--markdown")
    assert page == (ROOT / "docs/configs.md").read_text()
    for command in re.findall(r"`python main.py --config=(\S+)", page):
        path, _, argument = command.partition(":")
        load(path.removeprefix("configs/").removesuffix(".py"), argument)


def test_a_reader_that_has_seen_enough():
    """`automix ... | head` ends quietly, with the exit code of a broken pipe."""
    command = [sys.executable, "-c", "import time; time.sleep(2); from automix_jax.cli import run;"
               "import sys; sys.argv = ['automix', 'configs']; run()"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # before anything is written
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 128 + signal.SIGPIPE and not error

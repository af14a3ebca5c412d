"""Everything that the pages tell one to type: each command is checked, and executed if asked for.

In every run each command of every page meets the program's own parser and, where it trains, the
recipe with its overrides is resolved and validated. With AUTOMIX_LONG=all (`make test-docs`) each
is executed in a sandbox, on miniatures of the data it names, but for those of `NOT_EXECUTED`.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import re
import runpy
import subprocess
import sys
import tomllib

import pytest

from automix_jax import cli, recipes
from automix_jax.config import needs
from automix_jax.errors import AutoMixError
from automix_jax.validation import validate
from tests import pages
from tests.runs import ROOT
from tests.sandbox import Sandbox

# The beginnings of commands that cannot be executed here, and why.
NOT_EXECUTED = {
    "make quickstart": "installs; what it runs then stands on the pages too, and is executed",
    "make test": "is what runs this",
    "python -m pytest": "is what runs this",
    "pip install": "changes the environment, from the network",
    "python3 -m pip install": "changes the environment, from the network",
    "python3 -m uv": "changes the environment, from the network",
    "python3 -m venv": "makes another environment",
    ". .venv/bin/activate": "changes the shell",
    "python train_net.py": "needs Detectron2, its data and GPUs; tests/test_detection.py reads it",
    "python main.py --coordinator": "one of four hosts; tests/test_processes.py starts several",
    "sbatch": "needs SLURM; tests/test_launch.py stands in for it",
    "launch/tpu_pod.sh": "needs gcloud and a TPU; tests/test_launch.py stands in for it",
}
# What stands for something in the pages: process I of 0 to 3.
STANDS_FOR = {"--process-id=I": "--process-id=0"}

COMMANDS = list(
    {str(command): command for page in pages.PAGES for command in pages.commands(page)}.values()
)
EXECUTED = [command for command in COMMANDS if not str(command).startswith(tuple(NOT_EXECUTED))]
# Complete training commands within a line of text or a table.
INLINE = sorted(
    {
        line
        for page in pages.PAGES
        for line in re.findall(
            r"`((?:python main\.py|automix train) --config=[^`]*)`", page.read_text()
        )
        if "..." not in line
    }
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = (ROOT / "requirements.txt").read_text()


class Parsed(BaseException):
    """Stops a program where its arguments have been understood."""

    def __init__(self, found: argparse.Namespace, rest: list[str]):
        super().__init__()
        self.found, self.rest = found, rest


@pytest.fixture
def stop_when_parsed(monkeypatch):
    """Programs end with `Parsed` when their own parser has accepted the arguments."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self, args=None, namespace=None):
        raise Parsed(*parse(self, args, namespace))

    def parse_args(self, args=None, namespace=None):
        found, rest = parse(self, args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        raise Parsed(found, rest)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


# -- every run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_understood(command, monkeypatch, request):
    monkeypatch.chdir(ROOT)
    program, *arguments = (STANDS_FOR.get(word, word) for word in command.words)
    if program in ("python", "python3"):
        check_python(arguments, request)
    elif program == "pip":
        check_pip(arguments)
    elif program == "automix":
        check_automix(arguments, request)
    elif program == "make":
        check_make(arguments)
    elif program == "sbatch" or program.startswith("launch/"):
        check_launch(command.words, request)
    else:
        assert command.words == (".", ".venv/bin/activate"), f"{command.page}: what is {program}?"


def check_python(arguments, request):
    """`python FILE`, `python -m MODULE` or `python -c CODE`."""
    first, *rest = arguments
    if first == "main.py":
        check_training(rest)
    elif first == "-c":
        exec(compile(rest[0], "-c", "exec"), {})
    elif first == "-m" and rest[0] == "uv":
        if rest[1] == "pip":
            check_pip(rest[2:])
    elif first == "-m":
        assert importlib.util.find_spec(rest[0])
        if rest[0] == "pip":
            check_pip(rest[1:])
    elif first == "train_net.py":  # beside an export
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        folder = ROOT / "automix_jax/weights/detection"
        assert (folder / options.pop("--config-file")).exists()
        text = (folder / first).read_text()
        assert set(options) <= {"--num-gpus", *re.findall(r'"(--[\w-]+)"', text)}
    else:
        check_script(first, rest, request)


def check_script(script, arguments, request):
    """A program of this repository reads its arguments."""
    request.getfixturevalue("stop_when_parsed")
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


def check_training(arguments):
    """Flags are known, the recipe takes its argument and the overrides, and every field can be."""
    flags, overrides = cli._parse(arguments, "python main.py")
    assert flags.workdir
    check_config(recipes.override(recipes.load_config(flags.config), overrides))


def check_config(config):
    """Every field can be, and it says where the images are, unless they are embedded."""
    validate(config, 1)
    assert config.data.path or config.data.name == "fashion_mnist_sample", config.data.name


def check_automix(arguments, request):
    """The command reads its arguments; what only prints does so."""
    if arguments[0] == "train":
        return check_training(arguments[1:])
    if arguments[0] == "configs" or arguments in (["data", "list"], ["reproduce"]):
        assert cli.main(arguments) == 0
        return None
    if arguments[0] == "reproduce":
        assert cli.main([*arguments, "--plan"]) == 0
        return None
    request.getfixturevalue("stop_when_parsed")
    with pytest.raises(Parsed) as parsed:
        code = cli.main(arguments)
        pytest.fail(f"ended with {code}")
    rest = parsed.value.rest
    assert all(argument.startswith("--config.") for argument in rest), rest
    named = getattr(parsed.value.found, "recipes", None) or []
    assert named or not rest
    if named:
        from automix_jax.sweep.rows import read_rows

        rows = read_rows(named, lambda name: recipes.override(recipes.load_config(name), rest))
        for row in rows:
            if needs(row.config) not in ("attention", "predict"):  # the sweep makes these first
                check_config(row.config)


def check_pip(arguments):
    """What is installed is this package with extras that it has, or among its requirements."""
    assert arguments.pop(0) == "install"
    while arguments:
        word = arguments.pop(0)
        if word in ("-c", "-r"):
            assert (ROOT / arguments.pop(0)).exists()
        elif word in ("-e", "--user", "uv"):  # uv makes environments
            continue
        elif word.startswith(".["):
            assert set(word[2:-1].split(",")) <= set(EXTRAS)
        elif word.startswith("jax["):
            assert word[4:-1] in importlib.metadata.metadata("jax").get_all("Provides-Extra")
        else:
            known = [*itertools.chain(*EXTRAS.values()), *REQUIREMENTS.splitlines()]
            assert word in {re.split("[<>=\\[; ]", line)[0] for line in known}, word


def check_make(targets):
    """The targets exist, as programs rather than files, and `make help` names them."""
    made = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^\.PHONY:.* {target}\b", makefile, re.MULTILINE)
        assert f"make {target} " in makefile


def check_launch(words, request):
    """The script exists and can be executed; what follows is a training command."""
    if "--wrap" in words:
        (command,) = pages.parse(words[words.index("--wrap") + 1])
        assert command.words[0] == "automix"
        return check_automix(list(command.words[1:]), request)
    script = next(word for word in words if word.startswith("launch/"))
    assert (ROOT / script).stat().st_mode & 0o111 or words[0] == "sbatch"
    start = [i for i, word in enumerate(words) if word.startswith("--config=")]
    if start:
        check_training(words[start[0] :])
    elif script == "launch/tpu_pod.sh":
        assert f"\n{words[1]})" in (ROOT / script).read_text()
    else:
        pytest.fail(f"{' '.join(words)} trains nothing")
    return None


@pytest.mark.parametrize("line", INLINE)
def test_training_command_within_text_is_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    (command,) = pages.parse(line)
    start = command.words.index("main.py" if command.words[0] == "python" else "train") + 1
    check_training([*command.words[start:], "--workdir=DIR"])


@pytest.mark.parametrize("beginning", NOT_EXECUTED)
def test_what_is_not_executed_is_still_there(beginning):
    assert any(str(command).startswith(beginning) for command in COMMANDS)


def test_there_are_commands_on_many_pages():
    assert len(COMMANDS) > 80 and len(EXECUTED) > 60 and len(INLINE) > 40
    assert len({command.page for command in COMMANDS}) > 12


# -- the checks find what is wrong ---------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "python main.py --config=configs/cifar10_r81.py --workdir=runs/1",
        "python main.py --config=configs/cifar10_r18.py:method=mixap --workdir=runs/1",
        "python main.py --config=configs/cifar10_r18.py --config.epoch=3 --workdir=runs/1",
        "python main.py --config=configs/cifar10_r18.py --config.batch_size=2 --workdir=runs/1",
        "python main.py --config=configs/cifar10_r18.py",
        "automix evaluate runs/1 --suites=accuracy",
        "automix visualise cam --run=runs/1 --out=cam.png",
        "automix sweep configs/quickstart.py:method=cutmux --out=runs/1",
        "automix sweep configs/quickstart.py --config.epoch=1 --out=runs/1",
        "automix configs show imagenet_r55",
        "make quikstart",
        "pip install -e '.[gpu]'",
        "pip install 'jax[cuda99]'",
        "pip install tensorflow",
        "python -m automix",
        "python benchmarks/step.py --presets=r50",
        "launch/tpu_pod.sh begin my-slice zone",
        "conda activate",
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch, request):
    (command,) = pages.parse(line)
    wrong = (AssertionError, AutoMixError, SystemExit, pytest.fail.Exception)
    with pytest.raises(wrong):
        test_command_is_understood(command, monkeypatch, request)


def test_scripts_are_read_as_a_shell_reads_them():
    script = """
    A=1 one --x='a b' \\
        --y   # a comment
    two && three; for i in 1 2; do for j in a; do
      four $i-${j}
    done; done
    five
    """
    found = [str(command) for command in pages.parse(script)]
    assert found == ["A=1 one '--x=a b' --y", "two", "three", "four 1-a", "four 2-a", "five"]
    for line in ("a | b", "a > b", "done", "for"):
        with pytest.raises((ValueError, IndexError)):
            pages.parse(line)


# -- on request ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    return Sandbox(tmp_path_factory.mktemp("sandbox"))


@pytest.mark.long
@pytest.mark.parametrize("command", EXECUTED, ids=str)
def test_command_works(command, sandbox):
    code, out, err = sandbox.run(command)
    # 1 of a check is a warning: miniatures lack images of some classes.
    allowed = (0, 1) if command.words[:3] == ("automix", "data", "check") else (0,)
    assert code in allowed, f"{out}\n{err}"

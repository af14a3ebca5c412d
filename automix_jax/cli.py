"""The command line: `automix train`, which is also `main.py`, and its companions."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from automix_jax import config as config_lib
from automix_jax.errors import AutoMixError, ConfigError, did_you_mean
from automix_jax.models import list_models

_TRAIN_HELP = """\
Trains a classifier, with AutoMix or a plain mixup, or goes on with the run of a folder.

    {program} --config=CONFIG.py[:ARGUMENT] --workdir=DIR [--config.FIELD=VALUE ...]

    --config    a recipe: see configs/. The argument chooses a variant of it,
                method=automix|mixup|cutmix|vanilla, epochs=N, variant=paper|released:
                --config=configs/cifar10_r18.py:method=mixup,epochs=200
    --workdir   the run's folder: configuration, checkpoints, metrics, pictures, summary.
                The same command goes on where an interrupted run stopped.
    --config.FIELD=VALUE
                overrides a field, such as --config.data.path=/data/cifar10,
                --config.batch_size=256, --config.optimizer.lr=0.2, --config.seed=1.
                automix_jax/config.py lists and explains all of them. The method is better
                chosen by method= above, which also sets its alpha and its teacher.

Try it, with the embedded images, in a few minutes on a CPU:

    {program} --config=configs/quickstart.py --workdir=runs/quickstart

Exit codes: 0 done, 2 usage or configuration, 64 data, 65 numbers, 66 checkpoint or workdir,
67 weights.
"""
_HELP = """\
automix COMMAND [ARGUMENTS]

    train            trains a classifier
    import-weights   reads a .safetensors or .pth file of torchvision or timm
    export           writes a trained run as .safetensors, .pth, Detectron2 .pkl or StableHLO

`automix COMMAND --help` says more.
"""
_IMPORT_HELP = """\
Reads the weights of a torchvision or timm network, without PyTorch and without running what a
pickle may carry, and writes them as a folder to train from (--config.init_from=DIR).

The library is recognised by the names of the tensors; the number of classes and the stem by their
shapes. Every tensor must find its place: only the classifier may be missing.
"""
_EXPORT_HELP = """\
Writes one network of a run, with one of its heads, for other programs, and a card (README.md and
card.json) that says what it is, how good, and how to load it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `automix COMMAND ...`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if argv else 2
    command, arguments = argv[0], argv[1:]
    if command == "train":
        return train(arguments, program="automix train")
    try:
        match command:
            case "import-weights":
                import_weights(arguments)
            case "export":
                export(arguments)
            case _:
                hint = did_you_mean(command, COMMANDS)
                raise ConfigError(
                    f"command {command!r} is not known.{hint} Use {', '.join(COMMANDS)}."
                )
    except AutoMixError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser of one command whose errors are one sentence."""

    def __init__(self, command: str, description: str):
        super().__init__(
            prog=f"automix {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help.")


def import_weights(argv: Sequence[str]) -> None:
    """Runs `automix import-weights`.

    Raises:
        AutoMixError: for arguments or a file that cannot be used.
    """
    from automix_jax import weights
    from automix_jax.weights.folder import read_file, sha256
    from automix_jax.weights.report import describe

    parser = _Parser("import-weights", _IMPORT_HELP)
    parser.add_argument("file", metavar="FILE", help="a .safetensors or .pth file")
    parser.add_argument("--model", required=True, metavar="NAME", help=", ".join(list_models()))
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to be made")
    parser.add_argument(
        "--convention",
        choices=("torch", "tf"),
        help="of efficientnet_b0 in timm's names: tf for tf_efficientnet_b0",
    )
    arguments = parser.parse_args(argv)
    options = {"convention": arguments.convention} if arguments.convention else {}
    tensors = read_file(arguments.file)
    pretrained, report = weights.from_state_dict(tensors, arguments.model, **options)
    source = {"file": Path(arguments.file).name, "sha256": sha256(arguments.file)}
    weights.save(arguments.out, pretrained, naming=report.naming, source=source)
    print(describe(pretrained, report))
    print(f"written to {arguments.out}: train with --config.init_from={arguments.out}")


def export(argv: Sequence[str]) -> None:
    """Runs `automix export`.

    Raises:
        AutoMixError: for arguments or a run that cannot be used.
    """
    from automix_jax.train import export as export_lib
    from automix_jax.train.trained import load_run

    parser = _Parser("export", _EXPORT_HELP)
    add = parser.add_argument
    add("workdir", metavar="WORKDIR", help="the run's folder")
    add("--out", required=True, metavar="DIR", help="folder to be made")
    add(
        "--format",
        default="safetensors",
        metavar="A,B",
        help=f"of {', '.join(export_lib.FORMATS)} (default: %(default)s)",
    )
    add("--network", choices=("student", "teacher"), help="default: the headline's")
    add("--head", choices=("mix", "clean"), help="default: the headline's")
    add("--checkpoint", choices=("last", "best"), default="last", help="(default: %(default)s)")
    add("--naming", metavar="NAME", help="torchvision, timm, ... where a network has several")
    arguments = parser.parse_args(argv)
    formats = arguments.format.split(",")
    export_lib.check_formats(formats)
    trained = load_run(
        arguments.workdir,
        network=arguments.network,
        head=arguments.head,
        checkpoint=arguments.checkpoint,
    )
    for path in export_lib.export(trained, arguments.out, formats, arguments.naming):
        print(f"{path}  {path.stat().st_size:,} bytes")


COMMANDS = ("train", "import-weights", "export")


def train(argv: Sequence[str], program: str = "python main.py") -> int:
    """Runs training from command-line arguments; returns the exit code."""
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
        print(_TRAIN_HELP.format(program=program), end="")
        return 0
    try:
        config, workdir = _parse(argv, program)
        from automix_jax.train.loop import train as run

        run(config, workdir)
    except AutoMixError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def _parse(argv: Sequence[str], program: str) -> tuple[ConfigDict, str]:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    parser.add_argument("--config", default="")
    parser.add_argument("--workdir", default="")
    try:
        known, overrides = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; see {program} --help.") from error
    for flag in ("config", "workdir"):
        if not getattr(known, flag):
            raise ConfigError(f"--{flag} is missing: see {program} --help.")
    return override(load_config(known.config), overrides), known.workdir


def load_config(recipe: str) -> ConfigDict:
    """Returns what a recipe's `get_config` gives.

    Args:
        recipe: the path of a Python file, and after a colon the argument of its `get_config`.

    Raises:
        ConfigError: if the file does not exist or is not a recipe, or refuses the argument.
    """
    path, _, argument = recipe.partition(":")
    spec = importlib.util.spec_from_file_location("automix_jax_recipe", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"--config: {path!r} is not a Python file; configs/ holds the recipes.")
    sys.path.insert(0, str(Path(path).resolve().parents[1]))  # recipes import configs.common
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config: {path!r} has no get_config(arg); configs/ shows how.")
    return module.get_config(argument)


def override(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """Sets the fields of a configuration that arguments of the form --config.FIELD=VALUE name.

    Raises:
        ConfigError: for any other argument, an unknown field, or a value of another type.
    """
    names = [name.removeprefix("config.") for name, _ in config_lib.fields(config)]
    for argument in arguments:
        name, equals, _ = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not equals:
            raise ConfigError(
                f"argument {argument!r} is not known: fields are set by --config.FIELD=VALUE."
            )
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(f"config.{name} is not a field of the configuration.{hint}")
    values = flags.FlagValues()
    argv = ["train", *arguments]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix("flag --")
        raise ConfigError(f"{reason}: the field's default in the recipe shows its type.") from error
    return values.config


def _fail(error: AutoMixError) -> int:
    sys.stderr.write(f"error: {error}\n")  # at once: other threads may be writing too
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

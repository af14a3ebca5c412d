"""The command line: `automix train`, which is also `main.py`."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from automix_jax import config as config_lib
from automix_jax.errors import AutoMixError, ConfigError, did_you_mean

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

Exit codes: 0 done, 2 usage or configuration, 64 data, 65 numbers, 66 checkpoint or workdir.
"""
_HELP = """\
automix COMMAND [ARGUMENTS]

    train       trains a classifier; `automix train --help` says more
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `automix COMMAND ...`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if argv else 2
    if argv[0] != "train":
        return _fail(ConfigError(f"command {argv[0]!r} is not known: use train."))
    return train(argv[1:], program="automix train")


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

"""The command line: `automix train`, which is also `main.py`."""

import os
import sys
from collections.abc import Sequence

from automix_jax.errors import AutoMixError, ConfigError

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
                automix_jax/config.py lists and explains all of them.

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


def _parse(argv: Sequence[str], program: str):
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values)
    usage = f"see {program} --help."
    for flag in ("config", "workdir"):
        if not any(argument.lstrip("-").partition("=")[0] == flag for argument in argv):
            raise ConfigError(f"--{flag} is missing: {usage}")
    sys.path.insert(0, os.getcwd())  # recipes import configs.common, whoever runs them
    try:
        rest = values([program, *argv])[1:]
    except ConfigError:
        raise
    except FileNotFoundError as error:
        raise ConfigError(f"--config: {error.filename or error} does not exist; {usage}") from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise ConfigError(f"the arguments cannot be used: {message} ({usage})") from error
    if rest:
        raise ConfigError(f"argument {rest[0]!r} is not known: {usage}")
    if not values.workdir:
        raise ConfigError(f"--workdir is empty: {usage}")
    return values.config, values.workdir


def _fail(error: AutoMixError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

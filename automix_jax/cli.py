"""The command line: `automix train`, which is also `main.py`, and its companions."""

import argparse
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import NoReturn

from automix_jax import config as config_lib
from automix_jax import recipes
from automix_jax.commands import COMMANDS
from automix_jax.errors import AutoMixError, ConfigError, Stopped, did_you_mean
from automix_jax.train.stop import leave

_TRAIN_HELP = """\
Trains a classifier, with AutoMix or a plain mixup, or goes on with the run of a folder.

    {program} --config=CONFIG.py[:ARGUMENT] --workdir=DIR [--config.FIELD=VALUE ...]

    --config    a recipe: see configs/. The argument chooses a variant of it,
                method=NAME, epochs=N, variant=paper|released, recipe=NAME:
                --config=configs/cifar10_r18.py:method=mixup,epochs=200
                Methods: {methods}.
    --workdir   the run's folder: configuration, checkpoints, metrics, pictures, summary.
                The same command goes on where an interrupted run stopped.
    --override  lets fields that the run was started with change: epochs, learning rates, where
                the data lies and a few more; changes.jsonl in the folder keeps them
    --allow-fresh
                begins again if every checkpoint in the folder is damaged
    --profile   writes a trace of ten steps to DIR/profile, for TensorBoard, XProf or
                https://ui.perfetto.dev
    --coordinator=HOST:PORT --num-processes=N --process-id=I
                one of N processes that train together: see docs/distributed.md. SLURM, TPU pods
                and Open MPI are recognised without it.
    --config.FIELD=VALUE
                overrides a field, such as --config.data.path=/data/cifar10,
                --config.batch_size=256, --config.optimizer.lr=0.2, --config.seed=1.
                automix_jax/config.py lists and explains all of them. The method is better
                chosen by method= above, which also sets its alpha and its teacher.

Try it, with the embedded images, in a few minutes on a CPU:

    {program} --config=configs/quickstart.py --workdir=runs/quickstart

SIGTERM and Ctrl-C finish the step and save; a second one ends the process at once.

Exit codes: 0 done, 2 usage or configuration, 64 data, 65 numbers, 66 checkpoint or workdir,
67 weights, 68 memory, 130 Ctrl-C, 143 SIGTERM.
"""
_HELP = """\
automix COMMAND [ARGUMENTS]

    train            trains a classifier
    configs          lists the recipes, prints one, or compares two
    data             prepares the published datasets, and checks any
    import-weights   reads a .safetensors or .pth file of torchvision or timm
    export           writes a trained run as .safetensors, .pth, Detectron2 .pkl or StableHLO
    sweep            trains several methods and compares them
    reproduce        trains a table or figure of the paper, the published numbers beside
    supermix         mixes a run's images with SuperMix, beforehand
    evaluate         judges a trained run: calibration, corruptions, attacks, localisation, mixes
    report           writes one HTML page of a run, or one that compares several
    visualize        draws what methods and networks do with images

`automix COMMAND --help` says more.
"""
INTERRUPTED = 130


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
        if command not in COMMANDS:
            known = ("train", *COMMANDS)
            hint = did_you_mean(command, known)
            raise ConfigError(f"command {command!r} is not known.{hint} Use {', '.join(known)}.")
        return COMMANDS[command](arguments)
    except AutoMixError as error:
        return _fail(error)
    except KeyboardInterrupt:
        goes_on = argv[0] in ("evaluate", "reproduce", "sweep")
        goes_on |= argv[:2] in (["data", "prepare"], ["data", "corrupt"])
        what = "the same command goes on" if goes_on else "what was not finished is not there"
        print(f"interrupted; {what}.", file=sys.stderr)
        return INTERRUPTED


def train(argv: Sequence[str], program: str = "python main.py") -> int:
    """Runs training from command-line arguments; returns the exit code."""
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
        methods = textwrap.fill(", ".join(config_lib.METHODS), 68).replace("\n", f"\n{' ' * 25}")
        print(_TRAIN_HELP.format(program=program, methods=methods), end="")
        return 0
    try:
        flags, overrides = _parse(argv, program)
        config = recipes.override(recipes.load_config(flags.config), overrides)
        from automix_jax.train import cluster
        from automix_jax.train.stop import Stop

        with Stop() as stop:
            cluster.start(flags.coordinator, flags.num_processes, flags.process_id)
            from automix_jax.train.loop import Options
            from automix_jax.train.loop import train as run

            options = Options(stop, flags.allow_fresh, flags.override, flags.profile)
            run(config, flags.workdir, options)
    except AutoMixError as error:
        return _fail(error)
    except KeyboardInterrupt:  # before signals are answered
        return INTERRUPTED
    except Exception:
        # Python would end in an orderly way, and of several processes wait for the others for ever.
        traceback.print_exc()
        return 1
    return 0


def run() -> NoReturn:
    """The program `automix`."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # who reads it, such as `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    leave(code)


def _parse(argv: Sequence[str], program: str) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for flag in ("config", "workdir"):
        parser.add_argument(f"--{flag}", default="")
    for flag in ("override", "allow-fresh", "profile"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    try:
        known, overrides = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; see {program} --help.") from error
    for flag in ("config", "workdir"):
        if not getattr(known, flag):
            raise ConfigError(f"--{flag} is missing: see {program} --help.")
    return known, overrides


def _fail(error: AutoMixError) -> int:
    prefix = "" if isinstance(error, Stopped) else "error: "
    sys.stderr.write(f"{prefix}{error}\n")  # at once: other threads may be writing too
    return error.exit_code


if __name__ == "__main__":
    run()

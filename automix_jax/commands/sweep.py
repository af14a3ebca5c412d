"""`automix sweep` trains several times, `automix supermix` makes what is trained on."""

import shlex
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from automix_jax.commands.base import Parser, check_file, check_least, wide_console
from automix_jax.errors import ConfigError

_SWEEP_HELP = """\
Trains several methods from several seeds, and makes a table of their results: report.md, .csv,
.json and .tex in the folder, rewritten whenever a training has ended. The same command goes on
where it stopped: what has ended is not trained again, and what fails stops nothing else.

A recipe is that of `automix train`, with several methods joined by "+", or method=all for every one
that its network can train:

    automix sweep configs/quickstart.py:method=all,epochs=3 --out=runs/sweep
    automix sweep configs/cifar100_r18.py:method=mixup+cutmix+automix --config.data.path=DIR \\
        --seeds=3 --jobs=4 --out=runs/cifar100

--config.FIELD=VALUE sets a field of all of them, as for `automix train`. Another configuration is
another training, in a folder of its own: DIR/RECIPE-METHOD-sSEED-HASH, with what it says in
DIR/logs. DIR/results.jsonl has a line for each that has ended, DIR/failures.jsonl one for each
attempt that failed.

Each training is a process of its own. Of several at once (--jobs), each has one of the GPUs that
CUDA_VISIBLE_DEVICES names, in turn, and its share of the cores; a single one has all. A TPU serves
one process at a time.

Several commands may share DIR, from several machines or as a SLURM array, if its file system has
locks: each trains what no other does, and ends when all is trained. --shard splits the trainings
beforehand instead: --shard=$((SLURM_ARRAY_TASK_ID + 1))/$SLURM_ARRAY_TASK_COUNT in an array that
starts at 0.

AttentiveMix+ and SuperMix look at a trained network: that of the same recipe's vanilla run of the
same seed.

SIGTERM and Ctrl-C save what trains. Exit codes: 0 done, 1 if a training failed or an accuracy that
counts is missing, 130 Ctrl-C, 143 SIGTERM; those of `automix train` for what is wrong beforehand.
"""
_SUPERMIX_HELP = """\
Mixes the training images of a run with SuperMix, under the network that it has trained, and writes
them with the images themselves as an .npz, on which to train:

    automix supermix runs/vanilla --out=mixed.npz
    automix train --config=RECIPE.py:method=vanilla --config.data.name=npz \\
        --config.data.path=mixed.npz --workdir=runs/supermix

Only mixes in which the network sees both images are kept, with the class that it sees first.
"""


def sweep(argv: Sequence[str]) -> int:
    """Runs `automix sweep`; returns the exit code of `automix_jax.sweep.run.sweep`.

    Raises:
        AutoMixError: for arguments that cannot be used.
    """
    from automix_jax import recipes
    from automix_jax.sweep import run
    from automix_jax.sweep.rows import read_rows

    parser = Parser("sweep", _SWEEP_HELP)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE.py[:ARGUMENT]", help="see above")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the runs")
    add_sweep_options(parser)
    arguments, overrides = parser.parse_known_args(argv)
    check_sweep_options(arguments)
    rows = read_rows(
        arguments.recipes, lambda recipe: recipes.override(recipes.load_config(recipe), overrides)
    )
    return run.sweep(
        rows,
        arguments.out,
        seeds=arguments.seeds,
        jobs=arguments.jobs,
        shard=arguments.shard,
        console=wide_console(),
        command=shlex.join(["automix", "sweep", *argv]),
    )


def add_sweep_options(parser: Parser) -> None:
    """Adds what every command has that trains cells: --seeds, --jobs and --shard."""
    add = parser.add_argument
    add("--seeds", type=int, default=1, help="trials of each method (default: %(default)s)")
    add("--jobs", type=int, default=1, help="trainings at once (default: %(default)s)")
    add("--shard", type=_shard, metavar="I/N", help="train the I-th of N parts alone, I from 1 on")


def check_sweep_options(arguments: Namespace) -> None:
    """Raises a ConfigError for a number of trials or jobs that cannot be."""
    for name in ("seeds", "jobs"):
        value = getattr(arguments, name)
        if value < 1:
            raise ConfigError(f"--{name} is {value}: it must be 1 or more.")


def _shard(text: str) -> tuple[int, int]:
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise ArgumentTypeError(f"{text} is not I/N with I from 1 to N, such as 1/4")
    return int(part), int(count)


def supermix(argv: Sequence[str]) -> int:
    """Runs `automix supermix`.

    Raises:
        AutoMixError: for arguments or a run that cannot be used.
    """
    from automix_jax.train.supermix_data import generate

    parser = Parser("supermix", _SUPERMIX_HELP)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run")
    add("--out", required=True, type=Path, metavar="FILE.npz", help="to be written")
    add("--rounds", type=int, default=1, help="mixes of each image (default: %(default)s)")
    add("--batch-size", type=int, help="images mixed at once (default: 100, or all if fewer)")
    add("--grid", type=int, default=8, help="side of a mask in cells (default: %(default)s)")
    add("--sigma", type=float, default=1.0, help="of its smoothing (default: %(default)s)")
    add("--alpha", type=float, default=3.0, help="of the shares (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    options = vars(parser.parse_args(argv))
    check_least(options, rounds=1, batch_size=2, seed=0)
    check_file(options["out"], ".npz", "the images become an .npz file")
    run, out = options.pop("run"), options.pop("out")
    path = generate(run, out, **options)
    print(f"{path}  {path.stat().st_size:,} bytes")
    return 0

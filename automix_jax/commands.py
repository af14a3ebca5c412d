"""The commands of `automix` beside training: each reads its own arguments."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.models import list_models

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
_SWEEP_HELP = """\
Trains several methods one after the other and prints a table of their results, which is also kept
in results.json and results.md. Runs that have ended are not trained again, and one that fails stops
no other: the same command goes on where it stopped.

A recipe is that of `automix train`, with several methods joined by "+", or method=all for every one
that its network can train:

    automix sweep configs/quickstart.py:method=all,epochs=3 --out=runs/sweep
    automix sweep configs/cifar100_r18.py:method=mixup+cutmix+automix --config.data.path=DIR \\
        --out=runs/cifar100

--config.FIELD=VALUE sets a field of all of them, as for `automix train`; a folder that holds a run
with another configuration is an error.

AttentiveMix+ and SuperMix look at a trained network: that of the same recipe's vanilla run.
"""
_SUPERMIX_HELP = """\
Mixes the training images of a run with SuperMix, under the network that it has trained, and writes
them with the images themselves as an .npz, on which to train:

    automix supermix runs/vanilla --out=mixed.npz
    automix train --config=RECIPE.py:method=vanilla --config.data.name=npz \\
        --config.data.path=mixed.npz --workdir=runs/supermix

Only mixes in which the network sees both images are kept, with the class that it sees first.
"""


Command = Callable[[Sequence[str]], int]  # from arguments to the exit code


class Parser(argparse.ArgumentParser):
    """A parser of one command whose errors are one sentence."""

    def __init__(self, command: str, description: str):
        super().__init__(
            prog=f"automix {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises a ConfigError instead of leaving the process."""
        raise ConfigError(f"{message}; see {self.prog} --help.")


def run_one_of(
    commands: dict[str, Command], group: str, argv: Sequence[str], help_text: str
) -> int:
    """Runs `automix GROUP COMMAND ...`; without a command it prints the help, and returns 2.

    Raises:
        AutoMixError: for a command that is not known, and what the command raises.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text, end="")
        return 0 if argv else 2
    command, *arguments = argv
    if command not in commands:
        hint = did_you_mean(command, commands)
        raise ConfigError(
            f"command '{group} {command}' is not known.{hint} Use {', '.join(commands)}."
        )
    return commands[command](arguments)


def import_weights(argv: Sequence[str]) -> int:
    """Runs `automix import-weights`.

    Raises:
        AutoMixError: for arguments or a file that cannot be used.
    """
    from automix_jax import weights
    from automix_jax.weights.folder import read_file, sha256
    from automix_jax.weights.report import describe

    parser = Parser("import-weights", _IMPORT_HELP)
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
    return 0


def export(argv: Sequence[str]) -> int:
    """Runs `automix export`.

    Raises:
        AutoMixError: for arguments or a run that cannot be used.
    """
    from automix_jax.train import export as export_lib
    from automix_jax.train.trained import load_run

    parser = Parser("export", _EXPORT_HELP)
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
    return 0


def sweep(argv: Sequence[str]) -> int:
    """Runs `automix sweep`; returns 1 where a run failed or its loss did not fall.

    Raises:
        AutoMixError: for arguments that cannot be used.
    """
    from rich.console import Console

    from automix_jax import recipes
    from automix_jax.report import sweep as sweep_lib

    parser = Parser("sweep", _SWEEP_HELP)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE.py[:ARGUMENT]", help="see above")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the runs")
    arguments, overrides = parser.parse_known_args(argv)
    cells = sweep_lib.make_cells(
        arguments.recipes, lambda recipe: recipes.override(recipes.load_config(recipe), overrides)
    )
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out is {arguments.out}, which cannot be a folder ({error.strerror}): choose"
            " another."
        ) from error
    console = Console(highlight=False, soft_wrap=True)
    results = []
    for result in sweep_lib.run(cells, arguments.out, console):
        results.append(result)
        if result.error:
            console.print(f"failed: {result.error}", style="red", markup=False)
        sweep_lib.save(results, arguments.out)
    console.print(sweep_lib.table(results))
    for line in sweep_lib.complaints(results):
        console.print(line, style="red", markup=False)
    console.print(f"{arguments.out / 'results.json'}, results.md")
    return 0 if all(result.healthy for result in results) else 1


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


def check_least(options: dict[str, Any], **least: int) -> None:
    """Raises a ConfigError for an option below what it must be, or a seed that keys cannot hold."""
    for name, bound in least.items():
        flag = name.replace("_", "-")
        if options[name] is not None and options[name] < bound:
            raise ConfigError(f"--{flag} is {options[name]}: it must be {bound} or more.")
    if options["seed"] >= 2**32:
        raise ConfigError(f"--seed is {options['seed']}: it must be below {2**32}.")


def check_file(out: Path, suffix: str, what: str) -> None:
    """Raises a ConfigError for a file to be written that has another suffix, or no folder."""
    if out.suffix.lower() != suffix:
        raise ConfigError(f"--out is {out}: {what}, give FILE{suffix}.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out is {out}, but there is no folder {out.parent}: make it first.")


COMMANDS: dict[str, Command] = {
    "import-weights": import_weights,
    "export": export,
    "sweep": sweep,
    "supermix": supermix,
}

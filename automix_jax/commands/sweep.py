"""`automix sweep` trains several times, `automix supermix` makes what is trained on."""

from collections.abc import Sequence
from pathlib import Path

from automix_jax.commands.base import Parser, check_file, check_least
from automix_jax.errors import ConfigError

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

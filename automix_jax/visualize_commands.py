"""`automix visualize`: pictures of what the methods and the networks do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from automix_jax.commands import Parser, check_file, check_least
from automix_jax.errors import ConfigError, did_you_mean

_HELP = """\
automix visualize COMMAND [ARGUMENTS]

    mixups     what every method makes of the same images

`automix visualize COMMAND --help` says more.
"""
_MIXUPS_HELP = """\
Draws one picture of what the methods make of the same images at the same ratio, with the masks:

    automix visualize mixups --out=mixups.png
    automix visualize mixups --data=PHOTOS --size=224 --out=mixups.png
    automix visualize mixups --run=runs/quickstart --out=mixups.png

AutoMix is a trained module, and some methods look at a trained network: they are drawn with --run.
What can be drawn is all but the methods that mix inside the network, or look like another.
"""


def visualize(argv: Sequence[str]) -> int:
    """Runs `automix visualize COMMAND ...`; returns the exit code.

    Raises:
        AutoMixError: for arguments, data or a run that cannot be used.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if argv else 2
    command, *arguments = argv
    if command not in _COMMANDS:
        hint = did_you_mean(command, _COMMANDS)
        raise ConfigError(
            f"command 'visualize {command}' is not known.{hint} Use {', '.join(_COMMANDS)}."
        )
    return _COMMANDS[command](arguments)


def mixups(argv: Sequence[str]) -> int:
    """Runs `automix visualize mixups`.

    Raises:
        AutoMixError: for arguments, data or a run that cannot be used.
    """
    parser = Parser("visualize mixups", _MIXUPS_HELP)
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="FILE.png", help="to be written")
    add(
        "--data",
        metavar="DATA",
        help="a folder of pictures, or NAME[:PATH] as in config.data (default: the run's, or"
        " fashion_mnist_sample)",
    )
    add("--size", type=int, help="side of the images (default: 224 for a folder, else as stored)")
    add("--run", type=Path, help="the folder of a run")
    add("--lam", type=float, default=0.5, help="weight of the own image (default: %(default)s)")
    add("--pairs", type=int, default=4, help="images to mix (default: %(default)s)")
    add("--methods", metavar="A+B", help="in their order (default: all that can be drawn)")
    add("--seed", type=int, default=0, help="of images and draws (default: %(default)s)")
    options = vars(parser.parse_args(argv))
    _check_visualize(options)

    from automix_jax.report import gallery, mixes
    from automix_jax.train.trained import load_state

    out, asked, run = (options.pop(name) for name in ("out", "methods", "run"))
    run = load_state(run) if run else None
    methods, others = mixes.settle(None if asked is None else asked.split("+"), run)
    if others:
        reasons = (f"{', '.join(names)} ({reason})" for reason, names in others.items())
        print(f"not drawn: {'; '.join(reasons)}")
    width, height = gallery.draw(out, methods, run=run, **options)
    print(f"{out}  {width} x {height}, {out.stat().st_size:,} bytes")
    return 0


def _check_visualize(options: dict[str, Any]) -> None:
    """Raises a ConfigError for an argument that cannot work, before anything is read."""
    if not 0 <= options["lam"] <= 1:
        raise ConfigError(f"--lam is {options['lam']:g}: it must be from 0 to 1.")
    check_least(options, pairs=2, size=1, seed=0)
    check_file(options["out"], ".png", "the picture is a PNG")


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "mixups": mixups,
}

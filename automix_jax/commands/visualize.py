"""`automix visualize`: pictures of what the methods and the networks do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from automix_jax.commands.base import Command, Parser, check_file, check_least, run_one_of
from automix_jax.errors import ConfigError

_HELP = """\
automix visualize COMMAND [ARGUMENTS]

    mixups     what every method makes of the same images
    training   what a run made of the same images from epoch to epoch
    cam        what a network sees in mixed images or photographs, and where
    calibration
               accuracy against confidence of several runs, side by side

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

_TRAINING_HELP = """\
Draws what a run made of the same pairs of images at ratio one half, a column for each epoch:

    automix visualize training runs/quickstart --out=training.png
    automix visualize training runs/quickstart --out=training.png --epochs=1,3,6 --pairs=2

A run keeps them every config.run.sample_epochs epochs, in its folder samples. Beside the picture,
a JSON file of its name says for all of them how large and how uniform the masks were.
"""
_CAM_HELP = """\
Draws what a network sees, and where: the two classes that it finds likeliest in each image, each
with the map of what speaks for it, laid over the image.

    automix visualize cam --run=runs/quickstart --out=cam.png
    automix visualize cam --run=runs/cub --methods=mixup+cutmix+automix --pairs=2 --out=cam.png

shows the network of a run images, and what every method makes of them: a good mix is one in which
it sees the classes of both images, each where it is.

    automix import-weights mobilenet_v2-b0353104.pth --model mobilenet_v2 --out=mobilenet
    automix visualize cam --weights=mobilenet --photos=FOLDER --classes=NAMES.txt --out=cam.png

shows photographs to a network that was trained on ImageNet.

--method is cam where the network's head reads the mean of a map (all but ConvNeXt and DeiT), or
else gradcam; layercam is finer in early layers. --layer is a feature map, as in stage3, or a path
such as block12/norm1 or stage4_block2/conv2; a name that is not known lists what there is.

Beside FILE.png come FILE.json, which classes, and FILE.npz, the images and maps.
"""
_CALIBRATION_HELP = """\
Draws the accuracy of several runs against their confidence, a panel for each, from what
`automix evaluate --suite=calibration` has measured of them:

    automix visualize calibration runs/mixup runs/cutmix runs/automix --out=calibration.png

Beside FILE.png comes FILE.svg.
"""
# What cam takes with --run alone, with --weights alone, and with both.
_OF_A_RUN = ("data", "methods", "lam", "network", "head")
_OF_PHOTOS = ("photos", "classes")
_OF_BOTH = ("size", "seed", "method", "layer")


def visualize(argv: Sequence[str]) -> int:
    """Runs `automix visualize COMMAND ...`; returns the exit code.

    Raises:
        AutoMixError: for arguments, data or a run that cannot be used.
    """
    return run_one_of(_COMMANDS, "visualize", argv, _HELP)


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

    from automix_jax.report import gallery
    from automix_jax.train.trained import load_state

    out, asked, run = (options.pop(name) for name in ("out", "methods", "run"))
    run = load_state(run) if run else None
    width, height = gallery.draw(out, _settle(asked, run), run=run, **options)
    print(f"{out}  {width} x {height}, {out.stat().st_size:,} bytes")
    return 0


def training(argv: Sequence[str]) -> int:
    """Runs `automix visualize training`.

    Raises:
        AutoMixError: for arguments or a run that cannot be used.
    """
    parser = Parser("visualize training", _TRAINING_HELP)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run")
    add("--out", required=True, type=Path, metavar="FILE.png", help="to be written")
    add("--epochs", metavar="A,B", help="(default: up to ten, from the first to the last)")
    add("--pairs", type=int, default=4, help="pairs of images, up to 6 (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.pairs < 1:
        raise ConfigError(f"--pairs is {options.pairs}: it must be 1 or more.")
    check_file(options.out, ".png", "the picture is a PNG")

    from automix_jax.report import training_pictures

    epochs = None if options.epochs is None else _numbers("--epochs", options.epochs)
    run = options.run.expanduser()
    width, height = training_pictures.draw(run, options.out, epochs, options.pairs)
    print(f"{options.out}  {width} x {height}, {options.out.stat().st_size:,} bytes")
    print(options.out.with_suffix(".json"))
    return 0


def cam(argv: Sequence[str]) -> int:
    """Runs `automix visualize cam`.

    Raises:
        AutoMixError: for arguments, data, a run or weights that cannot be used.
    """
    parser = Parser("visualize cam", _CAM_HELP)
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="FILE.png", help="to be written")
    add("--run", type=Path, help="the folder of a run")
    add("--data", metavar="DATA", help="as for mixups (default: the run's)")
    add("--methods", metavar="A+B", help="in their order (default: all that can be drawn)")
    add("--lam", type=float, help="weight of the own image (default: 0.5)")
    add("--network", choices=("student", "teacher"), help="of the run (default: student)")
    add("--head", choices=("mix", "clean"), help="of the run (default: mix)")
    add("--weights", type=Path, metavar="DIR", help="made by `automix import-weights`")
    add("--photos", type=Path, metavar="FOLDER", help="of photographs")
    add("--classes", type=Path, metavar="FILE", help="names, one a line (default: numbers)")
    add("--size", type=int, help="side of the images (default: what the network was trained on)")
    add("--pairs", type=int, default=4, help="images to show (default: %(default)s)")
    add("--seed", type=int, default=0, help="of images and draws (default: %(default)s)")
    add("--method", choices=("cam", "gradcam", "layercam"), help="(default: see above)")
    add("--layer", metavar="NAME", help="of gradcam and layercam (default: the last)")
    options = vars(parser.parse_args(argv))
    _check_cam(options)
    out, same = options["out"], {name: options[name] for name in _OF_BOTH}
    draw = _draw_photos if options["run"] is None else _draw_run
    width, height = draw(out, options, same)
    print(f"{out}  {width} x {height}, {out.stat().st_size:,} bytes")
    print(out.with_suffix(".json"))
    print(out.with_suffix(".npz"))
    return 0


def calibration(argv: Sequence[str]) -> int:
    """Runs `automix visualize calibration`.

    Raises:
        AutoMixError: for arguments or runs that cannot be used.
    """
    parser = Parser("visualize calibration", _CALIBRATION_HELP)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run")
    add("--out", required=True, type=Path, metavar="FILE.png", help="to be written")
    add("--network", choices=("student", "teacher"), help="default: the headline's")
    add("--head", choices=("mix", "clean"), help="default: the headline's")
    options = parser.parse_args(argv)
    check_file(options.out, ".png", "the picture is a PNG")

    from automix_jax.report.comparison import draw_calibrations

    runs = [run.expanduser() for run in options.runs]
    stem = options.out.with_suffix("")
    for path in draw_calibrations(runs, stem, options.network, options.head):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


def _draw_run(out: Path, options: dict[str, Any], same: dict[str, Any]) -> tuple[int, int]:
    """Draws what a run's network sees in mixed images."""
    from automix_jax.report import cam_pictures
    from automix_jax.train.trained import load_with_state

    network, head = options["network"] or "student", options["head"] or "mix"
    run, trained = load_with_state(options["run"], network=network, head=head)
    return cam_pictures.draw_mixes(
        out,
        _settle(options["methods"], run),
        run,
        trained,
        options["data"],
        lam=0.5 if options["lam"] is None else options["lam"],
        pairs=options["pairs"],
        **same,
    )


def _draw_photos(out: Path, options: dict[str, Any], same: dict[str, Any]) -> tuple[int, int]:
    """Draws what an imported network sees in photographs."""
    from automix_jax import weights
    from automix_jax.report import cam_pictures

    names = options["classes"].read_text().splitlines() if options["classes"] else None
    pretrained = weights.load(options["weights"])
    return cam_pictures.draw_photos(
        out, options["photos"], pretrained, names, count=options["pairs"], **same
    )


def _settle(asked: str | None, run: Any) -> list[str]:
    """The methods to draw, for --methods; says which are not."""
    from automix_jax.report import mixes

    methods, others = mixes.settle(None if asked is None else asked.split("+"), run)
    if others:
        reasons = (f"{', '.join(names)} ({reason})" for reason, names in others.items())
        print(f"not drawn: {'; '.join(reasons)}")
    return methods


def _numbers(flag: str, text: str) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{flag} is {text!r}: give whole numbers, such as 1,5,10.") from error


def _check_visualize(options: dict[str, Any]) -> None:
    """Raises a ConfigError for an argument that cannot work, before anything is read."""
    if not 0 <= options["lam"] <= 1:
        raise ConfigError(f"--lam is {options['lam']:g}: it must be from 0 to 1.")
    check_least(options, pairs=2, size=1, seed=0)
    check_file(options["out"], ".png", "the picture is a PNG")


def _check_cam(options: dict[str, Any]) -> None:
    """Raises a ConfigError for an argument that cannot work, before anything is read."""
    if (options["run"] is None) == (options["weights"] is None):
        raise ConfigError("give either --run, or --weights with --photos; see --help.")
    ours, others = ("weights", _OF_A_RUN) if options["run"] is None else ("run", _OF_PHOTOS)
    for name in others:
        if options[name] is not None:
            raise ConfigError(f"--{name} does not go with --{ours}: leave it out; see --help.")
    if options["run"] is None:
        for name, what in (("weights", "folder"), ("photos", "folder"), ("classes", "file")):
            path = options[name]
            if path is None and name == "photos":
                raise ConfigError("--weights needs --photos: give a folder of photographs.")
            if path is not None and not (path.is_dir() if what == "folder" else path.is_file()):
                raise ConfigError(f"--{name} is {path}, where there is no {what}: correct it.")
    elif options["lam"] is not None and not 0 <= options["lam"] <= 1:
        raise ConfigError(f"--lam is {options['lam']:g}: it must be from 0 to 1.")
    check_least(options, pairs=1 if options["run"] is None else 2, size=1, seed=0)
    check_file(options["out"], ".png", "the picture is a PNG")


_COMMANDS: dict[str, Command] = {
    "mixups": mixups,
    "training": training,
    "cam": cam,
    "calibration": calibration,
}

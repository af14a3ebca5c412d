"""`automix data`: looks at datasets, prepares the published ones, and corrupts test images."""

from collections.abc import Sequence

from automix_jax.commands.base import Command, Parser, run_one_of
from automix_jax.commands.corrupt import corrupt_command, verify_command

_HELP = """\
automix data COMMAND [ARGUMENTS]

    list      the datasets that can be prepared, where to download them and how large they are
    prepare   makes the archives of a dataset, as downloaded, a folder to train from
    check     says what is wrong with a dataset before it is trained on
    corrupt   writes the test images of a dataset corrupted in 19 ways, as CIFAR-10-C
    verify-c  compares a published set such as CIFAR-10-C with what we make of the same images

`automix data COMMAND --help` says more.
"""
_PREPARE_HELP = """\
Reads the official archives of a dataset, as downloaded, and writes a folder to train from, in the
form of TFDS (ArrayRecord), which other programs read too:

    automix data prepare imagenet --source=/downloads --out=/data/imagenet
    automix train --config=configs/imagenet_r50.py --config.data.path=/data/imagenet ...

Nothing is extracted, and the images stay as they are, byte for byte. An archive may also have been
extracted already. Its checksum is compared with the published one; of what is extracted the images
are counted. The same command goes on where an interrupted one stopped, and does nothing where it
is done. Images that cannot be read are kept and listed in bad_records.jsonl: training passes them
over, and says so.

`automix data list` says which archives a dataset needs, and from where.
"""
_LIST_HELP = """\
Prints the datasets that can be prepared, with their archives: put these into one folder, under
these names, and run `automix data prepare NAME --source=FOLDER --out=DIR`.
"""


def data(argv: Sequence[str]) -> int:
    """Runs `automix data COMMAND ...`; returns the exit code.

    Raises:
        AutoMixError: for arguments or data that cannot be used.
    """
    return run_one_of(_COMMANDS, "data", argv, _HELP)


def prepare_command(argv: Sequence[str]) -> int:
    """Runs `automix data prepare`.

    Raises:
        AutoMixError: for arguments or archives that cannot be used.
    """
    from automix_jax.data.prepare import format_size, list_preparers, prepare

    parser = Parser("data prepare", _PREPARE_HELP)
    add = parser.add_argument
    names = ", ".join(preparer.name for preparer in list_preparers())
    add("name", metavar="NAME", help=f"of the dataset: {names}")
    add("--source", required=True, metavar="DIR", help="folder of the archives, or one archive")
    add("--out", required=True, metavar="DIR", help="folder to be made, or to be gone on with")
    add(
        "--unverified",
        action="store_true",
        help="accept archives that are not the official ones, and compute no checksum",
    )
    options = vars(parser.parse_args(argv))
    done = prepare(options.pop("name"), options.pop("source"), options.pop("out"), **options)
    counts = ", ".join(f"{count:,} {split} images" for split, count in done.counts.items())
    print(f"{done.out}  {counts} of {done.num_classes:,} classes, {format_size(done.size)}")
    if not done.written:
        print("it was complete already: nothing was read or written")
    if done.warning:
        print(f"warning: {done.warning}")
    if done.bad:
        print(f"warning: {done.bad:,} images cannot be read; {done.bad_records} names them")
    print(f"train with --config.data.name={done.name} --config.data.path={done.out}")
    return 0


def list_command(argv: Sequence[str]) -> int:
    """Runs `automix data list`.

    Raises:
        ConfigError: for arguments that cannot be used.
    """
    from automix_jax.data.prepare import format_size, list_preparers

    Parser("data list", _LIST_HELP).parse_args(argv)
    print(f"{'name':<14}{'classes':>8}{'training':>11}{'test':>9}{'size':>9}")
    for preparer in list_preparers():
        train, test = preparer.counts.values()
        size = format_size(preparer.size)
        print(f"{preparer.name:<14}{preparer.num_classes:>8,}{train:>11,}{test:>9,}{size:>9}")
        print(f"    {preparer.archives}")
        print(f"    {preparer.page}")
    return 0


def check_command(argv: Sequence[str]) -> int:
    """Runs `automix data check`; its exit code says what was found.

    Raises:
        ConfigError: for arguments that cannot be used.
    """
    from automix_jax.data import check

    return check.check_command(argv)


_COMMANDS: dict[str, Command] = {
    "list": list_command,
    "prepare": prepare_command,
    "check": check_command,
    "corrupt": corrupt_command,
    "verify-c": verify_command,
}

"""`automix data check`: says what is wrong with a dataset before a run meets it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from automix_jax.data.check.findings import Finding, find_all
from automix_jax.data.check.recognize import open_path
from automix_jax.data.check.report import Report, bad_lines, describe, to_json
from automix_jax.data.check.scan import scan
from automix_jax.data.dataset import DataFaults
from automix_jax.data.sources import is_prepared, list_datasets, open_dataset
from automix_jax.errors import ConfigError, DataError

_BAD_RECORDS = "bad_records.jsonl"
_HELP = """\
Looks at a dataset before it is trained on: how many images and classes there are, how large they
are, which cannot be read, which are there twice or in both splits, and whether the labels fit.

    automix data check photos                      train/CLASS/*.jpg and test/CLASS/*.jpg, or
                                                   CLASS/*.jpg
    automix data check photos.csv --deep           path,label or path,label,split
    automix data check cifar-10-python.tar.gz      also .npz, and folders of automix data prepare

Nothing is written but what --json asks for, and no image can make this fail: what is wrong with it
is one line of the report. Without --deep the headers of the images are read, which finds what is no
image; with it all of them are decoded, which also finds those that end too early, and compares
their pixels. A photograph takes about 10 ms of a core.

Exit codes: 0 nothing is wrong; 1 there are warnings, and training is possible; 64 there are faults,
and training is refused or makes no sense. 2 is a wrong argument.
"""


def check(path: Path, name: str | None = None, deep: bool = False) -> Report:
    """Looks at all of a dataset; no image of it can make this fail.

    Args:
        path: file or folder, as for `open_dataset`.
        name: of the dataset, as for `open_dataset`; None to find out.
        deep: decode every image; else only headers are read, and those files whole that could
          be the same.

    Raises:
        DataError: if the disk or the system fails meanwhile.
    """
    try:
        kind, dataset = (name, open_dataset(name, path)) if name else open_path(path)
    except DataError as error:
        faults = error.faults if isinstance(error, DataFaults) else (str(error),)
        return Report(str(path), "", deep, (), {}, tuple(Finding("fault", f) for f in faults))
    train = scan(dataset, dataset.train, "training images", deep)
    test = scan(dataset, dataset.test, "test images", deep)
    findings = find_all(dataset, path, train, test, deep)
    scans = {"train": train, "test": test}
    return Report(str(path), kind, deep, dataset.class_names, scans, tuple(findings))


def check_command(argv: Sequence[str]) -> int:
    """Runs `automix data check`; returns the report's exit code.

    Raises:
        ConfigError: for arguments that cannot be used.
    """
    from automix_jax.commands.base import Parser

    parser = Parser("data check", _HELP)
    add = parser.add_argument
    add("path", type=Path, metavar="PATH", help="file or folder of the data")
    add(
        "--name",
        metavar="NAME",
        help=f"as in config.data.name, where PATH does not tell: {', '.join(list_datasets())}",
    )
    add("--deep", action="store_true", help="decode every image")
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"write all of the report, and beside it {_BAD_RECORDS}, the unreadable images",
    )
    arguments = parser.parse_args(argv)
    if arguments.json:
        _check_json(arguments.json)
    report = check(arguments.path.expanduser(), arguments.name, arguments.deep)
    encoding = sys.stdout.encoding or "utf-8"
    print(describe(report).encode(encoding, "backslashreplace").decode(encoding))
    if arguments.json:
        _write(arguments.json, report)
    return report.exit_code


def _check_json(file: Path) -> None:
    """Raises a ConfigError for a folder that is missing, or keeps such a list of its own."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"--json is {file}, but there is no folder {folder}: make it first.")
    if is_prepared(folder) or (folder / "config.json").is_file():
        raise ConfigError(
            f"--json is {file}, but the folder {folder} is that of a run or a dataset, whose "
            f"{_BAD_RECORDS} is not to be touched: choose another folder."
        )


def _write(file: Path, report: Report) -> None:
    try:
        file.write_text(to_json(report), encoding="ascii")
        (file.parent / _BAD_RECORDS).write_text(bad_lines(report), encoding="ascii")
    except OSError as error:
        raise ConfigError(
            f"--json is {file}, which cannot be written ({error.strerror}): choose another."
        ) from error

"""Writes pages, and nothing over what is no page."""

from collections.abc import Sequence
from pathlib import Path

from automix_jax.errors import ConfigError
from automix_jax.report.html.comparison import make_comparison
from automix_jax.report.html.folder import read_run
from automix_jax.report.html.frame import MARK
from automix_jax.report.html.page import make_page
from automix_jax.train.workdir import write_atomically

_BEGINNING = 1000  # bytes, within which a page says that it is one


def write_report(runs: Sequence[Path], out: Path, *, force: bool = False) -> list[str]:
    """Writes the page of a run, or one that compares several.

    Args:
        runs: folders of runs.
        out: of the page; its folder exists.
        force: writes over a file that is no such page.

    Returns:
        Sentences on what is wrong with the runs' folders; the page has them, too.

    Raises:
        CheckpointError: if a folder is not that of a run.
        ConfigError: if a run is given twice, or the page cannot be written.
    """
    if not force:
        _check_replaceable(out)
    read = [read_run(run) for run in runs]
    page = make_page(read[0]) if len(read) == 1 else make_comparison(read)
    try:
        write_atomically(out, page.html)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written ({error.strerror or error}): choose another --out."
        ) from error
    return page.notes


def _check_replaceable(out: Path) -> None:
    """Raises a ConfigError if there is something that is not a page of before."""
    try:
        with out.open("rb") as file:
            known = MARK.encode() in file.read(_BEGINNING)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written ({error.strerror or error}): choose another --out."
        ) from error
    if not known:
        raise ConfigError(
            f"{out} exists and is no page of `automix report`: choose another --out, or give"
            " --force to replace it."
        )

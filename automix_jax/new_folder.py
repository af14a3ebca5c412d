"""A folder that appears whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from automix_jax.errors import WeightsError


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yields a folder to write into, which takes the name `path` when the block ends well.

    Args:
        path: of the folder; must not exist, or be empty. "~" is expanded.

    Raises:
        WeightsError: if there is something already, or it cannot be written.
    """
    path = Path(path).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise WeightsError(f"{path} exists and is not an empty folder: choose another.")
    try:
        beside = next(parent for parent in path.parents if parent.exists())
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=beside))
        try:
            temporary.chmod(0o755)
            yield temporary
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)  # over an empty folder too
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written ({error.strerror or error}): choose another."
        ) from error

"""One run at a time in a folder."""

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from automix_jax.errors import CheckpointError

_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of file systems without locks


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps a folder for this process while the block runs.

    The kernel holds the lock and lets it go with the process, however that ends: one that is killed
    leaves a file behind, WORKDIR/lock, but no lock.

    Raises:
        CheckpointError: if another process has it, with its number, host and time.
    """
    path = workdir / "lock"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _open(path, workdir)
    except OSError as error:
        raise CheckpointError(
            f"{workdir} cannot be used ({error.strerror}): choose another."
        ) from error
    with file:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _open(path: Path, workdir: Path) -> TextIO:
    """The file, open and locked."""
    while True:
        file = path.open("a+")
        try:
            _take(file, workdir)
            # Whoever had it may have deleted it since it was opened.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _take(file: TextIO, workdir: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, where JAX trains on CPU alone
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CheckpointError(
            f"{workdir} is in use by {_holder(file)}: wait for its end, or choose another."
        ) from error
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        sys.stderr.write(
            f"the file system of {workdir} has no locks: make sure that no other run uses it.\n"
        )


def _holder(file: TextIO) -> str:
    """Who holds the lock, as far as the file says it."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # between taking the lock and signing
        return "another process"

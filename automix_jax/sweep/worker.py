"""The process that trains one cell: `python -m automix_jax.sweep.worker`.

It reads its task from the standard input, a line of JSON, and takes the end of that input as the
request to save and stop: whoever has started it closes it, or is gone.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

from automix_jax.errors import AutoMixError, Stopped
from automix_jax.train.stop import Stop, leave

BUSY = 75  # exit code: another process trains the cell
# Seconds before a request is heeded: where a scheduler sends a signal to every process of a job,
# this one has had it already, and a second one would end it unsaved.
_SETTLE = 0.5
_STDIN = 0


def main() -> int:
    """Trains the cell of the task; returns the exit code."""
    task = _read_task()
    if task is None:  # whoever was about to write it is gone
        return 128 + signal.SIGTERM
    try:
        with Stop() as stop:
            threading.Thread(target=_watch, args=(stop,), daemon=True).start()
            if task["cores"]:  # which JAX, and the processes that read images, divide among them
                os.sched_setaffinity(0, task["cores"])
            from automix_jax.sweep.training import run

            return 0 if run(task, stop) else BUSY
    except AutoMixError as error:
        prefix = "" if isinstance(error, Stopped) else "error: "
        print(f"{prefix}{error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # a defect; the log has where
        traceback.print_exc()
        reason = str(error).partition("\n")[0]
        print(f"error: {type(error).__name__}: {reason}", file=sys.stderr)
        return 1


def _read_task() -> dict[str, Any] | None:
    """The first line of the input; not by `sys.stdin`, whose lock a waiting thread would keep."""
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(_STDIN, 1 << 16)
        if not part:
            return None
        text += part
    return json.loads(text)


def _watch(stop: Stop) -> None:
    """Asks this process to stop at the end of its input, unless that was done."""
    while os.read(_STDIN, 1):
        pass
    time.sleep(_SETTLE)
    if stop.signal is None:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    leave(main())

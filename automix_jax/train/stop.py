"""Requests to stop: SIGTERM, as schedulers send it, and SIGINT, as Ctrl-C does."""

import os
import signal
import socket
import sys
import threading
from types import FrameType, TracebackType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 27.0  # seconds to finish a step and save; schedulers often kill after 30


class Stop:
    """What the process was asked to do, for a training loop to look at between steps.

    As a context it answers SIGTERM and SIGINT. The first sets `signal`, and the loop has `GRACE`
    seconds to finish its step and save. The second, or one that comes while there is nothing to
    finish (`idle`), or the end of the grace, ends the process at once, with exit code 128 + signal:
    a checkpoint appears whole or not at all, so nothing is harmed by it.

    A thread answers, since Python's own handlers wait for whatever compiled code is running, such
    as the compilation of a step.

    Attributes:
        signal: that has arrived, or None.
        idle: whether nothing has been done that is worth saving.
    """

    def __init__(self, grace: float = GRACE):
        """Prepares; signals are answered inside the context."""
        self.signal: int | None = None
        self.idle = True
        self._grace = grace
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "Stop":
        """Begins to answer signals; in the main thread."""
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = {number: signal.signal(number, _ignore) for number in _SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Puts the handlers of before back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._writer.close()  # which ends the thread
        self._thread.join()
        if self._timer is not None:
            self._timer.cancel()

    def _answer(self) -> None:
        with self._reader:
            while numbers := self._reader.recv(16):
                for number in numbers:
                    if number in _SIGNALS:
                        self._receive(number)

    def _receive(self, number: int) -> None:
        if self.idle:
            self.leave(number, "interrupted; nothing had to be saved")
        elif self.signal is not None:
            self.leave(number, "interrupted again; what was not saved yet is lost")
        else:
            self.signal = number
            late = "not saved in time; the last checkpoint is whole"
            self._timer = threading.Timer(self._grace, self.leave, (number, late))
            self._timer.daemon = True
            self._timer.start()

    def leave(self, number: int, why: str) -> None:
        """Ends the process here and now."""
        sys.stderr.write(f"{why}: the same command goes on.\n")
        sys.stderr.flush()
        os._exit(128 + number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """What Python's handler does; the thread hears of the signal by itself."""


def leave(code: int) -> NoReturn:
    """Ends the process.

    Where it was interrupted it ends at once: threads that still compile what nobody waits for would
    crash in a Python that is ending. So does one of several processes that fails: it would wait for
    the others, which wait for it.
    """
    import jax

    if code > 128 or (code and jax.distributed.is_initialized()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

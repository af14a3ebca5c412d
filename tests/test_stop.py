"""Requests to stop, and one run at a time in a folder."""

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from automix_jax.errors import CheckpointError
from automix_jax.train.lock import locked
from automix_jax.train.stop import Stop

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def until(condition):
    """Waits for what a thread does."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def left(monkeypatch):
    """The signals for which the process would have ended."""
    numbers = []
    monkeypatch.setattr(Stop, "leave", lambda self, number, why: numbers.append(number))
    return numbers


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_a_request_and_the_second_is_final(left, number):
    before = signal.getsignal(number)
    with Stop() as stop:
        stop.idle = False
        os.kill(os.getpid(), number)
        until(lambda: stop.signal == number)
        assert not left
        os.kill(os.getpid(), number)
        until(lambda: left)
    assert left == [number]
    assert signal.getsignal(number) is before


def test_with_nothing_to_save_the_first_ends_the_process(left):
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: left)
    assert left == [signal.SIGTERM] and stop.signal is None


def test_who_does_not_finish_in_time_is_ended(left):
    with Stop(grace=0.05) as stop:
        stop.idle = False
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: left)
    assert stop.signal == signal.SIGTERM


def test_who_has_left_in_time_lives_on(left):
    with Stop(grace=0.05) as stop:
        stop.idle = False
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: stop.signal)
    time.sleep(0.1)
    assert not left


def test_signals_are_heard_while_compiled_code_runs(monkeypatch):
    """Python's own handlers would wait for it."""
    heard = []
    monkeypatch.setattr(Stop, "leave", lambda self, number, why: heard.append(time.monotonic()))
    with Stop():
        sender = subprocess.Popen(["sh", "-c", f"sleep 0.1; kill -TERM {os.getpid()}"])
        end = time.monotonic() + 10
        while not heard and time.monotonic() < end:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)  # a while, in one call
            returned = time.monotonic()
        assert heard[0] < returned
        sender.wait()


def test_other_signals_change_nothing(left):
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
        assert not left and stop.signal is None
    finally:
        signal.signal(signal.SIGUSR1, before)


# -- the lock ------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from automix_jax.train.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        message = rf"in use by process {holder.pid} on \S+ since .*: wait for its end, or choose"
        with pytest.raises(CheckpointError, match=message), locked(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f'{{"pid": {os.getpid()},')
    assert not (tmp_path / "lock").exists()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys, code):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "run"):
        pass
    assert "has no locks: make sure that no other run uses it" in capsys.readouterr().err


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"file/run cannot be used \(Not a directory\)"
    with pytest.raises(CheckpointError, match=message), locked(tmp_path / "file/run"):
        pass

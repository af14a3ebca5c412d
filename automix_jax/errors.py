"""The exceptions a user can meet: one sentence with the remedy, and an exit code."""

import difflib
from collections.abc import Iterable


class AutoMixError(Exception):
    """Base of every error that is the user's to mend; `exit_code` is the command's."""

    exit_code = 1


class ConfigError(AutoMixError, ValueError):
    """A config field, flag or argument that cannot work."""

    exit_code = 2


class DataError(AutoMixError):
    """Data that is missing, unreadable or inconsistent."""

    exit_code = 64


class ImageError(DataError):
    """One image that cannot be read."""


class NumbersError(AutoMixError):
    """A loss or parameter that is no longer finite."""

    exit_code = 65


class CheckpointError(AutoMixError):
    """A checkpoint or run folder that cannot be used as asked."""

    exit_code = 66


class WeightsError(AutoMixError):
    """A file of weights that cannot be used as asked."""

    exit_code = 67


class MemoryLimitError(AutoMixError):
    """A training step that does not fit into memory, however small its parts."""

    exit_code = 68


class Stopped(AutoMixError):
    """The process was asked to stop by a signal, and has saved; the exit code is the signal's."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """A hint for an error message, with a space before it; empty where nothing is near."""
    close = difflib.get_close_matches(value, tuple(known), 1)
    return f" Did you mean {close[0]!r}?" if close else ""

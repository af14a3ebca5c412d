"""The exceptions a user can meet: one sentence with the remedy, and an exit code."""


class AutoMixError(Exception):
    """Base of every error that is the user's to mend; `exit_code` is the command's."""

    exit_code = 1


class ConfigError(AutoMixError, ValueError):
    """A config field, flag or argument that cannot work."""

    exit_code = 2


class DataError(AutoMixError):
    """Data that is missing, unreadable or inconsistent."""

    exit_code = 64


class NumbersError(AutoMixError):
    """A loss or parameter that is no longer finite."""

    exit_code = 65


class CheckpointError(AutoMixError):
    """A checkpoint or run folder that cannot be used as asked."""

    exit_code = 66

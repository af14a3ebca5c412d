"""What all commands have in common: how they read arguments, and say what is wrong with them."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from automix_jax.errors import ConfigError, did_you_mean

Command = Callable[[Sequence[str]], int]  # from arguments to the exit code
_WIDTH = 160  # of tables that no screen cuts


class Parser(argparse.ArgumentParser):
    """A parser of one command whose errors are one sentence."""

    def __init__(self, command: str, description: str):
        super().__init__(
            prog=f"automix {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises a ConfigError instead of leaving the process."""
        raise ConfigError(f"{message}; see {self.prog} --help.")


def run_one_of(
    commands: dict[str, Command], group: str, argv: Sequence[str], help_text: str
) -> int:
    """Runs `automix GROUP COMMAND ...`; without a command it prints the help, and returns 2.

    Raises:
        AutoMixError: for a command that is not known, and what the command raises.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text, end="")
        return 0 if argv else 2
    command, *arguments = argv
    if command not in commands:
        hint = did_you_mean(command, commands)
        raise ConfigError(
            f"command '{group} {command}' is not known.{hint} Use {', '.join(commands)}."
        )
    return commands[command](arguments)


def check_least(options: dict[str, Any], **least: int) -> None:
    """Raises a ConfigError for an option below what it must be, or a seed that keys cannot hold."""
    for name, bound in least.items():
        flag = name.replace("_", "-")
        if options[name] is not None and options[name] < bound:
            raise ConfigError(f"--{flag} is {options[name]}: it must be {bound} or more.")
    if options["seed"] >= 2**32:
        raise ConfigError(f"--seed is {options['seed']}: it must be below {2**32}.")


def check_file(out: Path, suffix: str, what: str) -> None:
    """Raises a ConfigError for a file to be written that has another suffix, or no folder."""
    if out.suffix.lower() != suffix:
        raise ConfigError(f"--out is {out}: {what}, give FILE{suffix}.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out is {out}, but there is no folder {out.parent}: make it first.")


def wide_console() -> Console:
    """To print tables on; whole, where there is no screen whose width matters."""
    width = None if sys.stdout.isatty() else _WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)

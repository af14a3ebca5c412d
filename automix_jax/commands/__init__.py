"""The commands of `automix` beside training: each reads its own arguments."""

from automix_jax.commands.base import Command
from automix_jax.commands.configs import configs
from automix_jax.commands.data import data
from automix_jax.commands.evaluate import evaluate
from automix_jax.commands.report import report
from automix_jax.commands.reproduce import reproduce
from automix_jax.commands.sweep import supermix, sweep
from automix_jax.commands.visualize import visualize
from automix_jax.commands.weights import export, import_weights

COMMANDS: dict[str, Command] = {
    "configs": configs,
    "data": data,
    "import-weights": import_weights,
    "export": export,
    "sweep": sweep,
    "reproduce": reproduce,
    "supermix": supermix,
    "evaluate": evaluate,
    "report": report,
    "visualize": visualize,
}

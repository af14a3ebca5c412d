"""From recipes to the rows of a table."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from automix_jax import mixups
from automix_jax.errors import ConfigError
from automix_jax.models import create_model
from automix_jax.sweep.cells import Row, trials


def read_rows(recipes: Sequence[str], load: Callable[[str], ConfigDict]) -> list[Row]:
    """Reads recipes like `configs/quickstart.py:method=mixup+cutmix,epochs=3`.

    Several methods are joined by "+"; "all", also without `method=`, is every one that the
    recipe's network can train.

    Args:
        recipes: as above.
        load: gives the configuration of a recipe of one method.

    Raises:
        ConfigError: for a recipe or method that is not known, or the same twice.
    """
    rows: list[Row] = []
    for recipe in recipes:
        path, _, argument = recipe.partition(":")
        parts = list(filter(None, argument.split(",")))
        chosen = [p.removeprefix("method=") for p in parts if p.startswith("method=")]
        rest = [part for part in parts if not part.startswith("method=")]

        def load_method(method: str, path: str = path, rest: Sequence[str] = rest) -> ConfigDict:
            # SuperMix trains as vanilla does: what differs are the images.
            trained_as = "vanilla" if method == "supermix" else method
            return load(f"{path}:{','.join([f'method={trained_as}', *rest])}")

        methods = chosen[-1].split("+") if chosen else ["all"]
        if methods == ["all"]:
            methods = _suitable(load_method("vanilla").model.name)
        stem = Path(path).stem
        rows += [Row(name, load_method(name), recipe=stem, method=name) for name in methods]
    _check_once(rows)
    return rows


def _suitable(model: str) -> list[str]:
    """The methods that a network can train, vanilla first: others may need what it trains."""
    tokens = create_model(model).class_token
    others = [name for name in mixups.list_mixups() if mixups.suits(name, tokens)]
    return ["vanilla", "automix", *(name for name in others if name != "vanilla")]


def _check_once(rows: Sequence[Row]) -> None:
    seen = set()
    for row in rows:
        (cell,) = trials(row, 1)
        if cell.folder in seen:
            raise ConfigError(
                f"the sweep has {row.recipe}-{row.method} twice: name each method of a recipe once."
            )
        seen.add(cell.folder)

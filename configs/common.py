"""The arguments of the recipes, and the last touches that they put on a configuration.

An argument follows the file's name after a colon: `cifar10_r18.py:method=mixup,epochs=200`.

    method=NAME      automix (default) or another method, with the tables' alpha for the dataset
    epochs=N         the whole schedule shrinks or stretches with it; a warm-up only shrinks
    variant=NAME     paper (default): what the method's paper states; released: what the authors'
                     code does, or, of another method, what made the published tables
    recipe=NAME      where a file has several, as imagenet_r50.py: pytorch, rsb_a3, rsb_a2

What the paper states is in `configs/paper.py`, what the authors' files have instead in
`configs/released.py`, and the methods' alphas and options in `configs/methods.py`.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from automix_jax.config import METHODS
from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.models import model_options
from configs.methods import set_method

RELEASED_OPTIONS = {"mixup_cutmix": {"partner": "random"}}


def parse_arg(arg: str | None) -> dict[str, str]:
    """Splits "a=1,b=2" into a dict.

    Raises:
        ConfigError: for a part that is not KEY=VALUE, or a key that the recipes do not know.
    """
    options = {}
    for part in filter(None, (arg or "").split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in ("method", "epochs", "variant", "recipe"):
            raise ConfigError(
                f"config argument {part!r} is not known: use method=, epochs=, variant= or recipe=,"
                " as in configs/cifar10_r18.py:method=mixup,epochs=200."
            )
        options[key] = value
    return options


def choose(arg: str | None, *recipes: str) -> tuple[str, str]:
    """Takes `recipe=` out of the argument of a file that has several; the first is the default.

    Returns:
        Its value, and the rest of the argument.

    Raises:
        ConfigError: for a recipe that is not one of them, or an argument that is not known.
    """
    options = parse_arg(arg)
    recipe = options.pop("recipe", recipes[0])
    if recipe not in recipes:
        raise ConfigError(f"recipe={recipe} is not known: use {' or '.join(recipes)}.")
    return recipe, ",".join(f"{key}={value}" for key, value in options.items())


def keep(config: ConfigDict) -> None:
    """Changes nothing."""


def finish(
    config: ConfigDict,
    arg: str | None,
    kind: str,
    released: Callable[[ConfigDict], None],
    rivals: Callable[[ConfigDict], None] = keep,
) -> ConfigDict:
    """Applies a recipe's argument and locks it.

    Args:
        config: the recipe as the paper states it.
        arg: what followed the file's name.
        kind: of `methods.KINDS`, for the options of the methods.
        released: sets what the authors' files for AutoMix on this dataset have and the paper not.
        rivals: the same for their files of the other methods, one of which has been set.

    Raises:
        ConfigError: for an argument that is not known.
    """
    options = parse_arg(arg)
    method, variant = options.get("method", "automix"), options.get("variant", "paper")
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise ConfigError(f"method={method} is not known.{hint} Use {', '.join(METHODS)}.")
    if variant not in ("paper", "released"):
        raise ConfigError(f"variant={variant} is not known: use paper or released.")
    if "recipe" in options:
        raise ConfigError(
            f"recipe={options['recipe']}, but this file has one recipe: leave it out."
        )
    set_method(config, method, kind)
    if variant == "released":
        config.model.bn_unbiased = "bn_unbiased" in model_options(config.model.name)
        (released if method == "automix" else rivals)(config)
        if "variant" in config.method.options:
            config.method.options.variant = "published"
        config.method.options.update(RELEASED_OPTIONS.get(method, {}))
    if "epochs" in options:
        _set_epochs(config, options["epochs"])
    # Where the student's rate does not fall to 0 its average is better.
    floor = method == "automix" and config.optimizer.min_lr > 0
    config.eval.headline = "teacher_mix" if floor else "student_mix"
    config.lock()
    return config


def _set_epochs(config: ConfigDict, epochs: str) -> None:
    """Sets the number of epochs; in a shorter run the warm-up keeps its share."""
    if not epochs.isdigit() or int(epochs) < 1:
        raise ConfigError(f"epochs={epochs} is not a number of epochs: use 1 or more.")
    config.optimizer.warmup_epochs *= min(int(epochs) / config.epochs, 1.0)
    config.epochs = int(epochs)

"""Every recipe, method and variant is a valid configuration; its networks and step have shapes."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import config as config_lib
from automix_jax import recipes
from automix_jax.data.dataset import Dataset, Facts, Split
from automix_jax.data.prepare import list_preparers
from automix_jax.errors import ConfigError
from automix_jax.objective import Frozen
from automix_jax.train.build import build
from automix_jax.validation import validate, validate_data
from tests.runs import ROOT

SHARED = {"__init__", "common", "methods", "paper", "released"}
RECIPES = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - SHARED)
WITHOUT_CELLS = {"folder_r18", "quickstart", "quickstart_deit"}
VARIANTS = ("paper", "released")
# Classes, and images of the training and test splits; of the published datasets the official ones.
DATA = {p.name: (p.num_classes, *p.counts.values()) for p in list_preparers()}
DATA |= {"fashion_mnist_sample": (10, 10_000, 2_000), "folder": (5, 1_000, 100)}


def load(recipe, argument=""):
    return recipes.load_config(f"{ROOT}/configs/{recipe}.py:{argument}")


@functools.cache
def cells(recipe):
    return recipes.load_cells(f"{ROOT}/configs/{recipe}.py")


def arguments(recipe):
    """Those that choose a recipe of a file; the others are a matter of numbers."""
    found = {cell.argument for cell in cells(recipe) if "recipe=" in cell.argument}
    return ["", *sorted(found)]


def facts_of(config):
    """What a run is told of the recipe's data."""
    classes, train, test = DATA[config.data.name]
    gray = config.data.name.startswith("fashion")
    size = config.data.image_size or (28 if gray else 32)
    names = tuple(map(str, range(classes)))
    return Facts(config.data.name, names, (size, size, 1 if gray else 3), train, test)


ALL = [(recipe, argument) for recipe in RECIPES for argument in arguments(recipe)]


@pytest.mark.parametrize(("recipe", "argument"), ALL)
@pytest.mark.parametrize("variant", VARIANTS)
def test_recipe_is_valid(recipe, argument, variant):
    """On 1 and 8 devices; a batch of 100 divides among 1, 2, 4 and 5, and is refused on 8."""
    config = load(recipe, f"{argument},variant={variant}")
    validate_data(config, facts_of(config))
    validate(config, 1)
    if config.batch_size == 100:
        assert recipe.startswith(("cifar", "tiny_imagenet", "folder"))
        validate(config, 4 if config.num_groups == 1 else 2)
        with pytest.raises(ConfigError, match=r"devices \(8\) does not divide: use 96 or 104"):
            validate(config, 8)
    else:
        validate(config, 8)


# What is built of each, and what is traced. Recipes with the same network on another dataset, or of
# another length, share a test: nothing in them could disagree with its classes or its images' size.
NETWORKS = {
    "cifar100_r18": "step",
    "cifar100_rx50": "state",
    "cifar100_wrn28_8": "loss",
    "cifar100_convnext_t": "loss",
    "cifar100_swin_t": "loss",
    "tiny_imagenet_r18:variant=released": "step",
    "imagenet_r34": "state",
    "imagenet_r101": "state",
    "imagenet_r50:recipe=rsb_a2": "loss",
    "imagenet_mobilenet_v2": "step",
    "imagenet_efficientnet_b0": "loss",
    "imagenet_convnext_t:variant=released": "state",
    "imagenet_deit_s:variant=released": "step",
    "cub200_rx50:variant=released": "loss",
    "inat2017_r18": "state",
    "inat2018_r50": "state",
    "inat2018_rx101": "state",
    "quickstart": "loss",
    "quickstart_deit": "state",
}
SAME_BLOCKS = {
    "resnet34": "resnet18",
    "resnet101": "resnet50",
    "resnext101_32x4d": "resnext50_32x4d",
    "deit_t": "deit_s",
}


def load_named(name):
    recipe, _, argument = name.partition(":")
    return load(recipe, argument)


def traits(config):
    """What decides the structure of a recipe's networks, optimizer, loss and input."""
    model, method, data = config.model, config.method, config.data
    return {
        ("network", model.name, model.stem, model.width),
        ("optimizer", config.optimizer.name, config.optimizer.decay),
        ("loss", config.loss.name, config.loss.smoothing > 0),
        ("mask loss", config.mask_loss.form, config.mask_loss.per_sample),
        ("weight of the mask loss", config.mask_loss.schedule),
        ("teacher", config.teacher.full_forward),
        ("embedding", config.mixblock.lam_embed),
        ("generates", method.generate_share < 1),
        ("images", data.loading, data.crop, data.erase > 0),
    }


def test_networks_stand_for_all_recipes():
    """Whatever a recipe or its released variant is made of is built below, and most is traced."""

    def all_traits(configs):
        return set().union(*map(traits, configs))

    wanted = all_traits(
        load(recipe, f"{argument},variant={variant}")
        for recipe, argument in ALL
        for variant in VARIANTS
    )
    assert wanted <= all_traits(map(load_named, NETWORKS))
    traced = all_traits(load_named(name) for name, depth in NETWORKS.items() if depth != "state")
    models = {trait[1] for trait in traced if trait[0] == "network"}
    for trait in wanted - traced:
        if trait[0] == "network":
            assert SAME_BLOCKS.get(trait[1], trait[1]) in models
        else:
            assert trait[0] == "images"  # are not a matter of the loss
    stepped = all_traits(load_named(name) for name, depth in NETWORKS.items() if depth == "step")
    assert {trait for trait in wanted if trait[0] == "optimizer"} <= stepped


# `make test-recipes` takes an abstract step of every recipe and variant, in a few minutes.
EVERY = {
    f"{recipe}:{argument},variant={variant}": "step"
    for recipe, argument in ALL
    for variant in VARIANTS
}
BUILT = EVERY if os.environ.get("AUTOMIX_RECIPES") == "all" else NETWORKS


@pytest.mark.parametrize(("name", "depth"), BUILT.items())
def test_recipe_builds(name, depth):
    """Networks and optimizer with the real classes and images; and a step or its loss of some."""
    config = load_named(name)
    facts = facts_of(config)
    experiment = build(config, facts)
    state = jax.eval_shape(experiment.create, jax.random.key(0))
    student = state.params["student"]
    for head in ("mix", "clean"):
        assert student[f"head_{head}"]["kernel"].shape[-1] == facts.num_classes
    assert jax.tree.map(jnp.shape, state.teacher) == jax.tree.map(jnp.shape, student)
    for schedule in experiment.lr.values():
        assert float(schedule(0)) > 0
    if depth == "step":
        after = abstract_step(experiment, state, config, facts.image_shape)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    elif depth == "loss":
        loss = abstract_loss(experiment, state, config, facts.image_shape)
        assert loss.shape == () and loss.dtype == jnp.float32


def abstract_step(experiment, state, config, image_shape):
    """The state after a step on a batch, from shapes alone."""
    images = jax.ShapeDtypeStruct((config.batch_size, *image_shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    metrics = jax.eval_shape(experiment.create_metrics)
    return jax.eval_shape(experiment.run_steps, state, metrics, images, labels, None, None)[0]


def abstract_loss(experiment, state, config, image_shape):
    """The loss of a batch, from shapes alone."""

    def loss(state, images, labels):
        rngs = jax.random.split(state.rng, config.num_groups)
        draws = experiment.objective.draw(rngs, config.batch_size // config.num_groups)
        frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats)
        objective = experiment.objective
        return objective.loss(state.params, frozen, images, labels, draws, state.step)[0]

    images = jax.ShapeDtypeStruct((config.batch_size, *image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    return jax.eval_shape(loss, state, images, labels)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_method_in_every_recipe(recipe):
    """Each is a valid configuration, but for what has to be given or belongs to other networks."""
    for method in config_lib.METHODS:
        config = load(recipe, f"method={method}")
        assert config.method.name == method
        assert config.teacher.enabled == (method == "automix")
        assert (config.method.clean_weight > 0) == (method == "comixup")
        with config.unlocked():
            config.guide.weights = "some"
        if method == "supermix":
            with pytest.raises(ConfigError, match="automix supermix --help"):
                validate(config, 1)
        else:
            validate(config, 1)
        released = load(recipe, f"method={method},variant=released")
        if "variant" in config.method.options:
            assert config.method.options.variant == "paper"
            assert released.method.options.variant == "published"


@pytest.mark.parametrize("method", ["manifoldmix", "alignmix", "transmix"])
def test_methods_inside_the_network_find_its_maps(method):
    """The last map is found, and a network without the maps is refused with those it has."""
    config = load("cifar100_wrn28_8", f"method={method}")
    facts = facts_of(config)
    if method == "transmix":
        with pytest.raises(ConfigError, match="wrn28_8 has none: use"):
            build(config, facts)
        return
    mix = build(config, facts).objective.mix
    if method == "alignmix":
        assert mix.keywords["layer"] == "stage3"
    else:
        config = load("cifar100_deit_s", "method=manifoldmix")
        with pytest.raises(ConfigError, match="names 'stage1', but deit_s has block1, block2"):
            build(config, facts_of(config))


def test_arguments():
    config = load("cifar10_r18", "method=mixup,epochs=200")
    assert (config.method.name, config.method.alpha, config.epochs) == ("mixup", 1.0, 200)
    assert not config.teacher.enabled
    assert load("cifar10_r18", "method=cutmix").method.alpha == 0.2
    assert load("cifar10_r18").data.padding_mode == "zero"
    assert load("cifar100_r18").data.padding_mode == "reflect"


def test_recipes_of_one_file():
    """The argument `recipe=` chooses; the first is the default, and a file of one has none."""
    assert load("imagenet_r50").optimizer.name == "sgd"
    a3 = load("imagenet_r50", "epochs=50,recipe=rsb_a3,method=mixup")
    assert (a3.optimizer.name, a3.epochs, a3.method.name) == ("lamb", 50, "mixup")
    a2 = load("imagenet_r50", "recipe=rsb_a2")
    assert (a2.data.repeats, a2.model.drop_path, a2.loss.name) == (3, 0.05, "bce")
    assert load("imagenet_mobilenet_v2", "recipe=rsb_a2").model.drop_path == 0
    with pytest.raises(ConfigError, match="recipe=rsb is not known: use pytorch or rsb_a3"):
        load("imagenet_r50", "recipe=rsb")
    with pytest.raises(ConfigError, match="recipe=rsb_a3, but this file has one recipe"):
        load("cifar10_r18", "recipe=rsb_a3")


def test_a_configuration_with_a_foreign_or_missing_field_is_refused():
    config = config_lib.default_config()
    config.model.depth = 18
    with pytest.raises(ConfigError, match=r"config\.model\.depth is not a field"):
        validate(config, 1)
    config = config_lib.default_config()
    del config.model.layer
    with pytest.raises(ConfigError, match=r"config\.model\.layer is missing"):
        validate(config, 1)


def test_warm_up_shrinks_with_the_run():
    assert load("imagenet_swin_t").optimizer.warmup_epochs == 20
    assert load("imagenet_swin_t", "epochs=30").optimizer.warmup_epochs == 2
    assert load("imagenet_swin_t", "epochs=600").optimizer.warmup_epochs == 20
    config = load("imagenet_swin_t")
    with config.unlocked():
        config.epochs = 20
    with pytest.raises(ConfigError, match=r"warmup_epochs is 20.0, as long as the run of 20"):
        validate(config, 1)


@pytest.mark.parametrize(
    ("name", "options", "size", "message"),
    [
        ("deit_t", {}, 28, "images of 28 x 28 .*divide into patches of 16"),
        ("deit_t", {"width": 100}, 32, "100 channels do not divide among 3 heads"),
        ("swin_t", {}, 30, "divide into patches of 4"),
        ("convnext_t", {}, 28, "are too small: nothing is left at stage4"),
    ],
)
@pytest.mark.parametrize("method", ["automix", "vanilla"])
def test_images_that_a_network_does_not_take(method, name, options, size, message):
    config = config_lib.default_config()
    config.model.name, config.method.name = name, method
    config.model.update(options)
    split = Split(np.zeros((128, size, size, 3), np.uint8), np.zeros(128, np.int32))
    facts = Dataset("some", split, split, ("a", "b")).facts
    with pytest.raises(ConfigError, match=message):
        build(config, facts)

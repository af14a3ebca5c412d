"""Every recipe, method and variant builds its networks, optimizer and step, from shapes alone."""

import jax
import numpy as np
import pytest

from automix_jax import config as config_lib
from automix_jax import recipes
from automix_jax.data.dataset import Dataset, Split
from automix_jax.errors import ConfigError
from automix_jax.train.build import build
from tests.runs import ROOT

RECIPES = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "common"})


def load(recipe, argument=""):
    return recipes.load_config(f"{ROOT}/configs/{recipe}.py:{argument}")


def stand_in(config):
    """A data set of the recipe's shape, without its images."""
    size = config.data.image_size or (28 if config.data.name.startswith("fashion") else 32)
    channels = 1 if config.data.name.startswith("fashion") else 3
    classes = config.data.num_classes or 5
    split = Split(np.zeros((128, size, size, channels), np.uint8), np.zeros(128, np.int32))
    return Dataset(config.data.name, split, split, tuple(map(str, range(classes))))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("argument", ["", "variant=released", "method=cutmix,epochs=3"])
def test_recipe_builds(recipe, argument):
    config = load(recipe, argument)
    with config.unlocked():
        config.batch_size = 128  # the tests have eight devices, a recipe 32 groups
    config_lib.validate(config, 8)
    experiment = build(config, stand_in(config).facts)
    state = jax.eval_shape(experiment.create, jax.random.key(0))
    assert ("mixblock" in state.params) == (config.method.name == "automix")
    assert bool(state.teacher) == config.teacher.enabled
    for schedule in experiment.lr.values():
        assert float(schedule(0)) > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_the_paper_states_is_the_default(recipe):
    """And the headline is the student's where its rate falls to 0, the teacher's elsewhere."""
    config = load(recipe)
    assert config.mixblock.lam_embed == "concat"
    assert (config.mask_loss.schedule, config.mask_loss.weight) == ("linear", 0.1)
    assert config.mask_loss.per_sample
    assert (config.teacher.momentum_end, config.teacher.hold) == (1.0, 0.0)
    assert config.method.alpha == 2.0
    optimizer = config.optimizer
    if optimizer.name == "sgd":
        assert optimizer.min_lr == optimizer.mixblock_min_lr == 0
        assert optimizer.weight_decay == 1e-4
        assert optimizer.lr == 0.1
    else:
        assert optimizer.weight_decay == 0.05
        if recipe.startswith("imagenet"):
            assert (optimizer.lr, config.batch_size) == (1e-3, 1024)
    for variant in ("paper", "released"):
        chosen = load(recipe, f"variant={variant}")
        network = "teacher" if chosen.optimizer.min_lr else "student"
        assert chosen.eval.headline == f"{network}_mix"


def test_paper_and_released_defaults():
    """The differences that docs/differences.md lists, as they stand in a CIFAR recipe."""
    paper, released = load("cifar100_r18"), load("cifar100_r18", "variant=released")
    old, new = (dict(config_lib.fields(config)) for config in (paper, released))
    different = {name.removeprefix("config."): new[name] for name in old if old[name] != new[name]}
    assert different == {
        "mixblock.lam_embed": "none",
        "mask_loss.schedule": "constant",
        "mask_loss.per_sample": False,
        "teacher.momentum_end": 0.999999,
        "teacher.hold": 0.1,
        "teacher.full_forward": True,
        "optimizer.min_lr": 0.05,
        "optimizer.mixblock_min_lr": 0.05,
        "model.bn_unbiased": True,
        "eval.headline": "teacher_mix",
    }
    documented = (ROOT / "docs/differences.md").read_text()
    for name in different:
        assert name.split(".")[1] in documented


@pytest.mark.parametrize("method", config_lib.METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_method_in_every_recipe(recipe, method):
    """Each is a valid configuration, but for what has to be given or belongs to other networks."""
    config = load(recipe, f"method={method}")
    assert config.method.name == method
    assert config.teacher.enabled == (method == "automix")
    assert (config.method.clean_weight > 0) == (method == "comixup")
    with config.unlocked():
        config.batch_size, config.guide.weights = 128, "some"
    if method == "supermix":
        with pytest.raises(ConfigError, match="automix supermix --help"):
            config_lib.validate(config, 8)
    else:
        config_lib.validate(config, 8)
    released = load(recipe, f"method={method},variant=released")
    if "variant" in config.method.options:
        assert config.method.options.variant == "paper"
        assert released.method.options.variant == "published"


def test_alpha_of_the_tables():
    """What the published tables have, for four kinds of recipe."""
    kinds = ("cifar100_r18", "imagenet_r50", "imagenet_deit_s", "cifar100_deit_s")
    tables = {
        "mixup": (1, 0.2, 0.2, 0.8),
        "cutmix": (0.2, 1, 0.2, 2),
        "manifoldmix": (2, 0.2, 0.2, 2),
        "saliencymix": (0.2, 1, 0.2, 0.2),
        "attentivemix": (2, 2, 2, 2),
        "fmix": (0.2, 1, 0.2, 1),
        "puzzlemix": (1, 1, 1, 2),
        "comixup": (2, 2, 2, 2),
        "alignmix": (2, 2, 2, 2),
        "gridmix": (0.2, 0.2, 0.2, 1),
        "mixup_cutmix": (0.8, 0.8, 0.8, 0.8),
    }
    for method, alphas in tables.items():
        for kind, alpha in zip(kinds, alphas, strict=True):
            assert load(kind, f"method={method}").method.alpha == alpha, (method, kind)
    options = load("cifar100_r18", "method=puzzlemix").method.options
    assert (options.blocks, options.transport_size) == ((2, 4, 8, 16), 4)
    options = load("imagenet_r50", "method=puzzlemix").method.options
    assert (options.blocks, options.transport_size) == ((2, 4, 8), 0)
    assert load("imagenet_deit_s", "method=attentivemix").guide.model == "resnet50"
    decay = load("cifar100_rx50", "method=fmix,variant=released").optimizer.weight_decay
    assert decay == 5e-4
    assert load("cifar100_rx50", "method=mixup,variant=released").optimizer.weight_decay == 1e-4


@pytest.mark.parametrize("method", ["manifoldmix", "alignmix", "transmix"])
def test_methods_inside_the_network_find_its_maps(method):
    """The last map is found, and a network without the maps is refused with those it has."""
    config = load("cifar100_wrn28_8", f"method={method}")
    facts = stand_in(config).facts
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
            build(config, stand_in(config).facts)


def test_arguments():
    config = load("cifar10_r18", "method=mixup,epochs=200")
    assert (config.method.name, config.method.alpha, config.epochs) == ("mixup", 1.0, 200)
    assert not config.teacher.enabled
    assert load("cifar10_r18", "method=cutmix").method.alpha == 0.2
    assert load("cifar10_r18").data.padding_mode == "zero"
    assert load("cifar100_r18").data.padding_mode == "reflect"


def test_a_configuration_with_a_foreign_or_missing_field_is_refused():
    config = config_lib.default_config()
    config.model.depth = 18
    with pytest.raises(ConfigError, match=r"config\.model\.depth is not a field"):
        config_lib.validate(config, 1)
    config = config_lib.default_config()
    del config.model.layer
    with pytest.raises(ConfigError, match=r"config\.model\.layer is missing"):
        config_lib.validate(config, 1)


def test_warm_up_shrinks_with_the_run():
    assert load("imagenet_swin_t").optimizer.warmup_epochs == 20
    assert load("imagenet_swin_t", "epochs=30").optimizer.warmup_epochs == 2
    config = load("imagenet_swin_t")
    with config.unlocked():
        config.epochs, config.batch_size = 20, 1024
    with pytest.raises(ConfigError, match=r"warmup_epochs is 20.0, as long as the run of 20"):
        config_lib.validate(config, 1)


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

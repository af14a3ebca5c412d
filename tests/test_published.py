"""The published numbers: complete, as the recipes have them, and as the tables imply each other."""

import json

import pytest

from automix_jax import recipes
from automix_jax.errors import ConfigError
from automix_jax.sweep import published
from tests.runs import ROOT

CELLS = [
    (path.stem, cell)
    for path in sorted((ROOT / "configs").glob("*_*.py"))
    for cell in recipes.load_cells(str(path))
]


def value(name):
    return published.get(name).value


def accuracies(prefix):
    """Of the cells of a table's column, by method."""
    return {number.name.split("/")[-1]: number.value for number in published.find(f"{prefix}/")}


def columns(table):
    """The columns of a table, without the table's name."""
    names = [number.name.split("/")[1:-1] for number in published.find(f"{table}/")]
    return list(dict.fromkeys("/".join(name) for name in names))


def test_every_printed_number_has_a_name_of_its_own():
    content = json.loads((ROOT / "automix_jax/sweep/published.json").read_text())
    printed = [v for t in content["tables"] for _, _, *row in t["rows"] for v in row]
    assert len(published.find("")) == sum(v is not None for v in printed) > 1200


def test_what_a_number_says_of_itself():
    number = published.get("table1/cifar10/resnet18/mixup")
    assert (number.value, number.unit, number.epochs) == (96.62, "top-1, %", 800)
    assert (number.source, number.cell, number.note) == ("Table 1", "CIFAR-10, R-18, MixUp", "")
    assert value("table8/cifar100/mixup/mp_ce") == 80.41
    assert value("openmixup/cifar10/resnet18/200/automix") == 96.59
    assert published.get("table9/tiny_imagenet/resnet18/l3/hours").unit == "hours"
    assert published.get("table4/cifar100/resnext50_32x4d/automix/fgsm").unit == "error, %"
    assert "ResNet-50" in published.get("table3/places205/resnet50/automix").note
    assert "63.86" in published.get("table8/tiny_imagenet/mixup/none").note
    assert "2103.13027" in published.sources()["paper"]


def test_a_name_that_is_not_there_gets_a_near_one():
    with pytest.raises(ConfigError, match="Did you mean 'table1/cifar10/resnet18/mixup'"):
        published.get("table1/cifar10/resnet18/mixap")
    assert published.find("table10/") == ()
    found = [number.name for number in published.find("table1/cifar10/resnet18/")]
    assert len(found) == 11
    assert found[0].endswith("vanilla")


def test_recipes_were_found():
    assert len(CELLS) > 35


@pytest.mark.parametrize(("recipe", "cell"), CELLS, ids=lambda x: getattr(x, "name", x))
def test_cells_of_the_recipes_are_published(recipe, cell):
    """What the recipes call the appendix's is known from the authors' tables alone."""
    source = "OpenMixup" if cell.source == "Appendix" else cell.source
    (number,) = [
        number
        for number in published.find("")
        if (number.source, number.cell) == (source, f"{cell.name}, AutoMix")
        and number.unit == published.TOP_1
    ]
    assert number.value == cell.accuracy


@pytest.mark.parametrize("table", ["table1", "table2", "table3"])
def test_the_printed_gain_is_that_over_the_best_other_method(table):
    for column in columns(table):
        found = accuracies(f"{table}/{column}")
        printed, automix = found.pop("gain"), found.pop("automix")
        gain = round(automix - max(found.values()), 2)
        note = published.get(f"{table}/{column}/gain").note
        assert printed == gain or note.startswith(f"{gain} by the table's own numbers"), column
        assert (printed == gain) == (column != "cifar100/resnext50_32x4d")
    assert published.get(f"{table}/{columns(table)[0]}/gain").unit == "points"


@pytest.mark.parametrize(
    ("rival", "least", "most"),
    [("manifoldmix", 0.32, 1.94), ("puzzlemix", 0.16, 0.91), ("comixup", 0.13, 0.87)],
)
def test_gains_on_cifar_that_the_text_states(rival, least, most):
    gains = [
        value(f"table1/{column}/automix") - value(f"table1/{column}/{rival}")
        for column in columns("table1")
        if column.startswith("cifar")
    ]
    assert (min(gains), max(gains)) == (pytest.approx(least), pytest.approx(most))


@pytest.mark.parametrize(
    ("column", "gain"),
    [
        ("cub200/resnet18", 2.19),
        ("cub200/resnext50_32x4d", 3.55),
        ("aircraft/resnet18", 1.14),
        ("aircraft/resnext50_32x4d", 1.62),
        ("inat2017/resnet50", 2.85),  # the text has 2.74, which no cell gives
        ("inat2017/resnext101_32x4d", 4.33),
        ("inat2018/resnet50", 2.20),
        ("inat2018/resnext101_32x4d", 3.55),
    ],
)
def test_gains_over_vanilla_that_the_text_states(column, gain):
    found = accuracies(f"table3/{column}")
    assert found["automix"] - found["vanilla"] == pytest.approx(gain)


def test_the_ablations_end_at_the_numbers_of_the_main_tables():
    tiny, wide = "tiny_imagenet/resnet18", "tiny_imagenet/resnext50_32x4d"
    for column in (tiny, wide):
        automix = value(f"table1/{column}/automix")
        assert value(f"table7/{column}/lam_loss") == automix
        assert value(f"table9/{column}/l3") == automix
        assert value(f"table9/{column}/mixup") == value(f"table1/{column}/mixup")
    for data, main in (
        ("cifar100", "table1/cifar100/resnet18"),
        ("tiny_imagenet", f"table1/{tiny}"),
        ("imagenet", "table2/imagenet/resnet18/100"),
    ):
        assert value(f"table8/{data}/automix/mp_ce") == value(f"{main}/automix")
        for method in ("mixup", "cutmix"):
            alone = published.get(f"table8/{data}/{method}/none")
            agrees = alone.value == value(f"{main}/{method}")
            assert agrees == (data != "tiny_imagenet")
            assert agrees or str(value(f"{main}/{method}")) in alone.note


def test_what_the_text_says_of_mixblock_without_ema_and_ce():
    for data, gain in (("cifar100", 2.29), ("tiny_imagenet", 2.21)):
        found = accuracies(f"table8/{data}/automix")
        assert found["mp_m0"] - found["none"] == pytest.approx(gain)


@pytest.mark.parametrize(
    ("network", "plain", "features", "channels"),
    [
        ("resnet18", 11_271_432, 512, (64, 128, 256, 512)),
        # By the counts, l = 1 is the stem and l = 2 the first stage.
        ("resnext50_32x4d", 23_382_024, 2048, (64, 256, 1024, 2048)),
    ],
)
def test_parameters_are_those_of_two_classifiers_and_mixblock(network, plain, features, channels):
    """A query and a key of C / 2 channels each, and a value of one."""
    prefix = f"table9/tiny_imagenet/{network}"
    assert value(f"{prefix}/mixup/parameters") == round(plain / 1e6, 2)
    for layer, c in enumerate(channels, 1):
        mixblock = 2 * (c * c // 2 + c // 2) + c + 1
        total = plain + 200 * features + 200 + mixblock
        assert value(f"{prefix}/l{layer}/parameters") == round(total / 1e6, 2)


def test_paper_and_authors_tables_differ_only_where_a_note_says_so():
    compared = different = 0
    for table in ("table1", "table2", "table3"):
        for number in published.find(table):
            _, *column, method = number.name.split("/")
            epochs = [str(number.epochs)] if table == "table1" else []
            other = published.find("/".join(["openmixup", *column, *epochs, method]))
            if other:
                compared += 1
                different += other[0].value != number.value
                if other[0].value != number.value:
                    assert number.note and other[0].note, number.name
    assert (compared, different) == (239, 12)


def test_numbers_are_in_their_ranges():
    for number in published.find(""):
        if number.unit.endswith("%"):
            assert 1 < number.value < 100, number.name
        else:
            assert number.unit in ("points", "parameters, M", "memory, GB", "hours")
            assert number.value > 0

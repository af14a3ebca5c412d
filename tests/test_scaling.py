"""The scaling model: its formulas, the bytes that it counts, and that what is published is its."""

import json
import math
import re
from pathlib import Path

import pytest

from benchmarks import scaling
from tests.steps import Setup

ROOT = Path(__file__).resolve().parents[1]
H200, _, _, V5E, V4, V5P = scaling.HARDWARE
SWITCHED = [hardware for hardware in scaling.HARDWARE if not hardware.axes]


@pytest.fixture(scope="module")
def report():
    return scaling.make_report()


@pytest.fixture(scope="module")
def counted(report):
    return {name: scaling.Bytes(**sizes) for name, sizes in report["bytes"].items()}


def test_bytes_are_those_of_the_train_state(counted):
    """torchvision's ResNet-50 and timm's DeiT-S have 25,557,032 and 22,050,664 parameters.

    The student, and so the teacher, has a second head.
    """
    heads = {"resnet50": 2048 * 1000 + 1000, "deit_s": 384 * 1000 + 1000}
    published = {"resnet50": 25_557_032, "deit_s": 22_050_664}
    for name, sizes in counted.items():
        assert sizes.teacher == 4 * (published[name] + heads[name])
        assert sizes.teacher < sizes.params < 1.02 * sizes.teacher  # MixBlock is small
        assert sizes.params < sizes.reduced <= 1.05 * sizes.params
        assert sizes.state > 2 * sizes.params + sizes.teacher - 1e6  # at least one moment each


def test_what_is_published_is_what_the_model_gives(report):
    assert json.loads((ROOT / "docs/results/scaling.json").read_text()) == report
    page = (ROOT / "docs/scaling.md").read_text()
    for table in scaling.tables(report):
        assert table in page


def test_rates_of_the_h200_are_those_of_the_performance_page():
    slow, fast = (scaling.rate(H200, scaling.RESNET, which) for which in (False, True))
    assert slow == pytest.approx(2400, rel=0.03)
    assert fast == pytest.approx(4300, rel=0.03)


@pytest.mark.parametrize("hardware", scaling.HARDWARE, ids=lambda hardware: hardware.name)
def test_one_device_is_the_measure(hardware, counted):
    assert scaling.all_reduce(hardware, 1, 1e9) == 0
    for case in (scaling.WEAK, *scaling.FIXED):
        for fast in (False, True):
            for fsdp in (False, True):
                sizes = counted[case.network.name]
                assert scaling.efficiency(hardware, case, 1, sizes, fast, fsdp) == 1


def test_all_reduce_in_a_box_is_a_ring():
    """2 (n - 1) / n of the bytes leave every device, and each hop has its latency."""
    for n in (2, 4, 8):
        expected = 2 * (n - 1) / n * 1e9 / 370e9 + 2 * (n - 1) * 3.4e-6 + 8.4e-6
        assert scaling.all_reduce(H200, n, 1e9) == pytest.approx(expected, rel=1e-12)


def test_boxes_exchange_a_share_for_each_of_their_devices():
    ring = 2 * 7 / 8 * 1e9 / 370e9 + 14 * 3.4e-6
    tree = 2 * 3 / 4 * 1e9 / 8 / 45e9 + 2 * 2 * 14e-6
    expected = ring + tree + 8.4e-6
    assert scaling.all_reduce(H200, 32, 1e9) == pytest.approx(expected, rel=1e-12)


def test_tori():
    """As Google's tables of topologies have them; rings close at 16 on v5e, at 4 on v4 and v5p."""
    assert scaling.torus(8, 2) == [4, 2] and scaling.torus(256, 2) == [16, 16]
    assert scaling.torus(4, 3) == [2, 2, 1] and scaling.torus(64, 3) == [4, 4, 4]
    assert sorted(scaling.torus(1024, 3)) == [8, 8, 16]
    assert scaling.inside(V5E, 64) == (2 * 50e9, 14)
    assert scaling.inside(V5E, 256) == (4 * 50e9, 16)
    assert scaling.inside(V5P, 64) == (6 * 100e9, 6)
    # v5e's pod ends at 256 chips, and four pods meet over the data center's network.
    assert scaling.all_reduce(V5E, 1024, 1e9) > scaling.all_reduce(V5E, 256, 1e9) + 0.4e-3


def test_efficiency_falls_with_devices(counted):
    """Where links stay the same: a torus gets more of them when its axes close to rings."""
    sizes = counted["resnet50"]
    closed = [(V4, 64), (V5P, 64)]
    for hardware, first in [*((hardware, 1) for hardware in SWITCHED), *closed]:
        for fsdp in (False, True):
            values = [
                scaling.efficiency(hardware, scaling.WEAK, n, sizes, True, fsdp)
                for n in scaling.DEVICES
                if n >= first
            ]
            assert values == sorted(values, reverse=True)
            assert 0 < values[-1] < values[0] <= 1


def test_splitting_the_state_costs_time(counted):
    sizes = counted["resnet50"]
    for hardware in scaling.HARDWARE:
        for n in scaling.DEVICES[1:]:
            whole, split = (
                scaling.step(hardware, scaling.WEAK, n, sizes, True, fsdp) for fsdp in (False, True)
            )
            assert split["gather"] > 0.8 * whole["reduce"]  # twice the bytes, but one way
            assert split["update"] == pytest.approx(whole["update"] / n)


def test_more_devices_than_groups_do_not_pay(counted):
    four, eight, _, deit = scaling.FIXED
    for hardware in scaling.HARDWARE:

        def total(case, n, hardware=hardware):
            return scaling.step(hardware, case, n, counted[case.network.name], True)["total"]

        assert total(four, 4) < total(four, 2) < total(four, 1)
        assert total(eight, 8) < total(four, 8)
    assert total(deit, 8) < total(deit, 4)
    sizes = counted["resnet50"]
    assert scaling.step(H200, four, 8, sizes, True)["total"] > 0.02  # 15 ms on four
    assert scaling.step(H200, four, 4, sizes, True)["cross"] == 0
    assert scaling.step(H200, four, 512, sizes, True) is None


def test_limits(counted):
    assert scaling.lost(1024, 10) == pytest.approx(1024 * scaling.FAILURES * 15 / 1440)
    assert scaling.lost(2048, 10) == 2 * scaling.lost(1024, 10)
    assert scaling.waiting(1, 0.05) == 0 < scaling.waiting(8, 0.05) < scaling.waiting(64, 0.05)
    epoch = scaling.epoch(1024, counted["resnet50"])
    assert (epoch["batch"], epoch["steps"]) == (65_536, 19)
    assert scaling.cores(H200, scaling.RESNET, "crop", True) == pytest.approx(105, abs=1)
    assert all(math.isfinite(value) for value in epoch.values())


@pytest.mark.long
def test_crossed_collectives_are_as_many_as_the_model_says():
    """Counted on 8 devices with 4 groups; versions of XLA may merge a few more or fewer."""
    setup = Setup(
        model="resnet50", stem="imagenet", width=4, layer="stage3", image=64, groups=4, devices=8
    )
    text = setup.lower(32).compile().as_text()
    found = len(re.findall(r" all-reduce(?:-start)?\(", text))
    assert found == pytest.approx(scaling.CROSSED["resnet50"], rel=0.2)
    assert "f32[32,64,64,3]" in "".join(re.findall(r"= (\S+) all-gather", text))  # all images
    assert "f32[32,16,32]" in "".join(re.findall(r"= (\S+) all-gather", text))  # all projections

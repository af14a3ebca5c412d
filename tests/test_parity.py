"""The authors' recorded numbers, and the reader that compares with them."""

import shutil

import numpy as np
import pytest

from tests import parity
from tests.conftest import x64


def test_recorded_numbers_are_reproduced_in_float64(vectors, capsys):
    with x64():
        code = parity.main([str(vectors)])
    report = capsys.readouterr().out
    assert code == 0, report
    for expected in ("mixblock_small_lc1_f64", "r18w4_it2_f64", "tiny_r18w4_f64"):
        assert expected in report
    for quantity in ("gradient", "momentum buffer", "running statistic", "teacher parameter"):
        assert quantity in report


def test_reader_finds_a_deviation(vectors, tmp_path, capsys):
    name = "mixblock_small_lc1_f64.npz"
    arrays = parity.load(vectors / name)
    key = next(key for key in arrays if key.endswith("out.mixed"))
    arrays[key] = arrays[key] + 1e-7
    np.savez(tmp_path / name, **arrays)
    (tmp_path / "cases.json").write_text("{}")
    with x64():
        assert parity.main([str(tmp_path)]) == 1
    assert "mixed image" in capsys.readouterr().out


@pytest.mark.parametrize("cases", ["{}", None])
def test_reader_fails_where_nothing_is_to_be_compared(tmp_path, cases):
    if cases:
        (tmp_path / "cases.json").write_text(cases)
        np.savez(tmp_path / "other_f64.npz", x=np.zeros(3))  # of another kind: passed over
    assert parity.main([str(tmp_path)]) == 1


def test_reader_refuses_an_incomplete_iteration(vectors, tmp_path):
    name = "automix_step_cifar_r18w4"
    for part in ("init_f64", "it0_f64"):
        shutil.copy(vectors / f"{name}_{part}.npz", tmp_path)
    arrays = parity.load(tmp_path / f"{name}_it0_f64.npz")
    kept = {key: value for key, value in arrays.items() if "/grad/" not in key}
    np.savez(tmp_path / f"{name}_it0_f64.npz", **kept)
    shutil.copy(vectors / "cases.json", tmp_path)
    with x64(), pytest.raises(ValueError, match="no 'grad' entries"):
        parity.main([str(tmp_path)])

"""A sweep whose runner is killed again and again ends as one that was left alone."""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from automix_jax import recipes
from automix_jax.sweep import results, table
from automix_jax.sweep.cells import cells
from automix_jax.sweep.claim import is_claimed
from automix_jax.sweep.rows import read_rows
from tests import runs

COMMAND = ("-m", "automix_jax.cli")
METHODS = "vanilla+supermix+mixup"
SEEDS, KILLS = 2, 10


def arguments(folder, out):
    recipe = f"{runs.RECIPE}:method={METHODS}"
    tiny = runs.tiny(folder / "data.npz")
    return ["sweep", recipe, f"--out={out}", f"--seeds={SEEDS}", "--jobs=2", *tiny]


def rows_of(folder):
    tiny = runs.tiny(folder / "data.npz")
    return read_rows(
        [f"{runs.RECIPE}:method={METHODS}"],
        lambda recipe: recipes.override(recipes.load_config(recipe), tiny),
    )


def children(pid):
    """The processes that a process has started."""
    with contextlib.suppress(FileNotFoundError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def without_times(record):
    """A result with the times of all results."""
    times = {"seconds": {"total": 1.0, "train": 1.0}, "images_per_second": 1.0}
    return record | times


@pytest.mark.long
def test_a_runner_that_is_killed_ten_times(tmp_path):
    """Each cell is trained to its end once, to the same bits, and the table is the same.

    In every second round its processes are killed with it, as where a machine loses its power.
    """
    runs.write_npz(tmp_path / "data.npz")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cache = tmp_path / "cache"
    code, _, err = runs.finish(runs.start(arguments(tmp_path, whole), cache, COMMAND))
    assert (code, err) == (0, "")
    chance = random.Random(0)
    ended = 0  # rounds in which there was nothing left to kill
    for number in range(KILLS):
        runner = runs.start(arguments(tmp_path, killed), cache, COMMAND)
        time.sleep(chance.uniform(0.5, 7.0))
        ended += runner.poll() is not None
        for pid in children(runner.pid) if number % 2 else ():
            os.kill(pid, signal.SIGKILL)
        runner.kill()
        runs.finish(runner)
    code, _, err = runs.finish(runs.start(arguments(tmp_path, killed), cache, COMMAND))
    assert (code, err) == (0, "")
    assert ended < KILLS // 2
    rows = rows_of(tmp_path)
    found, expected = results.read_results(killed), results.read_results(whole)
    lines = (killed / "results.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines if line.endswith("}")]
    assert sorted(keys) == sorted(cell.key for cell in cells(rows, SEEDS))
    assert found.keys() == expected.keys()
    for cell in cells(rows, SEEDS):
        assert without_times(found[cell.key]) == without_times(expected[cell.key])
        if cell.method != "supermix":  # whose checkpoints are the same but for the paths they name
            runs.assert_same_bits(killed / cell.folder, whole / cell.folder)
        assert not is_claimed(killed, cell.folder)
    tables = [
        table.make(rows, [without_times(record) for record in records.values()], SEEDS).markdown()
        for records in (found, expected)
    ]
    assert tables[0] == tables[1]

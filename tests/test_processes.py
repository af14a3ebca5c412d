"""Several processes train one model, lose one of them, and go on, as a user starts them."""

import random
import re
import time

import numpy as np
import pytest

from tests import processes, runs

OPTIONS = ("--config.num_groups=4", "--config.batch_size=16", "--config.run.checkpoint_steps=2")
OPTIONS = (*OPTIONS, "--config.epochs=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    runs.write_npz(folder / "data.npz", train=96)
    return folder


@pytest.fixture(scope="module")
def alone(place):
    argv = runs.arguments(place / "data.npz", place / "alone", *OPTIONS)
    code, _, err = runs.finish(runs.start(argv, place / "cache"))
    assert code == 0, err
    return place / "alone"


@pytest.mark.long
@pytest.mark.parametrize(("count", "fsdp"), [(2, False), (2, True), (4, False)])
def test_one_of_them_is_killed_and_all_go_on(place, alone, count, fsdp):
    """The others end by themselves; together they resume, to what one process trains alone."""
    name = f"{count}_{fsdp}"
    argv = runs.arguments(place / "data.npz", place / name, *OPTIONS, f"--config.run.fsdp={fsdp}")
    with processes.together(count, lambda _: argv, place / "cache") as first:
        runs.wait_for_checkpoint(first[0], place / name)
        time.sleep(random.Random(count).uniform(0, 0.2))
        first[-1].kill()
        codes = [code for code, _, _ in processes.finish(first)]
    assert codes[-1] == -9 and all(code not in (0, 143) for code in codes)
    with processes.together(count, lambda _: argv, place / "cache") as again:
        results = processes.finish(again)
    assert [code for code, _, _ in results] == [0] * count, results[0][2]
    assert re.search(r"resuming at step \d+ of 24", results[0][1])
    ours, theirs = runs.final_arrays(place / name), runs.final_arrays(alone)
    assert ours.keys() == theirs.keys()
    for key in theirs:  # sums in another order
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-5, err_msg=key)

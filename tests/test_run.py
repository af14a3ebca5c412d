"""Runs as a user starts them: what they leave behind, and how they go on after a kill."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests import runs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs.write_npz(folder / "data.npz")
    return folder


def arguments(place, name, *overrides):
    return runs.arguments(place / "data.npz", place / name, *overrides)


def run(place, name, *overrides):
    return runs.finish(runs.start(arguments(place, name, *overrides), place / "cache"))


def kill_and_resume(place, name, seed, *overrides):
    argv = arguments(place, name, *overrides)
    step, _ = runs.kill_and_resume(argv, argv, place / name, place / "cache", seed)
    assert 0 < step <= 18


# Six steps an epoch; checkpoints in the middle of them, so that a resumed run begins there.
STEPS = "--config.run.checkpoint_steps=2"
KILLS = int(os.environ.get("AUTOMIX_KILLS", "1"))


@pytest.fixture(scope="module")
def uninterrupted(place):
    code, out, err = run(place, "whole", STEPS, "--config.run.sample_epochs=2")
    assert code == 0, err
    return place / "whole", out


def test_what_a_run_leaves_behind(uninterrupted):
    workdir, out = uninterrupted
    summary = json.loads((workdir / "summary.json").read_text())
    assert set(summary["accuracy"]) == {
        "student_mix", "student_clean", "teacher_mix", "teacher_clean",
    }  # fmt: skip
    assert summary["steps"] == 18
    assert {"compile", "train", "evaluate", "checkpoint", "pictures"} <= set(summary["seconds"])
    assert [record["epoch"] for record in runs.records(workdir)] == [1, 2, 3]
    assert json.loads((workdir / "config.json").read_text())["epochs"] == 3
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == [
        "epoch_002.npz",
        "epoch_002.png",
        "epoch_003.npz",
        "epoch_003.png",
    ]
    kept = sorted(int(path.name) for path in (workdir / "checkpoints/last").iterdir())
    assert kept == [14, 16, 18]
    assert len(list((workdir / "checkpoints/best").iterdir())) == 1
    assert "student_mix" in out and "images/s" in out and "\r" not in out
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)  # the rate is the epoch's own, of six steps of 8 images
        seconds = record["time/train"] + record.get("time/input", 0.0)
        assert record["time/images_per_second"] == pytest.approx(48 / seconds)


def test_learns(uninterrupted):
    """Four classes that differ in brightness: chance is 25 %."""
    summary = json.loads((uninterrupted[0] / "summary.json").read_text())
    assert summary["accuracy"]["student_mix"]["best"] > 40


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_random_and_resumed_ends_with_the_same_bits(place, uninterrupted, seed):
    workdir, _ = uninterrupted
    name = f"killed{seed}"
    kill_and_resume(place, name, seed, STEPS)
    runs.assert_same_bits(place / name, workdir)
    first, second = (
        json.loads((path / "summary.json").read_text())["accuracy"]
        for path in (place / name, workdir)
    )
    assert first == second


@pytest.mark.long
def test_several_steps_in_a_dispatch(place, uninterrupted):
    """Four steps and then two in a program, killed and resumed; another program, other rounding.

    The checkpoint interval does not divide an epoch: the best epochs are saved all the same.
    """
    options = ("--config.steps_per_dispatch=4", "--config.run.checkpoint_steps=10")
    code, _, err = run(place, "scanned", *options)
    assert code == 0, err
    kill_and_resume(place, "scanned_killed", 0, *options)
    runs.assert_same_bits(place / "scanned_killed", place / "scanned")
    best = json.loads((place / "scanned/summary.json").read_text())["accuracy"]["student_mix"]
    saved = [int(path.name) for path in (place / "scanned/checkpoints/best").iterdir()]
    assert saved == [6 * best["best_epoch"]]
    ours, expected = runs.final_arrays(place / "scanned"), runs.final_arrays(uninterrupted[0])
    for key in ours:
        np.testing.assert_allclose(ours[key], expected[key], rtol=0, atol=1e-4, err_msg=key)


def test_a_finished_run_started_again_changes_nothing(place, uninterrupted):
    workdir, _ = uninterrupted
    before = {
        path: path.read_bytes() for path in workdir.rglob("checkpoints/**/*") if path.is_file()
    }
    expected = runs.records(workdir)
    code, out, err = run(place, "whole", STEPS, "--config.run.sample_epochs=2")
    assert code == 0, err
    assert "the run is at its end, step 18" in out
    assert runs.records(workdir) == expected
    assert all(path.read_bytes() == data for path, data in before.items())


def test_another_configuration_is_refused_and_loses_nothing(place, uninterrupted):
    workdir, _ = uninterrupted
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    code, _, err = run(place, "whole", STEPS, "--config.optimizer.lr=0.2")
    assert code == 66
    assert "config.optimizer.lr is 0.2 here and 0.1 there" in err and "--workdir" in err
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def interrupt(place, name, seed, *numbers):
    """Sends signals at a random time; returns exit code, seconds to the end, and what it said."""
    process = runs.start(arguments(place, name, STEPS), place / "cache")
    runs.wait_for_checkpoint(process, place / name)
    time.sleep(random.Random(seed).uniform(0, 0.2))
    begun = time.monotonic()
    for number in numbers:
        process.send_signal(number)
    code, _, err = runs.finish(process)
    return code, time.monotonic() - begun, err


@pytest.mark.parametrize("seed", range(max(1, KILLS // 2)))
def test_sigterm_loses_no_step(place, uninterrupted, seed):
    number = (signal.SIGTERM, signal.SIGINT)[seed % 2]
    code, seconds, err = interrupt(place, f"asked{seed}", seed, number)
    assert code == 128 + number and seconds < 30
    stopped = re.fullmatch(r"stopped and saved at step (\d+): the same command goes on\.\n", err)
    code, out, err = run(place, f"asked{seed}", STEPS)
    assert code == 0, err
    assert stopped and f"resuming at step {stopped.group(1)} of 18" in out
    runs.assert_same_bits(place / f"asked{seed}", uninterrupted[0])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(max(1, KILLS // 4)))
def test_a_second_signal_is_obeyed_at_once(place, uninterrupted, seed):
    numbers = (signal.SIGTERM, signal.SIGINT)[:: (-1) ** seed]
    code, seconds, err = interrupt(place, f"hurried{seed}", seed, *numbers)
    # The first may have been answered before the second came.
    assert code in {128 + number for number in numbers} and seconds < 2
    assert "the same command goes on" in err and "Traceback" not in err
    code, out, err = run(place, f"hurried{seed}", STEPS)
    assert code == 0 and "damaged" not in out, err
    runs.assert_same_bits(place / f"hurried{seed}", uninterrupted[0])


@pytest.mark.long
def test_nothing_around_it_has_a_part_in_it(place, uninterrupted, tmp_path):
    """Another order of sets, another time zone, language and folder."""
    around = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "de_DE.UTF-8"}
    argv = arguments(place, "around", STEPS)
    code, _, err = runs.finish(runs.start(argv, place / "cache", cwd=tmp_path, **around))
    assert code == 0, err
    runs.assert_same_bits(place / "around", uninterrupted[0])


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's /proc")
def test_memory_and_open_files_stay_as_they_are_for_ten_thousand_steps(place):
    data = runs.write_npz(place / "large.npz", train=8000)
    argv = runs.arguments(data, place / "longer", "--config.epochs=10")
    process = runs.start(argv, place / "cache")
    metrics, status = place / "longer/metrics.jsonl", Path(f"/proc/{process.pid}")
    memory, files = [], []
    while process.poll() is None:
        epochs = metrics.read_text().count("\n") if metrics.exists() else 0
        if epochs > len(memory):
            found = re.search(r"VmRSS:\s+(\d+) kB", (status / "status").read_text())
            memory.append(int(found.group(1)))
            files.append(len(list((status / "fd").iterdir())))
        time.sleep(0.02)
    code, _, err = runs.finish(process)
    assert code == 0, err
    assert len(memory) >= 9  # the last may end before it is looked at
    assert max(memory[2:]) < 1.05 * memory[2], memory
    assert max(files[2:]) <= files[2] + 2, files  # a checkpoint may be on its way


@pytest.mark.long
def test_diverging_training_stops_with_its_own_exit_code(place):
    code, _, err = run(place, "diverged", "--config.optimizer.lr=1e30")
    assert code == 65
    assert "config.optimizer.lr" in err and "Traceback" not in err
    assert (place / "diverged/numbers.json").exists()


@pytest.mark.parametrize("method", ["vanilla", "mixup", "cutmix"])
def test_plain_methods_run_through_the_same_loop(place, method):
    code, _, err = run(
        place,
        method,
        f"--config.method.name={method}",
        f"--config.teacher.enabled={method == 'mixup'}",
        "--config.run.sample_epochs=1",
        "--config.run.tensorboard=True",
        "--config.epochs=1",
    )
    assert code == 0, err
    accuracy = json.loads((place / method / "summary.json").read_text())["accuracy"]
    teacher = {"teacher_mix"} if method == "mixup" else set()
    assert set(accuracy) == {"student_mix"} | teacher
    assert (place / method / "samples/epoch_001.png").exists()
    assert any((place / method).glob("events.out.tfevents.*"))

"""The benchmark of a step runs, and writes what it says; how fast the steps are is not tested."""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = [
    "--model=resnet8",
    "--image-size=16",
    "--width=4",
    "--batch=32",
    "--repeats=2",
    "--warmup=1",
]


@pytest.fixture(scope="module")
def benchmark() -> types.ModuleType:
    """The module under test; `benchmarks` is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location("step_benchmark", ROOT / "benchmarks/step.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


@pytest.mark.long
def test_report(benchmark, tmp_path, capsys) -> None:
    """Every documented number is there, and AutoMix costs the FLOPs that it should."""
    out = tmp_path / "step.json"
    assert benchmark.main([*TINY, f"--out={out}"]) == 0
    report = json.loads(out.read_text())
    assert report.keys() == {"settings", "environment", "process_peak_bytes", "steps", "notes"}
    assert report["settings"]["batch"] == 32
    assert report["settings"]["augmentation"].startswith("flip")
    assert report["environment"].keys() == {
        "device", "backend", "python", "jax", "flax", "torch", "cpu_count", "torch_threads",
        "load_before", "load_after",
    }  # fmt: skip
    assert report["process_peak_bytes"].keys() == {"jax_device", "torch_device", "host_rss"}
    assert report["process_peak_bytes"]["host_rss"] > 10**8
    assert list(report["steps"]) == ["jax/vanilla", "jax/mixup", "jax/automix"]
    for step in report["steps"].values():
        assert step.keys() == {
            "flops", "flops_compiled", "temp_bytes", "argument_bytes", "output_bytes",
            "compile_seconds", "wall_seconds", "cpu_seconds", "images_per_second", "to_vanilla",
            "to_jax",
        }  # fmt: skip
        for times in (step["wall_seconds"], step["cpu_seconds"], step["to_vanilla"]["wall"]):
            assert len(times["all"]) == 2
            assert 0 < times["min"] <= times["median"] <= times["max"] < math.inf
        assert step["images_per_second"] == pytest.approx(32 / step["wall_seconds"]["median"])
        assert step["temp_bytes"] > 0
    assert report["steps"]["jax/vanilla"]["to_vanilla"]["wall"]["median"] == 1
    assert 2 < report["steps"]["jax/automix"]["to_vanilla"]["flops"] < 4
    assert "jax/automix" in capsys.readouterr().out


def test_ratios_are_taken_within_rounds(benchmark) -> None:
    """A round in which the machine was slow for both says as much as the others."""
    base = benchmark.Case("jax/vanilla", print, {}, wall=[1, 100, 2], cpu=[1, 1, 1])
    case = benchmark.Case("jax/automix", print, {}, wall=[3, 300, 2], cpu=[2, 3, 4])
    found = benchmark.ratios(case, base)
    assert found["wall"]["all"] == [3, 3, 1]
    assert found["wall"]["median"] == 3
    assert found["cpu"]["median"] == 3
    assert found["flops"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch=0"], "'0' must be a whole number"),
        (["--repeats=many"], "'many' must be a whole number"),
        (["--preset=r34"], "invalid choice: 'r34'"),
        (["--model=resnet9"], "invalid choice: 'resnet9'"),
        (["--bath=4"], "--bath=4"),
    ],
)
def test_flags_that_cannot_be_read(benchmark, capsys, flags, message) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch=3"], "batch_size is 3"),
        (["--layer=stage9"], "'stage9'"),
        (["--out=/no/such/folder/step.json"], "--out=/no/such/folder/step.json"),
        (["--torch"], "no resnet8"),
        (["--torch", "--model=resnet18", "--dtype=bfloat16"], "--dtype=auto"),
    ],
)
def test_flags_that_cannot_work(benchmark, capsys, flags, message) -> None:
    if "--torch" in flags:
        pytest.importorskip("torch", reason="PyTorch, the benchmark's peer, is not installed")
    assert benchmark.main([*TINY, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_missing_torch(benchmark, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert benchmark.main([*TINY, "--torch"]) == 2
    error = capsys.readouterr().err
    assert "--torch needs PyTorch" in error and error.count("\n") == 1

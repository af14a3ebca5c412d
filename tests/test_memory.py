"""What a program needs, what a device has, and smaller parts where the one exceeds the other."""

import functools
import gc
import json
import types
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from jax.sharding import NamedSharding, PartitionSpec

from automix_jax.config import default_config
from automix_jax.errors import ConfigError, MemoryLimitError
from automix_jax.train import memory
from automix_jax.train.memory import Estimate
from automix_jax.validation import validate
from tests.steps import data_mesh

# As they have been reported of GPUs and TPUs, at compile time and at run time; CPU's come below.
OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.",
    "RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB (3206250496B) on device ordinal 0",
    "RESOURCE_EXHAUSTED: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "INTERNAL: NCCL operation ncclCommInitRank(&comm, nranks, id, rank) failed: unhandled cuda"
    " error (run with NCCL_DEBUG=INFO for details). Last NCCL warning(error) log entry (may be"
    " unrelated) 'Cuda failure 'out of memory''.",
    "UNKNOWN: Failed to determine best cudnn convolution algorithm for: %cudnn-conv. Original"
    " error: RESOURCE_EXHAUSTED: Failed to allocate request for 176.00MiB on device ordinal 0",
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm."
    " Used 21.90G of 7.48G hbm. Exceeded hbm capacity by 14.42G.",
    "RESOURCE_EXHAUSTED: Compilation failure: Aborting compilation early because it's unlikely to"
    " have enough memory. Requires 3.47E, has 14.49G available.",
    "RESOURCE_EXHAUSTED: Attempting to reserve 6.48G at the bottom of memory. That was not"
    " possible.",
    "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 4.39G. That was not"
    " possible. There are 2.30G free.; (0x0x0_HBM0)",
)
OTHERS = (
    JaxRuntimeError("RESOURCE_EXHAUSTED: Received message larger than max (5242898 vs. 4194304)"),
    JaxRuntimeError("RESOURCE_EXHAUSTED: /cache/program; No space left on device"),
    JaxRuntimeError("INVALID_ARGUMENT: Executable expected parameter 0 of size 4 but got 8"),
    ValueError("out of memory"),
    KeyboardInterrupt(),
)


# -- what a program needs --------------------------------------------------------------------------


def test_estimate_of_known_arrays():
    """Every argument and result by its bytes, and a product that is held until it is summed."""

    def program(state, x):
        return state + 1, (x @ x).sum()

    state, x = jnp.zeros(100), jnp.zeros((50, 50))
    aligned = 128  # what a buffer may be longer than its array
    for donated, outputs in (((), state.nbytes + 4), ((0,), 4)):
        found = memory.estimate(jax.jit(program, donate_argnums=donated).lower(state, x).compile())
        assert found.arguments == state.nbytes + x.nbytes
        assert 0 <= found.outputs - outputs <= 2 * 8  # and the two pointers to the results
        assert 0 <= found.temporaries - x.nbytes < aligned
        assert found.total == found.arguments + found.outputs + found.temporaries


def test_estimate_is_of_one_device():
    """An eighth of what is split among eight, all of what each of them has."""
    mesh = data_mesh(8)
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    images, weights = jnp.zeros((64, 128)), jnp.zeros((128, 4))
    program = jax.jit(lambda x, w: x @ w, in_shardings=(split, whole), out_shardings=split)
    found = memory.estimate(program.lower(images, weights).compile())
    assert found.arguments == images.nbytes // 8 + weights.nbytes
    assert found.outputs == 64 * 4 * 4 // 8


def test_no_estimate(monkeypatch):
    """Where a backend gives no account nothing is made up, and nothing refused."""
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    found = memory.estimate(jax.jit(jnp.sin).lower(0.0).compile())
    assert found is None
    memory.check_fits(found, 1)


def test_description():
    found = Estimate(arguments=1_150_000_000, temporaries=1_900_000_000, outputs=50_000_000)
    assert found.describe(79_200_000_000) == (
        "memory a device: 3.1 GB (state and data 1.2 GB, activations 1.9 GB) of 79.2 GB"
    )
    assert Estimate(700, 12_300_000, 0).describe() == (
        "memory a device: 12 MB (state and data 700 bytes, activations 12 MB)"
    )


def test_what_is_too_large_is_refused():
    found = Estimate(2_000_000_000, 1_000_000_000, 1)
    memory.check_fits(found, found.total)
    memory.check_fits(found, None)
    with pytest.raises(MemoryError, match=r"^3\.0 GB are needed, a device has 2\.5 GB$"):
        memory.check_fits(found, 2_500_000_000)


# -- what a device has -----------------------------------------------------------------------------


def test_cpu_devices_share_the_hosts_memory():
    machine = memory.host_memory()
    assert 10**8 < machine < 10**14
    assert memory.capacity(jax.devices()[0]) == machine // 8


@pytest.mark.parametrize("stats", [{"bytes_limit": 7, "bytes_in_use": 5}, {}, None])
def test_an_accelerator_knows_its_limit(unchecked, stats):
    device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    assert memory.capacity(device) == (7 if stats else None)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/user/job\n", {"user/memory.max": "4096", "user/job/memory.max": "max"}, 4096),
        ("0::/user/job\n", {"user/memory.max": "8192", "user/job/memory.max": "4096"}, 4096),
        ("0::/of/the/host\n", {"memory.max": "4096"}, 4096),
        ("5:cpu:/a\n4:memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": "4096"}, 4096),
        ("4:cpu,memory:/job\n", {"memory/memory.limit_in_bytes": "4096"}, 4096),
        ("5:cpu:/job\n", {"memory/memory.limit_in_bytes": "4096"}, None),
        ("4:memory:/\n0::/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ("0::/\n", {}, None),
        (None, {"memory.max": "4096"}, None),
    ],
)
def test_limits_of_control_groups(tmp_path, groups, files, limit):
    """The least of a group's and those above it; without one the whole machine."""
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    machine = memory.host_memory(tmp_path / "nothing")
    assert memory.host_memory(tmp_path) == (limit or machine)


# -- when it does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_out_of_memory(text):
    assert memory.is_out_of_memory(JaxRuntimeError(text))


@pytest.mark.parametrize(
    "allocate", [lambda: jnp.zeros(2**46, jnp.uint8), lambda: np.zeros(2**60, np.uint8)]
)
def test_out_of_memory_here(allocate):
    """More than an address space: the errors of XLA's CPU backend and of NumPy."""
    with pytest.raises((JaxRuntimeError, MemoryError)) as caught:
        jax.block_until_ready(allocate())
    assert memory.is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", OTHERS)
def test_other_errors(error):
    assert not memory.is_out_of_memory(error)


@pytest.mark.parametrize(("groups", "devices"), [(1, 1), (1, 8), (6, 1), (6, 2), (6, 4), (8, 8)])
def test_parts_are_what_the_configuration_takes(groups, devices):
    config = default_config()
    config.num_groups, config.batch_size = groups, 48 * groups
    taken = []
    for parts in range(1, groups + 2):
        config.accumulation = parts
        try:
            validate(config, devices)
            taken.append(parts)
        except ConfigError as error:
            assert "config.accumulation" in str(error)
    assert memory.parts(groups, devices) == tuple(taken)


def exhausted(largest):
    """An attempt that has memory for `largest` of 8 groups at a time, and what it was asked for."""
    asked = []

    def attempt(parts):
        asked.append(parts)
        if 8 // parts > largest:
            raise JaxRuntimeError(f"{OUT_OF_MEMORY[0]}\nBuffer 1: 4 GB, of {parts}")
        return f"trained in {parts}"

    return attempt, asked


@pytest.mark.parametrize(
    ("largest", "expected"), [(8, [1]), (7, [1, 2]), (2, [1, 2, 4]), (1, [1, 2, 4, 8])]
)
def test_parts_grow_until_they_fit(largest, expected):
    (attempt, asked), said = exhausted(largest), []
    result = memory.with_parts(memory.parts(8, 1), attempt, said.append, "use less")
    assert asked == expected
    assert result == f"trained in {expected[-1]}"
    assert len(said) == len(expected) - 1
    for line, before, after in zip(said, expected, expected[1:], strict=False):
        assert line == (
            f"the step does not fit into memory with config.accumulation={before}"
            " (RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes):"
            f" trying {after}, in smaller parts"
        )


@pytest.mark.parametrize("choices", [(1,), (1, 2, 4)])
def test_nothing_fits(choices):
    (attempt, asked), said = exhausted(0), []
    with pytest.raises(MemoryLimitError) as caught:
        memory.with_parts(choices, attempt, said.append, "use less")
    assert asked == list(choices)
    assert len(said) == len(choices) - 1
    assert str(caught.value) == (
        f"a training step does not fit into memory with config.accumulation={choices[-1]}"
        " (RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes): use less."
    )
    assert caught.value.exit_code == 68


@pytest.mark.parametrize("error", OTHERS)
def test_other_errors_are_no_reason_to_try_again(error):
    asked = []

    def attempt(parts):
        asked.append(parts)
        raise error

    with pytest.raises(type(error)) as caught:
        memory.with_parts((1, 2), attempt, print, "use less")
    assert caught.value is error
    assert asked == [1]


class Holder:
    """Holds an array, and itself, which only a search for cycles lets go."""

    def __init__(self, array):
        self.array, self.me = array, self


@pytest.mark.parametrize("kept", [False, True])
def test_a_failed_attempt_holds_nothing(kept):
    """The array of its frame, that of a cycle and that which the error's cause came from.

    They go although somebody keeps the error, as a future or a log may do.
    """
    held, live, errors = [], [], []

    def inner(array):
        more = array + 1
        held.append(weakref.ref(more))
        return jnp.zeros(2**46, jnp.uint8).block_until_ready(), more

    def attempt(parts):
        live.append(sum(array.nbytes for array in jax.live_arrays()))
        if parts == 2:
            return [reference() for reference in held]
        array = jnp.zeros(1_000_000)
        holder = Holder(array * 2)
        held.extend([weakref.ref(array), weakref.ref(holder), weakref.ref(holder.array)])
        try:
            inner(array)
        except JaxRuntimeError as error:
            errors.extend([error] * kept)
            raise MemoryError("a step") from error

    gc.disable()  # else it may be luck
    try:
        assert memory.with_parts((1, 2), attempt, lambda line: None, "") == [None] * 4
    finally:
        gc.enable()
    assert live[1] <= live[0] < live[0] + 4_000_000


def test_a_program_in_as_many_parts_as_fit():
    """By the estimates of its programs: four groups at once are too much, one at a time is not."""

    @functools.cache
    def needed(parts):
        def loss(weights, images):
            return jnp.square(jnp.tanh(images @ weights)).sum()

        def gradients(weights, images):
            grouped = images.reshape(parts, -1, images.shape[-1])
            total = jnp.zeros_like(weights)
            return jax.lax.scan(lambda t, x: (t + jax.grad(loss)(weights, x), None), total, grouped)

        shapes = jax.ShapeDtypeStruct((8, 256), "float32"), jax.ShapeDtypeStruct((64, 8), "float32")
        return memory.estimate(jax.jit(gradients).lower(*shapes).compile())

    def attempt(parts, limit):
        memory.check_fits(needed(parts), limit)
        return parts

    assert needed(4).arguments == needed(1).arguments
    for limit, expected in ((needed(1).total, 1), (needed(1).total - 1, 4), (needed(4).total, 4)):
        within = functools.partial(attempt, limit=limit)
        assert memory.with_parts((1, 4), within, lambda line: None, "") == expected
    with pytest.raises(MemoryLimitError, match=r"a device has .*: use less"):
        within = functools.partial(attempt, limit=needed(4).total - 1)
        memory.with_parts((1, 4), within, lambda line: None, "use less")


@pytest.mark.parametrize(
    ("backend", "devices", "fields", "expected"),
    [
        (
            "gpu",
            8,
            {"num_groups": 8, "batch_size": 256, "compute_dtype": "float32"},
            "use config.model.remat=True, config.run.fsdp=True, config.compute_dtype=bfloat16, more"
            " devices, a smaller config.batch_size or a larger config.num_groups, whose smaller"
            " groups change the numbers",
        ),
        (
            "tpu",
            8,
            {"num_groups": 16, "batch_size": 64, "model.remat": True, "run.fsdp": True,
             "accumulation": 1},
            "use config.accumulation=0 or more devices",
        ),
        ("gpu", 1, {"batch_size": 4, "model.remat": True, "accumulation": 1}, "use more devices"),
        (
            "cpu",
            1,
            {"batch_size": 100, "compute_dtype": "float32", "num_groups": 20},
            "use more devices or a smaller config.batch_size",
        ),
    ],
)  # fmt: skip
def test_advice(monkeypatch, backend, devices, fields, expected):
    """What has been done already, or would not help, is not among it."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = default_config()
    config.update_from_flattened_dict(fields)
    assert memory.advice(config, devices) == expected


# -- what is published -----------------------------------------------------------------------------


def test_published_figures():
    """The table of docs/memory.md says what the benchmark has written."""
    docs = Path(__file__).resolve().parents[1] / "docs"
    report = json.loads((docs / "results/memory.json").read_text())
    text = (docs / "memory.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    rows = {row[1].split(",")[0]: row[2:-1] for row in rows if len(row) == 12}
    for title, case in (("R-18", "r18"), ("R-50", "r50"), ("DeiT-S", "deit_s")):
        found = report["cases"][case]
        kept = ("gradients", "kept", "kept_remat", "kept_parts", "kept_remat_parts")
        assert rows[title] == [
            f"{found['state'] / 1e9:.2f}",
            f"{found['state_fsdp'] / 1e9:.3f}",
            *(f"{found[key] / 1e9:.2f}" for key in kept),
            f"{found['flops'] / 1e12:.2f}",
            f"{found['flops_remat'] / 1e12:.2f} (+{found['flops_remat'] / found['flops'] - 1:.0%})"
            .replace("%", " %"),
        ]  # fmt: skip
    compiled = [f"{size / 1e9:.2f}" for size in report["compiled_float32"]["r18"].values()]
    words = "reserves {} GB for activations and gradients, {} with `remat`, {} in four parts, {}"
    assert words.format(*compiled) in " ".join(text.split())

"""Eight virtual CPU devices, float64 on request, and the recorded numbers where they are."""

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Read when JAX makes its first array, which no import does. Tests compile much and compute little:
# without LLVM's optimization a step compiles in half the time.
_FLAGS = {"--xla_force_host_platform_device_count": 8, "--xla_backend_optimization_level": 0}
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()

# Traces and programs are millions of objects that stay: to look through them as often as Python
# does by default takes a fifth of the time.
gc.set_threshold(200_000, 50, 100)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Lets go of what a file has compiled, of which the next has no use.

    Each program is several mappings of memory, and Linux gives a process 65,530 of them: XLA
    crashes beyond.
    """
    yield
    jax.clear_caches()
    gc.collect()


@contextlib.contextmanager
def x64() -> Iterator[None]:
    """Float64 inside the block; by the option, as the context manager's name changes with JAX."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.fixture
def float64() -> Iterator[None]:
    """Runs one test in float64."""
    with x64():
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Runs one test as users run the library: wrong arguments reach its own errors."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def vectors() -> Path:
    """The folder of recorded numbers; skips the test where there is none."""
    from tests.parity import default_folder

    folder = default_folder()
    if folder is None:
        pytest.skip("no recorded vectors here; set AUTOMIX_PARITY_DIR")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked as long, unless `make test-long` asks for it."""
    if os.environ.get("AUTOMIX_LONG") == "all":
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in set(long)]

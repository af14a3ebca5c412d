"""Memory: what a program needs, what a device has, and a smaller part where the two do not agree.

A device takes its groups of the batch in `config.accumulation` parts, with the same numbers. The
smallest part is one group: batch norm, ratios and pairs act within it.
"""

import contextlib
import dataclasses
import gc
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from automix_jax.errors import MemoryLimitError
from automix_jax.validation import MIN_GROUP

T = TypeVar("T")


# -- what a program needs --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The memory that a compiled program needs while it runs, in bytes of one device.

    Attributes:
        arguments: what it is given: state, metrics, images in memory or a batch of them.
        temporaries: what it makes on the way: activations, gradients.
        outputs: what it returns in buffers of its own, not in those of donated arguments.
    """

    arguments: int
    temporaries: int
    outputs: int

    @property
    def total(self) -> int:
        """All of it, donated buffers once."""
        return self.arguments + self.temporaries + self.outputs

    def describe(self, limit: int | None = None) -> str:
        """One line for a log; `limit` is what the device has, where that is known."""
        held = self.arguments + self.outputs
        text = (
            f"memory a device: {_size(self.total)} (state and data {_size(held)}, activations"
            f" {_size(self.temporaries)})"
        )
        return text if limit is None else f"{text} of {_size(limit)}"


def estimate(compiled: jax.stages.Compiled) -> Estimate | None:
    """The memory that a program needs by its compiler's account, None where it gives none.

    What else a device holds is not in it: other programs and their arguments, libraries' buffers.
    """
    found = compiled.memory_analysis()
    if found is None:
        return None
    return Estimate(
        arguments=found.argument_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
    )


def check_fits(found: Estimate | None, limit: int | None) -> None:
    """Refuses a program before it runs: a system that is out of memory may end the process.

    Args:
        found: what the program needs, where that is known.
        limit: bytes that the device has, where that is known.

    Raises:
        MemoryError: if it needs more than there is.
    """
    if found is not None and limit is not None and found.total > limit:
        raise MemoryError(f"{_size(found.total)} are needed, a device has {_size(limit)}")


def _size(count: int) -> str:
    """Bytes for people: 3.1 GB, 12 MB, 700 bytes."""
    for unit, name, digits in ((10**9, "GB", 1), (10**6, "MB", 0)):
        if count >= unit:
            return f"{count / unit:.{digits}f} {name}"
    return f"{count} bytes"


# -- what a device has -----------------------------------------------------------------------------


def capacity(device: jax.Device) -> int | None:
    """The bytes that this process may use on a device, None where that is not known.

    On a GPU and a TPU it is the allocator's limit, a share of the device's memory. The CPU devices
    of a process share what the machine, or the process's control group, has.
    """
    if device.platform == "cpu":
        host = host_memory()
        return None if host is None else host // jax.local_device_count(backend="cpu")
    return (device.memory_stats() or {}).get("bytes_limit")


def host_memory(root: Path = Path("/")) -> int | None:
    """The machine's memory in bytes, or less where the process's control group may use less.

    Args:
        root: of the file systems "proc" and "sys".

    Returns:
        The bytes, or None on systems that do not say.
    """
    if not hasattr(os, "sysconf"):  # Windows
        return None
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of the process's control group and of all above it, of version 1 and 2."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in groups:  # 4:memory:/user/job in version 1, 0::/user/job in version 2
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # Inside a container the path may be one of the host, which only its top stands for.
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                yield from _limit(group / name)


def _limit(file: Path) -> Iterator[int]:
    """The number in a file, where there is one: "max" is none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return
    if text.isdecimal():
        yield int(text)


# -- when it does not fit --------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was exhausted, a device's or the host's.

    XLA has one status for all that runs out, disks and message sizes too, and wraps the errors of
    CUDA's libraries in others: the words decide. Examples:

        GPU   RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.
        GPU   RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB on device ordinal 0
        GPU   INTERNAL: NCCL operation ncclCommInitRank failed: Cuda failure 'out of memory'
        TPU   RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory
              space hbm. Used 21.90G of 7.48G hbm.
        TPU   RESOURCE_EXHAUSTED: Attempting to reserve 6.48G at the bottom of memory. That was not
              possible.
        CPU   RESOURCE_EXHAUSTED: Out of memory allocating 140737488355328 bytes.
    """
    if isinstance(error, MemoryError):  # Python's, NumPy's, `check_fits`'s
        return True
    if not isinstance(error, JaxRuntimeError):
        return False
    text = str(error)
    exhausted = "RESOURCE_EXHAUSTED" in text and re.search("memory|allocat", text, re.IGNORECASE)
    return bool(exhausted or re.search("out[ _]of[ _]memory", text, re.IGNORECASE))


def parts(num_groups: int, devices: int) -> tuple[int, ...]:
    """The values that `config.accumulation` can have, from one part to one group at a time.

    Where the groups do not divide among the devices, each device computes a share of every group,
    in one part.
    """
    of_device = 1 if num_groups % devices else num_groups // devices
    return tuple(n for n in range(1, of_device + 1) if of_device % n == 0)


def advice(config: ConfigDict, devices: int) -> str:
    """What helps a step that does not fit into memory: the end of a sentence."""
    accelerator = jax.default_backend() != "cpu"
    remedies = {
        "config.accumulation=0": 0 < config.accumulation < parts(config.num_groups, devices)[-1],
        # XLA's CPU backend takes the second computation for a copy of the first, and drops it.
        "config.model.remat=True": accelerator and not config.model.remat,
        "config.run.fsdp=True": devices > 1 and not config.run.fsdp,
        "config.compute_dtype=bfloat16": accelerator and config.compute_dtype == "float32",
        "more devices": True,
        "a smaller config.batch_size": config.batch_size > MIN_GROUP * config.num_groups,
        "a larger config.num_groups, whose smaller groups change the numbers": (
            config.batch_size >= 2 * MIN_GROUP * config.num_groups
        ),
    }
    *others, last = [remedy for remedy, helps in remedies.items() if helps]
    return f"use {', '.join(others)} or {last}" if others else f"use {last}"


@contextlib.contextmanager
def refused(advice: str) -> Iterator[None]:
    """Turns a lack of memory, for which smaller parts of a step are no help, into our error.

    Raises:
        MemoryLimitError: with the advice.
    """
    try:
        yield
    except (JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error) or "MemoryError").splitlines()[0].rstrip(".")
        raise MemoryLimitError(
            f"memory ran out ({reason}): {advice}; the same command goes on from the last"
            " checkpoint."
        ) from error


def with_parts(
    choices: Sequence[int], attempt: Callable[[int], T], say: Callable[[str], None], advice: str
) -> T:
    """Makes an attempt in one part and, as long as memory does not suffice, in more of them.

    Before the next attempt everything that the last one held is let go. Arrays that both need have
    to be made in each: a step that fails may already have taken over its state's buffers.

    Args:
        choices: values of `config.accumulation`, ascending.
        attempt: takes one of them.
        say: shows a line.
        advice: what helps when none of them is enough.

    Returns:
        What the first attempt that fits returns.

    Raises:
        MemoryLimitError: if the last one did not fit either.
    """
    for i, count in enumerate(choices):
        try:
            return attempt(count)
        except (JaxRuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error) or "MemoryError").splitlines()[0].rstrip(".")
            _let_go(error)
        gc.collect()  # once the error is gone too: tracers and frames refer to each other
        failed = f"does not fit into memory with config.accumulation={count} ({reason})"
        if i + 1 < len(choices):
            say(f"the step {failed}: trying {choices[i + 1]}, in smaller parts")
    raise MemoryLimitError(f"a training step {failed}: {advice}.")


def _let_go(error: BaseException | None) -> None:
    """Clears the local variables of the calls that an error, and those that led to it, came from.

    An error keeps its traceback, and a traceback every array that a function on the way held; and
    somebody may keep the error, such as a log or a future.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__

"""How AutoMix would scale from 1 to 1,024 devices: a model on paper, nothing of it measured.

    python benchmarks/scaling.py --out docs/results/scaling.json --picture docs/images/scaling.png

The bytes that devices exchange are counted in the real train state; speeds are published figures;
what is assumed stands below as a constant. `docs/scaling.md` explains the formulas. The picture
needs matplotlib.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # automix_jax of this checkout

DEVICES = tuple(2**i for i in range(11))
FLOAT = 4  # bytes of a gradient, a parameter and a statistic
IMAGENET, IMAGENET_TEST = 1_281_167, 50_000  # images
SIDE = 224

# Counted or measured in this project.
CORE = {"crop": 330, "rand_augment": 250}  # images/s that a CPU core decodes; docs/performance.md
FILE = 117e3  # bytes of a photograph of ImageNet; docs/performance.md
OPERATIONS = {"resnet50": 485, "deit_s": 663}  # convolutions and products of a lowered step
FORWARD_SHARE = 1 / 8.829  # of a step's arithmetic: one network on one image, without gradients
# A step compiled for more devices than groups (8 and 4): its all-reduces, and how many times the
# parameters' bytes they carry (3.5 and 3.9).
CROSSED, CROSSED_REDUCED = {"resnet50": 888, "deit_s": 8}, 4

# Assumed.
PEAK_SHARE, MEMORY_SHARE = 0.8, 0.9  # of the published peaks that is reachable
SLOW_PEAK = 0.5  # the slow estimate: half of that in convolutions, and no overlap with memory
KERNELS, KERNEL = 3, 3e-6  # device programs an operation, and the least seconds of one
UPDATE_PASSES = 12  # over the parameters' bytes: optimizer, teacher, check for finite numbers
BULK, SMALL = 8.4e-6, 6.8e-6  # seconds that NCCL's tuning model gives any large, small collective
STORAGE = 1e9  # bytes/s to which a checkpoint is written
RESTART = 10  # minutes from a failure to the next step: noticing, queueing, compiling
FAILURES = 419 / (54 * 16_384)  # a device and day: arXiv:2407.21783, table 5 (Llama 3, H100)


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Machines of one kind. Seconds, bytes, and bytes/s or FLOP/s of one device.

    Attributes:
        name: as in the tables.
        flops, memory: published peaks: bfloat16 FLOP/s, and the memory's bytes/s.
        host: devices a host.
        vcpus: virtual CPUs a host, two to a core.
        domain: devices that the fast links join.
        axes: of the torus that they form; 0 for a switch.
        closes: length from which an axis of the torus is a ring.
        link: one way, of the whole switch port or of one link of the torus.
        hop: between neighbours, for a large and a small message.
        network: one way between domains.
        far: over the network, for a large and a small message.
        sources: of these figures.
    """

    name: str
    flops: float
    memory: float
    host: int
    vcpus: int
    domain: int
    axes: int
    closes: int
    link: float
    hop: tuple[float, float]
    network: float
    far: tuple[float, float]
    sources: tuple[str, ...]


_NCCL = "hops: github.com/NVIDIA/nccl src/graph/tuning.cc, hwLatencies of NVLINK and NET"
_NVLINK = (3.4e-6, 0.6e-6)  # ring: Simple for large, LL for small messages
_NET = (14e-6, 5e-6)  # tree
_BOOK = "link: jax-ml.github.io/scaling-book/tpus; hop: 1 us is assumed, the book has 0.5 to 1"
_GCP = "vCPUs: docs.cloud.google.com/compute/docs/accelerator-optimized-machines"
_GPUS = "link: 370 GB/s of 450 (github.com/NVIDIA/nccl-tests/issues/212), without NVLink SHARP"
_INFINIBAND = "network: 400 Gb/s a GPU (A3 Ultra, DGX H100), of which 90 % is assumed reachable"
_DCN = "network: 6.4 Tb/s a pod; far: 100 us is assumed"
_TPU_HOP, _DCN_HOP = (1e-6, 1e-6), (100e-6, 100e-6)
HARDWARE = (
    Hardware("H200, InfiniBand", 989e12, 4.8e12, 8, 224, 8, 0, 0, 370e9, _NVLINK, 45e9, _NET, (
        "nvidia.com/en-us/data-center/h200", _GPUS, _INFINIBAND, _NCCL, _GCP + " (a3-ultragpu-8g)",
    )),
    Hardware("H100, InfiniBand", 989e12, 3.35e12, 8, 208, 8, 0, 0, 370e9, _NVLINK, 45e9, _NET, (
        "nvidia.com/en-us/data-center/h100", _GPUS, _INFINIBAND, _NCCL, _GCP + " (a3-highgpu-8g)",
    )),
    Hardware("A100, Ethernet", 312e12, 1.555e12, 8, 96, 8, 0, 0, 235e9, _NVLINK, 1.25e9,
        (50e-6, 50e-6), (
        "nvidia.com/en-us/data-center/a100 (40 GB)", "link: NCCL's limit, tuning.cc", _NCCL,
        "network: 100 Gb/s a host of 8 (docs.cloud.google.com/compute/docs/gpus/"
        "gpu-network-bandwidth, A2), of which 80 % is assumed reachable by TCP; far: 50 us is"
        " assumed", _GCP + " (a2-highgpu-8g)",
    )),
    Hardware("TPU v5e", 197e12, 0.819e12, 4, 112, 256, 2, 16, 50e9, _TPU_HOP, 3.125e9, _DCN_HOP, (
        "docs.cloud.google.com/tpu/docs/v5e", _BOOK, _DCN,
    )),
    Hardware("TPU v4", 275e12, 1.228e12, 4, 240, 4096, 3, 4, 45e9, _TPU_HOP, 3.125e9, _DCN_HOP, (
        "docs.cloud.google.com/tpu/docs/v4", _BOOK,
    )),
    Hardware("TPU v5p", 459e12, 2.765e12, 4, 208, 6144, 3, 4, 100e9, _TPU_HOP, 6.25e9, _DCN_HOP, (
        "docs.cloud.google.com/tpu/docs/v5p", _BOOK,
    )),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that AutoMix trains at 224 x 224.

    Attributes:
        name: of the model.
        recipe: its configuration.
        flops: of a step, for each image: counted in the lowered step.
        traffic: bytes to and from the device's memory for each image. Estimated in bfloat16: for
            convolutional networks 31 passes over the outputs of all convolutions, 14 for each of
            the student's, 5 for the teacher's features and 12 for its mixed images, over two.
        positions, channels: of MixBlock's projected features.
    """

    name: str
    recipe: str
    flops: float
    traffic: float
    positions: int
    channels: int


RESNET = Network("resnet50", "configs/imagenet_r50.py", 70.4e9, 0.994e9, 14 * 14, 512)
DEIT = Network("deit_s", "configs/imagenet_deit_s.py", 78.7e9, 0.491e9, 14 * 14, 192)


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Of a train state; `reduced` is what one all-reduce of a step carries."""

    params: int
    teacher: int
    reduced: int
    state: int


@dataclasses.dataclass(frozen=True)
class Case:
    """What a run's batch is: fixed, or with a number of images and a group for each device."""

    name: str
    network: Network
    batch: int = 0
    groups: int = 0
    per_device: int = 0


WEAK = Case("64 a device, a group each", RESNET, per_device=64)
FIXED = (
    Case("256 in 4 groups", RESNET, 256, 4),
    Case("256 in 8 groups", RESNET, 256, 8),
    Case("256 in 32 groups", RESNET, 256, 32),
    Case("DeiT-S, 1,024 in 8 groups", DEIT, 1024, 8),
)


def count_bytes(network: Network) -> Bytes:
    """Counts a network's train state, of which only the shapes are made."""
    import jax

    from automix_jax import recipes
    from automix_jax.data import Facts
    from automix_jax.train.build import build, make_mesh, named_key

    config = recipes.load_config(str(ROOT / network.recipe))
    classes = tuple(map(str, range(config.data.num_classes)))
    facts = Facts("imagenet", classes, (SIDE, SIDE, 3), IMAGENET, IMAGENET_TEST)
    experiment = build(config, facts, make_mesh(jax.devices()[:1]))
    state = jax.eval_shape(experiment.create, named_key(0, "state"))

    def size(*trees: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))

    statistics = size(state.student_stats, state.teacher_stats)
    return Bytes(
        params=size(state.params),
        teacher=size(state.teacher),
        reduced=size(state.params) + statistics + FLOAT * len(experiment.objective.metric_names),
        state=size(state.params, state.teacher, state.opt_state) + statistics,
    )


def rate(hardware: Hardware, network: Network, fast: bool) -> float:
    """Images/s of one device: at the better of two limits, or with both in turn and slow."""
    compute = network.flops / (PEAK_SHARE * hardware.flops)
    traffic = network.traffic / (MEMORY_SHARE * hardware.memory)
    return 1 / (max(compute, traffic) if fast else compute / SLOW_PEAK + traffic)


def torus(devices: int, axes: int) -> list[int]:
    """Lengths of the axes of a torus of 2^k devices, as even as they can be."""
    lengths = [1] * axes
    for _ in range(round(math.log2(devices))):
        lengths[lengths.index(min(lengths))] *= 2
    return lengths


def inside(hardware: Hardware, devices: int) -> tuple[float, int]:
    """Bytes/s that a device sends, and the hops of one way round, among the fast links."""
    if not hardware.axes:
        return hardware.link, devices - 1
    links, hops = 0, 0
    for length in torus(devices, hardware.axes):
        ring = length >= hardware.closes
        links += 0 if length == 1 else 2 if ring else 1
        hops += length // 2 if ring else length - 1
    return hardware.link * links, hops


def spread(hardware: Hardware, devices: int, size: float, small: bool = False) -> float:
    """Seconds to gather `size` bytes on every device, or to reduce and scatter them."""
    if devices == 1:
        return 0.0
    near = min(devices, hardware.domain)
    far = devices // near
    speed, hops = inside(hardware, near)
    seconds = (near - 1) / near * size / speed + hops * hardware.hop[small] if near > 1 else 0.0
    if far > 1:
        seconds += (far - 1) / far * size / near / hardware.network
        seconds += math.log2(far) * hardware.far[small]
    return seconds + (SMALL if small else BULK) / 2


def all_reduce(hardware: Hardware, devices: int, size: float, small: bool = False) -> float:
    """Seconds of an all-reduce: reduced and scattered, and gathered again."""
    return 2 * spread(hardware, devices, size, small)


def gathered(network: Network, batch: int) -> float:
    """Bytes that every device gets where groups are split: images, and MixBlock's projections."""
    images = SIDE * SIDE * 3 * FLOAT  # normalised: the whole batch comes to every device
    return batch * (images + network.positions * (network.channels + 1) * FLOAT)


def step(
    hardware: Hardware, case: Case, devices: int, counted: Bytes, fast: bool, fsdp: bool = False
) -> dict[str, float] | None:
    """Seconds of a step by what they go to; None where the devices do not divide the batch."""
    network, batch = case.network, case.batch or case.per_device * devices
    groups = case.groups or devices
    if batch % devices:
        return None
    floor = OPERATIONS[network.name] * KERNELS * KERNEL
    compute = max(batch / devices / rate(hardware, network, fast), floor)
    share = 1 / devices if fsdp else 1
    update = share * UPDATE_PASSES * counted.params / (MEMORY_SHARE * hardware.memory)
    reduce = all_reduce(hardware, devices, counted.reduced)
    crossing = 0.0
    if groups % devices:
        reduce = all_reduce(hardware, devices, CROSSED_REDUCED * counted.params)
        latency = all_reduce(hardware, devices, 0, small=True)
        crossing = CROSSED[network.name] * latency
        crossing += spread(hardware, devices, gathered(network, batch))
    gather = spread(hardware, devices, counted.params + counted.teacher) if fsdp else 0.0
    parts = {"compute": compute, "update": update, "reduce": reduce, "cross": crossing}
    return parts | {"gather": gather, "total": sum(parts.values()) + gather}


def efficiency(
    hardware: Hardware, case: Case, devices: int, counted: Bytes, fast: bool, fsdp: bool = False
) -> float | None:
    """Images/s of some devices over as many times those of one; None as in `step`."""
    one, many = (step(hardware, case, n, counted, fast, fsdp) for n in (1, devices))
    if one is None or many is None:
        return None
    return one["total"] / many["total"] / (1 if case.per_device else devices)


def cores(hardware: Hardware, network: Network, transform: str, fast: bool) -> float:
    """CPU cores a host that its devices' input takes."""
    return hardware.host * rate(hardware, network, fast) / CORE[transform]


def lost(devices: int, minutes: float) -> float:
    """Share of the time that failures cost, with a checkpoint every so many minutes."""
    return devices * FAILURES * (minutes / 2 + RESTART) / (24 * 60)


def waiting(devices: int, deviation: float) -> float:
    """By how much the slowest of all is slower than the mean, at a relative standard deviation."""
    return deviation * math.sqrt(2 * math.log(devices))


def epoch(devices: int, counted: Bytes, recalibration: int = 20) -> dict[str, float]:
    """Seconds of an epoch of the weak case on H200, and of what follows it."""
    batch = WEAK.per_device * devices
    seconds = step(HARDWARE[0], WEAK, devices, counted, True)
    assert seconds is not None  # every number of devices divides such a batch
    forward = FORWARD_SHARE / rate(HARDWARE[0], RESNET, True) / devices
    return {
        "batch": batch,
        "steps": IMAGENET // batch,
        "train": IMAGENET // batch * seconds["total"],
        "evaluate": 2 * IMAGENET_TEST * forward,  # student and teacher
        "recalibrate": recalibration * batch * forward,  # the teacher's running statistics
        "checkpoint": counted.state / STORAGE,
    }


def make_report() -> dict[str, Any]:
    """What the JSON file holds, floats to four digits."""
    counted = {network.name: count_bytes(network) for network in (RESNET, DEIT)}

    def rows(hardware: Hardware, case: Case, fsdp: bool = False) -> dict[str, Any]:
        found = {}
        for n in DEVICES:
            arguments = (hardware, case, n, counted[case.network.name])
            if parts := step(*arguments, True, fsdp):
                found[str(n)] = {
                    "efficiency_fast": efficiency(*arguments, True, fsdp),
                    "efficiency_slow": efficiency(*arguments, False, fsdp),
                    "seconds_fast": parts,
                }
        return found

    report = {
        "assumptions": {
            name: value for name, value in globals().items()
            if name.isupper() and isinstance(value, int | float | dict)
        },
        "hardware": [dataclasses.asdict(hardware) for hardware in HARDWARE],
        "networks": [dataclasses.asdict(network) for network in (RESNET, DEIT)],
        "bytes": {name: dataclasses.asdict(value) for name, value in counted.items()},
        "images_per_second": {
            f"{h.name}, {n.name}": [rate(h, n, fast) for fast in (False, True)]
            for h in HARDWARE for n in (RESNET, DEIT)
        },
        "weak": {h.name: rows(h, WEAK) for h in HARDWARE},
        "weak_fsdp": {h.name: rows(h, WEAK, fsdp=True) for h in HARDWARE},
        "fixed": {h.name: {case.name: rows(h, case) for case in FIXED} for h in HARDWARE},
        "cores_a_host": {
            f"{h.name}, {n.name}": {
                t: [cores(h, n, t, fast) for fast in (False, True)] for t in CORE
            }
            for h in HARDWARE for n in (RESNET, DEIT)
        },
        "failures_cost": {str(n): {str(m): lost(n, m) for m in (10, 60)} for n in DEVICES},
        "stragglers_cost": {str(n): {str(d): waiting(n, d) for d in (0.01, 0.05)} for n in DEVICES},
        "epoch": {str(n): epoch(n, counted["resnet50"]) for n in DEVICES},
    }  # fmt: skip
    return json.loads(json.dumps(rounded(report)))


def rounded(tree: Any) -> Any:
    """A tree whose floats have four digits."""
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [rounded(value) for value in tree]
    return float(f"{tree:.4g}") if isinstance(tree, float) else tree


def tables(report: dict[str, Any]) -> list[str]:
    """The tables of `docs/scaling.md`."""

    def percent(row: dict[str, Any]) -> str:
        low, high = sorted(round(100 * row[f"efficiency_{which}"]) for which in ("fast", "slow"))
        return f"{low}-{high}" if low < high else str(low)

    def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        head, *body = (f"| {' | '.join(line)} |" for line in (header, *rows))
        return "\n".join((head, "|" + "---|" * len(header), *body))

    weak, fsdp = report["weak"], report["weak_fsdp"]
    split = (HARDWARE[0].name, HARDWARE[2].name)
    first = table(
        ["devices", *weak, *(f"{name}, fsdp" for name in split)],
        [
            [f"{n:,}", *(percent(weak[name][str(n)]) for name in weak),
             *(percent(fsdp[name][str(n)]) for name in split)]
            for n in DEVICES
        ],
    )  # fmt: skip
    fixed = report["fixed"][HARDWARE[0].name]

    def speed(name: str, n: int) -> str:
        row = fixed[name].get(str(n))
        if row is None:
            return "-"
        milliseconds = 1e3 * row["seconds_fast"]["total"]
        return f"{milliseconds:.1f} ms, x {n * row['efficiency_fast']:.1f}"

    second = table(
        ["devices", *fixed],
        [[f"{n:,}", *(speed(name, n) for name in fixed)] for n in DEVICES[:9]],
    )
    third = table(
        ["host", "vCPUs", "images/s a device", "cores, crops", "cores, RandAugment",
         "from the disk"],
        [
            [f"{h.host} x {h.name.split(',')[0]}", str(h.vcpus),
             "{:,.0f}-{:,.0f}".format(*report["images_per_second"][f"{h.name}, resnet50"]),
             *("{:.0f}-{:.0f}".format(*report["cores_a_host"][f"{h.name}, resnet50"][t])
               for t in CORE),
             f"{h.host * rate(h, RESNET, True) * FILE / 1e9:.1f} GB/s"]
            for h in HARDWARE
        ],
    )  # fmt: skip
    return [first, second, third]


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws efficiency at constant work a device, and speed-up at a fixed batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, rows in report["weak"].items():
        n = [int(key) for key in rows]
        low, high = (
            [100 * row[f"efficiency_{which}"] for row in rows.values()]
            for which in ("fast", "slow")
        )
        line = left.plot(n, low, label=name)[0]
        left.fill_between(n, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    left.set(title="64 images a device: efficiency, %", xlabel="devices", ylim=(50, 101))
    for name, rows in report["fixed"][HARDWARE[0].name].items():
        n = [int(key) for key in rows]
        right.plot(n, [k * row["efficiency_fast"] for k, row in zip(n, rows.values(), strict=True)],
                   marker=".", label=name)  # fmt: skip
    right.plot([1, 32], [1, 32], color="0.7", linewidth=1, label="ideal")
    right.set(title=f"A fixed batch on {HARDWARE[0].name}: speed-up", xlabel="devices")
    right.set_yscale("log", base=2)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables, and writes and draws on request."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all figures")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw them")
    args = parser.parse_args(argv)
    report = make_report()
    print("\n\n".join(tables(report)))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if args.picture:
        draw(report, args.picture)


if __name__ == "__main__":
    main()

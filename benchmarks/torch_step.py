"""One AutoMix training step in plain PyTorch: the peer that the JAX step is timed against.

The file stands alone and follows the structure of the released AutoMix code rather than any
shortcut that the mathematics would allow: the teacher runs its whole network on the clean images
although only one feature map is needed, every mask has its own projections, and the student sees
clean and mixed images in two separate forwards. `vanilla` and `mixup` steps of the same network
put the cost of AutoMix into proportion.

Performance settings are those a PyTorch user would choose: channels_last memory format, bfloat16
autocast, TF32 and cuDNN autotuning on CUDA, fused SGD, a multi-tensor EMA, and `torch.compile` on
request. Every random number is drawn on the device, so a step never waits for the host.

Notation: `x` are images (N, C, H, W) and `y` integer labels; `perm` sends a sample to its
partner; `lam` is the label weight of the sample itself; a mask is the weight of the *partner* at
each pixel.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

METHODS = ("vanilla", "mixup", "automix")

LR = 0.1
SGD_MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
EMA_MOMENTUM = 0.999
MASK_LOSS_WEIGHT = 0.1
MASK_LOSS_MARGIN = 0.1
LAM_MARGIN = 0.08


# ---------------------------------------------------------------------------------------- networks


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A bias-free convolution that keeps the image size up to its stride."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.downsample = shortcut(inputs, planes, stride)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its last ReLU."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 carries the stride (ResNet-50)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1, self.bn1 = conv(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = conv(planes, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its last ReLU."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.downsample(x), inplace=True)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a projection where a block changes the shape."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """ResNet-18 or -50 that returns its pooled vector and the output of stage `layer`.

    Args:
        depth: 18 or 50.
        stem: "cifar" (3x3, stride 1) or "imagenet" (7x7, stride 2, max pooling).
        channels: image channels.
        width: channels of the first stage; 64 is the usual network.
        layer: the stage, 1 to 4, whose output is returned as the feature map.
    """

    def __init__(self, depth: int, stem: str, channels: int, width: int, layer: int) -> None:
        super().__init__()
        blocks = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}
        if depth not in blocks or stem not in ("cifar", "imagenet") or not 1 <= layer <= 4:
            raise ValueError(
                f"depth {depth}, stem {stem!r}, layer {layer}: want 18 or 50, 'cifar' or "
                "'imagenet', and 1 to 4"
            )
        block, repeats = blocks[depth]
        self.layer = layer
        self.conv1 = conv(channels, width, 3) if stem == "cifar" else conv(channels, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, padding=1)
        inputs = width
        for stage, repeat in enumerate(repeats):
            planes = width * 2**stage
            units = []
            for unit in range(repeat):
                units.append(block(inputs, planes, 2 if stage > 0 and unit == 0 else 1))
                inputs = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*units))
        self.features = inputs
        self.tap_channels = width * 2 ** (layer - 1) * block.expansion

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled vector (N, features) and the map of the chosen stage."""
        x = self.pool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return x.mean(dim=(2, 3)), maps[self.layer - 1]


class Network(nn.Module):
    """A backbone with two linear heads: one for clean images, one for mixed images."""

    def __init__(self, backbone: ResNet, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head_one = nn.Linear(backbone.features, num_classes)
        self.head_mix = nn.Linear(backbone.features, num_classes)

    def one(self, x: Tensor) -> Tensor:
        """Logits of clean images."""
        return self.head_one(self.backbone(x)[0])

    def mix(self, x: Tensor) -> Tensor:
        """Logits of mixed images."""
        return self.head_mix(self.backbone(x)[0])


class MixBlock(nn.Module):
    """Cross attention from a sample's feature map to its partner's, which yields a pixel mask.

    Args:
        channels: channels of the feature map.
        lam_embed: "concat" appends lam to the sample's map and 1 - lam to the partner's;
            "none" leaves lam out.
    """

    def __init__(self, channels: int, lam_embed: str) -> None:
        super().__init__()
        if lam_embed not in ("none", "concat"):
            raise ValueError(f"lam_embed {lam_embed!r}: want 'none' or 'concat'")
        self.concat = lam_embed == "concat"
        self.query = nn.Conv2d(channels + self.concat, max(channels // 2, 1), 1)
        self.value = nn.Conv2d(channels + self.concat, 1, 1)

    def forward(self, z: Tensor, perm: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """The partner's weight at each pixel, (N, 1, *size).

        The projections follow autocast; from there on everything is in the parameters' float32.
        """
        own, partner = z, z[perm]
        if self.concat:
            plane = torch.ones_like(z[:, :1])
            own = torch.cat([own, lam.to(z.dtype) * plane], dim=1)
            partner = torch.cat([partner, (1 - lam).to(z.dtype) * plane], dim=1)
        q, k, v = self.query(own), self.query(partner), self.value(partner)
        with torch.autocast(z.device.type, enabled=False):
            q, k, v = (t.to(self.query.weight.dtype).flatten(2) for t in (q, k, v))  # (N, ., hw)
            scores = q.transpose(1, 2) @ k / math.sqrt(q.shape[1])  # rows: own positions
            logits = torch.softmax(scores, dim=2) @ v.transpose(1, 2)
            logits = logits.reshape(z.shape[0], 1, *z.shape[2:])
            return torch.sigmoid(F.interpolate(logits, size=size, mode="nearest"))


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draws the weights: Kaiming in the backbone, deviation 0.01 in heads and MixBlock.

    Batch norms keep what their constructors gave them: scale 1, but 0 at the end of each block.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            nn.init.zeros_(module.bias)


# ------------------------------------------------------------------------------------------ losses


class Draws(NamedTuple):
    """The random numbers of one step: lam and partners for the MixBlock's and student's batch."""

    lam_mb: Tensor
    lam_bb: Tensor
    perm_mb: Tensor
    perm_bb: Tensor


def blend(x: Tensor, perm: Tensor, mask: Tensor) -> Tensor:
    """Mixed images; `mask` is the partner's weight and may be a scalar."""
    return (1 - mask) * x + mask * x[perm]


def mixed_cross_entropy(logits: Tensor, y: Tensor, perm: Tensor, lam: Tensor) -> Tensor:
    """Cross entropy with the sample's label and its partner's, weighted lam to 1 - lam."""
    return lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[perm])


class Vanilla(nn.Module):
    """Plain supervised training."""

    def __init__(self, student: Network) -> None:
        super().__init__()
        self.student = student

    def losses(self, x: Tensor, y: Tensor, draws: Draws | None) -> dict[str, Tensor]:
        """The loss of one batch; nothing is random here."""
        return {"total": F.cross_entropy(self.student.one(x), y)}

    def after_update(self) -> None:
        """Nothing follows the optimizer's step."""


class Mixup(Vanilla):
    """Mixup with one lam a batch."""

    def losses(self, x: Tensor, y: Tensor, draws: Draws) -> dict[str, Tensor]:
        """The loss of one batch; of the draws it uses those of the student."""
        lam, perm = draws.lam_bb, draws.perm_bb
        logits = self.student.one(blend(x, perm, 1 - lam))
        return {"total": mixed_cross_entropy(logits, y, perm, lam)}


class AutoMix(nn.Module):
    """Student, its moving-average teacher and the MixBlock between them.

    Every batch norm stays in training mode, the teacher's too; the teacher owns its running
    statistics and follows the student in its parameters only.
    """

    def __init__(self, student: Network, mix_block: MixBlock) -> None:
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.mix_block = mix_block

    def losses(self, x: Tensor, y: Tensor, draws: Draws) -> dict[str, Tensor]:
        """The four losses of one batch and their sum under "total"."""
        lam_mb, lam_bb, perm_mb, perm_bb = draws
        size = (x.shape[2], x.shape[3])

        with torch.no_grad():
            _, z = self.teacher.backbone(x)
        # Autocast caches the cast weights of the first call, so the one with gradients comes first.
        mask_mb = self.mix_block(z, perm_mb, lam_mb, size)
        with torch.no_grad():
            mask_bb = self.mix_block(z, perm_bb, lam_bb, size)
            extreme = torch.minimum(lam_bb, 1 - lam_bb) <= LAM_MARGIN
            mask_bb = torch.where(extreme, 1 - lam_bb, mask_bb)
            x_bb = blend(x, perm_bb, mask_bb)

        # The frozen teacher passes the gradient on to the pixels, and they to the MixBlock.
        logits = self.teacher.mix(blend(x, perm_mb, mask_mb))
        generator = mixed_cross_entropy(logits, y, perm_mb, lam_mb)
        mask = F.relu((1 - mask_mb.mean() - lam_mb).abs() - MASK_LOSS_MARGIN)
        clean = F.cross_entropy(self.student.one(x), y)
        mixed = mixed_cross_entropy(self.student.mix(x_bb), y, perm_bb, lam_bb)
        total = mixed + clean + generator + MASK_LOSS_WEIGHT * mask
        return {
            "total": total,
            "mixed": mixed,
            "clean": clean,
            "generator": generator,
            "mask": mask,
        }

    @torch.no_grad()
    def after_update(self) -> None:
        """Moves the teacher's parameters towards the student's."""
        teacher, student = list(self.teacher.parameters()), list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - EMA_MOMENTUM)


# -------------------------------------------------------------------------------------------- step


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """SGD on everything trainable; the weight decay spares nothing."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(
        trainable, LR, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
    )


def update(model: Vanilla | AutoMix, optimizer: torch.optim.Optimizer, total: Tensor) -> None:
    """One backward, one optimizer step, then what the method does after it."""
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()
    model.after_update()


def draw(batch_size: int, method: str, generator: torch.Generator) -> Draws:
    """Draws lam and permutations on the generator's device.

    AutoMix wants Beta(2, 2), which is the law of the median of three uniforms; Mixup uses
    Beta(1, 1), a uniform.
    """
    options = {"generator": generator, "device": generator.device}
    uniforms = torch.rand(2, 3 if method == "automix" else 1, **options)
    lam = uniforms.median(dim=1).values
    perm = torch.rand(2, batch_size, **options).argsort(dim=1)
    return Draws(lam[0], lam[1], perm[0], perm[1])


def make_model(
    method: str,
    *,
    depth: int,
    stem: str,
    num_classes: int,
    channels: int = 3,
    lam_embed: str = "none",
    layer: int = 3,
    width: int = 64,
    seed: int = 0,
) -> Vanilla | AutoMix:
    """Builds and initialises what one of `METHODS` trains, on the CPU and in training mode."""
    if method not in METHODS:
        raise ValueError(f"method {method!r}: want one of {', '.join(METHODS)}")
    student = Network(ResNet(depth, stem, channels, width, layer), num_classes)
    generator = torch.Generator().manual_seed(seed)
    initialise(student, generator)
    if method != "automix":
        return (Vanilla if method == "vanilla" else Mixup)(student).train()
    mix_block = MixBlock(student.backbone.tap_channels, lam_embed)
    initialise(mix_block, generator)
    return AutoMix(student, mix_block).train()


def make_step(
    method: str,
    *,
    depth: int,
    stem: str,
    num_classes: int,
    batch_size: int,
    image_size: int,
    channels: int = 3,
    lam_embed: str = "none",
    layer: int = 3,
    width: int = 64,
    device: str = "cpu",
    compile: bool = False,
    seed: int = 0,
) -> Callable[[], Tensor]:
    """Builds a training step on fixed random data that already lie on the device.

    With `compile` this function runs one step itself, so that a failure shows here and the
    compilation is not part of the caller's timings. On CUDA it changes global settings: cuDNN
    autotuning on, TF32 allowed for float32 products.

    Args:
        method: one of `METHODS`.
        depth: 18 or 50.
        stem: "cifar" or "imagenet".
        num_classes: classes of the labels.
        batch_size: images a step.
        image_size: side of the square images.
        channels: image channels.
        lam_embed: "none" or "concat", for the MixBlock.
        layer: stage whose features the MixBlock reads.
        width: channels of the first stage.
        device: "cpu" or a CUDA device.
        compile: whether forward, losses and backward go through `torch.compile`.
        seed: seed of the parameters, the data and the draws.

    Returns:
        A function that runs one whole step and returns its loss as a tensor on the device,
        without waiting for it; call `synchronize` before you read the clock.

    Raises:
        ValueError: an argument is not one of the choices above.
        RuntimeError: `compile` was asked for and the whole step could not be compiled.
    """
    place = torch.device(device)
    cuda = place.type == "cuda"
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")

    model = make_model(
        method,
        depth=depth,
        stem=stem,
        num_classes=num_classes,
        channels=channels,
        lam_embed=lam_embed,
        layer=layer,
        width=width,
        seed=seed,
    ).to(place, memory_format=torch.channels_last)
    optimizer = make_optimizer(model)

    generator = torch.Generator(place).manual_seed(seed)
    options = {"generator": generator, "device": place}
    x = torch.randn(batch_size, channels, image_size, image_size, **options)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(num_classes, (batch_size,), **options)

    def compute(x: Tensor, y: Tensor, draws: Draws | None) -> Tensor:
        if compile and not torch.compiler.is_compiling():
            raise RuntimeError("the losses ran uncompiled")
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=cuda):
            return model.losses(x, y, draws)["total"]

    # A full graph turns every silent return to eager execution into an error.
    total_of = torch.compile(compute, fullgraph=True, dynamic=False) if compile else compute

    def step() -> Tensor:
        draws = None if method == "vanilla" else draw(batch_size, method, generator)
        total = total_of(x, y, draws)
        update(model, optimizer, total)
        return total.detach()

    if compile:
        try:
            step()
            synchronize(place)
        except Exception as error:
            raise RuntimeError(
                f"torch.compile could not compile the {method} step on {place}; mend the cause "
                "above or pass compile=False, which is another measurement"
            ) from error
    return step


def synchronize(device: str | torch.device) -> None:
    """Waits until the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: str | torch.device) -> int | None:
    """The most bytes PyTorch held in tensors so far in this process; None where it cannot tell."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return None

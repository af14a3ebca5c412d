"""Training steps for tests: a method, a network and a mesh become a state and a compiled step."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from automix_jax import mixups
from automix_jax.automix import AutoMix
from automix_jax.data.augment import augment, normalize
from automix_jax.mixblock import MixBlock
from automix_jax.mixup_training import MixupTraining
from automix_jax.models import Backbone, Classifier, create_model
from automix_jax.optim import by_group, sgd
from automix_jax.schedules import ema_rate
from automix_jax.train.state import create_state
from automix_jax.train.step import train_step


def data_mesh(devices: int = 1) -> Mesh:
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def preprocess(rng, images):
    images = augment(rng, jnp.asarray(images), flip=True, padding=2, mode="reflect")
    channels = images.shape[-1]
    return normalize(images, (0.5,) * channels, (0.25,) * channels, jnp.float32)


@dataclasses.dataclass
class Setup:
    """A method on a network: `create` makes its state, `step` takes one step."""

    method: str = "automix"
    model: str | Callable[..., Backbone] = "resnet8"
    stem: str | None = "cifar"
    layer: str = "stage2"
    image: int = 16
    classes: int = 10
    width: int | None = None
    groups: int = 1
    devices: int = 1
    full_forward: bool = False
    options: dict[str, float] = dataclasses.field(default_factory=dict)  # of the backbone
    mixblock: MixBlock = dataclasses.field(default_factory=MixBlock)

    def __post_init__(self):
        self.mesh = data_mesh(self.devices)
        chosen = {"width": self.width, "stem": self.stem}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        make = self.model if callable(self.model) else functools.partial(create_model, self.model)
        backbone = make(num_classes=0, **chosen, **self.options)
        optimizer = sgd(0.1, momentum=0.9, weight_decay=1e-4)
        if self.method == "automix":
            network = Classifier(backbone, self.classes)
            self.objective = AutoMix(
                network,
                self.mixblock,
                self.layer,
                mask_weight=optax.constant_schedule(0.1),
                full_forward=self.full_forward,
            )
            self.tx = by_group({"student": optimizer, "mixblock": optimizer})
        else:
            network = Classifier(backbone, self.classes, ("mix",))
            self.objective = MixupTraining(network, mixups.create(self.method))
            self.tx = by_group({"student": optimizer})
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec("data"))
        create = functools.partial(
            create_state,
            model=network,
            tx=self.tx,
            image_shape=(self.image, self.image, 3),
            mixblock=self.mixblock if self.method == "automix" else None,
            layer=self.layer,
            teacher=self.method == "automix",
        )
        self.create = jax.jit(create, out_shardings=self.whole)
        self.step = functools.partial(
            train_step,
            objective=self.objective,
            tx=self.tx,
            ema_rate=ema_rate(100),
            preprocess=preprocess,
            num_groups=self.groups,
            mesh=self.mesh,
        )

    def batch(self, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Random images, whose mean depends on the class, and labels."""
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, self.classes, size).astype(np.int32)
        noise = rng.integers(0, 100, (size, self.image, self.image, 3))
        return (noise + 10 * labels[:, None, None, None]).astype(np.uint8), labels

    def lower(self, size: int):
        """The lowered step, from shapes alone."""
        state = jax.eval_shape(self.create, jax.random.key(0))
        shape = (size, self.image, self.image, 3)
        images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=self.split)
        labels = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=self.split)
        state = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.whole), state
        )
        return jax.jit(self.step, out_shardings=self.whole, donate_argnums=0).lower(
            state, images, labels
        )

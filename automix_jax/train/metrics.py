"""Training metrics: running means on the device, which a checkpoint can hold."""

import functools

from clu import metrics
from jaxtyping import Array, Bool


@functools.cache
def collection(names: tuple[str, ...]) -> type[metrics.Collection]:
    """The class that keeps the running mean of each of these metrics."""
    return metrics.Collection.create(**{name: metrics.Average.from_output(name) for name in names})


def update(
    running: metrics.Collection, values: dict[str, Array], taken: Bool[Array, ""]
) -> metrics.Collection:
    """Adds the metrics of one step, or leaves them out where the step was not taken."""
    values = {name: value[None] for name, value in values.items()}
    return running.merge(type(running).single_from_model_output(**values, mask=taken[None]))


def compute(running: metrics.Collection) -> dict[str, float]:
    """The means as Python numbers; nan where no step was added."""
    return {name: float(value) for name, value in running.compute().items()}

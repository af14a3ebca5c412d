"""What every suite gets, and what it gives."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from automix_jax.data.order import data_order
from automix_jax.data.progress import progress_bar
from automix_jax.evaluate.network import Network, Predict, make_predict
from automix_jax.train.feed import open_feed
from automix_jax.train.trained import Restored, Trained, check_facts, load_with_state

_WHY_DATA = "on whose test images it is judged: put it back"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may choose beside the run; see `automix evaluate --help`.

    Attributes:
        limit: test images, taken at random but always the same; None for all.
        seed: of what is drawn.
        temperature: "held-out", "test" or "none".
        corruptions: folder of a published or generated set; None to corrupt on the way.
        names: of the corruptions; None for all that there are.
        boxes: file or folder of boxes; None for those beside the images.
        cam: "cam" or "gradcam"; None for what the network allows.
        methods: whose mixed images are classified; None for all but SuperMix.
    """

    limit: int | None = None
    seed: int = 0
    temperature: str = "held-out"
    corruptions: Path | None = None
    names: tuple[str, ...] | None = None
    boxes: Path | None = None
    cam: str | None = None
    methods: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network of a run, and the images that it is judged by.

    Attributes:
        restored: all that the run has trained.
        trained: the network with its head.
        network: the same as a function of pixels.
        images: test images as the network reads them.
        labels: their classes.
        chosen: their numbers in the test split; None if they are all of it.
        held_out: images that training left out, and their classes; empty if there are none.
        logits: that were computed, by the images' name; see `test_logits`.
    """

    restored: Restored
    trained: Trained
    network: Network
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    chosen: Int[np.ndarray, " n"] | None
    held_out: tuple[np.ndarray, np.ndarray]
    logits: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Which network and head, as in "student_mix"."""
        return f"{self.trained.network}_{self.trained.head}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the K classes."""
        return self.trained.facts.class_names

    @functools.cached_property
    def predict(self) -> Predict:
        """From stored images to logits."""
        return make_predict(self.network)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the network's numbers and of the test images, as 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for leaf in [*jax.tree.leaves(self.network.variables), self.images, self.labels]:
            digest.update(np.ascontiguousarray(leaf).data)
        return digest.hexdigest()[:16]


class Suite(NamedTuple):
    """One way to judge a network.

    Attributes:
        name: on the command line.
        asks: from the options to those that its numbers depend on, as JSON.
        measure: computes, and draws STEM.png and others beside it. It is given the subject, the
            options, a batch size and the stem; returns numbers, as JSON, and pictures.
        rows: from the numbers to names and values of a table for people.
        check: raises an AutoMixError for options that cannot work with the subject.
    """

    name: str
    asks: Callable[[Options], dict[str, Any]]
    measure: Callable[..., tuple[dict[str, Any], list[Path]]]
    rows: Callable[[dict[str, Any]], list[tuple[str, str]]]
    check: Callable[[Subject, Options], None] = lambda subject, options: None


def open_subject(
    workdir: Path,
    *,
    network: str | None,
    head: str | None,
    checkpoint: str,
    limit: int | None,
) -> Subject:
    """Reads a network of a run and the test images of its data.

    For the first arguments see `load_run`; for `limit` see `Options`.

    Raises:
        AutoMixError: as `load_run`; DataError also if the test images cannot be read.
    """
    restored, trained = load_with_state(workdir, network=network, head=head, checkpoint=checkpoint)
    config, facts = trained.config, trained.facts
    with contextlib.closing(open_feed(config, restored.experiment.mesh)) as feed:
        check_facts(config, feed.facts, facts, _WHY_DATA)
        if limit is None or limit >= facts.test_images:
            chosen = None
            images, labels = _collect(feed.test_batches(), facts.test_images)
        else:
            chosen = np.sort(data_order(0, 0, facts.test_images)[:limit])
            images, labels = feed.test_examples(chosen)
        held_out = feed.held_out_examples()
    pixels = Network(trained.model, trained.variables, config.data.mean, config.data.std)
    return Subject(restored, trained, pixels, images, labels, chosen, held_out)


def _collect(batches: Any, total: int) -> tuple[np.ndarray, np.ndarray]:
    """All images that count, and their labels, in the host's memory."""
    images, labels = [], []
    with progress_bar("reading test images", total, "images") as advance:
        for batch in batches:
            x, y, valid = jax.device_get(batch)
            images.append(x[valid])
            labels.append(y[valid])
            advance(int(valid.sum()))
    return np.concatenate(images), np.concatenate(labels)


def predict(
    subject: Subject, images: UInt8[np.ndarray, "n h w c"], batch_size: int, what: str
) -> Float[np.ndarray, "n k"]:
    """The logits of images, with a progress bar named `what`."""
    parts, chunk = [], 8 * batch_size
    with progress_bar(what, len(images), "images") as advance:
        for start in range(0, len(images), chunk):
            parts.append(subject.predict(images[start : start + chunk], batch_size))
            advance(len(parts[-1]))
    return np.concatenate(parts)


def test_logits(subject: Subject, batch_size: int) -> Float[np.ndarray, "n k"]:
    """The logits of the test images, which are computed once for all suites."""
    if "test" not in subject.logits:
        subject.logits["test"] = predict(subject, subject.images, batch_size, "classifying")
    return subject.logits["test"]

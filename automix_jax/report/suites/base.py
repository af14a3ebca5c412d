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

from automix_jax.data import Facts
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
        seed: of what is drawn.
        temperature: "held-out", "test" or "none".
        corruptions: folder of a published or generated set; None to corrupt on the way.
        names: of the corruptions; None for all that there are.
        boxes: file or folder of boxes; None for those beside the images.
        cam: "cam" or "gradcam"; None for what the network allows.
        again: whether to measure anew what was measured before.
        methods: whose mixed images are classified; None for all but SuperMix.
    """

    seed: int = 0
    temperature: str = "held-out"
    corruptions: Path | None = None
    names: tuple[str, ...] | None = None
    boxes: Path | None = None
    cam: str | None = None
    again: bool = False
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
        part: what tells this choice of network and images from the usual, as in "best_limit100".
        logits: that were computed, by the images' name; see `clean_logits`.
    """

    restored: Restored
    trained: Trained
    network: Network
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    chosen: Int[np.ndarray, " n"] | None
    part: str = ""
    logits: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Which network and head, as in "student_mix", and which part of it or of the images."""
        return "_".join(filter(None, (self.trained.network, self.trained.head, self.part)))

    @property
    def numbers(self) -> Int[np.ndarray, " n"]:
        """Of the images in the test split."""
        return np.arange(len(self.labels)) if self.chosen is None else self.chosen

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the K classes."""
        return self.trained.facts.class_names

    @functools.cached_property
    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Images that training left out, and their classes; empty if there are none.

        Raises:
            DataError: if they cannot be read.
        """
        config = self.trained.config
        if not config.data.held_out:
            return np.zeros((0, *self.images.shape[1:]), np.uint8), np.zeros(0, np.int32)
        with contextlib.closing(open_feed(config, self.restored.experiment.mesh)) as feed:
            check_facts(config, feed.facts, self.trained.facts, _WHY_DATA)
            return feed.held_out_examples()

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
        asks: from a subject and the options to what of these its numbers depend on, as JSON: what
            differs is measured anew.
        measure: computes, and draws STEM.png and others beside it. It is given the subject, the
            options, a batch size and the stem; returns numbers, as JSON, and pictures.
        rows: from the numbers to names and values of a table for people.
        check: raises an AutoMixError for options that cannot work with the subject.
        version: to be raised where the same would come out as other numbers.
    """

    name: str
    asks: Callable[[Subject, Options], dict[str, Any]]
    measure: Callable[..., tuple[dict[str, Any], list[Path]]]
    rows: Callable[[dict[str, Any]], list[tuple[str, str]]]
    check: Callable[[Subject, Options], None] = lambda subject, options: None
    version: int = 1


def open_subject(
    workdir: Path,
    *,
    network: str | None,
    head: str | None,
    checkpoint: str,
    limit: int | None,
) -> Subject:
    """Reads a network of a run and the test images of its data.

    For the first arguments see `load_run`; `limit` is a number of test images,
    taken at random but always the same; None for all.

    Raises:
        AutoMixError: as `load_run`; DataError also if the test images cannot be read.
    """
    restored, trained = load_with_state(workdir, network=network, head=head, checkpoint=checkpoint)
    config, facts = trained.config, trained.facts
    with contextlib.closing(open_feed(config, restored.experiment.mesh)) as feed:
        check_facts(config, feed.facts, facts, _WHY_DATA)
        if limit is None or limit >= facts.test_images:
            limit = None
            images, labels, chosen = _collect(feed.test_batches(), facts)
        else:
            some = np.sort(data_order(0, 0, facts.test_images)[:limit])
            images, labels, chosen = feed.readable_examples(some)
    pixels = Network(trained.model, trained.variables, config.data.mean, config.data.std)
    part = [*(["best"] if checkpoint == "best" else []), *([f"limit{limit}"] if limit else [])]
    whole = len(chosen) == facts.test_images
    return Subject(
        restored, trained, pixels, images, labels, None if whole else chosen, "_".join(part)
    )


def _collect(batches: Any, facts: Facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All test images that can be read, their labels, and their numbers, in the host's memory."""
    total = facts.test_images
    images: np.ndarray | None = None
    labels, numbers = np.empty(total, np.int32), np.empty(total, np.int64)
    done = place = 0
    with progress_bar("reading test images", total, "images") as advance:
        for batch in batches:
            x, y, valid = jax.device_get(batch)
            if images is None:  # of another size than those of training, it may be
                images = np.empty((total, *x.shape[1:]), np.uint8)
            found = np.flatnonzero(valid)
            part = slice(done, done + len(found))
            images[part], labels[part], numbers[part] = x[found], y[found], place + found
            done, place = part.stop, place + len(valid)
            advance(len(found))
    assert images is not None  # data has test images
    return images[:done], labels[:done], numbers[:done]


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


def clean_logits(subject: Subject, batch_size: int) -> Float[np.ndarray, "n k"]:
    """The logits of the test images, which are computed once for all suites."""
    if "test" not in subject.logits:
        subject.logits["test"] = predict(subject, subject.images, batch_size, "classifying")
    return subject.logits["test"]

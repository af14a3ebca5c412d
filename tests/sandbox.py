"""A folder in which documented commands run as they stand, but for their size.

Whatever a command reads is made when it is first asked for: miniatures of datasets, photographs,
files of weights, runs of a few steps. Whatever it writes goes into a folder of its own.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from automix_jax import recipes
from tests import miniatures, runs
from tests.pages import Command

ABSOLUTE = re.compile(r"(?<![\w.])/(data|downloads|shared)/?")  # that users have
PUBLISHED = re.compile(r"(\w+)-[0-9a-f]{8}\.pth")  # torchvision's files carry their hash
RECIPE = re.compile(r"(?:--config=)?(configs/\w+\.py(?::\S+)?)")
OUTPUTS = ("--workdir", "--out", "--json")
FEW_STEPS = {
    "num_groups": 1,
    "batch_size": 4,
    "epochs": 1,
    "data.num_classes": 0,
    "eval.batch_size": 4,
    "teacher.recalibration_batches": 1,
    "run.sample_epochs": 1,
    "run.tensorboard": False,
    "run.workers": 0,
}
ONE_ROW = ("--methods=mixup", "--seeds=1", "--jobs=1", "--epochs=1")
SMALL_STREAM = {"image_size": 32, "test_size": 32, "test_resize": 36}


class Sandbox:
    """See above; one for a file of tests."""

    def __init__(self, root: Path):
        self.root, self.made, self.outputs = root, set(), 0
        for name in ("main.py", "configs", "benchmarks", "launch", "constraints"):
            (root / name).symlink_to(runs.ROOT / name)

    def run(self, command: Command) -> tuple[int, str, str]:
        """Runs a command on small data; returns its exit code and what it printed."""
        words = self.prepare(command.words)
        return self.start(words, **dict(command.environment))

    def start(self, words: Sequence[str], **variables: str) -> tuple[int, str, str]:
        """Runs the words in a process of its own."""
        program, *arguments = words
        module = ("-m", "automix_jax.cli") if program == "automix" else ()
        process = runs.start(arguments, self.root / ".cache", module, self.root, **variables)
        return runs.finish(process)

    def prepare(self, words: Sequence[str]) -> list[str]:
        """The words of a command for this folder, with all that they read in place."""
        words = [ABSOLUTE.sub(lambda match: f"{self.root}/{match[1]}/", word) for word in words]
        words = [PUBLISHED.sub(r"\1.pth", word) for word in words]
        words = self._with_outputs(words)
        if words[:2] == ["automix", "sweep"] or "main.py" in words:
            words = self._made_small(words)
        if words[:2] == ["automix", "reproduce"] and len(words) > 2:
            words = [*words, *ONE_ROW, *(f"--config.{n}={v}" for n, v in self._few(words).items())]
        if words[:3] == ["automix", "data", "prepare"]:
            words.append("--unverified")  # miniatures are not the official archives
        words = [re.sub(r"^cifar10:DIR$", "cifar10:data/cifar10", word) for word in words]
        for word in words:
            self.ensure(re.split("[=:]", word)[-1].removeprefix(f"{self.root}/"))
        return words

    def ensure(self, name: str) -> None:
        """Makes what lies at a path of this folder, if it is one of `INPUTS`."""
        if name in INPUTS and name not in self.made:
            self.made.add(name)
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            INPUTS[name](self)

    def must(self, *words: str) -> None:
        """Runs words of which something else is made."""
        code, out, err = self.start(self.prepare(words))
        assert code in (0, 1), (words, out, err)

    def _with_outputs(self, words: Sequence[str]) -> list[str]:
        """Results go where no other command's are."""
        self.outputs += 1
        folder = self.root / "outputs" / str(self.outputs)
        folder.mkdir(parents=True)

        def moved(path: str) -> str:
            return str(folder / Path(path).name)

        result = list(words)
        for i, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name in OUTPUTS and equals:
                result[i] = f"{name}={moved(value)}"
            elif word in OUTPUTS:
                result[i + 1] = moved(words[i + 1])
        return result

    def _made_small(self, words: Sequence[str]) -> list[str]:
        """A training command, of a few steps of a narrow network on a few small images."""
        words = [word.replace("method=all", "method=vanilla+automix") for word in words]
        given = [word for word in words if word.startswith("--config.")]
        recipe = next(match[1] for word in words if (match := RECIPE.fullmatch(word)))
        first = re.sub(r"(method=\w+)\+[\w+]*", r"\1", recipe)
        config = recipes.override(recipes.load_config(str(runs.ROOT / first)), given)
        fields = dict(FEW_STEPS)
        if config.data.name == "fashion_mnist_sample":
            self.ensure("tiny.npz")
            fields |= {"data.name": "npz", "data.path": self.root / "tiny.npz"}
        elif config.data.path in ("DIR", ""):
            fields["data.path"] = {"folder": "photos"}.get(
                config.data.name, f"data/{config.data.name}"
            )
        if config.data.loading == "stream":
            fields |= {f"data.{name}": value for name, value in SMALL_STREAM.items()}
            fields |= {"data.resize": 40} if config.data.resize else {}
        elif config.data.image_size > 64:
            fields["data.image_size"] = 64
        named = {word.partition("=")[0].removeprefix("--config.") for word in given}
        if not config.init_from:
            large = "resnet" in config.model.name and config.model.name != "resnet8"
            if large and "model.name" not in named:
                fields |= {"model.name": "resnet8", "model.stem": "cifar"}
            fields |= {} if "model.width" in named else {"model.width": 4}
        self.ensure(config.init_from)
        return [*words, *(f"--config.{name}={value}" for name, value in fields.items())]

    def _few(self, words: Sequence[str]) -> dict[str, object]:
        """Fields of a table's rows: a few steps of a narrow network."""
        fields = {name: value for name, value in FEW_STEPS.items() if name != "epochs"}
        name = next((w.partition("=")[2] for w in words if w.startswith("--dataset=")), "cifar10")
        if "--budget=cpu" in words:
            self.ensure("tiny.npz")
            return fields | {"data.name": "npz", "data.path": self.root / "tiny.npz"}
        self.ensure(f"data/{name}")
        narrow = {"model.name": "resnet8", "model.width": 4}
        return fields | narrow | {"data.path": self.root / "data" / name}

    # -- what commands read ------------------------------------------------------------------------

    def photos(self, name: str) -> None:
        """A folder of classes that differ in brightness."""
        rng = np.random.default_rng(0)
        for split, count in (("train", 4), ("test", 2)):
            for label, cls in enumerate(("cat", "dog", "fish")):
                folder = self.root / name / split / cls
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 120, (40, 52, 3)) + 45 * label
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")

    def pictures(self) -> None:
        """A folder of photographs, and the names of ImageNet's classes."""
        self.photos("some")
        shutil.copytree(self.root / "some/train/cat", self.root / "PHOTOS")
        names = "".join(f"class {i}\n" for i in range(1000))
        (self.root / "NAMES.txt").write_text(names)

    def archives(self) -> None:
        """The downloads of the datasets that the pages prepare."""
        for name in ("imagenet", "cub200"):
            miniatures.write_archives(miniatures.build(name), self.root / "downloads")

    def prepared(self, name: str) -> None:
        """What `automix data prepare` makes of them."""
        self.ensure("downloads/")
        source, out = self.root / "downloads", self.root / "data" / name
        words = ("data", "prepare", name, f"--source={source}", f"--out={out}", "--unverified")
        code, out, err = self.start(("automix", *words))
        assert code == 0, err

    def birds(self) -> None:
        """CUB-200-2011 as extracted; the published boxes do not lie in images of this size."""
        miniatures.write_extracted(miniatures.build("cub200"), self.root)
        boxes = self.root / "CUB_200_2011/bounding_boxes.txt"
        numbers = [line.split()[0] for line in boxes.read_text().splitlines()]
        boxes.write_text("".join(f"{number} 5.0 5.0 20.0 15.0\n" for number in numbers))

    def cifar(self, name: str) -> None:
        """An official archive, of a few images."""
        miniatures.write_archives(miniatures.build(name), self.root / "data" / name)

    def corrupted(self, out: str, data: str, *options: str) -> None:
        """A corrupted set, in the place of a published one."""
        self.ensure(f"data/{data}")
        source = f"{data}:{self.root / 'data' / data}"
        words = ("automix", "data", "corrupt", source, f"--out={self.root / out}", *options)
        code, _, err = self.start(words)
        assert code == 0, err

    def weights(self, file: str, folder: str = "") -> None:
        """A .pth file of random numbers; and, asked for, what is imported of it."""
        import jax

        from automix_jax import create_model, weights

        name = Path(file).stem
        if not (self.root / file).exists():
            model = create_model(name)
            images = jax.numpy.zeros((1, 32, 32, 3))
            variables = jax.jit(model.init)(jax.random.key(0), images)
            weights.write_pth(self.root / file, weights.to_state_dict(model, variables))
        if folder:
            words = ("automix", "import-weights", file, "--model", name, "--out", folder)
            code, _, err = self.start(words)
            assert code == 0, err

    def trained(self, name: str, recipe: str, *overrides: str) -> None:
        """A finished run."""
        words = ["python", "main.py", f"--config=configs/{recipe}", *overrides]
        small = self.prepare(words)
        code, _, err = self.start([*small, f"--workdir={self.root / 'runs' / name}"])
        assert code == 0, err

    def same_run(self, name: str, as_name: str, *suites: str) -> None:
        """A run by another name, with what was measured of it."""
        self.ensure(f"runs/{as_name}")
        shutil.copytree(self.root / "runs" / as_name, self.root / "runs" / name)
        for suite in suites:
            code, _, err = self.start(("automix", "evaluate", f"runs/{name}", f"--suite={suite}"))
            assert code == 0, err


Make = Callable[[Sandbox], object]
INPUTS: dict[str, Make] = {
    "tiny.npz": lambda box: runs.write_npz(box.root / "tiny.npz"),
    "photos": lambda box: box.photos("photos"),
    "PATH": lambda box: box.photos("PATH"),
    "PHOTOS": Sandbox.pictures,
    "downloads/": Sandbox.archives,
    "data/imagenet": lambda box: box.prepared("imagenet"),
    "shared/imagenet": lambda box: box.ensure("data/imagenet"),
    "data/cub200": lambda box: box.prepared("cub200"),
    "data/cifar10": lambda box: box.cifar("cifar10"),
    "data/cifar100": lambda box: box.cifar("cifar100"),
    "data/CIFAR-10-C": lambda box: box.corrupted("data/CIFAR-10-C", "cifar10"),
    "data/CIFAR-100-C": lambda box: box.corrupted("data/CIFAR-100-C", "cifar100"),
    "CIFAR-100-C": lambda box: box.corrupted("CIFAR-100-C", "cifar100"),
    "data/ImageNet-C": lambda box: box.corrupted("data/ImageNet-C", "imagenet", "--size=32"),
    "CUB_200_2011": Sandbox.birds,
    "resnet50.pth": lambda box: box.weights("resnet50.pth"),
    "resnext50_32x4d.pth": lambda box: box.weights("resnext50_32x4d.pth"),
    "mobilenet_v2.pth": lambda box: box.weights("mobilenet_v2.pth"),
    "weights/resnet18": lambda box: box.weights("resnet18.pth", "weights/resnet18"),
    "weights/r50": lambda box: box.weights("resnet50.pth", "weights/r50"),
    "weights/rx50": lambda box: box.weights("resnext50_32x4d.pth", "weights/rx50"),
    "mobilenet": lambda box: box.weights("mobilenet_v2.pth", "mobilenet"),
    "runs/quickstart": lambda box: box.trained("quickstart", "quickstart.py"),
    "runs/photos": lambda box: box.trained("photos", "folder_r18.py"),
    "runs/cifar100": lambda box: box.trained("cifar100", "cifar100_r18.py"),
    "runs/cub200": lambda box: box.trained("cub200", "cub200_r18.py", "--config.init_from="),
    "runs/imagenet_r50": lambda box: box.trained(
        "imagenet_r50",
        "imagenet_r50.py",
        "--config.model.name=resnet50",
        "--config.model.width=64",  # as Detectron2 has it
    ),
    "runs/r50_automix": lambda box: box.same_run("r50_automix", "imagenet_r50"),
    "runs/mine": lambda box: box.same_run("mine", "imagenet_r50"),
    "runs/mixup": lambda box: box.same_run("mixup", "quickstart", "calibration"),
    "runs/cutmix": lambda box: box.same_run("cutmix", "quickstart", "calibration"),
    "runs/automix": lambda box: box.same_run("automix", "quickstart", "calibration"),
}

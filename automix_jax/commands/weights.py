"""`automix import-weights` and `automix export`."""

from collections.abc import Sequence
from pathlib import Path

from automix_jax.commands.base import Parser
from automix_jax.models import list_models

_IMPORT_HELP = """\
Reads the weights of a torchvision or timm network, without PyTorch and without running what a
pickle may carry, and writes them as a folder to train from (--config.init_from=DIR).

The library is recognised by the names of the tensors; the number of classes and the stem by their
shapes. Every tensor must find its place: only the classifier may be missing.
"""
_EXPORT_HELP = """\
Writes one network of a run, with one of its heads, for other programs, and a card (README.md and
card.json) that says what it is, how good, and how to load it.
"""


def import_weights(argv: Sequence[str]) -> int:
    """Runs `automix import-weights`.

    Raises:
        AutoMixError: for arguments or a file that cannot be used.
    """
    from automix_jax import weights
    from automix_jax.weights.folder import read_file, sha256
    from automix_jax.weights.report import describe

    parser = Parser("import-weights", _IMPORT_HELP)
    parser.add_argument("file", metavar="FILE", help="a .safetensors or .pth file")
    parser.add_argument("--model", required=True, metavar="NAME", help=", ".join(list_models()))
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to be made")
    parser.add_argument(
        "--convention",
        choices=("torch", "tf"),
        help="of efficientnet_b0 in timm's names: tf for tf_efficientnet_b0",
    )
    arguments = parser.parse_args(argv)
    options = {"convention": arguments.convention} if arguments.convention else {}
    tensors = read_file(arguments.file)
    pretrained, report = weights.from_state_dict(tensors, arguments.model, **options)
    source = {"file": Path(arguments.file).name, "sha256": sha256(arguments.file)}
    weights.save(arguments.out, pretrained, naming=report.naming, source=source)
    print(describe(pretrained, report))
    print(f"written to {arguments.out}: train with --config.init_from={arguments.out}")
    return 0


def export(argv: Sequence[str]) -> int:
    """Runs `automix export`.

    Raises:
        AutoMixError: for arguments or a run that cannot be used.
    """
    from automix_jax.train import export as export_lib
    from automix_jax.train.trained import load_run

    parser = Parser("export", _EXPORT_HELP)
    add = parser.add_argument
    add("workdir", metavar="WORKDIR", help="the run's folder")
    add("--out", required=True, metavar="DIR", help="folder to be made")
    add(
        "--format",
        default="safetensors",
        metavar="A,B",
        help=f"of {', '.join(export_lib.FORMATS)} (default: %(default)s)",
    )
    add("--network", choices=("student", "teacher"), help="default: the headline's")
    add("--head", choices=("mix", "clean"), help="default: the headline's")
    add("--checkpoint", choices=("last", "best"), default="last", help="(default: %(default)s)")
    add("--naming", metavar="NAME", help="torchvision, timm, ... where a network has several")
    arguments = parser.parse_args(argv)
    formats = arguments.format.split(",")
    export_lib.check_formats(formats)
    trained = load_run(
        arguments.workdir,
        network=arguments.network,
        head=arguments.head,
        checkpoint=arguments.checkpoint,
    )
    for path in export_lib.export(trained, arguments.out, formats, arguments.naming):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0

"""`automix evaluate`: judges a network of a finished run by more than its accuracy."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from automix_jax.commands.base import Parser, check_least
from automix_jax.errors import AutoMixError, ConfigError

_HELP = """\
Judges a network of a finished run, and writes numbers, pictures and a report to WORKDIR/evaluation:

    automix evaluate runs/quickstart
    automix evaluate runs/cifar100 --suite=calibration,corruptions --corruptions=CIFAR-100-C
    automix evaluate runs/cub200 --suite=localization --boxes=CUB_200_2011 --network=teacher

    accuracy      top-1 and top-5, over all and for each class
    calibration   how far confidence and accuracy agree: ECE and others, a reliability diagram
    corruptions   accuracy under 19 corruptions at 5 severities
    attacks       errors under FGSM and PGD
    localization  MaxBoxAcc and MaxBoxAccV2 of CAM or Grad-CAM; needs boxes
    mixed         accuracy on the mixed images of every mixup, by the ratio

What was measured before with the same network, images and options is kept: the same command goes on
where it was interrupted.
"""


def evaluate(argv: Sequence[str]) -> int:
    """Runs `automix evaluate`.

    Raises:
        AutoMixError: for arguments, data or a run that cannot be used.
    """
    parser = Parser("evaluate", _HELP)
    add = parser.add_argument
    add("workdir", type=Path, metavar="WORKDIR", help="the run's folder")
    add("--suite", metavar="A,B", help="some of the above (default: all that have what they need)")
    add("--network", choices=("student", "teacher"), help="default: the headline's")
    add("--head", choices=("mix", "clean"), help="default: the headline's")
    add("--checkpoint", choices=("last", "best"), default="last", help="(default: %(default)s)")
    add("--limit", type=int, metavar="N", help="N test images, always the same (default: all)")
    add("--batch-size", type=int, metavar="N", help="images at once (default: as many as fit)")
    add("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="of the files (default: WORKDIR/evaluation)")
    add("--again", action="store_true", help="measure anew what is there already")
    add(
        "--temperature",
        choices=("held-out", "test", "none"),
        default="held-out",
        help="calibration: what it is fitted to: the images that config.data.held_out left out of"
        " training, or the test images themselves, which is too good to be true (default:"
        " %(default)s)",
    )
    add(
        "--corruptions",
        type=Path,
        metavar="DIR",
        help="corruptions: CIFAR-10-C, CIFAR-100-C, ImageNet-C, or what `automix data corrupt`"
        " wrote (default: corrupts the test images on the way)",
    )
    add("--names", metavar="A,B", help="corruptions: some of them (default: all)")
    add(
        "--boxes",
        type=Path,
        metavar="PATH",
        help="localization: folder of CUB-200-2011, of Tiny-ImageNet or of XML files, or a CSV file"
        " with the columns path,x0,y0,x1,y1 (default: those beside the images or in their records)",
    )
    add("--cam", choices=("cam", "gradcam"), help="localization (default: cam where it is defined)")
    add("--methods", metavar="A,B", help="mixed: the mixups, or all (default: all but supermix)")
    arguments = parser.parse_args(argv)
    check_least(vars(arguments), limit=1, batch_size=1, seed=0)

    from rich.console import Console

    from automix_jax.report import evaluation
    from automix_jax.report.suites.base import Options, open_subject
    from automix_jax.report.suites.localization import find_boxes
    from automix_jax.train.lock import locked

    workdir = arguments.workdir.expanduser()
    beside = find_boxes(workdir)  # which says what is no run before anything is written to it
    options = Options(
        seed=arguments.seed,
        temperature=arguments.temperature,
        corruptions=arguments.corruptions,
        names=_split(arguments.names),
        boxes=arguments.boxes or beside,
        cam=arguments.cam,
        again=arguments.again,
        methods=_split(arguments.methods),
    )
    suites, lacking = evaluation.choose_suites(arguments.suite, options)
    folder = arguments.out.expanduser() if arguments.out else workdir / "evaluation"
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    outcomes, failed = [], 0
    with locked(folder):  # before a network is read that another process is at
        subject = open_subject(
            workdir,
            network=arguments.network,
            head=arguments.head,
            checkpoint=arguments.checkpoint,
            limit=arguments.limit,
        )
        # All of them before hours are spent on the first.
        suites, unable = evaluation.check(suites, subject, options, _needed(arguments))
        title = f"{subject.name} of {workdir}, step {subject.trained.step:,}"
        console.print(f"{title}: {len(subject.labels):,} test images")
        for name, why in (lacking | unable).items():
            console.print(f"{name} is left out: {why}")
        for suite in suites:
            try:
                outcome = evaluation.evaluate(
                    subject,
                    suite,
                    options,
                    folder,
                    batch_size=arguments.batch_size,
                    say=console.print,
                )
            except AutoMixError as error:
                sys.stderr.write(f"error: {suite.name}: {error}\n")
                failed = failed or error.exit_code
                continue
            outcomes.append(outcome)
            how = "kept" if outcome.kept else f"{outcome.record['seconds']:.0f} s"
            console.print(f"{outcome.path}  ({how})")
        console.print(evaluation.table(outcomes, title))
        console.print(str(evaluation.write_report(outcomes, subject, folder)))
    return failed


def _needed(arguments: argparse.Namespace) -> set[str]:
    """The suites that the user has asked for, by their names or by options that only they have."""
    if arguments.suite is not None:
        return set(arguments.suite.split(","))
    options = {
        "corruptions": (arguments.corruptions, arguments.names),
        "localization": (arguments.boxes, arguments.cam),
        "mixed": (arguments.methods,),
    }
    return {suite for suite, given in options.items() if any(given)}


def _split(text: str | None) -> tuple[str, ...] | None:
    """The parts of a list, between commas or plus signs."""
    if text == "":
        raise ConfigError("an empty list names nothing: leave the option out for all.")
    return tuple(re.split("[,+]", text)) if text else None

"""`automix report`: a page that tells of a run, or compares several."""

import sys
from collections.abc import Sequence
from pathlib import Path

from automix_jax.commands.base import Parser, check_file
from automix_jax.errors import ConfigError

_HELP = """\
Writes one HTML file of a run, which opens without a server and loads nothing: its accuracy, curves,
mixed images and masks over the epochs, what `automix evaluate` has found, configuration,
checkpoints, and what to type next:

    automix report runs/quickstart
    automix report runs/quickstart --out=quickstart.html
    automix report runs/mixup runs/cutmix runs/automix --out=comparison.html

The run may be in progress, or stopped. Of several runs the page shows the curves over each other,
and one table. All numbers are in the page as JSON, in its element "data".
"""


def report(argv: Sequence[str]) -> int:
    """Runs `automix report`.

    Raises:
        AutoMixError: for arguments or a run that cannot be used.
    """
    parser = Parser("report", _HELP)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run")
    add("--out", type=Path, metavar="FILE.html", help="(default: RUN/report.html)")
    add("--force", action="store_true", help="replace a file that is no such page")
    options = parser.parse_args(argv)
    runs = [run.expanduser() for run in options.runs]
    if options.out is None and len(runs) > 1:
        raise ConfigError("several runs need --out: give the FILE.html that compares them.")

    from automix_jax.report.html import write_report

    if options.out is not None:
        out = options.out.expanduser()
        check_file(out, ".html", "the page is HTML")
    else:
        out = runs[0] / "report.html"
    for note in write_report(runs, out, force=options.force):
        sys.stderr.write(f"note: {note}\n")
    print(f"{out}  {out.stat().st_size:,} bytes")
    return 0

"""`dicomdl report`: write one page about an index, with pictures of every stack."""

import argparse
import json
from typing import Any

from dicomdl.cli import _joining
from dicomdl.cli._output import FINE, PROBLEMS, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report",
        help="write one page about an index, with findings and pictures of every stack",
        description="Write one HTML file: what the index holds, what needs a person, "
        "distributions, labels, and three planes of every stack. The exit code is 1 if anything "
        "needs a person, as for check.",
    )
    report.add_argument(
        "index", metavar="INDEX", help="index folder, or a folder that was scanned without --out"
    )
    report.add_argument("-o", "--out", required=True, metavar="FILE", help="the file to write")
    report.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only frames that meet a condition, as for show; may be repeated",
    )
    report.add_argument(
        "--split", metavar="FILE", help="a saved split, whose parts and leaks are shown"
    )
    _joining.add(report, "targets", "columns of the table whose values are counted (default: all)")
    report.add_argument(
        "--compare",
        metavar="OTHER_INDEX",
        help="show what came, went or changed against another index, distributions side by side",
    )
    report.add_argument(
        "--pictures",
        type=int,
        default=64,
        metavar="N",
        help="pixels of a plane (default: 64); 0 for a page without pictures",
    )
    report.add_argument(
        "--sliders",
        type=_sliders,
        default=12,
        metavar="N",
        help="how many stacks get a slider over their slices (default: 12), or their numbers: "
        "3,17, (one number: 3,)",
    )
    report.add_argument("--no-labels", action="store_true", help="leave out SEG and RTSTRUCT")
    report.add_argument("--demographics", action="store_true", help="show age and sex")
    report.add_argument(
        "--paths",
        default="relative",
        choices=("relative", "hash"),
        help="show folders below that of all files (default), or hashes of them",
    )
    report.add_argument("--overwrite", action="store_true", help="replace an existing file")
    report.add_argument(
        "--workers", type=int, metavar="N", help="processes that draw (default: one per core)"
    )
    report.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    report.add_argument("--json", action="store_true", help="print what was found as JSON")
    report.set_defaults(run=run)


def _sliders(text: str) -> int | list[int]:
    """Parse a number of stacks, or a list of their numbers, which has a comma."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts) or not parts:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, or numbers with commas")
    return [int(part) for part in parts] if "," in text else int(parts[0])


def run(given: argparse.Namespace) -> int:
    """Write the page, and print what was found."""
    from dicomdl.index import filtering
    from dicomdl.index.opening import open_index
    from dicomdl.jobs.report.making import report

    index = _joining.joined(open_index(given.index), given)
    made = report(
        filtering.selected(index, given.where),
        given.out,
        split=given.split,
        compare_with=None if given.compare is None else open_index(given.compare),
        pictures=given.pictures,
        sliders=given.sliders,
        labels=not given.no_labels,
        demographics=given.demographics,
        paths=given.paths,
        overwrite=given.overwrite,
        workers=given.workers,
        progress=not (given.quiet or given.json),
    )
    if given.json:
        print(json.dumps(made.to_dict(), indent=1, allow_nan=False))
    else:
        print_text(repr(made))
    return FINE if made.ok else PROBLEMS

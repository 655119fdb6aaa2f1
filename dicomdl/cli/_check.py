"""`dicomdl check`: list what needs a person, check pixels with two decoders, or identities."""

import argparse
import json
from typing import Any, Final

from dicomdl.cli._output import FINE, PROBLEMS, print_text

_SAMPLE: Final = 4


def add(commands: Any) -> None:
    """Add the command to the parser."""
    check = commands.add_parser(
        "check",
        help="list the stacks and files that need a person, with reasons; exit code 1 if any does",
    )
    check.add_argument(
        "index", metavar="INDEX", help="index folder, or a folder that was scanned without --out"
    )
    check.add_argument(
        "--all",
        action="store_true",
        help="list every stack and every problem, not only the first ones that need a person",
    )
    check.add_argument(
        "--pixels",
        action="store_true",
        help="check pixels instead: decode frames with two decoders and list every difference",
    )
    check.add_argument(
        "--sample",
        type=_frames,
        default=argparse.SUPPRESS,
        metavar="N",
        help=f"with --pixels: frames per kind, or 'all' (default: {_SAMPLE})",
    )
    check.add_argument(
        "--phi",
        action="store_true",
        help="check identities instead: read all headers again and count the attributes of "
        "PS3.15 Annex E that carry values, and pixels that may show text",
    )
    check.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    check.add_argument("--json", action="store_true", help="print everything as JSON")
    check.set_defaults(run=run)


def _frames(text: str) -> int | None:
    """Parse the number of frames per kind; None for all frames."""
    if text == "all":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 1, or 'all'")


def run(given: argparse.Namespace) -> int:
    """Print the verdicts, the differences between two decoders, or the attributes with values."""
    from dicomdl.errors import UsageError
    from dicomdl.index.opening import open_index

    if "sample" in given and not given.pixels:
        raise UsageError("--sample is an option of --pixels")
    if given.pixels and given.phi:
        raise UsageError("--pixels and --phi are two checks: ask for one of them")
    index = open_index(given.index)
    if given.pixels:
        from dicomdl.jobs.crosscheck import check_pixels

        check: Any = check_pixels(
            index,
            sample=getattr(given, "sample", _SAMPLE),
            progress=not (given.quiet or given.json),
        )
    elif given.phi:
        from dicomdl.jobs.phi import check_phi

        check = check_phi(index, progress=not (given.quiet or given.json))
    else:
        check = index.check()
    if given.json:
        print(json.dumps(check.to_dict(), indent=1, allow_nan=False))
    else:
        print_text(check.text(everything=given.all))
    return FINE if check.ok else PROBLEMS

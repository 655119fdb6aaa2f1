"""`dicomdl check`: list what needs a person, or check pixels, identities, archives or shards."""

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
        "index",
        metavar="INDEX",
        help="index folder, or a folder that was scanned without --out; or the folder of an export "
        "to webdataset, whose shards are read in full and compared with the manifest",
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
    check.add_argument(
        "--archives",
        action="store_true",
        help="check archives instead: read every member in full and compare its checksum",
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
    """Print the verdicts, or the result of another check."""
    from dicomdl.errors import UsageError
    from dicomdl.index.opening import open_index
    from dicomdl.jobs.shard_check import check_shards, is_of_shards

    if "sample" in given and not given.pixels:
        raise UsageError("--sample is an option of --pixels")
    checks = [name for name in ("pixels", "phi", "archives") if getattr(given, name)]
    if len(checks) > 1:
        first, second = checks[:2]
        raise UsageError(f"--{first} and --{second} are two checks: ask for one of them")
    progress = not (given.quiet or given.json)
    if is_of_shards(given.index):
        if {"pixels", "phi"}.intersection(checks):
            raise UsageError(f"--{checks[0]} is a check of an index, {given.index!r} has shards")
        check = check_shards(given.index, progress=progress)
    else:
        check = _checked(open_index(given.index), given, progress=progress)
    if given.json:
        print(json.dumps(check.to_dict(), indent=1, allow_nan=False))
    else:
        print_text(check.text(everything=given.all))
    return FINE if check.ok else PROBLEMS


def _checked(index: Any, given: argparse.Namespace, *, progress: bool) -> Any:
    if given.pixels:
        from dicomdl.jobs.crosscheck import check_pixels

        return check_pixels(index, sample=getattr(given, "sample", _SAMPLE), progress=progress)
    if given.phi:
        from dicomdl.jobs.phi import check_phi

        return check_phi(index, progress=progress)
    if given.archives:
        from dicomdl.jobs.archive_check import check_archives

        return check_archives(index, progress=progress)
    return index.check()

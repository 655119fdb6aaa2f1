"""`dicomdl idc`: find series of the Imaging Data Commons, index or download them."""

import argparse
import json
from typing import Any

from dicomdl.cli._output import FINE, PROBLEMS, facts, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    idc = commands.add_parser(
        "idc",
        help="find series of the Imaging Data Commons, index or download them",
        description="Find public series by a condition in SQL, offline; needs dicomdl[idc]. "
        "Without an option, their number, size and licenses are printed.",
    )
    idc.add_argument(
        "where",
        metavar="WHERE",
        nargs="?",
        default="",
        help="condition on IDC's columns: \"collection_id = 'nlst' AND Modality = 'CT'\"",
    )
    idc.add_argument(
        "--manifest",
        metavar="FILE",
        help="the series of a manifest (.tcia, .s5cmd, metadata.csv) in place of a condition",
    )
    idc.add_argument("--limit", type=int, metavar="N", help="at most N series")
    idc.add_argument("--columns", action="store_true", help="list the columns for WHERE")
    idc.add_argument("--citations", action="store_true", help="list the texts to cite")
    idc.add_argument("--links", action="store_true", help="list pages that show the series")
    idc.add_argument(
        "-o", "--index", metavar="INDEX", help="write an index, by reading headers in the bucket"
    )
    idc.add_argument("--download", metavar="FOLDER", help="copy the files into a folder")
    idc.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    idc.add_argument("--json", action="store_true", help="print everything as JSON")
    idc.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Find the series, and do what is asked."""
    from dicomdl.errors import UsageError
    from dicomdl.jobs import idc

    if given.columns:
        print_text("\n".join(idc.columns()))
        return FINE
    if given.manifest and (given.where or given.limit is not None):
        raise UsageError("--manifest lists its series itself: leave out the condition and --limit")
    found = (
        idc.from_manifest(given.manifest)
        if given.manifest
        else idc.series(given.where, limit=given.limit)
    )
    shows = not (given.quiet or given.json)
    told: dict[str, Any] = found.to_dict()
    if given.download:
        told["download"] = found.download(given.download, progress=shows)
    index = found.index(given.index, progress=shows) if given.index else None
    if index is not None:
        told["index"] = facts(index)
    if given.json:
        print(json.dumps(told, indent=1, allow_nan=False))
    else:
        lines = [repr(found)]
        lines += [] if len(found) else ["  no series of IDC meets the condition"]
        lines += found.citations() if given.citations else []
        lines += found.viewer_links() if given.links else []
        if given.download:
            counts = told["download"]
            lines.append(f"{counts['copied']} files copied, {counts['present']} were there")
        lines += [] if index is None else [repr(index)]
        print_text("\n".join(lines))
    return (
        PROBLEMS
        if not len(found) or found.missing or (index is not None and len(index.problems))
        else FINE
    )

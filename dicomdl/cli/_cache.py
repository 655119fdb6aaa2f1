"""`dicomdl cache`: show, verify or clear the disk cache of decoded stacks."""

import argparse
import json
from typing import Any

from dicomdl.cli._output import FINE, PROBLEMS, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    cache = commands.add_parser(
        "cache", help="show, verify or clear the disk cache of decoded stacks"
    )
    cache.add_argument(
        "action",
        choices=("show", "verify", "clear"),
        help="list the entries, check all checksums (exit code 1 on damage), or delete all entries",
    )
    cache.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="the folder of a DiskCache (default: the user's)",
    )
    cache.add_argument("--json", action="store_true", help="print the result as JSON")
    cache.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Show, verify or clear the cache."""
    from dicomdl.storage.cache import folder as cache

    report = {"show": cache.show, "verify": cache.verify, "clear": cache.clear}[given.action](
        given.folder
    )
    if given.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print_text(str(report))
    return PROBLEMS if report.damaged else FINE

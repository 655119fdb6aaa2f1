"""`dicomdl cache`: show, verify or clear what is kept to read again faster."""

import argparse
import json
from typing import Any

from dicomdl.cli._output import FINE, PROBLEMS, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    cache = commands.add_parser(
        "cache",
        help="show, verify or clear the disk cache of decoded stacks, and what reading from stores "
        "and archives keeps",
    )
    cache.add_argument(
        "action",
        choices=("show", "verify", "clear"),
        help="list the entries, check all checksums (exit code 1 on damage), or delete all "
        "entries; without FOLDER, also the ranges of objects of stores, the copies of archives and "
        "the pictures of reports",
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
    from dicomdl.storage import kept
    from dicomdl.storage.cache import folder as cache

    of_folder, of_rest = {
        "show": (cache.show, kept.show_kept),
        "verify": (cache.verify, kept.verify_kept),
        "clear": (cache.clear, kept.clear_kept),
    }[given.action]
    report = of_folder(given.folder)
    rest = of_rest() if given.folder is None else []
    if given.json:
        print(json.dumps({**report.as_dict(), "kept": [each.as_dict() for each in rest]}, indent=1))
    else:
        for each in (report, *rest):
            print_text(str(each))
    return PROBLEMS if report.damaged or any(each.damaged for each in rest) else FINE

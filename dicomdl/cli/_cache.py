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
        help="list the entries, check all checksums (exit code 1 on damage), or delete all entries "
        "and, without FOLDER, the copies of compressed archives",
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
    from dicomdl.storage import copies
    from dicomdl.storage.cache import folder as cache

    report = {"show": cache.show, "verify": cache.verify, "clear": cache.clear}[given.action](
        given.folder
    )
    facts = report.as_dict()
    if given.action == "clear" and given.folder is None:
        facts["archive_bytes_removed"] = copies.clear()
    if given.json:
        print(json.dumps(facts, indent=1))
    else:
        print_text(str(report))
        if removed := facts.get("archive_bytes_removed"):
            print_text(f"  removed {removed:,} bytes of copies of compressed archives")
    return PROBLEMS if report.damaged else FINE

"""`dicomdl show`: summarize an index."""

import argparse
import json
from typing import Any

from dicomdl.cli._output import FINE, PROBLEMS, facts, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    show = commands.add_parser("show", help="summarize an index")
    show.add_argument(
        "index", metavar="INDEX", help="index folder, or a folder that was scanned without --out"
    )
    show.add_argument("--stacks", action="store_true", help="list the stacks, one per line")
    show.add_argument(
        "--problems", action="store_true", help="list the files that could not be used, and why"
    )
    show.add_argument("--json", action="store_true", help="print everything as JSON")
    show.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Print the summary, the stacks or the problems of an index."""
    from dicomdl.index.opening import open_index

    index = open_index(given.index)
    if given.json:
        print(
            json.dumps(
                facts(index) | {"stacks": [row.to_dict() for row in index.check().rows]},
                indent=1,
                allow_nan=False,
            )
        )
    else:
        print_text(repr(index))
        if given.stacks:
            for stack in index.stacks:
                print_text(f"{stack.number:>6} {stack!r}")
        if given.problems:
            for problem in index.problems:
                print_text(f"{problem.reason:<20} {problem.path}")
                print_text(f"{'':<20} {problem.detail}")
    return PROBLEMS if len(index.problems) else FINE

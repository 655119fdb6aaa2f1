"""`dicomdl show`: summarize an index, and list its stacks and problems."""

import argparse
import json
from typing import Any

from dicomdl.cli._output import FINE, PROBLEMS, facts, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    show = commands.add_parser("show", help="summarize an index, and list its stacks")
    show.add_argument(
        "index", metavar="INDEX", help="index folder, or a folder that was scanned without --out"
    )
    show.add_argument("--stacks", action="store_true", help="list the stacks, one per line")
    show.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only frames that meet a condition: modality=CT,MR  'slices>=20'  verdict!=regular  "
        "'series_description=*head*'  'folder=*/case1/*', with any column of the index; may be "
        "repeated",
    )
    show.add_argument("--dates", action="store_true", help="list the stacks with Study Date")
    show.add_argument("--patient-ids", action="store_true", help="list the stacks with PatientID")
    kind = show.add_mutually_exclusive_group()
    kind.add_argument(
        "--problems", action="store_true", help="list the files that could not be used, and why"
    )
    kind.add_argument(
        "--annotations",
        action="store_true",
        help="list the objects that describe images (SEG, RTSTRUCT, ...), and their status",
    )
    kind.add_argument(
        "--csv", action="store_true", help="print the list of stacks as CSV, with their UIDs"
    )
    kind.add_argument("--json", action="store_true", help="print everything as JSON")
    show.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Print the summary, the stacks, the problems or the annotations of an index."""
    from dicomdl.index import filtering, listing
    from dicomdl.index.opening import open_index

    index = filtering.selected(open_index(given.index), given.where)
    rows, listed = [], given.stacks or given.dates or given.patient_ids
    if listed or given.csv or given.json:
        rows = listing.listing(
            index,
            dates=given.dates,
            patient_ids=given.patient_ids,
            uids=given.csv or given.json,
        )
    if given.json:
        checked = [row.to_dict() for row in index.check().rows]
        stacks = [{**row, **check} for row, check in zip(rows, checked, strict=True)]
        print(json.dumps(facts(index) | {"stacks": stacks}, indent=1, allow_nan=False))
    elif given.csv:
        print_text(listing.as_csv(rows))
    else:
        print_text(repr(index))
        if listed:
            print_text(listing.as_text(rows))
        for annotation in index.annotations if given.annotations else ():
            print_text(repr(annotation))
            for remark in annotation.remarks:
                print_text(f"  {remark}")
        if given.problems and not len(index.problems):
            print_text("  no file has a problem")
        if given.problems:
            for problem in index.problems:
                print_text(f"{problem.reason:<20} {problem.path}")
                print_text(f"{'':<20} {problem.detail}")
    return PROBLEMS if len(index.problems) else FINE

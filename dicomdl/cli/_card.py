"""`dicomdl card`: write the data card of a data set."""

import argparse
import json
from typing import Any

from dicomdl.cli._output import FINE, print_text
from dicomdl.errors import UsageError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    card = commands.add_parser(
        "card",
        help="write the data card of a data set: Croissant, README.md and a fingerprint",
        description="Write card.json (Croissant 1.1), README.md (for the Hugging Face Hub) and "
        "tables of the stacks into the folder of a data set. The fingerprint is equal where the "
        "instances and the options are. Patients' names, PatientIDs and dates are in none of them.",
    )
    card.add_argument("source", metavar="INDEX", help="index folder, or a folder that was scanned")
    card.add_argument("-o", "--out", required=True, metavar="FOLDER", help="folder of the data set")
    card.add_argument("--name", required=True, metavar="NAME", help="name of the data set")
    card.add_argument("--description", default="", metavar="TEXT", help="what it is")
    card.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only frames that meet a condition, as for show; may be repeated",
    )
    card.add_argument("--split", metavar="FILE", help="a file of Split.save: the parts of the card")
    card.add_argument(
        "--options", metavar="FILE", help="JSON of the options that the data set was made with"
    )
    for option, text in (
        ("license", "a license, such as 'CC BY 4.0'"),
        ("cite", "a text to cite"),
        ("task", "a task of the Hub, such as image-segmentation"),
        ("tag", "a tag of the Hub"),
        ("creator", "who made it"),
    ):
        card.add_argument(
            f"--{option}",
            action="append",
            default=[],
            metavar="TEXT",
            help=f"{text}; may be repeated",
        )
    card.add_argument("--url", default="", metavar="URL", help="where the data set is")
    card.add_argument("--set-version", default="", metavar="TEXT", help="version of the data set")
    card.add_argument("--published", default="", metavar="DATE", help="date, such as 2026-11-29")
    card.add_argument(
        "--no-contents",
        action="store_true",
        help="take SOP Instance UIDs and sizes for the fingerprint, and do not read the files",
    )
    card.add_argument(
        "--patient-ids",
        action="store_true",
        help="list files whose names have a PatientID, which is an error otherwise",
    )
    card.add_argument("--overwrite", action="store_true", help="replace a card of other content")
    card.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    card.add_argument("--json", action="store_true", help="print everything as JSON")
    card.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Write a card, and print its fingerprint and counts."""
    from dicomdl.index import filtering
    from dicomdl.index.given import as_index
    from dicomdl.index.saved_splits import load_split
    from dicomdl.jobs.card import write_card

    index = filtering.selected(as_index(given.source, "card"), given.where)
    card = write_card(
        index,
        given.out,
        name=given.name,
        description=given.description,
        splits=index.split(keep=load_split(given.split)) if given.split else None,
        options=_options(given.options) if given.options else None,
        license=given.license,
        citations=given.cite,
        task_categories=given.task,
        tags=given.tag,
        creators=given.creator,
        url=given.url,
        version=given.set_version,
        date_published=given.published,
        contents=not given.no_contents,
        patient_ids=given.patient_ids,
        overwrite=given.overwrite,
        progress=not (given.quiet or given.json),
    )
    if given.json:
        print(json.dumps(card.to_dict(), indent=1))
    else:
        print_text(repr(card))
    return FINE


def _options(path: str) -> dict[str, Any]:
    """Return the options in a JSON file.

    Raises
    ------
    UsageError
        The file is no JSON object.
    StorageError
        The file cannot be read.
    """
    from dicomdl.errors import StorageError
    from dicomdl.storage.publishing import read_whole

    try:
        content = json.loads(read_whole(path))
    except StorageError:
        raise
    except ValueError as error:
        raise UsageError(f"the options {path!r} are not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"the options {path!r} are no JSON object")
    return content

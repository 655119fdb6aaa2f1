"""`dicomdl fetch`: copy series of a PACS or another archive into a folder."""

import argparse
import json
from typing import Any

from dicomdl.cli import _peers
from dicomdl.cli._output import FINE, PROBLEMS, facts, print_text

_CONDITIONS = ("patient", "study", "series", "accession", "modality", "description")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    fetch = commands.add_parser(
        "fetch",
        help="copy series of a PACS (DICOMweb, C-GET, C-MOVE) into a folder, and index them",
        description="Find series by conditions that hold together, and copy them as they are "
        "stored. Called again, it asks for what is missing; what was promised and did not come is "
        "listed with the reason, and the exit code is 1. Credentials of a DICOMweb server come "
        "from DICOMDL_DICOMWEB_TOKEN, or _USER and _PASSWORD, or a file (_CREDENTIALS).",
    )
    fetch.add_argument(
        "archive",
        metavar="ARCHIVE",
        help="https://host/dicom-web, dicom://TITLE@host:port or dicom+tls://TITLE@host:port",
    )
    fetch.add_argument("folder", metavar="FOLDER", nargs="?", help="where the files go")
    _add_conditions(fetch)
    fetch.add_argument(
        "--list", action="store_true", help="only print what would be fetched, without identities"
    )
    fetch.add_argument("--index", metavar="INDEX", help="write an index of FOLDER in the end")
    fetch.add_argument(
        "--jobs", type=int, default=4, metavar="N", help="series at once (default: 4)"
    )
    fetch.add_argument(
        "--tries", type=int, default=4, metavar="N", help="tries in vain (default: 4)"
    )
    fetch.add_argument(
        "--method",
        choices=("get", "move"),
        default="get",
        help="DIMSE: C-GET (default), or C-MOVE to --port of this machine",
    )
    fetch.add_argument(
        "--port", type=int, default=11112, metavar="P", help="port for C-MOVE (default: 11112)"
    )
    fetch.add_argument(
        "--transfer-syntax", default="", metavar="UID", help="convert to it (default: as stored)"
    )
    _peers.add_options(fetch)
    fetch.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    fetch.add_argument("--json", action="store_true", help="print everything as JSON")
    fetch.set_defaults(run=run)


def _add_conditions(fetch: argparse.ArgumentParser) -> None:
    """Add the options of conditions; each but dates and lists may be repeated."""
    helps = {
        "patient": "PatientID",
        "study": "Study Instance UID",
        "series": "Series Instance UID",
        "accession": "Accession Number",
        "modality": "modality, such as CT",
        "description": "Series Description, or a pattern with * and ?, in any case",
    }
    for name, words in helps.items():
        fetch.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar=name.upper(),
            help=f"{words}; may be repeated",
        )
    fetch.add_argument(
        "--accessions", default="", metavar="CSV", help="accession numbers: list.csv[:COLUMN]"
    )
    fetch.add_argument(
        "--dates", default="", metavar="DAYS", help="study dates: YYYYMMDD, or YYYYMMDD-YYYYMMDD"
    )


def run(given: argparse.Namespace) -> int:
    """Find, and fetch unless only a list is asked for."""
    from dicomdl.errors import UsageError
    from dicomdl.jobs.network.fetch import Access, fetch, find_series

    conditions = {name: getattr(given, name) for name in (*_CONDITIONS, "accessions", "dates")}
    access = Access(
        _peers.tls_of(given),
        given.own_title,
        _peers.timeouts_of(given),
        given.transfer_syntax,
        given.method,
        given.port,
    )
    if given.list:
        found = find_series(given.archive, access=access, **conditions)
        _print(given, found)
        return FINE
    if not given.folder:
        raise UsageError("name a FOLDER for the files, or --list")
    fetched = fetch(
        given.archive,
        given.folder,
        index=given.index,
        jobs=given.jobs,
        tries=given.tries,
        access=access,
        progress=not (given.quiet or given.json),
        **conditions,
    )
    _print(given, fetched)
    return FINE if fetched.ok else PROBLEMS


def _print(given: argparse.Namespace, done: Any) -> None:
    """Print what was found or fetched."""
    index = getattr(done, "index", None)
    if given.json:
        told = done.to_dict()
        print(json.dumps(told | ({"index": facts(index)} if index else {}), indent=1))
    else:
        print_text("\n".join([repr(done), *([] if index is None else [repr(index)])]))

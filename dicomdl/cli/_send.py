"""`dicomdl send`: files to a PACS, and which of them it keeps safely."""

import argparse
import json
from typing import Any

from dicomdl.cli import _peers
from dicomdl.cli._output import FINE, PROBLEMS, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    send = commands.add_parser(
        "send",
        help="send files to a PACS as they are stored (C-STORE, STOW-RS), with storage commitment",
        description="Send files, folders or the files and annotations of an index, as they are "
        "stored. Exit code 1 if a file was not stored, or not committed with --commit. Needs "
        "dicomdl[net].",
    )
    send.add_argument(
        "peer",
        metavar="PEER",
        help="dicom://TITLE@host:port, dicom+tls://TITLE@host:port, or https://host/dicom-web",
    )
    send.add_argument(
        "paths", nargs="+", metavar="PATH", help="a file, a folder, or an index folder"
    )
    send.add_argument(
        "--ledger",
        metavar="FILE",
        help="record what was sent; files that the record lists are not sent again",
    )
    send.add_argument(
        "--commit",
        action="store_true",
        help="ask the server to commit to what it stored, and list what is safe to delete",
    )
    send.add_argument(
        "--commit-port",
        type=int,
        default=11112,
        metavar="N",
        help="port on which the server may answer (default: 11112; 0: the same association alone)",
    )
    send.add_argument(
        "--commit-wait",
        type=float,
        default=60.0,
        metavar="S",
        help="longest wait for its answer, in seconds (default: 60)",
    )
    _peers.add_options(send)
    send.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    send.add_argument("--json", action="store_true", help="print everything as JSON")
    send.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Send, and print what became of it."""
    from dicomdl.jobs.network.commitment import Commitment
    from dicomdl.jobs.network.sending import send

    sent = send(
        _peers.peer_of(given),
        given.paths,
        commit=Commitment(given.commit_port, given.commit_wait) if given.commit else False,
        ledger=given.ledger,
        timeouts=_peers.timeouts_of(given),
        progress=not (given.quiet or given.json),
    )
    if given.json:
        print(json.dumps(sent.to_dict(), indent=1))
    else:
        print_text(repr(sent))
    return FINE if sent.ok else PROBLEMS

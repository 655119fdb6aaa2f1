"""`dicomdl echo`: whether a DICOM server answers, and if not, why."""

import argparse
import json
import sys
from typing import Any

from dicomdl.cli import _peers
from dicomdl.cli._output import FINE, PROBLEMS, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    echo = commands.add_parser(
        "echo",
        help="ask a server whether it answers (C-ECHO, QIDO-RS); exit code 1 if not, and why",
    )
    echo.add_argument(
        "peer",
        metavar="PEER",
        help="dicom://TITLE@host:port, dicom+tls://TITLE@host:port, or https://host/dicom-web",
    )
    _peers.add_options(echo)
    echo.add_argument("--json", action="store_true", help="print the answer as JSON")
    echo.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Ask, and print the answer or why there is none."""
    from dicomdl.errors import NetworkError
    from dicomdl.jobs.network.echoing import echo

    peer = _peers.peer_of(given)
    try:
        answer = echo(peer, timeouts=_peers.timeouts_of(given))
    except NetworkError as error:
        if given.json:
            print(json.dumps({"peer": str(peer), "answers": False, "error": str(error)}, indent=1))
        else:
            print_text(f"dicomdl: {error}", file=sys.stderr)
        return PROBLEMS
    if given.json:
        told = {
            "peer": str(peer),
            "answers": True,
            "association_ms": round(answer.association_ms, 3),
            "answer_ms": round(answer.answer_ms, 3),
            "implementation": answer.implementation,
        }
        print(json.dumps(told, indent=1))
    else:
        by = f" ({answer.implementation})" if answer.implementation else ""
        print_text(f"{peer} answers{by}: {answer.answer_ms:.1f} ms")
    return FINE

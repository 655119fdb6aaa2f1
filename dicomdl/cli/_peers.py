"""Options of commands that ask a DICOM server: own title, certificates, time limits."""

import argparse
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a connection to a DICOM server."""
    parser.add_argument(
        "--own-title",
        metavar="TITLE",
        help="AE title of this side (default: $DICOMDL_AE_TITLE or DICOMDL)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="longest wait for an answer, in seconds (default: 60)",
    )
    add_tls(parser)


def add_tls(parser: argparse.ArgumentParser) -> None:
    """Add the options of certificates."""
    parser.add_argument(
        "--tls-ca", default="", metavar="FILE", help="certificates that are trusted, in PEM"
    )
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="own certificate, in PEM")
    parser.add_argument(
        "--tls-key",
        default="",
        metavar="FILE",
        help="its key, in PEM; the passphrase comes from DICOMDL_TLS_PASSPHRASE",
    )
    parser.add_argument(
        "--tls-no-verify",
        action="store_true",
        help="accept any certificate: whoever is between can read and change the data",
    )


def tls_of(given: argparse.Namespace) -> Any:
    """Return the certificates that the options name; None where they name none."""
    from dicomdl.jobs.network.peers import TLS

    if not (given.tls_ca or given.tls_cert or given.tls_key or given.tls_no_verify):
        return None
    return TLS(given.tls_ca, given.tls_cert, given.tls_key, not given.tls_no_verify)


def peer_of(given: argparse.Namespace) -> Any:
    """Return the server that the options and the argument PEER name."""
    from dicomdl.jobs.network.peers import parse_server

    return parse_server(given.peer, own_title=given.own_title, tls=tls_of(given))


def timeouts_of(given: argparse.Namespace) -> Any:
    """Return the time limits of the options; None where they name none."""
    from dicomdl.errors import UsageError
    from dicomdl.jobs.network.peers import Timeouts

    if given.timeout is None:
        return None
    if not given.timeout > 0:
        raise UsageError(f"--timeout {given.timeout:g}: expected a number above 0")
    return Timeouts(connect_s=min(Timeouts().connect_s, given.timeout), answer_s=given.timeout)

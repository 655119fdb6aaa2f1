"""`dicomdl receive`: a C-STORE server that fills a folder and keeps an index of it."""

import argparse
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from dicomdl.cli import _peers
from dicomdl.cli._output import FINE, PROBLEMS, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    receive = commands.add_parser(
        "receive",
        help="receive files from a PACS or scanner (C-STORE) into a folder, until Ctrl-C",
        description="Listen for files of a PACS or scanner, and write each whole or not at all, "
        "below a folder by their UIDs. Ctrl-C or SIGTERM ends it: associations may finish, and the "
        "index is brought up to date. Exit code 1 if an instance was refused. Needs dicomdl[net].",
    )
    receive.add_argument("-o", "--out", required=True, metavar="FOLDER", help="the folder to fill")
    receive.add_argument(
        "--index",
        metavar="INDEX",
        help="an index of the folder, brought up to date after each association",
    )
    receive.add_argument(
        "--title",
        metavar="TITLE",
        help="AE title of this side (default: $DICOMDL_AE_TITLE or DICOMDL)",
    )
    receive.add_argument(
        "--port",
        type=int,
        default=11112,
        metavar="N",
        help="port (default: 11112; 104 and 2762 are usual, too, and need rights)",
    )
    receive.add_argument(
        "--host", default="", help="address to listen at (default: all of this machine)"
    )
    receive.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="TITLE",
        help="AE titles that may send (default: all)",
    )
    receive.add_argument(
        "--most-mb",
        type=int,
        default=4096,
        metavar="N",
        help="largest instance, in MiB (default: 4096)",
    )
    receive.add_argument(
        "--every",
        type=int,
        default=1000,
        metavar="N",
        help="bring the index up to date after N files of a long association, too (default: 1000)",
    )
    _peers.add_tls(receive)
    receive.add_argument("-q", "--quiet", action="store_true", help="print the result only")
    receive.add_argument("--json", action="store_true", help="print the result as JSON")
    receive.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Receive until a signal ends it."""
    from dicomdl.jobs.network.listening import Listener
    from dicomdl.jobs.network.peers import own_title_of
    from dicomdl.jobs.network.receiving import receive

    listener = Listener(
        own_title_of(given.title),
        given.port,
        given.host,
        tuple(given.allow),
        _peers.tls_of(given),
    )
    with _stopped_by_signals() as stop:
        counts = receive(
            given.out,
            index=given.index,
            listener=listener,
            most_bytes=given.most_mb * 2**20,
            each=given.every,
            stop=stop,
            tell=_silent if given.quiet else _tell,
        )
    if given.json:
        print(json.dumps(counts.to_dict(), indent=1))
    else:
        print_text(f"received {counts}")
    return FINE if counts.ok else PROBLEMS


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set; a second signal interrupts at once."""
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        del number, frame
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {each: signal.signal(each, on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _tell(words: str) -> None:
    print_text(words, file=sys.stderr)
    sys.stderr.flush()


def _silent(words: str) -> None:
    del words

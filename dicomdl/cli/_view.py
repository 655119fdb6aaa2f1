"""`dicomdl view`: look at the stacks of an index in the browser, straight from DICOM."""

import argparse
import webbrowser
from typing import Any

from dicomdl.cli._output import FINE, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    view = commands.add_parser(
        "view",
        help="look at the stacks of an index in the browser: planes, windows, labels",
        description="Serve a page on 127.0.0.1 that shows any stack in three planes, with windows, "
        "labels and the numbers of its verdict, straight from DICOM. Nobody without the printed "
        "address can open it. Ctrl-C ends it.",
    )
    view.add_argument(
        "index", metavar="INDEX", help="index folder, or a folder that was scanned without --out"
    )
    view.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only frames that meet a condition, as for show; may be repeated",
    )
    view.add_argument(
        "--port", type=int, default=0, metavar="N", help="the port (default: a free one)"
    )
    view.add_argument(
        "--niivue",
        metavar="FILE",
        help="show volumes in 3D, too, by NiiVue: the file dist/niivue.umd.js of its package "
        "@niivue/niivue",
    )
    view.add_argument(
        "--no-browser", action="store_true", help="print the address, and open no browser"
    )
    view.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from dicomdl.index import filtering
    from dicomdl.index.given import require_frames
    from dicomdl.index.opening import open_index
    from dicomdl.jobs.viewer.server import ViewServer

    index = filtering.selected(open_index(given.index), given.where)
    index.require_readable()
    require_frames(index, "view")
    server = ViewServer(index, given.port, given.niivue)
    server.start()
    print_text(f"{len(index.stacks):,} stacks at {server.url} (Ctrl-C ends it)")
    if not given.no_browser:
        webbrowser.open(server.url)
    try:
        server.wait()
    except KeyboardInterrupt:
        print_text("closed")
    finally:
        server.close()
    return FINE

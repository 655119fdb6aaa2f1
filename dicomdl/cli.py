"""The command `dicomdl`, and the only module that prints.

Exit codes: 0 success, 1 done with problems found, 2 wrong use or failure. Heavy packages are
imported by the commands that need them: `dicomdl --help` takes 25 ms instead of the seconds of
torch.
"""

import argparse
import importlib.util
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from dicomdl.errors import DicomdlError, UsageError
from dicomdl.storage.publishing import make_folder
from dicomdl.version import __version__

FINE: Final = 0
PROBLEMS: Final = 1
WRONG_USE: Final = 2
# Rows and columns of a frame on the contact sheet of the demo.
DEMO_TILE: Final = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # characters of a path that a terminal cannot show are printed as escapes
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return WRONG_USE
    try:
        return int(given.run(given))
    except DicomdlError as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        print(f"dicomdl: {_printable(str(error))}{_printable(notes)}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("dicomdl: interrupted; an existing index is unchanged", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `dicomdl show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dicomdl",
        description="From a folder of DICOM to PyTorch batches: right, fast, and without a detour "
        "through another file format.",
        epilog="exit codes: 0 success, 1 problems found, 2 wrong use or failure",
    )
    parser.add_argument("--version", action="version", version=f"dicomdl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    scan = commands.add_parser(
        "scan",
        help="index all DICOM files below some folders; a repeated scan reads only changed files",
    )
    scan.add_argument("roots", nargs="+", metavar="ROOT", help="folder or file")
    scan.add_argument(
        "-o",
        "--out",
        metavar="INDEX",
        help="index folder (default: a folder in the user's cache)",
    )
    scan.add_argument(
        "-j",
        "--workers",
        type=int,
        metavar="N",
        help="number of processes that read headers (default: one per core for large folders)",
    )
    scan.add_argument(
        "--follow-links", action="store_true", help="walk into folders that are symbolic links"
    )
    scan.add_argument(
        "-a",
        "--attribute",
        action="append",
        default=[],
        metavar="KEYWORD",
        help="store another attribute, e.g. ContrastBolusAgent; may be repeated",
    )
    scan.add_argument(
        "--allow-phi", action="store_true", help="allow --attribute to store identifying attributes"
    )
    scan.add_argument(
        "--patient-id",
        choices=("keep", "hash"),
        default="keep",
        help="store PatientID itself, or a keyed hash of it (default: %(default)s)",
    )
    scan.add_argument("--json", action="store_true", help="print the result as JSON")
    scan.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    scan.set_defaults(run=_scan)
    show = commands.add_parser("show", help="summarize an index")
    show.add_argument("index", metavar="INDEX", help="index folder")
    show.add_argument("--stacks", action="store_true", help="list the stacks, one per line")
    show.add_argument(
        "--problems", action="store_true", help="list the files that could not be used, and why"
    )
    show.add_argument("--json", action="store_true", help="print everything as JSON")
    show.set_defaults(run=_show)
    check = commands.add_parser(
        "check",
        help="list the stacks and files that need a person, with reasons; exit code 1 if any does",
    )
    check.add_argument("index", metavar="INDEX", help="index folder")
    check.add_argument(
        "--all",
        action="store_true",
        help="list every stack and every problem, not only the first ones that need a person",
    )
    check.add_argument(
        "--pixels",
        action="store_true",
        help="check pixels instead: decode frames with two decoders and list every difference",
    )
    check.add_argument(
        "--sample",
        type=_frames,
        default=4,
        metavar="N",
        help="with --pixels: frames per kind, or 'all' (default: %(default)s)",
    )
    check.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    check.add_argument("--json", action="store_true", help="print everything as JSON")
    check.set_defaults(run=_check)
    cache = commands.add_parser(
        "cache", help="show, verify or clear the disk cache of decoded stacks"
    )
    cache.add_argument(
        "action",
        choices=("show", "verify", "clear"),
        help="list the entries, check all checksums (exit code 1 on damage), or delete all entries",
    )
    cache.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="the folder of a DiskCache (default: the user's)",
    )
    cache.add_argument("--json", action="store_true", help="print the result as JSON")
    cache.set_defaults(run=_cache)
    demo = commands.add_parser(
        "demo", help="run every step, from files to batches, on the DICOM files that pydicom ships"
    )
    demo.add_argument(
        "-o",
        "--out",
        metavar="FOLDER",
        default="dicomdl-demo",
        help="folder for the index and the picture (default: %(default)s)",
    )
    demo.add_argument("--json", action="store_true", help="print the result as JSON")
    demo.set_defaults(run=_demo)
    return parser


def _scan(given: argparse.Namespace) -> int:
    from dicomdl.jobs.scan import scan

    index = scan(
        given.roots,
        given.out,
        workers=given.workers,
        progress=not (given.quiet or given.json),
        follow_links=given.follow_links,
        attributes=given.attribute,
        allow_phi=given.allow_phi,
        patient_id=given.patient_id,
    )
    if given.json:
        print(json.dumps(facts(index), indent=1))
    else:
        _print(repr(index))
        if len(index.problems):
            _print(f"  see them: dicomdl show --problems {index.path}")
    return PROBLEMS if len(index.problems) else FINE


def _show(given: argparse.Namespace) -> int:
    from dicomdl.index.index import open_index

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
        _print(repr(index))
        if given.stacks:
            for stack in index.stacks:
                _print(f"{stack.number:>6} {stack!r}")
        if given.problems:
            for problem in index.problems:
                _print(f"{problem.reason:<20} {problem.path}")
                _print(f"{'':<20} {problem.detail}")
    return PROBLEMS if len(index.problems) else FINE


def _frames(text: str) -> int | None:
    """Parse the number of frames per kind; None for all frames."""
    if text == "all":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 1, or 'all'")


def _check(given: argparse.Namespace) -> int:
    from dicomdl.index.index import open_index

    index = open_index(given.index)
    if given.pixels:
        from dicomdl.jobs.crosscheck import check_pixels

        check: Any = check_pixels(
            index, sample=given.sample, progress=not (given.quiet or given.json)
        )
    else:
        check = index.check()
    if given.json:
        print(json.dumps(check.to_dict(), indent=1, allow_nan=False))
    else:
        _print(check.text(everything=given.all))
    return FINE if check.ok else PROBLEMS


def _cache(given: argparse.Namespace) -> int:
    from dicomdl.storage.cache import folder as cache

    report = {"show": cache.show, "verify": cache.verify, "clear": cache.clear}[given.action](
        given.folder
    )
    if given.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        _print(str(report))
    return PROBLEMS if report.damaged else FINE


def facts(index: Any) -> dict[str, Any]:
    """Return the summary of an index as plain values for JSON."""
    return {
        "index": index.path,
        "generation": index.generation,
        "counts": index.counts,
        "verdicts": dict(sorted(index.stacks.verdicts().items())),
        "ledger": dict(index.ledger),
        "passed_over": index.manifest.get("passed_over", {}),
        "problems": [
            {"path": p.path, "reason": p.reason, "detail": p.detail} for p in index.problems
        ],
    }


# --- demo -----------------------------------------------------------------------------------------


def _demo(given: argparse.Namespace) -> int:
    """Run the demo: a scan, a volume, an epoch, a picture."""
    say = _discard if given.json else _print
    folder = os.path.abspath(given.out)
    make_folder(folder)
    source = _pydicom_files()
    from dicomdl.jobs.scan import scan

    start = time.perf_counter()
    index = scan(source, os.path.join(folder, "demo.index"), progress=False)
    seconds = time.perf_counter() - start
    say(f"1. scan: {index.ledger['files']} files that pydicom ships, in {seconds:.2f} s\n{index!r}")
    volume = _demo_volume(index, say)
    batches, frames, unreadable, tiles = _demo_epoch(index, say)
    picture = os.path.join(folder, "frames.png")
    _write_sheet(picture, tiles)
    say(f"4. picture: one frame from each of {len(tiles)} stacks, windowed by modality: {picture}")
    say("next: dicomdl scan YOUR_FOLDER -o YOUR.index")
    if given.json:
        print(
            json.dumps(
                facts(index)
                | {
                    "volume": list(volume.shape),
                    "batches": batches,
                    "frames": frames,
                    "unreadable": unreadable,
                    "picture": picture,
                },
                indent=1,
            )
        )
    return FINE


def _discard(text: str) -> None:
    del text


def _pydicom_files() -> str:
    """Return the folder of DICOM files inside the pydicom package, without importing it."""
    package = importlib.util.find_spec("pydicom")
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            "pydicom is not installed, and the demo needs its files: pip install pydicom"
        )
    return os.path.join(package.submodule_search_locations[0], "data", "test_files")


def _demo_volume(index: Any, say: Any) -> Any:
    from dicomdl.volumes.read import read_volume

    stack = max(
        index.select(verdict="regular", content="image").stacks, key=lambda stack: stack.slices
    )
    volume = read_volume(stack)
    values = f"{volume.array.min()} to {volume.array.max()} {volume.units}"
    say(f"2. volume: {volume!r} from {stack.slices} files, values {values}")
    return volume


def _demo_epoch(index: Any, say: Any) -> tuple[int, int, list[str], list[Any]]:
    """Read every image frame once through a DataLoader.

    Frames that cannot be decoded are reported.
    """
    import warnings

    import torch

    from dicomdl.datasets.frames import FrameDataset
    from dicomdl.datasets.selection import LeftOutWarning

    with warnings.catch_warnings():
        # the number of frames is printed below
        warnings.simplefilter("ignore", LeftOutWarning)
        dataset = FrameDataset(index, size=(DEMO_TILE, DEMO_TILE), channels=3, suv="if_possible")
    loader = iter(torch.utils.data.DataLoader(dataset, batch_size=1))
    first_rows = {
        dataset.index.stack_of(row).rows.start: row for row in reversed(range(len(dataset)))
    }
    wanted = set(first_rows.values())
    batches, frames = 0, 0
    unreadable: list[str] = []
    tiles: list[Any] = []
    start = time.perf_counter()
    while True:
        try:
            batch = next(loader)
        except StopIteration:
            break
        except DicomdlError as error:
            unreadable.append("; ".join([str(error), *getattr(error, "__notes__", [])]))
            continue
        batches += 1
        frames += len(batch["image"])
        if int(batch["row"][0]) in wanted:
            tiles.append(batch["image"][0].numpy())
    seconds = time.perf_counter() - start
    shape = tuple(batch["image"].shape)
    say(
        f"3. epoch: {frames} of {len(dataset)} image frames through a DataLoader "
        f"as {shape} batches in {seconds:.2f} s"
    )
    for reason in unreadable:
        say(f"   cannot be decoded: {reason}")
    return batches, frames, unreadable, tiles


def _write_sheet(path: str, tiles: Sequence[Any]) -> None:
    import numpy as np

    from dicomdl.geometry.grid import Geometry
    from dicomdl.volumes.pictures import montage, write_png
    from dicomdl.volumes.volume import Volume

    stacked = np.stack([np.moveaxis(tile, 0, -1) for tile in tiles])
    write_png(
        path,
        montage(Volume(stacked, Geometry(stacked.shape[:3], np.eye(4)), "1"), len(tiles), None),
    )


def _print(text: str) -> None:
    """Print text without control characters: text from files could command the terminal."""
    print(_printable(text))


def _printable(text: str) -> str:
    # imported here for a fast `--help`; a command that prints has imported the index by then
    from dicomdl.index.text import printable

    return "\n".join(printable(line) for line in text.split("\n"))


if __name__ == "__main__":
    sys.exit(main())

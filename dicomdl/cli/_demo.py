"""`dicomdl demo`: every step, from files to batches, on the DICOM files that pydicom ships."""

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from dicomdl.cli._output import FINE, facts, print_text
from dicomdl.errors import DicomdlError, UsageError

# Rows and columns of a frame on the contact sheet.
TILE: Final = 128


def add(commands: Any) -> None:
    """Add the command to the parser."""
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
    demo.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run the demo: a scan, a volume, an epoch, a picture."""
    say = _discard if given.json else print_text
    from dicomdl.storage.publishing import make_folder

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
        dataset = FrameDataset(index, size=(TILE, TILE), channels=3, suv="if_possible")
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

"""Frames in a plane and patches in RAS, against reading whole volumes and the order of the slices.

    python tests/benchmarks/planes.py [--slices 256] [--repeat 7]

A coronal frame of axial CT needs one row of each slice; a sagittal one crosses every row, so the
frames of a batch share one pass over the files. The page cache is warm.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom_ct
from numpy.typing import NDArray
from rounds import Contender, Task, arguments, race

FRAMES = 16
WINDOW = "ct.lung"
SIZE = (96, 96, 96)


def volume_frames(stack: Any, axes: str, numbers: list[int]) -> NDArray[np.float32]:
    """Read the whole volume, turn and window it, and take the frames."""
    import dicomdl

    volume = dicomdl.read_volume(stack).window(WINDOW).reorient(axes)
    return np.asarray(volume.array[numbers])


def bare_rows(stack: Any, numbers: list[int]) -> Callable[[], object]:
    """Return the bare reads of one row of each slice per frame."""
    row_bytes = 2 * stack.shape[2]
    places = [(source.path, source.byte_offset) for source in stack.sources]
    buffer = np.empty((len(numbers), len(places), stack.shape[2]), np.int16)

    def read() -> object:
        for z, (path, offset) in enumerate(places):
            handle = os.open(path, os.O_RDONLY)
            for number, row in enumerate(numbers):
                os.preadv(handle, [buffer[number, z]], offset + row * row_bytes)
            os.close(handle)
        return buffer

    return read


def race_frames(index: Any, plane: Any, axes: str, repeat: int) -> None:
    """Race the frames of one stack in a plane: in a batch, one by one, out of the volume."""
    import dicomdl

    frames = dicomdl.FrameDataset(index, WINDOW, plane=plane)
    stack = frames.index.stacks[0]
    numbers = np.linspace(0, int(frames.boundaries[1]) - 1, FRAMES).astype(int).tolist()
    truth = volume_frames(stack, axes, numbers)

    def batch() -> Task:
        return lambda: frames.__getitems__(numbers)

    def alone() -> Task:
        return lambda: [frames[number] for number in numbers]

    def whole() -> Task:
        return lambda: volume_frames(stack, axes, numbers)

    def wrong(samples: Any) -> str:
        equal = [np.array_equal(s["image"][0], t) for s, t in zip(samples, truth, strict=True)]
        return "" if all(equal) else f"{equal.count(False)} frames differ from the volume"

    contenders = [
        Contender("dicomdl.FrameDataset(plane=), a batch", batch, check=wrong),
        Contender("dicomdl.FrameDataset(plane=), one by one", alone, check=wrong),
        Contender("read_volume, window, reorient", whole, f"{FRAMES} frames of one volume"),
    ]
    if plane == "coronal":
        floor = bare_rows(stack, numbers)
        contenders.append(Contender("floor: bare preadv of the rows", lambda: floor))
    title = f"{FRAMES} {plane} frames of {' x '.join(map(str, stack.shape))}, float32 windowed"
    race(title, contenders, repeat=repeat, units=FRAMES)


def race_patches(index: Any, repeat: int) -> None:
    """Race patches in the order of the slices and in others."""
    import dicomdl

    def patches(orientation: str | None) -> Callable[[], Task]:
        def prepare() -> Task:
            made = dicomdl.PatchDataset(index, SIZE, intensity=WINDOW, orientation=orientation)
            return lambda: [made[row] for row in range(8)]

        return prepare

    contenders = [
        Contender("dicomdl.PatchDataset", patches(None)),
        Contender('orientation="SPL"', patches("SPL"), "the order of these slices"),
        Contender('orientation="RAS"', patches("RAS"), "columns first"),
    ]
    size = " x ".join(map(str, SIZE))
    race(f"8 patches of {size}, float32 windowed", contenders, repeat=repeat, units=8)


def main() -> None:
    """Write the data, scan them and run the races."""
    import dicomdl

    given = arguments(__doc__, slices=(256, "slices of the uncompressed CT, in series of 128"))
    with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as name:
        folder = phantom_ct.ct_folder(given.slices)
        index = dicomdl.scan(folder, out=Path(name) / "an.index", workers=1, progress=False)
        index = index.select(verdict="regular", min_slices=64)
        race_frames(index, "coronal", "PIL", given.repeat)
        race_frames(index, "sagittal", "LIP", given.repeat)
        race_patches(index, given.repeat)


if __name__ == "__main__":
    main()

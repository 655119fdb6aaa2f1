"""Single frames in random order, against the peers, the bare read and the bare codec.

    python tests/benchmarks/frame.py --slices 2048 --frames 256 --repeat 5

Uncompressed frames of 512 x 512 come from all parts of the folder. Peers get the path, dicomdl the
frame of an existing index. `FrameDataset[i]` does more than the others: rescale, window, float32,
tensor, identifiers. For compressed frames, the floor is the codec alone, on a codestream in memory.
The frames of all contenders are compared before the clock starts.
"""

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import phantom_ct
from numpy.typing import NDArray
from rounds import Contender, Task, arguments, race

Array = NDArray[Any]


class Frames:
    """The frames that all contenders read, in one random order."""

    def __init__(self, folder: Path, count: int, scratch: Path) -> None:
        every = phantom_ct.files_below(folder)
        self.folder = folder
        chance = random.Random(0)
        self.paths = [chance.choice(every) for _ in range(count)]
        self.scratch = scratch
        self._index: Any = None

    def index(self) -> tuple[Any, list[int]]:
        """The index of the folder and the numbers of the chosen frames in it."""
        import dicomdl

        if self._index is None:
            self._index = dicomdl.scan(
                self.folder, out=self.scratch / self.folder.name, workers=1, progress=False
            )
        number_of = {
            os.fsdecode(self._index.source(number).path): number
            for number in range(len(self._index))
        }
        return self._index, [number_of[path] for path in self.paths]


def reading(items: Sequence[Any], read: Callable[[Any], Array], truth: Sequence[Array]) -> Task:
    """A task that reads every item.

    The first call, before the clock starts, compares frames and returns the number of wrong ones.
    """
    checked = False

    def task() -> int:
        nonlocal checked
        if not checked:
            checked = True
            return sum(
                not np.array_equal(read(item), expected)
                for item, expected in zip(items, truth, strict=True)
            )
        for item in items:
            read(item)
        return 0

    return task


def none_wrong(wrong: int) -> str:
    """The check that `reading` does."""
    return f"WRONG VALUES in {wrong} frames" if wrong else ""


def bare_read(path: str) -> Array:
    """Floor: one preadv of the pixel bytes at the end of the file, into a fresh array."""
    array = np.empty((phantom_ct.ROWS, phantom_ct.COLUMNS), np.uint16)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.preadv(descriptor, [array.data.cast("B")], os.fstat(descriptor).st_size - array.nbytes)
    os.close(descriptor)
    return array


def dicomdl_frames(frames: Frames, truth: Sequence[Array]) -> Task:
    import dicomdl

    index, numbers = frames.index()
    return reading(numbers, lambda number: dicomdl.read_frame(index.frame(number)), truth)


def dicomdl_sources(frames: Frames, truth: Sequence[Array]) -> Task:
    """Read as the datasets do, with only the facts that reading needs."""
    import dicomdl

    index, numbers = frames.index()
    return reading(numbers, lambda number: dicomdl.read_frame(index.source(number)), truth)


def dicomdl_dataset(frames: Frames) -> Task:
    import dicomdl

    index, numbers = frames.index()
    dataset = dicomdl.FrameDataset(index)

    def task() -> float:
        return sum(float(dataset[number]["image"][0, 256, 256]) for number in numbers)

    return task


def pydicom_frames(paths: Sequence[str], truth: Sequence[Array], plugin: str = "") -> Task:
    import pydicom
    from pydicom.pixels import pixel_array  # type: ignore[attr-defined]

    if not plugin:
        return reading(paths, lambda path: pydicom.dcmread(path).pixel_array, truth)
    return reading(paths, lambda path: pixel_array(path, decoding_plugin=plugin), truth)


def simpleitk_frames(paths: Sequence[str], truth: Sequence[Array]) -> Task:
    """Read by SimpleITK, which applies the rescale, so the truth is HU.

    The array is a copy, because a view is valid only as long as its image.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    units = [stored.astype(np.int16) - 1024 for stored in truth]
    return reading(paths, lambda path: sitk.GetArrayFromImage(sitk.ReadImage(path))[0], units)


def dicomsdl_frames(paths: Sequence[str], truth: Sequence[Array]) -> Task:
    import dicomsdl

    return reading(paths, lambda path: dicomsdl.open(path).pixelData(storedvalue=True), truth)


def codestreams(paths: Sequence[str]) -> list[bytes]:
    """Codestreams of single-frame files, with their fragments joined."""
    import pydicom
    from pydicom.encaps import generate_frames

    return [
        next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)) for path in paths
    ]


def decode_rle(stream: bytes) -> Array:
    array = np.empty((phantom_ct.ROWS, phantom_ct.COLUMNS), "<u2")
    imagecodecs.dicomrle_decode(stream, array.dtype.str, out=array.reshape(-1).view(np.uint8).data)
    return array


DECODERS: dict[str, Callable[[bytes], Array]] = {
    "j2k": imagecodecs.jpeg2k_decode,
    "jpeg-lossless": imagecodecs.jpeg8_decode,
    "jpeg-ls": imagecodecs.jpegls_decode,
    "htj2k": imagecodecs.jpeg2k_decode,
    "rle": decode_rle,
}


def race_uncompressed(frames: Frames, repeat: int) -> None:
    """Compare uncompressed frames; pydicom gives the truth."""
    import pydicom

    truth = [pydicom.dcmread(path).pixel_array for path in frames.paths]
    paths = frames.paths
    race(
        f"{len(paths)} uncompressed frames of 512 x 512 in random order, per frame",
        [
            Contender(
                "floor: preadv into a fresh array",
                lambda: reading(paths, bare_read, truth),
                check=none_wrong,
            ),
            Contender(
                "dicomdl.read_frame(index.frame(i))",
                lambda: dicomdl_frames(frames, truth),
                check=none_wrong,
            ),
            Contender(
                "dicomdl.read_frame(index.source(i))",
                lambda: dicomdl_sources(frames, truth),
                check=none_wrong,
            ),
            Contender(
                "dicomdl.FrameDataset[i]",
                lambda: dicomdl_dataset(frames),
                "windowed float32 tensor, identifiers",
            ),
            Contender(
                "pydicom pixel_array", lambda: pydicom_frames(paths, truth), check=none_wrong
            ),
            Contender(
                "SimpleITK ReadImage",
                lambda: simpleitk_frames(paths, truth),
                "rescaled",
                none_wrong,
            ),
            Contender(
                "dicomsdl pixelData", lambda: dicomsdl_frames(paths, truth), check=none_wrong
            ),
        ],
        repeat=repeat,
        units=len(paths),
        unit="us/frame",
    )


def race_compressed(codec: str, frames: Frames, repeat: int) -> None:
    """Compare compressed frames; the bare codec gives the truth, peers use other decoders."""
    streams, paths = codestreams(frames.paths), frames.paths
    truth = [DECODERS[codec](stream) for stream in streams]
    ratio = sum(stored.nbytes for stored in truth) / sum(map(len, streams))
    race(
        f"{len(streams)} frames of {codec}, 512 x 512, 12 bits, {ratio:.2f} : 1, per frame",
        [
            Contender(
                f"floor: imagecodecs, {codec}, in memory",
                lambda: reading(streams, DECODERS[codec], truth),
                check=none_wrong,
            ),
            Contender(
                "dicomdl.read_frame(index.frame(i))",
                lambda: dicomdl_frames(frames, truth),
                check=none_wrong,
            ),
            Contender(
                "dicomdl.read_frame(index.source(i))",
                lambda: dicomdl_sources(frames, truth),
                check=none_wrong,
            ),
            Contender(
                "pydicom pixel_array, pylibjpeg",
                lambda: pydicom_frames(paths, truth, "pylibjpeg"),
                check=none_wrong,
            ),
            Contender(
                "pydicom pixel_array, gdcm",
                lambda: pydicom_frames(paths, truth, "gdcm"),
                check=none_wrong,
            ),
            Contender(
                "SimpleITK ReadImage",
                lambda: simpleitk_frames(paths, truth),
                "rescaled",
                none_wrong,
            ),
        ],
        repeat=repeat,
        units=len(streams),
        unit="ms/frame",
    )


def main() -> None:
    given = arguments(
        __doc__,
        slices=(2048, "slices to choose from"),
        frames=(256, "uncompressed frames a round"),
        compressed=(32, "compressed frames a round"),
    )
    with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as scratch_name:
        scratch = Path(scratch_name)
        race_uncompressed(
            Frames(phantom_ct.ct_folder(given.slices), given.frames, scratch), given.repeat
        )
        for codec in phantom_ct.CODECS if given.compressed else ():
            race_compressed(
                codec,
                Frames(phantom_ct.compressed_folder(codec), given.compressed, scratch),
                given.repeat,
            )


if __name__ == "__main__":
    main()

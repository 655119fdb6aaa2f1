"""Single frames in random order, against the peers, the bare read and the bare codec.

    python tests/benchmarks/frame.py --slices 2048 --frames 256 --repeat 5

Uncompressed frames of 512 x 512 come from all over the folder; the peers are given the path, dicomdl the frame of an index that exists.
`FrameDataset[i]` does more than the others: rescale, window, float32, tensor, identifiers. For the compressed frames the floor is the
codec alone, on a codestream in memory. Every contender's frames are compared with the floor's.
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
        self.paths = [random.Random(0).choice(every) for _ in range(count)]
        self.scratch = scratch
        self._index: Any = None

    def index(self) -> tuple[Any, list[int]]:
        """dicomdl's index of the folder and the numbers of the chosen frames in it."""
        import dicomdl

        if self._index is None:
            self._index = dicomdl.scan(self.folder, out=self.scratch / self.folder.name, workers=1, progress=False)
        number_of = {os.fsdecode(self._index.source(number).path): number for number in range(len(self._index))}
        return self._index, [number_of[path] for path in self.paths]


def reading(items: Sequence[Any], read: Callable[[Any], Array]) -> Callable[[], int]:
    """A task that reads every item and sums one pixel of each, so that no reader can be lazy."""

    def task() -> int:
        return sum(int(read(item)[256, 256]) for item in items)

    return task


def same_sum(expected: int) -> Callable[[Any], str]:
    """A check against the floor's sum."""
    return lambda found: "" if found == expected else f"WRONG VALUES: sum {found}, expected {expected}"


def bare_read(path: str) -> Array:
    """The floor: one preadv of the pixel bytes, which end the file, into a fresh array."""
    array = np.empty((phantom_ct.ROWS, phantom_ct.COLUMNS), np.uint16)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.preadv(descriptor, [array.data.cast("B")], os.fstat(descriptor).st_size - array.nbytes)
    os.close(descriptor)
    return array


def dicomdl_frames(frames: Frames) -> Task:
    import dicomdl

    index, numbers = frames.index()
    return reading(numbers, lambda number: dicomdl.read_frame(index.frame(number)))


def dicomdl_sources(frames: Frames) -> Task:
    """What the datasets do: only the facts that reading needs."""
    import dicomdl

    index, numbers = frames.index()
    return reading(numbers, lambda number: dicomdl.read_frame(index.source(number)))


def dicomdl_dataset(frames: Frames) -> Task:
    import dicomdl

    index, numbers = frames.index()
    dataset = dicomdl.FrameDataset(index)

    def task() -> float:
        return sum(float(dataset[number]["image"][0, 256, 256]) for number in numbers)

    return task


def pydicom_frames(paths: Sequence[str], plugin: str = "") -> Task:
    import pydicom
    from pydicom.pixels import pixel_array

    if not plugin:
        return reading(paths, lambda path: pydicom.dcmread(path).pixel_array)
    return reading(paths, lambda path: pixel_array(path, decoding_plugin=plugin))


def simpleitk_frames(paths: Sequence[str]) -> Task:
    """The frame is compared after taking off the rescale that SimpleITK applies."""
    import SimpleITK as sitk

    return reading(paths, lambda path: sitk.GetArrayViewFromImage(sitk.ReadImage(path))[0] + 1024)


def dicomsdl_frames(paths: Sequence[str]) -> Task:
    import dicomsdl

    return reading(paths, lambda path: dicomsdl.open(path).pixelData(storedvalue=True))


def codestreams(paths: Sequence[str]) -> list[bytes]:
    """The one frame of every file, its fragments joined."""
    import pydicom
    from pydicom.encaps import generate_frames

    return [next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)) for path in paths]


def decode_rle(stream: bytes) -> Array:
    array = np.empty((phantom_ct.ROWS, phantom_ct.COLUMNS), "<u2")
    imagecodecs.dicomrle_decode(stream, array.dtype.str, out=array.reshape(-1).view(np.uint8).data)
    return array


DECODERS: dict[str, Callable[[bytes], Array]] = {
    "j2k": imagecodecs.jpeg2k_decode,
    "jpeg-lossless": imagecodecs.jpeg8_decode,
    "rle": decode_rle,
}
PYDICOM_PLUGINS = {"j2k": "pylibjpeg", "jpeg-lossless": "pylibjpeg", "rle": "pylibjpeg"}


def race_uncompressed(frames: Frames, repeat: int) -> None:
    expected = same_sum(reading(frames.paths, bare_read)())
    race(
        f"{len(frames.paths)} uncompressed frames of 512 x 512 in random order, per frame",
        [
            Contender("floor: preadv into a fresh array", lambda: reading(frames.paths, bare_read)),
            Contender("dicomdl.read_frame(index.frame(i))", lambda: dicomdl_frames(frames), check=expected),
            Contender("dicomdl.read_frame(index.source(i))", lambda: dicomdl_sources(frames), check=expected),
            Contender("dicomdl.FrameDataset[i]", lambda: dicomdl_dataset(frames), "windowed float32 tensor, identifiers"),
            Contender("pydicom pixel_array", lambda: pydicom_frames(frames.paths), check=expected),
            Contender("SimpleITK ReadImage", lambda: simpleitk_frames(frames.paths), "rescaled", expected),
            Contender("dicomsdl pixelData", lambda: dicomsdl_frames(frames.paths), check=expected),
        ],
        repeat=repeat,
        units=len(frames.paths),
        unit="us/frame",
    )


def race_compressed(codec: str, frames: Frames, repeat: int) -> None:
    streams = codestreams(frames.paths)
    expected = same_sum(reading(streams, DECODERS[codec])())
    ratio = phantom_ct.ROWS * phantom_ct.COLUMNS * 2 * len(streams) / sum(map(len, streams))
    contenders = [
        Contender(f"floor: imagecodecs, {codec}, in memory", lambda: reading(streams, DECODERS[codec])),
        Contender("dicomdl.read_frame(index.frame(i))", lambda: dicomdl_frames(frames), check=expected),
        Contender("pydicom pixel_array, pylibjpeg", lambda: pydicom_frames(frames.paths, PYDICOM_PLUGINS[codec]), check=expected),
        Contender("pydicom pixel_array, gdcm", lambda: pydicom_frames(frames.paths, "gdcm"), check=expected),
        Contender("SimpleITK ReadImage", lambda: simpleitk_frames(frames.paths), "rescaled", expected),
    ]
    title = f"{len(streams)} frames of {codec}, 512 x 512, 12 bits, {ratio:.2f} : 1, per frame"
    race(title, contenders, repeat=repeat, units=len(streams), unit="ms/frame")


def main() -> None:
    given = arguments(
        __doc__,
        slices=(2048, "slices to choose from"),
        frames=(256, "uncompressed frames a round"),
        compressed=(32, "compressed frames a round"),
    )
    with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as scratch_name:
        scratch = Path(scratch_name)
        race_uncompressed(Frames(phantom_ct.ct_folder(given.slices), given.frames, scratch), given.repeat)
        for codec in phantom_ct.CODECS if given.compressed else ():
            race_compressed(codec, Frames(phantom_ct.compressed_folder(codec), given.compressed, scratch), given.repeat)


if __name__ == "__main__":
    main()

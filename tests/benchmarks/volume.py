"""A CT of 128 x 512 x 512 as an array of HU, against the peers and a bare read of its bytes.

    python tests/benchmarks/volume.py --slices 128 --repeat 5

The result is int16 where the peer can (MONAI, highdicom and TorchIO are asked for it), with slices
in spatial order. All results are compared with the true volume before the clock starts. Another
order of axes or slices is accepted, other values are not. dicomdl reads from an existing index,
because this is how it is used; scan.py measures the cost of the index. The floor reads the pixel
bytes of all slices into one fresh `np.empty`, unscaled.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import phantom_ct
from numpy.typing import NDArray
from rounds import Contender, Task, arguments, race


def slice_order(paths: Sequence[str]) -> list[str]:
    """The files of one axial series, by position."""
    import pydicom

    positions = {
        path: float(
            pydicom.dcmread(path, specific_tags=["ImagePositionPatient"]).ImagePositionPatient[2]
        )
        for path in paths
    }
    return sorted(paths, key=positions.__getitem__)


def true_volume(paths: Sequence[str]) -> NDArray[np.int16]:
    """HU by pydicom's pixel_array and the rescale of each file, (slice, row, column)."""
    import pydicom

    slices = []
    for path in paths:
        dataset = pydicom.dcmread(path)
        slices.append(
            dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        )
    return np.stack(slices).astype(np.int16)


def compared_with(truth: NDArray[np.int16]) -> Any:
    """Return a check that reports the layout and type of a result, or that its values are wrong."""

    def check(answer: Any) -> str:
        array = np.squeeze(np.asarray(answer))
        kind = str(array.dtype)
        for axes in ((0, 1, 2), (2, 1, 0), (2, 0, 1)):
            if array.ndim == 3 and array.transpose(axes).shape == truth.shape:
                for flips in np.ndindex(2, 2, 2):
                    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
                    turned = array.transpose(axes)[steps]
                    if np.array_equal(turned[0], truth[0]) and np.array_equal(turned, truth):
                        layout = (
                            ""
                            if axes == (0, 1, 2) and not any(flips)
                            else f", axes {axes}, flipped {flips}"
                        )
                        return kind + layout
        return f"WRONG VALUES ({kind}, {array.shape})"

    return check


def pixel_offset(path: str, slice_bytes: int) -> int:
    """Return the offset of the pixel data, which are at the end of files of phantom_ct."""
    return os.path.getsize(path) - slice_bytes


def bare_read(paths: Sequence[str], shape: tuple[int, int, int], threads: int = 1) -> Task:
    """Floor: one preadv per slice into a fresh array; a thread reads consecutive slices."""
    from concurrent.futures import ThreadPoolExecutor

    slice_bytes = shape[1] * shape[2] * 2
    offsets = [pixel_offset(path, slice_bytes) for path in paths]

    def read(array: NDArray[np.uint16], first: int, stop: int) -> None:
        for z in range(first, stop):
            descriptor = os.open(paths[z], os.O_RDONLY | os.O_CLOEXEC)
            os.preadv(descriptor, [array[z].data.cast("B")], offsets[z])
            os.close(descriptor)

    def task() -> NDArray[np.uint16]:
        array = np.empty(shape, np.uint16)
        if threads == 1:
            read(array, 0, shape[0])
            return array
        stops = [shape[0] * part // threads for part in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, [array] * threads, stops[:-1], stops[1:]))
        return array

    return task


def dicomdl_volume(folder: Path, scratch: Path) -> Task:
    import dicomdl

    stack = dicomdl.scan(folder, out=scratch / "index", workers=1, progress=False).stacks[0]

    def task() -> NDArray[Any]:
        return dicomdl.read_volume(stack).array

    return task


def simpleitk_volume(folder: Path) -> Task:
    """ImageSeriesReader on the files that GDCM puts in order, copied into an array."""
    import SimpleITK

    sitk: Any = SimpleITK

    def task() -> NDArray[Any]:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        return np.asarray(sitk.GetArrayFromImage(reader.Execute()))

    return task


def monai_volume(folder: Path, reader: str, dtype: Any) -> Task:
    from monai.transforms import LoadImage

    load = LoadImage(reader=reader, dtype=dtype, image_only=True)

    def task() -> NDArray[Any]:
        return np.asarray(load(str(folder)))

    return task


def torchio_volume(folder: Path) -> Task:
    import torchio

    def task() -> NDArray[Any]:
        return np.asarray(torchio.ScalarImage(folder).data)

    return task


def dicomsdl_volume(paths: Sequence[str], *, rescale: str) -> Task:
    """A loop that opens every file for its position, sorts, and fills one int16 array.

    `rescale` "own": the HU that dicomsdl gives, in float, cast. "by hand": its stored values plus
    the intercept, never in float, which is the least that a loop can do and right only for a slope
    of 1 and at most 15 bits.
    """
    import dicomsdl

    names = list(paths)[::-1]

    def task() -> NDArray[Any]:
        datasets = sorted(
            (dicomsdl.open(name) for name in names),
            key=lambda dataset: dataset.ImagePositionPatient[2],
        )
        array = np.empty((len(datasets), datasets[0].Rows, datasets[0].Columns), np.int16)
        for target, dataset in zip(array, datasets, strict=True):
            if rescale == "own":
                target[...] = dataset.pixelData()
            else:
                np.add(
                    dataset.pixelData(storedvalue=True).view(np.int16),
                    np.int16(dataset.RescaleIntercept),
                    out=target,
                )
        return array

    return task


def pydicom_volume(paths: Sequence[str]) -> Task:
    """Usual loop of notebooks: dcmread, sort by position, pixel_array, rescale, stack."""
    import pydicom

    names = list(paths)[::-1]

    def task() -> NDArray[Any]:
        datasets = sorted(
            (pydicom.dcmread(name) for name in names),
            key=lambda dataset: float(dataset.ImagePositionPatient[2]),
        )
        slices = [
            d.pixel_array.astype(np.int16) * np.int16(d.RescaleSlope) + np.int16(d.RescaleIntercept)
            for d in datasets
        ]
        return np.stack(slices)

    return task


def highdicom_volume(paths: Sequence[str]) -> Task:
    import highdicom
    import pydicom

    names = list(paths)[::-1]

    def task() -> NDArray[Any]:
        return np.asarray(
            highdicom.get_volume_from_series(
                [pydicom.dcmread(name) for name in names], dtype=np.int16
            ).array
        )

    return task


def main() -> None:
    given = arguments(__doc__, slices=(128, "slices of the volume, at most 128"))
    folder = phantom_ct.series_folders(phantom_ct.ct_folder(given.slices))[0]
    paths = slice_order(phantom_ct.files_below(folder))
    truth = true_volume(paths)
    same = compared_with(truth)
    with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as scratch:
        race(
            f"Volume of {truth.shape[0]} x {truth.shape[1]} x {truth.shape[2]}, HU",
            [
                Contender(
                    "floor: preadv into a fresh array",
                    lambda: bare_read(paths, truth.shape),
                    "stored values",
                ),
                Contender(
                    "floor in 2 threads", lambda: bare_read(paths, truth.shape, 2), "stored values"
                ),
                Contender(
                    "dicomdl.read_volume", lambda: dicomdl_volume(folder, Path(scratch)), check=same
                ),
                Contender(
                    "SimpleITK ImageSeriesReader", lambda: simpleitk_volume(folder), check=same
                ),
                Contender(
                    "MONAI LoadImage, PydicomReader, int16",
                    lambda: monai_volume(folder, "PydicomReader", np.int16),
                    check=same,
                ),
                Contender(
                    "MONAI LoadImage, PydicomReader",
                    lambda: monai_volume(folder, "PydicomReader", np.float32),
                    check=same,
                ),
                Contender(
                    "MONAI LoadImage, ITKReader, int16",
                    lambda: monai_volume(folder, "ITKReader", np.int16),
                    check=same,
                ),
                Contender("TorchIO ScalarImage", lambda: torchio_volume(folder), check=same),
                Contender(
                    "dicomsdl loop, its HU",
                    lambda: dicomsdl_volume(paths, rescale="own"),
                    check=same,
                ),
                Contender(
                    "dicomsdl loop, rescaled by hand",
                    lambda: dicomsdl_volume(paths, rescale="by hand"),
                    check=same,
                ),
                Contender("pydicom loop", lambda: pydicom_volume(paths), check=same),
                Contender(
                    "highdicom get_volume_from_series", lambda: highdicom_volume(paths), check=same
                ),
            ],
            repeat=given.repeat,
        )


if __name__ == "__main__":
    main()

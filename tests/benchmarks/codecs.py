"""Compressed frames and volumes against the bare codec and a pydicom loop, on 1 and 2 threads.

    python tests/benchmarks/codecs.py --slices 128 --repeat 5

Overhead: `read_frame` from the file (open, read, decode, sign and bits) against a bare call of the
same codec on the codestream in memory, interleaved, for 512 x 512 and 3000 x 2000 pixels of 16
bits, as the median of the ratios of pairs. HTJ2K is decoded by OpenJPEG; OpenJPH, which is faster
but not safe on damaged frames, is listed for comparison.

Volume: all slices as HU, by one thread, by two, and by the usual loop of notebooks (dcmread, pixel
array by a named plugin, rescale, stack). Cine: frame 60 of 120 of a JPEG file, which is opened per
read. All results are compared before the clock starts.
"""

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import phantom_ct
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage
from rounds import Contender, Task, arguments, race

Array = NDArray[Any]


def bare_rle(stream: bytes) -> Any:
    return imagecodecs.dicomrle_decode(stream, "<u2")


BARE: dict[str, Callable[[bytes], Any]] = {
    "j2k": lambda stream: imagecodecs.jpeg2k_decode(stream, numthreads=1),
    "jpeg-lossless": imagecodecs.jpeg8_decode,
    "jpeg-ls": imagecodecs.jpegls_decode,
    "htj2k": lambda stream: imagecodecs.jpeg2k_decode(stream, numthreads=1),
    "rle": bare_rle,
}
PLUGINS = {
    "j2k": ("pylibjpeg",),
    "jpeg-lossless": ("pylibjpeg",),
    "jpeg-ls": ("pylibjpeg", "pyjpegls"),
    "htj2k": ("pylibjpeg",),
    "rle": ("pydicom",),
}


# --- overhead -------------------------------------------------------------------------------------


def body(rows: int, columns: int) -> Array:
    """A body in air of 12 bits with noise, as `phantom_ct` draws it, of any size."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    values = np.where(
        (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1,
        1064 + 60 * np.sin(9 * x) * np.cos(7 * y) + 250 * (x * y > 0.12),
        24,
    )
    return np.clip(
        np.rint(values + np.random.default_rng(0).normal(0, 18, values.shape)), 0, 4095
    ).astype("<u2")


def compare_overhead(scratch: Path, repeat: int) -> None:
    import dicomdl
    from dicomdl.headers.reader import read_frames

    print(
        "read_frame from the file / the bare codec in memory   [medians of ratios of pairs; ms of "
        "the bare codec]"
    )
    for codec, uid in phantom_ct.CODECS.items():
        told = []
        for rows, columns in ((512, 512), (3000, 2000)):
            image = body(rows, columns)
            path, stream = write_frames(scratch / f"{codec}-{rows}.dcm", [image], uid)
            frame, bare = read_frames(path)[0], BARE[codec]
            assert np.array_equal(dicomdl.read_frame(frame), image), codec
            rounds = repeat * (20 if rows == 512 else 3)
            pairs = paired(
                functools.partial(dicomdl.read_frame, frame),
                functools.partial(bare, stream),
                rounds,
            )
            told.append(
                f"{rows} x {columns}: {ratio_of(pairs):5.2f} "
                f"({1e3 * statistics.median(b for _, b in pairs):7.2f} ms)"
            )
            if codec == "htj2k":
                openjph = paired(
                    functools.partial(imagecodecs.htj2k_decode, stream),
                    functools.partial(bare, stream),
                    repeat * 3,
                )
                told[-1] += f" [OpenJPH / OpenJPEG {ratio_of(openjph):.2f}]"
        print(f"  {codec:<16}" + "   ".join(told), flush=True)
    print()


def paired(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int
) -> list[tuple[float, float]]:
    """Return the seconds of the first and of the second.

    They alternate, so that a slow machine slows both.
    """
    first(), second()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        found.append((middle - start, time.perf_counter() - middle))
    return found


def ratio_of(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(a / b for a, b in pairs)


def write_frames(path: Path, frames: list[Array], uid: UID) -> tuple[Path, bytes]:
    """One file of one or more frames in a transfer syntax, and its last codestream."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = UID(
        f"{phantom_ct.ROOT_UID}.9.{len(frames)}"
    )
    header.StudyInstanceUID = header.SeriesInstanceUID = UID(f"{phantom_ct.ROOT_UID}.9")
    header.Modality, header.PatientID, header.NumberOfFrames = "US", "BENCH", len(frames)
    header.Rows, header.Columns = frames[0].shape[:2]
    header.SamplesPerPixel = 3 if frames[0].ndim == 3 else 1
    header.PhotometricInterpretation = "YBR_FULL_422" if frames[0].ndim == 3 else "MONOCHROME2"
    header.PlanarConfiguration = 0
    header.BitsAllocated = 8 * frames[0].itemsize
    header.BitsStored = 8 if frames[0].itemsize == 1 else 12
    header.HighBit, header.PixelRepresentation = header.BitsStored - 1, 0
    coded = [encode(frame, uid) for frame in frames]
    header.PixelData = encapsulate(coded)
    header["PixelData"].VR = "OB"
    header.save_as(path, enforce_file_format=True)
    return path, coded[-1]


def encode(frame: Array, uid: UID) -> bytes:
    if uid == JPEGBaseline8Bit:
        return bytes(imagecodecs.jpeg8_encode(frame, level=85))
    return phantom_ct.encode(frame, uid)


# --- volumes --------------------------------------------------------------------------------------


def race_volume(codec: str, slices: int, scratch: Path, repeat: int) -> None:
    import dicomdl

    folder = phantom_ct.compressed_folder(codec, slices)
    stack = dicomdl.scan(folder, out=scratch / f"{codec}.index", workers=1, progress=False).stacks[
        0
    ]
    truth = dicomdl.read_volume(stack).array
    paths = [os.fsdecode(source.path) for source in stack.sources]

    def ours(threads: int) -> Callable[[], Task]:
        return lambda: lambda: dicomdl.read_volume(stack, threads=threads).array

    def check(answer: Any) -> str:
        return "" if np.array_equal(answer, truth) else "WRONG VALUES"

    peers = [
        Contender(
            f"pydicom loop, {plugin}",
            lambda plugin=plugin: pydicom_loop(paths, plugin),
            check=check,
        )
        for plugin in PLUGINS[codec]
    ]
    race(
        f"{slices} slices of {codec}, 512 x 512, as HU",
        [
            Contender("dicomdl.read_volume, 2 threads", ours(2), check=check),
            Contender("dicomdl.read_volume, 1 thread", ours(1), check=check),
            *peers,
        ],
        repeat=repeat,
    )


def pydicom_loop(paths: list[str], plugin: str) -> Task:
    import pydicom
    from pydicom.pixels import get_decoder, pixel_array  # type: ignore[attr-defined]

    if (
        plugin
        not in get_decoder(
            pydicom.dcmread(paths[0], stop_before_pixels=True).file_meta.TransferSyntaxUID
        ).available_plugins
    ):
        raise ImportError(plugin)

    def task() -> Array:
        slices = []
        for path in paths:
            dataset = pydicom.dcmread(path)
            stored = pixel_array(dataset, decoding_plugin=plugin)
            slices.append(
                stored.astype(np.int16) * np.int16(dataset.RescaleSlope)
                + np.int16(dataset.RescaleIntercept)
            )
        return np.stack(slices)

    return task


# --- one frame of many ----------------------------------------------------------------------------


def race_cine(scratch: Path, repeat: int, *, colour: bool) -> None:
    """Read frame 60 of 120; the file is opened per read."""
    import pydicom
    from pydicom.pixels import pixel_array  # type: ignore[attr-defined]

    import dicomdl

    y, x = np.mgrid[0:480, 0:640]
    noise = np.random.default_rng(0).normal(0, 6, (480, 640))
    frames = []
    for number in range(120):
        grey = np.clip(128 + 100 * np.sin((x + 3 * number) / 40) * np.cos(y / 35) + noise, 0, 255)
        frames.append(
            np.stack([grey, 255 - grey, (grey + x) % 256], axis=-1).astype("u1")
            if colour
            else grey.astype("u1")
        )
    name = "colour" if colour else "grey"
    path, _ = write_frames(scratch / f"cine-{name}.dcm", frames, JPEGBaseline8Bit)
    index = dicomdl.scan(path, out=scratch / f"cine-{name}.index", workers=1, progress=False)
    stream = encode(frames[59], JPEGBaseline8Bit)
    truth = dicomdl.read_frame(index.frame(59))

    def check(answer: Any) -> str:
        return "" if np.abs(np.asarray(answer).astype(int) - truth).max() <= 6 else "WRONG VALUES"

    def contender(name: str, task: Task, note: str = "") -> Contender:
        return Contender(name, lambda: task, note, check)

    race(
        f"Frame 60 of a JPEG cine of 120 frames of 480 x 640, {name}",
        [
            contender("floor: imagecodecs, in memory", lambda: imagecodecs.jpeg8_decode(stream)),
            contender(
                "dicomdl.read_frame(index.frame(59))", lambda: dicomdl.read_frame(index.frame(59))
            ),
            contender(
                "dicomdl.read_frame(index.source(59))", lambda: dicomdl.read_frame(index.source(59))
            ),
            contender("pydicom pixel_array(path, index=59)", lambda: pixel_array(path, index=59)),
            contender(
                "pydicom dcmread, pixel_array[59]",
                lambda: pydicom.dcmread(path).pixel_array[59],
                "decodes all frames",
            ),
        ],
        repeat=10 * repeat,
    )


# --- lower resolutions ----------------------------------------------------------------------------


def race_reduced(scratch: Path, repeat: int) -> None:
    import dicomdl
    from dicomdl.headers.reader import read_frames

    image = body(3000, 2000)
    contenders = []
    for codec in ("j2k", "htj2k", "jpeg-lossless"):
        path, _ = write_frames(scratch / f"reduced-{codec}.dcm", [image], phantom_ct.CODECS[codec])
        frame = read_frames(path)[0]
        for reduce in (0, 1, 2, 3):
            task = lambda frame=frame, reduce=reduce: dicomdl.read_frame(frame, reduce=reduce)
            contenders.append(
                Contender(f"dicomdl.read_frame, {codec}, reduce={reduce}", lambda task=task: task)
            )
    race("One frame of 3000 x 2000 at lower resolutions", contenders, repeat=repeat)


def main() -> None:
    given = arguments(__doc__, slices=(128, "slices of a volume, at most 128"))
    with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as scratch_name:
        scratch = Path(scratch_name)
        compare_overhead(scratch, given.repeat)
        for codec in phantom_ct.CODECS:
            race_volume(codec, given.slices, scratch, given.repeat)
        for colour in (False, True):
            race_cine(scratch, given.repeat, colour=colour)
        race_reduced(scratch, given.repeat)


if __name__ == "__main__":
    main()

"""Frames of a folder, decoded by dicomdl and by all other readers, with a verdict per difference.

    python tests/oracles/decoders.py FOLDER [--frames N] [--all]

The readers are pydicom with each of its plugins (including gdcm), other functions of imagecodecs,
SimpleITK on the file itself, and, if PyAV is installed, FFmpeg's own JPEG 2000 decoder, which
shares no code with OpenJPEG. They run in a separate process, which may die. Every difference gets a
verdict that a computation supports; `VERDICTS` gives the right side and the reason. A difference
without a verdict is printed with file, frame and numbers, and makes the exit code 1.
"""

import argparse
import dataclasses
import functools
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dicomdl
from dicomdl.errors import DicomdlError
from dicomdl.jobs import _comparison as comparison_module
from dicomdl.jobs import _decoder_pairs as decoder_pairs_module
from dicomdl.jobs import second_decoder as seconddecoder
from dicomdl.jobs.second_decoder import Refusal, Second, SecondReader
from dicomdl.pixels import read as pixels
from dicomdl.values._lookup_reading import palette

Array = NDArray[Any]

PLUGINS = {
    **dict.fromkeys(
        (f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 90, 91)), ("gdcm", "pillow", "pylibjpeg")
    ),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (57, 70)), ("gdcm", "pylibjpeg")),
    **dict.fromkeys(
        (f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), ("gdcm", "pyjpegls", "pylibjpeg")
    ),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)), ("pylibjpeg",)),
    "1.2.840.10008.1.2.5": ("gdcm", "pydicom", "pylibjpeg"),
    **dict.fromkeys(
        (
            "1.2.840.10008.1.2",
            "1.2.840.10008.1.2.1",
            "1.2.840.10008.1.2.2",
            "1.2.840.10008.1.2.1.99",
        ),
        ("",),
    ),
}
JPEG_2000 = {f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)}
LOSSLESS = {*PLUGINS} - {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 203)}
FILE, FFMPEG = (
    Second("SimpleITK, the file", "GDCM", "simpleitk"),
    Second("FFmpeg", "FFmpeg", "simpleitk"),
)
# One image in many transfer syntaxes, according to the README of the corpus.
ONE_IMAGE = (
    "neurolabusc+dcm_qa_ts/In/*.dcm",
    "cornerstonejs+cornerstone3D/**/CTImage.dcm_*",
    "robyoung+dicom-test-files/**/XA1_*",
)

# Difference: the right side, and the reason.
VERDICTS = {
    "rounding of the inverse transform": (
        "both: T.81 A.3.3 and T.803 leave its precision open; at most 1 level per component"
    ),
    "chrominance filled up otherwise": (
        "both: T.81 does not specify the upsampling of chrominance; luminance within 1 level"
    ),
    "colours converted": (
        "dicomdl: raw=True requests the components as coded; the reader converted them to RGB"
    ),
    "MONOCHROME1 inverted": (
        "dicomdl: inversion is for display (PS3.3 C.7.6.3.1.2); SimpleITK gives max - value"
    ),
    "rescale of another frame": (
        "dicomdl: SimpleITK applies one rescale to all frames of an enhanced file "
        "(PS3.3 C.7.6.16.2.9)"
    ),
    "rounded to a narrower type": (
        "dicomdl: SimpleITK rounds the modality values to the type that it chose"
    ),
    "colours of a palette in 8 bits": (
        "both: dicomdl gives the 16 bits of the file (PS3.3 C.7.6.3.1.5), SimpleITK their high "
        "bytes"
    ),
    "single bits as 0 and 255": (
        "dicomdl: a stored bit is 0 or 1 (PS3.5 8.1.1); SimpleITK spreads it over 8"
    ),
    "last bits lost": (
        "dicomdl: pydicom's whole array agrees; GDCM omits the last byte if bits fill only a part"
    ),
    "sign dropped": (
        "dicomdl: two's complement in BitsStored bits (PS3.5 8.1.1); the reader gives the value "
        "modulo 2^BitsStored"
    ),
    "bytes of colours mixed": (
        "dicomdl: pydicom's decoder and pylibjpeg-rle agree; GDCM mixes the bytes of RLE colours "
        "of 16 and 32 bits"
    ),
    "halves of 32 bits swapped": (
        "dicomdl: pydicom and the file's little endian twin agree; GDCM swaps the bytes of words, "
        "not of samples"
    ),
}


# --- the other readers, in a separate process -----------------------------------------------------


def read(request: Mapping[str, Any]) -> Array:
    """Decode a frame with the reader `request["name"]`."""
    special = {FILE.name: by_simpleitk, FFMPEG.name: by_ffmpeg}
    if request["name"] not in special:
        return seconddecoder.second_reading(request)
    values = special[request["name"]](request)
    if "tile" in request:
        top, left, rows, columns = request["tile"]
        values = values[top : top + rows, left : left + columns]
    return values


def by_simpleitk(request: Mapping[str, Any]) -> Array:
    """Modality values of the file as it is."""
    values = whole_by_simpleitk(request["path"])
    dataset = seconddecoder._header(request["path"])
    size = (int(dataset.Rows), int(dataset.Columns))
    colours = values.size // max(1, int(dataset.get("NumberOfFrames") or 1)) // (size[0] * size[1])
    frames = values.reshape(-1, *size, *([colours] if colours > 1 else []))
    return np.asarray(frames[request["frame_number"] - 1])


@functools.lru_cache(maxsize=1)
def whole_by_simpleitk(path: str) -> Array:
    import SimpleITK as sitk

    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO")))


def by_ffmpeg(request: Mapping[str, Any]) -> Array:
    """Decode JPEG 2000 with FFmpeg's own decoder.

    Grey samples are left-aligned in 16 bits, colours are 8-bit RGB, signed samples have an offset.
    """
    # an ImportError means: not installed
    import av

    dataset = seconddecoder._dataset(request["path"])
    stream = seconddecoder._codestream(dataset, request)
    size = stream.find(b"\xff\x4f\xff\x51")
    signed, precision = stream[size + 42] > 0x7F, (stream[size + 42] & 0x7F) + 1
    context: Any = av.CodecContext.create("jpeg2000", "r")
    if context.codec.name != "jpeg2000":
        raise ImportError("FFmpeg's own decoder")
    picture = [*context.decode(av.Packet(stream[size:])), *context.decode(None)][0]
    if not picture.format.name.startswith(("gray", "rgb24", "pal8")):
        raise NotImplementedError(picture.format.name)
    values = picture.to_ndarray().astype(np.int64)
    if picture.format.name.startswith("gray") and not picture.format.name.startswith(
        ("gray10", "gray12", "gray14")
    ):
        values >>= (16 if "16" in picture.format.name else 8) - precision
    if signed:
        values -= 1 << precision - 1
    bits = int(dataset.BitsStored)
    if dataset.PixelRepresentation == 1:
        values = ((values & (1 << bits) - 1) ^ (1 << bits - 1)) - (1 << bits - 1)
    else:
        values &= (1 << bits) - 1
    return np.asarray(values)


def answering(_: Any = None) -> Any:
    """Return the function by which the second process answers."""
    return seconddecoder.answering(read=read)


# The second process imports this file by its module name, however this process imported it.
sys.path.append(str(Path(__file__).parent))
TARGET = f"{Path(__file__).stem}:answering"


def readers_of(frame: dicomdl.Frame) -> Iterator[Second]:
    uid = frame.transfer_syntax_uid
    for plugin in PLUGINS.get(uid, ()):
        yield Second(f"pydicom/{plugin}" if plugin else "pydicom", "", "pydicom", plugin)
    yield from (
        second for second in decoder_pairs_module.seconds_for(frame) if " + " in second.name
    )
    if uid in JPEG_2000:
        yield FFMPEG
    yield FILE


# --- verdicts -------------------------------------------------------------------------------------


def expected(frame: dicomdl.Frame, reader: Second) -> Array:
    """The values of dicomdl as this reader would give them.

    SimpleITK applies palettes and rescale to what it reads itself.
    """
    ours = pixels.read_frame(frame, colour="rgb" if reader is FILE else reader.colour)
    if reader is not FILE:
        return ours
    if frame.photometric_interpretation == "PALETTE COLOR":
        return palette(frame.path)(ours)
    if frame.samples_per_pixel > 1 or frame.rescale_slope is None:
        return ours
    return ours.astype(np.float64) * (frame.rescale_slope or 1.0) + (frame.rescale_intercept or 0.0)


def explain(frame: dicomdl.Frame, reader: Second, ours: Array, theirs: Array) -> str:
    """Return the verdict that explains every sample that differs, "" if none does."""
    if ours.shape != theirs.shape:
        return ""
    gaps = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    found = [
        *of_codecs(frame, reader, theirs, gaps),
        *(of_files(frame, ours, theirs, gaps) if reader is FILE else []),
    ]
    return next(
        (verdict for verdict, holds in [*found, *of_samples(frame, ours, theirs)] if holds), ""
    )


def of_codecs(
    frame: dicomdl.Frame, reader: Second, theirs: Array, gaps: Array
) -> Iterator[tuple[str, bool]]:
    if frame.transfer_syntax_uid not in comparison_module._ROUNDING:
        return
    components = frame.samples_per_pixel == 1 or (reader is not FILE and reader.colour == "stored")
    # 3: see comparison_module._COLOUR_ROUNDING
    yield (
        "rounding of the inverse transform",
        bool(gaps.max() <= (1 if components else 3)),
    )
    if frame.samples_per_pixel == 3:
        luminance = gaps[..., 0].max() if components else 0
        yield (
            "chrominance filled up otherwise",
            bool(luminance <= 1 and gaps.reshape(-1, 3).mean(axis=0).max() <= 1),
        )
        yield (
            "colours converted",
            components
            and bool(
                np.abs(pixels.read_frame(frame, colour="rgb") - theirs.astype(float)).mean() <= 1
            ),
        )


def of_files(
    frame: dicomdl.Frame, ours: Array, theirs: Array, gaps: Array
) -> Iterator[tuple[str, bool]]:
    """Return the verdict on values that SimpleITK converts for a whole file."""
    stored = pixels.read_frame(frame, colour="stored").astype(np.float64)
    slope, intercept = frame.rescale_slope or 1.0, frame.rescale_intercept or 0.0
    if frame.photometric_interpretation == "PALETTE COLOR":
        yield (
            "colours of a palette in 8 bits",
            ours.dtype == np.uint16 and np.array_equal(ours >> 8, theirs),
        )
        return
    if frame.photometric_interpretation == "MONOCHROME1":
        inverted = ((1 << frame.bits_stored) - 1 - stored) * slope + intercept
        yield "MONOCHROME1 inverted", bool(np.abs(inverted - theirs).max() == 0)
    if frame.bits_allocated == 1:
        yield "single bits as 0 and 255", np.array_equal(stored * 255, theirs)
        # the last samples of the last frame
        last = slice(-7, None)
        spread = (stored * 255).ravel()
        alike = frame.frame_number == frame.number_of_frames and np.array_equal(
            spread[:-7], theirs.ravel()[:-7]
        )
        yield "last bits lost", alike and bool((theirs.ravel()[last] <= spread[last]).all())
        return
    yield (
        "rounded to a narrower type",
        bool(
            gaps.max() <= 1e-6 * np.abs(ours).max()
            or (theirs.dtype.kind in "iu" and gaps.max() < 1)
        ),
    )
    if ours.ndim == 2:
        yield (
            "rescale of another frame",
            frame.number_of_frames > 1 and len(np.unique(stored)) > 2 and is_linear(stored, theirs),
        )


def of_samples(frame: dicomdl.Frame, ours: Array, theirs: Array) -> Iterator[tuple[str, bool]]:
    """Return the verdict on bits of samples that a reader changes."""
    if frame.pixel_representation == 1 and frame.samples_per_pixel == 1:
        yield (
            "sign dropped",
            np.array_equal(np.mod(ours.astype(np.float64), 1 << frame.bits_stored), theirs),
        )
    if frame.samples_per_pixel == 3 and frame.bits_allocated > 8:
        yield (
            "bytes of colours mixed",
            np.array_equal(np.sort(bytes_of(ours)), np.sort(bytes_of(theirs))),
        )
    if frame.bits_allocated == 32 and theirs.dtype == np.uint32:
        yield "halves of 32 bits swapped", np.array_equal(ours, theirs >> 16 | theirs << 16)


def is_linear(stored: Array, theirs: Array) -> bool:
    """Whether one slope and intercept map one array to the other."""
    low, high = (
        np.unravel_index(stored.argmin(), stored.shape),
        np.unravel_index(stored.argmax(), stored.shape),
    )
    slope = (float(theirs[high]) - float(theirs[low])) / (stored[high] - stored[low])
    guess = float(theirs[low]) + (stored - stored[low]) * slope
    return bool(
        np.allclose(guess, theirs, rtol=1e-6, atol=1e-6 * max(1.0, float(np.abs(guess).max())))
    )


def bytes_of(values: Array) -> Array:
    return np.ascontiguousarray(values).view(np.uint8).ravel()


# --- the comparison -------------------------------------------------------------------------------


@dataclass
class Table:
    # reader -> outcome -> frames
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    # (reader, verdict) -> places
    verdicts: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    # (reader, why) -> places
    refused: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    ours_refused: list[str] = field(default_factory=list)

    def count(self, reader: str, outcome: str) -> None:
        self.counts.setdefault(reader, Counter())[outcome] += 1


def ask(reader: SecondReader, frame: dicomdl.Frame, second: Second) -> Array | Refusal | None:
    colours = second is FILE and frame.photometric_interpretation == "PALETTE COLOR"
    reader.ask(
        dataclasses.replace(frame.source, samples_per_pixel=3) if colours else frame.source, second
    )
    return reader.answer()


def compare(
    frame: dicomdl.Frame, second: Second, reader: SecondReader, table: Table, place: str
) -> None:
    if (theirs := ask(reader, frame, second)) is None:
        return
    try:
        ours: Array | DicomdlError = expected(frame, second)
    except DicomdlError as error:
        ours = error
    if isinstance(ours, DicomdlError) or isinstance(theirs, Refusal):
        if isinstance(theirs, Refusal):
            table.refused.setdefault((second.name, theirs.why), []).append(place)
        else:
            table.unexplained.append(
                f"{place}: dicomdl refuses, {second.name} gives {theirs.shape}"
            )
        both = isinstance(ours, DicomdlError) and isinstance(theirs, Refusal)
        table.count(
            second.name,
            "both refuse" if both else "refuses" if isinstance(theirs, Refusal) else "only theirs",
        )
    elif ours.shape == theirs.shape and np.array_equal(
        ours, theirs, equal_nan=ours.dtype.kind == theirs.dtype.kind == "f"
    ):
        table.count(second.name, "equal")
    elif verdict := explain(frame, second, ours, theirs):
        table.count(second.name, "explained")
        table.verdicts.setdefault((second.name, verdict), []).append(place)
    else:
        table.count(second.name, "UNEXPLAINED")
        if ours.shape != theirs.shape:
            table.unexplained.append(
                f"{place}: {second.name}: shapes {ours.shape} and {theirs.shape}"
            )
            return
        gaps = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        at = tuple(int(i) for i in np.unravel_index(gaps.argmax(), gaps.shape))
        share = np.count_nonzero(gaps) / gaps.size
        table.unexplained.append(
            f"{place}: {second.name}: {share:.2%} differ, "
            f"at {at} dicomdl {ours[at]}, theirs {theirs[at]}"
        )


def chosen_frames(index: dicomdl.Index, per_file: int) -> Iterator[dicomdl.Frame]:
    """Return the first frames of every file, and the last one."""
    files: dict[str, list[int]] = {}
    for number in range(len(index)):
        files.setdefault(index.source(number).path, []).append(number)
    for numbers in files.values():
        ordered = sorted(
            numbers,
            key=lambda number: (index.source(number).frame_number, index.source(number).tile_top),
        )
        for number in sorted({*ordered[:per_file], ordered[-1]}):
            yield index.frame(number)


def compare_folder(folder: Path, scratch: str, per_file: int) -> tuple[Table, dicomdl.Index]:
    index, table = dicomdl.scan(folder, scratch, workers=1, progress=False), Table()
    with SecondReader(60, TARGET) as reader:
        for frame in chosen_frames(index, per_file):
            place = f"{Path(frame.path).relative_to(folder)} frame {frame.frame_number}"
            try:
                pixels.read_frame(frame)
            except DicomdlError as error:
                table.ours_refused.append(f"{place}: {type(error).__name__}: {str(error)[:300]}")
            for second in readers_of(frame):
                compare(frame, second, reader, table, place)
    return table, index


def one_image(folder: Path, index: dicomdl.Index) -> Iterator[str]:
    """Whether the lossless members of one image in many transfer syntaxes are identical."""
    by_path = {index.source(number).path: number for number in reversed(range(len(index)))}
    for pattern in ONE_IMAGE:
        frames = [
            index.frame(by_path[str(path)])
            for path in sorted(folder.glob(pattern))
            if str(path) in by_path
        ]
        # members of another bit depth are other images
        depth = max((frame.bits_stored for frame in frames), default=0)
        members = [
            frame
            for frame in frames
            if frame.transfer_syntax_uid in LOSSLESS and frame.bits_stored == depth
        ]
        if members:
            values = [pixels.read_frame(frame) for frame in members]
            same = sum(np.array_equal(values[0], other) for other in values)
            syntaxes = len({frame.transfer_syntax_uid for frame in members})
            yield (
                f"{pattern}: {same} of {len(members)} lossless members, "
                f"in {syntaxes} transfer syntaxes, are identical"
            )


# --- the report -----------------------------------------------------------------------------------

OUTCOMES = ("equal", "explained", "UNEXPLAINED", "refuses", "both refuse", "only theirs")


def told(table: Table, everything: bool) -> Iterator[str]:
    yield f"{'reader':<36}" + "".join(f"{outcome:>13}" for outcome in OUTCOMES)
    for reader, counts in sorted(table.counts.items()):
        yield f"{reader:<36}" + "".join(f"{counts[outcome]:>13,}" for outcome in OUTCOMES)
    yield "\ndisagreements, and who is right"
    for (reader, verdict), places in sorted(table.verdicts.items()):
        yield f"{len(places):>6} {reader}: {verdict}\n       {VERDICTS[verdict]}"
        yield from (f"         {place}" for place in (places if everything else places[:3]))
    yield "\nrefused by the other reader"
    for (reader, why), places in sorted(table.refused.items()):
        yield f"{len(places):>6} {reader}: {why}"
        yield from (f"         {place}" for place in (places if everything else places[:3]))
    yield "\nrefused by dicomdl"
    yield from (f"       {refused}" for refused in table.ours_refused)
    yield f"\n{len(table.unexplained)} unexplained"
    yield from (f"       {line}" for line in table.unexplained)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--frames",
        type=int,
        default=2,
        help="frames of each file, beside its last one (default: %(default)s)",
    )
    parser.add_argument(
        "--all", action="store_true", help="name every file under each verdict, not three"
    )
    given = parser.parse_args()
    folder = given.folder.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        table, index = compare_folder(folder, scratch, given.frames)
        print("\n".join(told(table, given.all)))
        print("\nfiles without usable frames")
        for problem in index.problems:
            print(
                f"  {problem.reason:<20} {Path(problem.path).relative_to(folder)}\n"
                f"  {'':<20} {problem.detail}"
            )
        print("\none image in many transfer syntaxes")
        print("\n".join(f"  {line}" for line in one_image(folder, index)))
    return 1 if table.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())

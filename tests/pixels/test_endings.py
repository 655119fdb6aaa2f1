"""endings: a codestream ends at its end marker, whatever follows it, and a cut one never does."""

import io
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import phantoms
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

import dicomdl
from dicomdl.errors import TruncatedPixels
from dicomdl.headers.reader import read_frames
from dicomdl.pixels import _endings
from dicomdl.pixels._endings import jpeg2000_end, jpeg_end

END = b"\xff\xd9"


def picture(rows: int = 48, columns: int = 64, kind: str = "u1") -> NDArray[Any]:
    noise = np.random.default_rng(5).integers(0, 40, (rows, columns))
    return (np.add.outer(np.arange(rows) * 2, np.arange(columns)) + noise).astype(kind)


def pillow(image: NDArray[Any], form: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def with_thumbnail(stream: bytes) -> bytes:
    """Insert an APP1 segment that holds a whole JPEG, end marker included."""
    small = pillow(picture(8, 8))
    return stream[:2] + b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small + stream[2:]


def with_dnl(stream: bytes) -> bytes:
    """Add the DNL segment behind the scan (T.81 B.2.5)."""
    return stream[:-2] + b"\xff\xdc\0\4\0\x30" + END


def with_fill(stream: bytes) -> bytes:
    """Add fill bytes before the end marker (T.81 B.1.1.2)."""
    return stream[:-2] + b"\xff\xff" + END


def with_table_between_scans(stream: bytes) -> bytes:
    """Insert a comment with an end marker in it behind the first scan."""
    scans = [at for at in range(len(stream)) if stream[at : at + 2] == b"\xff\xda"]
    comment = b"\xff\xfe\0\x08" + END + b"ab" + END
    return stream[: scans[1]] + comment + stream[scans[1] :]


def jpeg2000(rows: int = 48, **options: Any) -> bytes:
    return pillow(picture(rows), "JPEG2000", irreversible=False, **options)


def without_length(stream: bytes) -> bytes:
    """Set the length of the last tile-part to 0: it extends to the end marker (T.800 A.4.2)."""
    at = stream.rindex(b"\xff\x90\0\x0a") + 6
    return stream[:at] + b"\0" * 4 + stream[at + 4 :]


def with_counted_end(stream: bytes) -> bytes:
    """Count the end marker to the last tile-part, as some writers do."""
    at = stream.rindex(b"\xff\x90\0\x0a") + 6
    length = int.from_bytes(stream[at : at + 4], "big") + 2
    return stream[:at] + length.to_bytes(4, "big") + stream[at + 4 :]


def planes(image: NDArray[Any]) -> bytes:
    return bytes(imagecodecs.jpegls_encode(image))


STREAMS: dict[str, Callable[[], bytes]] = {
    "baseline": lambda: pillow(picture()),
    "baseline, restarts": lambda: pillow(picture(), restart_marker_rows=1),
    "baseline, colour": lambda: pillow(np.stack([picture()] * 3, -1)),
    "baseline, thumbnail": lambda: with_thumbnail(pillow(picture())),
    "baseline, DNL": lambda: with_dnl(pillow(picture())),
    "baseline, fill bytes": lambda: with_fill(pillow(picture())),
    "progressive": lambda: pillow(np.stack([picture()] * 3, -1), progressive=True),
    "progressive, comment": lambda: with_table_between_scans(pillow(picture(), progressive=True)),
    "lossless": lambda: bytes(imagecodecs.ljpeg_encode(picture(kind="u2"))),
    "JPEG-LS": lambda: planes(picture(kind="u2")),
    "JPEG-LS, colour": lambda: planes(np.stack([picture()] * 3, -1)),
    "JPEG 2000": lambda: jpeg2000(no_jp2=True),
    "JPEG 2000, JP2": jpeg2000,
    "JPEG 2000, tiles": lambda: jpeg2000(no_jp2=True, tile_size=(16, 16)),
    "JPEG 2000, no length": lambda: without_length(jpeg2000(no_jp2=True)),
    "JPEG 2000, end counted": lambda: with_counted_end(jpeg2000(no_jp2=True)),
    "HTJ2K": lambda: phantoms.encode_htj2k(picture(kind="u2")),
}
# Bytes that cannot complete a stream. The last is the start of another image.
TAILS = (b"", b"\0" * 9, b"\xff" * 9, b" \r\n" * 3, bytes(range(40)), b"\xff\xd8\xff\xe0\0\x10JFIF")


@cache
def stream_of(name: str) -> bytes:
    return STREAMS[name]()


def end_of(stream: bytes) -> int:
    start = stream.find(b"\xff\x4f\xff\x51")
    return jpeg_end(stream) if stream.startswith(b"\xff\xd8") else jpeg2000_end(stream, start)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 6, 7, 200, 70_000])
def test_bytes_after_the_end_marker_do_not_matter(name: str, length: int) -> None:
    stream = stream_of(name)
    assert end_of(stream) == len(stream)
    junk = np.random.default_rng(length).bytes(length)
    # The whole image behind the end does not matter either: the end marker is the first one.
    for tail in (
        junk,
        b"\0" * length,
        stream[: min(length, len(stream) - 5)],
        junk + END + b"1234",
    ):
        assert end_of(stream + tail) == len(stream), tail[:8]
    # Bytes that end with an end marker may count as a part, which no decoder reads.
    assert len(stream) <= end_of(stream + junk + END) <= len(stream) + length + 2


@pytest.mark.quick(6)
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_is_cut_anywhere_has_no_end(name: str) -> None:
    stream = stream_of(name)
    lengths = {int(at) for at in np.linspace(0, len(stream) - 1, 199)}
    # After each end marker that is none, and inside of the last one.
    lengths |= {at + 2 for at in range(len(stream) - 2) if stream[at : at + 2] == END}
    for length in lengths:
        for tail in TAILS:
            with pytest.raises(TruncatedPixels):
                end_of(stream[: min(length, len(stream) - 2)] + tail)


@pytest.mark.parametrize(
    "name",
    ["baseline", "baseline, restarts", "baseline, thumbnail", "progressive", "lossless", "JPEG-LS"],
)
def test_an_image_that_is_cut_in_its_data_before_another_one_has_no_end(name: str) -> None:
    stream = stream_of(name)
    first = stream.rindex(b"\xff\xda") + 14
    for length in np.linspace(first, len(stream) - 2, 30).astype(int):
        with pytest.raises(TruncatedPixels):
            end_of(stream[:length] + stream)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "JPEG 2000"])
def test_a_stream_of_a_million_empty_segments_is_given_up(kind: str) -> None:
    segments = b"\xff\xfe\0\2" * 1_000_000
    head = b"\xff\xd8" if kind == "JPEG" else b"\xff\x4f\xff\x51\0\2"
    with pytest.raises(TruncatedPixels):
        end_of(head + segments + END)
    assert _endings._MAX_SEGMENTS < 1_000_000


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
    ],
)
@pytest.mark.parametrize("junk", [b"\x14\x01", b"\x51\xf6\x57\xfe\x51\xf6\x57", b"junk" * 50 + END])
def test_frames_with_bytes_after_their_end_are_decoded_as_without_them(
    tmp_path: Path, syntax: str, junk: bytes
) -> None:
    shape = {"frames": 3, "rows": 40, "columns": 50}
    path = phantoms.write_secondary_capture(tmp_path / "a.dcm", transfer_syntax=syntax, **shape)
    expected = frames_of(path)
    dataset = pydicom.dcmread(path)
    streams = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=3))
    dataset.PixelData = pydicom.encaps.encapsulate([stream + junk for stream in streams])
    dataset.save_as(tmp_path / "b.dcm")
    assert np.array_equal(frames_of(tmp_path / "b.dcm"), expected)
    junk = junk.removesuffix(END)
    dataset.PixelData = pydicom.encaps.encapsulate([stream[:-30] + junk for stream in streams])
    dataset.save_as(tmp_path / "c.dcm")
    with pytest.raises(TruncatedPixels):
        frames_of(tmp_path / "c.dcm")


def frames_of(path: Path) -> NDArray[Any]:
    return np.stack([dicomdl.read_frame(frame) for frame in read_frames(path)])

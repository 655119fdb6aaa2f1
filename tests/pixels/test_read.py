"""Stored values, against pydicom, SimpleITK, other codecs of one image, and written frames."""

import dataclasses
import functools
import itertools
import os
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import phantoms
import phantoms_multi
import pydicom
import pytest
from conftest import CORPUS
from numpy.typing import NDArray
from phantoms import (
    encode_frame,
    encode_htj2k,
    true_rgb,
    true_volume,
    write_multiframe,
    write_secondary_capture,
)
from pydicom.encaps import encapsulate

from dicomdl.errors import (
    DecodeError,
    DicomdlError,
    FileChanged,
    HeaderError,
    PixelError,
    TooLarge,
    TruncatedPixels,
    UsageError,
)
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import FrameSource
from dicomdl.headers.reader import read_frames
from dicomdl.pixels import _native as native_module
from dicomdl.pixels import tiles as tiles_module
from dicomdl.pixels.halving import halve
from dicomdl.pixels.options import FREE_FRAME_BYTES
from dicomdl.pixels.read import read_frame, read_rows
from dicomdl.pixels.stored import frame_shape, is_native, stored_dtype
from dicomdl.pixels.tiles import read_tiles, same_mosaic
from dicomdl.storage import handles as handles_module
from dicomdl.values._lookup_reading import palette

Array = NDArray[Any]

PYDICOM_FILES = Path(os.path.dirname(pydicom.data.__file__)) / "test_files"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="needs the corpus (DICOMDL_CORPUS)")

IMPLICIT, LITTLE, BIG, DEFLATED, GE = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.113619.5.2",
)
RLE = "1.2.840.10008.1.2.5"
JPEG, JPEG_12, JPEG_LL, JPEG_LS, JPEG_LS_LOSSY, J2K, J2K_LOSSY, JXL, HTJ2K = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70, 80, 81, 90, 91, 110, 201)
)
LOSSLESS = {IMPLICIT, LITTLE, BIG, DEFLATED, RLE, JPEG_LL, JPEG_LS, J2K, "1.2.840.10008.1.2.4.57"}


def write(path: Path, data: bytes, **facts: Any) -> FrameSource:
    """The source of a frame whose bytes are the whole file, or `byte_offset` and on."""
    path.write_bytes(data)
    status = path.stat()
    offset = facts.pop("byte_offset", 0)
    defaults: dict[str, Any] = {
        "path": str(path),
        "frame_number": 1,
        "byte_offset": offset,
        "byte_length": len(data) - offset,
        "bit_offset": 0,
        "deflated": False,
        "file_bytes": status.st_size,
        "file_mtime_ns": status.st_mtime_ns,
        "transfer_syntax_uid": LITTLE,
        "rows": 8,
        "columns": 8,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "planar_configuration": 0,
        "bits_allocated": 16,
        "bits_stored": facts.get("bits_allocated", 16),
        "high_bit": facts.get("bits_stored", facts.get("bits_allocated", 16)) - 1,
        "pixel_representation": 0,
        "float_pixels": False,
    }
    return FrameSource(**(defaults | facts))


def in_item(stream: bytes) -> bytes:
    """One fragment, without the offset table that goes before it."""
    return encapsulate([stream], has_bot=False)[8:]


def ramp(rows: int, columns: int, dtype: str = "u2", start: int = 0) -> Array:
    """Values x + 7 y, which a swap of the axes or a shift changes."""
    return (np.arange(columns) + 7 * np.arange(rows)[:, None] + start).astype(dtype)


def colours(rows: int, columns: int, samples: int = 3, dtype: str = "u1") -> Array:
    return np.random.default_rng(5).integers(0, 256, (rows, columns, samples)).astype(dtype)


# --- second opinions on real files ----------------------------------------------------------------

# Files that no decoder can read, and why.
BROKEN = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "bytes of the size segment are overwritten",
}


def image_files(root: Path) -> Iterator[tuple[str, list[Frame]]]:
    for folder, _, names in sorted(os.walk(root)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                frames = read_frames(path)
            except DicomdlError:
                # The tests of the header reader cover these files.
                continue
            if frames:
                yield path, frames


def by_pydicom(dataset: pydicom.Dataset, index: int, raw: bool) -> Iterator[tuple[str, Array]]:
    """Yield the result of each decoder of pydicom that can read a frame.

    gdcm is left out because it may abort, and pylibjpeg for lossy JPEG because it differs.
    """
    from pydicom.pixels import get_decoder, pixel_array  # type: ignore[attr-defined]

    uid = dataset.file_meta.TransferSyntaxUID
    try:
        plugins = set(get_decoder(uid).available_plugins) - {"gdcm"}
    except NotImplementedError:
        return
    if uid in (RLE, JPEG, JPEG_12):
        plugins -= {"pylibjpeg"}
    for plugin in sorted(plugins) or [""]:
        if not plugin and uid.is_encapsulated:
            continue
        try:
            yield plugin, pixel_array(dataset, index=index, raw=raw, decoding_plugin=plugin)
        except Exception:
            continue


def near(theirs: Array, ours: Array) -> Array:
    """Return `ours` if `theirs` is at most 1 off in green, else `theirs`.

    libjpeg-turbo rounds the coefficients of its colour conversion to 16 bits.
    """
    apart = np.abs(theirs.astype(np.int32) - ours)
    return (
        ours
        if theirs.ndim == 3
        and not apart[..., ::2].any()
        and apart.max() <= 1
        and np.mean(apart) < 1e-3
        else theirs
    )


def disagreements(root: Path, frames_per_file: int) -> tuple[list[str], int]:
    found, compared = [], 0
    for path, frames in image_files(root):
        if os.path.basename(path) in BROKEN:
            continue
        dataset = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(frames[0].transfer_syntax_uid)
        for frame in frames[:frames_per_file]:
            index = frame.frame_number - 1
            tile = (
                slice(frame.tile_top, frame.tile_top + frame.rows),
                slice(frame.tile_left, frame.tile_left + frame.columns),
            )
            for colour in ("rgb", "stored"):
                ours = read_frame(frame, colour=colour)  # type: ignore[arg-type]
                assert (
                    ours.dtype.isnative
                    and ours.dtype == stored_dtype(frame)
                    and ours.shape == frame_shape(frame)
                )
                for plugin, theirs in by_pydicom(dataset, index, raw=colour == "stored"):
                    compared += 1
                    theirs = theirs[tile] if frame.coded_rows else theirs
                    if colour == "rgb" and frame.transfer_syntax_uid == JPEG:
                        theirs = near(theirs, ours)
                    if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
                        found.append(f"{path} frame {index + 1} {colour} {plugin}")
    return found, compared


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_image_that_pydicom_ships_has_pydicoms_values() -> None:
    found, compared = disagreements(PYDICOM_FILES, frames_per_file=4)
    assert not found
    assert compared > 150


@needs_corpus
@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")
def test_every_image_of_the_corpus_has_pydicoms_values() -> None:
    found, compared = disagreements(CORPUS, frames_per_file=2)
    assert not found
    assert compared > 3000


@needs_corpus
@pytest.mark.corpus
def test_jpeg_lossless_images_have_the_values_of_simpleitk() -> None:
    sitk = pytest.importorskip("SimpleITK")
    compared = 0
    for path, frames in image_files(CORPUS):
        frame = frames[0]
        if frame.transfer_syntax_uid not in (JPEG_LL, "1.2.840.10008.1.2.4.57") or len(frames) > 1:
            continue
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(path)).squeeze()
        slope, intercept = frame.rescale_slope or 1.0, frame.rescale_intercept or 0.0
        assert np.array_equal(read_frame(frame) * slope + intercept, theirs), path
        compared += 1
    assert compared >= 10


@needs_corpus
@pytest.mark.corpus
@pytest.mark.parametrize(
    "pattern",
    [
        "neurolabusc+dcm_qa_ts/In/*.dcm",
        "cornerstonejs+cornerstone3D/**/CTImage.dcm_*",
        "robyoung+dicom-test-files/**/XA1_*",
    ],
)
def test_one_image_in_many_lossless_transfer_syntaxes_has_one_set_of_values(pattern: str) -> None:
    frames = [read_frames(path)[0] for path in sorted(CORPUS.glob(pattern))]
    # The corpus' README: members of another bit depth (the cornerstone 8- and 12-bit ones)
    # are other images.
    depth = max(frame.bits_stored for frame in frames)
    members = [f for f in frames if f.transfer_syntax_uid in LOSSLESS and f.bits_stored == depth]
    values = [read_frame(member) for member in members]
    assert len(values) >= 3
    assert all(np.array_equal(values[0], other) for other in values[1:])


@needs_corpus
@pytest.mark.corpus
def test_junk_above_12_bits_is_removed_from_signed_and_unsigned_frames() -> None:
    paths = sorted((CORPUS / "neurolabusc+dcm_qa_12bit" / "In").glob("*.dcm"))
    assert len(paths) >= 2
    for path in paths:
        frame = read_frames(path)[0]
        values = read_frame(frame)
        if frame.bits_stored != 12:
            continue
        low, high = (-2048, 2047) if frame.pixel_representation else (0, 4095)
        assert low <= values.min() and values.max() <= high
        raw = np.frombuffer(path.read_bytes()[frame.byte_offset :][: frame.byte_length], "<u2")
        # The first tile of a mosaic.
        raw = raw.reshape(frame.coded_rows or frame.rows, -1)[: frame.rows, : frame.columns]
        assert np.array_equal(values & 0xFFF, raw & 0xFFF)


def test_a_frame_that_nobody_can_decode_is_a_typed_error() -> None:
    for name in BROKEN:
        if not (PYDICOM_FILES / name).exists():
            pytest.skip("pydicom ships it no longer")
        with pytest.raises(DecodeError) as caught:
            read_frame(read_frames(PYDICOM_FILES / name)[0])
        assert caught.value.expected_shape[0] == 1024


# --- native frames --------------------------------------------------------------------------------


def test_a_little_endian_frame_is_read_where_it_lies(tmp_path: Path) -> None:
    image = ramp(5, 9, "i2", -40)
    source = write(
        tmp_path / "a",
        b"\xaa" * 31 + image.tobytes(),
        byte_offset=31,
        rows=5,
        columns=9,
        pixel_representation=1,
    )
    values = read_frame(source)
    assert values.dtype == np.int16
    assert np.array_equal(values, image)


def test_out_is_filled_without_a_second_array(tmp_path: Path) -> None:
    image = ramp(1024, 1024, "u2")
    source = write(tmp_path / "a", image.tobytes(), rows=1024, columns=1024, bits_stored=12)
    out = np.zeros_like(image)
    read_frame(source, out)
    tracemalloc.start()
    try:
        assert read_frame(source, out) is out
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(out, image & 0xFFF)
    assert peak < image.nbytes / 50


@pytest.mark.parametrize(
    "out",
    [
        np.empty((8, 7), "u2"),
        np.empty((8, 8), "i2"),
        np.empty((8, 16), "u2")[:, ::2],
        np.empty((8, 8), ">u2" if np.little_endian else "<u2"),
    ],
)
def test_an_out_that_does_not_fit_is_refused(tmp_path: Path, out: Array) -> None:
    with pytest.raises(UsageError):
        read_frame(write(tmp_path / "a", bytes(128)), out)


def test_a_12_bit_signed_frame_is_sign_extended(tmp_path: Path) -> None:
    image = ramp(8, 8, "i2", -30)
    junk = (image & 0x0FFF).astype("u2") | 0x5000
    values = read_frame(
        write(tmp_path / "a", junk.tobytes(), bits_stored=12, pixel_representation=1)
    )
    assert np.array_equal(values, image)


@pytest.mark.parametrize("signed", [0, 1])
def test_left_aligned_samples_are_shifted_to_the_right(tmp_path: Path, signed: int) -> None:
    image = ramp(8, 8, "i2", -30 if signed else 0)
    left = ((image.astype("i4") << 3) & 0x7FF8 | 0x8005).astype("u2")
    source = write(
        tmp_path / "a", left.tobytes(), bits_stored=12, high_bit=14, pixel_representation=signed
    )
    assert np.array_equal(read_frame(source), image)


@pytest.mark.parametrize(
    ("bits", "representation", "kind"),
    [(8, 0, "u1"), (8, 1, "i1"), (32, 0, "u4"), (32, 1, "i4"), (64, 1, "i8")],
)
@pytest.mark.parametrize("uid", [LITTLE, IMPLICIT])
def test_every_width_has_its_dtype(
    tmp_path: Path, bits: int, representation: int, kind: str, uid: str
) -> None:
    image = ramp(8, 8, kind)
    source = write(
        tmp_path / "a",
        image.tobytes(),
        bits_allocated=bits,
        pixel_representation=representation,
        transfer_syntax_uid=uid,
    )
    assert stored_dtype(source) == np.dtype(kind)
    assert np.array_equal(read_frame(source), image)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("uid", [LITTLE, BIG])
def test_float_pixels_are_floats(tmp_path: Path, bits: int, uid: str) -> None:
    image = ramp(8, 8, f"f{bits // 8}") / 3
    data = image.astype(image.dtype.newbyteorder(">")) if uid == BIG else image
    source = write(
        tmp_path / "a",
        data.tobytes(),
        bits_allocated=bits,
        float_pixels=True,
        transfer_syntax_uid=uid,
    )
    assert np.array_equal(read_frame(source), image)


def test_12_bits_allocated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        read_frame(write(tmp_path / "a", bytes(128), bits_allocated=12))
    assert caught.value.bits_allocated == 12


@pytest.mark.parametrize("uid", [BIG, GE])
def test_big_endian_samples_come_in_the_order_of_this_machine(tmp_path: Path, uid: str) -> None:
    image = ramp(8, 8, "i2", -30)
    source = write(
        tmp_path / "a",
        image.astype(">i2").tobytes(),
        transfer_syntax_uid=uid,
        pixel_representation=1,
    )
    values = read_frame(source)
    assert values.dtype.isnative
    assert np.array_equal(values, image)


@pytest.mark.parametrize("vr", [b"OW", b"OB"])
def test_8_bit_big_endian_frames_are_taken_out_of_words_only_where_the_vr_is_ow(
    tmp_path: Path, vr: bytes
) -> None:
    # Frames have 9 bytes each, so the second starts inside a word.
    frames = [ramp(3, 3, "u1", start) for start in (0, 100, 200)]
    data = b"".join(frame.tobytes() for frame in frames) + b"\0"
    stored = np.frombuffer(data, "u2").byteswap().tobytes() if vr == b"OW" else data
    head = b"\x7f\xe0\x00\x10" + vr + b"\0\0" + len(data).to_bytes(4, "big")
    for number, frame in enumerate(frames):
        facts = {"byte_offset": 12 + 9 * number, "byte_length": 9, "frame_number": number + 1}
        source = write(
            tmp_path / "a",
            head + stored,
            rows=3,
            columns=3,
            bits_allocated=8,
            transfer_syntax_uid=BIG,
            **facts,
        )
        assert np.array_equal(read_frame(source), frame)


@pytest.mark.parametrize("vr", [b"", b"OW", b"OB"])
def test_single_bits_start_with_the_lowest_and_inside_a_byte(tmp_path: Path, vr: bytes) -> None:
    frames = np.random.default_rng(1).integers(0, 2, (4, 3, 7)).astype("u1")  # 21 bits each
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    packed += b"\0" * (len(packed) % 2)
    stored = np.frombuffer(packed, "u2").byteswap().tobytes() if vr == b"OW" else packed
    head = b"\x7f\xe0\x00\x10" + vr + b"\0\0" + len(packed).to_bytes(4, "big") if vr else b""
    for number, frame in enumerate(frames):
        first, last = 21 * number, 21 * (number + 1)
        facts = {
            "byte_offset": len(head) + first // 8,
            "byte_length": (last + 7) // 8 - first // 8,
            "bit_offset": first % 8,
        }
        facts |= {"frame_number": number + 1, "transfer_syntax_uid": BIG if vr else LITTLE}
        source = write(tmp_path / "a", head + stored, rows=3, columns=7, bits_allocated=1, **facts)
        values = read_frame(source)
        assert values.dtype == np.uint8
        assert np.array_equal(values, frame)


@pytest.mark.parametrize("uid", [LITTLE, BIG])
def test_planes_are_interleaved(tmp_path: Path, uid: str) -> None:
    image = colours(6, 5, dtype="u2") * 200
    data = image.transpose(2, 0, 1).astype(">u2" if uid == BIG else "<u2").tobytes()
    facts = {
        "samples_per_pixel": 3,
        "photometric_interpretation": "RGB",
        "planar_configuration": 1,
        "transfer_syntax_uid": uid,
    }
    assert np.array_equal(
        read_frame(write(tmp_path / "a", data, rows=6, columns=5, **facts)), image
    )


def test_a_native_frame_that_is_too_short_is_never_an_array(tmp_path: Path) -> None:
    data = ramp(8, 8).tobytes()
    for length in range(0, len(data), 7):
        source = write(tmp_path / "a", data[:length], byte_length=len(data))
        with pytest.raises(TruncatedPixels) as caught:
            read_frame(source)
        assert (caught.value.expected_bytes, caught.value.found_bytes) == (128, length)
        with pytest.raises(TruncatedPixels):
            read_frame(dataclasses.replace(source, byte_length=length))


@pytest.mark.parametrize(
    "most",
    [
        None,
        pytest.param(
            50, marks=pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")
        ),
    ],
)
def test_a_read_that_comes_in_parts_or_without_preadv_fills_the_frame(
    tmp_path: Path, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ramp(8, 8)
    source = write(tmp_path / "a", b"\xaa" * 5 + image.tobytes(), byte_offset=5)
    if most is None:
        monkeypatch.setattr("dicomdl.storage.system._HAS_PREADV", False)  # as on Windows
    else:
        whole = os.preadv
        monkeypatch.setattr(
            os,
            "preadv",
            lambda descriptor, buffers, offset: whole(
                descriptor, [buffers[0].cast("B")[:most]], offset
            ),
        )
    assert np.array_equal(read_frame(source), image)
    with pytest.raises(TruncatedPixels):
        read_frame(dataclasses.replace(source, byte_offset=7))


# --- the file is another one ----------------------------------------------------------------------


def test_a_file_that_changed_since_the_scan_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a", bytes(128))
    for change in ({"file_bytes": 126}, {"file_mtime_ns": source.file_mtime_ns - 1}):
        with pytest.raises(FileChanged):
            read_frame(dataclasses.replace(source, **change))
    # A source that was never scanned has no state to compare with.
    read_frame(dataclasses.replace(source, file_mtime_ns=-1))


def test_a_file_that_is_gone_or_unreadable_is_a_typed_error(tmp_path: Path) -> None:
    source = write(tmp_path / "a", bytes(128))
    with pytest.raises(PixelError):
        read_frame(dataclasses.replace(source, path=str(tmp_path), file_mtime_ns=-1))
    (tmp_path / "a").unlink()
    with pytest.raises(FileChanged):
        read_frame(source)


# --- deflated -------------------------------------------------------------------------------------


def deflated(path: Path, dataset: bytes, **facts: Any) -> FrameSource:
    meta = (
        b"\x02\x00\x00\x00UL\x04\x00\x1c\0\0\0"
        + b"\x02\x00\x01\x00OB\0\0\x02\0\0\0\x00\x01"
        + b"\x02\x00\x10\x00UI\x06\x001.2.3\0"
    )
    squeezer = zlib.compressobj(wbits=-15)
    data = bytes(128) + b"DICM" + meta + squeezer.compress(dataset) + squeezer.flush()
    return write(
        path,
        data,
        **({"transfer_syntax_uid": DEFLATED, "deflated": True, "byte_offset": 0} | facts),
    )


def test_the_offset_of_a_deflated_frame_counts_in_the_inflated_data_set(tmp_path: Path) -> None:
    image = ramp(8, 8)
    source = deflated(
        tmp_path / "a", b"\x55" * 41 + image.tobytes() + bytes(50), byte_offset=41, byte_length=128
    )
    assert np.array_equal(read_frame(source), image)
    assert np.array_equal(read_rows(source, 2, 5), image[2:5])


@pytest.mark.slow
def test_a_deflated_frame_is_inflated_no_further_than_its_end(tmp_path: Path) -> None:
    source = deflated(tmp_path / "a", bytes(200 * 2**20), byte_offset=10, byte_length=128)
    tracemalloc.start()
    try:
        read_frame(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_frames_of_a_deflated_file_are_inflated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = read_frames(write_multiframe(tmp_path / "a", transfer_syntax=DEFLATED, order=range(6)))
    calls = []
    for name in ("inflate_data_set", "inflate_range"):
        inflate = getattr(native_module, name)
        counted = functools.partial(lambda do, *a: (calls.append(a[2]), do(*a))[1], inflate)
        monkeypatch.setattr(native_module, name, counted)
    for frame, expected in zip(frames, true_volume((6, 5, 7)), strict=True):
        assert np.array_equal(read_frame(frame), expected)
    # The first frame, which may be the only one, caches nothing.
    assert len(calls) == 2


def test_what_was_inflated_is_forgotten_when_the_file_changes(tmp_path: Path) -> None:
    path = write_multiframe(tmp_path / "a", transfer_syntax=DEFLATED, order=range(6))
    before = read_frames(path)
    read_frame(before[3])
    path.unlink()
    write_multiframe(path, transfer_syntax=DEFLATED, order=range(6), offset=9)
    assert np.array_equal(read_frame(read_frames(path)[3]), true_volume((6, 5, 7))[3] + 9)
    with pytest.raises(FileChanged):
        read_frame(before[3])


def test_a_deflated_data_set_that_is_too_large_to_keep_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = read_frames(write_multiframe(tmp_path / "a", transfer_syntax=DEFLATED, order=range(6)))
    monkeypatch.setattr(native_module, "_MOST_CACHED_BYTES", frames[3].byte_offset)
    for number in (4, 1, 5, 0, 2):
        assert np.array_equal(read_frame(frames[number]), true_volume((6, 5, 7))[number])


@pytest.mark.slow
def test_frames_of_a_small_deflated_file_keep_no_large_data_set(tmp_path: Path) -> None:
    size = 100 * 2**20
    source = deflated(
        tmp_path / "a", bytes(size), frame_number=9, byte_offset=size - 128, byte_length=128
    )
    assert source.file_bytes < 200_000
    tracemalloc.start()
    try:
        assert not read_frame(source).any()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.slow
def test_a_large_frame_of_a_small_deflated_file_needs_leave(tmp_path: Path) -> None:
    rows = columns = 2**14
    source = deflated(
        tmp_path / "a",
        bytes(rows * columns),
        rows=rows,
        columns=columns,
        bits_allocated=8,
        bits_stored=8,
        high_bit=7,
        byte_offset=0,
        byte_length=rows * columns,
    )
    with pytest.raises(TooLarge, match=f"pass max_bytes={rows * columns}"):
        read_frame(source)


def test_a_deflated_data_set_that_ends_too_early_or_is_damaged_is_a_typed_error(
    tmp_path: Path,
) -> None:
    with pytest.raises(TruncatedPixels):
        read_frame(deflated(tmp_path / "a", bytes(60), byte_offset=0, byte_length=128))
    with pytest.raises(DecodeError):
        read_frame(
            write(
                tmp_path / "b",
                b"\xff" * 300,
                transfer_syntax_uid=DEFLATED,
                deflated=True,
                byte_length=128,
            )
        )


# --- compressed -----------------------------------------------------------------------------------


# The codestream has fewer bits than BitsAllocated.
@pytest.mark.parametrize(
    ("uid", "bits", "coded"),
    [
        (uid, 8 * int(coded[1]), coded)
        for uid in (RLE, JPEG_LL, JPEG_LS, J2K)
        for coded in ("u1", "u2")
    ]
    + [(uid, 16, "u1") for uid in (JPEG_LL, JPEG_LS, J2K)],
)
def test_a_compressed_frame_fills_out_and_can_be_cut_into_rows(
    tmp_path: Path, uid: str, bits: int, coded: str
) -> None:
    image = ramp(24, 31, coded)
    data = in_item(encode_frame(image, uid, 8 * image.itemsize))
    source = write(
        tmp_path / "a", data, rows=24, columns=31, bits_allocated=bits, transfer_syntax_uid=uid
    )
    out = np.empty((24, 31), f"u{bits // 8}")
    assert read_frame(source, out) is out
    assert np.array_equal(out, image)
    assert np.array_equal(read_frame(source), out)
    assert np.array_equal(read_rows(source, 3, 9), image[3:9])


@pytest.mark.parametrize("uid", [JPEG_LL, JPEG_LS, J2K, RLE])
def test_the_header_decides_about_the_sign(tmp_path: Path, uid: str) -> None:
    image = ramp(24, 31, "i2", -90)
    data = in_item(encode_frame(image.view("u2"), uid, 16))
    source = write(
        tmp_path / "a", data, rows=24, columns=31, pixel_representation=1, transfer_syntax_uid=uid
    )
    assert np.array_equal(read_frame(source), image)


def test_an_unsigned_jpeg_2000_stream_of_12_bits_is_sign_extended(tmp_path: Path) -> None:
    image = ramp(24, 31, "i2", -90)
    stream = imagecodecs.jpeg2k_encode(
        (image & 0xFFF).astype("u2"), reversible=True, codecformat="j2k", bitspersample=12
    )
    facts = {"bits_stored": 12, "pixel_representation": 1, "transfer_syntax_uid": J2K}
    assert np.array_equal(
        read_frame(write(tmp_path / "a", in_item(stream), rows=24, columns=31, **facts)), image
    )


def test_a_signed_jpeg_2000_stream_is_unsigned_where_the_header_says_so(tmp_path: Path) -> None:
    image = ramp(24, 31, "i2")
    stream = imagecodecs.jpeg2k_encode(image - 40, reversible=True, codecformat="j2k")
    values = read_frame(
        write(tmp_path / "a", in_item(stream), rows=24, columns=31, transfer_syntax_uid=J2K)
    )
    assert np.array_equal(values, (image - 40).view("u2"))


def test_a_lossy_frame_that_overshoots_bits_stored_is_clipped_not_wrapped(tmp_path: Path) -> None:
    image = np.full((24, 31), 4100, "u2")
    stream = imagecodecs.jpegls_encode(image)
    facts = {"rows": 24, "columns": 31, "bits_stored": 12}
    lossy = read_frame(
        write(tmp_path / "a", in_item(stream), transfer_syntax_uid=JPEG_LS_LOSSY, **facts)
    )
    assert (lossy == 4095).all()
    lossless = read_frame(
        write(tmp_path / "a", in_item(stream), transfer_syntax_uid=JPEG_LS, **facts)
    )
    assert (lossless == 4100 & 0xFFF).all()  # there the high bits can only be junk


def test_junk_above_bits_stored_is_removed_after_rle_too(tmp_path: Path) -> None:
    image = ramp(24, 31, "i2", -90)
    left = ((image.astype("i4") << 2) & 0x3FFC | 0xC001).astype("u2")
    facts = {
        "bits_stored": 12,
        "high_bit": 13,
        "pixel_representation": 1,
        "transfer_syntax_uid": RLE,
    }
    assert np.array_equal(
        read_frame(
            write(
                tmp_path / "a", in_item(encode_frame(left, RLE, 16)), rows=24, columns=31, **facts
            )
        ),
        image,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_truncated_frame_of_a_real_file_is_never_an_array(tmp_path: Path) -> None:
    names = (
        "MR_small_jpeg_ls_lossless",
        "MR_small_jp2klossless",
        "MR_small_RLE",
        "JPGExtended",
        "SC_rgb_jpeg_gdcm",
        "MR_small",
        "image_dfl",
    )
    cut = 0
    for name in names:
        path = PYDICOM_FILES / f"{name}.dcm"
        if not path.exists():
            continue
        source = read_frames(path)[0].source
        data = path.read_bytes()
        start = 400 if source.deflated else source.byte_offset
        stop = len(data) - 200 if source.deflated else source.byte_offset + source.byte_length - 4
        for length in np.linspace(start, stop, 25).astype(int):
            (tmp_path / "cut").write_bytes(data[:length])
            change = {"path": str(tmp_path / "cut"), "file_bytes": int(length), "file_mtime_ns": -1}
            with pytest.raises((TruncatedPixels, DecodeError)):
                read_frame(dataclasses.replace(source, **change))
            cut += 1
    assert cut >= 50


def test_frames_in_items_that_are_native_or_deflated_inside_are_read(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 2, (9, 7)).astype("u1")
    packed = np.packbits(image.ravel(), bitorder="little").tobytes()
    squeezer = zlib.compressobj(wbits=-15)
    facts = {"rows": 9, "columns": 7, "bits_allocated": 1}
    for uid, fragment in (
        ("1.2.840.10008.1.2.1.98", packed),
        ("1.2.840.10008.1.2.8.1", squeezer.compress(packed) + squeezer.flush()),
    ):
        assert np.array_equal(
            read_frame(write(tmp_path / "a", in_item(fragment), transfer_syntax_uid=uid, **facts)),
            image,
        )


def test_frames_are_read_by_threads(tmp_path: Path) -> None:
    images = [ramp(64, 64, "u2", start) for start in range(20)]
    sources = []
    for i, image in enumerate(images):
        uid = (RLE, JPEG_LL, JPEG_LS, J2K)[i % 4]
        data = in_item(encode_frame(image, uid, 16))
        sources.append(write(tmp_path / str(i), data, rows=64, columns=64, transfer_syntax_uid=uid))
    out = np.empty((20, 64, 64), "u2")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_frame, sources, out))
    assert np.array_equal(out, np.stack(images))


# --- lower resolutions, limits --------------------------------------------------------------------


def in_every_syntax(folder: Path, image: Array, **facts: Any) -> dict[str, FrameSource]:
    """One image of 16 bits in each lossless transfer syntax."""
    shape = {"rows": image.shape[0], "columns": image.shape[1], **facts}
    sources = {LITTLE: write(folder / "native", image.astype("<u2").tobytes(), **shape)}
    sources[BIG] = write(
        folder / "big", image.astype(">u2").tobytes(), transfer_syntax_uid=BIG, **shape
    )
    sources[HTJ2K] = write(
        folder / "ht",
        in_item(encode_htj2k(image)),
        transfer_syntax_uid=HTJ2K,
        **shape,
    )
    for uid in (RLE, JPEG_LL, JPEG_LS, J2K):
        sources[uid] = write(
            folder / uid, in_item(encode_frame(image, uid, 16)), transfer_syntax_uid=uid, **shape
        )
    return sources


@pytest.mark.parametrize("times", [1, 2, 3, 6, 12])
def test_a_lower_resolution_has_the_same_values_in_every_transfer_syntax(
    tmp_path: Path, times: int
) -> None:
    image = np.random.default_rng(times).integers(20000, 40000, (45, 67)).astype("u2")
    expected = halve(image, times)
    for uid, source in in_every_syntax(tmp_path, image).items():
        out = np.empty(frame_shape(source, times), "u2")
        assert read_frame(source, out, reduce=times) is out
        assert np.array_equal(out, expected), uid
        assert np.array_equal(read_frame(source, reduce=times), out)
    assert expected.shape == frame_shape(source, times)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_what_halving_overshoots_is_clipped_to_bits_stored_in_every_transfer_syntax(
    tmp_path: Path, signed: bool, times: int
) -> None:
    low, high = (-2048, 2047) if signed else (0, 4095)
    image = np.where(np.random.default_rng(times).integers(0, 2, (44, 60)) == 1, high, low)
    facts = {"rows": 44, "columns": 60, "bits_stored": 12, "pixel_representation": int(signed)}
    stored = (image & 0xFFF).astype("u2")
    sources = {LITTLE: write(tmp_path / "native", stored.astype("<u2").tobytes(), **facts)}
    for uid in (RLE, JPEG_LL, JPEG_LS):
        sources[uid] = write(
            tmp_path / uid, in_item(encode_frame(stored, uid, 12)), transfer_syntax_uid=uid, **facts
        )
    for name, coded in (
        ("same sign", image.astype("i2" if signed else "u2")),
        ("bare bits", stored),
    ):
        stream = imagecodecs.jpeg2k_encode(
            coded, level=0, codecformat="j2k", reversible=True, bitspersample=12
        )
        sources[name] = write(tmp_path / name, in_item(stream), transfer_syntax_uid=J2K, **facts)
    wide = imagecodecs.jpeg2k_encode(
        image.astype("i2" if signed else "u2"),
        level=0,
        codecformat="j2k",
        reversible=True,
        bitspersample=16,
    )
    sources["more bits"] = write(tmp_path / "wide", in_item(wide), transfer_syntax_uid=J2K, **facts)
    expected = halve(image.astype("i2" if signed else "u2"), times, limits=(low, high))
    assert expected.min() == low and expected.max() == high
    for name, source in sources.items():
        assert np.array_equal(read_frame(source, reduce=times), expected), name


def test_labels_are_taken_and_not_mixed_however_the_frame_is_given(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).choice([0, 3, 200], (20, 30)).astype("u1")
    facts = {
        "rows": 20,
        "columns": 30,
        "bits_allocated": 8,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.7",
    }
    assert np.array_equal(
        read_frame(write(tmp_path / "a", labels.tobytes(), **facts), reduce=1), labels[::2, ::2]
    )


@pytest.mark.parametrize("uid", [RLE, JPEG_LL, JPEG_LS, J2K])
def test_left_aligned_samples_are_shifted_in_every_transfer_syntax(
    tmp_path: Path, uid: str
) -> None:
    image = ramp(24, 31)
    data = in_item(encode_frame((image << 4).astype("u2"), uid, 16))
    source = write(
        tmp_path / "a",
        data,
        rows=24,
        columns=31,
        bits_stored=12,
        high_bit=15,
        transfer_syntax_uid=uid,
    )
    assert np.array_equal(read_frame(source), image)


def test_an_out_of_the_whole_size_is_refused_for_a_lower_resolution(tmp_path: Path) -> None:
    source = write(tmp_path / "a", ramp(8, 8).tobytes())
    with pytest.raises(UsageError, match="out must be"):
        read_frame(source, np.empty((8, 8), "u2"), reduce=1)
    for wrong in (-1, 16, 1.5, "1", None):
        with pytest.raises(UsageError, match="reduce"):
            read_frame(source, reduce=wrong)  # type: ignore[arg-type]


def test_single_bits_and_palette_indices_are_taken_and_not_mixed(tmp_path: Path) -> None:
    indices = np.random.default_rng(0).integers(0, 256, (20, 30)).astype("u1")
    facts = {
        "rows": 20,
        "columns": 30,
        "bits_allocated": 8,
        "photometric_interpretation": "PALETTE COLOR",
    }
    native = write(tmp_path / "a", indices.tobytes(), **facts)
    coded = write(
        tmp_path / "b", in_item(encode_frame(indices, J2K, 8)), transfer_syntax_uid=J2K, **facts
    )
    for source in (native, coded):
        assert np.array_equal(read_frame(source, reduce=1), indices[::2, ::2])
    bits = (indices > 128).astype("u1")
    source = write(
        tmp_path / "c",
        np.packbits(bits, bitorder="little").tobytes(),
        rows=20,
        columns=30,
        bits_allocated=1,
    )
    assert np.array_equal(read_frame(source, reduce=2), bits[::4, ::4])


@pytest.mark.slow
def test_a_blank_frame_that_its_bytes_do_not_justify_is_refused_unless_it_is_allowed(
    tmp_path: Path,
) -> None:
    image = np.zeros((12000, 6000), "u2")
    stream = encode_frame(image, JPEG_LS, 16)
    assert 1000 * len(stream) < image.nbytes > FREE_FRAME_BYTES
    source = write(
        tmp_path / "a", in_item(stream), rows=12000, columns=6000, transfer_syntax_uid=JPEG_LS
    )
    with pytest.raises(TooLarge, match="max_bytes") as caught:
        read_frame(source)
    assert (
        caught.value.needed_bytes == image.nbytes and caught.value.limit_bytes == FREE_FRAME_BYTES
    )
    assert str(source.path) in caught.value.__notes__[0]
    assert not read_frame(source, max_bytes=image.nbytes).any()


def test_the_caller_may_allow_less(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a",
        in_item(encode_frame(ramp(64, 64), J2K, 16)),
        rows=64,
        columns=64,
        transfer_syntax_uid=J2K,
    )
    for reduce in (0, 1, 3):
        with pytest.raises(TooLarge):
            read_frame(source, max_bytes=8191, reduce=reduce)
    assert read_frame(source, max_bytes=8192).shape == (64, 64)


def test_a_hostile_size_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    stream = bytearray(encode_frame(ramp(64, 64), J2K, 16))
    start = stream.find(b"\xff\x4f\xff\x51") + 8
    stream[start : start + 8] = (60000).to_bytes(4, "big") * 2
    stream[start + 16 : start + 24] = (60000).to_bytes(4, "big") * 2
    source = write(
        tmp_path / "a", in_item(bytes(stream)), rows=60000, columns=60000, transfer_syntax_uid=J2K
    )
    tracemalloc.start()
    with pytest.raises(TooLarge):
        read_frame(source)
    with pytest.raises(TooLarge):
        read_frame(source, np.empty((0, 0), "u2"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


# --- colour ---------------------------------------------------------------------------------------


def forward(rgb: Array) -> Array:
    """RGB to YBR_FULL by the equations of PS3.3 C.7.6.3.1.2, rounded."""
    matrix = np.array(
        [[0.2990, 0.5870, 0.1140], [-0.1687, -0.3313, 0.5000], [0.5000, -0.4187, -0.0813]]
    )
    return np.clip(np.rint(rgb @ matrix.T + [0, 128, 128]), 0, 255).astype("u1")


def forward_partial(rgb: Array) -> Array:
    """RGB to YBR_PARTIAL by the equations of PS3.3 C.7.6.3.1.2, rounded."""
    matrix = np.array(
        [[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]]
    )
    return np.rint(rgb @ matrix.T + [16, 128, 128]).astype("u1")


@pytest.mark.parametrize(
    ("space", "transform", "off"),
    [("YBR_FULL", forward, 2), ("YBR_PARTIAL_420", forward_partial, 3)],
)
@pytest.mark.parametrize("uid", [LITTLE, RLE, JPEG_LS])
def test_luminance_and_chrominance_become_the_rgb_that_they_were(
    tmp_path: Path, space: str, transform: Any, off: int, uid: str
) -> None:
    rgb = colours(16, 12)
    ybr = transform(rgb)
    data = ybr.tobytes() if uid == LITTLE else in_item(encode_frame(ybr, uid, 8))
    facts = {
        "samples_per_pixel": 3,
        "photometric_interpretation": space,
        "bits_allocated": 8,
        "transfer_syntax_uid": uid,
    }
    source = write(tmp_path / "a", data, rows=16, columns=12, **facts)
    # The difference comes from rounding to 8 bits.
    assert np.abs(read_frame(source).astype(int) - rgb).max() <= off
    assert np.array_equal(read_frame(source, colour="stored"), ybr)
    assert np.array_equal(read_rows(source, 3, 7), read_frame(source)[3:7])


@pytest.mark.parametrize(("space", "samples"), [("HSV", 3), ("ARGB", 4), ("CMYK", 4)])
def test_retired_colours_are_no_rgb(tmp_path: Path, space: str, samples: int) -> None:
    values = np.arange(12 * samples, dtype=np.uint8).reshape(3, 4, samples)
    facts = {"samples_per_pixel": samples, "photometric_interpretation": space}
    source = write(tmp_path / "a", values.tobytes(), rows=3, columns=4, bits_allocated=8, **facts)
    for read in (read_frame, lambda each: read_rows(each, 1, 2)):
        with pytest.raises(DecodeError, match=f"{space}, which is not converted to RGB"):
            read(source)
    assert np.array_equal(read_frame(source, colour="stored"), values)


def test_the_chrominance_of_ybr_full_422_belongs_to_two_pixels(tmp_path: Path) -> None:
    data = bytes([10, 20, 100, 150, 30, 40, 90, 160])  # Y Y CB CR, twice
    facts = {
        "samples_per_pixel": 3,
        "photometric_interpretation": "YBR_FULL_422",
        "bits_allocated": 8,
    }
    source = write(tmp_path / "a", data, rows=1, columns=4, **facts)
    expected = [[[10, 100, 150], [20, 100, 150], [30, 90, 160], [40, 90, 160]]]
    assert read_frame(source, colour="stored").tolist() == expected
    gray = write(tmp_path / "b", bytes([10, 20, 128, 128]), rows=1, columns=2, **facts)
    assert read_frame(gray).tolist() == [[[10, 10, 10], [20, 20, 20]]]


@pytest.mark.parametrize("uid", [LITTLE, BIG, DEFLATED])
@pytest.mark.parametrize("planes", [0, 1])
def test_whole_pixels_that_are_only_labelled_as_subsampled_are_read_whole(
    tmp_path: Path, uid: str, planes: int
) -> None:
    def relabel(dataset: pydicom.Dataset, _: int) -> None:
        dataset.PhotometricInterpretation = "YBR_FULL_422"

    facts: dict[str, Any] = {
        "rows": 4,
        "columns": 6,
        "frames": 3,
        "planar_configuration": planes,
        "transfer_syntax": uid,
    }
    frames = read_frames(write_secondary_capture(tmp_path / "a", edit=relabel, **facts))
    for frame, expected in zip(frames, true_rgb(3, 4, 6), strict=True):
        assert frame.byte_length == 72
        assert np.array_equal(read_frame(frame, colour="stored"), expected)
        assert np.array_equal(read_rows(frame, 1, 3, colour="stored"), expected[1:3])


@pytest.mark.parametrize("padding", [0, 2, 22])
def test_subsampled_frames_that_are_followed_by_a_little_padding_stay_subsampled(
    tmp_path: Path, padding: int
) -> None:
    def subsample(dataset: pydicom.Dataset, _: int) -> None:
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        dataset.PixelData = bytes([10, 20, 100, 150] * 12) + bytes(padding)

    frame = read_frames(write_secondary_capture(tmp_path / "a", rows=4, columns=6, edit=subsample))[
        0
    ]
    assert frame.byte_length == 48
    assert read_frame(frame, colour="stored")[1, 2:4].tolist() == [[10, 100, 150], [20, 100, 150]]


def test_a_cut_file_of_whole_pixels_is_not_taken_for_a_subsampled_one(tmp_path: Path) -> None:
    def relabel(dataset: pydicom.Dataset, _: int) -> None:
        dataset.PhotometricInterpretation = "YBR_FULL_422"

    path = write_secondary_capture(tmp_path / "a", rows=4, columns=6, edit=relabel)
    path.write_bytes(path.read_bytes()[:-24])
    with pytest.raises(HeaderError, match="72 bytes of pixel data, found 48") as caught:
        read_frames(path)
    assert caught.value.reason == "truncated"


def test_jpeg_components_are_not_converted_where_the_header_says_rgb(tmp_path: Path) -> None:
    rgb = np.full((16, 16, 3), (200, 30, 90), "u1")
    stream = imagecodecs.jpeg8_encode(rgb, level=100, colorspace="RGB", outcolorspace="RGB")
    facts = {
        "samples_per_pixel": 3,
        "bits_allocated": 8,
        "rows": 16,
        "columns": 16,
        "transfer_syntax_uid": JPEG,
    }
    # The codestream's component names R, G, B override the header (PS3.5 8.2.1).
    for space in (
        "RGB",
        "YBR_FULL_422",
    ):
        source = write(tmp_path / "a", in_item(stream), photometric_interpretation=space, **facts)
        assert np.abs(read_frame(source).astype(int) - rgb).max() <= 2


def test_jpeg_with_a_jfif_marker_is_converted_whatever_the_header_says(tmp_path: Path) -> None:
    rgb = np.full((16, 16, 3), (200, 30, 90), "u1")
    stream = imagecodecs.jpeg8_encode(rgb, level=100)
    assert b"JFIF" in stream[:20]
    facts = {
        "samples_per_pixel": 3,
        "bits_allocated": 8,
        "rows": 16,
        "columns": 16,
        "transfer_syntax_uid": JPEG,
    }
    for space in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        source = write(tmp_path / "a", in_item(stream), photometric_interpretation=space, **facts)
        assert np.abs(read_frame(source).astype(int) - rgb).max() <= 3
        assert np.abs(read_frame(source, colour="stored").astype(int) - forward(rgb)).max() <= 2


@pytest.mark.parametrize("space", ["YBR_RCT", "RGB"])
def test_jpeg_2000_colours_come_as_rgb(tmp_path: Path, space: str) -> None:
    rgb = colours(24, 31)
    stream = imagecodecs.jpeg2k_encode(
        rgb, reversible=True, codecformat="j2k", mct=space == "YBR_RCT"
    )
    facts = {
        "samples_per_pixel": 3,
        "bits_allocated": 8,
        "photometric_interpretation": space,
        "transfer_syntax_uid": J2K,
    }
    assert np.array_equal(
        read_frame(write(tmp_path / "a", in_item(stream), rows=24, columns=31, **facts)), rgb
    )


@pytest.mark.filterwarnings("ignore")
def test_palette_indices_become_the_colours_of_their_file() -> None:
    from pydicom.pixels.processing import apply_color_lut

    path = PYDICOM_FILES / "examples_palette.dcm"
    frame = read_frames(path)[0]
    indices = read_frame(frame)
    assert indices.ndim == 2
    dataset = pydicom.dcmread(path)
    assert np.array_equal(
        palette(path)(indices), apply_color_lut(dataset.pixel_array, dataset)[..., :3]
    )


@pytest.mark.filterwarnings("ignore")
def test_a_file_without_a_palette_is_a_typed_error() -> None:
    with pytest.raises(PixelError):
        palette(PYDICOM_FILES / "MR_small.dcm")


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [LITTLE, BIG])
def test_rows_of_a_native_frame_need_only_their_own_bytes(tmp_path: Path, uid: str) -> None:
    image = ramp(20, 9, "i2", -30)
    data = image.astype(">i2" if uid == BIG else "<i2").tobytes()
    source = write(
        tmp_path / "a",
        data[: 12 * 18],
        rows=20,
        columns=9,
        pixel_representation=1,
        byte_length=360,
        transfer_syntax_uid=uid,
    )
    out = np.empty((7, 9), "i2")
    assert read_rows(source, 5, 12, out) is out
    assert np.array_equal(out, image[5:12])
    assert read_rows(source, 4, 4).shape == (0, 9)
    with pytest.raises(TruncatedPixels):
        read_frame(source)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 9)])
def test_rows_outside_of_the_frame_are_refused(tmp_path: Path, start: int, stop: int) -> None:
    with pytest.raises(UsageError):
        read_rows(write(tmp_path / "a", bytes(128)), start, stop)


def test_only_transfer_syntaxes_whose_samples_lie_in_the_file_are_native() -> None:
    assert [
        uid for uid in (LITTLE, IMPLICIT, BIG, GE, DEFLATED, RLE, J2K, "") if is_native(uid)
    ] == [LITTLE, IMPLICIT, BIG, GE]


# --- tiles of a mosaic ----------------------------------------------------------------------------


def tiles_of(path: Path, syntax: str = "1.2.840.10008.1.2.1", **options: Any) -> list[FrameSource]:
    return [
        frame.source
        for frame in read_frames(
            phantoms_multi.write_mosaic(path, transfer_syntax=syntax, **options)
        )
    ]


@pytest.mark.parametrize(
    "syntax", [*phantoms.NATIVE_SYNTAXES, RLE, "1.2.840.10008.1.2.4.80"], ids=str
)
@pytest.mark.parametrize("bits", [8, 16])
def test_tiles_are_cut_out_of_their_mosaic(tmp_path: Path, syntax: str, bits: int) -> None:
    shape = (5, 6, 8) if bits == 16 else (4, 6, 8)
    tiles = tiles_of(
        tmp_path / "m.dcm", syntax, shape=shape, bits_allocated=bits, bits_stored=min(bits, 12)
    )
    truth = phantoms.ramp(shape)
    for tile, expected in zip(tiles, truth, strict=True):
        assert frame_shape(tile) == (6, 8)
        out = np.full((6, 8), 99, stored_dtype(tile))
        assert read_frame(tile, out=out) is out
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(read_rows(tile, 2, 5), expected[2:5])
    together = np.empty(shape, stored_dtype(tiles[0]))
    assert read_tiles(tiles[::-1], together) is together
    np.testing.assert_array_equal(together, truth[::-1])


def test_signed_tiles_of_12_bits_are_sign_extended(tmp_path: Path) -> None:
    def edit(dataset: pydicom.Dataset, _: int) -> None:
        dataset.PixelRepresentation = 1
        dataset.PixelData = (
            (np.frombuffer(dataset.PixelData, "<u2") | 0x0800).astype("<u2").tobytes()
        )

    tiles = tiles_of(tmp_path / "m.dcm", edit=edit)
    np.testing.assert_array_equal(
        read_frame(tiles[2]), (phantoms.ramp((7, 6, 8))[2] | 0x800) - 0x1000
    )


@pytest.mark.parametrize("syntax", [RLE, "1.2.840.10008.1.2.1.99"])
def test_a_compressed_mosaic_is_decoded_once_for_all_its_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str
) -> None:
    tiles, calls = tiles_of(tmp_path / "m.dcm", syntax), []
    original = tiles_module.read_whole
    monkeypatch.setattr(
        tiles_module, "read_whole", lambda *arguments: (calls.append(1), original(*arguments))[1]
    )
    for tile in tiles:
        read_frame(tile)
    assert len(calls) == 1


def test_a_native_tile_needs_only_the_rows_that_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, read = tiles_of(tmp_path / "m.dcm"), []
    original = handles_module.read_into
    monkeypatch.setattr(
        handles_module,
        "read_into",
        lambda fd, buffer, offset: (read.append(buffer.nbytes), original(fd, buffer, offset))[1],
    )
    for tile in tiles[:3]:
        read_frame(tile)
    assert read == [6 * 24 * 2]


def test_a_mosaic_that_changed_is_refused_though_its_tiles_are_kept(tmp_path: Path) -> None:
    tiles = tiles_of(tmp_path / "m.dcm")
    read_frame(tiles[0])
    os.utime(tiles[0].path, ns=(1, 1))
    with pytest.raises(FileChanged):
        read_frame(tiles[1])
    with pytest.raises(FileChanged):
        read_tiles(tiles, np.empty((7, 6, 8), np.uint16))
    os.unlink(tiles[0].path)
    with pytest.raises(FileChanged):
        read_frame(tiles[1])


def test_what_a_reader_does_to_a_tile_changes_no_other(tmp_path: Path) -> None:
    tiles = tiles_of(tmp_path / "m.dcm", RLE)
    read_frame(tiles[0])[...] = 0
    np.testing.assert_array_equal(read_frame(tiles[0]), phantoms.ramp((7, 6, 8))[0])


def test_kept_bands_are_no_more_than_fit_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_MEMORY", "64KiB")
    for number in range(9):
        tiles = tiles_of(tmp_path / f"{number}.dcm", RLE)
        np.testing.assert_array_equal(read_frame(tiles[1]), phantoms.ramp((7, 6, 8))[1])
    assert 1 < len(tiles_module._bands) < 9


@pytest.mark.parametrize("place", [{"tile_top": 13}, {"tile_left": 17}, {"tile_left": -1}])
def test_a_tile_outside_of_its_mosaic_is_a_typed_error(
    tmp_path: Path, place: dict[str, int]
) -> None:
    tile = dataclasses.replace(tiles_of(tmp_path / "m.dcm")[0], **place)
    with pytest.raises(DecodeError):
        read_frame(tile)
    with pytest.raises(DecodeError):
        read_tiles([tile], np.empty((1, 6, 8), np.uint16))


def test_tiles_of_one_mosaic_are_known_from_those_of_another(tmp_path: Path) -> None:
    one, other = tiles_of(tmp_path / "1.dcm"), tiles_of(tmp_path / "2.dcm")
    assert same_mosaic(one[0], one[6])
    assert not same_mosaic(one[0], other[0])
    whole = dataclasses.replace(one[0], coded_rows=0, coded_columns=0)
    assert not same_mosaic(whole, whole)


def test_tiles_of_several_mosaics_are_read_by_threads(tmp_path: Path) -> None:
    tiles = [
        tile
        for number in range(6)
        for tile in tiles_of(
            tmp_path / f"{number}.dcm", RLE if number % 2 else phantoms.NATIVE_SYNTAXES[0]
        )
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read_frame, tiles * 5))
    for values, expected in zip(found, itertools.cycle(phantoms.ramp((7, 6, 8))), strict=False):
        np.testing.assert_array_equal(values, expected)

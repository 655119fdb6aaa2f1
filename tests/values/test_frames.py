"""The public read_frame: of an index or a file, in stored or modality values."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import (
    ramp,
    write_multiframe,
    write_secondary_capture,
    write_series,
    write_structured_report,
)
from phantoms_multi import write_mosaic
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

import dicomdl
from dicomdl.errors import HeaderError, UsageError


def test_a_file_is_read_by_its_path(folder: Path) -> None:
    (path,) = write_series(folder, shape=(1, 5, 7), intercept=-1024)
    for given in (path, str(path)):
        assert np.array_equal(dicomdl.read_frame(given), ramp((1, 5, 7))[0])
    out = np.empty((5, 7), np.uint16)
    assert dicomdl.read_frame(path, out) is out and np.array_equal(out, ramp((1, 5, 7))[0])
    assert dicomdl.read_frame(path, reduce=1).shape == (3, 4)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_modality_values_are_those_of_the_volume(folder: Path, syntax: Any) -> None:
    options = {} if syntax is None else {"transfer_syntax": syntax}
    write_series(folder, shape=(3, 16, 17), slope=[1, 2, 0.5], intercept=[-1024, 0, 7], **options)
    (stack,) = index_of(folder).stacks
    volume = dicomdl.read_volume(stack)
    for number, frame in enumerate(stack.frames):
        for given in (frame, frame.path):
            values = dicomdl.read_frame(given, values="modality")
            assert np.array_equal(values, volume.array[number])
        assert np.array_equal(dicomdl.read_frame(frame), dicomdl.read_frame(frame.source))
    kinds = [dicomdl.read_frame(frame, values="modality").dtype for frame in stack.frames]
    assert kinds == [np.int16, np.int16, np.float32]


def test_a_multi_frame_file_needs_the_number_of_the_frame(folder: Path) -> None:
    path = write_multiframe(folder / "m.dcm", shape=(4, 5, 7), intercept=[0, 10, 20, 30])
    (stack,) = index_of(folder).stacks
    for frame in stack.frames:
        for values in ("stored", "modality"):
            read = dicomdl.read_frame(path, frame_number=frame.frame_number, values=values)
            assert np.array_equal(read, dicomdl.read_frame(frame, values=values))
    for wrong in (None, 0, 5, "1", 1.0):
        with pytest.raises(UsageError, match="has 4 frames: pass frame_number=1 to 4"):
            dicomdl.read_frame(path, frame_number=wrong)  # type: ignore[arg-type]
    assert dicomdl.read_frame(path, frame_number=np.int64(2)).shape == (5, 7)


def test_a_tile_of_a_mosaic_is_a_frame(folder: Path) -> None:
    write_mosaic(folder / "m.dcm")
    (stack,) = index_of(folder).stacks
    tiles = [
        dicomdl.read_frame(folder / "m.dcm", frame_number=number + 1)
        for number in range(stack.slices)
    ]
    assert {tile.tobytes() for tile in tiles} == {
        dicomdl.read_frame(frame).tobytes() for frame in stack.frames
    }


def test_colour_stays_colour(folder: Path) -> None:
    path = write_secondary_capture(folder / "c.dcm")
    values = dicomdl.read_frame(path, values="modality")
    assert values.dtype == np.uint8 and np.array_equal(values, dicomdl.read_frame(path))


def test_what_is_no_frame_says_what_to_do(folder: Path) -> None:
    write_series(folder / "a", shape=(1, 5, 7))
    index = index_of(folder)
    (folder / "notes.dcm").write_text("no DICOM")
    write_structured_report(folder / "sr.dcm")
    for given, words in {
        folder: "is a folder: read_volume",
        index: r"index\.frame\(0\).*not a Index",
        3: "not a int",
        None: "not a NoneType",
    }.items():
        with pytest.raises(UsageError, match=words):
            dicomdl.read_frame(given)  # type: ignore[arg-type]
    for name, reason in {
        "notes.dcm": "not_dicom",
        "sr.dcm": "no_image",
        "no": "unreadable",
    }.items():
        with pytest.raises(HeaderError) as caught:
            dicomdl.read_frame(folder / name)
        assert caught.value.reason == reason
    frame = index.frame(0)
    for options, words in (
        ({"frame_number": 1}, "a Frame is one already"),
        ({"values": "suv"}, r"read_volume\(stack"),
        ({"values": "hu"}, "expected"),
        ({"values": "modality", "out": np.empty((5, 7), np.int16)}, "out="),
    ):
        with pytest.raises(UsageError, match=words):
            dicomdl.read_frame(frame, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a Frame"):
        dicomdl.read_frame(index.source(0), values="modality")


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_are_read_as_their_file_is(folder: Path, wrap: Any) -> None:
    (path,) = write_series(folder, shape=(1, 5, 7), intercept=-1024)
    expected = dicomdl.read_frame(path, values="modality")
    data = path.read_bytes()
    assert np.array_equal(dicomdl.read_frame(wrap(data), values="modality"), expected)
    with path.open("rb") as file:
        assert np.array_equal(dicomdl.read_frame(file), dicomdl.read_frame(path))


def test_frames_of_bytes_have_numbers_and_two_files_are_never_mixed(folder: Path) -> None:
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        path = write_multiframe(folder / f"{syntax}.dcm", shape=(4, 5, 7), transfer_syntax=syntax)
        other = write_multiframe(
            folder / f"{syntax}-2.dcm", shape=(4, 5, 7), transfer_syntax=syntax, offset=1
        )
        for number in (4, 1):
            for each in (path, other):
                read = dicomdl.read_frame(each.read_bytes(), frame_number=number)
                assert np.array_equal(read, dicomdl.read_frame(each, frame_number=number))


@pytest.mark.parametrize("data", [b"", b"no DICOM", bytes(200)])
def test_bytes_that_are_no_dicom_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(HeaderError):
        dicomdl.read_frame(data)
    with pytest.raises(UsageError, match="its bytes"):
        dicomdl.read_frame(io.StringIO("text"))  # type: ignore[arg-type]

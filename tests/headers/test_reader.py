"""reader: headers agree with pydicom in every attribute and byte, and damage gives a problem."""

import dataclasses
import io
import os
import random
import re
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pydicom
import pydicom.data
import pytest
from conftest import CORPUS
from mutations import mutant, phantom_seeds, seeds
from phantoms import element
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, BreastTomosynthesisImageStorage

from dicomdl.errors import FileChanged, HeaderError, PixelError, UsageError
from dicomdl.headers._elements import Wanted, walk
from dicomdl.headers._heads import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    SEQUENCE_END,
    UNDEFINED,
    Step,
    Syntax,
)
from dicomdl.headers._window import Window
from dicomdl.headers.attribute import Attribute
from dicomdl.headers.columns import Constant, converter
from dicomdl.headers.frame import DIFFUSION_DIRECTION, MR_DIFFUSION, Frame, attributes
from dicomdl.headers.header import Header
from dicomdl.headers.limits import ReadLimits
from dicomdl.headers.privacy import extra_attributes
from dicomdl.headers.reader import HeaderReader, read_frames, unforeseen, unread
from dicomdl.headers.uids import DEFLATED, EXPLICIT_BIG
from dicomdl.storage.sources import Source

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"

B_VALUE = next(attribute for attribute in attributes() if attribute.name == "siemens_b_value")
# Known differences between walk and pydicom, (end of the path, column or "*"), with the reason.
KNOWN_DIFFERENCES: dict[tuple[str, str], str] = {
    (
        f"liver_{kind}1frame.dcm",
        column,
    ): "three functional groups for one frame, which cannot be assigned"
    for kind in ("", "expb_")
    for column in ("dimension_index_values", "image_position_patient")
}
HAVE_IMAGES = ("test_files", "neurolabusc+dcm_qa_ct", "icometrix+dicom2nifti", "pydicom+pydicom")


def folders() -> list[Any]:
    found = [pytest.param(PYDICOM_FILES, id="pydicom's own files")]
    if CORPUS.is_dir():
        found += [
            pytest.param(folder, id=folder.name, marks=pytest.mark.corpus)
            for folder in sorted(CORPUS.iterdir())
            if folder.is_dir()
        ]
    else:
        found.append(
            pytest.param(
                CORPUS,
                id="corpus",
                marks=pytest.mark.skip(reason="there is no corpus: set DICOMDL_CORPUS"),
            )
        )
    return found


def dicom_files(folder: Path) -> list[Path]:
    """All files in the folder, in order; another test notices images that the reader refuses."""
    return [Path(root) / name for root, _, names in os.walk(folder) for name in sorted(names)]


def read_with_pydicom(path: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, force=True)


COUNTED = {attribute.inside for attribute in attributes() if attribute.counts}


# --- the second opinion: the values of attributes by pydicom --------------------------------------


def pydicom_value(dataset: Dataset, attribute: Attribute, number: int) -> Any:
    """The value of frame `number` (from 0) as `Frame` would type it."""
    if attribute.counts:
        items = dataset.get(attribute.inside)
        different: list[Dataset] = []
        for item in items.value if items is not None else ():
            if len(item) and item not in different:
                different.append(item)
        return len(different) if items is not None and items.value else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            element = _element(dataset, attribute, number)
            value = None if element is None else element.value
        except (ValueError, KeyError, OverflowError, TypeError, NotImplementedError):
            # The text is not a value of its VR.
            value = None
    if attribute.per_frame:
        frames = int(dataset.get("NumberOfFrames") or 1)
        values = _as_list(value)
        value = values[number] if len(values) == frames else None
    return _typed(attribute, value)


def _element(dataset: Dataset, attribute: Attribute, number: int) -> Any:
    if attribute.tag == 0x00020010:
        return dataset.file_meta.get(attribute.tag) if hasattr(dataset, "file_meta") else None
    if attribute.inside:
        items = dataset.get(attribute.inside)
        if items is None or not items.value:
            return None
        found = [item.get(attribute.tag) for item in items.value if len(item)]
        # Counted items have the values on which all of them agree.
        agree = attribute.inside not in COUNTED or all(each == found[0] for each in found)
        return found[0] if found and agree else None
    if attribute.creator:
        found = _in_block(dataset, attribute.tag, attribute.creator)
        return _in_philips_item(dataset, attribute, number) if found is None else found
    for sequence, item_number in ((0x52009230, number), (0x52009229, 0)):
        if attribute.groups and sequence in dataset and len(dataset[sequence].value) > item_number:
            element = _in_functional_groups(dataset[sequence].value[item_number], attribute)
            if element is not None:
                return element
    return dataset.get(attribute.tag)


def _in_block(dataset: Dataset, tag: int, creator: str) -> Any:
    try:
        block = dataset.private_block(tag >> 16, creator)
    except KeyError:
        return None
    # A block has no get.
    return block[tag & 0xFF] if tag & 0xFF in block else None  # noqa: SIM401


def _in_philips_item(dataset: Dataset, attribute: Attribute, number: int) -> Any:
    """The element of Philips' item per frame; a direction of zeros is none."""
    groups = dataset.get(0x52009230)
    if "philips" not in attribute.name or groups is None or len(groups.value) <= number:
        return None
    items = _in_block(groups.value[number], 0x2005000F, "Philips MR Imaging DD 005")
    if items is None:
        return None
    if "_diffusion_direction_" in attribute.name:
        axes = (_in_block(items.value[0], 0x200500B0 + i, attribute.creator) for i in range(3))
        if not any(axis is not None and axis.value for axis in axes):
            return None
    return _in_block(items.value[0], attribute.tag, attribute.creator)


def _in_functional_groups(item: Dataset, attribute: Attribute) -> Any:
    for group in attribute.groups:
        outer = [item]
        if group == DIFFUSION_DIRECTION:
            outer = list(item[MR_DIFFUSION].value) if MR_DIFFUSION in item else []
        for dataset in outer:
            if group in dataset and dataset[group].value:
                element = dataset[group].value[0].get(attribute.group_tag or attribute.tag)
                if element is not None:
                    return element
    return None


def _as_list(value: Any) -> list[Any]:
    if value is None or value == "" or value == b"":
        return []
    return list(value) if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]


def _typed(attribute: Attribute, value: Any) -> Any:
    if attribute.kind == "flag":
        return value is not None and len(value) > 0
    values = _as_list(value)
    if attribute.kind == "text":
        return "\\".join(v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in values)
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        return None
    if not numbers or not np.isfinite(numbers).all():
        return None
    if attribute.kind == "reals":
        return tuple(numbers) if attribute.size in (0, len(numbers)) else None
    if attribute.kind == "integer":
        return int(numbers[0]) if numbers[0].is_integer() else None
    return numbers[0]


def _comparable(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip(" \0") for part in value.split("\\")]
    return value


def _with_defaults(frame: Frame, attribute: Attribute, expected: Any) -> Any:
    """The defaults of absent values (`samples_per_pixel` 1, ...), and the sign of padding."""
    if attribute.name == "transfer_syntax_uid" and not expected:
        # Without meta information, the syntax follows from the first element.
        return frame.transfer_syntax_uid
    if (
        attribute.name in ("pixel_padding_value", "pixel_padding_range_limit")
        and expected is not None
    ):
        stored = expected & 0xFFFF
        return stored - 0x10000 if frame.pixel_representation == 1 and stored >= 0x8000 else stored
    if expected is None:
        defaults = {
            "samples_per_pixel": 1,
            "planar_configuration": 0,
            "pixel_representation": 0,
            "number_of_frames": 1,
        }
        defaults |= {"bits_stored": frame.bits_allocated, "high_bit": frame.bits_stored - 1}
        return defaults.get(attribute.name)
    # What is no date or time may be a name, and is not kept: "***" of a de-identifier.
    is_time = attribute.vr in ("DA", "DT", "TM") and isinstance(expected, str)
    return (
        "" if is_time and not re.fullmatch(r"[0-9.:+\-/ \\]*", expected.strip("\0")) else expected
    )


def _known(path: Path, column: str) -> bool:
    return any(
        path.as_posix().endswith(end) and name in ("*", column) for end, name in KNOWN_DIFFERENCES
    )


def attribute_differences(frames: list[Frame], dataset: Dataset) -> set[str]:
    """The columns in which some frame differs from pydicom."""
    different = set()
    for attribute in attributes():
        varies = bool(attribute.groups) or attribute.per_frame or "philips" in attribute.name
        of_file = None if varies else pydicom_value(dataset, attribute, 0)
        for number, frame in enumerate(frames):
            expected = pydicom_value(dataset, attribute, number) if varies else of_file
            if _comparable(getattr(frame, attribute.name)) != _comparable(
                _with_defaults(frame, attribute, expected)
            ):
                different.add(attribute.name)
    return different


# --- the second opinion: the bytes of a frame by pydicom ------------------------------------------


def byte_differences(frames: list[Frame], dataset: Dataset, content: bytes) -> set[str]:
    """{"bytes"} if the byte range of some frame does not contain the bytes that pydicom reads."""
    keyword = next(
        name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in dataset
    )
    pixels = dataset[keyword].value
    if frames[0].deflated:
        content = zlib.decompress(content[pydicom_end_of_meta(content) :], -zlib.MAX_WBITS)
    if UID(frames[0].transfer_syntax_uid).is_encapsulated:
        table = dataset.get("ExtendedOffsetTable")
        offsets = (table, dataset.ExtendedOffsetTableLengths) if table else None
        expected: list[bytes] = list(
            generate_frames(pixels, number_of_frames=len(frames), extended_offsets=offsets)
        )
        found = [
            fragments_joined(content[f.byte_offset : f.byte_offset + f.byte_length]) for f in frames
        ]
    else:
        bits = native_frame_bits(frames[0], len(pixels), len(frames))
        expected = [pixels[n * bits // 8 : (n * bits + bits + 7) // 8] for n in range(len(frames))]
        found = [content[f.byte_offset : f.byte_offset + f.byte_length] for f in frames]
        if [f.bit_offset for f in frames] != [n * bits % 8 for n in range(len(frames))]:
            return {"bytes"}
    return set() if found == expected else {"bytes"}


def native_frame_bits(frame: Frame, length: int, frames: int) -> int:
    """Bits per frame.

    Chrominance of YBR_FULL_422 is subsampled to 2 samples per pixel (PS3.3 C.7.6.3.1.2), if the
    length agrees.
    """
    samples = frame.samples_per_pixel
    whole = frame.rows * frame.columns * samples * frame.bits_allocated
    if "422" in frame.photometric_interpretation and length * 8 < whole * frames:
        return whole // 3 * 2
    return whole


def fragments_joined(raw: bytes) -> bytes:
    joined, position = b"", 0
    while position < len(raw):
        tag, length = struct.unpack_from("<II", raw, position)
        assert tag == 0xE000FFFE
        joined += raw[position + 8 : position + 8 + length]
        position += 8 + length
    return joined


def pydicom_end_of_meta(content: bytes) -> int:
    with io.BytesIO(content) as file:
        pydicom.filereader.read_preamble(file, force=True)
        pydicom.filereader._read_file_meta_info(file)
        return file.tell()


COLUMNS_OF_GE = ("ge_b_value", *(f"ge_diffusion_direction_{axis}" for axis in "xyz"))


def creators(dataset: Dataset, group: int) -> set[str]:
    """The private creators of a group."""
    return {
        str(dataset[group, block].value)
        for block in range(0x10, 0x100)
        if (group, block) in dataset
    }


def as_coded(frames: list[Frame], dataset: Dataset) -> list[Frame]:
    """The frames as they are coded; `test_mosaic` tests mosaics and CSA headers."""
    if "ep_b" in frames[0].sequence_name and not pydicom_value(dataset, B_VALUE, 0):
        frames = [
            dataclasses.replace(frame, siemens_b_value=None, siemens_diffusion_direction=None)
            for frame in frames
        ]
    if "GEMS_PARM_01" not in creators(dataset, 0x0043):
        # `test_nifti` tests elements of GE without their creator.
        absent: dict[str, Any] = dict.fromkeys(COLUMNS_OF_GE)
        frames = [dataclasses.replace(frame, **absent) for frame in frames]
    if not frames[0].coded_rows:
        return frames
    position = tuple(map(float, dataset.get("ImagePositionPatient") or ())) or None
    whole = {
        "rows": frames[0].coded_rows,
        "columns": frames[0].coded_columns,
        "image_position_patient": position,
    }
    return [dataclasses.replace(frames[0], **whole)]


@pytest.mark.parametrize("folder", folders())
def test_the_walk_and_pydicom_agree_on_every_attribute_and_every_byte_of_every_frame(
    folder: Path,
) -> None:
    differences, compared = set(), 0
    reader = HeaderReader()
    for path in dicom_files(folder):
        if reader.read(str(path)).kind != "image":
            continue
        dataset = read_with_pydicom(path)
        frames = as_coded(read_frames(path), dataset)
        found = attribute_differences(frames, dataset) | byte_differences(
            frames, dataset, path.read_bytes()
        )
        differences |= {
            f"{path.relative_to(folder).as_posix()}: {name}"
            for name in found
            if not _known(path, name)
        }
        compared += len(frames)
    assert not differences, "\n".join(sorted(differences))
    assert compared or folder.name not in HAVE_IMAGES


# --- every value of the table, in every coding ----------------------------------------------------


def example_value(attribute: Attribute, frames: int) -> Any:
    """An example of the VR and the number of values of the attribute."""
    count = frames if attribute.per_frame else max(1, attribute.size)
    texts = {
        "DA": "20200102",
        "TM": "101112.5",
        "DT": "20200102101112",
        "AS": "042Y",
        "UI": "1.2.3.4",
    }
    if attribute.vr in ("IS", "US", "SS", "UL", "XS"):
        values: list[Any] = [3 + i for i in range(count)]
    elif attribute.vr in ("DS", "FD", "FL"):
        values = [0.25 + i for i in range(count)]
    else:
        values = [texts.get(attribute.vr, "TEXT")] * (2 if attribute.size == 0 else 1)
    return values if len(values) > 1 else values[0]


def with_every_attribute(dataset: Dataset, frames: int) -> None:
    """Set each attribute that does not describe pixels, in its functional group if it has one."""
    shared, first = Dataset(), Dataset()
    for attribute in attributes():
        if attribute.need == "pixels" or attribute.vr == "SQ" or attribute.tag == 0x00020010:
            continue
        value = example_value(attribute, frames)
        vr = "US" if attribute.vr == "XS" else attribute.vr
        if attribute.creator:
            dataset.private_block(attribute.tag >> 16, attribute.creator, create=True).add_new(
                attribute.tag & 0xFF, vr, value
            )
        elif attribute.inside:
            inner = dataset[attribute.inside].value[0] if attribute.inside in dataset else Dataset()
            inner.add_new(attribute.tag, vr, value)
            dataset.add_new(attribute.inside, "SQ", [inner])
        elif attribute.groups:
            _add_to_group(first if attribute.need == "split" else shared, attribute, vr, value)
        else:
            dataset.add_new(attribute.tag, vr, value)
    dataset.add_new(0x52009229, "SQ", [shared])
    dataset.add_new(0x52009230, "SQ", [first] + [Dataset() for _ in range(frames - 1)])


def _add_to_group(item: Dataset, attribute: Attribute, vr: str, value: Any) -> None:
    for group in attribute.groups[:-1] if attribute.groups[0] == MR_DIFFUSION else ():
        if group not in item:
            item.add_new(group, "SQ", [Dataset()])
        item = item[group].value[0]
    group = attribute.groups[-1]
    if group not in item:
        item.add_new(group, "SQ", [Dataset()])
    item[group].value[0].add_new(attribute.group_tag or attribute.tag, vr, value)


@pytest.mark.parametrize("delimited", [False, True], ids=["given lengths", "undefined lengths"])
@pytest.mark.parametrize("syntax", phantoms.NATIVE_SYNTAXES, ids=lambda syntax: syntax.name)
def test_every_attribute_of_the_table_is_found_where_the_standard_puts_it(
    syntax: UID, delimited: bool, tmp_path: Path
) -> None:
    written = []

    def edit(dataset: Dataset, _: int) -> None:
        with_every_attribute(dataset, 3)
        for sequence in dataset.iterall() if delimited else ():
            if sequence.VR == "SQ":
                sequence.is_undefined_length = True
                for item in sequence.value:
                    item.is_undefined_length_sequence_item = True
        written.append(dataset)

    path = phantoms.write_secondary_capture(
        tmp_path / "a.dcm", frames=3, transfer_syntax=syntax, edit=edit
    )
    frames = read_frames(path)
    assert len(frames) == 3
    assert attribute_differences(frames, written[0]) == set()
    assert byte_differences(frames, read_with_pydicom(path), path.read_bytes()) == set()
    for attribute in attributes():
        if attribute.need != "pixels" and attribute.vr != "SQ":
            assert getattr(frames[0], attribute.name) not in (None, ""), attribute.name


# --- damage: any bytes give a Header, never an exception ------------------------------------------


def check_mutants(folder: Path, random_seed: int, count: int) -> None:
    """Assert that mutants give a header, and the same one whatever was read before."""
    # pytest shows the seed when the test fails.
    print(f"DICOMDL_FUZZ_SEED={random_seed}")
    rng = random.Random(random_seed)
    originals = seeds(folder)
    learned, walking = HeaderReader(), HeaderReader()
    walking._layouts.CAPACITY = 0  # type: ignore[misc]
    for number in range(count):
        original = rng.choice(originals)
        # The good file, whose layout is learned, then damaged ones that resemble it.
        parse(original.file(original.content), learned)
        for raw in (mutant(rng, [original]), mutant(rng, [original]), mutant(rng, originals)):
            header = parse(raw, learned)
            assert header.kind in ("image", "no_image", "not_dicom", "problem"), number
            assert (header.kind == "problem") == bool(header.reason and header.detail), number
            assert header.reason != "reader_error", header.detail
            assert parse(raw, walking) == header, number
            if header.kind == "image":
                assert_sound(header, raw, learned)


def test_150_damaged_files_each_give_a_header_and_nothing_else(tmp_path: Path) -> None:
    check_mutants(tmp_path, 20261129, 50)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_6000_damaged_files_each_give_a_header_and_nothing_else(tmp_path: Path) -> None:
    random_seed = int(os.environ.get("DICOMDL_FUZZ_SEED", "20261122"))
    check_mutants(tmp_path, random_seed, int(os.environ.get("DICOMDL_FUZZ_COUNT", "6000")) // 3)


def test_long_texts_are_cut(tmp_path: Path) -> None:
    lengths = {"a": 1000, "b": 2000, "c": 30_000}

    def edit(dataset: Dataset, z: int) -> None:
        dataset.SeriesDescription = "A" * lengths["abc"[z]]
        dataset.VOILUTSequence = [Dataset() for _ in range(200)]

    paths = phantoms.write_series(tmp_path, shape=(3, 5, 7), edit=edit)
    reader = HeaderReader()
    rows = [row for path in paths for row in reader.read(str(path)).rows]
    columns = reader.convert(rows)
    described = columns["series_description"]
    assert isinstance(described, list)
    assert [len(value) for value in described] == [1000, 2000, 2**14]
    assert columns["voi_lut_sequence"] == Constant(True, 3)
    assert reader.convert(rows[2:])["series_description"] == Constant("A" * 2**14, 1)


@pytest.mark.parametrize("vr", [b"UN", b"SQ", b"OB", b""], ids=lambda vr: vr.decode() or "no VR")
@pytest.mark.parametrize("items", [b"", element(ITEM, b"")], ids=["empty", "one item"])
def test_an_element_of_undefined_length_names_no_private_creator(
    tmp_path: Path, vr: bytes, items: bytes
) -> None:
    implicit = "" if vr else "1.2.840.10008.1.2"
    (path,) = phantoms.write_series(
        tmp_path, shape=(1, 5, 7), transfer_syntax=implicit or "1.2.840.10008.1.2.1"
    )
    raw = path.read_bytes()
    at = raw.index(struct.pack("<HH", 0x0010, 0x0010))
    value = items + element(SEQUENCE_END, b"")
    odd = raw[:at] + element(0x00090010, vr, value, length=UNDEFINED) + raw[at:]
    reader = HeaderReader()
    # In every order: an odd file after a good one, after itself, and a good one after it.
    headers = [parse(content, reader) for content in (odd, raw, odd, odd, raw)]
    assert [header.kind for header in headers] == ["image"] * 5
    assert {header.rows[0] for header in headers} == {headers[1].rows[0]}
    shift = len(odd) - len(raw)
    offsets = [
        header.places[0].byte_offset - headers[1].places[0].byte_offset for header in headers
    ]
    assert offsets == [shift, 0, shift, shift, 0]


class _Fault(Exception):
    pass


def test_a_fault_of_the_reader_is_a_problem_that_quotes_no_value() -> None:
    def fault(row: object) -> object:
        raise _Fault("RAMP^PHANTOM")

    reader = HeaderReader()
    good = native()
    expected = parse(good, reader)
    assert expected.kind == "image"
    usual, reader._schema.vectors_of = reader._schema.vectors_of, fault
    header = parse(good, reader)
    assert (header.kind, header.reason) == ("problem", "reader_error")
    assert "_Fault in test_reader.py, line " in header.detail and "RAMP" not in header.detail
    reader._schema.vectors_of = usual
    assert parse(good, reader) == expected


def test_a_fault_is_named_by_its_class_and_the_line_that_raised_it() -> None:
    """The module of a class is told unless it is that of Python's own errors."""
    for raised, name in (
        (ValueError("a value"), "ValueError"),
        (zlib.error("a value"), "zlib.error"),
        (HeaderError("a value"), "dicomdl.errors.HeaderError"),
    ):
        try:
            raise raised
        except Exception as error:
            header = unforeseen(error)
        assert (header.kind, header.reason) == ("problem", "reader_error")
        assert header.detail.startswith(f"the header reader failed with {name} in test_reader.py")
        assert "a value" not in header.detail


def test_a_file_or_member_that_is_not_read_is_a_problem_with_its_reason() -> None:
    assert unread(OSError(5, "Input/output error")) == Header(
        "problem", "unreadable", "cannot be opened: Input/output error"
    )
    assert unread(FileChanged("the file has changed")) == Header(
        "problem", "unreadable", "cannot be opened: the file has changed"
    )
    refused = PixelError("the member is encrypted", reason="encrypted_member")
    assert unread(refused) == Header("problem", "encrypted_member", "the member is encrypted")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.dcm", Header("problem", "empty", "the file has 0 bytes")),
        ("notes.txt", Header("not_dicom")),
    ],
)
def test_an_empty_file_is_a_problem_where_its_name_is_that_of_dicom(
    name: str, expected: Header, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    found = HeaderReader().read(str(tmp_path / name))
    assert (found.kind, found.reason, found.detail) == expected[:3]


def test_a_fault_of_a_learned_layout_costs_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    good = native()
    reader = HeaderReader()
    expected = parse(good, reader)
    assert reader._layouts._recent

    def fault(buffer: bytes, start: int) -> None:
        raise struct.error

    monkeypatch.setattr(reader._layouts, "match", fault)
    assert [parse(good, reader) for _ in range(3)] == [expected] * 3


def parse(raw: bytes, reader: HeaderReader | None = None) -> Header:
    """The Header of a file with these bytes."""
    return (reader or HeaderReader()).parse(
        raw[:16384], len(raw), lambda offset, length: raw[offset : offset + length]
    )


def assert_sound(header: Header, raw: bytes, reader: HeaderReader) -> None:
    """Assert that an image has all that reading its frames needs, and that they are in the file."""
    columns = reader.convert(header.rows)
    for name in ("rows", "columns", "bits_allocated", "transfer_syntax_uid"):
        column = columns[name]
        assert all([column.value] if isinstance(column, Constant) else column), name
    assert len(header.places) == len(header.rows) > 0
    for place in header.places:
        assert place.byte_offset > 0 and place.byte_length > 0
        assert header.deflated or place.byte_offset + place.byte_length <= len(raw)


# --- bombs and contradictions in headers ----------------------------------------------------------

PIXELS = 0x7FE00010
JPEG_2000 = "1.2.840.10008.1.2.4.90"


def file_of(*elements: bytes, transfer_syntax: str = "1.2.840.10008.1.2.1") -> bytes:
    """A DICOM file: preamble, transfer syntax and these elements."""
    return (
        b"\0" * 128
        + b"DICM"
        + element(
            0x00020010,
            b"UI",
            transfer_syntax.encode().ljust(len(transfer_syntax) // 2 * 2 + 2, b"\0"),
        )
        + b"".join(elements)
    )


def image_elements(frames: bytes = b"1 ", **changed: bytes) -> list[bytes]:
    """The elements of the Image Pixel module of an 8-bit image of 2 x 2, without pixel data."""
    return [
        element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0"),
        element(0x00280002, b"US", b"\1\0"),
        element(0x00280004, b"CS", b"MONOCHROME2 "),
        element(0x00280008, b"IS", frames),
        changed.get("rows", element(0x00280010, b"US", b"\2\0")),
        changed.get("columns", element(0x00280011, b"US", b"\2\0")),
        element(0x00280100, b"US", changed.get("bits", b"\x08\0")),
    ]


def native(
    frames: bytes = b"1 ", size: int = 4, length: int | None = None, **changed: bytes
) -> bytes:
    return file_of(
        *image_elements(frames, **changed), element(PIXELS, b"OW", b"\1" * size, length=length)
    )


def fragments(*contents: bytes) -> bytes:
    return b"".join(element(ITEM, b"", content) for content in contents)


def encapsulated(
    table: bytes,
    *contents: bytes,
    frames: bytes = b"2 ",
    end: bytes = element(SEQUENCE_END, b""),
    extended: bytes = b"",
    transfer_syntax: str = JPEG_2000,
) -> bytes:
    offsets = [element(0x7FE00001, b"OV", extended)] if extended else []
    pixels = element(PIXELS, b"OB", fragments(table, *contents) + end, length=UNDEFINED)
    return file_of(*image_elements(frames), *offsets, pixels, transfer_syntax=transfer_syntax)


def deflated(inner: bytes) -> bytes:
    return file_of(transfer_syntax=DEFLATED) + zlib.compress(inner, 9, wbits=-zlib.MAX_WBITS)


@cache
def gibibyte_of_zeros() -> bytes:
    """1 MB that inflates to 1 GiB after any deflated prefix; full flushes repeat its blocks."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    compressor.compress(b"\0" * 2**16)
    compressor.flush(zlib.Z_FULL_FLUSH)
    return (compressor.compress(b"\0" * 2**24) + compressor.flush(zlib.Z_FULL_FLUSH)) * 64


def deflate_bomb(inner: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return (
        file_of(transfer_syntax=DEFLATED)
        + compressor.compress(inner)
        + compressor.flush(zlib.Z_FULL_FLUSH)
        + gibibyte_of_zeros()
    )


def sequence_start(tag: int = 0x00081140) -> bytes:
    return element(tag, b"SQ", length=UNDEFINED)


FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    # Fault: (the file, the reason of the problem).
    "an element of 4 GB": (
        lambda: file_of(element(0x00081030, b"UT", b"x", length=0xFFFFFFFE)),
        "truncated",
    ),
    "a meta element of 4 GB": (
        lambda: file_of() + element(0x00020102, b"OB", b"x", length=0xFFFFFFFE),
        "truncated",
    ),
    "300 open sequences": (
        lambda: file_of((sequence_start() + element(ITEM, b"", length=UNDEFINED)) * 300),
        "too_deep",
    ),
    "50,000 open sequences": (
        lambda: file_of((sequence_start() + element(ITEM, b"", length=UNDEFINED)) * 50_000),
        "too_deep",
    ),
    "a sequence without end": (
        lambda: file_of(sequence_start(), fragments(*[b""] * 1000)),
        "truncated",
    ),
    "4,000,000 elements": (
        lambda: file_of(element(0x00080060, b"CS") * 4_000_000),
        "too_many_elements",
    ),
    "4,000,000 empty items": (
        lambda: file_of(
            sequence_start() + element(ITEM, b"") * 4_000_000 + element(SEQUENCE_END, b"")
        ),
        "too_many_elements",
    ),
    "4,000,000 items that have a length": (
        lambda: file_of(
            *image_elements(),
            element(0x52009230, b"SQ", element(ITEM, b"") * 4_000_000),
            element(PIXELS, b"OW", b"1234"),
        ),
        "too_many_elements",
    ),
    "4,000,000 elements of an unknown VR": (
        lambda: file_of(element(0x00080060, b"ZZ") * 4_000_000),
        "too_many_elements",
    ),
    "4,000,000 elements in big endian": (
        lambda: file_of(
            element(0x00080060, b"CS", syntax=BIG_ENDIAN) * 4_000_000, transfer_syntax=EXPLICIT_BIG
        ),
        "too_many_elements",
    ),
    "4,000,000 elements of meta information": (
        lambda: file_of(element(0x00020002, b"UI") * 4_000_000),
        "too_many_elements",
    ),
    "rows of 2^32 - 1": (
        lambda: native(rows=element(0x00280010, b"UL", b"\xff" * 4)),
        "invalid_value",
    ),
    "columns of 2^32 - 1": (
        lambda: native(columns=element(0x00280011, b"UL", b"\xff" * 4)),
        "invalid_value",
    ),
    "65535 x 65535 with 4 bytes": (
        lambda: native(
            rows=element(0x00280010, b"US", b"\xff\xff"),
            columns=element(0x00280011, b"US", b"\xff\xff"),
        ),
        "short_pixel_data",
    ),
    "0 rows": (lambda: native(rows=element(0x00280010, b"US", b"\0\0")), "invalid_value"),
    "12 bits allocated": (lambda: native(bits=b"\x0c\0"), "invalid_value"),
    "65535 bits allocated": (lambda: native(bits=b"\xff\xff"), "invalid_value"),
    "2e9 frames": (lambda: native(b"2000000000"), "too_many_frames"),
    "1e300 frames": (lambda: native(b"1e300 "), "too_many_frames"),
    "infinitely many frames": (lambda: native(b"inf "), "invalid_value"),
    "-1 frames": (lambda: native(b"-1"), "invalid_value"),
    "1.5 frames": (lambda: native(b"1.5 "), "invalid_value"),
    "a text for the number of frames": (lambda: native(b"many"), "invalid_value"),
    "more frames than bytes": (lambda: native(b"2 "), "short_pixel_data"),
    "a file that ends inside its pixels": (lambda: native(size=3, length=4), "truncated"),
    "no pixel data": (lambda: file_of(*image_elements()), "no_pixel_data"),
    "fewer fragments than frames": (
        lambda: encapsulated(b"", b"ab", frames=b"3 "),
        "missing_frames",
    ),
    "no fragment": (lambda: encapsulated(b"", frames=b"1 "), "missing_frames"),
    "a fragment beyond the file": (
        lambda: encapsulated(b"", b"ab", end=element(ITEM, b"", b"ab", length=0x7FFFFFFF)),
        "truncated",
    ),
    "something else among the fragments": (
        lambda: encapsulated(b"", b"ab", end=element(0x00080060, b"CS", b"MR")),
        "malformed",
    ),
    "fragments that nothing tells apart": (
        lambda: encapsulated(b"", b"ab", b"cd", b"ef"),
        "fragments",
    ),
    "fragments and an offset table that decreases": (
        lambda: encapsulated(struct.pack("<2I", 10, 0), b"ab", b"cd", b"ef"),
        "fragments",
    ),
    "fragments and an offset table beyond them": (
        lambda: encapsulated(struct.pack("<2I", 0, 999), b"ab", b"cd", b"ef"),
        "fragments",
    ),
    "fragments and an offset table between them": (
        lambda: encapsulated(struct.pack("<2I", 0, 11), b"ab", b"cd", b"ef"),
        "fragments",
    ),
    "fragments and a wrong extended offset table": (
        lambda: encapsulated(b"", b"ab", b"cd", b"ef", extended=struct.pack("<2Q", 0, 2**40)),
        "fragments",
    ),
    "compressed, but not encapsulated": (
        lambda: file_of(
            *image_elements(), element(PIXELS, b"OW", b"\1" * 4), transfer_syntax=JPEG_2000
        ),
        "malformed",
    ),
    "deflated garbage": (lambda: file_of(transfer_syntax=DEFLATED) + b"\xff" * 1200, "malformed"),
    "a deflate bomb of zeros": (lambda: deflate_bomb(b""), "too_many_elements"),
    "a deflate bomb in one element": (
        lambda: deflate_bomb(element(0x00081030, b"UT", length=2**30)),
        "malformed",
    ),
    "a deflate bomb as pixels": (
        lambda: deflate_bomb(b"".join(image_elements()) + element(PIXELS, b"OW", length=2**30)),
        "header_too_large",
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_claims_too_much_is_a_problem_with_its_reason(name: str) -> None:
    make, reason = FAULTS[name]
    header = parse(make())
    assert (header.kind, header.reason) == ("problem", reason), header.detail
    assert header.detail


@pytest.mark.slow
def test_a_deflate_bomb_costs_little_memory() -> None:
    bomb = deflate_bomb(b"".join(image_elements()) + element(PIXELS, b"OW", length=2**30))
    tracemalloc.start()
    try:
        parse(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * 2**20


def test_a_million_elements_can_be_walked() -> None:
    header = parse(
        file_of(
            element(0x00080060, b"CS") * 1_000_000,
            *image_elements(),
            element(PIXELS, b"OW", b"\1" * 4),
        )
    )
    assert header.kind == "image"


def frame_contents(raw: bytes) -> list[bytes]:
    header = parse(raw)
    assert header.kind == "image", header.detail
    return [
        fragments_joined(raw[place.byte_offset : place.byte_offset + place.byte_length])
        for place in header.places
    ]


# Two codestreams of two fragments each.
ENDED = (b"ab", b"c\xff\xd9\0", b"de", b"\xff\xd9")


@pytest.mark.parametrize(
    "raw",
    [
        encapsulated(b"", *ENDED),
        encapsulated(struct.pack("<2I", 0, 22), *ENDED),
        encapsulated(struct.pack("<2I", 0, 999), *ENDED),
        encapsulated(b"", *ENDED, extended=struct.pack("<2Q", 0, 22)),
        encapsulated(b"", *ENDED, end=b""),
    ],
    ids=[
        "no table",
        "basic offset table",
        "wrong offset table",
        "extended offset table",
        "no sequence delimiter",
    ],
)
def test_several_fragments_a_frame_are_told_apart_by_a_sound_table_or_by_their_end_markers(
    raw: bytes,
) -> None:
    assert frame_contents(raw) == [b"abc\xff\xd9\0", b"de\xff\xd9"]


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\xff\x4f\xff\x51"])
def test_bytes_after_the_end_markers_leave_fragments_told_apart_by_their_start(
    start: bytes,
) -> None:
    first, second = (start + b"a", b"b\xff\xd9 and more"), (start + b"c", b"d\xff\xd9 or less")
    raw = encapsulated(b"", *first, *second)
    assert frame_contents(raw) == [b"".join(first), b"".join(second)]
    # A fragment before the first start marker belongs to no frame.
    assert parse(encapsulated(b"", b"ab", *first, *second)).reason == "fragments"


# The start of a codestream without an end marker, per transfer syntax.
RLE_START = struct.pack("<2I", 1, 64) + bytes(56)
UNMARKED = [
    ("1.2.840.10008.1.2.5", RLE_START),
    ("1.2.840.10008.1.2.4.110", b"\xff\x0a"),
    ("1.2.840.10008.1.2.4.112", b"\0\0\0\x0cJXL \r\n\x87\n"),
]


@pytest.mark.parametrize(("syntax", "start"), UNMARKED)
def test_codestreams_without_end_markers_are_told_apart_by_their_start(
    syntax: str, start: bytes
) -> None:
    first, second = (start + b"ab", b"\xff\xd9"), (start + b"cd", b"", b"ef")
    raw = encapsulated(b"", *first, *second, transfer_syntax=syntax)
    assert frame_contents(raw) == [b"".join(first), b"".join(second)]


@pytest.mark.parametrize(("syntax", "start"), UNMARKED)
def test_more_codestreams_without_end_markers_than_frames_make_a_problem(
    syntax: str, start: bytes
) -> None:
    frames = [start + b"ab", start + b"cd"]
    assert parse(encapsulated(b"", *frames, frames=b"1 ", transfer_syntax=syntax)).reason == (
        "more_frames"
    )
    one = encapsulated(b"", start, b"ab", frames=b"1 ", transfer_syntax=syntax)
    assert frame_contents(one) == [start + b"ab"]


@pytest.mark.parametrize(
    ("tag", "vr"), [(0x00080008, b"UN"), (0x00200032, b"UN"), (0x00281050, b"UN")]
)
def test_a_value_longer_than_its_vr_allows_is_a_problem_and_not_parsed(tag: int, vr: bytes) -> None:
    def header(size: int) -> Header:
        image, *pixel_module = image_elements()
        value = element(tag, vr, b"1\\" * (size // 2))
        first = [image, value] if tag < 0x00280002 else [image]
        last = [] if tag < 0x00280002 else [value]
        return parse(file_of(*first, *pixel_module, *last, element(PIXELS, b"OW", b"\1" * 4)))

    assert header(65_534).kind == "image"
    assert header(2**20).reason == "malformed"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_a_value_longer_than_its_vr_allows_is_a_problem_whatever_was_read_before(
    syntax: Syntax,
) -> None:
    """A long first read, and a layout that knows the header, do not hide it."""

    def content(size: int) -> bytes:
        kind, *pixel_module = image_elements()
        elements = [kind, *pixel_module, element(0x00281050, b"UN", b"1\\" * (size // 2))]
        coded = b"".join(elements) + element(PIXELS, b"OW", b"\1" * 4)
        if syntax is EXPLICIT:
            return file_of(coded)
        steps: list[Step] = []
        walk(Window.on(coded), 0, EXPLICIT, Wanted([]), steps)
        implicit = b"".join(
            element(head.tag, b"", coded[head.value : head.value + head.length])
            for _, head, *_ in steps
        )
        return file_of(implicit, transfer_syntax="1.2.840.10008.1.2")

    reader = HeaderReader()
    for size, kind in ((2, "image"), (4, "image"), (65_534, "image"), (65_536, "problem")):
        raw = content(size)
        for first in (2**14, 2**18):
            for each in (HeaderReader(), reader, reader):
                found = each.parse(
                    raw[:first], len(raw), lambda at, count, raw=raw: raw[at : at + count]
                )  # type: ignore[misc]
                assert found.kind == kind, (size, first)


def test_a_nested_value_longer_than_its_vr_allows_is_no_number() -> None:
    column = next(each for each in attributes() if each.name == "window_center")
    convert = converter(column)
    assert convert(b"1\\" * 2) == (1.0, 1.0) and convert(b"1\\" * 2**16) is None


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("patient_weight", b"70\\80", None),
        ("patient_weight", b"70\\70.0 ", 70.0),
        ("patient_weight", b"70\\", None),
        ("instance_number", b"1\\2", None),
        ("echo_time", b"4.9", 4.9),
        ("philips_scale_slope", struct.pack("<2f", 1, 2), None),
        ("philips_scale_slope", struct.pack("<2f", 2, 2), 2.0),
        ("philips_scale_slope", b"", None),
    ],
)
def test_several_different_values_of_one_are_none(name: str, raw: bytes, value: Any) -> None:
    column = next(each for each in attributes() if each.name == name)
    assert converter(column)(raw) == value


def test_a_wrong_offset_table_does_not_matter_where_each_frame_is_one_fragment() -> None:
    for table in (b"", struct.pack("<2I", 10, 0), struct.pack("<2I", 7, 999), b"\1"):
        assert frame_contents(encapsulated(table, b"ab", b"cd")) == [b"ab", b"cd"]


def test_all_fragments_of_a_single_frame_are_its() -> None:
    assert frame_contents(encapsulated(b"", b"ab", b"", b"cdef", frames=b"1 ")) == [b"abcdef"]


def test_offset_tables_tell_fragments_apart_that_have_no_end_marker() -> None:
    for table, extended in ((struct.pack("<2I", 0, 20), b""), (b"", struct.pack("<2Q", 0, 20))):
        assert frame_contents(encapsulated(table, b"ab", b"cd", b"ef", extended=extended)) == [
            b"abcd",
            b"ef",
        ]


def test_many_small_fragments_are_read_in_few_reads() -> None:
    raw = encapsulated(b"", *[b"ab"] * 10_000, frames=b"10000 ")
    reads = []

    def read(offset: int, length: int) -> bytes:
        reads.append(length)
        return raw[offset : offset + length]

    assert len(HeaderReader().parse(raw[:16384], len(raw), read).places) == 10_000
    assert len(reads) < 20


def test_native_pixels_of_undefined_length_are_measured_by_the_file() -> None:
    header = parse(native(length=UNDEFINED))
    assert [place.byte_length for place in header.places] == [4]
    assert parse(native(size=3, length=UNDEFINED)).reason == "short_pixel_data"


@pytest.mark.parametrize(
    "name",
    [
        "a.dcm",
        "A.DCM",
        "x.dicom",
        "scan.IMA",
        "DICOMDIR",
        "IM_0001",
        "I10",
        "MR.1.2.840.5",
        "1.2.840.5",
        "00000001",
    ],
)
def test_an_empty_file_that_is_named_as_dicom_is_a_problem(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(HeaderError) as caught:
        read_frames(tmp_path / name)
    assert caught.value.reason == "empty"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (name, b"")
            for name in ["empty", "__init__.py", ".gitkeep", "notes.txt", "a.nii", "a.dcm.txt"]
        ),
        ("text", b"Dear reader, this is no image. " * 9),
        ("zeros", b"\0" * 9999),
        ("one byte", b"D"),
    ],
)
def test_what_is_no_dicom_is_no_problem(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert HeaderReader().read(str(tmp_path / name)).kind == "not_dicom"
    assert HeaderReader().read(str(tmp_path / "absent")).reason == "unreadable"


# --- objects without an image ---------------------------------------------------------------------


def test_an_image_cut_at_the_border_of_any_element_is_a_problem(tmp_path: Path) -> None:
    kinds = set()
    reader = HeaderReader()
    for seed in phantom_seeds(tmp_path):
        for position in seed.boundaries[:-1]:
            cut = seed.content[:position]
            header = parse(seed.file(cut), reader)
            # Without a preamble, it is one as soon as the first UID of the standard is there.
            bare = parse(cut[132:], reader) if not seed.packed_from else header
            assert header.kind == "problem", (seed.name, position)
            assert bare.kind == "problem" or b"1.2.840.10008." not in cut, (seed.name, position)
            kinds.add(header.reason)
    assert kinds == {"no_pixel_data", "malformed", "truncated"}


def test_a_cut_slice_of_a_series_is_named_and_not_only_missing(tmp_path: Path) -> None:
    paths = phantoms.write_series(tmp_path / "in")
    raw = paths[0].read_bytes()
    paths[0].write_bytes(raw[: raw.index(b"\x28\0\2\0US")])
    header = HeaderReader().read(str(paths[0]))
    assert header.reason == "no_pixel_data"
    assert "CT Image Storage" in header.detail


def object_of(sop_class: str, *elements: bytes) -> Header:
    value = sop_class.encode()
    return parse(file_of(element(0x00080016, b"UI", value + b"\0" * (len(value) % 2)), *elements))


SIZE = (element(0x00280010, b"US", b"\1\0"), element(0x00280011, b"US", b"\1\0"))
WITHOUT_SIZE = (element(0x00080060, b"CS", b"MR"),)


@pytest.mark.parametrize("elements", [SIZE, WITHOUT_SIZE], ids=["with Rows", "without Rows"])
@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.1.3.10",  # a directory
        "1.2.840.10008.5.1.4.1.1.4.2",  # MR Spectroscopy, whose Rows are those of voxels
        "1.2.840.10008.5.1.4.1.1.66",
        "1.2.840.10008.5.1.4.1.1.481.5",
        "1.3.12.2.1107.5.9.1",  # Siemens CSA Non-Image
        "1.3.46.670589.11.0.0.12.1",  # Philips private MR spectrum
        "1.2.840.113619.4.26",  # GE private
    ],
)
def test_an_object_without_pixels_by_design_is_no_problem(
    sop_class: str, elements: tuple[bytes, ...]
) -> None:
    header = object_of(sop_class, *elements)
    assert (header.kind, header.sop_class_uid) == ("no_image", sop_class)


@pytest.mark.parametrize("columns", [b"", b"\0\0"], ids=["no size", "size 0"])
def test_pixels_without_a_size_make_no_image_of_a_structure_set(columns: bytes) -> None:
    size = [element(0x00280010, b"US", columns), element(0x00280011, b"US", columns)]
    pixels = element(PIXELS, b"OW", b"\0\0")
    structures = "1.2.840.10008.5.1.4.1.1.481.3"
    assert object_of(structures, *size, pixels).kind == "no_image"
    assert object_of("1.2.840.10008.5.1.4.1.1.2", *size, pixels).kind == "problem"


def test_private_classes_with_pixels_are_images() -> None:
    elements = image_elements()
    elements[0] = element(0x00080016, b"UI", b"1.3.12.2.1107.5.9.1\0")
    assert parse(file_of(*elements, element(PIXELS, b"OW", b"\1" * 4))).kind == "image"


def test_a_dose_object_may_have_histograms_instead_of_a_grid() -> None:
    dose = "1.2.840.10008.5.1.4.1.1.481.2"
    units = element(0x30040002, b"CS", b"GY")
    histogram = element(0x30040050, b"SQ", b"")
    assert object_of(dose, units, histogram).kind == "no_image"
    assert object_of(dose).reason == "no_pixel_data"
    assert object_of(dose, *SIZE, units).reason == "no_pixel_data"


@pytest.mark.parametrize("sop_class", ["", "1.2.840.10008.5.1.4.1.1.9999", "CT", "\x80.\xff"])
def test_a_class_that_is_unknown_leaves_an_image_without_pixels_a_problem(sop_class: str) -> None:
    assert object_of(sop_class, *SIZE).reason == "no_pixel_data"
    is_new = sop_class.endswith("9999")
    assert object_of(sop_class).kind == ("no_image" if is_new else "problem")


@pytest.mark.parametrize("number", ["94", "95", "204", "205"])
def test_pixels_on_a_server_are_a_problem_that_says_so(tmp_path: Path, number: str) -> None:
    syntax = f"1.2.840.10008.1.2.4.{number}"
    url = element(0x00287FE0, b"UR", b"https://server/image")
    raw = file_of(*image_elements(), url, transfer_syntax=syntax)
    if number in ("95", "205"):
        at = raw.index(element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0"))
        raw = raw[:at] + zlib.compress(raw[at:], wbits=-zlib.MAX_WBITS)
    header = parse(raw)
    assert header.reason == "jpip"
    assert "(0028,7FE0)" in header.detail


@pytest.mark.parametrize("text", [b"abc ", b"1,5 ", b"nan ", b"inf ", b"1_0 "])
def test_a_rescale_slope_that_is_no_number_is_a_problem(text: bytes) -> None:
    raw = file_of(
        *image_elements(), element(0x00281053, b"DS", text), element(PIXELS, b"OW", b"\1" * 4)
    )
    header = parse(raw)
    assert (header.kind, header.reason) == ("problem", "invalid_value")
    # A message never quotes a value, which may be a name.
    assert text.strip().decode() not in header.detail


# --- columns that users add -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "keyword",
    [
        "NoSuchKeyword",
        "ReferencedImageSequence",
        "PixelData",
        "PatientName",
        "PatientBirthDate",
        "InstitutionName",
    ],
)
def test_unknown_keywords_sequences_and_identifying_attributes_are_refused(keyword: str) -> None:
    with pytest.raises(UsageError) as caught:
        extra_attributes([keyword])
    assert caught.value.keyword == keyword


def test_identifying_attributes_are_kept_on_request_only() -> None:
    assert [a.name for a in extra_attributes(["PatientBirthDate"], allow_phi=True)] == [
        "patient_birth_date"
    ]


def test_an_added_attribute_is_read_typed_and_kept_with_the_frame(tmp_path: Path) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.ContrastBolusIngredient = "IODINE"
        dataset.ContrastBolusVolume = "80.5"

    path = phantoms.write_secondary_capture(tmp_path / "a.dcm", edit=edit)
    extra = extra_attributes(
        ["ContrastBolusIngredient", "ContrastBolusVolume", "ContrastBolusRoute", "Modality"]
    )
    assert [a.name for a in extra] == [
        "contrast_bolus_ingredient",
        "contrast_bolus_volume",
        "contrast_bolus_route",
    ]
    (frame,) = read_frames(path, extra)
    assert frame.extra == (
        ("contrast_bolus_ingredient", "IODINE"),
        ("contrast_bolus_volume", 80.5),
        ("contrast_bolus_route", ""),
    )


def test_groups_that_are_not_one_a_frame_say_only_what_all_of_them_say(tmp_path: Path) -> None:
    path = phantoms.write_multiframe(tmp_path / "a.dcm", shape=(3, 5, 7))
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 2
    dataset.PixelData = dataset.PixelData[: 2 * 5 * 7 * 2]
    dataset.save_as(tmp_path / "cut.dcm")
    frames = read_frames(tmp_path / "cut.dcm")
    assert [frame.image_position_patient for frame in frames] == [None, None]
    assert frames[0].pixel_spacing == (1.0, 1.0) and frames[0].rescale_slope == 1.0


def test_groups_that_are_not_one_a_frame_and_rescale_differently_make_a_problem(
    tmp_path: Path,
) -> None:
    path = phantoms.write_multiframe(tmp_path / "a.dcm", shape=(3, 5, 7), slope=(1, 2, 3))
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 2
    dataset.PixelData = dataset.PixelData[: 2 * 5 * 7 * 2]
    dataset.save_as(tmp_path / "cut.dcm")
    with pytest.raises(HeaderError) as caught:
        read_frames(tmp_path / "cut.dcm")
    assert caught.value.reason == "functional_groups"


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_fewer_groups_than_frames_make_a_problem_whatever_they_say(
    tmp_path: Path, groups: int
) -> None:
    path = phantoms.write_multiframe(tmp_path / "a.dcm", slope=(2, 3, 4, 5, 6, 7))
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[groups:]
    dataset.save_as(tmp_path / "cut.dcm")
    with pytest.raises(HeaderError) as caught:
        read_frames(tmp_path / "cut.dcm")
    assert caught.value.reason == "functional_groups"


@pytest.mark.parametrize(
    "uid", ["1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.107", "1.2.840.10008.1.2.4.104.1"]
)
def test_a_video_is_a_problem_that_says_what_to_do(tmp_path: Path, uid: str) -> None:
    path = phantoms.write_multiframe(tmp_path / "a.dcm", transfer_syntax="1.2.840.10008.1.2.4.90")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.NumberOfFrames = 300
    dataset.save_as(tmp_path / "film.dcm")
    with pytest.raises(HeaderError, match="ffmpeg") as caught:
        read_frames(tmp_path / "film.dcm")
    assert caught.value.reason == "video"


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
    ],
)
@pytest.mark.parametrize("table", ["basic", "none"])
def test_more_frames_than_the_header_says_make_a_problem(
    tmp_path: Path, syntax: str, table: Any
) -> None:
    path = phantoms.write_multiframe(
        tmp_path / "a.dcm", shape=(3, 5, 7), transfer_syntax=syntax, offset_table=table
    )
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 1
    del dataset.PerFrameFunctionalGroupsSequence[1:]
    dataset.save_as(tmp_path / "one.dcm")
    with pytest.raises(HeaderError) as caught:
        read_frames(tmp_path / "one.dcm")
    assert caught.value.reason == "more_frames"


def test_a_voi_lut_inside_of_functional_groups_is_noticed(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        table = phantoms.item(LUTDescriptor=[2, 0, 8], LUTData=b"\0\1")
        table[0]["LUTDescriptor"].VR, table[0]["LUTData"].VR = "US", "OW"
        dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = phantoms.item(
            VOILUTSequence=table
        )

    frames = read_frames(phantoms.write_multiframe(tmp_path / "a.dcm", edit=edit))
    assert all(frame.voi_lut_sequence for frame in frames)


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_side_of_a_tomosynthesis_is_in_its_frame_anatomy(
    is_shared: bool, tmp_path: Path
) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        sides = "LLLRRR"
        groups = dataset.PerFrameFunctionalGroupsSequence
        if is_shared:
            groups, sides = dataset.SharedFunctionalGroupsSequence, "L"
        for group, side in zip(groups, sides, strict=True):
            group.FrameAnatomySequence = phantoms.item(FrameLaterality=side)

    frames = read_frames(phantoms.write_multiframe(tmp_path / "a.dcm", edit=edit))
    assert [frame.image_laterality for frame in frames] == list("LLLLLL" if is_shared else "LLLRRR")


@pytest.mark.parametrize("syntax", phantoms.NATIVE_SYNTAXES)
@pytest.mark.parametrize(
    ("code", "given", "view"),
    [
        ("399162004", "", "CC"),
        ("R-10226", None, "MLO"),
        ("399368009", "CC", "CC"),
        ("127457009", None, ""),
        (None, "", ""),
    ],
)
def test_the_view_of_a_breast_may_be_a_code_only(
    code: str | None, given: str | None, view: str, syntax: str, tmp_path: Path
) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        if given is not None:
            dataset.ViewPosition = given
        if code is not None:
            dataset.ViewCodeSequence = phantoms.item(
                CodeValue=code,
                CodingSchemeDesignator="SCT",
                CodeMeaning="as in CID 4014",
                ViewModifierCodeSequence=phantoms.item(CodeValue="399163009"),
            )

    (path,) = phantoms.write_series(
        tmp_path, modality="MG", shape=(1, 4, 4), transfer_syntax=syntax, edit=edit
    )
    assert [frame.view_position for frame in read_frames(path)] == [view]

    def edit_frames(dataset: Dataset, _: int) -> None:
        dataset.SOPClassUID = BreastTomosynthesisImageStorage
        edit(dataset, 0)

    path = phantoms.write_multiframe(tmp_path / "b.dcm", transfer_syntax=syntax, edit=edit_frames)
    assert [frame.view_position for frame in read_frames(path)] == 6 * [view]


# --- files that HeaderReader opens ----------------------------------------------------------------


class Opened:
    """A handle on bytes that records its reads, and may fail."""

    def __init__(self, content: bytes, fails: bool = False) -> None:
        self.source = Source("/there", 7, len(content), 3)
        self.size = len(content)
        self.reads: list[tuple[int, int]] = []
        self.is_closed = False
        self._content, self._fails = content, fails

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        if self._fails:
            raise OSError(5, "Input/output error")
        return self._content[offset : offset + length]

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Callable[[Opened], Header]:
    """Return a function that reads the header of an opened file."""

    def read(handle: Opened, reader: HeaderReader | None = None) -> Header:
        monkeypatch.setattr("dicomdl.headers.reader.open_path", lambda path: handle)
        found = (reader or HeaderReader()).read(str(handle.source.path))
        assert handle.is_closed
        return found

    return read


def test_every_header_has_the_state_of_its_file(opens: Callable[..., Header]) -> None:
    directory = file_of(element(0x00080016, b"UI", b"1.2.840.10008.1.3.10"))
    kinds = []
    for content in (native(), directory, b"no DICOM at all", native()[:-1], b""):
        handle = Opened(content)
        header = opens(handle)
        assert header.source == handle.source
        assert header.kind == "problem" or header[1:3] == ("", "")
        kinds.append(header.kind)
    assert kinds == ["image", "no_image", "not_dicom", "problem", "not_dicom"]


def test_a_file_that_cannot_be_read_is_a_problem_and_closed(opens: Callable[..., Header]) -> None:
    absent = HeaderReader().read("/no/such/file")
    assert absent[:3] == ("problem", "unreadable", "cannot be opened: No such file or directory")
    header = opens(Opened(native(), fails=True))
    assert header[:3] == ("problem", "unreadable", "cannot be read: Input/output error")


def test_a_reading_error_leaves_parse_and_no_other_error_does() -> None:
    """The caller knows whether a store is down; a fault of the reader is tried once more."""
    content = native()
    errors: list[Exception] = []

    def read(offset: int, length: int) -> bytes:
        if errors:
            raise errors.pop(0)
        return content[offset : offset + length]

    def parsed(*given: Exception) -> Header:
        errors[:] = given
        return HeaderReader().parse(content[:140], len(content), read)

    assert parsed().kind == "image"
    for given in ([OSError()], [KeyError(), OSError()]):
        with pytest.raises(OSError):
            parsed(*given)
    assert parsed(KeyError()).kind == "image"
    assert parsed(KeyError(), ValueError()).reason == "reader_error"


def test_the_first_read_grows_to_the_header_by_powers_of_two_up_to_256_kib(
    opens: Callable[..., Header],
) -> None:
    def first_read(pixels_at: int, reader: HeaderReader) -> int:
        filler = pixels_at - len(native()) + 4 - 12
        raw = file_of(
            *image_elements(),
            element(0x00291020, b"OB", b"\0" * filler),
            element(PIXELS, b"OW", b"\1" * 4),
        )
        assert len(raw) == pixels_at + 4
        assert opens(Opened(raw), reader).kind == "image"
        again = Opened(raw)
        opens(again, reader)
        return again.reads[0][1]

    small = Opened(native())
    opens(small)
    assert small.reads == [(0, 2**14)]
    for at, size in ((2**14, 2**14), (2**14 + 2, 2**15)):
        assert first_read(at, HeaderReader()) == size
    reader = HeaderReader()
    sizes = [2**14 - 2, 2**14, 2**14 + 2, 2**15 - 2, 2**15, 40_000, 2**14, 2**17, 2**18, 2**19 + 2]
    assert [first_read(at, reader) for at in sizes] == [
        2**14, 2**14, 2**15, 2**15, 2**15, 2**16, 2**16, 2**18, 2**18, 2**18
    ]  # fmt: skip


@pytest.mark.parametrize(("at", "kind"), [(2**14 - 64, "problem"), (2**14, "not_dicom")])
def test_a_broken_file_without_preamble_is_dicom_by_a_uid_at_its_beginning(
    at: int, kind: str
) -> None:
    """Whatever the size of the first read is, which grows with the files before."""
    image, *others = image_elements()
    filler = element(0x00080005, b"UN", b"\0" * (at - 12))
    raw = filler + image + b"".join(others) + element(0x00291020, b"OB", length=999)
    for first in (2**14, 2**18):
        found = HeaderReader().parse(raw[:first], len(raw), lambda at, n: raw[at : at + n])
        assert found.kind == kind


@pytest.mark.parametrize("name", ["deflated", "no transfer syntax", "blank transfer syntax"])
def test_headers_of_odd_codings_are_not_learned(name: str) -> None:
    reader = HeaderReader()
    raw = native()
    if name == "deflated":
        at = raw.index(element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0"))
        raw = file_of(zlib.compress(raw[at:], wbits=-zlib.MAX_WBITS), transfer_syntax=DEFLATED)
    elif name == "no transfer syntax":
        raw = raw.replace(b"\x02\0\x10\0UI", b"\x02\0\x12\0UI")
    else:
        raw = raw.replace(b"1.2.840.10008.1.2.1\0", b" " * 20)
    header = parse(raw, reader)
    assert header.kind == "image" and not reader._layouts._recent
    assert header.deflated is (name == "deflated")
    assert ("no_transfer_syntax" in header.flags.split()) is (name != "deflated")
    assert parse(native(), reader).kind == "image" and len(reader._layouts._recent) == 1


def test_a_file_like_the_one_before_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[int] = []

    def counted(*arguments: Any) -> Any:
        walks.append(1)
        return walk(*arguments)

    monkeypatch.setattr("dicomdl.headers.reader.walk", counted)
    reader = HeaderReader()
    assert [parse(native(), reader).kind for _ in range(3)] == ["image"] * 3
    assert len(walks) == 1


@pytest.mark.parametrize(("size", "length"), [(1, None), (1, 4), (4, None), (9, None)])
def test_deflated_pixels_are_as_many_as_inflate(size: int, length: int | None) -> None:
    raw = native(size=size, length=length)
    at = raw.index(element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0"))
    packed = zlib.compress(raw[at:], wbits=-zlib.MAX_WBITS)
    plain, deflated = parse(raw), parse(file_of(packed, transfer_syntax=DEFLATED))
    assert (deflated.kind, deflated.reason) == (plain.kind, plain.reason)
    assert (plain.kind == "image") is (size == 4)


def test_two_frames_are_refused_where_one_is_the_limit() -> None:
    reader = HeaderReader(limits=ReadLimits(frames=1))
    assert parse(native(), reader).kind == "image"
    assert parse(native(b"2 ", 8), reader).kind == "problem"
    assert len(parse(native(b"2 ", 8)).rows) == 2


# --- objects without an image: what is kept of them -----------------------------------------------


def test_an_object_without_an_image_has_its_class_and_series() -> None:
    uids = (element(0x0020000D, b"UI", b"1.2.3\0"), element(0x0020000E, b"UI", b"1.2.4\0"))
    report = "1.2.840.10008.5.1.4.1.1.88.11"
    header = object_of(report, *uids)
    assert header.kind == "no_image"
    assert (header.study_instance_uid, header.series_instance_uid) == ("1.2.3", "1.2.4")
    assert (header.rows, header.places, header.flags) == ((), (), "")
    # The class in the file meta information counts where the data set has none (PS3.10 7.1).
    meta = element(0x00020002, b"UI", b"1.2.840.10008.1.3.10")
    directory = parse(
        b"\0" * 128 + b"DICM" + meta + file_of(element(0x00041130, b"CS", b"A "))[132:]
    )
    assert (directory.kind, directory.sop_class_uid) == ("no_image", "1.2.840.10008.1.3.10")
    both = parse(b"\0" * 128 + b"DICM" + meta + native()[132:])
    assert both.sop_class_uid == "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize("rows", [b"", b"\0\0", b"\0\0\0\0", b"\1\0"])
@pytest.mark.parametrize("columns", [b"", b"\0\0", b"\0\0\0\0", b"\1\0"])
def test_a_size_is_one_of_both_rows_and_columns(rows: bytes, columns: bytes) -> None:
    size = [element(0x00280010, b"US", rows), element(0x00280011, b"US", columns)]
    has_size = rows[:1] == columns[:1] == b"\1"
    header = object_of("1.2.840.10008.5.1.4.1.1.9999", *size)
    assert (header.kind == "problem") is has_size
    pixels = element(PIXELS, b"OW", b"\0\0")
    structures = object_of("1.2.840.10008.5.1.4.1.1.481.3", *size, pixels)
    assert (structures.kind == "no_image") is not has_size


def test_read_frames_of_an_object_without_an_image_are_none(tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(file_of(element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.88.11\0")))
    assert read_frames(path) == []
    path.write_bytes(b"no DICOM at all")
    with pytest.raises(HeaderError, match="not a DICOM file") as caught:
        read_frames(path)
    assert caught.value.reason == "not_dicom"
    assert caught.value.__notes__ == [f"file: {path}"]


# --- facts that need another walk -----------------------------------------------------------------

GE_FACTS = {
    "ge_b_value": (element(0x00431039, b"IS", b"1000\\8\\0\\0 "), (1000.0, 8.0, 0.0, 0.0)),
    "ge_diffusion_direction_x": (element(0x001910BB, b"DS", b"0.5 "), 0.5),
    "ge_diffusion_direction_z": (element(0x001910BD, b"DS", b"-1"), -1.0),
    "ge_pulse_sequence_name": (element(0x0019109C, b"LO", b"epi_pepolar "), "epi_pepolar"),
}


@pytest.mark.parametrize(
    ("maker", "sequence", "found"),
    [
        (b"GE MEDICAL", b"EP\\SE ", True),
        (b"ACME", b"EP\\SE ", False),
        (b"GE MEDICAL", b"SE", False),
    ],
)
def test_echo_planar_images_of_ge_keep_facts_whose_creator_was_removed(
    maker: bytes, sequence: bytes, found: bool
) -> None:
    kind, *pixel_module = image_elements()
    private = sorted((value for value, _ in GE_FACTS.values()), key=lambda raw: (raw[:2], raw[2:4]))
    raw = file_of(
        kind,
        element(0x00080070, b"LO", maker + b" " * (len(maker) % 2)),
        element(0x00180020, b"CS", sequence),
        *private[:-1],
        *pixel_module,
        private[-1],
        element(PIXELS, b"OW", b"\1" * 4),
    )
    reader = HeaderReader()
    for _ in range(2):
        columns = reader.convert(parse(raw, reader).rows)
        for name, (_, value) in GE_FACTS.items():
            column = columns[name]
            absent = "" if isinstance(value, str) else None
            assert isinstance(column, Constant)
            assert column.value == (value if found else absent), name

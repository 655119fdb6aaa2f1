"""lookup: tables and real-world maps of files, against pydicom, highdicom and the standard."""

import os
import pickle
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from dicomdl.errors import DicomdlError, IntensityError, PixelError, UsageError
from dicomdl.headers import rare_tables as rawtables
from dicomdl.values import _lookup_reading as lookup_reading_module
from dicomdl.values._lookup import LookupTable, Palette, RealWorldMap, RealWorldMaps
from dicomdl.values._lookup_reading import select_real_world_map

Array = NDArray[Any]

IMPLICIT, LITTLE, BIG, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
SYNTAXES = (IMPLICIT, LITTLE, BIG)
COLOURS = ("Red", "Green", "Blue")
PYDICOM_FILES = Path(os.path.dirname(pydicom.data.__file__)) / "test_files"


def image(signed: int = 0, **more: Any) -> Dataset:
    """Return the header of a picture without tables."""
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = "Secret^Person"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = 2, 2
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (
        16,
        12,
        11,
        signed,
    )
    for name, value in more.items():
        setattr(dataset, name, value)
    return dataset


def write(path: Path, dataset: Dataset, syntax: str = LITTLE) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2.3",
    )
    dataset.add_new(0x7FE00010, "OW", bytes(8))
    dataset.save_as(
        path, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG, enforce_file_format=True
    )
    return path


def words(values: Sequence[int] | Array, syntax: str = LITTLE) -> bytes:
    return np.asarray(values).astype(">u2" if syntax == BIG else "<u2").tobytes()


def octets(values: Sequence[int] | Array, syntax: str = LITTLE) -> bytes:
    """Pack two bytes per word, the first in the low byte, as in OW."""
    padded = np.append(np.asarray(values, "u1"), np.zeros(len(values) % 2, "u1"))
    return (padded.reshape(-1, 2)[:, ::-1] if syntax == BIG else padded).tobytes()


def lut(
    first: int,
    bits: int,
    data: bytes | list[int],
    *,
    entries: int,
    vr: str = "OW",
    signed: bool = False,
    **more: Any,
) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "SS" if signed else "US", [entries & 0xFFFF, first, bits])
    item.add_new(0x00283006, vr, data)
    for name, value in more.items():
        setattr(item, name, value)
    return item


def palette_image(
    channels: Sequence[tuple[tuple[int, int, int], bytes]], *, segmented: bool = False, **more: Any
) -> Dataset:
    dataset = image(PhotometricInterpretation="PALETTE COLOR", **more)
    for number, (descriptor, data) in enumerate(channels, 1):
        dataset.add_new(
            0x00281100 + number,
            "SS" if descriptor[1] < 0 else "US",
            [descriptor[0] & 0xFFFF, *descriptor[1:]],
        )
        dataset.add_new((0x00281220 if segmented else 0x00281200) + number, "OW", data)
    return dataset


def world(
    first: float,
    last: float,
    *,
    units: str = "mm2/s",
    signed: bool = False,
    exact: bool = False,
    **more: Any,
) -> Dataset:
    item, code = Dataset(), Dataset()
    if exact:
        (
            item.DoubleFloatRealWorldValueFirstValueMapped,
            item.DoubleFloatRealWorldValueLastValueMapped,
        ) = first, last
    else:
        item.add_new(0x00409216, "SS" if signed else "US", first)
        item.add_new(0x00409211, "SS" if signed else "US", last)
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = units, "UCUM", "whatever"
    item.MeasurementUnitsCodeSequence = [code]
    for name, value in more.items():
        setattr(item, name, value)
    return item


def linear(first: float, last: float, slope: float, intercept: float, **more: Any) -> Dataset:
    return world(first, last, RealWorldValueSlope=slope, RealWorldValueIntercept=intercept, **more)


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # our own bytes


def table(values: Sequence[int] | Array, first: int = 0, bits: int = 16) -> LookupTable:
    return LookupTable(first, bits, words(values))


# --- a look-up table ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">u4", "f2", "f4", "f8"]
)
def test_values_of_any_dtype_are_looked_up_and_clipped_at_both_ends(dtype: str) -> None:
    rng = np.random.default_rng(1)
    kind = np.dtype(dtype).kind
    if kind == "f":
        values = rng.integers(-1500, 1500, 500).astype(dtype)
    else:
        limits = (0, 2) if kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        values = np.concatenate(
            [rng.integers(*limits, 400, np.dtype(dtype.lstrip(">"))), np.array(limits, dtype)]
        ).astype(dtype)
    entries = rng.integers(0, 65536, 700)
    for first in (-32768, -300, 0, 1, 250, 60000):
        expected = [entries[min(max(int(value) - first, 0), 699)] for value in values.tolist()]
        found = table(entries, first)(values)
        assert found.dtype == np.uint16 and found.tolist() == expected


def test_shapes_are_kept_and_nothing_is_written_to_the_argument() -> None:
    values = np.arange(70000 * 3).reshape(3, 100, 700)
    kept = values.copy()
    inverse = table(np.arange(65536)[::-1])
    assert np.array_equal(inverse(values), 65535 - np.minimum(values, 65535))
    assert np.array_equal(inverse(values[:, ::2, 1::3]), inverse(values)[:, ::2, 1::3])
    assert np.array_equal(values, kept)
    assert inverse(values[:0]).shape == (0, 100, 700) and inverse(np.uint16(7)).shape == ()


def test_entries_of_8_bits_or_fewer_come_as_bytes() -> None:
    assert table([0, 255], bits=8)(np.arange(2)).dtype == np.uint8
    assert table([0, 255], bits=9)(np.arange(2)).dtype == np.uint16


def test_fractions_are_rounded_and_nan_and_infinity_get_the_ends() -> None:
    ramp = table(range(10, 20), first=-2)
    values = np.array([-0.6, -0.4, 0.9999999, 1.0000001, 3.7, np.nan, np.inf, -np.inf, 1e300])
    assert ramp(values).tolist() == [11, 12, 13, 13, 16, 10, 19, 10, 19]
    assert ramp(values[:8].astype("f2")).tolist()[4:] == [16, 10, 19, 10]


@given(
    st.integers(-32768, 65535),
    st.lists(st.integers(0, 65535), min_size=2, max_size=300),
    st.integers(0, 2**32),
)
@settings(max_examples=50)
def test_pydicom_looks_up_the_same(first: int, entries: list[int], seed: int) -> None:
    dataset = Dataset()
    dataset.ModalityLUTSequence = [
        lut(first, 16, entries, entries=len(entries), vr="US", signed=first < 0)
    ]
    values = np.random.default_rng(seed).integers(first - 400, first + 400, (5, 7))
    assert np.array_equal(table(entries, first)(values), apply_modality_lut(values, dataset))


def test_tables_are_values() -> None:
    one, two = table([1, 2, 3], 4), LookupTable(4, 16, words([1, 2, 3]))
    assert one == two and hash(one) == hash(two) and through_pickle(one) == one
    assert one != table([1, 2, 3], 5) and repr(one) == "LookupTable(3 entries of 16 bits from 4)"
    assert (
        one.entries.tolist() == [1, 2, 3] and not one.entries.flags.writeable and one.maximum == 3
    )
    colours = Palette(0, 8, bytes(range(6)))
    assert (
        through_pickle(colours) == colours
        and repr(colours) == "Palette(2 colours of 8 bits from 0)"
    )
    assert not colours.colours.flags.writeable
    bad: list[tuple[int, bytes]] = [
        (16, b""),
        (16, b"123"),
        (0, b"12"),
        (17, b"12"),
        (8, b"12"),
        (16, bytes(2 * 65537)),
    ]
    for bits, data in bad:
        with pytest.raises(IntensityError):
            LookupTable(0, bits, data)
    with pytest.raises(UsageError):
        one(np.array(["a"]))


# --- Modality LUT ---------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("vr", ["OW", "US", "UN"])
def test_a_modality_lut_is_read_whatever_its_vr_and_byte_order(
    tmp_path: Path, syntax: str, vr: str
) -> None:
    entries = [7, 65535, 256, 1, 40000]
    data = entries if vr == "US" else words(entries, syntax)
    item = lut(-2, 16, data, entries=5, vr=vr, signed=True, ModalityLUTType="OD")
    path = write(tmp_path / "a", image(1, ModalityLUTSequence=[item]), syntax)
    assert lookup_reading_module.modality_lut(path) == LookupTable(-2, 16, words(entries), "OD")


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_bits_are_what_the_descriptor_says_and_8_bit_entries_lie_one_or_two_a_word(
    tmp_path: Path, syntax: str, bits: int
) -> None:
    entries = np.random.default_rng(2).integers(0, 1 << bits, 77)
    forms = [words(entries, syntax)] + [octets(entries, syntax)] * (bits == 8)
    for number, data in enumerate(forms):
        path = write(
            tmp_path / f"{number}",
            image(ModalityLUTSequence=[lut(3, bits, data, entries=77)]),
            syntax,
        )
        assert lookup_reading_module.modality_lut(path) == table(entries, 3, bits)


def test_zero_entries_are_65536_and_a_large_count_in_an_ss_is_not_negative(tmp_path: Path) -> None:
    entries = np.arange(65536)[::-1]
    for count, first in ((65536, -32768), (63488, -2048)):
        item = lut(first, 16, words(entries[:count]), entries=count, signed=True)
        for syntax in (IMPLICIT, LITTLE):
            path = write(
                tmp_path / f"{count}{syntax}", image(1, ModalityLUTSequence=[item]), syntax
            )
            assert lookup_reading_module.modality_lut(path) == table(entries[:count], first)


def test_the_first_value_is_signed_as_pixel_representation_says_whatever_the_vr(
    tmp_path: Path,
) -> None:
    for signed, first in ((0, 63488), (1, -2048)):
        item = lut(63488, 16, words([1, 2]), entries=2)
        assert (
            lookup_reading_module.modality_lut(
                write(tmp_path / f"{signed}", image(signed, ModalityLUTSequence=[item]))
            ).first
            == first
        )


def test_a_table_with_more_entries_than_it_says_is_cut_and_one_with_fewer_refused(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "a", image(ModalityLUTSequence=[lut(0, 16, words([5, 6, 7, 8]), entries=3)])
    )
    assert lookup_reading_module.modality_lut(path) == table([5, 6, 7])
    for bits, entries, found in ((16, 9, 4), (8, 9, 8), (16, 65536, 4)):
        path = write(
            tmp_path / f"{bits}{entries}",
            image(ModalityLUTSequence=[lut(0, bits, words([5, 6, 7, 8]), entries=entries)]),
        )
        with pytest.raises(IntensityError) as raised:
            lookup_reading_module.modality_lut(path)
        assert (raised.value.expected_entries, raised.value.found_entries) == (entries, found)
        assert raised.value.__notes__ == [f"file: {path}"]


def test_entries_larger_than_their_bits_widen_the_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a", image(ModalityLUTSequence=[lut(0, 8, words([5, 600]), entries=2)]))
    assert lookup_reading_module.modality_lut(path) == table([5, 600], bits=10)


def test_only_defined_terms_are_kept_as_the_kind(tmp_path: Path) -> None:
    for text, kind in (("HU", "HU"), ("US", "US"), ("Smith", ""), ("MGML", "MGML"), ("", "")):
        item = lut(0, 16, words([1]), entries=1, ModalityLUTType=text)
        assert (
            lookup_reading_module.modality_lut(
                write(tmp_path / f"a{text}", image(ModalityLUTSequence=[item]))
            ).kind
            == kind
        )


def test_absent_empty_and_absurd_modality_luts_are_typed_errors(tmp_path: Path) -> None:
    nameless, short = Dataset(), lut(0, 16, words([1]), entries=1)
    nameless.LUTExplanation = "nothing"
    short.add_new(0x00283002, "US", [1, 0])
    sequences: list[list[Dataset] | None] = [None, [], [nameless], [short]]
    sequences += [[lut(0, bits, words([1]), entries=1)] for bits in (0, 17, 65535)]
    for number, items in enumerate(sequences):
        dataset = image() if items is None else image(ModalityLUTSequence=items)
        with pytest.raises(IntensityError) as raised:
            lookup_reading_module.modality_lut(write(tmp_path / f"{number}", dataset))
        assert "Secret" not in str(raised.value)


# --- VOI LUT --------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_all_voi_luts_are_read_and_none_is_no_error(tmp_path: Path, syntax: str) -> None:
    items = [
        lut(0, 12, words([1, 4095], syntax), entries=2),
        lut(5, 8, octets([1, 2, 3], syntax), entries=3),
    ]
    path = write(tmp_path / "a", image(VOILUTSequence=items), syntax)
    assert lookup_reading_module.voi_luts(path) == (
        table([1, 4095], bits=12),
        table([1, 2, 3], 5, 8),
    )
    assert lookup_reading_module.voi_luts(write(tmp_path / "b", image(), syntax)) == ()


# -2048 .. 2047 becomes 0 .. 4095
@pytest.mark.parametrize(
    ("signed", "rescale", "first"),
    [
        (0, {}, 65436),  # no modality transform: as Pixel Representation says
        (1, {}, -100),
        (0, {"RescaleSlope": 1, "RescaleIntercept": 0}, 65436),  # 0 .. 4095
        (0, {"RescaleSlope": 1, "RescaleIntercept": -1024}, -100),
        (0, {"RescaleSlope": -1, "RescaleIntercept": 4094}, -100),  # -1 .. 4094
        (0, {"RescaleSlope": -1, "RescaleIntercept": 4095}, 65436),
        (
            1,
            {"RescaleSlope": 1, "RescaleIntercept": 2048},
            65436,
        ),
        (1, {"RescaleSlope": 1, "RescaleIntercept": 2047}, -100),
        (0, {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "HU"}, -100),
        (1, {"ModalityLUTSequence": [lut(0, 16, words([1]), entries=1)]}, 65436),  # always unsigned
    ],
)
def test_the_first_value_of_a_voi_lut_is_signed_where_its_input_may_be(
    tmp_path: Path, signed: int, rescale: dict[str, Any], first: int
) -> None:
    path = write(
        tmp_path / "a",
        image(signed, VOILUTSequence=[lut(65436, 16, words([1, 2]), entries=2)], **rescale),
    )
    assert lookup_reading_module.voi_luts(path)[0].first == first


def test_a_voi_lut_after_a_rescale_gives_what_pydicom_gives(tmp_path: Path) -> None:
    entries = np.random.default_rng(3).integers(0, 65536, 500)
    dataset = image(
        RescaleSlope=1,
        RescaleIntercept=-1024,
        VOILUTSequence=[lut(-200, 16, words(entries), entries=500, signed=True)],
    )
    path = write(tmp_path / "a", dataset)
    values = np.arange(-1024, 3072)
    assert np.array_equal(
        lookup_reading_module.voi_luts(path)[0](values), apply_voi(values, pydicom.dcmread(path))
    )


def enhanced(frames: Sequence[Dataset], shared: Dataset | None = None, **more: Any) -> Dataset:
    dataset = image(
        NumberOfFrames=len(frames), PerFrameFunctionalGroupsSequence=list(frames), **more
    )
    dataset.SharedFunctionalGroupsSequence = [shared or Dataset()]
    return dataset


def group(**sequences: Any) -> Dataset:
    item = Dataset()
    for name, value in sequences.items():
        setattr(item, name, value)
    return item


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_frame_has_the_voi_luts_of_its_own_group_then_of_the_shared_one(
    tmp_path: Path, syntax: str
) -> None:
    voi = [
        group(
            FrameVOILUTSequence=[group(VOILUTSequence=[lut(k, 16, words([k], syntax), entries=1)])]
        )
        for k in (1, 2)
    ]
    window = group(FrameVOILUTSequence=[group(WindowCenter="1", WindowWidth="2")])
    shared = group(
        FrameVOILUTSequence=[group(VOILUTSequence=[lut(65535, 16, words([9], syntax), entries=1)])]
    )
    negative = group(RescaleSlope="1", RescaleIntercept="-1", RescaleType="US")
    voi.append(group(PixelValueTransformationSequence=[negative]))
    path = write(tmp_path / "a", enhanced([*voi, window], shared), syntax)
    assert [lookup_reading_module.voi_luts(path, k)[0].first for k in (1, 2, 3, 4)] == [
        1,
        2,
        -1,
        65535,
    ]


# --- palettes -------------------------------------------------------------------------------------


def random_channels(bits: int, entries: int = 256, seed: int = 4) -> list[Array]:
    return list(np.random.default_rng(seed).integers(0, 1 << bits, (3, entries)))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("first", [0, 20])
def test_a_palette_is_read_whatever_its_width_and_byte_order(
    tmp_path: Path, syntax: str, bits: int, first: int
) -> None:
    channels = random_channels(bits)
    code = octets if bits == 8 else words
    dataset = palette_image([((256, first, bits), code(channel, syntax)) for channel in channels])
    path = write(tmp_path / "a", dataset, syntax)
    indices = np.arange(300, dtype="u2").reshape(3, 10, 10)
    rgb = lookup_reading_module.palette(path)(indices)
    assert rgb.dtype == (np.uint8 if bits == 8 else np.uint16) and rgb.shape == (3, 10, 10, 3)
    assert np.array_equal(rgb, np.stack(channels, -1)[np.clip(indices.astype(int) - first, 0, 255)])
    # pydicom reads big-endian tables as little-endian ones, and its indices into 8-bit tables
    # wrap at 256
    if syntax != BIG:
        few = indices[indices < 256]
        assert np.array_equal(
            lookup_reading_module.palette(path)(few),
            apply_color_lut(few, pydicom.dcmread(path)),
        )


def test_palettes_map_negative_indices_and_more_than_256_entries_of_8_bits(tmp_path: Path) -> None:
    channels = random_channels(8, 1000)
    path = write(
        tmp_path / "a",
        palette_image([((1000, -500, 8), octets(channel)) for channel in channels], signed=1),
    )
    indices = np.arange(-700, 700, dtype="i2")
    assert np.array_equal(
        lookup_reading_module.palette(path)(indices),
        np.stack(channels, -1)[np.clip(indices + 500, 0, 999)],
    )


def test_channels_with_descriptors_of_their_own_each_follow_it(tmp_path: Path) -> None:
    red, green, blue = (
        channel[:n] for channel, n in zip(random_channels(8), (256, 100, 50), strict=True)
    )
    wide = blue.astype(int) * 257 ^ 1
    parts = [((256, 0, 8), octets(red)), ((100, 30, 8), words(green)), ((50, 250, 16), words(wide))]
    path = write(tmp_path / "a", palette_image(parts))
    indices = np.arange(400)
    rgb = lookup_reading_module.palette(path)(indices)
    # One channel needs 16 bits: entries of 8 bits are scaled to the full range.
    assert rgb.dtype == np.uint16
    assert np.array_equal(rgb[:, 0], red[np.clip(indices, 0, 255)] * 257)
    assert np.array_equal(rgb[:, 1], green[np.clip(indices - 30, 0, 99)] * 257)
    assert np.array_equal(rgb[:, 2], wide[np.clip(indices - 250, 0, 49)])


@pytest.mark.parametrize(("bits", "code"), [(16, octets), (8, words), (16, words)])
def test_8_bit_colours_are_8_bits_whatever_the_descriptor_and_the_words_say(
    tmp_path: Path, bits: int, code: Any
) -> None:
    channels = random_channels(8)
    path = write(
        tmp_path / "a", palette_image([((256, 0, bits), code(channel)) for channel in channels])
    )
    found = lookup_reading_module.palette(path)
    assert found.bits == 8 and np.array_equal(found.colours, np.stack(channels, -1))


def test_16_bit_colours_are_16_bits_although_the_descriptor_says_8_and_12_bits_are_spread(
    tmp_path: Path,
) -> None:
    # a channel that is dark stays dark
    channels = [channel >> shift for shift, channel in enumerate(random_channels(16))]
    path = write(
        tmp_path / "a", palette_image([((256, 0, 8), words(channel)) for channel in channels])
    )
    assert np.array_equal(lookup_reading_module.palette(path).colours, np.stack(channels, -1))
    path = write(tmp_path / "b", palette_image([((2, 0, 12), words([0, 4095]))] * 3))
    assert lookup_reading_module.palette(path).colours.tolist() == [[0] * 3, [65535] * 3]


def test_a_palette_in_8_bits_is_what_rounding_the_pixels_gives() -> None:
    wide = Palette(3, 16, words(np.random.default_rng(1).integers(0, 65536, 600)))
    indices = np.arange(250)
    assert np.array_equal(wide.in_8_bits()(indices), np.rint(wide(indices) / 257).astype("u1"))
    assert wide.in_8_bits().in_8_bits() == wide.in_8_bits()


SEGMENTS = [0, 3, 10, 20, 30, 1, 4, 50, 0, 1, 7, 1, 5, 0]  # discrete, linear, discrete, linear
EXPANDED = [10, 20, 30, 35, 40, 45, 50, 7, 6, 4, 3, 1, 0]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("bits", [8, 16])
def test_segments_are_expanded_as_the_standard_says_and_as_pydicom_does(
    tmp_path: Path, syntax: str, bits: int
) -> None:
    code = octets if bits == 8 else words
    path = write(
        tmp_path / "a",
        palette_image([((13, 0, bits), code(SEGMENTS, syntax))] * 3, segmented=True),
        syntax,
    )
    red = lookup_reading_module.palette(path).colours[:, 0]
    assert red.tolist() == EXPANDED
    # pydicom does not swap the bytes of big-endian words.
    if not (syntax == BIG and bits == 8):
        assert np.array_equal(red, apply_color_lut(np.arange(13), pydicom.dcmread(path))[:, 0])


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_indirect_segments_repeat_earlier_ones_from_a_byte_or_an_entry_offset(
    tmp_path: Path, syntax: str
) -> None:
    start = [1, 2, 3, 4]  # the line of 4 begins at entry 5
    for number, (bits, offset) in enumerate([(16, 10), (16, 5), (8, 5)]):
        code, tail = (octets, [offset, 0, 0, 0]) if bits == 8 else (words, [offset, 0])
        data = [*SEGMENTS, 2, 2, *tail]
        path = write(
            tmp_path / f"{number}",
            palette_image([((18, 0, bits), code(data, syntax))] * 3, segmented=True),
            syntax,
        )
        assert lookup_reading_module.palette(path).colours[:, 0].tolist() == [
            *EXPANDED,
            *np.rint(np.array(start) * 12.5).astype(int),
            7,
        ]


@pytest.mark.parametrize(
    "codes",
    [
        [1, 5, 9],  # a line from nowhere
        [2, 1, 0, 0],  # repeats nothing
        [0, 5, 1, 2],  # cut
        [3, 1, 1],  # unknown
        [0, 0, 1, 0, 0, 1],  # empty
        [0, 1, 9, 2, 1, 40, 0],  # behind the end
        [0, 1, 9, 2, 1, 6, 0],  # itself
        [0, 1, 9, 2, 9, 0, 0],  # more than there are
        [0, 1, 9, 2, 1, 0, 0, 2, 1, 6, 0],  # another indirect one
        [0, 1, 9],  # too few
        [],
    ],
)
def test_damaged_segments_are_typed_errors(tmp_path: Path, codes: list[int]) -> None:
    path = write(tmp_path / "a", palette_image([((30, 0, 16), words(codes))] * 3, segmented=True))
    with pytest.raises(PixelError) as raised:
        lookup_reading_module.palette(path)
    assert raised.value.__notes__ == [f"file: {path}"]


@pytest.mark.slow
def test_segments_that_repeat_without_end_stop_at_the_number_of_entries(tmp_path: Path) -> None:
    codes = [0, 1, 1] * 20000 + [2, 20000, 0, 0] * 20000
    path = write(tmp_path / "a", palette_image([((0, 0, 16), words(codes))] * 3, segmented=True))
    assert len(lookup_reading_module.palette(path).colours) == 65536


def test_files_without_a_palette_for_all_values_are_typed_errors(tmp_path: Path) -> None:
    channels = [((256, 0, 8), octets(channel)) for channel in random_channels(8)]
    supplemental = palette_image(channels)
    supplemental.PhotometricInterpretation, supplemental.PixelPresentation = "MONOCHROME2", "COLOR"
    cases = [
        supplemental,
        image(),
        palette_image(channels[:2]),
        palette_image([((256, 0, 16), octets(range(200)))] * 3),
        palette_image([((256, 0, 20), words(range(256)))] * 3),
    ]
    for number, dataset in enumerate(cases):
        with pytest.raises(PixelError):
            lookup_reading_module.palette(write(tmp_path / f"{number}", dataset))


# --- real-world maps ------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_linear_maps_are_read_at_the_top_level_in_shared_and_in_per_frame_groups(
    tmp_path: Path, syntax: str
) -> None:
    maps = [
        linear(0, 4095, slope, -3.5, units="cm/s", LUTLabel="VELOCITY") for slope in (0.1, 0.2, 0.3)
    ]
    top = image(RealWorldValueMappingSequence=[maps[0]])
    assert lookup_reading_module.real_world_maps(write(tmp_path / "top", top, syntax)) == (
        RealWorldMap(0, 4095, 0.1, -3.5, b"", "cm/s", "VELOCITY"),
    )
    frames = [group(RealWorldValueMappingSequence=[maps[1]]), Dataset()]
    dataset = enhanced(
        frames,
        group(RealWorldValueMappingSequence=maps[2:]),
        RealWorldValueMappingSequence=maps[:1],
    )
    path = write(tmp_path / "enhanced", dataset, syntax)
    assert [lookup_reading_module.real_world_maps(path, number)[0].slope for number in (1, 2)] == [
        0.2,
        0.3,
    ]
    assert lookup_reading_module.real_world_maps(write(tmp_path / "none", image(), syntax)) == ()


@pytest.mark.parametrize(
    ("pixels", "vr_signed", "first", "last", "expected"),
    [
        (0, False, 0, 65535, (0, 65535)),
        (1, True, -2048, 2047, (-2048, 2047)),
        (1, False, 0xF800, 2047, (-2048, 2047)),  # US written for signed pixels
        (1, False, 0, 65535, (0, 65535)),  # could only be meant unsigned
        (0, True, -1024, 3071, (-1024, 3071)),  # could only be meant signed
        (None, True, -5, 5, (-5, 5)),  # float pixels have no Pixel Representation
        (None, True, -9, -5, (-9, -5)),
    ],
)
def test_the_range_is_signed_as_the_pixels_are_unless_it_makes_no_sense(
    tmp_path: Path,
    pixels: int | None,
    vr_signed: bool,
    first: int,
    last: int,
    expected: tuple[int, int],
) -> None:
    dataset = image(
        pixels or 0, RealWorldValueMappingSequence=[linear(first, last, 1.0, 0.0, signed=vr_signed)]
    )
    if pixels is None:
        del dataset.PixelRepresentation
    found = lookup_reading_module.real_world_maps(write(tmp_path / "a", dataset))[0]
    assert (found.first, found.last) == expected


@pytest.mark.quick(3)
@pytest.mark.filterwarnings("ignore:The value for the data element")
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("entries", [5, 30000])  # an FD of more than 64 kB is written as UN
def test_tables_of_doubles_are_read_cut_to_the_range_and_refused_when_short(
    tmp_path: Path, syntax: str, entries: int
) -> None:
    values = np.random.default_rng(5).normal(size=entries)
    item = world(10, 9 + entries, RealWorldValueLUTData=values.tolist())
    path = write(tmp_path / "a", image(RealWorldValueMappingSequence=[item]), syntax)
    found = lookup_reading_module.real_world_maps(path)[0]
    assert found == RealWorldMap(
        10, 9 + entries, table=values.astype("<f8").tobytes(), units="mm2/s"
    )
    stored = np.arange(0, 20 + entries, dtype="u2")
    result = found(stored)
    assert result.dtype == np.float32 and np.array_equal(
        result[10 : 10 + entries], values.astype("f4")
    )
    assert np.isnan(result[:10]).all() and np.isnan(result[10 + entries :]).all()
    item.RealWorldValueLUTData = values[:-1].tolist()
    with pytest.raises(IntensityError) as raised:
        lookup_reading_module.real_world_maps(
            write(tmp_path / "b", image(RealWorldValueMappingSequence=[item]), syntax)
        )
    assert (raised.value.expected_entries, raised.value.found_entries) == (entries, entries - 1)


def test_the_double_float_range_goes_first(tmp_path: Path) -> None:
    item = linear(-0.5, 1e9, 2.0, 1.0, exact=True)
    item.add_new(0x00409216, "US", 3)
    item.add_new(0x00409211, "US", 4)
    found = lookup_reading_module.real_world_maps(
        write(tmp_path / "a", image(RealWorldValueMappingSequence=[item]))
    )[0]
    assert (found.first, found.last) == (-0.5, 1e9)
    assert found(np.array([-0.6, -0.5, 0.25, np.nan], "f4")).tolist()[1:3] == [0.0, 1.5]


@pytest.mark.parametrize("dtype", ["u1", "i2", ">u2", "i4", "i8", "f4", "f8"])
def test_real_world_values_are_computed_in_double_precision_and_are_nan_outside(dtype: str) -> None:
    one = RealWorldMap(-3, 99, 0.1, 1 / 3)
    stored = np.random.default_rng(6).integers(0, 120, (300, 301)).astype(dtype)
    expected = (stored.astype("f8") * 0.1 + 1 / 3).astype("f4")
    expected[stored > 99] = np.nan
    assert np.array_equal(one(stored), expected, equal_nan=True)
    out = np.empty((301, 300), "f4").T
    assert one(stored, out) is out and np.array_equal(out, expected, equal_nan=True)
    with pytest.raises(UsageError):
        one(stored, np.empty(3, "f4"))


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(IntensityError):
        RealWorldMap(0, 10, 1e38, 0)(np.arange(5))
    assert RealWorldMap(0, 3, 1e38, 0)(np.arange(4)).tolist()[0] == 0


def test_unusable_items_are_typed_errors(tmp_path: Path) -> None:
    items = [
        world(0, 5),
        linear(5, 0, 1.0, 0.0),
        linear(0, 5, float("nan"), 0.0),
        linear(0, 5, 1.0, float("inf")),
    ]
    rangeless = linear(0, 5, 1.0, 0.0)
    del rangeless.RealWorldValueLastValueMapped
    for number, item in enumerate(
        [*items, rangeless, linear(0.0, float("nan"), 1.0, 0.0, exact=True)]
    ):
        with pytest.raises(IntensityError):
            lookup_reading_module.real_world_maps(
                write(tmp_path / f"{number}", image(RealWorldValueMappingSequence=[item]))
            )


def test_maps_are_values_that_do_not_print_their_label() -> None:
    one = RealWorldMap(0, 1, table=bytes(16), units="1", label="Smith")
    assert through_pickle(one) == one and hash(one) == hash(
        RealWorldMap(0.0, 1.0, 1.0, 0.0, bytes(16), "1", "Smith")
    )
    assert "Smith" not in repr(one) and "x00" not in repr(one)
    with pytest.raises(IntensityError):
        RealWorldMap(0, 2, table=bytes(16))


def test_maps_are_chosen_by_number_units_or_label() -> None:
    maps = (
        RealWorldMap(0, 9, 1, 0, b"", "mm2/s", "ADC"),
        RealWorldMap(0, 9, 2, 0, b"", "1", "FA"),
        RealWorldMap(0, 9, 3, 0, b"", "ms"),
    )
    assert [select_real_world_map(maps, which) for which in (1, np.int64(1), "1", "FA")] == [
        maps[1]
    ] * 4  # type: ignore[arg-type]
    assert select_real_world_map(maps, "ms") is maps[2]
    for which in (3, -1, "s", "Smith"):
        with pytest.raises(IntensityError) as raised:
            select_real_world_map(maps, which)
        assert raised.value.units == ("mm2/s", "1", "ms")
        assert (
            "'mm2/s', '1', 'ms'" in str(raised.value)
            and "ADC" not in str(raised.value)
            and "Smith" not in str(raised.value)
        )
    with pytest.raises(IntensityError):
        select_real_world_map((), 0)


def test_maps_to_the_same_units_with_disjoint_ranges_are_used_as_one() -> None:
    upper, lower = RealWorldMap(100, 199, 2, 0, b"", "HU"), RealWorldMap(0, 49, 1, 0.5, b"", "HU")
    both = select_real_world_map((upper, lower, upper), "HU")
    assert isinstance(both, RealWorldMaps) and both.units == "HU" and through_pickle(both) == both
    stored = np.arange(250)
    expected = np.where(
        stored < 50, stored + 0.5, np.where((stored >= 100) & (stored < 200), stored * 2.0, np.nan)
    ).astype("f4")
    assert np.array_equal(both(stored), expected, equal_nan=True)
    with pytest.raises(IntensityError):
        select_real_world_map((upper, lower, RealWorldMap(49, 60, 1, 0, b"", "HU")), "HU")
    with pytest.raises(IntensityError):
        RealWorldMaps((upper, RealWorldMap(0, 9, 1, 0, b"", "mm")))
    assert select_real_world_map((upper, upper), "HU") == upper


def test_highdicom_maps_the_same(tmp_path: Path) -> None:
    pm = pytest.importorskip("highdicom.pm")
    from highdicom.sr.coding import CodedConcept

    units = CodedConcept("mm2/s", "UCUM", "mm2/s")
    values = np.random.default_rng(7).normal(size=300)
    items = [
        pm.RealWorldValueMapping("ADC", "x", units, (0, 299), slope=0.37, intercept=-11.5),
        pm.RealWorldValueMapping("ADC2", "x", units, (0, 299), lut_data=values.tolist()),
        pm.RealWorldValueMapping("ADC3", "x", units, (0.0, 299.0), slope=1e-6, intercept=0.25),
    ]
    found = lookup_reading_module.real_world_maps(
        write(tmp_path / "a", image(RealWorldValueMappingSequence=items))
    )
    stored = np.arange(300, dtype="u2")
    assert [one.label for one in found] == ["ADC", "ADC2", "ADC3"] and {
        one.units for one in found
    } == {"mm2/s"}
    for one, item in zip(found, items, strict=True):
        assert np.array_equal(one(stored), item.apply(stored).astype("f4"))


# --- files ----------------------------------------------------------------------------------------


def test_frames_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", enhanced([Dataset(), Dataset()]))
    for number in (0, 3, -1):
        with pytest.raises(UsageError) as raised:
            lookup_reading_module.real_world_maps(path, number)
        assert (raised.value.frame_number, raised.value.frames) == (number, 2)
    short = enhanced([Dataset(), Dataset()])
    short.NumberOfFrames = 5
    path = write(tmp_path / "b", short)
    with pytest.raises(IntensityError) as failed:
        lookup_reading_module.voi_luts(path, 3)
    assert (failed.value.expected_items, failed.value.found_items) == (5, 2)


@pytest.mark.slow
def test_a_file_is_parsed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []
    read = rawtables._read_header
    monkeypatch.setattr(rawtables, "_read_header", lambda path: parsed.append(path) or read(path))
    frames = [
        group(RealWorldValueMappingSequence=[linear(0, 9, slope, 0.0)]) for slope in range(1, 51)
    ]
    path = write(tmp_path / "a", enhanced(frames))
    assert [
        lookup_reading_module.real_world_maps(path, number)[0].slope for number in range(1, 51)
    ] == list(range(1, 51))
    assert lookup_reading_module.voi_luts(str(path), 7) == ()
    assert len(parsed) == 1
    write(path, image(RealWorldValueMappingSequence=[linear(0, 9, 77.0, 0.0)]))
    assert lookup_reading_module.real_world_maps(path)[0].slope == 77 and len(parsed) == 2
    for number in range(100):
        copy = tmp_path / f"copy{number}"
        copy.write_bytes(path.read_bytes())
        assert lookup_reading_module.real_world_maps(copy)[0].slope == 77
    assert len(parsed) == 102


def test_what_is_no_file_or_no_dicom_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Secret^Person " * 100)
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name in ("text", "empty", "pipe", "absent", "."):
        for read, failure in (
            (lookup_reading_module.modality_lut, IntensityError),
            (lookup_reading_module.real_world_maps, IntensityError),
            (lookup_reading_module.palette, PixelError),
        ):
            with pytest.raises(failure) as raised:
                read(tmp_path / name)
            assert "Secret" not in str(raised.value) and raised.value.__notes__ == [
                f"file: {tmp_path / name}"
            ]


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a", image(ModalityLUTSequence=[lut(0, 16, words([3]), entries=1)]))
    data = path.read_bytes()
    path.write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])
    assert lookup_reading_module.modality_lut(path) == table([3])


@pytest.mark.slow
def test_of_a_deflated_file_only_a_bounded_part_is_inflated(tmp_path: Path) -> None:
    plain = write(
        tmp_path / "a", image(ModalityLUTSequence=[lut(0, 16, words([3]), entries=1)])
    ).read_bytes()
    start = 144 + int.from_bytes(plain[140:144], "little")
    uid = plain.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(plain[uid + 6 : uid + 8], "little")
    deflated_uid = b"\x02\x00\x10\x00UI\x16\x00" + DEFLATED.encode()
    meta = plain[144:uid] + deflated_uid + plain[uid + 8 + length : start]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (
        packer.compress(plain[start:])
        + b"".join(packer.compress(bytes(1 << 20)) for _ in range(150))
        + packer.flush()
    )
    path = tmp_path / "b"
    path.write_bytes(plain[:140] + len(meta).to_bytes(4, "little") + meta + packed)
    assert pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows"]).Rows == 2
    assert lookup_reading_module.modality_lut(path) == table([3])


@pytest.mark.slow
def test_damaged_files_give_an_answer_or_a_typed_error(tmp_path: Path) -> None:
    rng = random.Random(8)
    frames = [
        group(
            RealWorldValueMappingSequence=[linear(0, 9, 1.0, 0.0)],
            FrameVOILUTSequence=[group(WindowCenter="1")],
        )
    ] * 2
    rich = palette_image([((13, 0, 16), words(SEGMENTS))] * 3, segmented=True)
    rich.ModalityLUTSequence = [lut(0, 16, words([1, 2, 3]), entries=3)]
    rich.VOILUTSequence = [lut(0, 8, octets([1, 2, 3]), entries=3)]
    rich.NumberOfFrames, rich.PerFrameFunctionalGroupsSequence = 2, frames
    whole = write(tmp_path / "a", rich).read_bytes()
    path = tmp_path / "b"
    for _ in range(150):
        data = bytearray(whole[: rng.randrange(300, len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(132, len(data))] = rng.choice((0, 255, rng.randrange(256)))
        path.write_bytes(data)
        for read in (
            lookup_reading_module.modality_lut,
            lookup_reading_module.voi_luts,
            lookup_reading_module.real_world_maps,
            lookup_reading_module.palette,
        ):
            try:
                read(path)
            except DicomdlError as error:
                assert "Secret" not in str(error)


# --- real files -----------------------------------------------------------------------------------


def test_the_palette_that_pydicom_ships_gives_its_colours() -> None:
    path = PYDICOM_FILES / "examples_palette.dcm"
    dataset = pydicom.dcmread(path)
    assert np.array_equal(
        lookup_reading_module.palette(path)(dataset.pixel_array),
        apply_color_lut(dataset.pixel_array, dataset)[..., :3],
    )


PALETTES = [
    *(
        f"pypi+pydicom_data/data_store/data/{name}.dcm"
        for name in ("OBXXXX1A", "OBXXXX1A_2frame", "gdcm-US-ALOKA-16")
    ),
    "ImagingDataCommons+highdicom/data/test_files/seg_image_sm_control_labelmap_palette_color.dcm",
    *(
        f"cornerstonejs+cornerstone3D/packages/dicomImageLoader/testImages/{name}.dcm"
        for name in ("no-pixel-spacing", "TestPattern_Palette_16", "TestPattern_Palette")
    ),
]


@pytest.mark.parametrize("name", PALETTES)
def test_real_palettes_give_the_colours_that_pydicom_gives(corpus: Path, name: str) -> None:
    dataset = pydicom.dcmread(corpus / name)
    indices = dataset.pixel_array
    assert np.array_equal(
        lookup_reading_module.palette(corpus / name)(indices),
        apply_color_lut(indices, dataset)[..., :3],
    )


def test_real_luts_give_the_values_that_pydicom_gives(corpus: Path) -> None:
    folder = corpus / "pypi+pydicom_data/data_store/data"
    modality, voi = pydicom.dcmread(folder / "mlut_18.dcm"), pydicom.dcmread(folder / "vlut_04.dcm")
    found = lookup_reading_module.modality_lut(folder / "mlut_18.dcm")
    assert found.first == -2048 and np.array_equal(
        found(modality.pixel_array), apply_modality_lut(modality.pixel_array, modality)
    )
    assert np.array_equal(
        lookup_reading_module.voi_luts(folder / "vlut_04.dcm")[0](voi.pixel_array),
        apply_voi(voi.pixel_array, voi),
    )


@pytest.mark.parametrize(
    "name",
    [
        "pypi+pydicom_data/data_store/data/eCT_Supplemental.dcm",
        "cornerstonejs+dicomParser/testImages/encapsulated/multi-frame/CT0012.not_fragmented_bot_rle.dcm",
    ],
)
def test_real_maps_give_the_values_that_highdicom_gives(corpus: Path, name: str) -> None:
    hd = pytest.importorskip("highdicom")
    picture = hd.imread(corpus / name)
    for number in (1, 2):
        expected = picture.get_frame(
            number, apply_real_world_transform=True, dtype=np.float64
        ).astype("f4")
        assert np.array_equal(
            lookup_reading_module.real_world_maps(corpus / name, number)[0](
                picture.get_stored_frame(number)
            ),
            expected,
        )


def test_every_frame_of_an_enhanced_philips_file_has_its_own_map(corpus: Path) -> None:
    path = corpus / "neurolabusc+dcm_qa_enh/In/Philips/IM_0027_fMAP.dcm"
    groups = pydicom.dcmread(path, stop_before_pixels=True).PerFrameFunctionalGroupsSequence
    for number, frame in enumerate(groups, 1):
        (found,) = lookup_reading_module.real_world_maps(path, number)
        item = frame.RealWorldValueMappingSequence[0]
        assert (found.slope, found.intercept) == (
            item.RealWorldValueSlope,
            item.RealWorldValueIntercept,
        )
        assert found.units == item.MeasurementUnitsCodeSequence[0].CodeValue

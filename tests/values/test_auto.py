"""auto: projection images with the windows and tables that real devices write, from file to view.

Stored values are a ramp, so a wrong sign, scale or table is a wrong number at a known pixel. The
expected views are those of the standard's text; where dcmtk, cornerstone and dcm4che differ from
it or from each other, the comment says which of them the view follows.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

import dicomdl
from dicomdl.errors import IntensityError

Array = NDArray[Any]

STORAGE = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
}
# 0 .. 4095 in 64 x 64.
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
CURVE = np.rint((np.arange(4096) / 4095) ** 2 * 4095).astype(int)
FULL = {"WindowCenter": 2048, "WindowWidth": 4096}


def picture(modality: str = "CR", stored: Array = RAMP, **facts: Any) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = STORAGE[modality], "1.2.3.1"
    dataset.Modality, dataset.PatientID = modality, "P"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.2", "1.2.3.3"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    for name, value in facts.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.add_new(0x7FE00010, "OW", stored.astype("<u2").tobytes())
    return dataset


def lut(entries: Any, bits: int, first: int = 0, count: int | None = None, **how: Any) -> Dataset:
    item, entries = Dataset(), np.asarray(entries)
    count = len(entries) if count is None else count
    item.add_new(0x00283002, "SS" if first < 0 else "US", [count & 0xFFFF, first, bits])
    data = entries.tolist() if how.get("vr") == "US" else entries.astype(how.get("dtype", "<u2"))
    item.add_new(0x00283006, *(("US", data) if isinstance(data, list) else ("OW", data.tobytes())))
    return item


def view(folder: Path, dataset: Dataset) -> Array:
    """Return the view of a file under "auto", (64, 64) float32."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    folder.mkdir(exist_ok=True)
    dataset.save_as(folder / "a.dcm", enforce_file_format=True)
    index = dicomdl.scan(folder, folder / "index", progress=False)
    volume = dicomdl.read_volume(index.stacks[0], irregular="accept").window("auto")
    pytest.importorskip("torch")
    frames = dicomdl.FrameDataset(index, intensity="auto")
    assert np.array_equal(frames[0]["image"][0].numpy(), volume.array[0])
    return volume.array[0]


# Stored value -> view for the curve: 0, the middle and the end.
CURVED = {0: 0.0, 2048: CURVE[2048] / 4095, 4095: 1.0}
EIGHT = np.rint(CURVE / 16.06).astype(int)
TABLES: dict[str, tuple[Any, dict[int, float]]] = {
    "12 bits as declared": (lut(CURVE, 12), CURVED),
    # An image may only declare 8 or 16 (C.11.2.1.1). cornerstone and dcm4che take the bits that
    # the entries use, Weasis their range; dcmtk takes the descriptor, which is 16 times darker.
    "16 bits declared for 12": (lut(CURVE, 16), CURVED),
    "16 bits declared for a largest entry of 4000": (
        lut(np.minimum(CURVE, 4000), 16),
        {0: 0.0, 2048: CURVE[2048] / 4095, 4095: 4000 / 4095},
    ),
    "a largest entry of 4096, one more than 12 bits": (
        lut(CURVE + (CURVE == 4095), 16),
        {0: 0.0, 2048: CURVE[2048] / 4096, 4095: 1.0},
    ),
    "16 bits in use": (lut(CURVE * 16, 16), {0: 0.0, 4095: 4095 * 16 / 65535}),
    "entries beyond 10 declared bits": (lut(CURVE, 10), CURVED),
    "8 bits, one per word": (lut(EIGHT, 8), {0: 0.0, 2048: EIGHT[2048] / 255, 4095: 1.0}),
    # PS3.3 C.11.2.1.1: 8 bits allocated.
    "8 bits, two per word": (
        lut(EIGHT, 8, dtype="u1"),
        {0: 0.0, 2048: EIGHT[2048] / 255, 4095: 1.0},
    ),
    "8 bits, an odd number, padded": (
        lut([*EIGHT[:4001], 0], 8, count=4001, dtype="u1"),
        {0: 0.0, 4000: EIGHT[4000] / 255, 4095: EIGHT[4000] / 255},
    ),
    # dcmtk takes them as bytes as well, of 16 bits.
    "16 bits declared for bytes": (
        lut(EIGHT, 16, dtype="u1"),
        {0: 0.0, 2048: EIGHT[2048] / 255, 4095: 1.0},
    ),
    "US instead of OW": (lut(CURVE, 12, vr="US"), CURVED),
    "a count of 0, which is 65536": (
        lut(np.minimum(np.arange(65536), 4095), 12, count=0),
        {0: 0.0, 2048: 2048 / 4095, 4095: 1.0},
    ),
    "a first value of 1000": (
        lut([0, 4095], 12, first=1000),
        {0: 0.0, 1000: 0.0, 1001: 1.0, 4095: 1.0},
    ),
    # US by the standard, 65436: all values would be below the table and black.
    "a first value of -100 for values from 0": (
        lut(np.arange(4196), 13, first=65436),
        {0: 100 / 8191, 4095: 4195 / 8191},
    ),
    "a falling table": (lut(CURVE[::-1], 12), {0: 1.0, 4095: 0.0}),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", TABLES)
def test_a_voi_lut_spans_black_to_white_whatever_its_descriptor_says(tmp_path: Path, name: str):
    item, expected = TABLES[name]
    seen = view(tmp_path, picture(VOILUTSequence=[item])).ravel()
    for stored, value in expected.items():
        assert seen[stored] == pytest.approx(value, abs=2e-7)


@pytest.mark.parametrize("modality", STORAGE)
def test_monochrome1_is_inverted_after_the_table(tmp_path: Path, modality: str):
    dataset = picture(
        modality, PhotometricInterpretation="MONOCHROME1", VOILUTSequence=[lut(CURVE, 16)]
    )
    assert view(tmp_path, dataset).ravel()[[0, 2048, 4095]] == pytest.approx(
        [1.0, 1 - CURVE[2048] / 4095, 0.0]
    )


def test_the_photometric_interpretation_may_be_in_small_letters(tmp_path: Path):
    dataset = picture(PhotometricInterpretation="monochrome1", **FULL)
    assert view(tmp_path, dataset).ravel()[[0, 4095]].tolist() == [1, 0]
    assert dicomdl.open_index(tmp_path / "index").frame(0).photometric_interpretation == (
        "MONOCHROME1"
    )


def test_photometric_interpretation_decides_over_a_contradicting_presentation_lut_shape(
    tmp_path: Path,
):
    # C.8.11.3 couples INVERSE with MONOCHROME1. dcmtk and dcm4che follow the shape, cornerstone the
    # photometric interpretation; files with a wrong shape are known, so the shape does not count.
    facts = {**FULL, "PresentationLUTShape": "INVERSE"}
    assert view(tmp_path / "a", picture("DX", **facts)).ravel()[[0, 4095]].tolist() == [0, 1]
    facts |= {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}
    assert view(tmp_path / "b", picture("DX", **facts)).ravel()[[0, 4095]].tolist() == [1, 0]


UNUSABLE = {
    "empty": {"WindowCenter": "", "WindowWidth": ""},
    "without a center": {"WindowCenter": "", "WindowWidth": 4096},
    "without a width": {"WindowCenter": 2048},
    "of width 0": {"WindowCenter": 0, "WindowWidth": 0},
    "of a negative width": {"WindowCenter": 2048, "WindowWidth": -1},
    "of another function": {**FULL, "VOILUTFunction": "LOG"},
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_table_or_percentiles_replace_an_unusable_window(tmp_path: Path, name: str):
    with_table = picture(**UNUSABLE[name], VOILUTSequence=[lut(CURVE, 16)])
    assert view(tmp_path / "a", with_table).ravel()[2048] == pytest.approx(CURVE[2048] / 4095)
    without = view(tmp_path / "b", picture(**UNUSABLE[name])).ravel()
    assert without[2048] == pytest.approx(0.5, abs=1e-3) and without[[0, 4095]].tolist() == [0, 1]


def test_the_first_usable_window_and_the_first_usable_table_count(tmp_path: Path):
    windows = picture(WindowCenter=[0, 2048, 100], WindowWidth=[0, 4096, 200])
    assert view(tmp_path / "a", windows).ravel()[2048] == pytest.approx(0.5, abs=1e-3)
    tables = picture(VOILUTSequence=[lut(CURVE[:9], 12, count=4096), lut(CURVE, 12)])
    assert view(tmp_path / "b", tables).ravel()[2048] == pytest.approx(CURVE[2048] / 4095)


def test_an_empty_value_at_the_end_is_no_second_window(tmp_path: Path):
    dataset = picture()
    for tag, text in ((0x00281050, b"2048\\"), (0x00281051, b"4096\\ ")):
        dataset[tag] = RawDataElement(Tag(tag), "DS", len(text), text, 0, False, True)
    assert view(tmp_path, dataset).ravel()[2048] == pytest.approx(2048 / 4095)


def test_a_table_that_contradicts_its_descriptor_is_no_table(tmp_path: Path):
    # 2048 words for 4096 entries of 16 bits are as many bytes as 4096 entries of 8 bits.
    dataset = picture(VOILUTSequence=[lut(CURVE[:2048], 16, count=4096)])
    assert view(tmp_path, dataset).ravel()[2048] == pytest.approx(0.5, abs=1e-3)
    index = dicomdl.open_index(tmp_path / "index")
    with pytest.raises(IntensityError, match="2048"):
        dicomdl.read_volume(index.stacks[0], irregular="accept").window("voi_lut")


@pytest.mark.parametrize("facts", [{"HighBit": None}, {"HighBit": 0}, {}])
def test_bits_above_bits_stored_are_no_part_of_the_value(tmp_path: Path, facts: dict[str, Any]):
    # PS3.5 8.1.1: an old overlay or junk. Without a usable High Bit, it is Bits Stored - 1.
    for number, more in enumerate((FULL, {"VOILUTSequence": [lut(np.arange(4096), 12)]})):
        dataset = picture(stored=RAMP | 0xA000, **facts, **more)
        seen = view(tmp_path / f"{number}", dataset).ravel()
        assert seen[[0, 4095]].tolist() == [0, 1]
        assert seen[2048] == pytest.approx(0.5, abs=1e-3)


def test_a_modality_lut_comes_before_the_voi_lut(tmp_path: Path):
    modality = lut(np.arange(4096)[::-1] * 16, 16)
    modality.ModalityLUTType = "US"
    voi = lut(np.arange(65536), 16, count=0)
    dataset = picture("DX", ModalityLUTSequence=[modality], VOILUTSequence=[voi])
    seen = view(tmp_path, dataset).ravel()
    assert seen[[0, 4095]] == pytest.approx([4095 * 16 / 65535, 0])


@pytest.mark.parametrize(("modality", "is_table"), [("CR", True), ("DX", False)])
@pytest.mark.parametrize("slope", [1, 2])
def test_of_a_modality_lut_and_a_rescale_the_one_of_the_image_module_applies(
    tmp_path: Path, modality: str, is_table: bool, slope: int
):
    table = lut(np.arange(4096)[::-1], 12)
    table.ModalityLUTType = "US"
    facts = {"RescaleSlope": slope, "RescaleIntercept": 0, "ModalityLUTSequence": [table]}
    view(tmp_path, picture(modality, **facts))
    (stack,) = dicomdl.open_index(tmp_path / "index").stacks
    values = dicomdl.read_volume(stack, irregular="accept").array[0]
    assert np.array_equal(values, 4095 - RAMP if is_table else slope * RAMP)


@pytest.mark.parametrize("sop_class", ["12.1", "12.2", "12.3"])
def test_the_modality_lut_of_angiography_does_not_come_before_the_window(
    tmp_path: Path, sop_class: str
):
    # C.8.7.1.1.2: it leads back to the intensity of X-rays.
    back = lut((np.arange(4096) ** 2) // 256, 16)
    back.ModalityLUTType = "US"
    facts = {"SOPClassUID": f"1.2.840.10008.5.1.4.1.1.{sop_class}", "Modality": "XA"}
    facts |= {"PixelIntensityRelationship": "LOG", "ModalityLUTSequence": [back]}
    seen = view(tmp_path, picture(WindowCenter=2048, WindowWidth=4096, **facts)).ravel()
    assert seen[[0, 1024, 4095]] == pytest.approx([0, 1024 / 4095, 1])
    (stack,) = dicomdl.open_index(tmp_path / "index").stacks
    assert np.array_equal(dicomdl.read_volume(stack, irregular="accept").array[0], RAMP)


@pytest.mark.parametrize("range_", [(100, None), (100, 0), (0, 100)])
def test_padding_has_no_part_in_percentiles_and_is_black(
    tmp_path: Path, range_: tuple[int, int | None]
):
    # C.7.5.1.1.2: the limit lies above the value for MONOCHROME2, below it for MONOCHROME1.
    low, high = min(n for n in range_ if n is not None), 100
    facts = {"PixelPaddingValue": range_[0]}
    if range_[1] is not None:
        facts["PixelPaddingRangeLimit"] = range_[1]
    stored = np.where(RAMP <= 100, high, RAMP)
    stored[0, 0] = low
    for photometric, first in (("MONOCHROME2", 0.0), ("MONOCHROME1", 0.0)):
        dataset = picture(stored=stored, PhotometricInterpretation=photometric, **facts)
        seen = view(tmp_path / photometric, dataset).ravel()
        assert seen[0] == seen[50] == first
        assert abs(float(seen[2098]) - 0.5) < 2e-3

"""reading and conversion: values by each frame's own rescale, table, map or SUV factor; padding."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from conftest import index_of
from phantoms import item, ramp, true_volume, write_series
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLSLossless

import dicomdl
from dicomdl.errors import IntensityError, SUVError, TooLarge, UsageError
from dicomdl.pixels.options import Decoding
from dicomdl.values import conversion as conversion_module
from dicomdl.values import reading as modality
from dicomdl.values.conversion import conversions
from dicomdl.values.intensity import Intensity
from dicomdl.values.quantity import RealWorld
from dicomdl.values.reading import read_converted
from dicomdl.values.sampling import stack_sample
from dicomdl.values.windows import Limits, Percentile
from dicomdl.volumes.pictures import montage

SHAPE = (4, 6, 9)


def only_stack(folder: Path) -> dicomdl.Stack:
    (stack,) = index_of(folder).stacks
    return stack


# --- Modality LUT ---------------------------------------------------------------------------------


def with_modality_lut(first: int, entries: Any, kind: str = "US") -> Any:
    def edit(dataset: Dataset, z: int) -> None:
        table = np.asarray(entries) + 10 * z  # each slice has its own
        words = pydicom.Sequence(
            [
                item(
                    LUTDescriptor=[len(table), first, 16],
                    ModalityLUTType=kind,
                    LUTData=table.astype("<u2").tobytes(),
                )[0]
            ]
        )
        words[0]["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
        words[0]["LUTData"].VR = "OW"
        dataset.ModalityLUTSequence = words

    return edit


def test_each_slice_has_its_own_modality_lut(folder: Path) -> None:
    entries = 3 * np.arange(300) + 5
    write_series(
        folder, shape=SHAPE, slope=None, intercept=None, edit=with_modality_lut(20, entries, "HU")
    )
    volume = dicomdl.read_volume(only_stack(folder))
    places = np.clip(ramp(SHAPE) - 20, 0, 299)
    assert volume.array.dtype == np.int16 and volume.units == "HU"
    assert np.array_equal(volume.array, entries[places] + 10 * np.arange(4)[:, None, None])
    for path in folder.iterdir():  # the second opinion
        dataset = pydicom.dcmread(path)
        theirs = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
        assert np.array_equal(volume.array[dataset.InstanceNumber - 1], theirs)


def test_a_modality_lut_of_16_bits_becomes_int32(folder: Path) -> None:
    write_series(
        folder,
        shape=SHAPE,
        slope=None,
        intercept=None,
        edit=with_modality_lut(0, np.linspace(0, 65000, 400)),
    )
    volume = dicomdl.read_volume(only_stack(folder))
    assert volume.array.dtype == np.int32 and volume.array.max() > 32767
    sample = dicomdl.FrameDataset(index_of(folder), intensity="modality")[2]
    assert np.array_equal(sample["image"][0].numpy(), volume.array[2])


def test_a_damaged_modality_lut_names_its_file_when_values_are_asked_for(folder: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        with_modality_lut(0, np.arange(400))(dataset, z)
        dataset.ModalityLUTSequence[0].LUTData = b"\1\0"

    write_series(folder, shape=SHAPE, slope=None, intercept=None, edit=edit)
    with pytest.raises(IntensityError) as caught:
        dicomdl.read_volume(only_stack(folder))
    assert any(str(folder) in note for note in caught.value.__notes__)


# --- padding --------------------------------------------------------------------------------------


def padded(value: int, limit: int | None = None) -> Any:
    def edit(dataset: Dataset, z: int) -> None:
        vr = "SS" if dataset.PixelRepresentation else "US"
        dataset.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", vr, limit)

    return edit


@pytest.mark.parametrize("limit", [None, -5e6])
@pytest.mark.parametrize(("prefix", "dtype"), [("Float", "<f4"), ("DoubleFloat", "<f8")])
def test_padding_of_float_pixels_is_none_of_their_values(
    folder: Path, prefix: str, dtype: str, limit: float | None
) -> None:
    values = (ramp(SHAPE) / 8).astype(dtype)
    values[:, 0, :2] = [-9999.1, -20000]  # no float32 is -9999.1

    def edit(dataset: Dataset, z: int) -> None:
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(dataset, name)
        dataset.BitsAllocated = 8 * values.itemsize
        setattr(dataset, f"{prefix}PixelData", values[z].tobytes())
        setattr(dataset, f"{prefix}PixelPaddingValue", -9999.1)
        if limit is not None:
            setattr(dataset, f"{prefix}PixelPaddingRangeLimit", limit)

    write_series(folder, shape=SHAPE, modality="MR", slope=None, intercept=None, edit=edit)
    volume = dicomdl.read_volume(only_stack(folder))
    expected = np.zeros(SHAPE, bool)
    expected[:, 0, : 1 if limit is None else 2] = True
    assert volume.padding is not None and np.array_equal(volume.padding, expected)
    assert np.array_equal(volume.array, values.astype(np.float32))
    image = values[~expected]
    windowed = volume.window(dicomdl.MinMax()).array
    assert not windowed[expected].any()
    scaled = (image - image.min()) / (image.max() - image.min())
    assert windowed[~expected] == pytest.approx(scaled, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "limit", "signed", "intercept"),
    [
        (30, None, False, -1024),
        (30, 60, False, 0.5),
        (60, 30, False, 0),
        (-2000, None, True, -24),
        (-2000, -1990, True, 0),
    ],
)
def test_padding_is_what_the_file_says_in_stored_values(
    folder: Path, value: int, limit: int | None, signed: bool, intercept: float
) -> None:
    stored = ramp(SHAPE)
    if signed:
        stored = stored - 100
        stored[:, 0, :5] = [-2000, -2001, -1990, -1995, -1989]
    write_series(
        folder,
        shape=SHAPE,
        stored=stored,
        bits_stored=16,
        signed=signed,
        intercept=intercept,
        edit=padded(value, limit),
    )
    low, high = sorted((value, value if limit is None else limit))
    volume = dicomdl.read_volume(only_stack(folder))
    expected = (stored >= low) & (stored <= high)
    assert volume.padding is not None and np.array_equal(volume.padding, expected)
    # the values stay what is stored
    assert np.array_equal(volume.array, (stored + intercept).astype(volume.array.dtype))


def test_a_volume_without_padding_has_no_mask(folder: Path) -> None:
    write_series(folder, shape=SHAPE, edit=padded(4000))
    assert dicomdl.read_volume(only_stack(folder)).padding is None


@pytest.mark.quick(4)
@pytest.mark.parametrize("padding", [0, 4095])
@pytest.mark.parametrize(
    "intensity",
    ["file", (100, 50), Percentile(5, 95), "voi_lut", "auto", Limits(10, 300, clip=False)],
)
def test_padding_is_the_lowest_value_after_windowing_and_in_no_percentile(
    folder: Path, padding: int, intensity: Any
) -> None:
    stored = ramp(SHAPE) + 50
    stored[:, :2] = padding

    def edit(dataset: Dataset, z: int) -> None:
        padded(padding)(dataset, z)
        dataset.WindowCenter, dataset.WindowWidth = 120, 100
        entries = np.arange(4096)[::-1]
        dataset.VOILUTSequence = item(
            LUTDescriptor=[4096, 0, 12], LUTData=entries.astype("<u2").tobytes()
        )
        dataset.VOILUTSequence[0]["LUTDescriptor"].VR, dataset.VOILUTSequence[0]["LUTData"].VR = (
            "US",
            "OW",
        )

    write_series(folder, shape=SHAPE, stored=stored, modality="MR", edit=edit)
    index = index_of(folder)
    volume = dicomdl.read_volume(index.stacks[0]).window(intensity)
    assert volume.padding is not None and volume.padding.sum() == 4 * 2 * 9
    assert (volume.array[volume.padding] <= volume.array.min()).all() and volume.array[
        ~volume.padding
    ].max() > volume.array.min()
    frames = dicomdl.FrameDataset(index, intensity=intensity)
    whole = dicomdl.VolumeDataset(index, intensity=intensity)[0]["image"][0].numpy()
    assert np.array_equal(whole, volume.array)
    for z in range(4):
        assert np.array_equal(frames[z]["image"][0].numpy(), volume.array[z])
    if isinstance(intensity, Percentile):
        expected = Percentile(5, 95).limits(stored[:, 2:].astype(np.int16))
        assert np.allclose(
            volume.array[:, 2:],
            np.clip((stored[:, 2:] - expected[0]) / (expected[1] - expected[0]), 0, 1),
            atol=1e-6,
        )
    if intensity == (100, 50):
        small = dicomdl.FrameDataset(index, intensity=intensity, size=(3, 4))[0]["image"]
        assert small.min() == 0  # padding is made low before it is mixed with others


def test_padding_of_an_inverted_projection_image_is_dark_like_the_rest_of_the_air(
    folder: Path,
) -> None:
    stored = ramp((1, 8, 8)) + 50
    stored[:, :2] = 4095
    write_series(
        folder,
        shape=(1, 8, 8),
        stored=stored,
        modality="DX",
        photometric="MONOCHROME1",
        edit=padded(4095),
    )
    image = dicomdl.FrameDataset(index_of(folder))[0]["image"][0].numpy()
    assert (image[:2] == 0).all() and image[2, 0] == 1


def test_a_stack_that_is_all_padding_becomes_blank_and_not_an_error(folder: Path) -> None:
    write_series(folder, shape=SHAPE, stored=np.full(SHAPE, 7), modality="MR", edit=padded(7))
    stack = only_stack(folder)
    assert not dicomdl.read_volume(stack).window("auto").array.any()
    assert set(stack_sample(stack).ravel()) == {7}


def test_the_mask_follows_the_volume_onto_other_grids(folder: Path) -> None:
    stored = ramp(SHAPE) + 50
    stored[:, :, :3] = 0
    write_series(folder, shape=SHAPE, stored=stored, spacing=(2, 1, 1), edit=padded(0))
    volume = dicomdl.read_volume(only_stack(folder))
    assert volume.padding is not None
    turned = volume.reorient("LPS")
    assert turned.padding is not None and np.array_equal(turned.padding, turned.array == 0)
    finer = volume.resample((1, 1, 1))
    assert finer.padding is not None and finer.padding.shape == finer.array.shape
    assert (
        np.array_equal(finer.padding[:, :, 0], np.ones(finer.padding.shape[:2], bool))
        and not finer.padding[:, :, 4:].any()
    )


def test_padding_of_a_hole_that_is_filled_is_that_of_its_neighbours(folder: Path) -> None:
    stored = ramp((7, 6, 9)) + 50
    stored[:, :, :3] = 0
    write_series(folder, shape=(7, 6, 9), stored=stored, drop=[3, 4], edit=padded(0))
    volume = dicomdl.read_volume(only_stack(folder), irregular="resample")
    assert volume.filled.sum() == 2 and volume.padding is not None
    assert volume.padding[:, :, :3].all() and not volume.padding[:, :, 3:].any()


# --- SUV ------------------------------------------------------------------------------------------


def pet(weight: float | None = 70.0, **more: Any) -> Any:
    """Return an edit to a PET in BQML, one hour and one half-life after the injection.

    Half of the dose is left.
    """

    def edit(dataset: Dataset, z: int) -> None:
        dataset.Units, dataset.CorrectedImage, dataset.DecayCorrection = (
            "BQML",
            ["ATTN", "DECY"],
            "START",
        )
        dataset.SeriesDate = dataset.AcquisitionDate = "20200101"
        dataset.SeriesTime = dataset.AcquisitionTime = "110000"
        dataset.PatientWeight = weight
        dose = {
            "RadionuclideTotalDose": 3.5e8,
            "RadionuclideHalfLife": 3600.0,
            "RadiopharmaceuticalStartTime": "100000",
        }
        dataset.RadiopharmaceuticalInformationSequence = item(**dose)
        for name, value in more.items():
            setattr(dataset, name, value)

    return edit


SLOPES = (0.5, 0.75, 1.25, 2.5)
FACTOR = 70_000 / 1.75e8


def test_suv_are_stored_values_by_each_slices_own_slope_and_one_factor(folder: Path) -> None:
    write_series(folder, shape=SHAPE, modality="PT", slope=SLOPES, edit=pet())
    stack = only_stack(folder)
    expected = (ramp(SHAPE) * np.array(SLOPES)[:, None, None] * FACTOR).astype(np.float32)
    volume = dicomdl.read_volume(stack, values="suv")
    assert volume.units == "GML" and volume.array.dtype == np.float32
    assert np.allclose(volume.array, expected, rtol=1e-6)
    assert np.allclose(dicomdl.read_volume(stack).suv().array, expected, rtol=1e-6)
    frame = dicomdl.FrameDataset(index_of(folder), intensity=dicomdl.SUV())[3]
    assert frame["units"] == "GML" and np.allclose(
        frame["image"][0].numpy(), expected[3], rtol=1e-6
    )
    mapped = dicomdl.VolumeDataset(index_of(folder), intensity=dicomdl.SUV(upper=0.1))[0]
    assert mapped["units"] == "1" and np.allclose(
        mapped["image"][0].numpy(), np.clip(expected / 0.1, 0, 1), rtol=1e-5
    )


def test_auto_maps_suv_and_never_guesses_them(folder: Path) -> None:
    write_series(folder / "with", shape=SHAPE, modality="PT", slope=100, edit=pet(), seed=1)
    index = index_of(folder)
    whole = dicomdl.VolumeDataset(index)[0]["image"][0].numpy()
    assert np.allclose(whole, np.clip(ramp(SHAPE) * 100 * FACTOR / 20, 0, 1), rtol=1e-5)
    assert np.array_equal(whole[1], dicomdl.FrameDataset(index)[1]["image"][0].numpy())
    assert np.allclose(
        dicomdl.read_volume(index.stacks[0], values="suv").window("auto").array, whole, atol=1e-6
    )
    assert np.allclose(dicomdl.read_volume(index.stacks[0]).window("auto").array, whole, atol=1e-6)


DOSE = {
    "RadionuclideTotalDose": "350000000",
    "RadionuclideHalfLife": "3600",
    "RadiopharmaceuticalStartTime": "100000",
}
OTHERS: dict[str, dict[str, Any]] = {
    "another dose": {**DOSE, "RadionuclideTotalDose": 235e6},
    "another time": {**DOSE, "RadiopharmaceuticalStartTime": "093000"},
    "another nuclide": {**DOSE, "RadionuclideHalfLife": 1200},
    "another tracer of the same dose": {**DOSE, "Radiopharmaceutical": "NaF"},
    "an unknown dose": {"Radiopharmaceutical": "NaF"},
}


def injections(*doses: dict[str, Any], **more: Any) -> Any:
    """Return an edit to a PET with one item per radiopharmaceutical."""
    return pet(RadiopharmaceuticalInformationSequence=[item(**dose)[0] for dose in doses], **more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        *((name, ExplicitVRLittleEndian) for name in OTHERS),
        ("another dose", ExplicitVRBigEndian),
    ],
)
def test_two_radiopharmaceuticals_give_no_suv_in_any_order(
    folder: Path, name: str, syntax: str
) -> None:
    for doses in ((DOSE, OTHERS[name]), (OTHERS[name], DOSE), (DOSE, OTHERS[name], DOSE)):
        place = folder / str(len(list(folder.glob("*"))))
        write_series(
            place, shape=SHAPE, modality="PT", edit=injections(*doses), transfer_syntax=syntax
        )
        stack = only_stack(place)
        with pytest.raises(SUVError, match="2 different items") as caught:
            dicomdl.read_volume(stack, values="suv")
        assert caught.value.attribute == "RadiopharmaceuticalInformationSequence (0054,0016)"
        with pytest.raises(SUVError, match="2 different items"):
            dicomdl.read_volume(stack).window("auto")
        assert stack.frame(0).radiopharmaceuticals == 2
        if name == "another dose":
            assert stack.frame(0).radionuclide_total_dose is None
            assert stack.frame(0).radionuclide_half_life == 3600
        assert dicomdl.read_volume(stack).units == "BQML"


@pytest.mark.slow
def test_repeated_and_empty_items_are_one_radiopharmaceutical(folder: Path) -> None:
    spelt = {
        "RadionuclideTotalDose": "3.5E+08",
        "RadionuclideHalfLife": "3600.0",
        "RadiopharmaceuticalStartTime": "100000",
        "Radiopharmaceutical": "",
    }
    blank = dict.fromkeys(DOSE, "")
    pairs = ((DOSE, DOSE), (DOSE, spelt), ({}, DOSE), (DOSE, {}), (DOSE, blank), (blank, DOSE))
    for number, doses in enumerate(pairs):
        write_series(folder / f"{number}", shape=SHAPE, modality="PT", edit=injections(*doses))
        stack = only_stack(folder / f"{number}")
        volume = dicomdl.read_volume(stack, values="suv")
        assert np.allclose(volume.array, ramp(SHAPE) * FACTOR, rtol=1e-6)
        assert stack.frame(0).radiopharmaceuticals == 1
    write_series(folder / "none", shape=SHAPE, modality="PT", edit=injections())
    with pytest.raises(SUVError, match="RadionuclideTotalDose"):
        dicomdl.read_volume(only_stack(folder / "none"), values="suv")


def test_one_slice_with_another_radiopharmaceutical_is_enough_for_none(folder: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        injections(DOSE, *([OTHERS["another dose"]] if z == 1 else []))(dataset, z)

    write_series(folder, shape=SHAPE, modality="PT", edit=edit)
    with pytest.raises(SUVError, match="RadiopharmaceuticalInformationSequence"):
        dicomdl.read_volume(only_stack(folder), values="suv")


def test_auto_raises_for_pet_without_suv_unless_it_may_take_percentiles(folder: Path) -> None:
    write_series(folder, shape=SHAPE, modality="PT", slope=100, edit=pet(weight=None))
    index = index_of(folder)
    # asked for by name
    for ask in (
        lambda: dicomdl.FrameDataset(index)[0],
        lambda: dicomdl.VolumeDataset(index)[0],
        lambda: dicomdl.read_volume(index.stacks[0]).window("auto"),
        lambda: dicomdl.read_volume(index.stacks[0], values="suv"),
        lambda: dicomdl.VolumeDataset(index, intensity=dicomdl.SUV(), suv="if_possible")[0],
    ):
        with pytest.raises(SUVError, match="PatientWeight") as caught:
            ask()
        assert "PatientWeight" in caught.value.attribute
    lenient = dicomdl.FrameDataset(index, suv="if_possible")[3]["image"]
    assert lenient.max() == 1 and lenient.min() >= 0
    # no SUV are needed
    assert dicomdl.FrameDataset(index, intensity="modality")[0]["units"] == "BQML"
    with pytest.raises(UsageError, match="suv="):
        dicomdl.FrameDataset(index, suv="maybe")  # type: ignore[arg-type]


def test_the_earliest_acquisition_is_sought_in_all_stacks_of_the_series(folder: Path) -> None:
    """Beds of different sizes are two stacks of one Series, with one start of the scan."""
    late = {"SeriesTime": "170000", "AcquisitionTime": "120000"}
    early = {"SeriesTime": "170000", "AcquisitionTime": "110000"}
    same = {"study_uid": "1.2.3", "series_uid": "1.2.3.4", "modality": "PT", "slope": 1}
    write_series(folder / "a", shape=SHAPE, edit=pet(**late), seed=1, **same)
    write_series(
        folder / "b", shape=(3, 8, 8), edit=pet(**early), seed=2, origin=(0, 0, 90), **same
    )
    stacks = index_of(folder).stacks
    assert len(stacks) == 2
    for stack in stacks:
        assert conversion_module.suv_factor_of(stack, dicomdl.SUV()) == pytest.approx(FACTOR)


# --- real-world values ----------------------------------------------------------------------------


def mapped(slope: float, units: str = "mm2/s", last: int = 4095) -> Any:
    def edit(dataset: Dataset, z: int) -> None:
        code = item(CodeValue=units, CodingSchemeDesignator="UCUM", CodeMeaning="a unit")
        one = item(
            RealWorldValueIntercept=2.0,
            RealWorldValueSlope=slope * (z + 1),
            LUTLabel="ADC",
            LUTExplanation="",
            MeasurementUnitsCodeSequence=code,
        )
        one[0].add_new("RealWorldValueFirstValueMapped", "US", 0)
        one[0].add_new("RealWorldValueLastValueMapped", "US", last)
        dataset.RealWorldValueMappingSequence = one

    return edit


def test_real_world_values_come_from_stored_ones_by_each_slices_own_map(folder: Path) -> None:
    write_series(
        folder, shape=SHAPE, modality="MR", slope=7, intercept=-3, edit=mapped(0.25, last=200)
    )
    stack = only_stack(folder)
    stored = ramp(SHAPE)
    expected = np.where(
        stored <= 200, stored * 0.25 * np.arange(1, 5)[:, None, None] + 2, np.nan
    ).astype(np.float32)
    for wish in ("real_world", RealWorld(0), RealWorld("mm2/s"), RealWorld("ADC")):
        volume = dicomdl.read_volume(stack, values=wish)
        assert volume.units == "mm2/s" and np.array_equal(volume.array, expected, equal_nan=True)
    sample = dicomdl.FrameDataset(index_of(folder), intensity=RealWorld())[2]
    assert sample["units"] == "mm2/s" and np.array_equal(
        sample["image"][0].numpy(), expected[2], equal_nan=True
    )
    with pytest.raises(IntensityError, match="mm2/s"):
        dicomdl.read_volume(stack, values=RealWorld("Bq"))
    with pytest.raises(UsageError, match="values="):
        dicomdl.read_volume(stack, values="hounsfield")


def test_real_world_maps_of_different_units_make_no_volume(folder: Path) -> None:
    write_series(
        folder,
        shape=SHAPE,
        modality="MR",
        edit=lambda dataset, z: mapped(1, "mm2/s" if z else "s")(dataset, z),
    )
    with pytest.raises(IntensityError, match="2 units"):
        dicomdl.read_volume(only_stack(folder), values="real_world")


def test_slices_with_modality_values_of_different_units_make_no_volume(folder: Path) -> None:
    # A blank unit is unknown, and US is unspecified.
    for name, kinds in (("one", ["normalized", "US"]), ("two", ["normalized", "milliradials"])):
        write_series(
            folder / name,
            shape=SHAPE,
            modality="MR",
            edit=lambda dataset, z, kinds=kinds: setattr(dataset, "RescaleType", kinds[z % 2]),
        )
    assert dicomdl.read_volume(only_stack(folder / "one")).shape == SHAPE
    with pytest.raises(IntensityError, match="2 units") as caught:
        dicomdl.read_volume(only_stack(folder / "two"))
    assert caught.value.units == ["milliradials", "normalized"]


def test_a_window_can_be_had_of_other_quantities(folder: Path) -> None:
    write_series(folder, shape=SHAPE, modality="MR", edit=mapped(0.01))
    recipe = Intensity(Limits(2, 6), quantity=RealWorld())
    sample = dicomdl.VolumeDataset(index_of(folder), intensity=recipe)[0]["image"][0].numpy()
    values = dicomdl.read_volume(only_stack(folder), values="real_world").array
    assert np.allclose(sample, np.clip((values - 2) / 4, 0, 1), atol=1e-6)


# --- lower resolutions, limits --------------------------------------------------------------------


def test_a_volume_at_a_lower_resolution_lies_where_the_whole_one_does(folder: Path) -> None:
    orientation = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
    write_series(
        folder,
        shape=(4, 32, 48),
        spacing=(2, 0.5, 0.7),
        orientation=orientation,
        origin=(9, -5, 3),
        intercept=-1024,
    )
    index = index_of(folder)
    whole, half = (
        dicomdl.read_volume(index.stacks[0]),
        dicomdl.read_volume(index.stacks[0], reduce=1),
    )
    assert half.array.shape == (4, 16, 24) and np.allclose(half.spacing, (2, 1, 1.4))
    for voxel in ((0, 0, 0), (3, 7, 5)):
        twice = (voxel[0], 2 * voxel[1], 2 * voxel[2])
        assert np.allclose(
            half.geometry.voxel_to_world(voxel), whole.geometry.voxel_to_world(twice)
        )
    # a ramp keeps its values
    assert np.abs(half.array[:, 1:-1, 1:-1] - whole.array[:, 2:-2:2, 2:-2:2]).max() <= 1
    frame = dicomdl.FrameDataset(index, intensity="modality", reduce=1)[2]
    assert np.array_equal(frame["image"][0].numpy(), half.array[2])
    assert np.allclose(frame["affine"].numpy() @ [0, 3, 4, 1], half.affine @ [2, 3, 4, 1])
    sample = dicomdl.VolumeDataset(index, intensity="modality", reduce=1)[0]
    assert np.array_equal(sample["image"][0].numpy(), half.array) and np.allclose(
        sample["affine"].numpy(), half.affine
    )
    assert np.allclose(sample["spacing"].numpy(), half.spacing)


def test_a_single_slice_at_a_lower_resolution_still_has_no_spacing_to_the_next(
    folder: Path,
) -> None:
    write_series(folder, shape=(1, 8, 8), spacing=(2, 0.5, 0.7))
    spacing = dicomdl.VolumeDataset(index_of(folder), reduce=1)[0]["spacing"].numpy()
    assert np.isnan(spacing[0]) and np.allclose(spacing[1:], (1, 1.4))


@pytest.mark.slow
def test_a_volume_of_more_memory_than_its_frames_justify_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modality, "FREE_VOLUME_BYTES", 1000)
    blank = np.zeros((40, 400, 400), int)
    write_series(folder, shape=blank.shape, stored=blank, transfer_syntax=JPEGLSLossless)
    index = index_of(folder)
    needed = 2 * blank.size
    with pytest.raises(TooLarge) as caught:
        dicomdl.read_volume(index.stacks[0])
    assert caught.value.needed_bytes == needed
    assert not dicomdl.read_volume(index.stacks[0], max_bytes=needed).array.any()
    assert not dicomdl.VolumeDataset(index, "modality", max_bytes=needed)[0]["image"].any()
    with pytest.raises(TooLarge):
        dicomdl.VolumeDataset(index, "modality")[0]


def test_idle_threads_help_with_one_frame_and_change_no_value(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=(1, 64, 64), transfer_syntax="1.2.840.10008.1.2.4.90")
    stack = only_stack(folder)
    seen: list[int] = []
    original = modality.decode_frame
    monkeypatch.setattr(
        modality,
        "decode_frame",
        lambda source, out, how: (seen.append(how.threads), original(source, out, how))[1],
    )
    array, padding = read_converted(stack.sources, conversions(stack), how=Decoding(threads=4))
    assert seen == [4] and padding is None
    assert np.array_equal(array, true_volume((1, 64, 64)))


def test_a_conversion_compares_and_hashes_as_a_value(folder: Path) -> None:
    write_series(folder, shape=SHAPE, slope=SLOPES)
    own = conversions(only_stack(folder))
    assert len(set(own)) == 4 and own[0] == dataclasses.replace(own[0])


# --- what a volume's values are -------------------------------------------------------------------


@pytest.mark.slow
def test_windows_on_suv_volumes_take_suv(folder: Path) -> None:
    write_series(folder, shape=SHAPE, modality="PT", slope=100, edit=pet())
    stack = only_stack(folder)
    suv, activity = dicomdl.read_volume(stack, values="suv"), dicomdl.read_volume(stack)
    expected = Percentile(5, 95)(suv.array)
    assert np.allclose(suv.window(Percentile(5, 95)).array, expected, atol=1e-5)
    assert suv.window("modality").units == suv.window(None).units == "GML" and np.array_equal(
        suv.window(None).array, suv.array
    )
    assert np.allclose(suv.window((0.1, 0.2)).array, np.clip(suv.array / 0.2, 0, 1), atol=1e-6)
    assert np.allclose(
        dicomdl.read_volume(stack, values=dicomdl.SUV("bw")).window("auto").array,
        activity.window("auto").array,
        atol=1e-6,
    )
    for wrong in (
        lambda: suv.window("file"),
        lambda: suv.suv("bsa"),
        lambda: activity.window((100, 50)).suv(),
    ):
        with pytest.raises((UsageError, IntensityError)):
            wrong()
    with pytest.raises(UsageError):
        activity.window("auto").window("auto")  # a factor is not applied twice
    assert suv.plot(slices=2) is not None and activity.window("auto").quantity == "network"


def test_windows_on_real_world_volumes_take_real_world_values(folder: Path) -> None:
    write_series(folder, shape=SHAPE, modality="MR", edit=mapped(0.001, units="1"))
    volume = dicomdl.read_volume(only_stack(folder), values="real_world")
    assert np.allclose(
        volume.window(Percentile(0, 100)).array, Percentile(0, 100)(volume.array), atol=1e-5
    )
    with pytest.raises(UsageError, match="modality"):
        volume.window("auto")
    assert montage(volume, 4).max() > 0  # a picture is not black
    part = dicomdl.read_volume(only_stack(folder), values="real_world")
    part.array[:, :3] = np.nan
    # beyond the grid nothing is NaN
    assert np.isnan(part.resample((1, 1, 1), size=(8, 16, 16)).array).mean() < 0.6


def test_suv_of_what_is_no_pet_says_so(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    for ask in (
        lambda: dicomdl.read_volume(only_stack(folder), values="suv"),
        lambda: dicomdl.read_volume(only_stack(folder)).suv(),
        lambda: dicomdl.FrameDataset(index_of(folder), dicomdl.SUV())[0],
    ):
        with pytest.raises(SUVError, match="not PT"):
            ask()


def test_suv_of_a_modality_lut_is_an_suv_error_everywhere(folder: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        pet()(dataset, z)
        with_modality_lut(0, np.arange(400))(dataset, z)

    write_series(folder, shape=SHAPE, modality="PT", slope=None, intercept=None, edit=edit)
    for ask in (
        lambda: dicomdl.read_volume(only_stack(folder), values="suv"),
        lambda: dicomdl.read_volume(only_stack(folder)).suv(),
        lambda: dicomdl.FrameDataset(index_of(folder))[0],
    ):
        with pytest.raises(SUVError) as caught:
            ask()
        assert "ModalityLUT" in caught.value.attribute
    assert dicomdl.FrameDataset(index_of(folder), suv="if_possible")[3]["image"].max() == 1


def test_frames_without_geometry_know_the_units_of_their_real_world_map(folder: Path) -> None:
    write_series(folder, shape=(1, 6, 9), modality="DX", edit=mapped(0.5, "s"))
    assert dicomdl.FrameDataset(index_of(folder), RealWorld())[0]["units"] == "s"


def test_errors_of_a_slice_name_its_file(folder: Path) -> None:
    write_series(folder, shape=SHAPE, slope=[1, 1, 0, 1])
    with pytest.raises(IntensityError) as caught:
        conversions(only_stack(folder))
    assert str(folder) in caught.value.__notes__[0]


# --- padding is not mixed -------------------------------------------------------------------------


def test_padding_above_the_image_brightens_nothing(folder: Path) -> None:
    stored = np.full((6, 32, 32), 100)
    stored += np.arange(32)
    stored[:, :, :11] = 4095
    write_series(folder, shape=stored.shape, stored=stored, spacing=(2, 1, 1), edit=padded(4095))
    index = index_of(folder)
    stack, window = index.stacks[0], Limits(0, 1000)
    samples = [
        dicomdl.FrameDataset(index, window, reduce=1)[0]["image"],
        dicomdl.FrameDataset(index, window, size=(20, 20))[0]["image"],
        dicomdl.FrameDataset(index, window, size=(40, 40), spacing=1)[0]["image"],
        dicomdl.VolumeDataset(index, window, reduce=1)[0]["image"],
        dicomdl.VolumeDataset(index, window, spacing=(1, 0.7, 0.7))[0]["image"],
        torch.from_numpy(dicomdl.read_volume(stack, reduce=1).window(window).array),
        torch.from_numpy(dicomdl.read_volume(stack).resample((1, 0.7, 0.7)).window(window).array),
    ]
    for number, image in enumerate(samples):
        assert image.max() <= 0.1311, number
        assert image.min() == 0, number


def test_padding_that_differs_from_slice_to_slice_is_not_mixed_into_filled_ones(
    folder: Path,
) -> None:
    stored = np.full((7, 12, 12), 100)
    stored[2, :, :6] = 4095
    write_series(folder, shape=stored.shape, stored=stored, drop=[3], edit=padded(4095))
    volume = dicomdl.read_volume(only_stack(folder), irregular="resample")
    assert volume.window(Limits(0, 1000)).array.max() == np.float32(0.1)


def test_what_a_crop_adds_to_an_inverted_frame_is_dark(folder: Path) -> None:
    write_series(folder, shape=(1, 8, 8), modality="DX", photometric="MONOCHROME1", edit=_spaced)
    image = dicomdl.FrameDataset(index_of(folder), size=(12, 12), spacing=1)[0]["image"]
    assert image.shape == (1, 12, 12) and image[0, 0, 0] == 0 == image[0, -1, -1]


def _spaced(dataset: Dataset, z: int) -> None:
    dataset.PixelSpacing = [1, 1]


def test_reduced_values_that_overshoot_wrap_in_no_dtype(folder: Path) -> None:
    stored = np.zeros((3, 32, 32), int)
    stored[:, 7:21, 9:22] = 4095
    for number, options in enumerate(
        ({}, {"transfer_syntax": JPEGLSLossless}, {"transfer_syntax": "1.2.840.10008.1.2.4.90"})
    ):
        write_series(
            folder / str(number), shape=stored.shape, stored=stored, slope=8, seed=number, **options
        )
    arrays = [dicomdl.read_volume(stack, reduce=1).array for stack in index_of(folder).stacks]
    assert len(arrays) == 3 and all(array.min() >= 0 and array.max() == 32760 for array in arrays)
    assert all(np.array_equal(array, arrays[0]) for array in arrays)

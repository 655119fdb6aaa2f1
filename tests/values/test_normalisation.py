"""normalisation: z-scores, ranges, clipping and chains, alike on every path to a network."""

import dataclasses
import json
import math
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import item, ramp, write_secondary_capture, write_series

import dicomdl
import dicomdl.values.sampling as sampling_module
from dicomdl.datasets.device._values import to_device
from dicomdl.datasets.device.intensity import apply_intensity, window
from dicomdl.datasets.device.stack import read_stack_on_device
from dicomdl.errors import IntensityError, UsageError
from dicomdl.storage import memory
from dicomdl.values.auto import resolve
from dicomdl.values.formulas import Ramp, Same, composed
from dicomdl.values.intensity import Intensity
from dicomdl.values.normalisation import Clip, Line, MinMax, ZScore
from dicomdl.values.request import IntensityRequest
from dicomdl.values.stack_intensity import stack_intensity
from dicomdl.values.suv import SUV
from dicomdl.values.windows import Limits, Percentile, Window

SHAPE = (6, 9, 11)
PADDING = 4000
# A decoder of frames that needs no GPU, for `read_stack_on_device`.
ON_CPU: Any = SimpleNamespace(
    device=torch.device("cpu"),
    read=lambda sources: [to_device(dicomdl.read_frame(each), "cpu") for each in sources],
)
CHAIN = (Clip(-900, -700), ZScore())
OPTIONS: list[Any] = [
    ZScore(),
    ZScore("foreground", -850),
    MinMax(),
    MinMax(clip=False),
    Clip(-900, -700),
    CHAIN,
    ("ct.full", ZScore()),
    (Limits(-1000, 0, clip=False), MinMax(), Clip(0.25, 0.5)),
    (ZScore(), Clip(-1, 1)),
    ((-800, 300), Limits(0.2, 0.9, clip=False)),
]


def padded_index(folder: Path, **how: Any) -> dicomdl.Index:
    """The index of one CT stack whose corner columns are padding, far above all other values."""
    stored = ramp(SHAPE)
    stored[:, :, :2] = PADDING

    def edit(dataset: Any, z: int) -> None:
        dataset.add_new("PixelPaddingValue", "US", PADDING)

    write_series(folder, shape=SHAPE, stored=stored, intercept=-1000, edit=edit, **how)
    return index_of(folder)


def truth_of(option: Any, image: np.ndarray) -> np.ndarray:
    """Compute an option in float64 by its definition; `image` are the values without padding."""
    values = image.astype(np.float64)
    for each in option if isinstance(option, tuple) else (option,):
        if isinstance(each, ZScore):
            inside = values if each.mask is None else values[image > each.above]
            values = (values - inside.mean()) / inside.std()
        elif isinstance(each, MinMax):
            values = (values - values.min()) / (values.max() - values.min())
        elif isinstance(each, Clip):
            values = np.clip(values, each.lower, each.upper)
        elif isinstance(each, Limits):
            values = (values - each.lower) / (each.upper - each.lower)
        elif each == "ct.full":
            values = np.clip((values + 1024) / 4095, 0, 1)
        else:
            values = np.clip((values - each[0]) / each[1] + 0.5, 0, 1)
    return values


# --- one value on every path ----------------------------------------------------------------------


@pytest.mark.quick(3)
@pytest.mark.parametrize("option", OPTIONS, ids=repr)
def test_frame_volume_patch_and_device_map_alike_with_padding_outside_the_statistics(
    folder: Path, option: Any
) -> None:
    index = padded_index(folder)
    stack = index.stacks[0]
    volume = dicomdl.read_volume(stack)
    image = ~volume.padding  # type: ignore[operator]
    expected = truth_of(option, volume.array[image])
    windowed = volume.window(option)
    mapped = windowed.array
    assert np.allclose(mapped[image], expected, rtol=1e-5, atol=1e-5)
    # Padding lies at the lower end of a map that clips, else at the smallest sampled value.
    assert (mapped[~image] == mapped.min()).all() and mapped.min() <= expected.min() + 1e-5
    patches = dicomdl.PatchDataset(index, SHAPE, intensity=option, sampler="grid")
    paths = {
        "volume": dicomdl.VolumeDataset(index, option)[0]["image"][0],
        "patch": patches[0]["image"][0],
        "frames": torch.cat([each["image"] for each in dicomdl.FrameDataset(index, option)]),
        "later": apply_intensity(
            dicomdl.VolumeDataset(index, option, intensity_on="device")[0], "cpu"
        )["image"][0],
        "cached": dicomdl.VolumeDataset(index, option, cache=dicomdl.MemoryCache(1 << 20))[0][
            "image"
        ][0],
    }
    for path, found in paths.items():
        assert np.array_equal(found.numpy(), mapped), path
    recipe = stack_intensity(stack, option)
    assert np.array_equal(window(torch.from_numpy(volume.array), recipe)[image], mapped[image])
    # Stored values of 12 bits become int32 there, which is computed in float64.
    on_device = read_stack_on_device(stack, ON_CPU, option)[0]
    assert np.allclose(on_device, mapped, rtol=3e-7, atol=1e-7)


@pytest.mark.slow
def test_padding_below_limits_that_do_not_clip_is_the_same_in_a_patch_and_a_volume(
    folder: Path,
) -> None:
    def edit(dataset: Any, z: int) -> None:
        dataset.add_new("PixelPaddingValue", "US", 3)

    write_series(folder, shape=SHAPE, intercept=-1000, edit=edit)
    index = index_of(folder)
    for option in (Limits(-900, 0, clip=False), ZScore(), Percentile(5, 95, clip=False)):
        patch = dicomdl.PatchDataset(index, SHAPE, intensity=option, sampler="grid")[0]
        volume = dicomdl.VolumeDataset(index, option)[0]
        assert torch.equal(patch["image"], volume["image"])
        assert not torch.equal(patch["image"], torch.zeros_like(patch["image"]))


def test_a_patch_beyond_its_stack_is_filled_with_the_smallest_sampled_value(folder: Path) -> None:
    index = padded_index(folder)
    patch = dicomdl.PatchDataset(index, (8, 12, 14), intensity=ZScore(), sampler="grid")[0]
    inside = dicomdl.VolumeDataset(index, ZScore())[0]["image"]
    assert patch["image"].min() == inside.min() and patch["image"][0, 0, 0, 0] == inside.min()


def test_all_stacks_of_a_group_share_their_statistics(folder: Path) -> None:
    for t in range(3):
        write_series(
            folder,
            shape=SHAPE,
            modality="MR",
            offset=100 * t,
            seed=t,
            series_uid="1.2.3",
            edit=lambda dataset, z, t=t: setattr(dataset, "TemporalPositionIdentifier", t + 1),
        )
    (group,) = index_of(folder).groups
    volume = dicomdl.read_volume(group)
    values = volume.array.astype(np.float64)
    expected = (values - values.mean()) / values.std()
    assert np.allclose(volume.window(ZScore()).array, expected, atol=1e-5)


def test_the_statistics_are_computed_once_and_kept_for_other_processes(
    folder: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = padded_index(folder).stacks[0]
    read, reads = sampling_module.read_converted, []

    def counted(sources: Any, *args: Any, **named: Any) -> Any:
        reads.append(len(sources))
        return read(sources, *args, **named)

    monkeypatch.setattr(sampling_module, "read_converted", counted)
    first = stack_intensity(stack, CHAIN)
    memory.clear()
    assert stack_intensity(stack, CHAIN) == first and reads == [6]
    assert stack_intensity(stack, (Clip(-900, -699), ZScore())) != first and reads == [6, 6]
    # A file of another length, as one of another version would be, is computed again.
    for name in os.listdir(cache_folder / "limits"):
        (cache_folder / "limits" / name).write_text(json.dumps([1.0, 2.0]))
    memory.clear()
    assert stack_intensity(stack, CHAIN) == first and reads == [6, 6, 6]


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.quick(4)
@pytest.mark.parametrize("option", [ZScore(), ZScore("foreground"), MinMax(), CHAIN], ids=repr)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_constant_stack_becomes_zeros(folder: Path, option: Any, modality: str) -> None:
    write_series(folder, shape=(3, 5, 5), stored=np.full((3, 5, 5), 300), modality=modality)
    index = index_of(folder)
    for image in (
        dicomdl.FrameDataset(index, option)[1]["image"],
        dicomdl.VolumeDataset(index, option)[0]["image"],
        dicomdl.PatchDataset(index, (2, 4, 9), intensity=option)[0]["image"],
        read_stack_on_device(index.stacks[0], ON_CPU, option),
    ):
        assert (image == 0).all()


def test_equal_floats_have_no_deviation_and_statistics_beyond_float32_are_refused() -> None:
    assert (ZScore()(np.full(1000, 0.1)) == 0).all()
    with pytest.raises(IntensityError, match="float32"):
        ZScore()(np.array([1e300, 2e300]))
    with pytest.raises(IntensityError, match="finite"):
        ZScore()(np.array([np.nan, np.inf]))


def test_nan_and_infinity_are_outside_of_the_statistics_and_of_the_mask() -> None:
    values = np.array([1.0, 2, 3, np.nan, np.inf], np.float32)
    assert ZScore().limits(values)[:2] == (2.0, pytest.approx(math.sqrt(2 / 3)))
    assert ZScore("foreground", 1.5).limits(values)[:2] == (2.5, 0.5)


def test_the_foreground_is_above_500_for_hu_and_above_otsus_threshold_elsewhere(
    folder: Path,
) -> None:
    two = np.where(ramp((3, 8, 8)) % 2, 100 + ramp((3, 8, 8)), 900 + ramp((3, 8, 8)))
    write_series(folder / "ct", shape=(3, 8, 8), stored=two, intercept=-1000)
    write_series(folder / "mr", shape=(3, 8, 8), stored=two, modality="MR")
    for modality, above in (("CT", -500), ("MR", 700)):
        stack = index_of(folder).select(modality=modality).stacks[0]
        values = dicomdl.read_volume(stack).array.astype(np.float64)
        body = values[values > above]
        mapped = dicomdl.read_volume(stack).window(ZScore("foreground")).array
        assert np.allclose(mapped, (values - body.mean()) / body.std(), atol=1e-5)
        # A chain decides on the values before its first map.
        chain = dicomdl.read_volume(stack).window(((0, 4000), ZScore("foreground"))).array
        assert np.allclose(chain, mapped, atol=1e-3)


def test_without_two_values_in_the_foreground_all_voxels_count(folder: Path) -> None:
    values = np.array([0, 1, 2, 3, 900, 900], np.int16)
    for above in (500.0, 1000.0):
        assert ZScore("foreground", above).limits(values) == ZScore().limits(values)
    write_series(folder, shape=SHAPE, intercept=-2000)
    volume = dicomdl.read_volume(index_of(folder).stacks[0])
    assert np.array_equal(volume.window(ZScore("foreground")).array, volume.window(ZScore()).array)


def test_clipping_keeps_the_units_and_everything_else_has_none(folder: Path) -> None:
    index = padded_index(folder)
    for option, units in (
        (Clip(-900, 0), "HU"),
        (("modality", Clip(-900, 0)), "HU"),
        (CHAIN, "1"),
        (ZScore(), "1"),
        ((Clip(-900, 0), MinMax()), "1"),
    ):
        assert dicomdl.VolumeDataset(index, option)[0]["units"] == units
    assert resolve((SUV(), Clip(0, 10)), None).units == "GML"
    assert resolve((SUV(), ZScore()), None).quantity == SUV()


def test_one_end_may_be_open_and_padding_then_stays(folder: Path) -> None:
    index = padded_index(folder)
    volume = dicomdl.read_volume(index.stacks[0])
    for option in (Clip(upper=-800), Clip(lower=-800)):
        patch = dicomdl.PatchDataset(index, SHAPE, intensity=option, sampler="grid")[0]["image"][0]
        assert np.array_equal(patch, volume.window(option).array)
        image = ~volume.padding  # type: ignore[operator]
        assert np.array_equal(
            patch[image], np.clip(volume.array[image], option.lower, option.upper)
        )


def test_monochrome1_turns_round_under_auto_alone(folder: Path) -> None:
    how = {"shape": (1, 6, 7), "modality": "DX"}
    write_series(folder / "1", photometric="MONOCHROME1", **how)  # type: ignore[arg-type]
    write_series(folder / "2", photometric="MONOCHROME2", seed=1, **how)  # type: ignore[arg-type]
    first, second = dicomdl.FrameDataset(index_of(folder), ZScore())
    assert torch.equal(first["image"], second["image"])


def test_suv_come_first_in_a_chain_and_their_statistics_are_those_of_suv(folder: Path) -> None:
    def edit(dataset: Any, z: int) -> None:
        dataset.Units, dataset.DecayCorrection = "BQML", "START"
        dataset.CorrectedImage = ["ATTN", "DECY"]
        dataset.SeriesDate = dataset.AcquisitionDate = "20200101"
        dataset.SeriesTime = dataset.AcquisitionTime = "110000"
        dataset.PatientWeight = 70.0
        dataset.RadiopharmaceuticalInformationSequence = item(
            RadionuclideTotalDose=3.5e8,
            RadionuclideHalfLife=3600.0,
            RadiopharmaceuticalStartTime="100000",
        )

    write_series(folder, shape=SHAPE, modality="PT", slope=[z + 1 for z in range(6)], edit=edit)
    index = index_of(folder)
    volume = dicomdl.read_volume(index.stacks[0], values="suv")
    values = volume.array.astype(np.float64)
    for option, limited in (
        ((SUV(), ZScore()), values),
        ((SUV(), Clip(0, 0.3), ZScore()), np.clip(values, 0, 0.3)),
        ((SUV(upper=0.3), ZScore()), np.clip(values, 0, 0.3)),
    ):
        expected = (limited - limited.mean()) / limited.std()
        image = dicomdl.VolumeDataset(index, option)[0]["image"][0]
        assert np.allclose(image, expected, atol=1e-4)
        patches = dicomdl.PatchDataset(index, SHAPE, intensity=option, sampler="grid")
        assert np.array_equal(patches[0]["image"][0], image)
    # A volume of SUV is the input of maps without a quantity of their own.
    assert np.allclose(
        volume.window(ZScore()).array, (values - values.mean()) / values.std(), atol=1e-4
    )


def test_a_projection_is_its_own_sample(folder: Path) -> None:
    for number in range(2):
        stored = ramp((1, 6, 7)) * (1 + 9 * number)
        write_series(folder, shape=(1, 6, 7), modality="DX", stored=stored, seed=number)
    for sample in dicomdl.FrameDataset(index_of(folder), ZScore()):
        assert abs(float(sample["image"].mean())) < 1e-6
        assert abs(float(sample["image"].std(correction=0)) - 1) < 1e-6


# --- composition ----------------------------------------------------------------------------------

ends = st.integers(-8, 8).map(float)
ramps = st.builds(
    lambda lower, width, clip, low, gap: Ramp(lower, width, clip, low=low, high=low + gap),
    ends,
    st.integers(0, 4).map(float),
    st.booleans(),
    ends,
    st.integers(0, 8).map(float),
)


@pytest.mark.slow
@given(ramps, ramps)
@settings(max_examples=60)
def test_two_ramps_in_turn_are_one(first: Ramp, second: Ramp) -> None:
    values = np.linspace(-30, 30, 241)
    formula = composed(first, second)
    assert isinstance(formula, Ramp)
    once, twice, together = (np.empty(values.shape, np.float32) for _ in range(3))
    first.fill(values, once)
    second.fill(once, twice)
    formula.fill(values, together)
    # At a step, a rounding in the last place decides; such values are left out.
    at_step = (np.abs(once - second.lower) < 1e-5) if second.width == 0 else np.zeros(241, bool)
    assert np.allclose(together[~at_step], twice[~at_step], rtol=1e-5, atol=1e-5)
    assert [formula.at(value) for value in values[~at_step]] == pytest.approx(
        together[~at_step].tolist(), rel=1e-5, abs=1e-5
    )
    assert composed(Same(), first) == first == composed(first, Same())


def test_a_sigmoid_or_a_table_stands_alone() -> None:
    sigmoid = Window(40, 400, "SIGMOID")
    assert resolve((sigmoid,), None) == Intensity(sigmoid)
    for chain in ((Clip(0, 1), sigmoid), (sigmoid, ZScore()), ("modality", sigmoid, MinMax())):
        with pytest.raises(UsageError, match="SIGMOID"):
            IntensityRequest.parse(chain)


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [each for each in OPTIONS if isinstance(each, tuple)], ids=repr)
def test_a_chain_compares_prints_pickles_and_is_a_key(option: Any) -> None:
    request = IntensityRequest.parse(option)
    again = pickle.loads(pickle.dumps(request))
    assert again == request == IntensityRequest.parse(list(option))
    assert hash(again) == hash(request) and repr(request) == repr(option)
    assert request != IntensityRequest.parse((*option, Clip(-9, 9)))


def test_a_chain_of_one_is_its_map_and_chains_flatten() -> None:
    parse = IntensityRequest.parse
    assert parse((ZScore(),)) == parse(ZScore()) == parse([[ZScore()]])
    assert parse(((Clip(0, 1), MinMax()), ZScore())) == parse((Clip(0, 1), MinMax(), ZScore()))
    assert parse((40, 400)) == parse(Window(40, 400))
    assert parse(((40, 400), ZScore())) == parse((Window(40, 400), ZScore()))


@pytest.mark.parametrize(
    "option",
    [
        ("auto", ZScore()),
        (ZScore(), SUV()),
        (ZScore(), dicomdl.RealWorld()),
        (Clip(0, 1), np.sqrt),
        (Clip(0, 1), 400),
        (Clip(0, 1), None),
        (Clip(0, 1), "autp"),
        (Intensity(Limits(0, 1), invert=True), ZScore()),
        ZScore,
        (Clip, ZScore()),
    ],
    ids=repr,
)
def test_what_is_no_chain_is_refused_with_what_is(option: Any) -> None:
    with pytest.raises(UsageError) as caught:
        IntensityRequest.parse(option)
    assert "expected" in " ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


def test_values_that_cannot_be_are_refused_with_their_numbers() -> None:
    for lower, upper in ((1, 1), (2, 1), (math.nan, 1), (-math.inf, math.inf)):
        with pytest.raises(IntensityError) as caught:
            Clip(lower, upper)
        assert caught.value.upper == upper  # type: ignore[attr-defined]
    for wrong in ({"mask": "body"}, {"above": 3}, {"mask": "foreground", "above": math.inf}):
        with pytest.raises(UsageError, match="expected"):
            ZScore(**wrong)


def test_colour_has_no_statistics_but_clips(folder: Path) -> None:
    write_secondary_capture(folder / "a.dcm")
    index = index_of(folder)
    for option in (ZScore(), MinMax(), (Clip(0, 100), ZScore())):
        with pytest.raises(IntensityError, match="colour"):
            dicomdl.FrameDataset(index, option)[0]
    assert dicomdl.FrameDataset(index, Clip(0, 100))[0]["image"].max() == 100


def test_a_line_is_frozen_and_padding_of_a_z_score_is_its_smallest_value() -> None:
    line = ZScore().known((10.0, 2.0, -5.0))
    assert line == Line(Ramp(10.0, 2.0, clip=False, bottom=-5.0))
    assert Intensity(line).floor(np.dtype(np.int16)) == -5 and not Intensity(line).saturates
    with pytest.raises(dataclasses.FrozenInstanceError):
        line.ramp = line.ramp  # type: ignore[misc]

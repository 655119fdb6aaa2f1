"""philips: floating point values of ramps whose private factors undo what was stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import ramp, write_multiframe, write_series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

import dicomdl
from dicomdl.errors import IntensityError, UsageError
from dicomdl.values._philips import philips_rescale
from dicomdl.values.intensity import Intensity
from dicomdl.values.rescale import Rescale
from dicomdl.values.windows import Percentile

DD_001, DD_005 = "Philips MR Imaging DD 001", "Philips MR Imaging DD 005"
SHAPE = (4, 5, 7)
# The image of each slice was fitted into 12 bits by factors of its own.
SCALES = (0.004, 0.005, 0.008, 0.02)


class Facts:
    """The facts of one frame."""

    def __init__(self, **facts: float | None) -> None:
        self.rescale_slope = facts.get("rs")
        self.rescale_intercept = facts.get("ri")
        self.philips_scale_slope = facts.get("ss")
        self.philips_scale_intercept = facts.get("si")


def set_scale(dataset: Dataset, slope: float | None, intercept: float | None = 0.0) -> None:
    block = dataset.private_block(0x2005, DD_001, create=True)
    for element, value in ((0x0E, slope), (0x0D, intercept)):
        if value is not None:
            block.add_new(element, "FL", value)


def philips(scales: Any = SCALES, intercept: float | None = 0.0) -> Any:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.Manufacturer = "Philips Healthcare"
        set_scale(dataset, scales[z], intercept)

    return edit


def test_the_formula_is_chenevert_s_and_that_of_the_private_factors() -> None:
    # Magnitude, phase in mrad and a field map, as scanners write them.
    for rs, ri, ss in ((1.29035409, 0.0, 0.00428404), (1.534554, -3142.0, 651.7395), (0.2, -5, 4)):
        stored = np.array([0, 1, 2047, 4095])
        exact = (stored * rs + ri) / (rs * ss)
        facts = Facts(rs=rs, ri=ri, ss=ss, si=-ri / rs)
        assert philips_rescale(facts)(stored) == pytest.approx(exact, rel=1e-6, abs=1e-6)
        # A file without a rescale, as after "combine rescaling": the private intercept is enough.
        assert philips_rescale(Facts(ss=ss, si=-ri / rs))(stored) == pytest.approx(
            exact, rel=1e-6, abs=1e-6
        )
    assert philips_rescale(Facts(rs=2.0, ri=4.0, ss=0.5)) == Rescale(2.0, 4.0)
    assert philips_rescale(Facts(ss=0.5)) == Rescale(2.0, 0.0)
    # Only one of the two in the header, and an intercept rounded to a whole number.
    assert philips_rescale(Facts(ri=4.0, ss=0.5)) == Rescale(2.0, 8.0)
    assert philips_rescale(Facts(rs=4.0, ri=-8191, ss=1.0, si=2047.5)).intercept == -2047.75


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (Facts(rs=1.0, ri=0.0), "2005,100E"),
        (Facts(rs=1.0, ri=0.0, ss=0.0), "2005,100E"),
        (Facts(rs=1.0, ri=0.0, ss=651.7, si=2047.5), "2005,100D"),
        (Facts(rs=1.534554, ri=-3142.0, ss=651.7, si=0.0), "2005,100D"),
    ],
)
def test_absent_zero_and_contradictory_factors_are_named(facts: Facts, word: str) -> None:
    with pytest.raises(IntensityError, match=word) as raised:
        philips_rescale(facts)
    assert word in raised.value.attribute


def test_slices_with_factors_of_their_own_become_one_volume(tmp_path: Path) -> None:
    exact = ramp(SHAPE) / np.array(SCALES, np.float32)[:, None, None]
    write_series(tmp_path, shape=SHAPE, modality="MR", slope=1.25, edit=philips())
    index = index_of(tmp_path)
    volume = dicomdl.read_volume(index.stacks[0], values="philips")
    assert volume.array.dtype == np.float32 and volume.units == ""
    assert volume.quantity == "philips"
    assert np.allclose(volume.array, exact, rtol=1e-6)
    # The standard's rescale stays the default.
    assert np.allclose(dicomdl.read_volume(index.stacks[0]).array, ramp(SHAPE) * 1.25)
    pytest.importorskip("torch")
    frames = dicomdl.FrameDataset(index, intensity="philips")
    assert frames[3]["units"] == "" and np.allclose(frames[3]["image"][0], exact[3], rtol=1e-6)
    whole = dicomdl.VolumeDataset(index, intensity="philips")[0]["image"][0]
    assert np.allclose(whole, exact, rtol=1e-6)
    patches = dicomdl.PatchDataset(index, size=SHAPE, sampler="grid", intensity="philips")
    assert np.allclose(patches[0]["image"][0], exact, rtol=1e-6)


def test_windows_and_percentiles_apply_to_the_values(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_series(tmp_path, shape=SHAPE, modality="MR", slope=1.25, edit=philips())
    index = index_of(tmp_path)
    volume = dicomdl.read_volume(index.stacks[0], values="philips")
    exact = volume.array
    assert np.allclose(volume.window((1000, 2000)).array, np.clip(exact / 2000, 0, 1), atol=1e-6)
    low, high = np.percentile(exact, (0.5, 99.5))
    expected = np.clip((exact - low) / (high - low), 0, 1)
    assert np.allclose(volume.window("auto").array, expected, atol=1e-5)
    recipe = Intensity(Percentile(0.5, 99.5), quantity="philips")
    assert np.allclose(
        dicomdl.VolumeDataset(index, intensity=recipe)[0]["image"][0], expected, atol=1e-5
    )
    assert np.array_equal(volume.window("philips").array, exact)
    with pytest.raises(UsageError, match="values='philips'"):
        dicomdl.read_volume(index.stacks[0]).window("philips")
    with pytest.raises(UsageError, match="'philips'"):
        dicomdl.read_volume(index.stacks[0], values="phillips")


@pytest.mark.parametrize("place", ["classic", "item of the frame"])
def test_enhanced_frames_have_the_factors_of_their_private_group(
    tmp_path: Path, place: str
) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.Manufacturer = "Philips"
        for group in dataset.PerFrameFunctionalGroupsSequence:
            inner, position = Dataset(), group.PlanePositionSequence[0].ImagePositionPatient
            # Frames lie in any order, 2 mm apart.
            set_scale(inner, SCALES[round(float(position[2]) / 2)])
            block = group.private_block(0x2005, DD_005, create=True)
            block.add_new(0x0F, "SQ", DicomSequence([inner]))

    if place == "classic":
        write_series(tmp_path, shape=SHAPE, modality="MR", edit=philips())
    else:
        path = tmp_path / "a.dcm"
        write_multiframe(path, shape=SHAPE, modality="MR", slope=2.0, edit=edit)
    volume = dicomdl.read_volume(index_of(tmp_path).stacks[0], values="philips")
    exact = ramp(SHAPE) / np.array(SCALES, np.float32)[:, None, None]
    assert np.allclose(volume.array, exact, rtol=1e-6)


@pytest.mark.parametrize("scale", [None, 0.0, float("nan")])
def test_one_slice_without_a_usable_factor_is_named_with_its_file(
    tmp_path: Path, scale: float | None
) -> None:
    scales = (*SCALES[:2], scale, SCALES[3])
    write_series(tmp_path, shape=SHAPE, modality="MR", edit=philips(scales))
    stack = index_of(tmp_path).stacks[0]
    with pytest.raises(IntensityError, match="2005,100E") as raised:
        dicomdl.read_volume(stack, values="philips")
    assert stack.frame(2).path in "".join(raised.value.__notes__)
    assert dicomdl.read_volume(stack).array.shape == SHAPE


def test_files_of_other_makers_have_no_philips_values(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        block = dataset.private_block(0x2005, "Somebody Else", create=True)
        block.add_new(0x0E, "FL", 0.5)

    write_series(tmp_path, shape=SHAPE, modality="MR", edit=edit)
    with pytest.raises(IntensityError, match="absent"):
        dicomdl.read_volume(index_of(tmp_path).stacks[0], values="philips")

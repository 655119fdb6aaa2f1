"""A volume as an array of NumPy and torch, and as one line of text; its padding as bits."""

import copy
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from phantoms import true_volume, write_series
from pydicom.dataset import Dataset

import dicomdl
from dicomdl import Geometry, Volume
from dicomdl.values.bit_masks import BitMask

GRID = Geometry((2, 3, 4), np.diag([5.0, 2.0, 1.0, 1.0]))


def ramp(dtype: str = "int16") -> Volume:
    return Volume(true_volume((2, 3, 4)).astype(dtype), GRID, "HU")


def test_numpy_takes_the_array_of_a_volume_without_a_copy() -> None:
    volume = ramp()
    assert np.asarray(volume) is volume.array and np.array(volume).shape == (2, 3, 4)
    assert not np.shares_memory(np.array(volume), volume.array)
    assert np.asarray(volume, dtype=np.float32).dtype == np.float32
    assert float(np.mean(volume)) == volume.array.mean()
    assert np.array_equal(volume.array + volume, 2 * volume.array)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="copy=False of NumPy 2")
def test_numpy_is_told_where_a_copy_is_needed() -> None:
    with pytest.raises(ValueError, match="only by a copy"):
        np.asarray(ramp(), dtype=np.float32, copy=False)
    assert np.asarray(ramp(), copy=False).shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "uint8", "bool", "int64"])
def test_torch_takes_a_volume_and_shares_its_memory(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    volume = ramp(dtype)
    tensor = torch.as_tensor(volume)
    assert tensor.data_ptr() == volume.array.ctypes.data and tuple(tensor.shape) == volume.shape
    assert np.array_equal(tensor.numpy(), volume.array)
    assert torch.tensor(volume).data_ptr() != volume.array.ctypes.data
    assert torch.as_tensor(volume, dtype=torch.float32).dtype == torch.float32


def test_torch_gets_a_copy_of_an_array_that_it_cannot_share() -> None:
    torch = pytest.importorskip("torch")
    array = true_volume((2, 3, 4)).astype(np.int16)
    read_only = array.copy()
    read_only.flags.writeable = False
    for odd in (array[::-1], array[..., ::-1], array.astype(">i2"), read_only):
        tensor = torch.as_tensor(Volume(odd, GRID))
        assert np.array_equal(tensor.numpy(), odd)
        tensor.zero_()
        assert odd.any()


def test_a_volume_says_type_origin_and_direction_of_its_grid() -> None:
    affine = np.array([[0, 0, 2, 10], [0, 3, 0, 20], [-4, 0, 0, 30], [0, 0, 0, 1.0]])
    volume = Volume(np.zeros((2, 3, 4), np.float32), Geometry((2, 3, 4), affine))
    assert volume.dtype == np.float32 and volume.origin == (10, 20, 30)
    assert volume.direction.tolist() == [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]


@pytest.mark.parametrize(
    ("units", "printed"),
    [
        ("HU", ", HU"),
        ("GML", ", g/ml"),
        ("1", ""),
        ("", ""),
        ("CM2ML", ", cm2/ml"),
        ("mm2/s", ", mm2/s"),
    ],
)
def test_units_print_for_people(units: str, printed: str) -> None:
    volume = Volume(np.zeros((2, 3, 4), np.float32), GRID, units)
    assert repr(volume) == f"Volume(2 x 3 x 4 float32, 5 x 2 x 1 mm{printed})"
    assert volume.units == units


def test_a_windowed_volume_has_no_unit_of_one() -> None:
    assert repr(ramp().window((40, 400))) == "Volume(2 x 3 x 4 float32, 5 x 2 x 1 mm)"


def test_unknown_spacing_prints_as_a_question_mark(tmp_path: Path) -> None:
    write_series(tmp_path / "s", modality="OT", sop_class="1.2.840.10008.5.1.4.1.1.7")
    stack = dicomdl.scan(tmp_path / "s", tmp_path / "index", progress=False).stacks[0]
    unknown = Geometry(stack.shape, np.full((4, 4), np.nan))
    assert "? x ? x ? mm" in repr(Volume(np.zeros(stack.shape), unknown))


def read_with_padding(folder: Path) -> Volume:
    """Return a volume whose first 7 stored values per slice are padding."""

    def padded(dataset: Dataset, z: int) -> None:
        dataset.PixelPaddingValue = 0
        dataset.PixelPaddingRangeLimit = 6
        dataset["PixelPaddingValue"].VR = dataset["PixelPaddingRangeLimit"].VR = "US"

    stored = np.broadcast_to(np.arange(15).reshape(3, 5), (4, 3, 5))
    write_series(folder, shape=(4, 3, 5), stored=stored, edit=padded)
    return dicomdl.read_volume(dicomdl.scan(folder, progress=False).stacks[0])


TRUE_PADDING = np.broadcast_to(np.arange(15).reshape(3, 5) < 7, (4, 3, 5))


def test_padding_stays_bits_until_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[BitMask] = []
    original = BitMask.unpacked
    monkeypatch.setattr(BitMask, "unpacked", lambda mask: made.append(mask) or original(mask))
    volume = read_with_padding(folder)
    volume.array[...] = 0
    assert str(volume) and not made
    assert np.array_equal(volume.padding, TRUE_PADDING)
    assert volume.padding is volume.padding and len(made) == 1
    assert volume.crop(slices=(1, 3)).padding is not None and len(made) == 1


def test_a_volume_whose_padding_is_bits_is_pickled_copied_and_replaced(folder: Path) -> None:
    changes = (
        lambda volume: pickle.loads(pickle.dumps(volume)),
        copy.copy,
        copy.deepcopy,
        lambda volume: dataclasses.replace(volume, units="1"),
        lambda volume: volume.crop(),
    )
    for number, change in enumerate(changes):
        changed = change(read_with_padding(folder / str(number)))
        assert np.array_equal(changed.padding, TRUE_PADDING)


def test_padding_of_a_volume_cannot_be_set(folder: Path) -> None:
    volume = read_with_padding(folder)
    with pytest.raises(dataclasses.FrozenInstanceError):
        volume.padding = None  # type: ignore[misc]
    assert Volume(volume.array, volume.geometry, padding=TRUE_PADDING).padding is TRUE_PADDING
    assert ramp().padding is None


def test_each_time_point_has_its_padding(folder: Path) -> None:
    for t in (1, 2):

        def timed(dataset: Dataset, z: int, t: int = t) -> None:
            dataset.PixelPaddingValue = t
            dataset["PixelPaddingValue"].VR = "US"
            dataset.TemporalPositionIdentifier = t

        stored = np.broadcast_to(np.arange(15).reshape(3, 5), (4, 3, 5))
        options = {"shape": (4, 3, 5), "stored": stored, "series_uid": "1.2.3"}
        write_series(folder, **options, seed=t, edit=timed)
    (group,) = dicomdl.scan(folder, progress=False).groups
    volume = dicomdl.read_volume(group)
    assert volume.padding is not None and volume.padding.shape == (2, 4, 3, 5)
    for t in (0, 1):
        assert np.array_equal(volume.at(t).padding, volume.array[t] == t + 1)

"""A volume as an array of NumPy and torch, and as one line of text."""

from pathlib import Path

import numpy as np
import pytest
from phantoms import true_volume, write_series

import dicomdl
from dicomdl import Geometry, Volume

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

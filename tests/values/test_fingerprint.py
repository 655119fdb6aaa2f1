"""fingerprint: a value that saves, loads, proposes a spacing and maps intensities."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dicomdl
from dicomdl.errors import GeometryError, StorageError
from dicomdl.values.auto import resolve
from dicomdl.values.fingerprint import Fingerprint
from dicomdl.values.normalisation import ZScore
from dicomdl.values.request import IntensityRequest
from dicomdl.values.suv import SUV

ISOTROPIC = Fingerprint(
    "CT",
    "HU",
    "modality",
    ((1.0, 0.5, 0.7), (2.0, 0.6, 0.8), (3.0, 0.9, 0.9)),
    ((100, 512, 512), (200, 512, 512), (300, 512, 512)),
    lower=-400.0,
    median=40.0,
    upper=600.0,
    mean=50.0,
    deviation=100.0,
    minimum=-500.0,
    maximum=2000.0,
    frames=30,
    voxels=10**6,
)


def with_(**facts: Any) -> Fingerprint:
    return dataclasses.replace(ISOTROPIC, **facts)


OF_PET = with_(modality="PT", units="GML", quantity=SUV("lbm"))
OF_MAPS = with_(modality="MR", units="mm2/s", quantity=dicomdl.RealWorld("mm2/s"))
OF_ONE_SLICE = with_(spacings=((None, 0.5, 0.5),), sizes=((1, 64, 64),))


@pytest.mark.parametrize("found", [ISOTROPIC, OF_PET, OF_MAPS, OF_ONE_SLICE], ids=repr)
def test_a_fingerprint_saves_loads_pickles_and_is_a_key(tmp_path: Path, found: Fingerprint) -> None:
    found.save(tmp_path / "a.json")
    loaded = Fingerprint.load(tmp_path / "a.json")
    request = IntensityRequest.parse(found)
    assert loaded == found == pickle.loads(pickle.dumps(found)) and hash(loaded) == hash(found)
    assert pickle.loads(pickle.dumps(request)) == request == IntensityRequest.parse(loaded)
    assert hash(request) == hash(IntensityRequest.parse(loaded)) and repr(request) == repr(found)
    assert str(len(found.sizes)) in str(found) and "\n" not in repr(found)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"version": 2},
        {"mean": "NaN"},
        {"deviation": -1},
        {"lower": 700},
        {"sizes": [[1, 2, 3]]},
        {"spacings": [[1, 2]] * 3},
        {"spacings": [], "sizes": []},
        {"quantity": ["pickle", None]},
        {"quantity": ["suv", "sul"]},
        {"frames": -1},
        {"median": None},
    ],
    ids=repr,
)
def test_a_file_that_no_fingerprint_wrote_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "a.json"
    ISOTROPIC.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StorageError, match="version 1"):
        Fingerprint.load(path)


@pytest.mark.parametrize("data", [b"", b"[]", b"\x80\x04N.", b"null", b"{}"])
def test_other_bytes_are_no_fingerprint(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(StorageError, match="no fingerprint"):
        Fingerprint.load(tmp_path / "a.json")
    with pytest.raises(StorageError, match="cannot be read"):
        Fingerprint.load(tmp_path / "absent.json")


# --- spacing --------------------------------------------------------------------------------------


def test_the_target_is_the_median_of_each_axis() -> None:
    assert ISOTROPIC.target_spacing == (2.0, 0.6, 0.8)


def test_thick_slices_get_the_tenth_percentile_where_there_are_few_of_them() -> None:
    spacings = tuple((mm, 1.0, 1.25) for mm in (4.0, 5.0, 10.0, 10.0, 10.0))
    few, many = ((12, 256, 256),) * 5, ((90, 256, 256),) * 5
    assert with_(spacings=spacings, sizes=few).target_spacing == pytest.approx((4.4, 1, 1.25))
    assert with_(spacings=spacings, sizes=many).target_spacing == (10, 1, 1.25)
    # Another axis may be the coarsest; it never becomes finer than the others.
    turned = tuple((1.0, mm, 1.25) for mm in (0.5, 0.5, 10.0, 10.0, 10.0))
    few = ((256, 12, 256),) * 5
    assert with_(spacings=turned, sizes=few).target_spacing == (1, 1.25, 1.25)


def test_unknown_spacings_do_not_count_and_none_at_all_is_an_error() -> None:
    spacings = ((None, 0.5, 0.5), (2.0, 1.0, 1.0))
    assert with_(spacings=spacings, sizes=((1, 9, 9),) * 2).target_spacing == (2, 1, 1)
    with pytest.raises(GeometryError, match="none of 1 stacks"):
        _ = OF_ONE_SLICE.target_spacing
    assert "median spacing" in str(OF_ONE_SLICE)


# --- intensities ----------------------------------------------------------------------------------


def test_values_with_a_scale_are_clipped_and_standardised_by_the_data_set() -> None:
    recipe = resolve(ISOTROPIC, None)
    values = np.array([-3000, -400, 50, 150, 600, 3000], np.int16)
    assert recipe(values).tolist() == [-4.5, -4.5, 0, 1, 5.5, 5.5]
    assert recipe.units == "1" and not recipe.needs_sample
    assert recipe.floor(np.dtype(np.int16)) <= -400
    assert resolve(OF_PET, None).quantity == SUV("lbm")
    assert resolve(OF_MAPS, None).quantity == dicomdl.RealWorld("mm2/s")


def test_values_without_a_scale_are_standardised_by_stack() -> None:
    recipe = resolve(with_(modality="MR", units=""), None)
    assert recipe.mapping == ZScore()
    assert resolve(with_(modality="PT", units="BQML"), None).mapping == ZScore()
    assert not resolve(with_(modality="PT", units="GML"), None).needs_sample


@pytest.mark.parametrize("change", [{"deviation": 0.0}, {"lower": 40.0, "upper": 40.0}])
def test_a_constant_foreground_gives_zeros(change: dict[str, Any]) -> None:
    assert (resolve(with_(**change), None)(np.arange(-9, 9)) == 0).all()

"""Slices of a Series whose values mean something else are stacks of their own, and a finding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from phantoms import uid, write_series
from pydicom.dataset import Dataset

import dicomdl

Which = Callable[[int], bool]


def scan(folder: Path, tell: Callable[[int], dict[str, Any]], **options: Any) -> dicomdl.Index:
    def edit(dataset: Dataset, z: int) -> None:
        for keyword, value in tell(z).items():
            setattr(dataset, keyword, value)

    write_series(folder / "in", edit=edit, shape=(8, 5, 7), **options)
    return dicomdl.scan(folder / "in", folder / "index", progress=False)


WHICH: dict[str, Which] = {"half": lambda z: z >= 4, "other": lambda z: z % 2 == 1}


@pytest.mark.parametrize("which", WHICH.values(), ids=WHICH)
@pytest.mark.parametrize(
    ("keyword", "one", "two", "modality"),
    [
        ("Units", "BQML", "GML", "PT"),
        ("RescaleType", "HU", "MGML", "CT"),
        ("RescaleType", "", "MGML", "CT"),
        ("PhotometricInterpretation", "MONOCHROME2", "MONOCHROME1", "CT"),
    ],
)
def test_stacks_of_one_series_with_values_of_two_kinds_need_a_person(
    tmp_path: Path, keyword: str, one: str, two: str, modality: str, which: Which
) -> None:
    index = scan(tmp_path, lambda z: {keyword: two if which(z) else one}, modality=modality)
    check = index.check()
    assert [row.shape[0] for row in check.needing] == [4, 4]
    names = {"Units": "units", "RescaleType": "rescale_type"}
    name = names.get(keyword, "photometric_interpretation")
    values = sorted([one or "HU", two])
    for row in check.rows:
        assert row.detail["values_apart"] == {name: dict.fromkeys(values, 4)}
    assert f"in several stacks by {keyword[:5]}" in str(check)
    assert f"{values[0]} in 4, {values[1]} in 4" in str(check)


def test_slices_without_a_rescale_among_others_need_a_person(tmp_path: Path) -> None:
    slopes = [1.0] * 7 + [None]
    index = scan(tmp_path, lambda _: {}, slope=slopes, intercept=slopes)
    needing = index.check().needing
    assert sorted(row.shape[0] for row in needing) == [1, 7]
    for row in needing:
        assert row.detail["values_apart"] == {"rescale_slope": {"stated": 7, "blank": 1}}


def test_rescale_types_at_the_same_positions_are_maps_of_one_volume(tmp_path: Path) -> None:
    for number, kind in enumerate(("HU", "MGML")):
        index = scan(tmp_path, lambda _, k=kind: {"RescaleType": k}, seed=number, series_uid="1.2")
    assert len(index.stacks) == 2
    assert index.check().ok


def test_a_magnitude_without_and_its_phase_with_a_rescale_need_nobody(tmp_path: Path) -> None:
    """Phases are rescaled from -4096 to 4094 where magnitudes are as they were measured."""
    for part, slope, intercept in (("M", None, None), ("P", 2, -4096)):
        index = scan(
            tmp_path,
            lambda _, part=part: {"ImageType": ["ORIGINAL", "PRIMARY", part, "ND"]},
            seed=slope or 0,
            series_uid="1.2",
            modality="MR",
            slope=slope,
            intercept=intercept,
        )
    assert len(index.stacks) == 2
    assert index.check().ok


def test_units_at_the_same_positions_need_a_person(tmp_path: Path) -> None:
    for number, kind in enumerate(("BQML", "GML")):
        index = scan(
            tmp_path,
            lambda _, k=kind: {"Units": k},
            seed=number,
            series_uid="1.2",
            modality="PT",
        )
    assert [row.detail["values_apart"] for row in index.check().needing] == [
        {"units": {"BQML": 8, "GML": 8}}
    ] * 2


def test_two_series_with_units_of_their_own_need_nobody(tmp_path: Path) -> None:
    for number, kind in enumerate(("BQML", "GML")):
        index = scan(
            tmp_path,
            lambda _, k=kind: {"Units": k},
            seed=number,
            series_uid=uid("series", number),
            modality="PT",
        )
    assert index.check().ok

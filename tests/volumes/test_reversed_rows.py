"""reversed_rows: volumes of GE's epi_pepolar are named by check and turned on request only."""

from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pytest
from conftest import index_of
from phantoms_defects import Facts, say

import dicomdl
from dicomdl.errors import GeometryError, UsageError

NAME = (0x0019, "GEMS_ACQU_01", 0x9C, "LO")
SCHEME = (0x0019, "GEMS_ACQU_01", 0xB3, "DS")
SHAPE = (4, 6, 7)


def time_points(
    folder: Path,
    scheme: Any,
    turned: set[int],
    count: int = 4,
    sequence: str = "epi_pepolar",
    position: str = "TemporalPositionIdentifier",
) -> dicomdl.Index:
    """The index of time points, of which those in `turned` have their rows stored in reverse."""
    for t in range(1, count + 1):
        facts: Facts = {position: t, "ManufacturerModelName": "M", NAME: sequence}
        facts = {**facts, **({} if scheme is None else {SCHEME: scheme})}
        stored = phantoms.ramp(SHAPE) + 300 * t
        phantoms.write_series(
            folder,
            shape=SHAPE,
            modality="MR",
            stored=stored[:, ::-1] if t in turned else stored,
            series_uid="1.2.3.4",
            seed=t,
            edit=lambda dataset, z, facts=facts: say(dataset, facts),
        )
    return index_of(folder)


TRUE = np.stack([phantoms.ramp(SHAPE) + 300 * t for t in range(1, 5)])
ALL_SCHEMES = [("0", set[int]()), ("1", {1, 2, 3, 4}), ("2", {1, 3}), ("3", {2, 4})]


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "position", ["TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime"]
)
@pytest.mark.parametrize(("scheme", "turned"), ALL_SCHEMES)
def test_reversed_time_points_are_named_and_turned_on_request(
    folder: Path, scheme: str, turned: set[int], position: str
) -> None:
    index = time_points(folder, scheme, turned, position=position)
    (group,) = index.groups
    named = {t for t, stack in enumerate(group, 1) if stack.detail.get("reversed_rows") == "all"}
    assert named == turned
    check = index.check()
    assert len(check.needing) == len(turned)
    assert all("epi_pepolar" in row.reason for row in check.needing)
    np.testing.assert_array_equal(dicomdl.read_volume(group, reversed_rows="turn").array, TRUE)
    for t, stack in enumerate(group):
        as_stored, right = (
            dicomdl.read_volume(stack),
            dicomdl.read_volume(stack, reversed_rows="turn"),
        )
        np.testing.assert_array_equal(right.array, TRUE[t])
        np.testing.assert_array_equal(
            as_stored.array, TRUE[t][:, ::-1] if t + 1 in turned else TRUE[t]
        )
        np.testing.assert_array_equal(as_stored.affine, right.affine)


def test_the_header_is_the_default_and_another_sequence_is_never_turned(folder: Path) -> None:
    index = time_points(folder, "2", set(), sequence="epi2")
    assert not index.check().needing
    (group,) = index.groups
    np.testing.assert_array_equal(dicomdl.read_volume(group, reversed_rows="turn").array, TRUE)


@pytest.mark.parametrize("scheme", [None, "7"])
def test_a_scheme_that_is_not_known_is_named_and_refused(folder: Path, scheme: str | None) -> None:
    index = time_points(folder, scheme, set(), count=2)
    assert [s.detail["reversed_rows"] for s in index.stacks] == ["unknown"] * 2
    assert len(index.check().needing) == 2
    dicomdl.read_volume(index.stacks[0])
    with pytest.raises(GeometryError, match="epi_pepolar"):
        dicomdl.read_volume(index.stacks[0], reversed_rows="turn")


def test_a_single_volume_without_a_time_point_is_unknown_but_for_schemes_of_all_or_none(
    folder: Path,
) -> None:
    index = time_points(folder, "2", {1}, count=1, position="SeriesNumber")
    assert index.stacks[0].detail["reversed_rows"] == "unknown"


def test_elements_without_their_private_creator_tell_it_too(folder: Path) -> None:
    def edit(dataset: Any, z: int) -> None:
        say(dataset, {"Manufacturer": "GE MEDICAL SYSTEMS", "ScanningSequence": ["EP", "SE"]})
        dataset.add_new(0x0019109C, "LO", "epi_pepolar")
        dataset.add_new(0x001910B3, "DS", "1")

    phantoms.write_series(folder, shape=SHAPE, modality="MR", edit=edit)
    assert index_of(folder).stacks[0].detail["reversed_rows"] == "all"


def test_padding_turns_with_its_rows(folder: Path) -> None:
    def edit(dataset: Any, z: int) -> None:
        say(dataset, {NAME: "epi_pepolar", SCHEME: "1", "PixelPaddingValue": 0})

    phantoms.write_series(folder, shape=SHAPE, modality="MR", edit=edit)
    (stack,) = index_of(folder).stacks
    volume = dicomdl.read_volume(stack, reversed_rows="turn")
    assert volume.padding is not None
    np.testing.assert_array_equal(volume.padding, volume.array == 0)
    assert volume.padding[0, -1, 0]


def test_halved_rows_cannot_be_turned(folder: Path) -> None:
    index = time_points(folder, "1", {1}, count=1)
    with pytest.raises(UsageError, match="reduce=1"):
        dicomdl.read_volume(index.stacks[0], reversed_rows="turn", reduce=1)
    with pytest.raises(UsageError, match="reversed_rows='flip'"):
        dicomdl.read_volume(index.stacks[0], reversed_rows="flip")  # type: ignore[arg-type]

"""Groups of which some stacks cannot be read, and groups of several quantities."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import decimal, write_segmentation_1bit
from phantoms_defects import MARK, Part, series
from pydicom.dataset import Dataset

import dicomdl
from dicomdl.errors import IncompleteGroup, IntensityError, IrregularStack, UsageError
from dicomdl.index._group_parts import gaps_of, names_that_differ, quantity_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dicom").mkdir()
    return tmp_path / "dicom"


def scan(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / "index", workers=1, progress=False)


def time_point(n: int, z: int) -> Mapping[str, Any]:
    return {"TemporalPositionIdentifier": n % 4 + 1}


def with_a_damaged_first(folder: Path) -> tuple[list[Part], dicomdl.Group]:
    """Write four time points; slices 2 and 3 of the first come twice, with other pixels."""
    parts = [series(folder, n, tell=time_point) for n in range(4)]
    series(folder, 4, tell=time_point, drop=[0, 1, 4, 5])
    (group,) = scan(folder).groups
    return parts, group


def test_a_damaged_member_refuses_the_group_by_name_and_the_others_are_readable(
    folder: Path,
) -> None:
    parts, group = with_a_damaged_first(folder)
    with pytest.raises(IrregularStack, match="stack 0 of the 4 of the group is dup") as caught:
        dicomdl.read_volume(group)
    assert "read_volume(group.readable) reads the 3 that can be read" in str(caught.value)
    assert (caught.value.verdict, caught.value.detail) == ("duplicates", group[0].detail)
    volume = dicomdl.read_volume(group.readable)
    assert volume.dimension == group.readable.dimension == (2, 3, 4)
    assert all(part.holds(volume.array[t], volume.affine) for t, part in enumerate(parts[1:]))
    assert volume.at(0).stack == group[1]


def test_check_names_the_damaged_member(folder: Path) -> None:
    _, group = with_a_damaged_first(folder)
    check = scan(folder).check()
    assert [row.number for row in check.needing] == [group[0].number]


def test_members_that_lack_slices_are_not_readable_and_the_error_says_what_is(
    folder: Path,
) -> None:
    for n in range(3):
        series(folder, n, tell=time_point, drop=[4, 5] if n == 2 else [])
    (group,) = scan(folder).groups
    with pytest.raises(IncompleteGroup, match=r"read_volume\(group\.readable\) reads the 2"):
        dicomdl.read_volume(group)
    assert dicomdl.read_volume(group.readable).shape == (2, 6, 5, 7)
    assert group.readable.missing == {}


def test_segments_with_slices_of_their_own_are_readable_with_the_fullest(folder: Path) -> None:
    def drop_the_last_frame(dataset: Dataset, _: int) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[-1]
        dataset.NumberOfFrames = 5
        dataset.PixelData = dataset.PixelData[:22]

    write_segmentation_1bit(
        folder / "seg.dcm", shape=(3, 5, 7), segments=2, edit=drop_the_last_frame
    )
    index = scan(folder)
    group = index.stacks[0].group
    # Labels, and no volumes to choose from.
    assert index.groups == [] and "groups" not in str(index)
    assert [stack.slices for stack in group] == [3, 2]
    with pytest.raises(IncompleteGroup, match=r"reads the 1 that can be read; read_labels\("):
        dicomdl.read_volume(group)
    assert dicomdl.read_volume(group.readable).shape[:2] == (1, 3)


def test_a_whole_group_is_its_own_part_and_readable(folder: Path) -> None:
    for n in range(2):
        series(folder, n, tell=time_point)
    (group,) = scan(folder).groups
    assert group.readable == group
    assert group.parts == (group,)


def test_a_choice_of_stacks_is_another_group_that_pickles(folder: Path) -> None:
    _, group = with_a_damaged_first(folder)
    readable = group.readable
    assert readable != group
    assert len({readable, group, group.readable}) == 2
    again = pickle.loads(pickle.dumps(readable))
    assert again == readable
    assert list(again) == list(group[1:])


def test_a_group_without_readable_stacks_is_refused_as_such(folder: Path) -> None:
    _, group = with_a_damaged_first(folder)
    empty = group.only(group[:1]).readable
    assert (len(empty), empty.dimension, empty.missing) == (0, (), {})
    assert repr(empty) == "Group(0)"
    with pytest.raises(UsageError, match="the group has no stack"):
        dicomdl.read_volume(empty)


# --- quantities -----------------------------------------------------------------------------------


def magnitude_and_phase(units: tuple[str | None, str | None]) -> Any:
    """Return the attributes of two echoes of magnitude, then of phase."""

    def tell(n: int, z: int) -> Mapping[str, Any]:
        is_phase = n >= 2
        return {
            "EchoTime": decimal(5.0 + 5 * (n % 2)),
            "ImageType": ["ORIGINAL", "PRIMARY", "P" if is_phase else "M", "ND"],
            "RescaleType": units[is_phase],
        }

    return tell


@pytest.mark.parametrize("units", [("normalized", "milliradials"), (None, None)])
def test_each_quantity_of_a_group_is_one_array_of_its_echoes(
    folder: Path, units: tuple[str | None, str | None]
) -> None:
    for n in range(4):
        series(folder, n, tell=magnitude_and_phase(units), modality="MR")
    (group,) = scan(folder).groups
    if units[0]:
        with pytest.raises(IntensityError, match=r"2 units: read each group of `group\.parts`"):
            dicomdl.read_volume(group)
    parts = group.parts
    assert [len(part) for part in parts] == [2, 2]
    volumes = [dicomdl.read_volume(part) for part in parts]
    assert [volume.units for volume in volumes] == [unit or "" for unit in units]
    assert [volume.dimension for volume in volumes] == [(5.0, 10.0)] * 2
    assert [volume.dimension_names for volume in volumes] == [("echo_time",)] * 2
    firsts = [volume.array[:, 0, 0, 0].tolist() for volume in volumes]
    assert firsts == [[0, MARK], [2 * MARK, 3 * MARK]]


def test_the_window_of_a_part_takes_its_own_percentiles(folder: Path) -> None:
    for n in range(4):
        series(folder, n, tell=magnitude_and_phase(("a", "b")), modality="MR")
    (group,) = scan(folder).groups
    for part in group.parts:
        volume = dicomdl.read_volume(part)
        assert volume.at(1).stack == part[1]
        own = [dicomdl.read_volume(stack).array for stack in part]
        low, high = np.percentile(own, [0.5, 99.5])
        expected = (np.clip(own, low, high) - low) / (high - low)
        assert np.allclose(volume.window("auto").array, expected, atol=0.01)


@pytest.mark.parametrize(
    ("facts", "component"),
    [
        ({"complex_image_component": "PHASE"}, "P"),
        ({"image_type": "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"}, "M"),
        ({"image_type": "ORIGINAL\\PRIMARY\\PHASE MAP\\P\\FFE"}, "P"),
        ({"image_type": "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC"}, "M"),
        ({"image_type": "ORIGINAL\\PRIMARY\\PERFUSION\\NONE"}, ""),
        ({"ge_raw_data_type": 3}, "I"),
        ({}, ""),
    ],
)
def test_the_component_is_known_from_each_vendors_facts(
    facts: dict[str, Any], component: str
) -> None:
    assert quantity_of(facts.get)[-1] == component


def test_slices_that_all_chosen_stacks_lack_are_not_on_their_grid() -> None:
    details = [{"missing_in_group": [1, 4]}, {"missing_in_group": [1]}]
    assert gaps_of(details) == [[3], []]
    assert gaps_of([]) == []
    assert names_that_differ([{"a": 1, "b": 2}, {"a": 1, "b": 3}]) == ("b",)
    assert names_that_differ([{"a": 1}]) == ("a",)

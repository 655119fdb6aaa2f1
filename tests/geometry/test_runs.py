"""Volumes of a run that moved, or of which one is damaged, through a scan.

The phantoms' own grids say where each volume lies.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import decimal, uid
from phantoms_defects import AXIAL, SAGITTAL, Part, clock, enhanced, series, series_uid
from phantoms_multi import write_mosaic, write_uih_grid
from pydicom.dataset import Dataset

import dicomdl
from dicomdl.errors import GeometryError
from dicomdl.geometry._dimensions import Candidate, Kind, Tier
from dicomdl.geometry._runs import Places, _Search, movement
from dicomdl.geometry.grid import Tolerances

Tell = Callable[[int, int], Mapping[Any, Any]]
Shift = Sequence[float]


def scan(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / "index", workers=1, progress=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dicom").mkdir()
    return tmp_path / "dicom"


def drift(t: int) -> Shift:
    return (0.03 * t, -0.02 * t, 0.11 * t)


def turned(degrees: float, about: str = "x") -> tuple[float, ...]:
    """Cosines of an axial plane turned about x or z."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (1, 0, 0, 0, c, s) if about == "x" else (c, s, 0, -s, c, 0)


def run(folder: Path, tell: Tell, moves: Sequence[Shift], **options: Any) -> list[Part]:
    """Write one volume per move; instance numbers are shuffled over all of them."""
    size = options.get("shape", (6, 5, 7))[0]
    shuffled = np.random.default_rng(5).permutation(len(moves) * size).reshape(len(moves), size) + 1
    numbers = options.pop("numbers", shuffled.tolist())
    return [
        series(folder, t, tell=tell, origin=move, numbers=numbers[t], **options)
        for t, move in enumerate(moves)
    ]


def assert_one_group_of(parts: Sequence[Part], index: dicomdl.Index) -> dicomdl.Group:
    """Assert that each part is a regular stack with its values, and all of them one group."""
    (group,) = index.groups
    assert len(group) == len(parts) == len(index.stacks)
    assert [stack.verdict for stack in group] == ["regular"] * len(parts)
    left = list(parts)
    for stack in group:
        volume = dicomdl.read_volume(stack)
        (found,) = [part for part in left if part.holds(volume.array, volume.affine)]
        left.remove(found)
    return group


def acquisition(n: int, z: int) -> Mapping[str, Any]:
    return {"AcquisitionNumber": n + 1}


TELLS: Mapping[str, Tell] = {
    "acquisition number": acquisition,
    "temporal position": lambda n, z: {"TemporalPositionIdentifier": n + 1},
    "one acquisition time a volume": lambda n, z: {"AcquisitionTime": clock(30 * n)},
    "acquisition times that rise": lambda n, z: {"AcquisitionTime": clock(30 * n + 2.5 * z)},
    "odd slices first": lambda n, z: {
        "AcquisitionTime": clock(30 * n + 2.5 * [0, 3, 1, 4, 2, 5][z])
    },
    "content time": lambda n, z: {"ContentTime": clock(30 * n)},
    "b-values and directions": lambda n, z: {
        "DiffusionBValue": [0.0, 1000.0, 1000.0, 2000.0, 2000.0, 3000.0][n],
        "DiffusionGradientOrientation": [1.0, 0.0, 0.0] if n % 2 else [0.0, 1.0, 0.0],
    },
    "acquisition number and echo time": lambda n, z: {
        "AcquisitionNumber": n // 2,
        "EchoTime": decimal(5.0 + 5 * (n % 2)),
    },
}


@pytest.mark.parametrize("told", TELLS)
def test_volumes_that_follow_the_head_are_one_group_whatever_tells_them_apart(
    folder: Path, told: str
) -> None:
    parts = run(folder, TELLS[told], [drift(t) for t in range(6)], modality="MR")
    group = assert_one_group_of(parts, scan(folder))
    assert max(stack.detail["movement_mm"] for stack in group) == pytest.approx(0.579, abs=1e-3)


MOVES: Mapping[str, list[Shift]] = {
    "two volumes": [drift(0), drift(4)],
    "one of six": [(0, 0, 0)] * 3 + [(0, 0, 0.4)] + [(0, 0, 0)] * 2,
    "steps of a quarter of a slice": [(0, 0, 0.5 * t) for t in range(6)],
    "four volumes that make one even grid": [(0, 0, 0.5 * t) for t in range(4)],
    "more than a slice": [(0, 0, 3.51), (0, 0, 0), (0, 0, 0), (0, 0, 3.51)],
    "in plane": [(0.3 * t, 0, 0) for t in range(6)],
    "to and fro": [(0, 0, 0), (0.4, -0.7, 0.9), (-0.1, 0.3, -1.2), (0.2, 0.1, 0.7)],
}


@pytest.mark.parametrize("how", MOVES)
def test_any_small_movement_is_stated_against_the_first_volume(folder: Path, how: str) -> None:
    group = assert_one_group_of(run(folder, acquisition, MOVES[how]), scan(folder))
    expected = [math.dist(move, MOVES[how][0]) for move in MOVES[how]]
    assert [stack.detail["movement_mm"] for stack in group] == pytest.approx(expected, abs=1e-3)
    assert "rotation_deg" not in group[1].detail


@pytest.mark.parametrize("about", ["x", "z"])
@pytest.mark.parametrize("told", ["acquisition number", "acquisition times that rise"])
def test_volumes_that_turn_are_one_group_with_the_angle(
    folder: Path, told: str, about: str
) -> None:
    parts = [
        series(folder, t, tell=TELLS[told], origin=drift(t), orientation=turned(0.4 * t, about))
        for t in range(5)
    ]
    group = assert_one_group_of(parts, scan(folder))
    angles = [stack.detail.get("rotation_deg", 0) for stack in group]
    assert angles == pytest.approx([0, 0.4, 0.8, 1.2, 1.6], abs=1e-2)


@pytest.mark.parametrize("thickness", [1, 2])
def test_volumes_that_meet_in_pairs_are_not_mixed_by_the_order_of_their_numbers(
    folder: Path, thickness: int
) -> None:
    """Volumes 0 and 1 lie half a slice below 2 and 3: two frames at each position of 1 mm."""

    def tell(n: int, z: int) -> Mapping[str, Any]:
        return {"TemporalPositionIdentifier": n + 1, "SliceThickness": thickness}

    slice_by_slice = (np.arange(24).reshape(6, 4).T + 1).tolist()
    moves = [(0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 1)]
    group = assert_one_group_of(run(folder, tell, moves, numbers=slice_by_slice), scan(folder))
    assert group.dimension == (1, 2, 3, 4)


def renamed(folder: Path, t: int) -> Callable[[Dataset, int], None]:
    """Return an edit that makes a mosaic the volume `t` of a run."""

    def edit(dataset: Dataset, _: int) -> None:
        dataset.SOPInstanceUID = uid("volume of a run", folder, t)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesInstanceUID = series_uid(folder)
        dataset.InstanceNumber, dataset.AcquisitionNumber = t + 1, t + 1

    return edit


@pytest.mark.parametrize("step", [0.11, 1.0, 2.0, 4.0], ids=lambda step: f"{step} of 4 mm")
@pytest.mark.parametrize("write", [write_mosaic, write_uih_grid])
def test_tiles_of_one_mosaic_stay_together_wherever_the_next_one_lies(
    folder: Path, write: Callable[..., Path], step: float
) -> None:
    for t in range(3):
        origin = (-10, 20, 30 + step * t)
        write(folder / f"{t}.dcm", origin=origin, edit=renamed(folder, t))
    (group,) = scan(folder).groups
    assert [(stack.verdict, stack.slices) for stack in group] == [("regular", 7)] * 3
    assert [len({frame.path for frame in stack.frames}) for stack in group] == [1] * 3
    assert [stack.detail["movement_mm"] for stack in group] == pytest.approx([0, step, 2 * step])
    assert group.missing == {}


def test_mosaics_that_nothing_tells_apart_are_stacks_of_their_own(folder: Path) -> None:
    def edit(t: int) -> Callable[[Dataset, int], None]:
        def say(dataset: Dataset, _: int) -> None:
            renamed(folder, t)(dataset, 0)
            dataset.InstanceNumber = dataset.AcquisitionNumber = 1

        return say

    for t in range(3):
        write_mosaic(folder / f"{t}.dcm", origin=(-10, 20, 30 + 0.3 * t), edit=edit(t))
    index = scan(folder)
    assert [(stack.verdict, stack.slices) for stack in index.stacks] == [("regular", 7)] * 3


def test_moved_volumes_of_enhanced_files_are_one_group(folder: Path) -> None:
    for t in range(4):
        facts = {"InstanceNumber": t + 1}
        enhanced(folder, 1, lambda n, z: {}, first=t, origin=drift(t), facts=facts)
    (group,) = scan(folder).groups
    assert [(stack.verdict, stack.slices) for stack in group] == [("regular", 6)] * 4


def test_moved_volumes_within_one_enhanced_file_are_one_group(folder: Path) -> None:
    def content(n: int, z: int) -> Mapping[str, Any]:
        x, y, up = drift(n)
        return {
            "TemporalPositionIndex": n + 1,
            "DimensionIndexValues": [1, z + 1, n + 1],
            "InStackPositionNumber": z + 1,
            "ImagePositionPatient": [x, y, up + 2 * z],
        }

    enhanced(folder, 4, content)
    (group,) = scan(folder).groups
    assert [(stack.verdict, stack.slices) for stack in group] == [("regular", 6)] * 4


def test_an_interrupted_last_volume_is_the_member_that_lacks_slices(folder: Path) -> None:
    run(folder, acquisition, [drift(t) for t in range(5)])
    series(folder, 5, tell=acquisition, origin=drift(5), drop=[4, 5])
    (group,) = scan(folder).groups
    assert [stack.slices for stack in group] == [6] * 5 + [4]
    assert group.missing == {6: [4, 5]}


def test_a_moved_group_is_refused_with_the_movement_and_the_way_that_works(folder: Path) -> None:
    parts = [
        series(folder, t, tell=acquisition, origin=drift(2 * t), orientation=turned(0.5 * t))
        for t in range(4)
    ]
    group = assert_one_group_of(parts, scan(folder))
    with pytest.raises(GeometryError, match=r"of the 4 stacks of the group, 3 lie up to") as caught:
        dicomdl.read_volume(group)
    assert caught.value.t == 3
    assert caught.value.error_mm == pytest.approx(group[3].detail["movement_mm"], abs=1e-3)
    assert caught.value.rotation_deg == pytest.approx(1.5, abs=1e-2)
    assert "read_volume(stack).resample_to(group[0].geometry)" in str(caught.value)
    moved = [dicomdl.read_volume(stack).resample_to(group[0].geometry) for stack in group]
    assert {volume.shape for volume in moved} == {(6, 5, 7)}
    assert {volume.geometry for volume in moved} == {group[0].geometry}


def test_movement_below_the_tolerance_is_read_as_one_array(folder: Path) -> None:
    run(folder, acquisition, [(0, 0, 0.03 * t) for t in range(3)])
    (group,) = scan(folder).groups
    assert dicomdl.read_volume(group).shape == (3, 6, 5, 7)
    assert group[2].detail["movement_mm"] == pytest.approx(0.06)


def test_check_states_how_far_the_members_of_a_group_moved(folder: Path) -> None:
    run(folder, acquisition, [(0, 0, 0), (0, 0, 0.4), (0, 0, 1.2)])
    check = scan(folder).check()
    assert [row.reason.count("moved by") for row in check.rows] == [0, 1, 1]
    assert "moved by 1.2 mm against the first stack of its group" in check.rows[2].reason
    (remark,) = check.remarks
    assert remark == "moved against the first of the group by up to 1.2 mm: 2 stacks"


# --- sound cases that are no run ------------------------------------------------------------------


def stacks_of(index: dicomdl.Index) -> list[tuple[str, int]]:
    assert list(index.groups) == []
    return sorted((stack.verdict, stack.slices) for stack in index.stacks)


def test_planned_stacks_of_their_own_angle_are_no_run(folder: Path) -> None:
    for n in range(3):
        series(
            folder,
            n,
            tell=acquisition,
            shape=(4, 5, 7),
            spacing=(4.5, 30, 30),
            origin=(0, 0, 35 * n),
            orientation=turned(8 * (n - 1)),
        )
    assert stacks_of(scan(folder)) == [("regular", 4)] * 3


def test_localizers_of_three_planes_are_no_run(folder: Path) -> None:
    planes: Any = [AXIAL, SAGITTAL, (1, 0, 0, 0, 0, -1)]
    for n in range(3):
        series(folder, n, tell=acquisition, orientation=planes[n])
    assert stacks_of(scan(folder)) == [("regular", 6)] * 3


def test_stations_whose_instance_numbers_begin_anew_are_no_run(folder: Path) -> None:
    for n in range(3):
        series(folder, n, tell=acquisition, origin=(0, 0, 9.3 * n), numbers=[1, 2, 3, 4, 5, 6])
    assert stacks_of(scan(folder)) == [("regular", 6)] * 3


def test_fields_of_view_side_by_side_are_no_run(folder: Path) -> None:
    for n in range(2):
        series(folder, n, tell=acquisition, origin=(6 * n, 0, 0))
    assert stacks_of(scan(folder)) == [("regular", 6)] * 2


@pytest.mark.parametrize("lost", [[], [1]])
def test_acquisitions_that_interleave_are_one_stack(folder: Path, lost: list[int]) -> None:
    for n in range(4):
        tell: Tell = lambda n, z: {"AcquisitionNumber": n + 1, "SliceThickness": 2}
        drop = lost if n == 3 else []
        series(
            folder,
            n,
            tell=tell,
            shape=(3, 5, 7),
            origin=(0, 0, 2 * n),
            spacing=(8, 1, 1),
            drop=drop,
        )
    verdict = "missing_slices" if lost else "regular"
    assert stacks_of(scan(folder)) == [(verdict, 12 - len(lost))]


# --- one damaged volume ---------------------------------------------------------------------------


# A counter needs three whole volumes of four, an attribute of the measurement half of them.
@pytest.mark.parametrize(
    ("told", "count"), [("temporal position", n) for n in (2, 3, 4)] + [("acquisition number", 4)]
)
def test_one_volume_with_positions_twice_is_the_only_one_that_is_refused(
    folder: Path, told: str, count: int
) -> None:
    parts = run(folder, TELLS[told], [(0, 0, 0)] * count)
    # Slices 2 and 3 again, with other pixels.
    series(folder / "again", 0, tell=TELLS[told], offset=90, drop=[0, 1, 4, 5], seed=9,
           series_uid=series_uid(folder))  # fmt: skip
    (group,) = scan(folder).groups
    assert [stack.verdict for stack in group] == ["duplicates"] + ["regular"] * (count - 1)
    assert (group[0].slices, group[0].detail["repeated_positions"]) == (8, 2)
    assert len(group[0].detail["instances"]) == 4
    for stack, part in zip(group[1:], parts[1:], strict=True):
        volume = dicomdl.read_volume(stack)
        assert part.holds(volume.array, volume.affine)


def test_movement_is_the_largest_of_any_corner_and_the_angle_that_of_the_axes() -> None:
    affine = np.diag([2.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]
    other = affine.copy()
    other[:3, 3] += (3, 0, 4)
    assert movement(affine, other, (6, 5, 7)) == pytest.approx((5, 0))
    c, s = math.cos(math.radians(2)), math.sin(math.radians(2))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    distance = 2 * math.sin(math.radians(1)) * math.hypot(12, 4)
    assert movement(affine, turn @ affine, (6, 5, 7)) == pytest.approx((distance, 2))


# --- on numbers without files ---------------------------------------------------------------------

AXIAL_COSINES, SAGITTAL_COSINES = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)


def search(
    heights: Sequence[float], *, damaged: bool = False, beside: Sequence[float] = (), **places: Any
) -> _Search:
    """Return the search among axial frames at these heights, in a field of 10 mm."""
    positions = np.zeros((len(heights), 3))
    positions[:, 2] = heights
    if len(beside):
        positions[:, 0] = beside
    values: dict[str, Any] = {
        "positions": positions,
        "orientations": np.tile(AXIAL_COSINES, (len(heights), 1)).astype(float),
        "field_mm": 10,
        "files": None,
        "several_per_file": False,
        "slices": np.zeros(len(heights), np.int64),
        **places,
    }
    return _Search(Places(**values), Tolerances(), damaged=damaged)


def numbered(numbers: Sequence[float], kind: Kind = "time") -> Candidate:
    values = np.asarray(numbers, float)
    codes = np.unique(values, return_inverse=True)[1].reshape(-1)
    return Candidate("when", Tier.NUMBER, kind, codes, numbers=values)


def test_an_attribute_of_one_value_is_no_part_of_a_dimension() -> None:
    heights = np.arange(9)
    assert not search(heights).may_help(numbered([5] * 9), np.zeros(9, np.int64))
    assert search(heights).may_help(numbered(heights), heights // 3)


@pytest.mark.parametrize(
    ("heights", "expected", "on_grid"),
    [
        ([14, 16, 20], [2, 3, 5], True),
        # Beyond the last slice, and before the first.
        ([20, 22, 26], [2, 3, 5], True),
        ([4, 6], [0, 1], True),
        # More slices than the volume has, between slices, and twice at one place.
        ([12, 24], [0, 6], False),
        ([12, 13], [1, 1], False),
        ([12, 12, 14], [1, 1, 2], False),
    ],
)
def test_slices_of_a_damaged_volume_are_numbered_by_the_grid_of_a_whole_one(
    heights: list[float], expected: list[int], on_grid: bool
) -> None:
    whole = [10, 12, 14, 16, 18, 20]
    found = search([*whole, *heights])._numbered(np.arange(6, 6 + len(heights)), np.arange(6))
    assert (found[0].tolist(), found[1]) == (expected, on_grid)


@pytest.mark.parametrize(
    ("along", "beside", "expected"),
    [
        *((3.9, 0, True), (-3.9, 0, True), (4, 0, False), (4.5, 0, False)),
        *((0, 4.9, True), (0, 5, False), (3.9, 4.9, True)),
    ],
)
def test_volumes_of_a_run_overlap_by_more_than_half(
    along: float, beside: float, expected: bool
) -> None:
    """Four slices of 2 mm are 8 mm deep. The first frame has the normal."""
    heights = np.arange(0, 8, 2.0)
    turned = np.tile(AXIAL_COSINES, (8, 1)).astype(float)
    turned[1] = SAGITTAL_COSINES
    places = search(
        [*heights, *(heights + along)], beside=[0] * 4 + [beside] * 4, orientations=turned
    )
    rows = np.arange(8).reshape(2, 4)
    assert places._near(rows, rows[0]).tolist() == [True, expected]


@pytest.mark.parametrize(("step", "alike"), [(2.0, True), (2.04, True), (2.1, False), (3, False)])
def test_whole_volumes_have_the_spacing_of_most(step: float, alike: bool) -> None:
    """At the last of five slices, 0.2 mm are the most that a spacing of 2 mm allows."""
    heights = [2 * np.arange(5), 2 * np.arange(5), step * np.arange(5)]
    places = search(np.concatenate(heights))
    assert places._whole(np.arange(15).reshape(3, 5)).tolist() == [True, True, alike]


def test_a_volume_with_a_slice_twice_keeps_the_numbers_of_its_places() -> None:
    heights = [0, 1, 2, 3] * 3 + [0, 1, 2, 2]
    labels = np.repeat(np.arange(4), 4)
    found = search(heights, damaged=True)._slices(labels, b"", by_meaning=False)
    assert found is not None and found.tolist() == [0, 1, 2, 3] * 3 + [0, 1, 2, 2]
    assert search(heights)._slices(labels, b"", by_meaning=False) is None


@pytest.mark.parametrize(
    ("damaged", "by_meaning", "is_run"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_half_of_the_volumes_suffice_where_a_measurement_tells_damaged_ones(
    damaged: bool, by_meaning: bool, is_run: bool
) -> None:
    heights = [0, 1, 2, 3] * 2 + [0, 1]
    labels = np.repeat(np.arange(3), (4, 4, 2))
    found = search(heights, damaged=damaged)._slices(labels, b"", by_meaning=by_meaning)
    assert (found is not None) == is_run


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("time", [0, 1, 2, 5, 6, 7, 10, 11, 12]),
        ("count", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        # Two slices at once: their order is that of their positions.
        ("time", [0, 0, 1, 5, 5, 6, 10, 10, 11]),
    ],
)
def test_passes_over_moved_volumes_are_found_by_times_and_by_counts(
    kind: Kind, numbers: list[float]
) -> None:
    heights = [0, 1, 2, 1.1, 0.1, 2.1, 0.2, 1.2, 2.2]
    if numbers[1] != numbers[0]:
        heights = [0, 1, 2, 0.1, 1.1, 2.1, 0.2, 1.2, 2.2]
    (run,) = search(heights).passes([numbered(numbers, kind)], Tier.NUMBER)
    assert run.dimension.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert run.slices.tolist() == np.rint(np.asarray(heights) - 0.1).astype(int).tolist()

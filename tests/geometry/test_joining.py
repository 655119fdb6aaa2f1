"""Series whose slices have several Study or Frame of Reference UIDs, or none."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import uid, write_secondary_capture, write_series
from pydicom.dataset import Dataset

from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.stacks import Stacking, build_stacks
from dicomdl.headers.reader import HeaderReader
from dicomdl.index.building import encoded
from dicomdl.index.table import Table
from dicomdl.jobs.engine import read_chunk

READER = HeaderReader()
SERIES = uid("joined series")
FRAMES, STUDIES = "FrameOfReferenceUID", "StudyInstanceUID"
# What a file holds under a keyword; "" is blank, None is absent.
Tell = Callable[[int], dict[str, Any]]


def per_slice(z: int) -> str:
    return uid("a UID per slice", z)


def one(name: Any = 1) -> str:
    return uid("a UID of many slices", name)


def write(folder: Path, tell: Tell, *, slices: int = 12, seed: int = 0, **options: Any) -> None:
    """Write slices whose files say what `tell` says of their number."""

    def edit(dataset: Dataset, z: int) -> None:
        for keyword, value in tell(z).items():
            if value is not None:
                setattr(dataset, keyword, value)
            elif keyword in dataset:
                delattr(dataset, keyword)

    options = {"series_uid": SERIES, "study_uid": one("study"), "modality": "MR", **options}
    write_series(folder, shape=(slices, 5, 7), seed=seed, edit=edit, **options)


def stacks_of(folder: Path, seed: int = 0) -> tuple[Table, Stacking]:
    """The frames of all files of a folder, read in a random order, and their stacks."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    random.Random(seed).shuffle(paths)
    table = encoded(read_chunk(READER, [str(path).encode() for path in paths])[1])
    return table, build_stacks(table, Tolerances())


def found(folder: Path, seed: int = 0) -> list[tuple[str, int]]:
    """Verdict and slices of every stack; the order of files must not matter."""
    orders = [
        [(stack.verdict, stack.slices, stack.detail) for stack in stacks_of(folder, s)[1].stacks]
        for s in (seed, seed + 1)
    ]
    assert orders[0] == orders[1]
    return [(verdict, slices) for verdict, slices, _ in orders[0]]


def details(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(stack.detail) for stack in stacks_of(folder)[1].stacks]


# --- UIDs that tell nothing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tell", "detail"),
    [
        (per_slice, {"frames_of_reference": 12}),
        (lambda z: "" if z % 3 else one(), {"blank_frames_of_reference": 8}),
        (lambda z: None if z < 5 else one(), {"blank_frames_of_reference": 5}),
        (lambda z: "" if z == 4 else per_slice(z), {"blank_frames_of_reference": 1}),
        (lambda z: one(z // 2), {"frames_of_reference": 6}),
        (lambda z: one() if z < 7 else per_slice(z), {"frames_of_reference": 6}),
        (lambda z: one() if z < 11 else per_slice(z), {"frames_of_reference": 2}),
        (lambda z: one((0, 1, 1, 0, 2, 0, 2, 2, 1, 0, 2, 1)[z]), {"frames_of_reference": 3}),
        (lambda z: "", {}),
    ],
    ids=[
        *("per slice", "blank in two of three", "absent at one end", "per slice, blank in one"),
        *("per pair", "per slice after seven", "one slice at the end", "by chance", "all blank"),
    ],
)
@pytest.mark.parametrize("keyword", [FRAMES, STUDIES])
def test_uids_that_hold_no_grid_of_their_own_divide_nothing(
    tmp_path: Path, keyword: str, tell: Callable[[int], Any], detail: dict[str, int]
) -> None:
    write(tmp_path, lambda z: {keyword: tell(z)})
    assert found(tmp_path) == [("regular", 12)]
    (said,) = details(tmp_path)
    if keyword == STUDIES:
        detail = {key.replace("frames_of_reference", "studies"): n for key, n in detail.items()}
    assert detail.items() <= said.items()
    all_blank = keyword == STUDIES and not any(tell(z) for z in range(12))
    assert said.get("study_instance_uid") == ("blank" if all_blank else None)
    assert said.keys() - detail.keys() <= {
        *("spacing", "position_error", "study_instance_uid"),
        *("frames_of_reference", "studies"),
    }


def test_study_and_frame_of_reference_may_both_differ_from_slice_to_slice(tmp_path: Path) -> None:
    write(tmp_path, lambda z: {FRAMES: per_slice(z), STUDIES: per_slice(-z)})
    assert found(tmp_path) == [("regular", 12)]
    (said,) = details(tmp_path)
    assert (said["frames_of_reference"], said["studies"]) == (12, 12)


def test_a_missing_slice_is_found_although_each_slice_has_a_uid_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, lambda z: {FRAMES: per_slice(z)}, drop=[4])
    assert found(tmp_path) == [("missing_slices", 11)]
    assert details(tmp_path)[0]["missing_after"] == [3]


@pytest.mark.parametrize("keyword", [FRAMES, STUDIES])
def test_time_points_with_a_uid_per_slice_are_a_group(tmp_path: Path, keyword: str) -> None:
    for t in range(3):
        write(
            tmp_path,
            lambda z, t=t: {keyword: uid(t, z), "TemporalPositionIdentifier": t + 1},  # type: ignore[misc]
            slices=6,
            seed=t,
        )
    stacks = stacks_of(tmp_path)[1].stacks
    assert [(stack.verdict, stack.slices) for stack in stacks] == [("regular", 6)] * 3
    assert {stack.group for stack in stacks} == {0} and len({stack.series for stack in stacks}) == 1
    assert [json.loads(stack.dimension) for stack in stacks] == [
        {"temporal_position_identifier": t} for t in (1, 2, 3)
    ]


def test_equal_copies_with_a_uid_per_file_are_set_aside(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path, lambda z, n=seed: {FRAMES: uid(n, z)}, slices=6, seed=seed)  # type: ignore[misc]
    table, _ = stacks_of(tmp_path)
    positions = table.vectors("image_position_patient", 3)
    stacking = build_stacks(table, Tolerances(), digest=lambda row: str(positions[row]))
    assert [(stack.verdict, stack.slices) for stack in stacking.stacks] == [("regular", 6)]
    assert (stacking.duplicate_of >= 0).sum() == 6


def test_every_orientation_of_a_series_is_joined_by_itself(tmp_path: Path) -> None:
    for n, orientation in enumerate(((1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1))):
        write(
            tmp_path,
            lambda z, n=n: {FRAMES: uid(n, z), STUDIES: uid(z, n)},  # type: ignore[misc]
            orientation=orientation,
            slices=6,
            seed=n,
        )
    stacks = stacks_of(tmp_path)[1].stacks
    assert [(stack.verdict, stack.slices) for stack in stacks] == [("regular", 6)] * 2
    assert len({stack.series for stack in stacks}) == 1


# --- UIDs that hold a grid ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tell", "sizes"),
    [
        (lambda z: one(z // 6), [6, 6]),
        (lambda z: one(z // 4), [4, 4, 4]),
        (lambda z: one(z % 2), [6, 6]),
        (lambda z: one(z % 4), [3, 3, 3, 3]),
    ],
    ids=["adjacent", "three", "interleaved", "four that interleave"],
)
@pytest.mark.parametrize("keyword", [FRAMES, STUDIES])
def test_uids_that_each_hold_a_grid_stay_apart(
    tmp_path: Path, keyword: str, tell: Callable[[int], str], sizes: Sequence[int]
) -> None:
    write(tmp_path, lambda z: {keyword: tell(z)})
    assert sorted(found(tmp_path)) == [("regular", size) for size in sizes]
    key = "studies_apart" if keyword == STUDIES else "frames_of_reference_apart"
    told = [(detail[key], detail["one_grid"]) for detail in details(tmp_path)]
    assert told == [(len(sizes), True)] * len(sizes)
    series = {stack.series for stack in stacks_of(tmp_path)[1].stacks}
    assert len(series) == (len(sizes) if keyword == STUDIES else 1)


@pytest.mark.parametrize("keyword", [FRAMES, STUDIES])
def test_volumes_at_one_place_with_a_uid_each_are_not_one_group(
    tmp_path: Path, keyword: str
) -> None:
    """The standard relates positions within one frame of reference only (PS3.3 C.7.4.1.1.1)."""
    for t in range(4):
        write(
            tmp_path,
            lambda z, t=t: {keyword: one(t), "TemporalPositionIdentifier": t + 1},  # type: ignore[misc]
            slices=6,
            seed=t,
        )
    stacks = stacks_of(tmp_path)[1].stacks
    assert [(stack.verdict, stack.slices) for stack in stacks] == [("regular", 6)] * 4
    assert len({stack.group for stack in stacks}) == 4


def test_acquisitions_with_a_hole_are_not_joined_into_one_with_a_hole(tmp_path: Path) -> None:
    write(tmp_path, lambda z: {FRAMES: one(z // 10)}, slices=20, drop=[14])
    assert sorted(found(tmp_path)) == [("missing_slices", 9), ("regular", 10)]


@pytest.mark.parametrize("dropped", [4, 0])
def test_a_volume_with_a_hole_is_no_time_point_of_another_frame_of_reference(
    tmp_path: Path, dropped: int
) -> None:
    for t in range(2):
        write(
            tmp_path,
            lambda z, t=t: {FRAMES: one(t), "TemporalPositionIdentifier": t + 1},  # type: ignore[misc]
            slices=10,
            seed=t,
            drop=[dropped] if t else [],
        )
    stacks = stacks_of(tmp_path)[1].stacks
    assert len({stack.group for stack in stacks}) == 2
    verdict = "missing_slices" if dropped else "regular"
    assert sorted((s.verdict, s.slices) for s in stacks) == sorted([("regular", 10), (verdict, 9)])


def test_slices_with_a_uid_each_beside_two_grids_are_a_volume(tmp_path: Path) -> None:
    write(
        tmp_path,
        lambda z: {FRAMES: one(z // 5) if z < 10 else per_slice(z)},
        positions=[[0, 0, 2 * z + 31 * (z // 5)] for z in range(15)],
        slices=15,
    )
    assert found(tmp_path) == [("regular", 5)] * 3


def test_a_slice_at_the_place_of_another_one_does_not_spoil_the_volume(tmp_path: Path) -> None:
    write(tmp_path, lambda z: {FRAMES: one()})
    write(tmp_path, lambda z: {FRAMES: one(2)}, slices=1, origin=(0, 0, 8), seed=1, offset=400)
    assert sorted(found(tmp_path)) == [("regular", 12), ("single", 1)]


def test_two_slices_with_two_uids_prove_nothing(tmp_path: Path) -> None:
    write(tmp_path, lambda z: {FRAMES: per_slice(z)}, slices=2)
    assert found(tmp_path) == [("single", 1)] * 2


# --- blank UIDs beside several grids --------------------------------------------------------------


def test_blank_slices_join_the_grid_that_they_complete(tmp_path: Path) -> None:
    # A hole in the first, two slices at the end of the second.
    write(tmp_path, lambda z: {FRAMES: "" if z == 2 else one(1)}, slices=8)
    write(
        tmp_path,
        lambda z: {FRAMES: "" if z > 5 else one(2)},
        slices=8,
        origin=(3, 40, 200),
        seed=1,
        offset=400,
    )
    assert found(tmp_path) == [("regular", 8)] * 2
    assert sorted(d["blank_frames_of_reference"] for d in details(tmp_path)) == [1, 2]


def test_blank_slices_below_a_grid_continue_it(tmp_path: Path) -> None:
    """A gap ends what they continue: slice 0 is beyond it."""
    write(tmp_path, lambda z: {FRAMES: "" if z < 4 else one(1)}, slices=9, drop=[1])
    write(tmp_path, lambda z: {FRAMES: one(2)}, origin=(3, 40, 200), seed=1, offset=400)
    assert sorted(found(tmp_path)) == [("regular", 7), ("regular", 12), ("single", 1)]
    apart, alone = {"frames_of_reference_apart": 2}, {"unassigned": "frame_of_reference_uid"}
    told = sorted(
        (stack.slices, {k: v for k, v in detail.items() if k in (*apart, *alone, "one_grid")})
        for stack, detail in zip(stacks_of(tmp_path)[1].stacks, details(tmp_path), strict=True)
    )
    assert told == [(1, alone), (7, apart), (12, apart)]


def test_a_blank_slice_beside_one_grid_is_apart_from_no_other(tmp_path: Path) -> None:
    write(tmp_path, lambda z: {FRAMES: one(1)})
    write(tmp_path, lambda z: {FRAMES: ""}, slices=1, origin=(0, 0, 8), seed=1, offset=400)
    assert sorted(found(tmp_path)) == [("regular", 12), ("single", 1)]
    assert not any("frames_of_reference_apart" in detail for detail in details(tmp_path))
    assert [detail.get("unassigned") for detail in details(tmp_path)].count(None) == 1


def test_blank_slices_that_complete_several_grids_or_none_stay_apart_and_say_so(
    tmp_path: Path,
) -> None:
    for n in range(2):
        write(tmp_path, lambda z, n=n: {FRAMES: one(n)}, slices=6, seed=n, offset=400 * n)  # type: ignore[misc]
    write(tmp_path, lambda z: {FRAMES: ""}, slices=3, origin=(0, 0, 12), seed=3, offset=900)
    assert sorted(found(tmp_path)) == [("regular", 3), ("regular", 6), ("regular", 6)]
    (blank,) = [detail for detail in details(tmp_path) if "unassigned" in detail]
    assert blank["unassigned"] == "frame_of_reference_uid"


def test_a_blank_volume_at_the_place_of_another_is_a_time_point_if_something_tells_it(
    tmp_path: Path,
) -> None:
    for t in range(2):
        write(
            tmp_path / "told",
            lambda z, t=t: {FRAMES: "" if t else one(), "TemporalPositionIdentifier": t + 1},  # type: ignore[misc]
            slices=6,
            seed=t,
        )
        write(
            tmp_path / "untold",
            lambda z, t=t: {FRAMES: "" if t else one(), "InstanceNumber": None},  # type: ignore[misc]
            slices=6,
            seed=t,
            offset=400 * t,
        )
    told, untold = (stacks_of(tmp_path / name)[1].stacks for name in ("told", "untold"))
    assert [(s.verdict, s.slices, s.group) for s in told] == [("regular", 6, 0)] * 2
    assert [(s.verdict, s.slices) for s in untold] == [("regular", 6)] * 2
    assert len({s.group for s in untold}) == 2


# --- patients -------------------------------------------------------------------------------------


def test_a_blank_patient_is_the_only_one_of_the_series(tmp_path: Path) -> None:
    write(tmp_path, lambda z: {"PatientID": "" if z % 2 else "P"})
    assert found(tmp_path) == [("regular", 12)]
    assert details(tmp_path)[0]["blank_patients"] == 6


def test_two_patients_under_one_series_stay_two_and_a_blank_one_is_neither(tmp_path: Path) -> None:
    write(tmp_path, lambda z: {"PatientID": ("P", "Q", "")[z % 3]})
    assert found(tmp_path) == [("regular", 4)] * 3
    assert len({stack.series for stack in stacks_of(tmp_path)[1].stacks}) == 3


def test_studies_of_blank_patients_are_joined_only_by_an_even_grid(tmp_path: Path) -> None:
    """A careless writer uses one Series Instance UID for everything, and no PatientID."""
    positions = [[0, 0, z] for z in (0, 0, 7, 11)]
    for name, places in (("even", None), ("careless", positions)):
        write(
            tmp_path / name,
            lambda z: {STUDIES: per_slice(z), "PatientID": ""},
            slices=4,
            positions=places,
        )
    assert found(tmp_path / "even") == [("regular", 4)]
    assert sorted(found(tmp_path / "careless")) == [("single", 1)] * 4


def test_series_without_a_uid_are_told_apart_by_their_study(tmp_path: Path) -> None:
    for n in range(3):
        write(
            tmp_path,
            lambda z, n=n: {"SeriesInstanceUID": "", STUDIES: one(n)},  # type: ignore[misc]
            slices=1,
            seed=n,
            origin=(0, 0, 2 * n),
        )
    assert found(tmp_path) == [("single", 1)] * 3


# --- without geometry -----------------------------------------------------------------------------


def test_frames_of_reference_divide_no_frames_without_positions(tmp_path: Path) -> None:
    for n in range(4):

        def edit(dataset: Dataset, _: int, n: int = n) -> None:
            dataset.FrameOfReferenceUID, dataset.InstanceNumber = uid(n % 2), n + 1
            dataset.SOPInstanceUID = uid("still", n)

        write_secondary_capture(tmp_path / str(n), series_uid=SERIES, seed=n, edit=edit)
    assert found(tmp_path) == [("no_geometry", 4)]


@pytest.mark.parametrize(("studies", "sizes"), [(4, [4]), (2, [2, 2])])
def test_stills_of_several_studies_are_joined_if_each_file_has_its_own(
    tmp_path: Path, studies: int, sizes: Sequence[int]
) -> None:
    for n in range(4):

        def edit(dataset: Dataset, _: int, n: int = n) -> None:
            dataset.StudyInstanceUID, dataset.SOPInstanceUID = uid(n % studies), uid("still", n)

        write_secondary_capture(tmp_path / str(n), series_uid=SERIES, seed=n, edit=edit)
    assert sorted(found(tmp_path)) == [("no_geometry", size) for size in sizes]


def test_clips_with_a_study_per_file_are_one_series(tmp_path: Path) -> None:
    for n in range(4):

        def edit(dataset: Dataset, _: int, n: int = n) -> None:
            dataset.StudyInstanceUID, dataset.SOPInstanceUID = uid("study", n), uid("clip", n)

        write_secondary_capture(tmp_path / str(n), frames=3, series_uid=SERIES, edit=edit)
    stacks = stacks_of(tmp_path)[1].stacks
    assert [(stack.slices, stack.series) for stack in stacks] == [(3, 0)] * 4


# --- chance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_no_stack_holds_two_grids_and_no_slice_is_lost(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    labels = [chance.choice(["", "a", "b", f"own {z}"]) for z in range(14)]
    write(tmp_path, lambda z: {FRAMES: labels[z] and uid(labels[z])}, slices=14)
    table, stacking = stacks_of(tmp_path, seed)
    assert sorted(stacking.order.tolist()) == list(range(14))
    for stack in stacking.stacks:
        rows = stacking.order[stack.frame_start : stack.frame_start + stack.slices]
        z = table.vectors("image_position_patient", 3)[rows, 2]
        assert (np.diff(z) > 0).all()
    assert found(tmp_path, seed) == found(tmp_path, seed + 7)

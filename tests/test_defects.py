"""The table of defects, judged by one oracle.

Every volume is true voxel by voxel, and everything else is refused with numbers.
`python tests/test_defects.py` prints the outcome of each defect.
"""

import json
import math
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from phantoms import write_secondary_capture, write_segmentation_1bit, write_structured_report
from phantoms_defects import DEFECTS, UNCHECKED, Defect, Part, series_by_chance

import dicomdl
from dicomdl.errors import GeometryError, IncompleteGroup, IrregularStack

pytestmark = pytest.mark.slow

Place = tuple[str, int]  # (file, frame number)


def scan(folder: Path, name: str = "") -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / f"{folder.name}{name}.index", progress=False)


# --- the oracle -----------------------------------------------------------------------------------


def written(folder: Path) -> Counter[Place]:
    """Every frame below a folder, as pydicom counts them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    counts = {
        str(path): int(pydicom.dcmread(path, stop_before_pixels=True).get("NumberOfFrames", 1))
        for path in files
    }
    return Counter(
        (path, number) for path, count in counts.items() for number in range(1, count + 1)
    )


def place(frame: dicomdl.Frame) -> Place:
    return os.fsdecode(frame.path), frame.frame_number


def modality_values(frame: dicomdl.Frame) -> npt.NDArray[np.float64]:
    """Return one frame's modality values, read by pydicom.

    The enhanced phantoms used here have only the rescale 1 and 0.
    """
    dataset = pydicom.dcmread(frame.path)
    stored = dataset.pixel_array.reshape(-1, *dataset.pixel_array.shape[-2:])[
        frame.frame_number - 1
    ].astype(np.int64)
    values: npt.NDArray[np.float64] = stored * float(dataset.get("RescaleSlope", 1)) + float(
        dataset.get("RescaleIntercept", 0)
    )
    return values


def assert_nothing_is_lost_and_nothing_is_twice(
    index: dicomdl.Index, folder: Path
) -> list[dicomdl.Frame]:
    """Assert that every frame is in one stack, or an equal copy of such a frame; return copies."""
    assert list(index.problems) == []
    in_stacks = Counter(place(frame) for stack in index.stacks for frame in stack.frames)
    copies = [frame for frame in map(index.frame, range(len(index))) if frame.duplicate_of >= 0]
    assert in_stacks + Counter(map(place, copies)) == written(folder)
    for copy in copies:
        original = index.frame(copy.duplicate_of)
        assert in_stacks[place(original)] == 1
        assert np.allclose(
            original.image_position_patient or math.nan,
            copy.image_position_patient or math.nan,
            atol=0.01,
            equal_nan=True,
        )
        assert np.array_equal(modality_values(original), modality_values(copy))
    return copies


def assert_read_or_refused(index: dicomdl.Index, parts: Sequence[Part]) -> dict[int, Part]:
    """Assert that every stack is one true part, or an IrregularStack with its numbers.

    Return the part of each readable stack.
    """
    found: dict[int, Part] = {}
    for stack in index.stacks:
        if stack.verdict not in ("regular", "tilted", "single"):
            assert_refused(stack)
            continue
        volume = dicomdl.read_volume(stack)
        true = [
            part
            for part in parts
            if part.holds(volume.array, volume.affine) and part not in found.values()
        ]
        assert true, (
            f"{stack!r} {stack.dimension} is no part: "
            f"its first column is {volume.array[:, 0, 0].tolist()}"
        )
        assert np.allclose(volume.affine, stack.affine)
        found[stack.number] = true[0]
    return found


def assert_refused(stack: dicomdl.Stack) -> None:
    with pytest.raises(IrregularStack) as caught:
        dicomdl.read_volume(stack)
    assert (caught.value.verdict, caught.value.detail) == (stack.verdict, stack.detail)
    assert stack.detail
    accepted = dicomdl.read_volume(stack, irregular="accept")
    assert np.array_equal(accepted.array, [modality_values(frame) for frame in stack.frames])


def assert_groups_are_read_whole_or_refused(
    index: dicomdl.Index, parts: Mapping[int, Part], order: Sequence[Part]
) -> None:
    in_groups = Counter(stack.number for group in index.groups for stack in group)
    assert set(in_groups.values()) <= {1}
    for group in index.groups:
        assert [stack.group_index for stack in group] == list(range(len(group)))
        assert len(set(map(repr, group.dimension))) == len(group)
        places = [order.index(parts[stack.number]) for stack in group if stack.number in parts]
        assert places == sorted(places), f"{group!r} lists its parts in the order {places}"
        if group.missing:
            with pytest.raises(IncompleteGroup) as caught:
                dicomdl.read_volume(group)
            assert caught.value.missing == group.missing
        elif max(stack.detail.get("movement_mm", 0) for stack in group) > 0.2:
            with pytest.raises(GeometryError, match="resample_to"):
                dicomdl.read_volume(group)
        elif all(stack.number in parts for stack in group):
            volume = dicomdl.read_volume(group)
            assert volume.dimension == group.dimension
            assert np.array_equal(
                volume.array, [dicomdl.read_volume(stack).array for stack in group]
            )
            assert np.allclose(volume.affine, group[0].affine)
        else:
            with pytest.raises(GeometryError):
                dicomdl.read_volume(group)


# --- what each defect must become -----------------------------------------------------------------


def same(found: Any, wanted: Any) -> bool:
    """Compare with a tolerance for numbers; `wanted` may be a condition."""
    if callable(wanted):
        return bool(wanted(found))
    if isinstance(wanted, tuple | list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(
        found == wanted
        or (isinstance(found, int | float) and found == pytest.approx(wanted, abs=1e-3))
    )


def assert_details(index: dicomdl.Index, defect: Defect) -> None:
    for verdict, wanted in defect.details.items():
        stacks = [stack for stack in index.stacks if stack.verdict == verdict]
        assert stacks
        for stack in stacks:
            wrong = {
                name: value
                for name, value in wanted.items()
                if name not in stack.detail or not same(stack.detail[name], value)
            }
            assert not wrong, f"{verdict}: {stack.detail}"


def assert_dimension(index: dicomdl.Index, defect: Defect) -> None:
    if defect.dimension is None:
        assert list(index.groups) == []
        return
    (group,) = index.groups
    assert group.dimension_names == tuple(defect.dimension)
    for name, values in defect.dimension.items():
        found = [stack.dimension[name] for stack in group]
        assert tuple(values) == UNCHECKED or same(found, values), f"{name}: {found}"
    assert group.missing == {
        group.dimension[place]: list(slices) for place, slices in defect.missing.items()
    }


def named(name: str) -> Defect:
    (defect,) = [defect for defect in DEFECTS if defect.name == name]
    return defect


def assert_never_wrong(
    index: dicomdl.Index, folder: Path, parts: Sequence[Part]
) -> tuple[int, int]:
    """Apply the oracle; return (readable stacks, equal copies)."""
    copies = assert_nothing_is_lost_and_nothing_is_twice(index, folder)
    found = assert_read_or_refused(index, parts)
    assert_groups_are_read_whole_or_refused(index, found, parts)
    return len(found), len(copies)


def assert_as_wanted(
    index: dicomdl.Index, defect: Defect, parts: Sequence[Part], readable: int, copies: int
) -> None:
    """Assert that readable stacks are read, and others refused with the numbers that show why."""
    if defect.stacks is not None:
        assert sorted(f"{stack.verdict} {stack.slices}" for stack in index.stacks) == sorted(
            defect.stacks
        )
        assert readable == len(parts)
        assert_dimension(index, defect)
    assert copies == defect.copies
    assert_details(index, defect)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_every_volume_is_true_and_everything_else_is_refused_with_numbers(
    defect: Defect, folder: Path
) -> None:
    parts = defect.write(folder)
    index = scan(folder)
    assert_as_wanted(index, defect, parts, *assert_never_wrong(index, folder, parts))


@pytest.mark.parametrize("seed", range(80))
def test_whatever_is_lost_or_sent_twice_no_volume_mixes_two_time_points(
    folder: Path, seed: int
) -> None:
    parts, story = series_by_chance(folder, seed)
    print(story)  # shown when it fails
    assert_never_wrong(scan(folder), folder, parts)


def test_the_instances_of_different_pixels_at_one_position_are_named(folder: Path) -> None:
    named("a slice twice, different").write(folder)
    (stack,) = scan(folder).stacks
    twice = [
        frame.sop_instance_uid
        for frame in stack.frames
        if np.allclose(frame.image_position_patient or (), (0, 0, 4))
    ]
    assert len(twice) == 2
    assert all(uid in json.dumps(stack.detail) for uid in twice)


def test_a_group_is_one_array_with_a_leading_axis_and_the_values_that_tell_along_it(
    folder: Path,
) -> None:
    named("echoes x time points").write(folder)
    (group,) = scan(folder).groups
    volume = dicomdl.read_volume(group)
    assert volume.shape == (6, 6, 5, 7)
    assert volume.dimension == ((1, 4.9), (1, 9.8), (2, 4.9), (2, 9.8), (3, 4.9), (3, 9.8))
    assert volume.array[:, 0, 0, 0].tolist() == [0, 400, 800, 1200, 1600, 2000]


def test_an_incomplete_group_names_the_missing_cells_and_its_whole_volumes_are_readable(
    folder: Path,
) -> None:
    named("one time point short").write(folder)
    (group,) = scan(folder).groups
    with pytest.raises(IncompleteGroup) as caught:
        dicomdl.read_volume(group)
    assert caught.value.missing == {3: [4, 5]}
    assert [dicomdl.read_volume(stack).shape for stack in group[:2]] == [(6, 5, 7), (6, 5, 7)]


def test_the_oracle_sees_what_is_wrong(folder: Path) -> None:
    """A volume that is flipped, shifted, mixed, scaled, cut or of a wrong affine is no part."""
    first, second, _ = named("time points in order, told by TemporalPositionIdentifier").write(
        folder
    )
    z, y, x = np.indices((6, 5, 7))
    array, identity = x + 7 * y + 53 * z, np.eye(4)
    affine = identity[:, [2, 1, 0, 3]] * [2, 1, 1, 1]
    assert first.holds(array, affine)
    assert first.holds(array.astype(np.float32), affine)
    assert second.holds(array + second.mark, affine)
    mixed = np.where(z == 3, array + second.mark, array)
    for wrong in (
        array[::-1],
        array[:, ::-1],
        array.transpose(0, 2, 1),
        array[:5],
        mixed,
        array * 2,
        array + 1,
        array + second.mark,
    ):
        assert not first.holds(wrong, affine)
    for wrong in (
        identity,
        affine + identity[:, [1, 2, 3, 0]] * 0.05,
        affine * [1, 1, -1, 1],
        affine * [1, 1.01, 1, 1],
    ):
        assert not first.holds(array, wrong)
    descending = affine @ np.array([[-1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert not first.holds(array[::-1], descending)  # true at every voxel, but slices ascend


# --- no conclusion depends on files ---------------------------------------------------------------


def write_everything(root: Path) -> None:
    for number, defect in enumerate(DEFECTS):
        defect.write(root / f"defect{number:03d}")
    for seed in range(2):
        write_secondary_capture(root / "captures" / f"clip{seed}", frames=3, seed=seed)
    write_segmentation_1bit(root / "captures" / "seg")
    write_structured_report(root / "captures" / "report")
    (root / "captures" / "notes.txt").write_text("not DICOM")


NAMES_OF_FILES = ["path", "folder", "file", "file_bytes", "file_mtime_ns"]


def conclusions(index: dicomdl.Index) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of an index without the names of files."""
    tables = {
        name: index.to_pandas(name).drop(columns=NAMES_OF_FILES, errors="ignore")
        for name in ("frames", "stacks")
    }
    rows = {
        name: [{k: repr(v) for k, v in row.items()} for row in table.to_dict("records")]
        for name, table in tables.items()
    }
    return rows | {"ledger": [dict(index.ledger)]}


def instances(index: dicomdl.Index) -> list[list[str]]:
    return [stack.values("sop_instance_uid") for stack in index.stacks]


def assert_same_conclusions(found: dicomdl.Index, wanted: dicomdl.Index) -> None:
    assert instances(found) == instances(wanted)
    one, other = conclusions(found), conclusions(wanted)
    for table in ("ledger", "stacks", "frames"):
        for row, (left, right) in enumerate(zip(one[table], other[table], strict=True)):
            assert left == right, f"{table} row {row}"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("everything") / "dicom"
    write_everything(root)
    return root


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_names_folders_and_order_of_writing_give_the_identical_index(
    everything: Path, tmp_path: Path, seed: int
) -> None:
    """Files of one folder stay together.

    The folder identifies a series without a Series Instance UID.
    """
    chance = random.Random(seed)
    files = sorted(path for path in everything.rglob("*") if path.is_file())
    folders = sorted({path.parent for path in files})
    names = dict(
        zip(folders, chance.sample([f"{n:04x}" for n in range(4096)], len(folders)), strict=True)
    )
    chance.shuffle(files)
    for path, name in zip(files, chance.sample(range(10**6), len(files)), strict=True):
        target = (
            tmp_path
            / "dicom"
            / names[path.parent]
            / f"{name:06d}{chance.choice(['', '.dcm', '.IMA'])}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert_same_conclusions(scan(tmp_path / "dicom"), scan(everything))


@pytest.mark.parametrize("seed", range(2))
def test_files_of_all_series_in_one_folder_give_the_identical_index(
    everything: Path, tmp_path: Path, seed: int
) -> None:
    """Files without a Series Instance UID are excluded: their folder identifies their series."""
    chance = random.Random(seed)
    files = [path for path in everything.rglob("*") if path.is_file() and has_series(path)]
    for variant in ("one", "other"):
        chance.shuffle(files)
        (tmp_path / variant).mkdir()
        for number, path in enumerate(files):
            shutil.copyfile(path, tmp_path / variant / f"{number:06d}")
    assert_same_conclusions(scan(tmp_path / "one"), scan(tmp_path / "other"))


def has_series(path: Path) -> bool:
    return path.suffix != ".txt" and bool(
        pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"]).get("SeriesInstanceUID")
    )


def test_scanning_again_changes_nothing(everything: Path, tmp_path: Path) -> None:
    shutil.copytree(everything, tmp_path / "dicom")
    first = scan(tmp_path / "dicom")
    assert_same_conclusions(scan(tmp_path / "dicom"), first)
    for path in (tmp_path / "dicom").rglob("*"):
        path.touch()
    assert_same_conclusions(scan(tmp_path / "dicom"), first)


def test_a_folder_that_grows_file_by_file_is_in_the_end_what_a_fresh_scan_finds(
    everything: Path, tmp_path: Path
) -> None:
    chance = random.Random(1)
    files = [path for path in everything.rglob("*") if path.is_file()]
    chance.shuffle(files)
    for step in range(6):
        for path in files[step::6]:
            target = tmp_path / "dicom" / path.relative_to(everything)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        grown = scan(tmp_path / "dicom")
    assert_same_conclusions(grown, scan(tmp_path / "dicom", "fresh"))


def test_a_slice_that_is_taken_away_and_comes_back_changes_the_verdict_and_back(
    folder: Path,
) -> None:
    named("time points in order, told by TemporalPositionIdentifier").write(folder)
    whole = scan(folder)
    lost = Path(os.fsdecode(whole.stacks[1].frame(2).path))
    lost.rename(folder.parent / "lost")
    short = scan(folder)
    assert Counter(stack.verdict for stack in short.stacks) == {"regular": 2, "missing_slices": 1}
    assert_same_conclusions(short, scan(folder, "fresh"))
    (folder.parent / "lost").rename(lost)
    assert_same_conclusions(scan(folder), whole)


# --- the table ------------------------------------------------------------------------------------


def told(defect: Defect, folder: Path) -> str:
    """One line of the table: what dicomdl makes of a defect, and whether that is true."""
    folder.mkdir()
    parts = defect.write(folder)
    index = scan(folder)
    verdicts = Counter(f"{stack.verdict} {stack.slices}" for stack in index.stacks)
    said = [", ".join(f"{count} x {verdict}" for verdict, count in sorted(verdicts.items()))]
    said += [
        f"by {', '.join(group.dimension_names)}{', incomplete' if group.missing else ''}"
        for group in index.groups
    ]
    copies = sum(index.frame(number).duplicate_of >= 0 for number in range(len(index)))
    said += [f"{copies} equal {'copies' if copies > 1 else 'copy'}"] if copies else []
    return f"| {defect.name} | {'; '.join(said)} | {judgement(defect, index, folder, parts)} |"


def judgement(defect: Defect, index: dicomdl.Index, folder: Path, parts: Sequence[Part]) -> str:
    try:
        readable, copies = assert_never_wrong(index, folder, parts)
    except (AssertionError, pytest.fail.Exception):
        return "WRONG"
    try:
        assert_as_wanted(index, defect, parts, readable, copies)
    except AssertionError:
        return "never wrong, but not as wanted"
    return (
        "right"
        if readable == len(index.stacks)
        else "refused with numbers"
        if not readable
        else "right, the rest refused with numbers"
    )


def main() -> None:
    print("| defect | what becomes of it | volumes |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for number, defect in enumerate(DEFECTS):
            print(told(defect, Path(scratch) / f"defect{number:03d}"))


if __name__ == "__main__":
    main()

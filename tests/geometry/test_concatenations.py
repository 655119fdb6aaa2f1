"""Instances that are divided into several files: concatenations (PS3.3 C.7.6.16.2.2.4)."""

from pathlib import Path

import numpy as np
import pytest
from phantoms import ramp, true_rgb, write_multiframe, write_secondary_capture
from phantoms_multi import divide
from pydicom import dcmread

import dicomdl
from dicomdl.geometry.concatenations import missed_parts
from dicomdl.index.views import Stack

ROWS, COLUMNS = 6, 8


def ramp_of(stack: Stack, z: int) -> bool:
    """Whether slice z of a stack of the ramp phantom has its values."""
    return bool((dicomdl.read_frame(stack.source(z)) == ramp((9, 5, 7))[z]).all())


def scanned(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / "index", progress=False)


@pytest.mark.parametrize("sizes", [(3, 3, 3), (4, 4, 1), (1,) * 9], ids=str)
def test_a_clip_in_several_files_is_one_stack_in_the_order_of_its_parts(
    folder: Path, sizes: tuple[int, ...]
) -> None:
    clip = write_secondary_capture(folder / "clip.dcm", rows=ROWS, columns=COLUMNS, frames=9)
    divide(clip, sizes)
    (stack,) = scanned(folder).stacks
    frames = [dicomdl.read_frame(stack.source(z)) for z in range(stack.slices)]
    assert np.array_equal(frames, true_rgb(9, ROWS, COLUMNS))
    assert "absent_parts" not in stack.detail


def test_two_clips_of_a_series_stay_apart(folder: Path) -> None:
    for seed in (1, 2):
        clip = folder / f"clip{seed}.dcm"
        write_secondary_capture(clip, rows=ROWS, columns=COLUMNS, frames=4, seed=seed)
        instance = dcmread(clip)
        instance.SeriesInstanceUID, instance.InstanceNumber = "1.2.3", seed
        instance.save_as(clip)
        divide(clip, (3, 1))
    assert [stack.slices for stack in scanned(folder).stacks] == [4, 4]


def test_slices_in_several_files_are_those_of_one(folder: Path) -> None:
    path = write_multiframe(folder / "ct.dcm", shape=(9, 5, 7))
    positions = scanned(folder).stacks[0].positions
    divide(path, (4, 4, 1))
    index = scanned(folder)
    (stack,) = index.stacks
    assert (stack.verdict, stack.slices) == ("regular", 9)
    assert np.array_equal(stack.positions, positions)
    assert all(ramp_of(stack, z) for z in range(9))
    assert index.check().ok


def test_absent_files_need_a_person(folder: Path) -> None:
    parts = divide(write_multiframe(folder / "ct.dcm", shape=(9, 5, 7), order=range(9)), (4, 4, 1))
    parts[-1].unlink()
    check = scanned(folder).check()
    assert not check.ok
    assert "1 of 3 files of the concatenation are not in the index" in check.rows[0].reason
    (stack,) = scanned(folder).stacks
    assert (stack.verdict, stack.slices) == ("regular", 8)


def test_without_a_total_the_largest_number_counts() -> None:
    unknown = np.full(2, np.nan)
    assert missed_parts(np.array([1.0, 3.0]), unknown) == (1, 3)
    assert missed_parts(np.array([1.0, 2.0]), np.array([np.nan, 5.0])) == (3, 5)
    assert missed_parts(np.array([2.0, 2.0]), unknown) == (1, 2)
    assert missed_parts(unknown, unknown) == (0, 0)

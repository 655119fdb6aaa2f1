"""What datasets take and leave out: one warning at the caller's line, and an error for nothing."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import index_of
from phantoms import write_secondary_capture, write_segmentation_1bit, write_series

import dicomdl
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.errors import DicomdlError, EmptySelection, UsageError

MAKERS: dict[str, Callable[..., Any]] = {
    "frames": dicomdl.FrameDataset,
    "volumes": dicomdl.VolumeDataset,
    "patches": lambda index, **options: dicomdl.PatchDataset(index, (1, 2, 2), **options),
}
each_dataset = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture
def index(folder: Path) -> dicomdl.Index:
    write_series(folder / "a", shape=(3, 8, 10))
    write_series(folder / "b", shape=(4, 8, 10), seed=1)
    write_secondary_capture(folder / "c")
    return index_of(folder)


@each_dataset
def test_a_path_or_stacks_stand_for_an_index(
    make: Callable[..., Any], index: dicomdl.Index
) -> None:
    whole = index.select(modality="CT")
    expected = len(make(whole))
    for given in (whole.stacks, list(whole.stacks), whole.series):
        assert len(make(given)) == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeftOutWarning)
        assert len(make(index.path)) == len(make(index))
    assert len(make(whole.stacks[0])) < expected


@each_dataset
def test_what_is_no_index_is_refused_by_the_name_of_the_dataset(
    make: Callable[..., Any], index: dicomdl.Index, folder: Path
) -> None:
    for given in (["a.dcm"], None, make(index.select(modality="CT")), folder, 3):
        with pytest.raises(DicomdlError, match=r"(Frame|Volume|Patch)Dataset"):
            make(given)


def test_swapped_arguments_are_recognized(index: dicomdl.Index) -> None:
    for make in (
        lambda: dicomdl.FrameDataset("ct.lung", index),  # type: ignore[arg-type]
        lambda: dicomdl.PatchDataset((96, 96, 96), index),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match="the index comes first"):
            make()
    for given in (index, index.path, index.stacks):
        with pytest.raises(UsageError, match=r"StackStream\(dicomdl\.FrameDataset\(index\)\)"):
            dicomdl.StackStream(given)  # type: ignore[arg-type]


@each_dataset
def test_nothing_left_is_an_error_with_counts(
    make: Callable[..., Any], index: dicomdl.Index, tmp_path: Path
) -> None:
    with pytest.raises(EmptySelection, match="of the 8 files with images"):
        make(index.select(modality="MR"))
    with pytest.raises(
        EmptySelection, match=r"nothing is left of 3 stacks with 8 frames"
    ) as caught:
        make(index, content="dose")
    assert caught.value.left_out == [("content other than dose", 3, 8)]
    (tmp_path / "none").mkdir()
    with pytest.raises(EmptySelection, match="0 files = 0 with images"):
        make(dicomdl.scan(tmp_path / "none", progress=False))


def test_parts_of_stacks_are_left_out_with_their_counts(index: dicomdl.Index) -> None:
    part = index.select(modality="CT", max_position_in_stack=2)
    with pytest.warns(LeftOutWarning, match="not selected"):
        dataset = dicomdl.VolumeDataset(part)
    assert [(row.stacks, row.frames) for row in dataset.left_out] == [(1, 3)]
    with pytest.raises(EmptySelection, match="not selected"):
        dicomdl.VolumeDataset(index.select(modality="CT", position_in_stack=0))


@each_dataset
def test_one_warning_names_the_line_of_the_caller(
    make: Callable[..., Any], index: dicomdl.Index, folder: Path
) -> None:
    write_segmentation_1bit(folder / "s.dcm")
    with pytest.warns(LeftOutWarning, match="content other than image") as told:
        make(index_of(folder))
    assert [warning.filename for warning in told] == [__file__]


def test_a_dataset_of_a_user_warns_at_its_own_line(index: dicomdl.Index) -> None:
    class Own(dicomdl.VolumeDataset):
        """A dataset of a user."""

        def __init__(self, index: dicomdl.Index) -> None:
            super().__init__(index, min_slices=2)

    with pytest.warns(LeftOutWarning, match="Own leaves out") as told:
        Own(index)
    assert [warning.filename for warning in told] == [__file__]


@pytest.mark.slow
def test_the_warning_of_a_script_names_its_line(index: dicomdl.Index, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(f"import dicomdl\n\ndicomdl.VolumeDataset({index.path!r})\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert f"{script}:3: LeftOutWarning: VolumeDataset leaves out:" in done.stderr


def test_a_repr_counts_in_words(index: dicomdl.Index) -> None:
    one = index.select(slices=3, modality="CT").stacks[0]
    assert repr(dicomdl.VolumeDataset(one)).startswith("VolumeDataset(1 volume, ")
    assert repr(dicomdl.FrameDataset(one)).startswith("FrameDataset(3 frames, ")
    assert repr(dicomdl.PatchDataset(one, (2, 2, 2), per_stack=1)).startswith(
        "PatchDataset(1 patch of 2 x 2 x 2, "
    )

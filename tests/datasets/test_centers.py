"""Tests of `Centers.from_table`: the tables of public data sets as they are."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
from conftest import index_of
from phantoms import ramp, write_multiframe, write_series

from dicomdl import Centers, Index, PatchDataset
from dicomdl.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:PatchDataset leaves out")
SHAPE = (6, 20, 24)
PLACES = [(1, 4, 7), (3, 12, 20), (5, 19, 0)]  # slice, row, column


@pytest.fixture
def lumbar(folder: Path) -> Index:
    """Two Series in folders that are named by integers, with UIDs of another name."""
    for number, series in enumerate(("007", "8")):
        write_series(folder / "42" / series, shape=SHAPE, spacing=(4, 1, 1), seed=number)
    return index_of(folder)


def lumbar_table(index: Index, **changes: Any) -> dict[str, Any]:
    """The columns of train_label_coordinates.csv, with a point per place in Series 007."""
    stack = next(stack for stack in index.stacks if stack.path.endswith("007"))
    numbers = stack.values("instance_number")
    table = {
        "study_id": ["42"] * 3,
        "series_id": ["007"] * 3,
        "instance_number": [numbers[z] for z, _, _ in PLACES],
        "condition": ["Spinal Canal Stenosis"] * 3,
        "level": ["L1/L2"] * 3,
        "x": [x + 0.5 for _, _, x in PLACES],
        "y": [y + 0.5 for _, y, _ in PLACES],
    }
    return table | changes


def middles(patches: PatchDataset) -> list[float]:
    """The value in the middle of each patch, in the order of the table."""
    samples = sorted((patches[row] for row in range(len(patches))), key=lambda s: s["point"])
    return [sample["image"][0][tuple(n // 2 for n in patches.size)].item() for sample in samples]


VALUES = [float(ramp(SHAPE)[place]) for place in PLACES]


@pytest.mark.parametrize("orientation", [None, "RAS", "LPS", "SPL"])
def test_points_of_rsna_lumbar_are_the_middle_pixels_of_their_patches(
    lumbar: Index, tmp_path: Path, orientation: str | None
) -> None:
    frame = pandas.DataFrame(lumbar_table(lumbar))
    frame.to_csv(tmp_path / "train_label_coordinates.csv", index=False)
    for table in (lumbar_table(lumbar), frame, tmp_path / "train_label_coordinates.csv"):
        patches = PatchDataset(
            lumbar,
            (3, 5, 7),
            sampler=Centers.from_table(table),
            orientation=orientation,
            intensity="modality",
        )
        assert middles(patches) == VALUES


def test_a_series_is_named_by_its_uid_as_well(lumbar: Index) -> None:
    stack = next(stack for stack in lumbar.stacks if stack.path.endswith("007"))
    table = lumbar_table(lumbar, series_id=[stack.series_instance_uid] * 3)
    patches = PatchDataset(
        lumbar, 3, sampler=Centers.from_table(pyarrow.table(table)), intensity="modality"
    )
    assert middles(patches) == VALUES


def test_points_in_pixels_follow_a_resampled_grid(lumbar: Index) -> None:
    patches = PatchDataset(
        lumbar,
        3,
        sampler=Centers.from_table(lumbar_table(lumbar)),
        spacing=(2, 0.5, 0.5),
        intensity="modality",
    )
    stack = next(stack for stack in lumbar.stacks if stack.path.endswith("007"))
    for sample in (patches[row] for row in range(3)):
        wanted = stack.geometry.voxel_to_world(PLACES[sample["point"]])
        found = (sample["affine"].numpy() @ [1, 1, 1, 1])[:3]
        assert np.abs(found - wanted).max() <= 1 + 1e-9


def test_points_of_rsna_aneurysm_lie_on_their_object(folder: Path) -> None:
    write_series(folder / "one", shape=SHAPE, spacing=(4, 1, 1))
    (stack,) = index_of(folder).stacks
    sops = stack.values("sop_instance_uid")
    table = {
        "SeriesInstanceUID": [stack.series_instance_uid] * 3,
        "SOPInstanceUID": [sops[z] for z, _, _ in PLACES],
        "coordinates": [f"{{'x': {x + 0.5}, 'y': {y + 0.5}}}" for _, y, x in PLACES],
        "location": ["Anterior Communicating Artery"] * 3,
    }
    index = index_of(folder)
    patches = PatchDataset(index, 3, sampler=Centers.from_table(table), intensity="modality")
    assert middles(patches) == VALUES
    assert pickle.loads(pickle.dumps(Centers.from_table(table))) == Centers.from_table(table)
    other = table | {"SOPInstanceUID": sops[:3]}
    assert Centers.from_table(table) != Centers.from_table(other)


def test_an_entry_f_names_the_frame_of_a_file_from_0(folder: Path) -> None:
    write_multiframe(folder / "one.dcm", shape=SHAPE, spacing=(4, 1, 1))
    index = index_of(folder)
    (stack,) = index.stacks
    frames = stack.values("frame_number")
    sop = stack.value("sop_instance_uid")
    table = {
        "SeriesInstanceUID": [stack.series_instance_uid] * 3,
        "SOPInstanceUID": [sop] * 3,
        "coordinates": [
            f'{{"f": {frames[z] - 1}, "x": {x + 0.5}, "y": {y + 0.5}}}' for z, y, x in PLACES
        ],
    }
    patches = PatchDataset(index, 3, sampler=Centers.from_table(table), intensity="modality")
    assert middles(patches) == VALUES
    table["coordinates"][2] = "{'x': 1, 'y': 1}"
    with pytest.raises(UsageError, match=r"row 2 .* 6 frames"):
        len(PatchDataset(index, 3, sampler=Centers.from_table(table)))


def test_a_table_of_luna16_needs_no_names_of_columns() -> None:
    luna = pandas.DataFrame(
        {"seriesuid": ["1.2", "1.3"], "coordX": [1.0, 2], "coordY": [3.0, 4], "coordZ": [5.0, 6]}
    )
    points, rows = Centers.from_table(luna).of_series("1.3")
    assert points.tolist() == [[2, 4, 6]] and rows.tolist() == [1]


def test_points_on_frames_that_are_not_there_are_counted(lumbar: Index) -> None:
    table = lumbar_table(
        lumbar, instance_number=[999, *lumbar_table(lumbar)["instance_number"][1:]]
    )
    with pytest.warns(UserWarning, match="1 of 3 points lie in no stack"):
        assert len(PatchDataset(lumbar, 3, sampler=Centers.from_table(table))) == 2
    with pytest.raises(UsageError, match="by UID or folder"):
        PatchDataset(lumbar, 3, sampler=Centers.from_table(table | {"series_id": ["1"] * 3}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": [1, 10**400, 2]}, "row 1 of the table: x is no finite number"),
        ({"x": [1, "1e400", 2]}, "row 1 of the table: x is no finite number"),
        ({"y": [1, 2, None]}, "row 2 of the table: y is no finite number"),
        ({"series_id": [1.0, 2.0, 3.0]}, "row 0 of the table: series_id .*dtype=str"),
        ({"instance_number": [1, 2.5, 3]}, "row 1 of the table: instance_number is no whole"),
        ({"instance_number": ["1", "b", "3"]}, "row 1 of the table: instance_number is no finite"),
    ],
)
def test_what_is_no_point_is_an_error_with_its_row(changes: dict[str, Any], words: str) -> None:
    table = {
        "series_id": ["1"] * 3,
        "instance_number": [1, 2, 3],
        "x": [1, 2, 3],
        "y": [1, 2, 3],
    }
    with pytest.raises(UsageError, match=words):
        Centers.from_table(table | changes)


@pytest.mark.parametrize(
    "text",
    [
        "{'x': 1}",
        "{'x': 1, 'y': None}",
        "[1, 2]",
        "{'x': [1], 'y': 2}",
        "__import__('os')",
        "{'x': 1, 'y': 2} + 1",
        "",
        None,
        3,
        "{'x': 1e999, 'y': 2}",
    ],
)
def test_text_that_is_no_dict_of_numbers_is_an_error(text: Any) -> None:
    table = {"SeriesInstanceUID": ["1"], "SOPInstanceUID": ["2"], "coordinates": [text]}
    with pytest.raises(UsageError, match="row 0 of the table: coordinates"):
        Centers.from_table(table)


def test_unknown_columns_are_an_error_that_lists_those_known() -> None:
    with pytest.raises(UsageError, match="series_id, instance_number, x, y"):
        Centers.from_table({"uid": ["1"], "x": [1]})

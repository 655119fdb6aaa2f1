"""index: selections, splits, views and pickles of an Index."""

import math
import multiprocessing
import os
import pickle  # our own bytes, made a line before
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import write_multiframe, write_secondary_capture, write_series

import dicomdl
from dicomdl.errors import GenerationGone, IndexFolderError, UsageError
from dicomdl.index.index import Index
from dicomdl.index.table import Table
from dicomdl.index.views import Stack
from dicomdl.storage import memory

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from synthetic import synthetic_index

from dicomdl.index import generations as generations_module


def scanned(folder: Path) -> Index:
    """Two patients: a CT of 6, a tilted CT of 4, an enhanced MR of 5 slices; two captures."""
    root = folder / "root"
    write_series(root, spacing=(2.5, 0.7, 0.8), patient_id="A")
    write_series(root, shape=(4, 5, 7), shear=(0, 0.5), patient_id="B")
    write_multiframe(root / "enhanced", shape=(5, 5, 7), modality="MR", patient_id="B")
    write_secondary_capture(root / "capture", patient_id="B")
    write_secondary_capture(root / "clip", frames=3, patient_id="")
    return dicomdl.scan(root, out=folder / "index", progress=False)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index for all tests that change neither its folder nor its files."""
    return scanned(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """12,000 frames in 2,400 series of 800 patients."""
    folder = synthetic_index(tmp_path_factory.mktemp("many"), 12_000, 2_400)
    return dicomdl.open_index(folder, trust=True)


# --- select ---------------------------------------------------------------------------------------


def test_columns_of_stacks_take_whole_stacks_and_columns_of_frames_take_frames(
    index: Index,
) -> None:
    assert len(index) == 19
    assert [stack.slices for stack in index.select(verdict="regular").stacks] == [6, 5]
    assert [
        stack.modality
        for stack in index.select(verdict=["regular", "tilted"], modality="CT").stacks
    ] == ["CT", "CT"]
    assert len(index.select(instance_number=3)) == 2


def test_bounds_lists_and_absence_select(index: Index) -> None:
    assert len(index.select(min_slices=5)) == 11
    assert len(index.select(max_slices=4)) == 8
    assert len(index.select(min_slices=4, max_slices=5)) == 9
    assert len(index.select(modality=["CT", "MR"])) == 15
    assert len(index.select(patient_id=None)) == 3
    assert len(index.select(slice_spacing=2.5)) == 6
    assert len(index.select(echo_time=None)) == 19


def test_selecting_twice_narrows_and_the_index_stays_as_it_was(index: Index) -> None:
    ct = index.select(modality="CT")
    assert len(ct.select(patient_id="A")) == 6
    assert len(ct.select(modality="MR")) == 0
    assert (len(ct), len(index)) == (10, 19)


def test_a_stack_that_a_selection_takes_apart_is_not_among_its_stacks(index: Index) -> None:
    part = index.select(min_instance_number=3, modality="CT")
    assert len(part) == 6
    assert len(part.stacks) == 0
    assert part.stack_of(0).slices == 6
    assert "Selection of 6 of 19 frames" in str(part)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("modalty", "modality"), ("verdct", "verdict"), ("min_slcies", ""), ("min_slice", "")],
)
def test_an_unknown_column_names_the_nearest_of_stacks_and_frames(
    index: Index, wrong: str, near: str
) -> None:
    with pytest.raises(UsageError, match=f"there is no column.*{near}"):
        index.select(**{wrong: 1})


@pytest.mark.parametrize(
    "condition",
    [
        {"modality": 3},
        {"slices": "many"},
        {"affine": 1},
        {"min_modality": 3},
        {"image_position_patient": 1.0},
    ],
)
def test_a_value_of_another_type_is_a_usage_error(index: Index, condition: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        index.select(**condition)


# --- lookups ------------------------------------------------------------------------------------


def test_frames_come_in_the_order_of_stacks_and_slices(index: Index) -> None:
    ct = index.select(patient_id="A")
    assert [ct.frame(number).position_in_stack for number in range(6)] == [0, 1, 2, 3, 4, 5]
    assert [ct.value(number, "image_position_patient")[2] for number in range(6)] == [
        0,
        2.5,
        5,
        7.5,
        10,
        12.5,
    ]
    assert ct.frame(-1) == ct.frame(5) == ct.stacks[0].frame(5)
    assert ct.source(2).path == ct.frame(2).path
    assert os.path.getsize(ct.frame(0).path) == ct.frame(0).file_bytes


@pytest.mark.parametrize("number", [19, -20])
def test_a_frame_beyond_the_end_is_a_usage_error(index: Index, number: int) -> None:
    with pytest.raises(UsageError):
        index.frame(number)


@pytest.mark.parametrize("number", [1.5, "a", None, [1]])
def test_a_number_that_is_no_integer_is_a_usage_error(index: Index, number: Any) -> None:
    for look_up in (index.frame, index.source, index.row, index.stack, index.stack_of):
        with pytest.raises(UsageError, match=f"an integer, not a {type(number).__name__}"):
            look_up(number)
    one: Any = np.int16(1)
    assert index.row(one) == index.row(1) and index.stack(one) == index.stack(1)


def test_a_slice_beyond_the_end_of_a_stack_is_an_index_error_and_not_the_next_stack(
    index: Index,
) -> None:
    stack = index.stacks[0]
    for look_up in (stack.frame, stack.source):
        with pytest.raises(IndexError):
            look_up(stack.slices)
    assert stack.source(-1) == stack.source(stack.slices - 1)


def test_every_frame_says_the_same_by_frame_source_and_value(index: Index) -> None:
    for number in range(len(index)):
        frame, source = index.frame(number), index.source(number)
        assert all(getattr(frame, name) == getattr(source, name) for name in source.__slots__)
        assert all(
            index.value(number, name) == getattr(frame, name)
            for name in ("modality", "rows", "pixel_spacing", "deflated")
        )


@pytest.mark.parametrize("name", ["plain", "mit ä", os.fsdecode(b"\xff\xfe")])
def test_the_facts_of_a_stack_are_those_of_its_frames_whatever_its_files_are_called(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "dicom" / name
    folder.mkdir(parents=True)
    for path in write_series(folder, shape=(5, 4, 6)):
        path.rename(path.with_name(name + path.name))
    for path in write_series(tmp_path / "dicom" / "b", shape=(1, 4, 6), modality="DX", seed=2):
        path.rename(path.with_name("b" + path.name))
    index = dicomdl.scan(tmp_path / "dicom", tmp_path / "i.index", progress=False)
    assert len(index.stacks) == 2
    for stack in index.stacks:
        for column in (*index.columns, "path", "file_bytes", "file_mtime_ns"):
            if column in index._generation.frames.names or column in (
                "path",
                "file_bytes",
                "file_mtime_ns",
            ):
                values = stack.values(column)
                assert values == [
                    stack.frame_value(number, column) for number in range(stack.slices)
                ], column
                assert [type(value) for value in values] == [
                    type(stack.frame_value(n, column)) for n in range(stack.slices)
                ], column
        assert all(os.path.exists(path) for path in stack.values("path"))


def test_a_stack_knows_its_grid(index: Index) -> None:
    stack = index.select(patient_id="A").stacks[0]
    assert stack.shape == (6, 5, 7)
    assert stack.spacing == pytest.approx((2.5, 0.7, 0.8))
    assert stack.geometry.shape == (6, 5, 7)
    assert stack.detail["spacing"] == 2.5
    assert (stack.content, stack.modality, stack.patient_id) == ("image", "CT", "A")
    assert stack.middle == stack.frame(3)
    assert stack.sources == [stack.source(k) for k in range(6)]
    assert stack.frames == [stack.frame(k) for k in range(6)]
    assert stack.values("instance_number") == [1, 2, 3, 4, 5, 6]
    assert index.stack(stack.number) == stack
    assert math.isnan(index.select(verdict="no_geometry").stacks[0].spacing[0])


def test_studies_series_and_stacks_are_views(index: Index) -> None:
    assert len(index.series) == 5
    assert sorted(len(study.series) for study in index.studies) == [1, 1, 3]
    assert sum(len(series.stacks) for series in index.series) == len(index.stacks) == 5
    assert [stack.number for stack in index.stacks[1:3]] == [1, 2]
    assert index.stacks[-1] == index.stacks[4]
    assert index.stacks.verdicts() == {"regular": 2, "tilted": 1, "no_geometry": 2}
    for view in (index.stacks, index.series, index.studies, index.problems, index.stacks[0]):
        assert repr(view)


# --- split ----------------------------------------------------------------------------------------


def patients(part: Index) -> set[str]:
    return {stack.patient_id for stack in part.stacks}


@pytest.mark.slow
def test_a_split_is_by_patient_disjoint_whole_and_of_the_expected_sizes(many: Index) -> None:
    parts = many.split((0.7, 0.2, 0.1))
    sets = [patients(part) for part in parts]
    assert sum(map(len, parts)) == len(many)
    assert len(set.union(*sets)) == sum(map(len, sets)) == 800
    assert [len(found) / 800 for found in sets] == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    assert all(len(part.stacks) * 5 == len(part) for part in parts)


@pytest.mark.slow
def test_a_split_depends_on_the_seed_alone(many: Index) -> None:
    again = dicomdl.open_index(many.path)
    assert [patients(part) for part in many.split((0.5, 0.5))] == [
        patients(part) for part in again.split((0.5, 0.5))
    ]
    assert patients(many.split((0.5,), seed=1)[0]) != patients(many.split((0.5,), seed=2)[0])


@pytest.mark.slow
def test_patients_that_are_added_move_none_of_a_kept_split(many: Index, tmp_path: Path) -> None:
    more = dicomdl.open_index(synthetic_index(tmp_path, 3_000, 3_000))
    before = many.split((0.6, 0.4))
    for old, new in zip(before, more.split(keep=before.saved), strict=True):
        assert patients(old) < patients(new)


def test_patients_without_an_id_are_told_apart_by_their_study(tmp_path: Path) -> None:
    for number in range(12):
        write_series(
            tmp_path / "root" / str(number),
            shape=(1, 2, 2),
            patient_id="",
            study_uid=f"1.2.{number}",
            seed=number,
        )
    index = dicomdl.scan(tmp_path / "root", out=tmp_path / "index", progress=False)
    sizes = [len(part) for part in index.split((0.5, 0.5))]
    assert sum(sizes) == 12
    assert 0 not in sizes


@pytest.mark.slow
@pytest.mark.parametrize("by", ["study", "series"])
def test_a_split_by_study_or_series_keeps_those_together(many: Index, by: str) -> None:
    column = f"{by}_instance_uid"
    one, two = (
        {stack.value(column) for stack in part.stacks} for part in many.split((0.5, 0.5), by=by)
    )
    assert not one & two


@pytest.mark.parametrize("fractions", [(), (0.7, 0.7), (-0.1, 0.5), (math.nan, 0.5)])
def test_fractions_that_are_no_parts_of_one_are_usage_errors(
    index: Index, fractions: tuple[float, ...]
) -> None:
    with pytest.raises(UsageError):
        index.split(fractions)
    with pytest.raises(UsageError, match="patient, study, series"):
        index.split((0.5,), by="slice")


# --- pickles --------------------------------------------------------------------------------------


def test_an_index_its_selections_and_stacks_pickle_small_and_come_back(many: Index) -> None:
    scattered = many.select(instance_number=[1, 3, 5])
    assert len(scattered._ranges) > 4_000
    for one in (many, many.select(patient_id="BENCH-000007"), scattered):
        data = pickle.dumps(one)
        back = pickle.loads(data)
        assert len(data) <= 4096
        assert back.rows().tolist() == one.rows().tolist()
    assert pickle.loads(pickle.dumps(many.stacks[5])) == many.stacks[5]


def test_rows_of_scattered_selections_are_those_that_were_selected(many: Index) -> None:
    scattered = many.select(instance_number=[1, 3, 5])
    rows = scattered.rows()
    assert rows.tolist() == [scattered.row(number) for number in range(len(scattered))]
    assert set(many._generation.frames.numbers("instance_number")[rows].tolist()) == {1, 3, 5}


def facts(index: Index, stack: Stack) -> tuple[int, str, str]:
    return len(index), index.value(0, "sop_instance_uid"), stack.series_instance_uid


@pytest.mark.slow
def test_a_long_selection_travels_in_the_pickle_where_the_cache_cannot_be_written(
    many: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the place of the cache folder")
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "file" / "cache"))
    part = many.split((0.5, 0.5))[0]
    again = pickle.loads(pickle.dumps(part))
    assert np.array_equal(again.rows(), part.rows())


@pytest.mark.slow
def test_a_spawned_process_unpickles_what_it_needs(many: Index) -> None:
    scattered = many.select(instance_number=[1, 3, 5])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(facts, (scattered, many.stacks[2]))
    assert found == facts(scattered, many.stacks[2])


def test_a_selection_whose_file_is_not_here_says_what_to_do(
    many: Index, cache_folder: Path
) -> None:
    data = pickle.dumps(many.select(instance_number=[1, 3, 5]))
    shutil.rmtree(cache_folder)
    with pytest.raises(IndexFolderError, match="DICOMDL_CACHE"):
        pickle.loads(data)


@pytest.mark.slow
def test_a_pickle_of_a_generation_that_is_gone_says_so_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = scanned(tmp_path)
    whole, part = pickle.dumps(index), pickle.dumps(index.select(modality="CT"))
    before = index.frame(0)
    write_series(Path(index.path).parent / "root" / "more", seed=9)
    monkeypatch.setattr(generations_module, "GRACE_S", -1.0)
    newer = dicomdl.scan(Path(index.path).parent / "root", out=index.path, progress=False)
    assert index.frame(0) == before  # who has the old generation open keeps it
    assert len(newer) == 25
    memory.clear()
    for data in (whole, part):
        with pytest.raises(GenerationGone) as caught:
            pickle.loads(data)
        back = pickle.loads(pickle.dumps(caught.value))
        assert (type(back), back.generation, str(back)) == (
            GenerationGone,
            index.generation,
            str(caught.value),
        )


def test_opening_what_is_no_index_is_an_index_folder_error(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError):
        dicomdl.open_index(tmp_path)
    with pytest.raises(IndexFolderError):
        dicomdl.open_index(tmp_path / "nowhere")


# --- export ---------------------------------------------------------------------------------------


def test_the_summary_counts_everything(index: Index) -> None:
    text = str(index)
    assert "Index: 3 patients, 3 studies, 5 series, 5 stacks, 19 frames" in text
    assert "13 files = 13 with images" in text
    assert "1 regular, 1 tilted" in text


def test_the_html_escapes_what_files_say(tmp_path: Path) -> None:
    def hostile(dataset: Any, z: int) -> None:
        dataset.Modality = "<SCRIPT>"

    write_series(tmp_path / "root <b>", edit=hostile)
    index = dicomdl.scan(tmp_path / "root <b>", out=tmp_path / "index <b>", progress=False)
    html = index._repr_html_()
    assert "<SCRIPT>" not in html
    assert "&lt;SCRIPT&gt;" in html
    assert "index <b>" not in html


def test_parquet_and_pandas_hold_what_the_index_holds(index: Index, tmp_path: Path) -> None:
    import pandas

    index.to_parquet(tmp_path / "out")
    frames = pandas.read_parquet(tmp_path / "out" / "frames.parquet")
    assert frames["sop_instance_uid"].tolist() == [
        index.value(k, "sop_instance_uid") for k in range(19)
    ]
    for row, value in enumerate(frames["image_position_patient"]):
        assert (None if value is None else tuple(value)) == index.value(
            row, "image_position_patient"
        )
    assert sorted(os.listdir(tmp_path / "out")) == [
        "annotations.parquet",
        "files.parquet",
        "frames.parquet",
        "problems.parquet",
        "stacks.parquet",
    ]
    shown = index.to_pandas("files")
    assert shown["path"].str.startswith(str(Path(index.path).parent)).all()
    assert len(index.to_pandas("stacks")) == 5
    with pytest.raises(UsageError, match="files, frames"):
        index.to_pandas("patients")


def test_an_exported_selection_points_into_itself(index: Index) -> None:
    part = index.select(modality=["MR", "OT"])
    stacks, frames = part.to_pandas("stacks"), part.to_pandas("frames")
    assert len(frames) == stacks["slices"].sum() == 9
    for start, slices in zip(stacks["frame_start"], stacks["slices"], strict=True):
        assert frames["position_in_stack"][start : start + slices].tolist() == list(range(slices))


def test_look_ups_do_not_copy_long_columns(many: Index) -> None:
    """A worker's private memory must not grow with the index.

    Only short dictionaries become Python objects.
    """
    import tracemalloc

    fresh = Index(type(many._generation)(*many._generation.address))
    fresh.value(0, "sop_instance_uid")
    tracemalloc.start()
    for row in np.random.default_rng(0).integers(0, len(fresh), 500).tolist():
        fresh.source(row)
        fresh.value(row, "sop_instance_uid")
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 300_000


def test_an_exported_copy_names_its_original_by_the_exported_row(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    write_series(tmp_path / "data" / "one", patient_id="P1", seed=1)
    write_series(tmp_path / "data" / "two", patient_id="P2", seed=2, repeat=(2,))
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    table = index.select(patient_id="P2").to_pandas()
    (copy,) = table[table.duplicate_of >= 0].index
    original = table.loc[table.duplicate_of[copy]]
    assert original.pixel_digest == table.pixel_digest[copy] and original.position_in_stack == 2
    alone = index.select(min_duplicate_of=0).to_pandas()
    assert alone.duplicate_of.tolist() == [-2], "the original is not among the exported frames"


def test_copies_come_behind_the_stacks_and_are_in_none(tmp_path: Path) -> None:
    write_series(tmp_path / "data", repeat=(0, 4))
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert len(index) == 8 and [stack.slices for stack in index.stacks] == [6]
    for number in (6, 7):
        frame = index.frame(number)
        assert frame.position_in_stack == -1
        assert (
            index.frame(frame.duplicate_of).image_position_patient == frame.image_position_patient
        )
        with pytest.raises(UsageError, match="equal copy"):
            index.stack_of(number)
    with pytest.warns(UserWarning, match="part 1 is empty"):
        assert sum(len(part) for part in index.split((0.5, 0.5))) == 8
    assert len(index.select(verdict="regular")) == 6 and len(index.select(rows=5)) == 8


def test_stacks_by_number_are_refused_beyond_the_last_one(tmp_path: Path) -> None:
    write_series(tmp_path / "data")
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert len(index.of_stacks([0])) == 6 and len(index.of_stacks([])) == 0
    for bad in (1, -1):
        with pytest.raises(UsageError, match="0 to 0"):
            index.of_stacks([bad])
        with pytest.raises(UsageError, match="0 to 0"):
            index.stack(bad)


def test_a_stack_keeps_the_tolerances_of_its_generation_when_a_later_scan_has_others(
    tmp_path: Path,
) -> None:
    root, out = tmp_path / "root", tmp_path / "index"
    write_series(root)
    wide = dicomdl.Tolerances(in_plane_mm=1.0)
    old = dicomdl.scan(root, out, tolerances=wide, progress=False).stacks[0]
    new = dicomdl.scan(root, out, progress=False).stacks[0]
    assert pickle.loads(pickle.dumps(old)).tolerances == wide
    assert new.tolerances == new.group.tolerances == dicomdl.Tolerances()


def test_an_index_that_does_not_say_its_tolerances_is_refused_when_it_is_opened(
    tmp_path: Path,
) -> None:
    index = scanned(tmp_path)
    (facts,) = Path(index.path).glob("generations/*/scan.json")
    facts.write_text("{}")
    memory.clear()
    with pytest.raises(IndexFolderError, match="scan again"):
        dicomdl.open_index(index.path)


def test_the_states_of_files_are_read_without_decoding_a_column(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A decoded column is a private copy in every worker.
    files = Index(type(index._generation)(*index._generation.address))._generation.files
    encoded = [name for name in ("file_bytes", "file_mtime_ns") if files.is_encoded(name)]
    assert encoded, "the phantom has no encoded column"
    original = type(files).numbers

    def numbers(table: Table, name: str) -> Any:
        assert not table.is_encoded(name), name
        return original(table, name)

    monkeypatch.setattr(type(files), "numbers", numbers)
    fresh = Index(type(index._generation)(*index._generation.address))
    assert fresh.source(0).file == index.source(0).file

"""Division of Series into stacks by their headers, independent of the order of the files."""

import functools
import json
import math
import random
import types
from pathlib import Path
from typing import Any

import numpy as np
import phantoms_labels
import phantoms_multi
import pytest
from phantoms import (
    UID_PREFIX,
    decimals,
    true_affine,
    true_positions,
    uid,
    write_multiframe,
    write_secondary_capture,
    write_segmentation_1bit,
    write_series,
)
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.valuerep import IS

from dicomdl.geometry._dimensions import Tie
from dicomdl.geometry._splitting import Splitter
from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.stacks import Stacking, build_stacks
from dicomdl.headers.reader import HeaderReader
from dicomdl.index.building import encoded, joined
from dicomdl.index.schema import frames_schema
from dicomdl.index.table import Table
from dicomdl.jobs.engine import read_chunk

READER = HeaderReader()
RTDOSE = "1.2.840.10008.5.1.4.1.1.481.2"


def frames_of(folder: Path, seed: int = 0) -> Table:
    """The `frames` of all files of a folder, read in a random order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    random.Random(seed).shuffle(paths)
    return read_chunk(READER, [str(path).encode() for path in paths])[1]


def stacks_of(
    folder: Path, seed: int = 0, tolerances: Tolerances | None = None
) -> tuple[Table, Stacking]:
    table = encoded(frames_of(folder, seed))
    return table, build_stacks(table, tolerances or Tolerances())


def verdicts(folder: Path, **more: Any) -> list[tuple[str, int]]:
    return sorted((stack.verdict, stack.slices) for stack in stacks_of(folder, **more)[1].stacks)


def detail(stacking: Stacking) -> dict[str, Any]:
    assert len(stacking.stacks) == 1
    return dict(json.loads(stacking.stacks[0].detail))


def setter(keyword: str, value: Any, only: tuple[int, ...] | None = None) -> Any:
    def edit(dataset: Dataset, z: int) -> None:
        if only is None or z in only:
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return edit


# --- one stack ------------------------------------------------------------------------------------


def test_a_regular_series_is_one_stack_with_the_affine_of_its_ramp(tmp_path: Path) -> None:
    orientation = (0.8, 0.6, 0.0, -0.36, 0.48, -0.8)
    write_series(tmp_path, spacing=(2.5, 0.7, 0.8), origin=(-10, 20, 30), orientation=orientation)
    table, stacking = stacks_of(tmp_path)
    (stack,) = stacking.stacks
    assert (stack.verdict, stack.slices, stack.frame_start, stack.content) == (
        "regular",
        6,
        0,
        "image",
    )
    np.testing.assert_allclose(stack.spacing, (2.5, 0.7, 0.8), atol=1e-9)
    np.testing.assert_allclose(
        np.reshape(stack.affine, (4, 4)),
        true_affine((2.5, 0.7, 0.8), (-10, 20, 30), orientation),
        atol=1e-9,
    )
    numbers = table.take(stacking.order).column("instance_number").to_pylist()
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_instance_numbers_have_no_say_in_the_order(tmp_path: Path) -> None:
    write_series(tmp_path, instance_numbers=[4, 4, 1, 9, 2, 7])
    table, stacking = stacks_of(tmp_path)
    z = table.take(stacking.order).vectors("image_position_patient", 3)[:, 2]
    assert z.tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"drop": [2]}, "missing_slices"),
        ({"repeat": [2]}, "duplicates"),
        ({"shear": (0.0, 0.5)}, "tilted"),
        ({"positions": [[0, 0, z] for z in (0, 2, 4.5, 6, 8, 10)]}, "uneven_spacing"),
        ({"shape": (1, 5, 7)}, "single"),
        ({"shape": (2, 5, 7)}, "regular"),
        ({"modality": "CR"}, "no_geometry"),
    ],
)
def test_each_defect_of_a_written_series_has_its_verdict(
    tmp_path: Path, given: dict[str, Any], verdict: str
) -> None:
    write_series(tmp_path, **given)
    assert [found for found, _ in verdicts(tmp_path)] == [verdict]


@pytest.mark.parametrize(
    "given",
    [{}, {"drop": [2]}, {"repeat": [1, 3]}, {"instance_numbers": [1] * 6}, {"modality": "US"}],
)
def test_shuffling_the_files_changes_nothing(tmp_path: Path, given: dict[str, Any]) -> None:
    write_series(tmp_path, **given)
    write_series(tmp_path, orientation=(0, 1, 0, 0, 0, -1), **given)
    write_secondary_capture(tmp_path / "capture", frames=3)
    results = []
    for seed in range(4):
        table, stacking = stacks_of(tmp_path, seed)
        uids = table.take(stacking.order).column("sop_instance_uid").to_pylist()
        results.append((uids, repr(list(stacking.stacks))))
    assert results[1:] == results[:1] * 3


def test_jitter_of_the_orientation_within_1e_3_is_one_stack_and_beyond_it_is_two(
    tmp_path: Path,
) -> None:
    def tilt(angle: float) -> Any:
        return setter(
            "ImageOrientationPatient",
            decimals([1, 0, 0, 0, math.cos(angle), math.sin(angle)]),
            only=(1, 4),
        )

    write_series(tmp_path / "within", edit=tilt(0.9e-3))
    write_series(tmp_path / "beyond", edit=tilt(1.1e-3))
    assert verdicts(tmp_path / "within") == [("regular", 6)]
    assert sorted(slices for _, slices in verdicts(tmp_path / "beyond")) == [2, 4]


def test_looser_tolerances_are_obeyed(tmp_path: Path) -> None:
    write_series(tmp_path, positions=[[0, 0, z] for z in (0, 2, 4.5, 6, 8, 10)])
    assert verdicts(tmp_path, tolerances=Tolerances(spacing_mm=1.0, spacing_mm_fraction=0.5)) == [
        ("regular", 6)
    ]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", [0.0, 0.0]),
        ("PixelSpacing", None),
        ("ImageOrientationPatient", [0.0] * 6),
        ("ImageOrientationPatient", None),
        ("ImagePositionPatient", None),
        ("ImagePositionPatient", [1.0, 2.0]),
    ],
)
def test_headers_without_a_usable_grid_are_no_geometry_in_instance_order(
    tmp_path: Path, keyword: str, value: Any
) -> None:
    write_series(tmp_path, instance_numbers=[6, 5, 4, 3, 2, 1], edit=setter(keyword, value))
    table, stacking = stacks_of(tmp_path)
    assert [stack.verdict for stack in stacking.stacks] == ["no_geometry"]
    assert keyword in detail(stacking)["why"]
    assert table.take(stacking.order).column("instance_number").to_pylist() == [1, 2, 3, 4, 5, 6]


def test_one_slice_without_a_position_does_not_spoil_the_others(tmp_path: Path) -> None:
    write_series(tmp_path, edit=setter("ImagePositionPatient", None, only=(5,)))
    assert verdicts(tmp_path) == [("no_geometry", 1), ("regular", 5)]


# --- several stacks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Rows", 4),
        ("PixelSpacing", [1.5, 1.5]),
        ("FrameOfReferenceUID", UID_PREFIX + "9"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
        ("ImageOrientationPatient", [0.0, 1.0, 0.0, -1.0, 0.0, 0.0]),
        ("PhotometricInterpretation", "MONOCHROME1"),
        ("PatientID", "RAMP-2"),
        ("StudyInstanceUID", UID_PREFIX + "8"),
        ("SeriesInstanceUID", UID_PREFIX + "7"),
    ],
)
def test_what_makes_more_than_one_grid_makes_two_stacks(
    tmp_path: Path, keyword: str, value: Any
) -> None:
    write_series(tmp_path, edit=setter(keyword, value, only=(3, 4, 5)))
    found = stacks_of(tmp_path)[1].stacks
    assert [stack.slices for stack in found] == [3, 3]
    assert len({stack.series for stack in found}) == (
        2 if keyword.startswith(("Patient", "Study", "Series")) else 1
    )


def test_the_name_of_the_patient_or_the_kernel_splits_nothing(tmp_path: Path) -> None:
    write_series(tmp_path, edit=setter("SeriesDescription", "OTHER", only=(3, 4)))
    assert verdicts(tmp_path) == [("regular", 6)]


def test_grey_of_two_depths_is_one_stack_but_colour_of_two_depths_is_two(tmp_path: Path) -> None:
    series = uid("mixed depths")
    write_series(tmp_path / "grey", shape=(3, 5, 7), series_uid=series, bits_allocated=16, seed=1)
    write_series(
        tmp_path / "grey",
        shape=(3, 5, 7),
        series_uid=series,
        bits_allocated=8,
        origin=(0, 0, 6),
        seed=2,
    )
    assert verdicts(tmp_path / "grey") == [("regular", 6)]

    def deep(dataset: Dataset, z: int) -> None:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelData = dataset.PixelData * 2
        dataset["PixelData"].VR = "OW"
        dataset.SOPInstanceUID = uid("deep")

    write_secondary_capture(tmp_path / "colour" / "a", series_uid=series)
    write_secondary_capture(tmp_path / "colour" / "b", series_uid=series, edit=deep)
    assert verdicts(tmp_path / "colour") == [("no_geometry", 1), ("no_geometry", 1)]


def test_every_multi_frame_file_without_geometry_is_its_own_stack_and_single_frames_are_one(
    tmp_path: Path,
) -> None:
    series = uid("captures")
    for seed in range(2):
        write_secondary_capture(
            tmp_path / f"clip{seed}",
            frames=3,
            series_uid=series,
            transfer_syntax="1.2.840.10008.1.2.1",
            seed=seed,
        )
    write_series(tmp_path, modality="CR", shape=(4, 5, 7))
    assert verdicts(tmp_path) == [("no_geometry", 3), ("no_geometry", 3), ("no_geometry", 4)]


def test_one_instance_in_two_slightly_different_orientations_is_two_stacks_and_no_copy(
    tmp_path: Path,
) -> None:
    def same(dataset: Dataset, z: int) -> None:
        dataset.SOPInstanceUID, dataset.SeriesInstanceUID = uid("same"), uid("series of one")

    for name, cosines in {"straight": (1.0, 0.0), "turned": (0.999, -0.04)}.items():
        orientation = (1, 0, 0, 0, *cosines)
        write_series(tmp_path / name, shape=(1, 5, 7), orientation=orientation, edit=same)
    table = encoded(frames_of(tmp_path))
    stacking = build_stacks(table, Tolerances(), digest=lambda row: "equal pixels")
    assert sorted(stacking.order.tolist()) == [0, 1]
    assert [stack.slices for stack in stacking.stacks] == [1, 1]
    assert stacking.duplicate_of.tolist() == [-1, -1]


def test_two_clips_without_an_instance_uid_are_not_mixed(tmp_path: Path) -> None:
    write_secondary_capture(tmp_path / "a", frames=3)
    table = frames_of(tmp_path)
    blank = table.with_column("sop_instance_uid", [""] * 3)
    twice = joined([blank, blank.with_column("file", [1] * 3)], frames_schema())
    stacking = build_stacks(encoded(twice), Tolerances())
    assert [stack.slices for stack in stacking.stacks] == [3, 3]


def test_an_enhanced_file_is_sorted_by_its_frames_positions(tmp_path: Path) -> None:
    write_multiframe(tmp_path / "enhanced", order=[3, 0, 5, 1, 4, 2])
    table, stacking = stacks_of(tmp_path)
    assert [(stack.verdict, stack.slices) for stack in stacking.stacks] == [("regular", 6)]
    assert table.take(stacking.order).column("frame_number").to_pylist() == [2, 4, 6, 1, 5, 3]


def test_a_segmentation_is_a_stack_of_its_own_content(tmp_path: Path) -> None:
    write_segmentation_1bit(tmp_path / "seg")
    (stack,) = stacks_of(tmp_path)[1].stacks
    assert (stack.content, stack.verdict, stack.slices) == ("segmentation", "regular", 4)


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_dose_planes_lie_where_their_grid_frame_offsets_say(tmp_path: Path, relative: bool) -> None:
    """PS3.3 C.8.8.3.2."""
    origin, offsets = (-5.0, 6.0, 40.0), np.array([0.0, 3.0, 6.0, 9.0])

    def dose(dataset: Dataset, z: int) -> None:
        dataset.SOPClassUID, dataset.Modality, dataset.NumberOfFrames = RTDOSE, "RTDOSE", 4
        dataset.GridFrameOffsetVector = decimals(offsets if relative else offsets + origin[2])
        dataset.PixelData = (
            dataset.PixelData[:-1] * 4 if len(dataset.PixelData) % 2 else dataset.PixelData * 4
        )
        dataset.DoseGridScaling, dataset.DoseUnits = decimals([0.01])[0], "GY"

    write_series(tmp_path, shape=(1, 4, 6), origin=origin, edit=dose)
    (stack,) = stacks_of(tmp_path)[1].stacks
    assert (stack.content, stack.verdict, stack.slices) == ("dose", "regular", 4)
    np.testing.assert_allclose(
        np.reshape(stack.affine, (4, 4)), true_affine((3.0, 1.0, 1.0), origin), atol=1e-9
    )


def test_relative_dose_offsets_follow_the_normal_of_an_oblique_plane(tmp_path: Path) -> None:
    # The normal points to the feet.
    orientation = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def dose(dataset: Dataset, z: int) -> None:
        dataset.SOPClassUID, dataset.Modality, dataset.NumberOfFrames = RTDOSE, "RTDOSE", 3
        dataset.GridFrameOffsetVector = decimals([0.0, 2.0, 4.0])
        dataset.PixelData = dataset.PixelData * 3

    write_series(tmp_path, shape=(1, 4, 6), orientation=orientation, edit=dose)
    (stack,) = stacks_of(tmp_path)[1].stacks
    last = np.reshape(stack.affine, (4, 4)) @ [2, 0, 0, 1]
    np.testing.assert_allclose(
        last[:3], true_positions(3, (2.0, 1, 1), (0, 0, 0), orientation)[2], atol=1e-9
    )


def test_no_frames_make_no_stacks(tmp_path: Path) -> None:
    stacking = stacks_of(tmp_path)[1]
    for order in (stacking.order, stacking.duplicate_of):
        assert (order.shape, order.dtype) == ((0,), np.int64)
    assert (list(stacking.stacks), dict(stacking.digests)) == ([], {})


def test_frames_without_a_position_follow_the_volume_of_their_series(tmp_path: Path) -> None:
    """The first two Instance Numbers have no position."""
    write_series(tmp_path, edit=setter("ImagePositionPatient", None, only=(0, 1)))
    table, stacking = stacks_of(tmp_path)
    assert [stack.verdict for stack in stacking.stacks] == ["regular", "no_geometry"]
    numbers = table.take(stacking.order).column("instance_number").to_pylist()
    assert numbers == [3, 4, 5, 6, 1, 2]
    assert stacking.duplicate_of.tolist() == [-1] * 6


def test_stacks_cover_every_frame_of_the_corpus_once(corpus: Path) -> None:
    table, stacking = stacks_of(corpus)
    assert sorted(stacking.order.tolist()) == list(range(len(table)))
    starts = [stack.frame_start for stack in stacking.stacks]
    assert starts == np.cumsum([0, *[stack.slices for stack in stacking.stacks]])[:-1].tolist()
    assert all(len(stack.affine) == 16 for stack in stacking.stacks)


def test_the_corpus_makes_the_same_stacks_in_any_order_of_its_files(corpus: Path) -> None:
    results = []
    for seed in (1, 2):
        table, stacking = stacks_of(corpus, seed)
        ordered = table.take(stacking.order)
        results.append(
            (
                ordered.column("sop_instance_uid").to_pylist(),
                [repr(stack) for stack in stacking.stacks],
            )
        )
    assert results[0] == results[1]


def test_a_volume_whose_slices_have_two_kernels_says_so(tmp_path: Path) -> None:
    write_series(
        tmp_path / "two",
        edit=lambda dataset, z: setattr(dataset, "ConvolutionKernel", "BONE" if z > 3 else "SOFT"),
    )
    write_series(tmp_path / "one", edit=lambda dataset, z: setattr(dataset, "AcquisitionNumber", z))
    assert detail(stacks_of(tmp_path / "two")[1])["varies"] == ["convolution_kernel"]
    assert "varies" not in detail(stacks_of(tmp_path / "one")[1])


@pytest.mark.parametrize(("scheme", "reversed_rows"), [("1", "all"), ("0", None), ("2", "unknown")])
def test_a_stack_says_whether_its_rows_are_stored_in_reverse(
    tmp_path: Path, scheme: str, reversed_rows: str | None
) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        block = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", "epi_pepolar")
        block.add_new(0xB3, "DS", scheme)

    write_series(tmp_path, modality="MR", shape=(3, 5, 7), edit=edit)
    assert detail(stacks_of(tmp_path)[1]).get("reversed_rows") == reversed_rows


def test_a_thicker_reconstruction_on_every_fifth_position_is_a_volume_of_its_own(
    tmp_path: Path,
) -> None:
    series = uid("thick and thin")
    for spacing, slices in ((1.0, 31), (5.0, 7)):
        write_series(
            tmp_path,
            shape=(slices, 5, 7),
            spacing=(spacing, 1, 1),
            series_uid=series,
            study_uid=uid("study", "x"),
        )
    stacking = stacks_of(tmp_path)[1]
    found = sorted(
        (stack.slices, stack.verdict, stack.slice_spacing, "missing_in_group" in stack.detail)
        for stack in stacking.stacks
    )
    assert found == [(7, "regular", 5.0, False), (31, "regular", 1.0, False)]
    assert len({stack.group for stack in stacking.stacks}) == 2


def test_slices_that_watch_the_contrast_agent_arrive_are_not_a_short_volume(tmp_path: Path) -> None:
    series = uid("bolus")
    for number in range(4):
        shape, z = ((1, 5, 7), 10) if number < 3 else ((12, 5, 7), 0)
        edit = functools.partial(
            lambda n, dataset, _: setattr(dataset, "AcquisitionNumber", n), number
        )
        write_series(
            tmp_path,
            shape=shape,
            origin=(0, 0, z),
            series_uid=series,
            study_uid=uid("study", "x"),
            seed=number,
            edit=edit,
        )
    stacking = stacks_of(tmp_path)[1]
    found = sorted(
        (stack.slices, stack.verdict, "missing_in_group" in stack.detail)
        for stack in stacking.stacks
    )
    assert found == [(1, "single", False)] * 3 + [(12, "regular", False)]


def test_a_volume_of_ultrasound_says_that_its_coordinates_are_of_the_transducer(
    tmp_path: Path,
) -> None:
    phantoms_multi.write_us_volume(tmp_path / "us.dcm")
    (stack,) = stacks_of(tmp_path)[1].stacks
    assert (stack.verdict, stack.slices) == ("regular", 6)
    assert json.loads(stack.detail)["coordinates"] == "of the transducer"


def test_slices_that_only_watch_are_one_group(tmp_path: Path) -> None:
    for number in range(4):
        edit = setter("AcquisitionNumber", number)
        write_series(
            tmp_path,
            shape=(1, 5, 7),
            series_uid=uid("bolus"),
            study_uid=uid("study", "x"),
            seed=number,
            edit=edit,
        )
    stacks = stacks_of(tmp_path)[1].stacks
    assert [(stack.slices, stack.group) for stack in stacks] == [(1, 0)] * 4


@pytest.mark.parametrize(
    ("gap", "second", "sizes"),
    [(7.0, 2.0, [4, 4]), (5.0, 2.0, [8]), (9.3, 3.0, [4, 4]), (8.7, 3.0, [8]), (25.3, 8.0, [4, 4])],
)
def test_slabs_lie_three_of_the_wider_spacings_apart(
    tmp_path: Path, gap: float, second: float, sizes: list[int]
) -> None:
    """The first has four slices of 2 mm, up to 6 mm; neither is a part of the other's grid."""
    heights = [*(2.0 * z for z in range(4)), *(6 + gap + second * z for z in range(4))]

    def edit(dataset: Dataset, z: int) -> None:
        dataset.AcquisitionNumber = 1 + z // 4

    write_series(
        tmp_path, shape=(8, 5, 7), positions=[[0, 0, height] for height in heights], edit=edit
    )
    stacks = stacks_of(tmp_path)[1].stacks
    assert [stack.slices for stack in stacks] == sizes
    assert {stack.verdict for stack in stacks} == {
        "regular" if len(sizes) == 2 else "uneven_spacing"
    }


@pytest.mark.parametrize(
    ("keyword", "starts", "sizes"),
    [
        ("AcquisitionNumber", (0, 5, 10, 15, 20), [4] * 5),
        ("AcquisitionNumber", (0, 5, 10, 17, 22), [20]),
        ("AcquisitionNumber", (0, 5, 10, 17), [4] * 4),
        ("TemporalPositionIdentifier", (0, 5, 10, 17, 22), [4] * 5),
    ],
)
def test_more_than_four_acquisitions_are_apart_if_each_overlaps_the_next(
    tmp_path: Path, keyword: str, starts: tuple[int, ...], sizes: list[int]
) -> None:
    """Time points need no chain. Each has four slices of 2 mm, between those of the next."""
    heights = [start + 2.0 * z for start in starts for z in range(4)]

    def edit(dataset: Dataset, z: int) -> None:
        setattr(dataset, keyword, 1 + z // 4)

    shape = (len(heights), 5, 7)
    write_series(tmp_path, shape=shape, positions=[[0, 0, z] for z in heights], edit=edit)
    assert [stack.slices for stack in stacks_of(tmp_path)[1].stacks] == sizes


def test_segments_at_equal_positions_are_told_apart_by_their_number(tmp_path: Path) -> None:
    (image, *_) = write_series(tmp_path / "image", shape=(3, 5, 7))
    mask = np.ones((5, 7), np.uint8)
    places = [(segment, (0.0, 0.0, 2.0 * z), mask) for segment in (1, 4) for z in range(3)]
    names = {1: "one", 4: "four"}
    phantoms_labels.write_seg(tmp_path / "seg" / "seg.dcm", image, places, segments=names)
    stacks = stacks_of(tmp_path / "seg")[1].stacks
    assert [(stack.slices, json.loads(stack.dimension)) for stack in stacks] == [
        (3, {"referenced_segment_number": 1}),
        (3, {"referenced_segment_number": 4}),
    ]


def test_attributes_that_make_different_volumes_make_none_and_are_named(tmp_path: Path) -> None:
    for volume in range(2):

        def edit(dataset: Dataset, z: int, volume: int = volume) -> None:
            dataset.EchoTime, dataset.FlipAngle = 1 + volume, 10 * (1 + (volume + z) % 2)
            dataset.InstanceNumber = None

        write_series(
            tmp_path / str(volume),
            series_uid=uid("tie"),
            study_uid=uid("study", "x"),
            modality="MR",
            seed=volume,
            edit=edit,
        )
    (stack,) = stacks_of(tmp_path)[1].stacks
    assert (stack.slices, stack.verdict) == (12, "duplicates")
    assert json.loads(stack.detail)["told_apart_by"] == ["echo_time", "flip_angle"]


def test_a_tie_of_counters_alone_contradicts_no_contrast() -> None:
    known = types.SimpleNamespace(knows=lambda name: name == "echo_time")
    splitter = types.SimpleNamespace(_columns=types.SimpleNamespace(contrasts=known))
    for names, counts in (
        (("acquisition_number", "image_index"), True),
        (("acquisition_number", "image_index+echo_time"), False),
    ):
        assert Splitter._counts(splitter, Tie(names)) is counts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("digest", "pixels"),
    [(None, "unchecked"), ("{}", "different"), ("file:{}", "unchecked")],
    ids=["unchecked", "pixels", "files"],
)
def test_frames_at_one_position_say_whether_their_pixels_were_compared(
    tmp_path: Path, digest: str | None, pixels: str
) -> None:
    """A digest with a colon is that of a file."""
    write_series(tmp_path / "a", series_uid=uid("twice"), study_uid=uid("study", "x"))
    write_series(
        tmp_path / "b", series_uid=uid("twice"), study_uid=uid("study", "x"), seed=1, drop=[1, 2]
    )
    table = encoded(frames_of(tmp_path))
    digests = None if digest is None else digest.format
    (stack,) = build_stacks(table, Tolerances(), digest=digests).stacks
    assert stack.verdict == "duplicates" and json.loads(stack.detail)["pixels"] == pixels


def clip(folder: Path, name: str, number: str | None, *, frames: int = 3, rows: int = 5) -> None:
    """Write a clip, or a still of one frame, whose UID is `name` and nothing else is ordered by."""

    def edit(dataset: Dataset, _: int) -> None:
        dataset.SOPInstanceUID = f"{UID_PREFIX}{name}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
        dataset.InstanceNumber = number and IS(number, validation_mode=config.IGNORE)

    write_secondary_capture(
        folder / name, frames=frames, rows=rows, series_uid=uid("clips"), seed=rows, edit=edit
    )


def order_of(folder: Path, seed: int) -> list[tuple[str, int]]:
    """UID and frame number of all frames, in the order of the index."""
    table, stacking = stacks_of(folder, seed)
    uids = [
        str(value).removeprefix(UID_PREFIX)
        for value in table.values("sop_instance_uid", stacking.order)
    ]
    return list(zip(uids, table.numbers("frame_number")[stacking.order].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_clips_come_in_the_order_of_instance_numbers(tmp_path: Path, seed: int) -> None:
    # Ties and absent numbers come in the order of UIDs. A frame has no other size than its stack.
    clips = [("9", "1", 5), ("8", "2", 9), ("7", " 10 ", 5), ("5", "11", 3), ("6", "11", 3)]
    for name, number, rows in [*clips, ("2", "", 5), ("3", None, 9)]:
        clip(tmp_path, name, number, rows=rows)
    expected = [name for name, _, _ in clips] + ["2", "3"]
    assert order_of(tmp_path, seed) == [(name, k) for name in expected for k in (1, 2, 3)]


@pytest.mark.parametrize("seed", range(3))
def test_stills_come_in_the_order_of_instance_numbers(tmp_path: Path, seed: int) -> None:
    for name, number in (("1", None), ("4", "12"), ("6", "2"), ("8", "2"), ("9", "1")):
        clip(tmp_path, name, number, frames=1)
    assert order_of(tmp_path, seed) == [(name, 1) for name in ("9", "6", "8", "4", "1")]
    assert [stack.slices for stack in stacks_of(tmp_path, seed)[1].stacks] == [5]


@pytest.mark.parametrize("seed", range(3))
def test_stills_and_clips_of_a_series_alternate_by_instance_number(
    tmp_path: Path, seed: int
) -> None:
    shapes = {"9": (1, 5), "8": (3, 5), "7": (1, 7), "6": (2, 9), "5": (1, 9)}
    for number, (name, (frames, rows)) in enumerate(shapes.items()):
        clip(tmp_path, name, str(number + 1), frames=frames, rows=rows)
    found = order_of(tmp_path, seed)
    assert found == [(name, k + 1) for name, (n, _) in shapes.items() for k in range(n)]

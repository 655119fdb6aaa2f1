"""Contrasts among the slices of a stack: divided, reported, or no contrast at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from phantoms import uid, write_series
from pydicom.dataset import Dataset

from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.stacks import StackRow, build_stacks
from dicomdl.headers.reader import HeaderReader
from dicomdl.index.building import encoded
from dicomdl.jobs.engine import read_chunk

Facts = Mapping[Any, Any]
READER = HeaderReader()
MAGNITUDE: Facts = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}
PHASE: Facts = {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}
T2: Facts = {"EchoTime": 108, "FlipAngle": 90}
T1: Facts = {"EchoTime": 14, "FlipAngle": 90}
SIEMENS = "SIEMENS MR HEADER"


def say(dataset: Dataset, facts: Facts) -> None:
    for key, value in facts.items():
        if isinstance(key, tuple):
            group, creator, element, vr = key
            dataset.private_block(group, creator, create=True).add_new(element, vr, value)
        else:
            setattr(dataset, key, value)


def write(
    folder: Path, facts: Sequence[Facts], *, first: int = 0, part: int = 0, modality: str = "MR"
) -> None:
    """Write slices from position `first` on, one per entry of `facts`, into one Series."""
    write_series(
        folder,
        shape=(len(facts), 5, 7),
        origin=(0, 0, 2.0 * first),
        series_uid=uid("series of contrasts"),
        study_uid=uid("study of contrasts"),
        frame_of_reference=uid("frame of contrasts"),
        seed=part,
        offset=400 * part,
        modality=modality,
        edit=lambda dataset, z: say(dataset, facts[z]),
    )


def stacks(folder: Path) -> list[StackRow]:
    paths = [str(path).encode() for path in folder.rglob("*") if path.is_file()]
    table = encoded(read_chunk(READER, paths)[1])
    return list(build_stacks(table, Tolerances()).stacks)


def detail(folder: Path) -> dict[str, Any]:
    (stack,) = stacks(folder)
    return dict(json.loads(stack.detail))


def told(folder: Path) -> list[tuple[str, int, bool, dict[str, Any]]]:
    """(verdict, slices, mixed, dimension) of each stack, the longest first."""
    return sorted(
        ((s.verdict, s.slices, s.mixed, json.loads(s.dimension)) for s in stacks(folder)),
        key=lambda stack: (-stack[1], str(stack[3])),
    )


def test_slices_of_several_units_that_are_no_volumes_are_named(tmp_path: Path) -> None:
    write(tmp_path, [{"RescaleType": "milliradians" if z in (2, 5) else "HU"} for z in range(9)])
    assert detail(tmp_path)["mixed"] == {"rescale_type": {"HU": 7, "milliradians": 2}}


def test_an_unspecified_unit_is_none_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, [{"RescaleType": "US" if z in (2, 5) else "HU"} for z in range(9)])
    assert "mixed" not in detail(tmp_path)


def test_time_points_between_the_slices_of_others_are_volumes_of_their_own(tmp_path: Path) -> None:
    def time(number: int) -> Facts:
        return {"TemporalPositionIdentifier": number}

    write(tmp_path, [time(1)] * 8)
    write_between(tmp_path, [time(2)] * 7)
    found = told(tmp_path)
    assert [stack[:3] for stack in found] == [("regular", 8, False), ("regular", 7, False)]


def test_a_time_point_per_slice_is_a_counter(tmp_path: Path) -> None:
    write(tmp_path, [{"TemporalPositionIdentifier": z + 1} for z in range(7)])
    assert [stack[:3] for stack in told(tmp_path)] == [("regular", 7, False)]


def write_between(folder: Path, facts: Sequence[Facts]) -> None:
    """Write slices between those of `write`."""
    write_series(
        folder,
        shape=(len(facts), 5, 7),
        origin=(0, 0, 1.0),
        series_uid=uid("series of contrasts"),
        study_uid=uid("study of contrasts"),
        frame_of_reference=uid("frame of contrasts"),
        seed=1,
        offset=400,
        modality="MR",
        edit=lambda dataset, z: say(dataset, facts[z]),
    )


# --- each contrast is a volume by itself ----------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (MAGNITUDE, PHASE, "image_type"),
        (T2, T1, "echo_time"),
        ({"FlipAngle": 5}, {"FlipAngle": 15}, "flip_angle"),
        ({"RepetitionTime": 500}, {"RepetitionTime": 3000}, "repetition_time"),
        ({"SequenceName": "*tse2d1_7"}, {"SequenceName": "*fl3d1"}, "sequence_name"),
        ({"ScanningSequence": "SE"}, {"ScanningSequence": ["SE", "IR"]}, "scanning_sequence"),
        ({"ContrastBolusAgent": ""}, {"ContrastBolusAgent": "Gd 10 ml"}, "contrast_bolus_agent"),
        ({"ProtocolName": "t1_tra"}, {"ProtocolName": "t2_tra"}, "protocol_name"),
        ({"SeriesDescription": "CBF"}, {"SeriesDescription": "MTT"}, "series_description"),
        ({"KVP": 80}, {"KVP": 140}, "kvp"),
        ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B60f"}, "convolution_kernel"),
        ({"RescaleType": "normalized"}, {"RescaleType": "milliradians"}, "rescale_type"),
        ({"CorrectedImage": ["DECY"]}, {"CorrectedImage": ["DECY", "ATTN"]}, "corrected_image"),
        (
            {(0x0019, SIEMENS, 0x0C, "IS"): 50},
            {(0x0019, SIEMENS, 0x0C, "IS"): 800},
            "diffusion_b_value",
        ),
        (
            {(0x0019, SIEMENS, 0x0E, "FD"): [1.0, 0.0, 0.0]},
            {(0x0019, SIEMENS, 0x0E, "FD"): [0.0, 0.6, 0.8]},
            "diffusion_gradient_orientation",
        ),
        (
            {(0x0043, "GEMS_PARM_01", 0x39, "IS"): [1000000050, 8, 0, 0]},
            {(0x0043, "GEMS_PARM_01", 0x39, "IS"): [1000000800, 8, 0, 0]},
            "diffusion_b_value",
        ),
    ],
)
@pytest.mark.parametrize("pattern", ["1111000", "1010101"])
def test_contrasts_that_are_volumes_by_themselves_are_stacks_of_their_own(
    tmp_path: Path, one: Facts, other: Facts, name: str, pattern: str
) -> None:
    write(tmp_path, [one if sign == "1" else other for sign in pattern])
    found = told(tmp_path)
    assert [stack[:3] for stack in found] == [("regular", 4, False), ("regular", 3, False)]
    assert all(list(stack[3]) == [name] for stack in found)
    assert len({stack.group for stack in stacks(tmp_path)}) == 2


def test_a_counter_at_each_position_does_not_join_slices_of_two_contrasts(tmp_path: Path) -> None:
    # The counter is 1 for T2 at four positions and for the last contrast at two more.
    post = {"EchoTime": 14, "FlipAngle": 30}
    write(tmp_path, [T2 | {"TemporalPositionIdentifier": 1}] * 4)
    write(tmp_path, [T1 | {"TemporalPositionIdentifier": 2}] * 4, part=1)
    write(
        tmp_path,
        [post | {"TemporalPositionIdentifier": n} for n in (3, 3, 1, 1)],
        first=2,
        part=2,
    )
    found = told(tmp_path)
    assert [stack[:3] for stack in found] == [("regular", 4, False)] * 3
    assert [stack[3] for stack in found] == [
        {"echo_time": 108.0, "flip_angle": 90.0},
        {"echo_time": 14.0, "flip_angle": 30.0},
        {"echo_time": 14.0, "flip_angle": 90.0},
    ]
    # Only the two on the same positions are a group.
    assert sorted(stack.group_index for stack in stacks(tmp_path)) == [0, 0, 1]


def test_a_single_slice_stays_alone_where_contrasts_separate_repeated_positions(
    tmp_path: Path,
) -> None:
    write(tmp_path, [T2 | {"AcquisitionNumber": 1}] * 4)
    write(tmp_path, [T1 | {"AcquisitionNumber": 2}] * 4, part=1)
    write(tmp_path, [{"EchoTime": 14, "FlipAngle": 30, "AcquisitionNumber": 1}], first=4, part=2)
    assert [stack[:3] for stack in told(tmp_path)] == [
        ("regular", 4, False),
        ("regular", 4, False),
        ("single", 1, False),
    ]


def test_blocks_of_contrasts_keep_the_groups_of_their_echoes(tmp_path: Path) -> None:
    for part, echo in enumerate((5, 10)):
        write(
            tmp_path,
            [(MAGNITUDE if z < 4 else PHASE) | {"EchoTime": echo} for z in range(7)],
            part=part,
        )
    found = told(tmp_path)
    assert [stack[1:3] for stack in found] == [(4, False), (4, False), (3, False), (3, False)]
    assert sorted((s.slices, s.group_index) for s in stacks(tmp_path)) == [
        (3, 0),
        (3, 1),
        (4, 0),
        (4, 1),
    ]


# --- slices that complete the grid of others ------------------------------------------------------


@pytest.mark.parametrize("phase", [(8, 9), (3,), (2, 4, 5, 8)])
def test_slices_of_another_contrast_that_are_no_volume_are_counted(
    tmp_path: Path, phase: tuple[int, ...]
) -> None:
    write(tmp_path, [PHASE if z in phase else MAGNITUDE for z in range(10)])
    (stack,) = stacks(tmp_path)
    assert (stack.verdict, stack.slices, stack.mixed) == ("regular", 10, True)
    found = detail(tmp_path)
    assert found["varies"] == ["image_type"]
    assert found["mixed"] == {
        "image_type": {
            "ORIGINAL\\PRIMARY\\M\\ND": 10 - len(phase),
            "ORIGINAL\\PRIMARY\\P\\ND": len(phase),
        }
    }


def test_one_slice_of_another_contrast_in_an_echo_marks_only_this_echo(tmp_path: Path) -> None:
    for part, echo in enumerate((5, 10)):
        odd = 3 if echo == 5 else -1
        write(
            tmp_path,
            [(PHASE if z == odd else MAGNITUDE) | {"EchoTime": echo} for z in range(6)],
            part=part,
        )
    assert told(tmp_path) == [
        ("regular", 6, False, {"echo_time": 10.0}),
        ("regular", 6, True, {"echo_time": 5.0}),
    ]


def test_a_contrast_of_few_slices_does_not_divide_the_phases_of_others(tmp_path: Path) -> None:
    # Two slices are always even; the contrasts do not separate the frames at any position.
    for part in range(3):
        write(
            tmp_path,
            [
                {"FlipAngle": 50 if z in (0, 3) else 70, "TemporalPositionIdentifier": part + 1}
                for z in range(4)
            ],
            part=part,
        )
    found = told(tmp_path)
    assert [stack[:3] for stack in found] == [("regular", 4, True)] * 3
    assert [stack[3] for stack in found] == [
        {"temporal_position_identifier": number} for number in (1, 2, 3)
    ]


def test_many_values_are_counted_together(tmp_path: Path) -> None:
    write(tmp_path, [{"EchoTime": 5 * (1 + max(0, z - 1))} for z in range(12)])
    counts = detail(tmp_path)["mixed"]["echo_time"]
    assert counts["5"] == 2
    assert counts["3 others"] == 3
    assert sum(counts.values()) == 12


# --- no contrast ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        # What scanners write for each slice.
        [
            {
                "TriggerTime": 13 * z,
                "RepetitionTime": (500 + 41 * z) * (1 + z % 2),
                "AcquisitionNumber": z,
                "AcquisitionTime": f"1015{z:02d}",
                "SliceLocation": 2 * z,
                "WindowCenter": 100 + z,
                "WindowWidth": 200 + z,
                "EchoTime": 4.9 + 0.002 * z,
                "FlipAngle": 150 - z,
            }
            for z in range(8)
        ],
        # What adapts to the heart rate, the load and the contrast agent.
        [
            {
                "SequenceName": f"*tfi2d1_{12 + z % 3}",
                "EchoTime": 1.1 + 0.02 * (z % 3),
                "FlipAngle": 55 if z > 4 else 50,
                "InversionTime": 300 + 10 * z,
            }
            for z in range(8)
        ],
        # Filters, the way of scanning, and a compressed slice that is DERIVED.
        [
            {
                "ImageType": [
                    "DERIVED" if z == 4 else "ORIGINAL",
                    "PRIMARY",
                    "M",
                    *(["NORM"] if z % 2 else ["ND", "DIS2D"]),
                ]
            }
            for z in range(8)
        ],
        # A blank is unknown, and so are an echo time and a repetition time of 0.
        [{"EchoTime": 0, "RepetitionTime": 0} if z % 3 else T2 for z in range(8)],
        [T2 | {"SequenceName": "*tse2d1"} if z % 3 else {} for z in range(8)],
        # One axis, written with either sign and rounded.
        [
            {
                (0x0019, SIEMENS, 0x0E, "FD"): [1.0, 0.0, 0.001 * z] if z % 2 else [-1.0, 0, 0],
                (0x0019, SIEMENS, 0x0C, "IS"): 1000,
            }
            for z in range(8)
        ],
        [{"CorrectedImage": ["DECY", "ATTN"] if z % 2 else ["ATTN", "DECY"]} for z in range(8)],
        # Numbers and spelling in descriptions, and a blank one.
        [
            {
                "SeriesDescription": ["", f"T1 image {z + 1} of 8", f"t1  Image {z} of 8"][z % 3],
                "ProtocolName": "T1" if z % 2 else "t1",
                "ContrastBolusAgent": "Gd 10 ml" if z % 2 else "GD 12 ML",
            }
            for z in range(8)
        ],
    ],
    ids=["per slice", "adapted", "image type", "zero", "blank", "direction", "order", "words"],
)
def test_what_varies_in_a_sound_volume_is_no_contrast(
    tmp_path: Path, facts: Sequence[Facts]
) -> None:
    write(tmp_path, facts)
    assert told(tmp_path) == [("regular", 8, False, {})]
    assert "varies" not in detail(tmp_path)


def test_the_type_of_a_ct_image_counts_only_where_it_names_what_pixels_show(
    tmp_path: Path,
) -> None:
    axial, helix = ["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"]
    mono = ["DERIVED", "PRIMARY", "AXIAL", "VMI"]
    write(tmp_path / "way", [{"ImageType": helix if z > 4 else axial} for z in range(6)])
    write(
        tmp_path / "energy",
        [{"ImageType": mono if z > 4 else axial} for z in range(6)],
        modality="CT",
    )
    assert [stack[:3] for stack in told(tmp_path / "way")] == [("regular", 6, False)]
    assert [stack[:3] for stack in told(tmp_path / "energy")] == [("regular", 6, True)]


def test_a_thickness_that_varies_is_reported_without_being_a_contrast(tmp_path: Path) -> None:
    write(tmp_path, [{"SliceThickness": 3 if z > 3 else 2} for z in range(6)], modality="CT")
    (stack,) = stacks(tmp_path)
    assert not stack.mixed
    assert detail(tmp_path)["varies"] == ["slice_thickness"]

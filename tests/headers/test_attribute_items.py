"""attribute_items: facts of converted and Philips' items fill columns that nothing else fills."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pytest
from conftest import index_of
from phantoms_defects import Facts, inside, say
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

import dicomdl
from dicomdl.headers.frame import Frame, attributes
from dicomdl.headers.reader import read_frames

DD_005 = "Philips MR Imaging DD 005"
ITEM = (0x2005, DD_005, 0x0F, "SQ")
NUMBER, B_NUMBER = (0x2005, DD_005, 0x13, "IS"), (0x2005, DD_005, 0x12, "IS")
B_VALUE = (0x2001, "Philips Imaging DD 001", 0x03, "FL")
DIRECTION = [(0x2005, "Philips MR Imaging DD 001", 0xB0 + i, "FL") for i in range(3)]
SHARED = "UnassignedSharedConvertedAttributesSequence"
PER_FRAME = "UnassignedPerFrameConvertedAttributesSequence"
SOURCE = "ConversionSourceAttributesSequence"


def enhanced(
    folder: Path,
    per_frame: list[Facts],
    shared: Facts | None = None,
    top: Facts | None = None,
    syntax: UID = ExplicitVRLittleEndian,
) -> list[Frame]:
    """Frames of an enhanced file whose groups have these facts, in file order."""

    def edit(dataset: Dataset, _: int) -> None:
        for group, facts in zip(dataset.PerFrameFunctionalGroupsSequence, per_frame, strict=False):
            say(group, facts)
        say(dataset.SharedFunctionalGroupsSequence[0], shared or {})
        say(dataset, top or {})

    path = phantoms.write_multiframe(
        folder / "a.dcm",
        shape=(len(per_frame), 5, 7),
        modality="MR",
        transfer_syntax=syntax,
        edit=edit,
    )
    return read_frames(path)


def classic(folder: Path, facts: Facts, syntax: UID = ExplicitVRLittleEndian) -> Frame:
    """The frame of a classic file with these facts."""
    (path,) = phantoms.write_series(
        folder,
        shape=(1, 5, 7),
        modality="MR",
        transfer_syntax=syntax,
        edit=lambda dataset, _: say(dataset, {"Manufacturer": "Philips", **facts}),
    )
    (frame,) = read_frames(path)
    return frame


# --- Philips' item --------------------------------------------------------------------------------

PRIVATE: Facts = {
    B_VALUE: 700.0,
    **dict(zip(DIRECTION, (0.0, 0.5, -0.5), strict=True)),
    NUMBER: 9,
    B_NUMBER: 3,
}


def diffusion(frame: Frame) -> tuple[Any, ...]:
    return (
        frame.philips_b_value,
        frame.philips_diffusion_direction_x,
        frame.philips_diffusion_direction_y,
        frame.philips_diffusion_direction_z,
        frame.philips_gradient_direction_number,
        frame.philips_b_value_number,
    )


@pytest.mark.parametrize("syntax", phantoms.NATIVE_SYNTAXES, ids=lambda syntax: syntax.name)
def test_philips_item_is_read_per_frame_and_in_classic_images(syntax: UID, tmp_path: Path) -> None:
    frames = enhanced(tmp_path, [{ITEM: inside(PRIVATE)}, {}], syntax=syntax)
    wanted = (700.0, 0.0, 0.5, -0.5, 9, 3)
    assert [diffusion(frame) for frame in frames] == [wanted, (None,) * 6]
    assert diffusion(classic(tmp_path, {ITEM: inside(PRIVATE)}, syntax)) == wanted


@pytest.mark.parametrize("maker", ["PHILIPS", "philips", "Philips Medical Systems"])
def test_the_maker_is_philips_in_capitals_or_not(tmp_path: Path, maker: str) -> None:
    facts: Facts = {"Manufacturer": maker, ITEM: inside(PRIVATE)}
    assert classic(tmp_path, facts).philips_gradient_direction_number == 9


def test_an_item_that_other_software_wrote_as_un_is_implicit(tmp_path: Path) -> None:
    number = b"\x05\x20\x10\x00" + (26).to_bytes(4, "little") + DD_005.encode() + b" "
    number += b"\x05\x20\x13\x10\x02\x00\x00\x00" + b"9 "
    raw = b"\xfe\xff\x00\xe0" + len(number).to_bytes(4, "little") + number
    facts = {(*ITEM[:3], "UN"): raw}
    assert enhanced(tmp_path, [facts])[0].philips_gradient_direction_number == 9
    assert classic(tmp_path, facts).philips_gradient_direction_number == 9


def test_the_creator_of_the_block_decides(tmp_path: Path) -> None:
    other = (0x2005, "Philips MR Imaging DD 004", 0x0F, "SQ")
    assert diffusion(enhanced(tmp_path, [{other: inside(PRIVATE)}])[0]) == (None,) * 6
    assert diffusion(classic(tmp_path, {other: inside(PRIVATE)})) == (None,) * 6


def test_facts_of_the_top_level_and_of_groups_come_first(tmp_path: Path) -> None:
    public = {"DiffusionBValue": 50.0, "InstanceNumber": 77, "SOPInstanceUID": "1.2.3"}
    frame = classic(tmp_path, {B_VALUE: 20.0, ITEM: inside({**PRIVATE, **public})})
    assert (frame.philips_b_value, frame.diffusion_b_value) == (20.0, 50.0)
    assert (frame.instance_number, frame.sop_instance_uid == "1.2.3") == (1, False)
    macro = {"MRDiffusionSequence": phantoms.item(DiffusionBValue=10.0)}
    (frame,) = enhanced(tmp_path, [{**macro, ITEM: inside({**PRIVATE, **public})}])
    assert (frame.philips_b_value, frame.diffusion_b_value) == (700.0, 10.0)
    assert (frame.instance_number, frame.sop_instance_uid == "1.2.3") == (1, False)


def test_values_that_philips_leaves_undefined_are_absent(tmp_path: Path) -> None:
    undefined = {
        "DiffusionBValue": 7.23e75,
        "DiffusionGradientOrientation": [7.23e75] * 3,
        **dict.fromkeys(DIRECTION, 0.0),
    }
    frame = classic(tmp_path, {ITEM: inside(undefined)})
    assert (frame.diffusion_b_value, frame.diffusion_gradient_orientation) == (None, None)
    assert diffusion(frame) == (None,) * 6


@pytest.mark.parametrize("raw", [b"", b"\0" * 8, b"\xfe\xff\x00\xe0\x40\0\0\0ab", b"garbage!"])
def test_a_private_item_that_is_no_data_set_says_nothing(raw: bytes, tmp_path: Path) -> None:
    facts = {(*ITEM[:3], "UN"): raw}
    assert diffusion(enhanced(tmp_path, [facts])[0]) == (None,) * 6
    assert diffusion(classic(tmp_path, facts)) == (None,) * 6


# --- converted attributes -------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", phantoms.NATIVE_SYNTAXES, ids=lambda syntax: syntax.name)
def test_converted_attributes_fill_what_the_groups_leave_empty(syntax: UID, tmp_path: Path) -> None:
    shared = {
        "Units": "BQML",
        "EchoTime": 7.0,
        "RadiopharmaceuticalInformationSequence": inside({"RadionuclideHalfLife": 6586.2}),
        (0x0009, "GEMS_PETD_01", 0x0D, "DT"): "20200102030405",
        "SliceThickness": 99.0,
    }
    per_frame: list[Facts] = [
        {PER_FRAME: inside({"EchoTime": 5.0 + z, "DecayFactor": 1.5}), **phantom_macros(z)}
        for z in range(2)
    ]
    first, second = enhanced(tmp_path, [*per_frame, {}], {SHARED: inside(shared)}, syntax=syntax)[
        :2
    ]
    assert (first.echo_time, second.echo_time) == (5.0, 6.0)
    assert (first.flip_angle, second.flip_angle) == (30.0, 31.0)
    assert (first.units, first.decay_factor, first.radionuclide_half_life) == ("BQML", 1.5, 6586.2)
    assert (first.ge_scan_date_time, first.slice_thickness) == ("20200102030405", 2.0)


def phantom_macros(z: int) -> dict[Any, Any]:
    """A macro and, in the converted attributes of another one, what it says already."""
    return {"MRTimingAndRelatedParametersSequence": phantoms.item(FlipAngle=30.0 + z)}


def test_shared_converted_attributes_serve_frames_without_their_own(tmp_path: Path) -> None:
    frames = enhanced(
        tmp_path, [{PER_FRAME: inside({"EchoTime": 5.0})}, {}], {SHARED: inside({"EchoTime": 7.0})}
    )
    assert [frame.echo_time for frame in frames] == [5.0, 7.0]


def test_neither_the_identity_nor_the_pixels_of_a_source_are_those_of_the_object(
    tmp_path: Path,
) -> None:
    source = {
        "SOPInstanceUID": "1.2.3",
        "PatientID": "OTHER",
        "SeriesInstanceUID": "1.2.4",
        "HighBit": 3,
        "PlanarConfiguration": 1,
        "NumberOfFrames": 9,
    }
    frame, other = enhanced(tmp_path, [{PER_FRAME: inside(source)}, {}], {SHARED: inside(source)})
    assert (frame.sop_instance_uid, frame.patient_id) == (other.sop_instance_uid, "RAMP-1")
    assert (frame.high_bit, frame.planar_configuration, frame.number_of_frames) == (11, 0, 2)


def test_the_source_of_a_conversion_is_no_converted_attribute(tmp_path: Path) -> None:
    facts = {SOURCE: inside({"EchoTime": 5.0, "ReferencedSOPInstanceUID": "1.2.3"})}
    assert [f.echo_time for f in enhanced(tmp_path, [facts, facts], facts)] == [None, None]


def test_text_has_the_character_set_of_the_file(tmp_path: Path) -> None:
    (frame,) = enhanced(
        tmp_path,
        [{PER_FRAME: inside({"ProtocolName": "Sch\xe4del"})}],
        top={"SpecificCharacterSet": "ISO_IR 100"},
    )
    assert frame.protocol_name == "Sch\xe4del"


def test_a_rescale_slope_that_is_no_number_is_a_problem_there_too(tmp_path: Path) -> None:
    raw = b"\x28\x00\x53\x10DS\x04\x00abcd"
    facts = {PER_FRAME: inside({(0x0043, "GEMS_PARM_01", 0x2F, "SS"): 1})}

    def edit(dataset: Dataset, _: int) -> None:
        del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        say(dataset.PerFrameFunctionalGroupsSequence[0], facts)
        item = dataset.PerFrameFunctionalGroupsSequence[0][PER_FRAME].value[0]
        item.add_new(0x00281053, "LO", "abcd")

    path = phantoms.write_multiframe(tmp_path / "a.dcm", shape=(1, 5, 7), edit=edit)
    content = path.read_bytes()
    assert raw.replace(b"DS", b"LO") in content
    with pytest.raises(dicomdl.DicomdlError, match="rescale_slope"):
        read_frames(path)


def test_groups_that_are_not_one_a_frame_fill_only_what_all_of_them_say(tmp_path: Path) -> None:
    facts = [
        {PER_FRAME: inside({"EchoTime": 5.0, "FlipAngle": 10.0 + z}), **phantom_macros(0)}
        for z in range(3)
    ]

    def edit(dataset: Dataset, _: int) -> None:
        groups = [Dataset() for _ in facts]
        for group, each in zip(groups, facts, strict=True):
            say(group, each)
        dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)

    path = phantoms.write_multiframe(tmp_path / "a.dcm", shape=(2, 5, 7), edit=edit)
    assert [(f.echo_time, f.flip_angle) for f in read_frames(path)] == [(5.0, 30.0)] * 2


def test_a_voi_lut_among_the_converted_attributes_is_applied(folder: Path) -> None:
    table = phantoms.item(
        LUTDescriptor=[300, 0, 16], LUTData=np.arange(300)[::-1].astype("<u2").tobytes()
    )
    table[0]["LUTDescriptor"].VR, table[0]["LUTData"].VR = "US", "OW"
    facts: list[Facts] = [{PER_FRAME: inside({"VOILUTSequence": table})} for _ in range(2)]
    enhanced(folder, facts)
    volume = dicomdl.read_volume(index_of(folder).stacks[0])
    windowed = volume.window("voi_lut").array
    assert windowed.argmax() == volume.array.argmin()


# --- classic slices and their conversion by highdicom ---------------------------------------------

# Facts that a conversion changes by its definition.
OF_THE_OBJECT = {
    *("sop_class_uid", "sop_instance_uid", "series_instance_uid", "series_number"),
    *("instance_number", "image_type", "number_of_frames", "frame_type", "content_date"),
    *("content_time", "stack_id", "in_stack_position_number", "dimension_index_values"),
    *("spacing_between_slices", "presentation_lut_shape", "transfer_syntax_uid"),
    # With a remark on the conversion.
    "series_description",
    # Into the Frame Anatomy macro, as codes; the side that no slice states is "U", unpaired.
    *("body_part_examined", "image_laterality"),
    # "US", which is no unit.
    "rescale_type",
}
# Column -> that of the functional group which replaces it.
REPLACED = {
    "actual_frame_duration": "frame_acquisition_duration",
    "acquisition_number": "frame_acquisition_number",
}
TIMES = {
    *("acquisition_date", "acquisition_time", "acquisition_date_time"),
    "frame_acquisition_date_time",
}


def dynamic_pet(folder: Path) -> None:
    """Two time points of four slices in two beds, with decay facts per slice."""
    for t in range(2):
        phantoms.write_series(
            folder,
            shape=(4, 5, 7),
            modality="PT",
            slope=[1.5, 1.25, 2.0, 1.0],
            offset=400 * t,
            series_uid="1.2.3.4",
            instance_numbers=[4 * t + z + 1 for z in range(4)],
            seed=t,
            edit=lambda dataset, z, t=t: say(dataset, pet_facts(t, z)),
        )


def pet_facts(t: int, z: int) -> Facts:
    started = 60 * t + 30 * (z // 2)
    return {
        **{"StudyDate": "20200306", "StudyTime": "100000", "StudyID": "", "AccessionNumber": ""},
        **{"PatientName": "", "PatientBirthDate": "", "ReferringPhysicianName": ""},
        **{"Manufacturer": "M", "ManufacturerModelName": "X", "DeviceSerialNumber": "1"},
        **{"SoftwareVersions": "1", "BurnedInAnnotation": "NO", "PatientPosition": "HFS"},
        **{"PositionReferenceIndicator": "", "Laterality": "", "PatientSex": "M"},
        **{"BodyPartExamined": "HEAD", "ImageType": ["ORIGINAL", "PRIMARY"]},
        **{"PatientWeight": 70.0, "PatientSize": 1.75, "Units": "BQML", "SeriesNumber": 1},
        **{"CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "START"},
        **{"CountsSource": "EMISSION", "SeriesType": ["DYNAMIC", "IMAGE"]},
        **{"SeriesDate": "20200306", "SeriesTime": "140000"},
        "AcquisitionDate": "20200306",
        **{"ContentDate": "20200306", "ContentTime": "150000", "ActualFrameDuration": 30000},
        "AcquisitionTime": f"14{started // 60:02}{started % 60:02}",
        "FrameReferenceTime": 1000.0 * started + 15000,
        "DecayFactor": round(math.exp2((started + 15) / 6586.2), 6),
        "ImageIndex": 4 * t + 4 - z,
        **{"WindowCenter": 100 + z, "WindowWidth": 200},
        (0x0009, "GEMS_PETD_01", 0x0D, "DT"): "20200306140000",
        "RadiopharmaceuticalInformationSequence": inside(
            {
                "RadiopharmaceuticalStartTime": "130000",
                "RadiopharmaceuticalStartDateTime": "20200306130000",
                "RadionuclideTotalDose": 3.7e8,
                "RadionuclideHalfLife": 6586.2,
            }
        ),
    }


def converted(folder: Path, kind: str) -> Path:
    """The folder of the classic files as one object, converted by highdicom."""
    legacy = pytest.importorskip("highdicom.legacy")
    convert = getattr(legacy, f"LegacyConvertedEnhanced{kind}Image")
    made = folder.parent / "converted"
    made.mkdir()
    source = [dcmread(path) for path in sorted(folder.iterdir())]
    convert(source, generate_uid(), 2, generate_uid(), 1).save_as(made / "a.dcm")
    return made


@pytest.mark.slow
def test_a_converted_dynamic_pet_gives_the_stacks_facts_and_suv_of_its_slices(
    folder: Path,
) -> None:
    dynamic_pet(folder)
    slices, whole = index_of(folder), index_of(converted(folder, "PET"))
    assert [len(slices.stacks), len(whole.stacks), len(whole.problems)] == [2, 2, 0]
    for one, other in zip(slices.stacks, whole.stacks, strict=True):
        assert (one.verdict, one.detail) == (other.verdict, other.detail)
        np.testing.assert_allclose(one.affine, other.affine)
        for attribute in attributes():
            name = attribute.name
            if name not in OF_THE_OBJECT | TIMES:
                assert one.values(name) == other.values(REPLACED.get(name, name)) or (
                    name in REPLACED.values()
                ), name
        for values in ("modality", "suv"):
            np.testing.assert_array_equal(
                dicomdl.read_volume(one, values=values).array,
                dicomdl.read_volume(other, values=values).array,
            )
        np.testing.assert_array_equal(
            dicomdl.read_volume(one).window("auto").array,
            dicomdl.read_volume(other).window("auto").array,
        )

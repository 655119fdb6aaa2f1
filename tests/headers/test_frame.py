"""frame: the attributes agree with the standard, and none of them identifies a patient."""

import dataclasses
import pickle
import pydoc

import pytest
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, private_dictionary_VR

from dicomdl.headers import frame as frame_module
from dicomdl.headers.attribute import Attribute, snake_case
from dicomdl.headers.frame import Frame, attributes
from dicomdl.headers.frame_source import SOURCE_FIELDS, FrameSource

STANDARD = [attribute for attribute in attributes() if not attribute.creator]
PRIVATE = [attribute for attribute in attributes() if attribute.creator]

# Columns whose name is not the keyword in snake case, with the reason.
OTHER_NAMES = {
    "ultrasound_regions": "SequenceOfUltrasoundRegions, of which a row has the count",
    "radiopharmaceuticals": "RadiopharmaceuticalInformationSequence, of which a row has the count",
    "grid_frame_offset": "GridFrameOffsetVector, of which a row has one value",
    "voi_lut_function": "VOILUTFunction: voilut is hard to read",
    "voi_lut_sequence": "VOILUTSequence: voilut is hard to read",
}
OTHER_SIZES = {
    # 1-n in the dictionary, 1 in the Segment Identification macro.
    "referenced_segment_number": "PS3.3 C.8.20.3.1"
}
# Private attributes that pydicom does not know; dcm2niix reads them in this way.
UNKNOWN_PRIVATE = {"uih_b_value", "uih_diffusion_direction", "philips_label_type"}

# Attributes of PS3.15 Table E.1-1 that may never be a column. PatientID is stored, because labels
# are joined by it.
IDENTIFYING = (
    0x00100010,
    0x00100030,
    0x00100032,
    0x00101000,
    0x00101001,
    0x00101005,
    0x00101040,
    0x00101060,
    0x00102154,
    0x00104000,
    0x00080050,
    0x00080080,
    0x00080081,
    0x00080090,
    0x00080092,
    0x00080094,
    0x00081010,
    0x00081040,
    0x00081048,
    0x00081050,
    0x00081060,
    0x00081070,
    0x00181000,
    0x00200010,
    0x00204000,
    0x00321032,
    0x00400006,
    0x00400242,
    0x0040A123,
    0x00380010,
)


@pytest.mark.parametrize("attribute", STANDARD, ids=lambda attribute: attribute.name)
def test_tag_vr_and_keyword_are_those_of_the_data_dictionary(attribute: Attribute) -> None:
    keyword = keyword_for_tag(attribute.tag)
    assert snake_case(keyword) == attribute.name or attribute.name in OTHER_NAMES
    vr = dictionary_VR(attribute.tag)
    assert attribute.vr == ("XS" if vr == "US or SS" else vr)
    assert attribute.group_tag == 0 or dictionary_VR(attribute.group_tag) == vr
    if not attribute.per_frame and attribute.name not in OTHER_SIZES:
        expected = dictionary_VM(attribute.tag)
        assert str(attribute.size) == expected or (attribute.size == 0 and expected != "1")


@pytest.mark.parametrize("attribute", PRIVATE, ids=lambda attribute: attribute.name)
def test_private_vrs_are_those_that_pydicom_knows(attribute: Attribute) -> None:
    if attribute.name in UNKNOWN_PRIVATE:
        pytest.skip("in no dictionary of pydicom")
    assert private_dictionary_VR(attribute.tag | 0x1000, attribute.creator) == attribute.vr
    assert attribute.tag & 0xFF00 == 0, "a vendor's tag has 00 as its block byte"
    assert attribute.tag >> 16 & 1


def test_every_group_is_a_sequence_of_the_data_dictionary() -> None:
    groups = {group for attribute in attributes() for group in attribute.groups} | {
        a.inside for a in attributes() if a.inside
    }
    assert {dictionary_VR(group) for group in groups} == {"SQ"}


@pytest.mark.parametrize(
    ("constant", "keyword"),
    [
        ("PIXEL_MEASURES", "PixelMeasuresSequence"),
        ("PLANE_POSITION", "PlanePositionSequence"),
        ("PLANE_ORIENTATION", "PlaneOrientationSequence"),
        ("PLANE_POSITION_VOLUME", "PlanePositionVolumeSequence"),
        ("PLANE_ORIENTATION_VOLUME", "PlaneOrientationVolumeSequence"),
        ("FRAME_CONTENT", "FrameContentSequence"),
        ("TEMPORAL_POSITION", "TemporalPositionSequence"),
        ("FRAME_VOI_LUT", "FrameVOILUTSequence"),
        ("FRAME_ANATOMY", "FrameAnatomySequence"),
        ("PIXEL_VALUE_TRANSFORMATION", "PixelValueTransformationSequence"),
        ("CARDIAC", "CardiacSynchronizationSequence"),
        ("RESPIRATORY", "RespiratorySynchronizationSequence"),
        ("MR_ECHO", "MREchoSequence"),
        ("MR_MODIFIER", "MRModifierSequence"),
        ("MR_TIMING", "MRTimingAndRelatedParametersSequence"),
        ("MR_DIFFUSION", "MRDiffusionSequence"),
        ("DIFFUSION_DIRECTION", "DiffusionGradientDirectionSequence"),
        ("MR_VELOCITY_ENCODING", "MRVelocityEncodingSequence"),
        ("MULTI_ENERGY_CT", "MultienergyCTCharacteristicsSequence"),
        ("CT_RECONSTRUCTION", "CTReconstructionSequence"),
        ("CT_XRAY_DETAILS", "CTXRayDetailsSequence"),
        ("FRAME_PIXEL_DATA_PROPERTIES", "FramePixelDataPropertiesSequence"),
        ("PROJECTION_PIXEL_CALIBRATION", "ProjectionPixelCalibrationSequence"),
        ("XRAY_GEOMETRY", "XRayGeometrySequence"),
        ("SEGMENT_IDENTIFICATION", "SegmentIdentificationSequence"),
        ("RADIOPHARMACEUTICAL", "RadiopharmaceuticalInformationSequence"),
        ("ULTRASOUND_REGIONS", "SequenceOfUltrasoundRegions"),
    ],
)
def test_a_functional_group_has_the_tag_of_its_keyword(constant: str, keyword: str) -> None:
    assert keyword_for_tag(getattr(frame_module, constant)) == keyword


def test_frame_types_are_those_of_mr_ct_pet_and_xray_3d() -> None:
    keywords = [keyword_for_tag(tag) for tag in frame_module.FRAME_TYPES]
    assert keywords == [
        "MRImageFrameTypeSequence",
        "CTImageFrameTypeSequence",
        "PETFrameTypeSequence",
        "XRay3DFrameTypeSequence",
    ]


def test_no_identifying_attribute_is_in_the_table() -> None:
    tags = {attribute.tag for attribute in attributes()}
    assert tags.isdisjoint(IDENTIFYING)
    assert not [
        attribute.name for attribute in attributes() if attribute.vr in ("PN", "LT", "ST", "UT")
    ]
    words = (
        "birth",
        "address",
        "physician",
        "institution",
        "operator",
        "accession",
        "telephone",
        "station",
        "serial",
        "comment",
    )
    assert not [
        a.name
        for a in attributes()
        for word in words
        if word in a.name and a.name != "series_number"
    ]


def test_names_and_tags_are_unique() -> None:
    assert len({attribute.name for attribute in attributes()}) == len(attributes())
    assert len({(a.tag, a.creator, a.inside) for a in attributes()}) == len(attributes())


@pytest.mark.parametrize(
    ("keyword", "column"),
    [
        ("SOPInstanceUID", "sop_instance_uid"),
        ("KVP", "kvp"),
        ("MRAcquisitionType", "mr_acquisition_type"),
        ("Rows", "rows"),
    ],
)
def test_keywords_become_snake_case(keyword: str, column: str) -> None:
    assert snake_case(keyword) == column


def test_a_frame_is_frozen_pickles_and_shows_no_patient() -> None:
    frame = Frame(
        path="a.dcm",
        frame_number=2,
        byte_offset=9,
        byte_length=8,
        file_bytes=17,
        file_mtime_ns=1,
        patient_id="MRN-123",
        modality="CT",
        rows=2,
        columns=4,
        sop_instance_uid="1.2.3",
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.rows = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(frame)) == frame
    assert "MRN-123" not in repr(frame)
    assert "1.2.3" in repr(frame)
    assert frame.source == FrameSource(**{name: getattr(frame, name) for name in SOURCE_FIELDS})


def test_help_shows_the_docstring_of_a_frame_and_no_field_twice() -> None:
    text = pydoc.render_doc(Frame, renderer=pydoc.plaintext)
    assert len(text.splitlines()) < 50
    assert "Frame(**facts)" in text and "echo_time" not in text


def test_completion_on_a_frame_has_every_column() -> None:
    made = Frame(
        path="", frame_number=1, byte_offset=0, byte_length=0, file_bytes=0, file_mtime_ns=0
    )
    assert {field.name for field in dataclasses.fields(Frame)} | {"file", "source"} <= set(
        dir(made)
    )

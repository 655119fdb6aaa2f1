"""uids: the tables of transfer syntaxes and SOP classes agree with pydicom's copy of PS3.6."""

import re

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID

from dicomdl.headers import _sop_classes, uids
from dicomdl.headers.uids import SOP_CLASSES, TRANSFER_SYNTAXES, SopClass, TransferSyntax

# Too new for the installed pydicom, or not a part of the standard.
UNKNOWN_TO_PYDICOM = {
    uids.GE_BIG_ENDIAN_PIXELS,
    uids.DEFLATED_IN_ITEMS,
    *uids.syntaxes_of("jpegxl"),
}
KNOWN = [row for row in TRANSFER_SYNTAXES.values() if row.uid in UID_dictionary]


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row.name)
def test_a_transfer_syntax_is_coded_as_pydicom_says(row: TransferSyntax) -> None:
    uid = UID(row.uid)
    assert row.name == uid.name
    assert row.encapsulated == uid.is_compressed
    assert row.deflated == uid.is_deflated
    assert row.little_endian == uid.is_little_endian
    assert row.implicit_vr == uid.is_implicit_VR


def test_every_other_row_is_one_that_pydicom_may_not_know() -> None:
    assert TRANSFER_SYNTAXES.keys() - {row.uid for row in KNOWN} <= UNKNOWN_TO_PYDICOM
    assert all(TRANSFER_SYNTAXES[uid].encapsulated for uid in uids.syntaxes_of("jpegxl", "deflate"))


def test_every_transfer_syntax_of_files_with_native_frames_is_in_the_table() -> None:
    native = {
        uid
        for uid, (_, kind, _, retired, _) in UID_dictionary.items()
        if kind == "Transfer Syntax" and not retired and not UID(uid).is_compressed
    }
    assert native <= uids.NATIVE
    assert uids.NATIVE - {uids.DEFLATED} == uids.PLAIN_LITTLE | uids.PLAIN_BIG
    assert {uids.EXPLICIT_BIG, uids.GE_BIG_ENDIAN_PIXELS} == uids.PLAIN_BIG


def test_every_video_of_the_standard_is_known_as_one() -> None:
    videos = {
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "Transfer Syntax" and ("MPEG" in name or "HEVC" in name)
    }
    assert videos == uids.syntaxes_of("video")


@pytest.mark.parametrize(
    "row", [row for row in TRANSFER_SYNTAXES.values() if row.encapsulated], ids=lambda row: row.name
)
def test_a_transfer_syntax_is_lossy_unless_its_name_excludes_it(row: TransferSyntax) -> None:
    plain = row.family in ("", "deflate")
    says = "Lossless" in row.name and "Near" not in row.name
    assert row.lossy == (not says and not plain)


@pytest.mark.parametrize("row", SOP_CLASSES.values(), ids=lambda row: row.name)
def test_a_sop_class_has_the_name_that_pydicom_has(row: SopClass) -> None:
    known = UID_dictionary.get(row.uid)
    assert known is None or known[:2] == (row.name, "SOP Class")
    assert uids.image_name(row.uid) == row.name and not uids.may_lack_pixels(row.uid)


# Classes of services and retired numbers without a name.
NO_STORAGE = ("12.77", "40", "200.4", "200.5", "200.6", "201.2", "201.3", "201.4", "201.5", "201.6")


def test_every_storage_class_of_pydicom_has_an_image_or_none() -> None:
    storage = {
        uid: name
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class"
        and ("Storage" in name or uid.startswith("1.2.840.10008.5.1.4.1.1."))
        and "Storage Commitment" not in name
        and uid.removeprefix("1.2.840.10008.5.1.4.1.1.") not in NO_STORAGE
    }
    images = {**_sop_classes.IMAGES, **{row.uid: row.name for row in SOP_CLASSES.values()}}
    assert not images.keys() & _sop_classes.WITHOUT_IMAGE.keys()
    listed = images | _sop_classes.WITHOUT_IMAGE
    assert {uid: listed.get(uid) for uid in storage} == storage
    assert all(uids.image_name(uid) == name for uid, name in images.items())
    assert not any(uids.may_lack_pixels(uid) for uid in images)
    assert all(map(uids.may_lack_pixels, _sop_classes.WITHOUT_IMAGE))


def test_a_name_with_image_in_it_is_that_of_an_image() -> None:
    named = {uid for uid, name in _sop_classes.WITHOUT_IMAGE.items() if "Image" in name}
    assert named == set()
    plain = {name for name in _sop_classes.IMAGES.values() if "Image" not in name}
    assert plain == {
        "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis Storage",
        "Ophthalmic Thickness Map Storage",
        "Corneal Topography Map Storage",
        "DICOS 2D AIT Storage",
        "DICOS 3D AIT Storage",
    }


def test_frames_of_enhanced_and_converted_objects_have_planes_of_their_own() -> None:
    enhanced = {
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and re.search("Enhanced (CT|MR|PET) ", name)
    }
    assert enhanced <= uids.OWN_PLANES
    assert SOP_CLASSES.keys() > uids.PLACED


@pytest.mark.parametrize("kind", ["", ".1", ".2", ".3", ".4"])
def test_secondary_capture_has_one_frame_or_several(kind: str) -> None:
    assert uids.is_secondary_capture("1.2.840.10008.5.1.4.1.1.7" + kind)
    assert not uids.is_secondary_capture("1.2.840.10008.5.1.4.1.1.77.1.1")

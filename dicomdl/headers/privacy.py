"""Additional columns of an index, and the refusal of attributes that can identify a patient.

The index is an allow-list. `scan(attributes=...)` adds further keywords to it. Keywords of the
basic confidentiality profile need ``allow_phi=True``. ``scan(texts=False)`` leaves out the free
texts of the list.
"""

from collections.abc import Sequence
from typing import Final

from dicomdl.errors import UsageError
from dicomdl.headers.attribute import Attribute, snake_case
from dicomdl.headers.frame import Frame, attributes
from dicomdl.headers.requirement import require_pydicom

# Attributes that need allow_phi=True: those of the basic profile (PS3.15 Table E.1-1). They are
# recognized by VR, by group and by words in their keyword, so more are refused than the table
# lists. The VRs are person names, dates and times, and free text, which may contain anything.
_PHI_VRS: Final = frozenset({"PN", "DA", "DT", "TM", "LT", "ST", "UC", "UR", "UT"})
# Columns that people type freely. The option Clean Descriptors (PS3.15 E.3.5) has each of them
# cleaned. Other texts of the index are terms of the standard and names that a device gives.
FREE_TEXTS: Final = (
    "study_description",
    "series_description",
    "protocol_name",
    "contrast_bolus_agent",
)
_PHI_WORDS: Final = (
    "patient",
    "person",
    "physician",
    "operator",
    "performer",
    "requester",
    "institution",
    "address",
    "telephone",
    "accession",
    "station",
    "serial",
    "deviceuid",
    "comments",
    "description",
    "history",
    "allerg",
    "occupation",
    "insurance",
    "medicalrecord",
    "birth",
    "name",
    "studyid",
    "admission",
    "visit",
    "location",
    "identification",
    "reviewer",
    "author",
    "uid",
    "label",
    "trial",
)


def extra_attributes(keywords: Sequence[str], *, allow_phi: bool = False) -> tuple[Attribute, ...]:
    """Return columns for DICOM keywords beyond those of the index, for `scan(attributes=[...])`.

    Parameters
    ----------
    keywords
        DICOM keywords. Those that the index has anyway are ignored.
    allow_phi
        Whether attributes that can identify a patient are allowed.

    Raises
    ------
    UsageError
        A keyword is unknown, or is a sequence or bulk data, or identifies a patient and `allow_phi`
        is False.
    """
    if not keywords:
        return ()
    require_pydicom()
    from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

    known = {attribute.name for attribute in attributes()} | set(Frame.__slots__)
    result = []
    for keyword in dict.fromkeys(keywords):
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise UsageError(
                f"{keyword!r} is not a keyword of the DICOM data dictionary (PS3.6)",
                keyword=keyword,
            )
        name, vr, vm = snake_case(keyword), dictionary_VR(tag), dictionary_VM(tag)
        if name in known:
            continue
        if vr == "SQ" or vr.startswith("O") or vr == "UN":
            raise UsageError(
                f"{keyword} is a {vr}: a column holds text or numbers", keyword=keyword, vr=vr
            )
        identifying = (
            vr in _PHI_VRS
            or tag >> 16 == 0x0010
            or any(word in keyword.lower() for word in _PHI_WORDS)
        )
        if identifying and not allow_phi:
            raise UsageError(
                f"{keyword} can identify a patient: pass allow_phi=True to store it in the index, "
                "and protect the index then",
                keyword=keyword,
            )
        result.append(
            Attribute(name, tag, "XS" if " or " in vr else vr, "select", 1 if vm == "1" else 0)
        )
    return tuple(result)

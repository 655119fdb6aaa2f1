"""headers.privacy"""

from collections.abc import Sequence
from typing import Final

from dicomdl.errors import UsageError
from dicomdl.headers.frame import Attribute, Frame, attributes, snake_case
from dicomdl.headers.requirement import require_pydicom

# Identifying attributes of the basic profile (PS3.15 Table E.1-1) beyond person names and all
# dates and times of birth
# and contact: adding one of these needs allow_phi=True. Whole groups are refused rather than
# listed where possible.
# free text may say anything
_PHI_VRS: Final = frozenset({"PN", "DA", "DT", "TM", "LT", "ST", "UC", "UR", "UT"})
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
    """Columns for DICOM keywords beyond the index's own, as `scan(attributes=[...])` takes them.

    Raises
    ------
    UsageError
        An unknown keyword, a sequence or bulk data, or an identifying attribute without
        ``allow_phi=True``.
    """
    if not keywords:
        return ()
    require_pydicom()
    from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

    own = {attribute.name for attribute in attributes()} | set(Frame.__slots__)
    found = []
    for keyword in dict.fromkeys(keywords):
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise UsageError(
                f"{keyword!r} is not a keyword of the DICOM data dictionary (PS3.6)",
                keyword=keyword,
            )
        name, vr, vm = snake_case(keyword), dictionary_VR(tag), dictionary_VM(tag)
        if name in own:
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
                f"{keyword} can identify a patient: pass allow_phi=True to keep it in the index, and guard the index then",
                keyword=keyword,
            )
        found.append(
            Attribute(name, tag, "XS" if " or " in vr else vr, "select", 1 if vm == "1" else 0)
        )
    return tuple(found)

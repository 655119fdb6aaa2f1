"""headers.uids"""

from typing import Final

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
GE_BIG_ENDIAN_PIXELS: Final = (
    "1.2.840.113619.5.2"  # implicit little endian, but pixels are big endian
)
NATIVE: Final = frozenset(
    {IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, GE_BIG_ENDIAN_PIXELS}
)
NM_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.20"
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
VIDEO_ADVICE: Final = (
    "the pixels are a video (MPEG-2, MPEG-4 or HEVC), which dicomdl does not decode: take it out with pydicom "
    "(pydicom.encaps.generate_frames gives the stream) and decode it with ffmpeg or PyAV"
)
# SOP classes with pixel data that are no images of a patient but maps on them: what `content` calls them.
_CONTENT: Final = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.66.8": "segmentation",  # Height Map Segmentation
    "1.2.840.10008.5.1.4.1.1.30": "parametric_map",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose",
}
# Files of these SOP classes have no pixels by design; every other file with Rows and no pixel data lost them.
_NO_IMAGE_PREFIXES: Final = (
    "88.",
    "11.",
    "66",
    "67",
    "104.",
    "9.",
    "78.",
    "79.",
    "80.",
    "481.3",
    "481.4",
    "481.5",
    "481.6",
    "481.7",
    "481.8",
)
CONTENTS: Final = ("image", *dict.fromkeys(_CONTENT.values()))


def content_of(sop_class_uid: str) -> str:
    """What the pixels of a SOP class are: "image", "segmentation", "dose" or "parametric_map"."""
    return _CONTENT.get(sop_class_uid, "image")


def is_video(transfer_syntax_uid: str) -> bool:
    """Whether the pixels are MPEG-2, MPEG-4 AVC or HEVC (PS3.5 A.4.5 to A.4.8), in one piece or fragmentable (".1")."""
    number = transfer_syntax_uid.removeprefix("1.2.840.10008.1.2.4.").removesuffix(".1")
    return number.isdecimal() and 100 <= int(number) <= 108


def is_image_storage(sop_class_uid: str) -> bool:
    """Whether a SOP class of PS3.4 B.5 stores pixels; private classes do not count."""
    if sop_class_uid in _CONTENT:
        return True
    return sop_class_uid.startswith(_STORAGE) and not sop_class_uid.removeprefix(
        _STORAGE
    ).startswith(_NO_IMAGE_PREFIXES)

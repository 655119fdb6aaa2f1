"""Tables of transfer syntaxes (PS3.5 section 10) and storage SOP classes (PS3.4 B.5).

No other file contains a UID of the standard, but for the list of SOP classes in `_sop_classes`.
Decisions use a constant of this file, or a property of a row.
"""

from typing import Final, Literal, NamedTuple, get_args

from dicomdl.headers import _sop_classes

Family = Literal["", "jpeg", "jpegls", "jpeg2000", "jpegxl", "rle", "deflate", "video", "jpip"]
Content = Literal["image", "segmentation", "parametric_map", "dose"]
CONTENT_KINDS: Final[tuple[Content, ...]] = get_args(Content)


class TransferSyntax(NamedTuple):
    """The coding of the files of one transfer syntax.

    Parameters
    ----------
    uid, name
        UID and name by PS3.6 table A-1.
    family
        The codec family of encapsulated frames; "" for plain samples.
    encapsulated
        Whether frames are stored in items (PS3.5 A.4); otherwise they are native.
    lossy
        Whether the standard allows that decoded samples differ from the original ones.
    little_endian, implicit_vr, deflated
        The coding of the data set.
    little_endian_pixels
        The byte order of native samples.
    """

    uid: str
    name: str
    family: Family = ""
    encapsulated: bool = False
    lossy: bool = False
    little_endian: bool = True
    implicit_vr: bool = False
    deflated: bool = False
    little_endian_pixels: bool = True


class SopClass(NamedTuple):
    """The properties of the images of one storage SOP class.

    Parameters
    ----------
    uid, name
        UID and name by PS3.6 table A-1.
    content
        The meaning of the pixels: an image, or a map on an image.
    own_planes
        Whether every frame has a separate plane (functional groups, PS3.3 A.36 ff.). A file with
        one frame is then treated like a file with many.
    placed
        Whether its images have a position in the patient (PS3.3 A.3, A.4, A.21, A.36, A.38, A.56,
        A.70 to A.72).
    """

    uid: str
    name: str
    content: Content = "image"
    own_planes: bool = False
    placed: bool = False


# Beginning of the UIDs of the standard itself (PS3.6 table A-1). A frame of reference with such a
# UID is that of an atlas (PS3.6 table A-2), and no identity.
STANDARD_ROOT: Final = "1.2.840.10008."
IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
NATIVE_IN_ITEMS: Final = "1.2.840.10008.1.2.1.98"
# Ultrasound, of several frames and of one, and nuclear medicine (PS3.6 table A-1).
RETIRED_STORAGE: Final = (
    "1.2.840.10008.5.1.4.1.1.3",
    "1.2.840.10008.5.1.4.1.1.6",
    "1.2.840.10008.5.1.4.1.1.5",
)
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
GE_BIG_ENDIAN_PIXELS: Final = "1.2.840.113619.5.2"
JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
JPEG_SPECTRAL: Final = "1.2.840.10008.1.2.4.53"
JPEG_PROGRESSIVE: Final = "1.2.840.10008.1.2.4.55"
JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_FIRST_ORDER: Final = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS: Final = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS: Final = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
JPEG_2000: Final = "1.2.840.10008.1.2.4.91"
JPEG_XL_LOSSLESS: Final = "1.2.840.10008.1.2.4.110"
JPEG_XL_OF_JPEG: Final = "1.2.840.10008.1.2.4.111"
JPEG_XL: Final = "1.2.840.10008.1.2.4.112"
HTJ2K_LOSSLESS: Final = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL: Final = "1.2.840.10008.1.2.4.202"
HTJ2K: Final = "1.2.840.10008.1.2.4.203"
RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"
DEFLATED_IN_ITEMS: Final = "1.2.840.10008.1.2.8.1"
_ON_SERVERS: Final = (
    ("94", "JPIP Referenced"),
    ("95", "JPIP Referenced Deflate"),
    ("204", "JPIP HTJ2K Referenced"),
    ("205", "JPIP HTJ2K Referenced Deflate"),
)
# What frames are coded in where a DICOMweb server states a media type alone (PS3.18 8.7.3.3).
SYNTAX_OF_MEDIA: Final = {
    "application/octet-stream": EXPLICIT_LITTLE,
    "image/jpeg": JPEG_LOSSLESS_FIRST_ORDER,
    "image/jls": JPEG_LS_LOSSLESS,
    "image/jp2": JPEG_2000_LOSSLESS,
    "image/jphc": HTJ2K_LOSSLESS,
    "image/jxl": JPEG_XL_LOSSLESS,
    "image/dicom-rle": RLE_LOSSLESS,
}
# MPEG-2, MPEG-4 AVC and HEVC (PS3.5 A.4.5 to A.4.8). All but HEVC also have a fragmentable variant
# (".1").
_VIDEOS: Final = (
    ("100", "MPEG2 Main Profile / Main Level"),
    ("101", "MPEG2 Main Profile / High Level"),
    ("102", "MPEG-4 AVC/H.264 High Profile / Level 4.1"),
    ("103", "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1"),
    ("104", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video"),
    ("105", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video"),
    ("106", "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2"),
    ("107", "HEVC/H.265 Main Profile / Level 5.1"),
    ("108", "HEVC/H.265 Main 10 Profile / Level 5.1"),
)
_CODED: Final = "1.2.840.10008.1.2.4."
VIDEO_ADVICE: Final = (
    "the pixels are a video (MPEG-2, MPEG-4 or HEVC), which dicomdl does not decode: extract the "
    "stream with pydicom (pydicom.encaps.generate_frames) and decode it with ffmpeg or PyAV"
)

JPIP_ADVICE: Final = (
    "the pixels are on a server (JPIP), which dicomdl does not ask: fetch them by Pixel Data "
    "Provider URL (0028,7FE0), or get the object in another transfer syntax"
)


def _encapsulated(
    uid: str, name: str, family: Family = "", *, lossy: bool = False
) -> TransferSyntax:
    return TransferSyntax(uid, name, family, encapsulated=True, lossy=lossy)


TRANSFER_SYNTAXES: Final = {
    row.uid: row
    for row in (
        TransferSyntax(IMPLICIT_LITTLE, "Implicit VR Little Endian", implicit_vr=True),
        TransferSyntax(EXPLICIT_LITTLE, "Explicit VR Little Endian"),
        TransferSyntax(DEFLATED, "Deflated Explicit VR Little Endian", deflated=True),
        TransferSyntax(
            EXPLICIT_BIG,
            "Explicit VR Big Endian",
            little_endian=False,
            little_endian_pixels=False,
        ),
        TransferSyntax(
            GE_BIG_ENDIAN_PIXELS,
            "GE Private Implicit VR Little Endian with Big Endian Pixels",
            implicit_vr=True,
            little_endian_pixels=False,
        ),
        _encapsulated(NATIVE_IN_ITEMS, "Encapsulated Uncompressed Explicit VR Little Endian"),
        _encapsulated(DEFLATED_IN_ITEMS, "Deflated Image Frame Compression", "deflate"),
        _encapsulated(JPEG_BASELINE, "JPEG Baseline (Process 1)", "jpeg", lossy=True),
        _encapsulated(JPEG_EXTENDED, "JPEG Extended (Process 2 and 4)", "jpeg", lossy=True),
        _encapsulated(
            JPEG_SPECTRAL,
            "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)",
            "jpeg",
            lossy=True,
        ),
        _encapsulated(
            JPEG_PROGRESSIVE,
            "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)",
            "jpeg",
            lossy=True,
        ),
        _encapsulated(JPEG_LOSSLESS, "JPEG Lossless, Non-Hierarchical (Process 14)", "jpeg"),
        _encapsulated(
            JPEG_LOSSLESS_FIRST_ORDER,
            "JPEG Lossless, Non-Hierarchical, First-Order Prediction "
            "(Process 14 [Selection Value 1])",
            "jpeg",
        ),
        _encapsulated(JPEG_LS_LOSSLESS, "JPEG-LS Lossless Image Compression", "jpegls"),
        _encapsulated(
            JPEG_LS_NEAR_LOSSLESS,
            "JPEG-LS Lossy (Near-Lossless) Image Compression",
            "jpegls",
            lossy=True,
        ),
        _encapsulated(
            JPEG_2000_LOSSLESS, "JPEG 2000 Image Compression (Lossless Only)", "jpeg2000"
        ),
        _encapsulated(JPEG_2000, "JPEG 2000 Image Compression", "jpeg2000", lossy=True),
        _encapsulated(JPEG_XL_LOSSLESS, "JPEG XL Lossless", "jpegxl"),
        _encapsulated(JPEG_XL_OF_JPEG, "JPEG XL JPEG Recompression", "jpegxl", lossy=True),
        _encapsulated(JPEG_XL, "JPEG XL", "jpegxl", lossy=True),
        _encapsulated(
            HTJ2K_LOSSLESS,
            "High-Throughput JPEG 2000 Image Compression (Lossless Only)",
            "jpeg2000",
        ),
        _encapsulated(
            HTJ2K_LOSSLESS_RPCL,
            "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)",
            "jpeg2000",
        ),
        _encapsulated(HTJ2K, "High-Throughput JPEG 2000 Image Compression", "jpeg2000", lossy=True),
        _encapsulated(RLE_LOSSLESS, "RLE Lossless", "rle"),
        *(_encapsulated(_CODED + number, name, "jpip", lossy=True) for number, name in _ON_SERVERS),
        *(_encapsulated(_CODED + number, name, "video", lossy=True) for number, name in _VIDEOS),
        *(
            _encapsulated(f"{_CODED}{number}.1", f"Fragmentable {name}", "video", lossy=True)
            for number, name in _VIDEOS
            if "HEVC" not in name
        ),
    )
}
NATIVE: Final = frozenset(row.uid for row in TRANSFER_SYNTAXES.values() if not row.encapsulated)
# Syntaxes whose frames are plain samples in the file, so that a part of a frame can be read.
PLAIN_LITTLE: Final = frozenset(
    uid for uid in NATIVE - {DEFLATED} if TRANSFER_SYNTAXES[uid].little_endian_pixels
)
PLAIN_BIG: Final = NATIVE - {DEFLATED} - PLAIN_LITTLE

STANDARD: Final = "1.2.840.10008."
_STORAGE: Final = STANDARD + "5.1.4.1.1."
NM_IMAGE: Final = _STORAGE + "20"
RT_DOSE: Final = _STORAGE + "481.2"
# Detached Study Management, retired: structure sets refer to a study as one of it (PS3.3 C.8.8.5).
STUDY_MANAGEMENT: Final = "1.2.840.10008.3.1.2.3.1"
RT_STRUCTURE_SET: Final = _STORAGE + "481.3"
CT_IMAGE: Final = _STORAGE + "2"
# Classes with the Modality LUT Module (PS3.3 C.11.1), and without a rescale of their own module:
# computed radiography, secondary capture, RT image.
TABLE_IMAGES: Final = frozenset(
    _STORAGE + each for each in ("1", "7", "7.1", "7.2", "7.3", "481.1")
)
# Angiography, fluoroscopy, and the retired class of two planes.
XRAY_IMAGES: Final = frozenset(_STORAGE + each for each in ("12.1", "12.2", "12.3"))
_SECONDARY_CAPTURE: Final = _STORAGE + "7"
# Ultrasound, and hardcopies.
_WITH_TEXT: Final = frozenset(
    (
        *(_STORAGE + end for end in ("3", "3.1", "6", "6.1", "6.2")),
        *(STANDARD_ROOT + end for end in ("5.1.1.29", "5.1.1.30")),
    )
)
SOP_CLASSES: Final = {
    row.uid: row
    for row in (
        SopClass(_STORAGE + "2", "CT Image Storage", placed=True),
        SopClass(_STORAGE + "2.1", "Enhanced CT Image Storage", own_planes=True, placed=True),
        SopClass(
            _STORAGE + "2.2",
            "Legacy Converted Enhanced CT Image Storage",
            own_planes=True,
            placed=True,
        ),
        SopClass(_STORAGE + "4", "MR Image Storage", placed=True),
        SopClass(_STORAGE + "4.1", "Enhanced MR Image Storage", own_planes=True, placed=True),
        SopClass(_STORAGE + "4.3", "Enhanced MR Color Image Storage", own_planes=True, placed=True),
        SopClass(
            _STORAGE + "4.4",
            "Legacy Converted Enhanced MR Image Storage",
            own_planes=True,
            placed=True,
        ),
        SopClass(_STORAGE + "128", "Positron Emission Tomography Image Storage", placed=True),
        SopClass(
            _STORAGE + "128.1",
            "Legacy Converted Enhanced PET Image Storage",
            own_planes=True,
            placed=True,
        ),
        SopClass(_STORAGE + "130", "Enhanced PET Image Storage", own_planes=True, placed=True),
        SopClass(_STORAGE + "6.2", "Enhanced US Volume Storage", own_planes=True),
        SopClass(_STORAGE + "13.1.1", "X-Ray 3D Angiographic Image Storage", own_planes=True),
        SopClass(_STORAGE + "13.1.2", "X-Ray 3D Craniofacial Image Storage", own_planes=True),
        SopClass(_STORAGE + "13.1.3", "Breast Tomosynthesis Image Storage", own_planes=True),
        SopClass(NM_IMAGE, "Nuclear Medicine Image Storage"),
        SopClass(_SECONDARY_CAPTURE, "Secondary Capture Image Storage"),
        SopClass(_STORAGE + "66.4", "Segmentation Storage", "segmentation"),
        SopClass(_STORAGE + "66.7", "Label Map Segmentation Storage", "segmentation"),
        SopClass(_STORAGE + "66.8", "Height Map Segmentation Storage", "segmentation"),
        SopClass(_STORAGE + "30", "Parametric Map Storage", "parametric_map"),
        SopClass(RT_DOSE, "RT Dose Storage", "dose"),
    )
}
CONTENTS: Final = tuple(dict.fromkeys(row.content for row in SOP_CLASSES.values()))
OWN_PLANES: Final = frozenset(row.uid for row in SOP_CLASSES.values() if row.own_planes)
PLACED: Final = frozenset(row.uid for row in SOP_CLASSES.values() if row.placed)
_CONTENT: Final = {row.uid: row.content for row in SOP_CLASSES.values()}


def syntaxes_of(*families: Family) -> frozenset[str]:
    """Return the transfer syntaxes of some codec families."""
    return frozenset(row.uid for row in TRANSFER_SYNTAXES.values() if row.family in families)


def is_lossy(transfer_syntax_uid: str) -> bool:
    """Return whether decoded samples may differ from the original ones."""
    row = TRANSFER_SYNTAXES.get(transfer_syntax_uid)
    return row is not None and row.lossy


def family_of(transfer_syntax_uid: str) -> Family:
    """Return the codec family of a transfer syntax; "" for native and unknown ones."""
    row = TRANSFER_SYNTAXES.get(transfer_syntax_uid)
    return "" if row is None else row.family


def content_of(sop_class_uid: str) -> Content:
    """Return the content of a SOP class: "image", "segmentation", "dose" or "parametric_map"."""
    return _CONTENT.get(sop_class_uid, "image")


def image_name(sop_class_uid: str) -> str:
    """Return the name of a storage SOP class whose objects have pixels by PS3.3; "" for others.

    RT Dose is one of them, although an object of it may have no dose grid.
    """
    row = SOP_CLASSES.get(sop_class_uid)
    return _sop_classes.IMAGES.get(sop_class_uid, "") if row is None else row.name


def may_lack_pixels(sop_class_uid: str) -> bool:
    """Return whether an object without pixels is complete.

    It is for the standard's classes without an image, and for private classes, about which nothing
    is known.
    """
    if sop_class_uid.startswith(STANDARD):
        return sop_class_uid in _sop_classes.WITHOUT_IMAGE
    return is_uid(sop_class_uid)


def is_uid(text: str) -> bool:
    """Return whether a text can be a UID (PS3.5 9.1)."""
    return "." in text and text.replace(".", "").isdigit()


def is_secondary_capture(sop_class_uid: str) -> bool:
    """Return whether a SOP class is Secondary Capture, single-frame or multi-frame."""
    return (sop_class_uid + ".").startswith(_SECONDARY_CAPTURE + ".")


def shows_text(sop_class_uid: str) -> bool:
    """Whether images of a class have text in their pixels as a rule.

    Secondary captures, ultrasound and hardcopies do.
    """
    return is_secondary_capture(sop_class_uid) or sop_class_uid in _WITH_TEXT

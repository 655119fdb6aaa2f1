"""Second decoders per transfer syntax, and how independent they are of those of dicomdl.

Two builds of one library can be wrong together, so a report names the relation of each pair.
"""

from collections.abc import Mapping
from typing import Final, Literal

from dicomdl.errors import UnsupportedSyntax
from dicomdl.headers import uids
from dicomdl.jobs.second_decoder import Second
from dicomdl.pixels import decoders as codecs
from dicomdl.pixels.codestreams import FrameLike

Relation = Literal["independent", "related", "same library"]
_PYDICOM: Final = Second("pydicom", "pydicom", "pydicom")
_LIBJPEG: Final = Second("pydicom/pylibjpeg-libjpeg", "libjpeg (Richter)", "pydicom", "pylibjpeg")
# pydicom does not know the retired syntaxes: the codestream is declared as extended JPEG.
_EXTENDED: Final = _LIBJPEG._replace(decode_as=uids.JPEG_EXTENDED)
_OPENJPEG: Final = Second("pydicom/pylibjpeg-openjpeg", "OpenJPEG", "pydicom", "pylibjpeg")
_PYJPEGLS: Final = Second("pydicom/pyjpegls", "CharLS", "pydicom", "pyjpegls")
_PILLOW: Final = Second("pydicom/pillow", "OpenJPEG", "pydicom", "pillow")
_SOF3: Final = Second(
    "pydicom + imagecodecs.jpegsof3", "jpegsof3", "imagecodecs", "jpegsof3_decode"
)
_OPENJPH: Final = Second("pydicom + imagecodecs.htj2k", "OpenJPH", "imagecodecs", "htj2k_decode")
_PYDICOM_RLE: Final = Second("pydicom/pydicom", "pydicom", "pydicom", "pydicom")
_RLE: Final = Second("pydicom/pylibjpeg-rle", "pylibjpeg-rle", "pydicom", "pylibjpeg")
_GDCM_JPEG: Final = Second("pydicom + SimpleITK (GDCM)", "libjpeg (IJG)", "simpleitk", colour="rgb")
_GDCM_CHARLS: Final = _GDCM_JPEG._replace(library="CharLS")
_GDCM_OPENJPEG: Final = _GDCM_JPEG._replace(library="OpenJPEG")
# Libraries behind the decoders of dicomdl. libjpeg-turbo is derived from IJG's libjpeg, and both
# have their lossless part from the same patch.
_LIBRARIES: Final = {
    "imagecodecs.jpeg8_decode": "libjpeg-turbo",
    "imagecodecs.jpegls_decode": "CharLS",
    "imagecodecs.jpeg2k_decode": "OpenJPEG",
    "imagecodecs.htj2k_decode": "OpenJPH",
    "imagecodecs.jpegxl_decode": "libjxl",
    "imagecodecs.dicomrle_decode": "imagecodecs",
    "imagecodecs.jpegsof3_decode": "jpegsof3",
}
_RELATED: Final = frozenset({frozenset({"libjpeg-turbo", "libjpeg (IJG)"})})
# Most independent first. JPEG XL is absent: libjxl is its only decoder.
_SECONDS: Final[Mapping[str, tuple[Second, ...]]] = {
    uids.IMPLICIT_LITTLE: (_PYDICOM,),
    uids.EXPLICIT_LITTLE: (_PYDICOM,),
    uids.EXPLICIT_BIG: (_PYDICOM,),
    uids.DEFLATED: (_PYDICOM,),
    uids.JPEG_BASELINE: (_LIBJPEG, _GDCM_JPEG),
    uids.JPEG_EXTENDED: (_LIBJPEG, _GDCM_JPEG),
    uids.JPEG_SPECTRAL: (_EXTENDED, _GDCM_JPEG),
    uids.JPEG_PROGRESSIVE: (_EXTENDED, _GDCM_JPEG),
    uids.JPEG_LOSSLESS: (_LIBJPEG, _SOF3, _GDCM_JPEG),
    uids.JPEG_LOSSLESS_FIRST_ORDER: (_LIBJPEG, _SOF3, _GDCM_JPEG),
    uids.JPEG_LS_LOSSLESS: (_LIBJPEG, _PYJPEGLS, _GDCM_CHARLS),
    uids.JPEG_LS_NEAR_LOSSLESS: (_LIBJPEG, _PYJPEGLS, _GDCM_CHARLS),
    uids.JPEG_2000_LOSSLESS: (_OPENJPEG, _PILLOW, _GDCM_OPENJPEG),
    uids.JPEG_2000: (_OPENJPEG, _PILLOW, _GDCM_OPENJPEG),
    uids.HTJ2K_LOSSLESS: (_OPENJPH, _OPENJPEG),
    uids.HTJ2K_LOSSLESS_RPCL: (_OPENJPH, _OPENJPEG),
    uids.HTJ2K: (_OPENJPH, _OPENJPEG),
    uids.RLE_LOSSLESS: (_PYDICOM_RLE, _RLE),
}


def seconds_for(source: FrameLike) -> tuple[Second, ...]:
    """Return the second decoders for a frame, most independent first; () if there is none."""
    return _SECONDS.get(source.transfer_syntax_uid, ())


def first_decoder(transfer_syntax_uid: str) -> str:
    """Return the name of the first decoder of dicomdl for a transfer syntax.

    "" for native frames and unknown syntaxes.
    """
    try:
        return codecs.find_syntax(transfer_syntax_uid).decoders[0].name
    except UnsupportedSyntax:
        return ""


def relation(second: Second, transfer_syntax_uid: str) -> Relation:
    """Return how far a second decoder shares code with the first decoder of dicomdl."""
    ours = _LIBRARIES.get(first_decoder(transfer_syntax_uid), "")
    if second.library == ours:
        return "same library"
    return "related" if frozenset({ours, second.library}) in _RELATED else "independent"


def first_name(uid: str) -> str:
    """Return the name of the first decoder for reports: "dicomdl/NAME", or "dicomdl" for native."""
    name = first_decoder(uid)
    return f"dicomdl/{name}" if name else "dicomdl"

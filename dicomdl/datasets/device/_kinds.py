"""Kinds of frames that a decoder treats alike, and the tolerance between two correct decoders."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dicomdl.headers import uids
from dicomdl.pixels import decoders as codecs
from dicomdl.pixels.bits import HeaderBits
from dicomdl.pixels.coded import read_codestream
from dicomdl.pixels.codestreams import (
    FrameLike,
    coded_space,
    jpeg_segments,
    main_header,
)
from dicomdl.pixels.options import FREE_FRAME_BYTES, require_justified
from dicomdl.pixels.stored import frame_shape, header_bits, named

if TYPE_CHECKING:
    from torch import Tensor

_DCT: Final = frozenset({uids.JPEG_BASELINE, uids.JPEG_EXTENDED})
_JPEG: Final = _DCT | {uids.JPEG_LOSSLESS, uids.JPEG_LOSSLESS_FIRST_ORDER}
_JPEG_2000: Final = uids.syntaxes_of("jpeg2000")
# NVIMGCODEC_DEVICE_CPU_ONLY, which the Python package exports from version 0.9.
CPU_ONLY: Final = -99999


@dataclass(frozen=True, slots=True)
class Kind:
    """The properties of frames that choose the paths of a decoder.

    If a decoder is correct for some frames of a kind, it is trusted for the others.

    Attributes
    ----------
    transfer_syntax_uid, bits_allocated, samples_per_pixel, photometric_interpretation
        As in the header.
    bits_stored, high_bit, pixel_representation
        As in the header.
    precision
        Bits per sample in the codestream.
    space
        The photometric interpretation of the decoded samples; "" for one sample per pixel.
    coding
        The coding options that the codestream names (see `_coding`).
    """

    transfer_syntax_uid: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    precision: int
    samples_per_pixel: int
    photometric_interpretation: str
    space: str
    coding: str

    @property
    def header_bits(self) -> HeaderBits:
        """The bits of a sample as the header declares them."""
        signed = self.pixel_representation == 1
        return HeaderBits(self.bits_allocated, self.bits_stored, self.high_bit, signed)

    @property
    def lossy(self) -> bool:
        """Whether two correct decoders may differ."""
        return uids.is_lossy(self.transfer_syntax_uid)

    @property
    def to_rgb(self) -> bool:
        """Whether the device converts luminance and chrominance to RGB."""
        return self.space.startswith("YBR")

    @property
    def tolerance(self) -> int:
        """The largest difference between device and CPU in one sample.

        - Lossless: 0.
        - JPEG 2000: 1. Its wavelets are computed in float32, whose error shows only if it changes a
          rounding.
        - JPEG: 2. Each of the two inverse DCTs may be off by 1 (IEEE 1180).
        - JPEG converted to RGB: 6. Blue has 1 x luminance and 1.772 x chrominance: 2 + 3.5, rounded
          up.
        """
        if not self.lossy:
            return 0
        return 1 if self.transfer_syntax_uid in _JPEG_2000 else 6 if self.to_rgb else 2


def examine(source: FrameLike) -> tuple[Kind, bytes] | None:
    """Return the kind and the codestream of a frame, after the checks before every decoder.

    The result is None for a frame that only the CPU reads.
    """
    uid, samples = source.transfer_syntax_uid, source.samples_per_pixel
    small = (
        source.bits_allocated in (8, 16) and samples in (1, 3) and source.rows * source.columns > 0
    )
    if uid not in _JPEG | _JPEG_2000 or not small or source.coded_rows or source.float_pixels:
        return None
    with named(source):
        require_justified(
            math.prod(frame_shape(source)) * source.bits_allocated // 8,
            [source],
            FREE_FRAME_BYTES,
            None,
        )
        stream = read_codestream(source)
        facts, stream = codecs.inspected(codecs.find_syntax(uid), stream, source, None)
    space = coded_space(facts, source)
    rgb_of_jpeg = uid in _DCT and facts.precision == 8 and space in ("YBR_FULL", "YBR_FULL_422")
    if samples == 3 and not (space == "RGB" or rgb_of_jpeg):
        # The device has no formula equal to the CPU's for other luminance and chrominance.
        return None
    bits = header_bits(source)
    header = (
        uid,
        bits.allocated,
        bits.stored,
        bits.high,
        source.pixel_representation,
        facts.precision,
        samples,
    )
    coding = _coding(stream, uid)
    return Kind(
        *header, source.photometric_interpretation, space if samples == 3 else "", coding
    ), stream


def _coding(stream: bytes, uid: str) -> str:
    """Return the options in the headers of a codestream that choose a decoder's paths.

    Each option is one word of the result.
    """
    if uid in _JPEG:
        words = [marker + part for marker, part in _jpeg_options(stream)]
        return " ".join(
            word for word, before in zip(words, ["", *words], strict=False) if word != before
        )
    start = stream.find(b"\xff\x4f\xff\x51")
    size = stream[start + 4 : start + 4 + int.from_bytes(stream[start + 4 : start + 6], "big")]
    tiled = size[4:12] != size[20:28] or size[12:20] != size[28:36]
    words = ["jp2" if start else "j2k", *(["tiled"] if tiled else []), f"SIZ{size[36:].hex()}"]
    # The markers CAP, COD and COC declare wavelet, blocks, progression and component transform
    # (ITU-T T.800 A.6).
    header = main_header(stream, start + 4 + len(size))
    return " ".join(
        words
        + [f"{marker:02X}{part.hex()}" for marker, part in header if marker in (0x50, 0x52, 0x53)]
    )


def _jpeg_options(stream: bytes) -> Iterator[tuple[str, str]]:
    """Yield the markers up to the first scan, in order, with their options (ITU-T T.81 B.2).

    The options are sampling factors, predictor and point transform.
    """
    for marker, segment in jpeg_segments(stream):
        if marker in (0xE0, 0xEE, 0xC4, 0xCC, 0xDB, 0xDD):
            yield f"{marker:02X}", ""
        elif 0xC0 <= marker <= 0xCF:
            yield f"{marker:02X}", segment[7::3].hex()
        elif marker == 0xDA:
            yield "DA", segment[:1].hex() + segment[-3:].hex()


def color_spec(kind: Kind) -> str:
    """Return the colour specification for which only YBR is converted, to RGB.

    nvImageCodec treats every JPEG with three components as YCbCr.
    """
    if kind.samples_per_pixel == 3 and kind.transfer_syntax_uid in _JPEG:
        return "SRGB" if kind.to_rgb else "SYCC"
    return "UNCHANGED"


def misfit_of(image: "Tensor", source: FrameLike) -> str:
    """Return the reason why an image cannot hold the frame, or "" if it can.

    It must be (rows, columns, samples) integers, no wider than BitsAllocated.
    """
    expected = (source.rows, source.columns, source.samples_per_pixel)
    name = str(image.dtype).removeprefix("torch.")
    width = {"uint8": 8, "int8": 8, "uint16": 16, "int16": 16}.get(name, 64)
    if tuple(image.shape) in (expected, frame_shape(source)) and width <= source.bits_allocated:
        return ""
    given = f"{name} of {tuple(image.shape)}"
    return f"nvImageCodec gives {given} for {source.bits_allocated} bits of {expected}"


def difference_of(values: "Tensor", truth: "Tensor", kind: Kind) -> str:
    """Return a text on how the device differs from the CPU, or "" within the tolerance.

    The mean difference may be at most 0.5, so that lossy frames are not off everywhere.
    """
    import torch

    errors = (values.to(torch.int32) - truth.to(torch.int32)).abs_()
    largest, average = int(errors.max()), float(errors.to(torch.float64).mean())
    if largest <= kind.tolerance and average <= 0.5:
        return ""
    return (
        f"differs from the CPU by {largest}, on average by {average:.3g}, where {kind.tolerance} "
        "is allowed"
    )


def is_flat(values: "Tensor") -> bool:
    """Return whether all values are equal."""
    low, high = values.aminmax()
    return bool(low == high)

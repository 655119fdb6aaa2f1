"""Kinds of frames: what a decoder treats alike, and how much two right ones may differ."""

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
    check_facts,
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
CPU_ONLY: Final = -99999  # NVIMGCODEC_DEVICE_CPU_ONLY, which Python sees from 0.9 on


@dataclass(frozen=True, slots=True)
class Kind:
    """What decoders treat alike: the frames for which one's being right speaks for the others.

    `bits_stored`, `high_bit` and `pixel_representation` are the header's, `precision` the
    codestream's. `space` is the photometric interpretation of the decoded samples. `coding` lists
    the coding options that the codestream names (see `_coding`).
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
        """What the header says of a sample."""
        signed = self.pixel_representation == 1
        return HeaderBits(self.bits_allocated, self.bits_stored, self.high_bit, signed)

    @property
    def lossy(self) -> bool:
        """Whether two right decoders may differ."""
        return uids.is_lossy(self.transfer_syntax_uid)

    @property
    def to_rgb(self) -> bool:
        """Whether luminance and chrominance become RGB, which the device does itself."""
        return self.space.startswith("YBR")

    @property
    def tolerance(self) -> int:
        """By how much the device may differ from the CPU in one sample.

        Lossless: not at all. JPEG 2000: 1, since its wavelets are computed in float32, whose error
        only shows where it changes a rounding. JPEG: 2, since an inverse DCT may be off by 1 (IEEE
        1180), on either side. Where those become RGB, blue has 1 x luminance and 1.772 x
        chrominance: 2 + 3.5, rounded up.
        """
        if not self.lossy:
            return 0
        return 1 if self.transfer_syntax_uid in _JPEG_2000 else 6 if self.to_rgb else 2


def examine(source: FrameLike) -> tuple[Kind, bytes] | None:
    """The kind and the codestream of a frame, after the checks that come before every decoder.

    None for what the CPU reads anyway.
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
        facts = codecs.find_syntax(uid).inspect(stream)
        check_facts(facts, source, len(stream))
    space = coded_space(facts, source)
    rgb_of_jpeg = uid in _DCT and facts.precision == 8 and space in ("YBR_FULL", "YBR_FULL_422")
    if samples == 3 and not (space == "RGB" or rgb_of_jpeg):
        return None  # no device has our formula for other luminance and chrominance
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
    """The options that a codestream's headers name, which choose a decoder's paths.

    One word each.
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
    # CAP, COD, COC: wavelet, blocks, progression, component transform (ITU-T T.800 A.6).
    header = main_header(stream, start + 4 + len(size))
    return " ".join(
        words
        + [f"{marker:02X}{part.hex()}" for marker, part in header if marker in (0x50, 0x52, 0x53)]
    )


def _jpeg_options(stream: bytes) -> Iterator[tuple[str, str]]:
    """Markers up to the first scan in their order, with sampling factors, predictor and point transform; ITU-T T.81 B.2."""
    for marker, segment in jpeg_segments(stream):
        if marker in (0xE0, 0xEE, 0xC4, 0xCC, 0xDB, 0xDD):
            yield f"{marker:02X}", ""
        elif 0xC0 <= marker <= 0xCF:
            yield f"{marker:02X}", segment[7::3].hex()
        elif marker == 0xDA:
            yield "DA", segment[:1].hex() + segment[-3:].hex()


def color_spec(kind: Kind) -> str:
    """What to ask for so that no colour is converted but YBR to RGB.

    NvImageCodec takes every JPEG of three components for YCbCr.
    """
    if kind.samples_per_pixel == 3 and kind.transfer_syntax_uid in _JPEG:
        return "SRGB" if kind.to_rgb else "SYCC"
    return "UNCHANGED"


def misfit_of(image: "Tensor", source: FrameLike) -> str:
    """Why an image cannot hold the frame, "" when it can.

    (rows, columns, samples) of integers no wider than BitsAllocated.
    """
    expected = (source.rows, source.columns, source.samples_per_pixel)
    name = str(image.dtype).removeprefix("torch.")
    width = {"uint8": 8, "int8": 8, "uint16": 16, "int16": 16}.get(name, 64)
    if tuple(image.shape) in (expected, frame_shape(source)) and width <= source.bits_allocated:
        return ""
    return f"nvImageCodec gives {name} of {tuple(image.shape)} for {source.bits_allocated} bits of {expected}"


def difference_of(values: "Tensor", truth: "Tensor", kind: Kind) -> str:
    """How the device differs from the CPU, "" where it is right.

    Lossy ones may not be off all over the frame.
    """
    import torch

    apart = (values.to(torch.int32) - truth.to(torch.int32)).abs_()
    largest, average = int(apart.max()), float(apart.to(torch.float64).mean())
    if largest <= kind.tolerance and average <= 0.5:
        return ""
    return f"differs from the CPU by {largest}, on average by {average:.3g}, where {kind.tolerance} is allowed"


def is_flat(values: "Tensor") -> bool:
    low, high = values.aminmax()
    return bool(low == high)

"""Decoding of compressed frames, from a codestream to samples; the door to all codecs.

The codecs are those of imagecodecs, Pillow and pydicom's plugins. A codestream is inspected before
it is decoded, because decoders cannot be trusted with damage: libjpeg-turbo and pylibjpeg-libjpeg
return wrong pixels for a truncated lossless JPEG frame without an error. gdcm is never used, since
it aborts the process on damaged frames (41 of 427 mutated JPEG frames). The one entry, `decode`,
takes and returns plain values, so that it could run in a process of its own. The caller interprets
the samples (BitsStored, sign).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DecodeError, PixelError, TruncatedPixels, UnsupportedSyntax
from dicomdl.geometry.grid import halved
from dicomdl.headers import uids
from dicomdl.headers.requirement import require_pydicom
from dicomdl.pixels.codestreams import (
    Codestream,
    FrameLike,
    check_facts,
    coded_space,
    halves_alike,
    inspect_jpeg,
    inspect_jpeg2000,
    inspect_jpegxl,
    inspect_rle,
    without_rest,
)
from dicomdl.pixels.options import FREE_FRAME_BYTES, require_justified
from dicomdl.storage.sources import truncated


class Coded(NamedTuple):
    """Samples of one compressed frame, with facts about them from the codestream.

    `samples` has the shape of the frame and an integer dtype chosen by the codec; it lies in the
    `out` of `decode` where that fits. `space` is the photometric interpretation of the samples.
    `precision` is the number of bits per coded sample, 0 where the format does not declare it (RLE,
    JPEG XL). `bytewise` samples are those of a native frame; `lossy` samples are not exact.
    `reduced` is the number of halvings of rows and columns during decoding.
    """

    samples: Values
    space: str
    precision: int
    bytewise: bool
    lossy: bool
    reduced: int = 0


class Job(NamedTuple):
    """One codestream to decode, into `out` where the codec can.

    `rgb` requests RGB from a decoder that `converts`; `reduce` is the number of halvings of rows
    and columns.
    """

    stream: bytes
    source: FrameLike
    facts: Codestream
    out: Values | None = None
    rgb: bool = False
    reduce: int = 0
    threads: int = 1


class Decoder(NamedTuple):
    """One way to decode. `decode` returns the filled `out` of its job, or a new array."""

    name: str
    decode: Callable[[Job], Values]
    converts: bool = False


class Syntax(NamedTuple):
    """Inspection and decoders of one transfer syntax, the best decoder first.

    `bytewise` samples are those of a native frame. `reducers` decode only lower resolutions.
    """

    inspect: Callable[[bytes], Codestream]
    decoders: tuple[Decoder, ...]
    bytewise: bool = False
    reducers: tuple[Decoder, ...] = ()


# --- one frame ------------------------------------------------------------------------------------


def decode(
    stream: bytes,
    source: FrameLike,
    out: Values | None = None,
    *,
    rgb: bool = False,
    reduce: int = 0,
    threads: int = 1,
    max_bytes: int | None = None,
) -> Coded:
    """Decode the samples of one compressed frame.

    Parameters
    ----------
    stream
        The frame's codestream, as `join_fragments` returns it.
    source
        Facts from the header; a codestream that contradicts them is refused before it is decoded.
    out
        C-contiguous array of the frame's shape with BitsAllocated bits, to decode into where the
        codec can. Its content is undefined afterwards unless `Coded.samples` lies in it. It is not
        used with `reduce`.
    rgb
        Request the conversion of YBR_FULL of 8 bits to RGB from a codec that can, which
        libjpeg-turbo does in passing; `Coded.space` is the result. The codec rounds coefficients to
        16 bits: green is one off for 34 of the 65,536 pairs of chrominances.
    reduce
        Number of halvings of rows and columns, where the codestream holds the lower resolution
        (JPEG 2000); `Coded.reduced` is the number done.
    threads
        Threads within the codec, where it has any (JPEG 2000).
    max_bytes
        Memory that the samples and the buffers of a decoder may take; see `require_justified`.

    Returns
    -------
    Coded
        Samples and facts about them.

    Raises
    ------
    TruncatedPixels
        The codestream ends too early.
    DecodeError
        The codestream is damaged or contradicts the header.
    TooLarge
        A decoder would hold more than the bytes of the frame justify.
    UnsupportedSyntax
        There is no decoder for the transfer syntax.
    """
    syntax = find_syntax(source.transfer_syntax_uid)
    lossy = uids.is_lossy(source.transfer_syntax_uid)
    facts, stream = inspected(syntax, stream, source, max_bytes)
    if syntax.bytewise:
        _check_rle(facts.segments, source, len(stream))
    space = coded_space(facts, source)
    reduce = (
        min(reduce, facts.levels)
        if reduce and syntax.reducers and halves_alike(facts, source)
        else 0
    )
    # Lossless JPEG converts no colours.
    rgb = rgb and lossy and space.startswith("YBR_FULL") and facts.precision == 8
    job = Job(stream, source, facts, out, rgb, threads=threads)
    samples, decoder = (
        _decode_reduced(syntax, job._replace(out=None, reduce=reduce)) if reduce else (None, None)
    )
    if samples is None or decoder is None:
        reduce = 0
        samples, decoder = _decode(syntax.decoders, job)
    return Coded(
        samples,
        "RGB" if rgb and decoder.converts else space,
        facts.precision,
        syntax.bytewise,
        lossy,
        reduce,
    )


def inspected(
    syntax: "Syntax", stream: bytes, source: FrameLike, max_bytes: int | None
) -> tuple[Codestream, bytes]:
    """Return the facts of a codestream, and the stream up to its end; refuse it if it must be.

    Raises
    ------
    DecodeError, TruncatedPixels
        The codestream is damaged or contradicts the header.
    TooLarge
        A decoder would hold more than the bytes of the frame justify.
    """
    facts = syntax.inspect(stream)
    stream = without_rest(stream, facts)
    check_facts(facts, source, len(stream))
    if facts.buffered_bytes:
        samples = facts.rows * facts.columns * facts.samples * -(-facts.precision // 8)
        needed = samples + facts.buffered_bytes
        require_justified(needed, [source], FREE_FRAME_BYTES, max_bytes)
    return facts, stream


def _decode_reduced(syntax: Syntax, job: Job) -> tuple[Values, Decoder] | tuple[None, None]:
    """Decode a lower resolution; (None, None) if no decoder can.

    The full resolution has better decoders, whose error is then reported.
    """
    try:
        return _decode(syntax.reducers, job)
    except PixelError:
        return None, None


def find_syntax(transfer_syntax_uid: str) -> Syntax:
    """Return the decoders of a transfer syntax; raise UnsupportedSyntax if it has none."""
    syntax = _SYNTAXES.get(transfer_syntax_uid)
    if syntax is None:
        raise _unsupported(transfer_syntax_uid)
    return syntax


def _check_rle(segments: int, source: FrameLike, stream_bytes: int) -> None:
    """Require one segment per byte of a pixel (PS3.5 G.2), and enough bytes for the frame.

    Two coded bytes expand to at most 128.
    """
    expected = source.samples_per_pixel * source.bits_allocated // 8
    if segments != expected:
        raise DecodeError(
            f"RLE needs {expected} segments, found {segments}",
            expected_segments=expected,
            found_segments=segments,
        )
    if 64 * stream_bytes < source.rows * source.columns * segments:
        raise TruncatedPixels(
            f"{stream_bytes} bytes of RLE cannot hold the frame", found_bytes=stream_bytes
        )


def _decode(decoders: tuple[Decoder, ...], job: Job) -> tuple[Values, Decoder]:
    """Return the result of the first decoder that can, and that decoder.

    The error contains the reasons of all decoders if none can.
    """
    reasons = []
    missing = 0
    cut: TruncatedPixels | None = None
    for decoder in decoders:
        try:
            return _checked(decoder.decode(job), job), decoder
        except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
            raise
        except ImportError:
            missing += 1
            reasons.append(f"{decoder.name} is not installed")
        except TruncatedPixels as error:
            # Every decoder would miss the same bytes.
            cut = error
            reasons.append(f"{decoder.name}: {error}")
        except BaseException as error:
            # Rust decoders panic with a BaseException, which would kill a DataLoader worker.
            reasons.append(f"{decoder.name}: {_reason(error)}")
    if missing == len(decoders):
        raise _unsupported(job.source.transfer_syntax_uid, f": {'; '.join(reasons)}")
    if cut is not None:
        raise cut
    raise DecodeError(
        f"no decoder can read the frame: {'; '.join(reasons)}", reasons=tuple(reasons)
    )


def _reason(error: BaseException) -> str:
    """Return a decoder's error, with its message only if it is ours or imagecodecs'.

    Messages of pydicom quote values, and values may identify a person.
    """
    quotable = isinstance(error, DecodeError) or type(error).__module__.startswith("imagecodecs")
    return f"{type(error).__name__}: {str(error)[:200]}" if quotable else type(error).__name__


def _checked(decoded: Values, job: Job) -> Values:
    """Return the decoded integers in the shape of the frame, no wider than BitsAllocated.

    Anything else raises a DecodeError with the shape or dtype found.
    """
    source = job.source
    shape: tuple[int, ...] = (
        halved(source.rows, job.reduce),
        halved(source.columns, job.reduce),
        source.samples_per_pixel,
    )
    if source.samples_per_pixel == 1:
        shape = shape[:2]
        decoded = decoded[..., 0] if decoded.shape == (*shape, 1) else decoded
    if decoded.shape != shape:
        raise DecodeError(
            f"expected shape {shape}, decoded {decoded.shape}",
            expected_shape=shape,
            found_shape=decoded.shape,
        )
    if decoded.dtype.kind not in "iu" or 8 * decoded.itemsize > max(8, source.bits_allocated):
        raise DecodeError(
            f"decoded {decoded.dtype}, BitsAllocated is {source.bits_allocated}",
            bits_allocated=source.bits_allocated,
        )
    return decoded


def _unsupported(uid: str, reasons: str = "") -> UnsupportedSyntax:
    """Return the error for a transfer syntax without a decoder."""
    family = uids.family_of(uid)
    if family == "video":
        text = uids.VIDEO_ADVICE
    elif family == "jpip":
        text = "the pixels are on a JPIP server, not in the file"
    else:
        name = uid if uid.replace(".", "").isdecimal() else "(not a UID)"
        text = f"no decoder for the transfer syntax {name}{reasons}"
    return UnsupportedSyntax(text, transfer_syntax_uid=uid)


# --- decoders -------------------------------------------------------------------------------------


def _target(job: Job) -> Values | None:
    """Return the array to fill as the codec would type it, so that it decodes in place.

    The result is None where the codec uses another width.
    """
    width = 1 if job.facts.precision <= 8 else 2 if job.facts.precision <= 16 else 4
    if job.out is None or job.out.itemsize != width:
        return None
    return job.out.view(f"{'i' if job.facts.signed else 'u'}{width}")


def _decode_jpeg(job: Job) -> Values:
    """Decode JPEG of any process, lossless ones included."""
    import imagecodecs

    # With equal colour spaces, libjpeg-turbo returns the components as coded and ignores its guess
    # from the markers.
    space = {3: "YCBCR", 4: "CMYK"}.get(job.source.samples_per_pixel)
    result = "RGB" if job.rgb else space
    decoded: Values = imagecodecs.jpeg8_decode(
        job.stream, colorspace=space, outcolorspace=result, out=_target(job)
    )
    return decoded


def _decode_jpegls(job: Job) -> Values:
    """Decode JPEG-LS."""
    import imagecodecs

    decoded: Values = imagecodecs.jpegls_decode(job.stream, out=_target(job))
    return decoded


def _decode_jpeg2000(job: Job) -> Values:
    """Decode JPEG 2000 and HTJ2K."""
    import imagecodecs

    decoded: Values = imagecodecs.jpeg2k_decode(
        job.stream, numthreads=job.threads, out=_target(job)
    )
    return decoded


def _decode_jpeg2000_reduced(job: Job) -> Values:
    """Decode a lower resolution of JPEG 2000 and HTJ2K."""
    import io

    # The class of one format is used, because Image.open would try others, too.
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

    image = Jpeg2KImageFile(io.BytesIO(job.stream))
    image.reduce = job.reduce
    # Pillow rounds sizes to the nearest, OpenJPEG rounds them up. For these sizes, both agree.
    columns, rows = image.size
    image._size = (
        halved(columns, job.reduce) << job.reduce,
        halved(rows, job.reduce) << job.reduce,
    )
    samples: Values = np.array(image)
    precision = job.facts.precision
    # Pillow makes samples unsigned and shifts them to the top of 8 or 16 bits.
    if job.source.samples_per_pixel == 1:
        np.right_shift(samples, 8 * samples.itemsize - precision, out=samples)
    if not job.facts.signed:
        return samples
    # The difference is modulo the width of the dtype.
    np.subtract(samples, samples.dtype.type(1 << precision - 1), out=samples)
    return samples.view(f"i{samples.itemsize}")


def _decode_jpegxl(job: Job) -> Values:
    """Decode JPEG XL."""
    import imagecodecs

    decoded: Values = imagecodecs.jpegxl_decode(job.stream, numthreads=1)
    return decoded


def _decode_rle(job: Job) -> Values:
    """Decode RLE, plane by plane."""
    import imagecodecs

    source = job.source
    dtype = np.dtype(f"u{source.bits_allocated // 8}")
    one_plane = source.samples_per_pixel == 1
    if one_plane and job.out is not None:
        planes = job.out.view(dtype)
    else:
        planes = np.empty(
            (source.samples_per_pixel, source.rows, source.columns)[one_plane:], dtype
        )
    decoded = imagecodecs.dicomrle_decode(
        job.stream, dtype.str, out=planes.reshape(-1).view(np.uint8).data
    )
    if len(decoded) != planes.nbytes:
        raise truncated(planes.nbytes, len(decoded))
    if one_plane:
        return planes
    pixels = (
        np.empty((source.rows, source.columns, source.samples_per_pixel), dtype)
        if job.out is None
        else job.out.view(dtype)
    )
    # A copy per plane is three times as fast as one of all planes.
    for sample, plane in enumerate(planes):
        pixels[..., sample] = plane
    return pixels


def _decode_by_pydicom(job: Job, *, plugin: str) -> Values:
    """Decode by one plugin of pydicom, which gets the stream as an encapsulated frame."""
    require_pydicom()
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(job.source.transfer_syntax_uid)
    if plugin not in decoder.available_plugins:
        raise ImportError(plugin)
    if plugin == "pillow" and job.facts.adobe:
        raise DecodeError("Pillow would convert the colours of this frame by itself")
    stream = job.stream + b"\0" * (len(job.stream) % 2)
    items = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + len(stream).to_bytes(4, "little") + stream
    names = (
        "rows",
        "columns",
        "samples_per_pixel",
        "photometric_interpretation",
        "planar_configuration",
    )
    bits = ("bits_allocated", "bits_stored", "pixel_representation")
    options: dict[str, Any] = {name: getattr(job.source, name) for name in names + bits}
    options |= {"number_of_frames": 1, "pixel_keyword": "PixelData"}
    return decoder.as_array(items, index=0, raw=True, decoding_plugin=plugin, **options)[0]


def _pydicom(*plugins: str) -> tuple[Decoder, ...]:
    """Return decoders for some plugins of pydicom."""
    return tuple(
        Decoder(f"pydicom's plugin {plugin}", partial(_decode_by_pydicom, plugin=plugin))
        for plugin in plugins
    )


# jpeg8_decode is safe on 15,000 damaged frames; ljpeg and jpegsof3 are not.
_JPEG: Final = Decoder("imagecodecs.jpeg8_decode", _decode_jpeg, converts=True)
_JPEGLS: Final = Decoder("imagecodecs.jpegls_decode", _decode_jpegls)
_JPEG2000: Final = Decoder("imagecodecs.jpeg2k_decode", _decode_jpeg2000)
_REDUCED: Final = (Decoder("Pillow", _decode_jpeg2000_reduced),)
_JPEGXL: Final = Decoder("imagecodecs.jpegxl_decode", _decode_jpegxl)
_RLE: Final = Decoder("imagecodecs.dicomrle_decode", _decode_rle)
# Decoders left out on purpose: imagecodecs.htj2k_decode (OpenJPH 0.26 takes 1.4 ms where OpenJPEG
# takes 2.6, but 23 of 3,000 mutated frames hung and 6 killed the process, and it refused only 971
# of 3,000 frames damaged behind the header, OpenJPEG 2,621); pylibjpeg for JPEG-LS (wrong pixels
# for damaged frames, one hang in 1,500) and for RLE (366 panics in 1,500).
_SYNTAXES: Final = {
    uids.JPEG_BASELINE: Syntax(inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg", "pillow"))),
    uids.JPEG_EXTENDED: Syntax(inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg", "pillow"))),
    uids.JPEG_SPECTRAL: Syntax(inspect_jpeg, (_JPEG,)),
    uids.JPEG_PROGRESSIVE: Syntax(inspect_jpeg, (_JPEG,)),
    uids.JPEG_LOSSLESS: Syntax(inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg"))),
    uids.JPEG_LOSSLESS_FIRST_ORDER: Syntax(inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg"))),
    uids.JPEG_LS_LOSSLESS: Syntax(inspect_jpeg, (_JPEGLS, *_pydicom("pyjpegls"))),
    uids.JPEG_LS_NEAR_LOSSLESS: Syntax(inspect_jpeg, (_JPEGLS, *_pydicom("pyjpegls"))),
    uids.JPEG_2000_LOSSLESS: Syntax(
        inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg", "pillow")), reducers=_REDUCED
    ),
    uids.JPEG_2000: Syntax(
        inspect_jpeg2000,
        (_JPEG2000, *_pydicom("pylibjpeg", "pillow")),
        reducers=_REDUCED,
    ),
    uids.JPEG_XL_LOSSLESS: Syntax(inspect_jpegxl, (_JPEGXL,)),
    uids.JPEG_XL_OF_JPEG: Syntax(inspect_jpegxl, (_JPEGXL,)),
    uids.JPEG_XL: Syntax(inspect_jpegxl, (_JPEGXL,)),
    uids.HTJ2K_LOSSLESS: Syntax(
        inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg")), reducers=_REDUCED
    ),
    uids.HTJ2K_LOSSLESS_RPCL: Syntax(
        inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg")), reducers=_REDUCED
    ),
    uids.HTJ2K: Syntax(inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg")), reducers=_REDUCED),
    uids.RLE_LOSSLESS: Syntax(inspect_rle, (_RLE, *_pydicom("pydicom")), bytewise=True),
}

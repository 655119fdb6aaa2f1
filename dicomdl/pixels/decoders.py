"""Decoding of compressed frames, from a codestream to samples; the door to all codecs.

The codecs are those of imagecodecs, Pillow and pydicom's plugins. A codestream is inspected before
it is decoded, because decoders cannot be trusted with damage: libjpeg-turbo and pylibjpeg-libjpeg
return wrong pixels for a truncated lossless JPEG frame without an error. gdcm is never used, since
it aborts the process on damaged frames (41 of 427 mutated JPEG frames). Decoders that were never
fuzzed run in a process of their own (`isolation`). The one entry, `decode`, takes and returns plain
values. The caller interprets the samples (BitsStored, sign).
"""

from typing import NamedTuple

from dicomdl.arrays import Values
from dicomdl.errors import (
    DecodeError,
    DecoderDied,
    PixelError,
    StorageError,
    TruncatedPixels,
    UnsupportedSyntax,
)
from dicomdl.geometry.grid import halved
from dicomdl.headers import uids
from dicomdl.pixels import recorder
from dicomdl.pixels._codecs import SYNTAXES, Syntax
from dicomdl.pixels._job import Decoder, Job
from dicomdl.pixels.codestreams import (
    Codestream,
    FrameLike,
    check_facts,
    coded_space,
    halves_alike,
    without_rest,
)
from dicomdl.pixels.isolation import Isolation, Refused, decode_apart, isolation_here
from dicomdl.pixels.options import FREE_FRAME_BYTES, require_justified


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
    isolation: Isolation | None = None,
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
    isolation
        Which decoders run in a process of their own; None for what the environment says.

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
    DecoderDied, DecoderTimeout
        The decoder ended its process, or took too long in it.
    UnsupportedSyntax
        There is no decoder for the transfer syntax.
    """
    isolation = isolation or isolation_here()
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
        _decode_reduced(syntax, job._replace(out=None, reduce=reduce), isolation)
        if reduce
        else (None, None)
    )
    if samples is None or decoder is None:
        reduce = 0
        samples, decoder = _decode(syntax.decoders, job, isolation)
    return Coded(
        samples,
        "RGB" if rgb and decoder.converts else space,
        facts.precision,
        syntax.bytewise,
        lossy,
        reduce,
    )


def inspected(
    syntax: Syntax, stream: bytes, source: FrameLike, max_bytes: int | None
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


def _decode_reduced(
    syntax: Syntax, job: Job, isolation: Isolation
) -> tuple[Values, Decoder] | tuple[None, None]:
    """Decode a lower resolution; (None, None) if no decoder can.

    The full resolution has better decoders, whose error is then reported.
    """
    try:
        return _decode(syntax.reducers, job, isolation)
    except DecoderDied:
        raise
    except PixelError:
        return None, None


def find_syntax(transfer_syntax_uid: str) -> Syntax:
    """Return the decoders of a transfer syntax; raise UnsupportedSyntax if it has none."""
    syntax = SYNTAXES.get(transfer_syntax_uid)
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


def _decode(
    decoders: tuple[Decoder, ...], job: Job, isolation: Isolation
) -> tuple[Values, Decoder]:
    """Return the result of the first decoder that can, and that decoder.

    The error contains the reasons of all decoders if none can. A frame on which one died gets no
    other: each could take its deadline.
    """
    reasons = []
    missing = 0
    cut: TruncatedPixels | None = None
    for decoder in decoders:
        try:
            return _checked(_samples(decoder, job, isolation), job), decoder
        except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
            raise
        except (DecoderDied, StorageError):
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
            reasons.append(f"{decoder.name}: {reason_of(error)}")
    if missing == len(decoders):
        raise _unsupported(job.source.transfer_syntax_uid, f": {'; '.join(reasons)}")
    if cut is not None:
        raise cut
    raise DecodeError(
        f"no decoder can read the frame: {'; '.join(reasons)}", reasons=tuple(reasons)
    )


def _samples(decoder: Decoder, job: Job, isolation: Isolation) -> Values:
    """Decode in this process or in a helper, while the recorder names the frame."""
    with recorder.decoding(job.source.path, job.source.frame_number, decoder.name):
        if isolation.includes(decoder):
            return decode_apart(decoder, job, isolation)
        return decoder.decode(job)


def reason_of(error: BaseException) -> str:
    """Return a decoder's error, with its message only if it is ours or imagecodecs'.

    Messages of pydicom quote values, and values may identify a person.
    """
    if isinstance(error, Refused):
        # A helper has worded it already.
        return str(error)
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

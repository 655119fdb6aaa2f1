"""The public `read_frame`: one frame of an index or of a file, in stored or converted values."""

import os
from typing import BinaryIO, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import HeaderError, UsageError
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import FrameSource
from dicomdl.headers.reader import read_frames
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.isolation import IsolationOption, as_isolation
from dicomdl.pixels.options import Colour, Decoding
from dicomdl.pixels.read import decode_frame
from dicomdl.storage.given import given_bytes
from dicomdl.values.conversion import frame_conversion
from dicomdl.values.quantity import RealWorld, as_quantity
from dicomdl.values.reading import read_image
from dicomdl.values.suv import SUV

_FRAMES: Final = (Frame, FrameSource)


def read_frame(
    source: FrameLike | str | os.PathLike[str] | bytes | BinaryIO,
    out: Values | None = None,
    *,
    frame_number: int | None = None,
    values: str | RealWorld = "stored",
    colour: Colour = "rgb",
    reduce: int = 0,
    threads: int = 1,
    max_bytes: int | None = None,
    isolation: IsolationOption = "auto",
) -> Values:
    """Read one frame: its stored values, before any rescale, or converted ones.

    Bits outside BitsStored are cleared or sign-extended (PS3.5 8.1.1). Colour frames are
    pixel-interleaved for any PlanarConfiguration; PALETTE COLOR gives the indices of the
    palette, not its colours. A multi-frame file is read only where the frame's bytes are. The
    function is thread-safe: reading, decoding and the passes over the values release the GIL.

    Parameters
    ----------
    source
        A `Frame` of an index, the `FrameSource` of one, or the path of a DICOM file. Or the bytes
        of one, or a binary file that is open at its start, such as `io.BytesIO`; they are read into
        memory, and nothing is stored.
    out
        C-contiguous array of the shape and dtype of the stored values to fill. Its content is
        undefined after an error.
    frame_number
        The frame of a multi-frame file, from 1; the tile of a mosaic. It may be left away
        for a file of one frame.
    values
        "stored". Or, by the frame's own header: "modality" (rescale or Modality LUT), "philips",
        "real_world" or a `RealWorld`, as for `read_volume`: int16 if all values fit exactly, else
        int32, else float32; PALETTE COLOR becomes RGB.
    colour
        "rgb" converts the YBR_* photometric interpretations to RGB (PS3.3 C.7.6.3.1.2); "stored"
        leaves luminance and chrominance. JPEG 2000 decoders always undo YBR_RCT and YBR_ICT, so
        those are RGB with either value.
    reduce
        Number of halvings of rows and columns, rounded up: a quarter of the pixels for 1, a
        sixteenth for 2, ... Pixel (r, c) lies at pixel (2^n r, 2^n c) of the full frame. JPEG 2000
        and HTJ2K decode only the resolution needed. All other frames are read in full and smoothed
        by the same filter, so lossless frames have the same values in every transfer syntax: for
        grey exactly those of JPEG 2000's reversible wavelet. Lossy JPEG 2000 has another filter,
        and RGB that JPEG 2000 stores as YBR_RCT is a few units off by rounding. Labels of
        segmentations and indices of palettes are not smoothed: every 2^n-th pixel is taken.
    threads
        Threads for this frame, where its codec can use them (JPEG 2000).
    max_bytes
        Limit of the memory of a compressed frame at full resolution (also with `reduce`). The
        default is 128 MiB, or a thousand times its bytes in the file if that is more: a damaged or
        hostile file may declare any size.
    isolation
        "auto" runs decoders that were never fuzzed in a helper process, or what
        ``DICOMDL_ISOLATION`` says. "process" does so with all, and "none" with none. An `Isolation`
        also sets a deadline and a limit of memory.

    Returns
    -------
    ndarray
        Shape (rows, columns) or (rows, columns, samples), a new array or `out`. Stored values have
        the smallest integer dtype that holds Bits Allocated, signed or unsigned as in the file, or
        the float dtype of float pixels.

    Raises
    ------
    HeaderError
        The file at the path is not DICOM, has no image or cannot be used.
    FileChanged
        The file is not the one that was scanned.
    TruncatedPixels
        Bytes are missing. Attributes `expected_bytes`, `found_bytes` where they are known.
    DecodeError
        The frame is damaged or contradicts the header.
    DecoderDied, DecoderTimeout
        The decoder ended its helper process, or took too long there.
    TooLarge
        The frame would take more memory than `max_bytes`; no memory of that size was allocated.
    UnsupportedSyntax
        There is no decoder for the transfer syntax.
    IntensityError
        A rescale, table or map is missing or cannot be used.
    UsageError
        `source` is something else, a file has several frames, `out` does not fit, or an option has
        no such value.

    Examples
    --------
    >>> import shutil, tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = shutil.copy(get_testdata_file("CT_small.dcm"), folder.name)
    >>> index = dicomdl.scan(folder.name, folder.name + "/index", workers=1, progress=False)
    >>> values = dicomdl.read_frame(index.stacks[0].frame(0))
    >>> values.shape, values.dtype
    ((128, 128), dtype('int16'))
    >>> dicomdl.read_frame(index.stacks[0].frame(0), reduce=1).shape
    (64, 64)
    >>> int(dicomdl.read_frame(get_testdata_file("CT_small.dcm"), values="modality").min())
    -896
    >>> folder.cleanup()
    """
    how = Decoding(colour, reduce, threads, max_bytes, as_isolation(isolation))
    if isinstance(source, _FRAMES) and frame_number is None:
        frame: FrameLike = source
    else:
        frame = _frame_of(source, frame_number)
    if values == "stored":
        return decode_frame(frame, out, how)
    return _converted(frame, out, values, how)


def _converted(
    frame: FrameLike, out: Values | None, values: str | RealWorld, how: Decoding
) -> Values:
    """Read a frame in values of a quantity, by its own facts."""
    quantity = as_quantity(values)
    if isinstance(quantity, SUV):
        raise UsageError("SUV needs the Series: read_volume(stack, values='suv')")
    if out is not None:
        raise UsageError("out= takes stored values: leave it away, or values=")
    if not isinstance(frame, Frame):
        raise UsageError(
            f"values={values!r} needs a Frame, such as stack.frame(3); a {type(frame).__name__} "
            "has no rescale"
        )
    return read_image(frame.source, frame_conversion(frame, quantity), how=how).array


def _frame_of(source: object, frame_number: int | None) -> Frame:
    """Return a frame of a file; raise a UsageError for anything that is no path."""
    if isinstance(source, _FRAMES):
        raise UsageError("frame_number= is for the path of a file: a Frame is one already")
    path = _location_of(source)
    frames = read_frames(path)
    if not frames:
        raise HeaderError(f"{path!r} is DICOM without an image", reason="no_image")
    if frame_number is None and len(frames) == 1:
        return frames[0]
    if isinstance(frame_number, int | np.integer) and 1 <= frame_number <= len(frames):
        return frames[frame_number - 1]
    found = "" if frame_number is None else f", not {frame_number!r}"
    raise UsageError(
        f"{path!r} has {len(frames)} frames: pass frame_number=1 to {len(frames)}{found}, or read "
        "all by read_volume",
        frames=len(frames),
    )


def _location_of(source: object) -> str:
    """Return the path of a file, or the location of bytes; raise a UsageError for anything else."""
    if isinstance(source, str | os.PathLike):
        path = os.path.expanduser(os.fspath(source))
        if os.path.isdir(path):
            raise UsageError(
                f"{path!r} is a folder: read_volume({path!r}) reads its volume, and dicomdl.scan "
                "makes an index of it"
            )
        return path
    if (given := given_bytes(source)) is not None:
        return given
    raise UsageError(
        "read_frame takes a Frame, such as index.frame(0) or stack.frame(3), the path of a file, "
        f"or its bytes, not a {type(source).__name__}"
    )

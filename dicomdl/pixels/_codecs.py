"""The codecs: what each transfer syntax is decoded by, and which decoders may run in this process.

The codecs are those of imagecodecs, Pillow and pydicom's plugins.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DecodeError
from dicomdl.geometry.grid import halved
from dicomdl.headers import uids
from dicomdl.headers.requirement import require_pydicom, unlogged
from dicomdl.pixels._job import Decoder, Job
from dicomdl.pixels.codestreams import (
    Codestream,
    inspect_jpeg,
    inspect_jpeg2000,
    inspect_jpegxl,
    inspect_rle,
)
from dicomdl.storage.sources import truncated


class Syntax(NamedTuple):
    """Inspection and decoders of one transfer syntax, the best decoder first.

    `bytewise` samples are those of a native frame. `reducers` decode only lower resolutions.
    """

    inspect: Callable[[bytes], Codestream]
    decoders: tuple[Decoder, ...]
    bytewise: bool = False
    reducers: tuple[Decoder, ...] = ()


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
    with unlogged():
        return decoder.as_array(items, index=0, raw=True, decoding_plugin=plugin, **options)[0]


# Plugins that read 15,000 mutated frames per codec without a crash, a hang or a panic. That of
# pylibjpeg is openjpeg for JPEG 2000, and libjpeg for JPEG, which is unproven. pyjpegls takes up to
# 5 s for 2 kB that are damaged.
_PROVEN: Final = frozenset({"pydicom", "pillow", "pylibjpeg"})


def _pydicom(*plugins: str, proven: frozenset[str] = _PROVEN) -> tuple[Decoder, ...]:
    """Return decoders for some plugins of pydicom."""
    return tuple(
        Decoder(
            f"pydicom's plugin {plugin}",
            partial(_decode_by_pydicom, plugin=plugin),
            "pydicom.pixels.decoders",
            proven=plugin in proven,
        )
        for plugin in plugins
    )


def _codec(name: str, decode: Callable[[Job], Values], *, converts: bool = False) -> Decoder:
    """Return a decoder of imagecodecs."""
    return Decoder(f"imagecodecs.{name}", decode, "imagecodecs", converts, proven=True)


# jpeg8_decode is safe on 15,000 damaged frames; ljpeg and jpegsof3 are not.
_JPEG: Final = _codec("jpeg8_decode", _decode_jpeg, converts=True)
_JPEGLS: Final = _codec("jpegls_decode", _decode_jpegls)
_JPEG2000: Final = _codec("jpeg2k_decode", _decode_jpeg2000)
_REDUCED: Final = (
    Decoder("Pillow", _decode_jpeg2000_reduced, "PIL.Jpeg2KImagePlugin", proven=True),
)
# 30,000 mutated frames, 12,386 of which the codec itself refused; at most 65 MiB.
_JPEGXL: Final = _codec("jpegxl_decode", _decode_jpegxl)
_RLE: Final = _codec("dicomrle_decode", _decode_rle)
# Fallbacks for JPEG, where pylibjpeg is the GPL's libjpeg.
_FOR_JPEG: Final = _pydicom("pylibjpeg", "pillow", proven=_PROVEN - {"pylibjpeg"})
_FOR_LOSSLESS_JPEG: Final = _FOR_JPEG[:1]
# Decoders left out on purpose: imagecodecs.htj2k_decode (OpenJPH 0.26 takes 1.4 ms where OpenJPEG
# takes 2.6, but 23 of 3,000 mutated frames hung and 6 killed the process, and it refused only 971
# of 3,000 frames damaged behind the header, OpenJPEG 2,621); pylibjpeg for JPEG-LS (wrong pixels
# for damaged frames, one hang in 1,500) and for RLE (366 panics in 1,500).
SYNTAXES: Final = {
    uids.JPEG_BASELINE: Syntax(inspect_jpeg, (_JPEG, *_FOR_JPEG)),
    uids.JPEG_EXTENDED: Syntax(inspect_jpeg, (_JPEG, *_FOR_JPEG)),
    uids.JPEG_SPECTRAL: Syntax(inspect_jpeg, (_JPEG,)),
    uids.JPEG_PROGRESSIVE: Syntax(inspect_jpeg, (_JPEG,)),
    uids.JPEG_LOSSLESS: Syntax(inspect_jpeg, (_JPEG, *_FOR_LOSSLESS_JPEG)),
    uids.JPEG_LOSSLESS_FIRST_ORDER: Syntax(inspect_jpeg, (_JPEG, *_FOR_LOSSLESS_JPEG)),
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

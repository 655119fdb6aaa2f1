"""Decoding of codestreams: images survive, and every kind of damage is a typed error.

Damage is a truncated stream, a contradiction of the header, or an input on which a decoder fails.
"""

import contextlib
import io
import subprocess
import sys
import warnings
from typing import Any

import imagecodecs
import numpy as np
import pytest
from faults.bombs import progressive
from numpy.typing import NDArray
from phantoms import encode_frame, encode_htj2k
from PIL import Image

from dicomdl.errors import DecodeError, PixelError, TooLarge, TruncatedPixels, UnsupportedSyntax
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels import codestreams as codestreams_module
from dicomdl.pixels import decoders as codecs
from dicomdl.pixels.codestreams import join_fragments
from dicomdl.pixels.halving import halve

Array = NDArray[Any]

RLE = "1.2.840.10008.1.2.5"
JPEG, JPEG_LL, JPEG_LS, J2K, JXL, HTJ2K = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 70, 80, 90, 110, 201)
)
LOSSLESS = (RLE, JPEG_LL, JPEG_LS, J2K, JXL, HTJ2K)


def encode(image: Array, uid: str) -> bytes:
    if uid == JXL:
        return bytes(imagecodecs.jpegxl_encode(image, lossless=True))
    if uid == HTJ2K:
        return encode_htj2k(image)
    return encode_frame(image, uid, 8 * image.itemsize)


def items(*fragments: bytes) -> bytes:
    padded = [fragment + b"\0" * (len(fragment) % 2) for fragment in fragments]
    return b"".join(b"\xfe\xff\x00\xe0" + len(p).to_bytes(4, "little") + p for p in padded)


def decode(data: bytes, *arguments: Any, **options: Any) -> codecs.Coded:
    """Decode the items of a frame, as they lie in a file."""
    return codecs.decode(join_fragments(data), *arguments, **options)


def source(image: Array, uid: str, **facts: Any) -> FrameSource:
    """Return the facts of a true header of the image, with `facts` on top."""
    samples = image.shape[2] if image.ndim == 3 else 1
    bits = 8 * image.itemsize
    place = {
        "path": "",
        "frame_number": 1,
        "byte_offset": 0,
        "byte_length": 0,
        "bit_offset": 0,
        "deflated": False,
    }
    shape = {
        "rows": image.shape[0],
        "columns": image.shape[1],
        "samples_per_pixel": samples,
        "planar_configuration": 0,
    }
    depth = {
        "bits_allocated": bits,
        "bits_stored": bits,
        "high_bit": bits - 1,
        "pixel_representation": int(image.dtype.kind == "i"),
    }
    rest = {"file_bytes": 0, "file_mtime_ns": -1, "transfer_syntax_uid": uid, "float_pixels": False}
    space = {"photometric_interpretation": "RGB" if samples == 3 else "MONOCHROME2"}
    return FrameSource(**(place | shape | depth | rest | space | facts))


def ramp(rows: int = 24, columns: int = 31, dtype: str = "u2", start: int = 0) -> Array:
    """Values x + 7 y, which a swap of the axes or a shift changes."""
    return (np.arange(columns) + 7 * np.arange(rows)[:, None] + start).astype(dtype)


def colours(rows: int = 24, columns: int = 31) -> Array:
    return np.random.default_rng(5).integers(0, 256, (rows, columns, 3)).astype("u1")


# --- what goes in comes out -----------------------------------------------------------------------


@pytest.mark.parametrize("uid", LOSSLESS)
@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("given", [False, True])
def test_a_lossless_codec_gives_back_what_went_in(uid: str, kind: str, given: bool) -> None:
    image = ramp(dtype=kind)
    out = np.empty_like(image) if given else None
    coded = decode(items(encode(image, uid)), source(image, uid), out)
    assert np.array_equal(coded.samples, image)
    assert not coded.lossy
    assert coded.bytewise == (uid == RLE)
    assert coded.precision == (0 if uid in (RLE, JXL) else 8 * image.itemsize)
    if out is not None and uid != JXL:
        assert np.may_share_memory(coded.samples, out)  # decoded in place


@pytest.mark.parametrize("uid", LOSSLESS)
@pytest.mark.parametrize("given", [False, True])
def test_a_lossless_codec_gives_back_colours(uid: str, given: bool) -> None:
    image = colours()
    coded = decode(
        items(encode(image, uid)), source(image, uid), np.empty_like(image) if given else None
    )
    assert np.array_equal(coded.samples, image)
    assert coded.space == "RGB"


def test_only_a_jpeg_2000_stream_that_says_so_gives_signed_samples() -> None:
    image = ramp(dtype="i2", start=-90)
    assert np.array_equal(
        decode(items(encode(image, J2K)), source(image, J2K), np.empty_like(image)).samples, image
    )
    assert (
        decode(
            items(encode(image, JPEG_LS)), source(image, JPEG_LS), np.empty_like(image)
        ).samples.dtype
        == np.uint16
    )


def test_a_frame_in_several_fragments_is_joined() -> None:
    image = ramp()
    stream = encode(image, J2K)
    data = items(stream[:100], stream[100:300], stream[300:]) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert np.array_equal(decode(data, source(image, J2K)).samples, image)


@pytest.mark.parametrize("padding", [b"", b"\0", b"\xff", b"\0" * 9, b" ", b"\r\n"])
def test_padding_after_the_end_marker_is_allowed(padding: bytes) -> None:
    image = ramp()
    assert np.array_equal(
        decode(items(encode(image, JPEG_LS) + padding), source(image, JPEG_LS)).samples, image
    )


def test_the_colours_that_a_jpeg_stream_names_go_before_the_header() -> None:
    image = np.full((16, 16, 3), (200, 30, 90), "u1")
    named_rgb = imagecodecs.jpeg8_encode(image, colorspace="RGB", outcolorspace="RGB")
    jfif = imagecodecs.jpeg8_encode(image)
    assert b"JFIF" in jfif[:20]
    for space in ("RGB", "YBR_FULL_422"):
        assert (
            decode(items(named_rgb), source(image, JPEG, photometric_interpretation=space)).space
            == "RGB"
        )
    for space, found in (
        ("RGB", "YBR_FULL"),
        ("YBR_FULL", "YBR_FULL"),
        ("YBR_FULL_422", "YBR_FULL_422"),
    ):
        assert (
            decode(items(jfif), source(image, JPEG, photometric_interpretation=space)).space
            == found
        )


# --- colours, lower resolutions -------------------------------------------------------------------


@pytest.mark.parametrize("space", ["YBR_FULL", "YBR_FULL_422"])
def test_luminance_and_chrominance_become_rgb_in_passing_where_asked(space: str) -> None:
    # Baseline JPEG preserves blocks of one colour exactly.
    image = np.kron(colours(6, 7), np.ones((8, 8, 1), "u1"))
    stream = imagecodecs.jpeg8_encode(
        image, level=100, colorspace="YCBCR", outcolorspace="YCBCR", subsampling="444"
    )
    facts = source(image, JPEG, photometric_interpretation=space)
    stored, rgb = (
        decode(items(stream), facts),
        decode(items(stream), facts, np.empty_like(image), rgb=True),
    )
    assert (stored.space, rgb.space) == (space, "RGB")
    assert np.array_equal(stored.samples, image)
    # PS3.3 C.7.6.3.1.2, solved for RGB.
    luma, blue, red = (image[..., n].astype(float) - (128 if n else 0) for n in range(3))
    green = luma - 0.114 * 1.772 / 0.587 * blue - 0.299 * 1.402 / 0.587 * red
    exact = np.stack([luma + 1.402 * red, green, luma + 1.772 * blue], axis=-1).clip(0, 255)
    assert np.abs(rgb.samples - exact).max() < 0.51


def test_what_is_rgb_already_is_not_converted() -> None:
    image = colours(16, 16)
    named_rgb = imagecodecs.jpeg8_encode(image, colorspace="RGB", outcolorspace="RGB")
    facts = source(image, JPEG, photometric_interpretation="YBR_FULL")
    assert np.array_equal(
        decode(items(named_rgb), facts, rgb=True).samples, decode(items(named_rgb), facts).samples
    )


@pytest.mark.parametrize("uid", [J2K, HTJ2K])
@pytest.mark.parametrize("times", [1, 2, 9])
@pytest.mark.parametrize(
    "image", [ramp(65, 50), ramp(64, 48, "u1"), ramp(40, 44, "i2", -900)], ids=["u2", "u1", "i2"]
)
def test_lower_resolutions_are_decoded_as_far_as_the_stream_holds_them(
    uid: str, times: int, image: Array
) -> None:
    if uid == HTJ2K and image.dtype.kind == "i":
        pytest.skip("imagecodecs codes no signed HTJ2K")
    coded = decode(items(encode(image, uid)), source(image, uid), reduce=times)
    assert 1 <= coded.reduced <= times
    expected = halve(image, coded.reduced)
    assert coded.samples.dtype == image.dtype and np.array_equal(coded.samples, expected)


def test_other_codecs_decode_the_whole_frame_and_say_so() -> None:
    image = ramp()
    for uid in (RLE, JPEG_LL, JPEG_LS, JXL):
        coded = decode(items(encode(image, uid)), source(image, uid), reduce=2)
        assert coded.reduced == 0 and np.array_equal(coded.samples, image)


def test_an_image_that_begins_off_the_corner_of_its_reference_grid_is_decoded_whole() -> None:
    image = ramp(64, 64)
    stream = bytearray(encode(image, J2K))
    start = stream.find(b"\xff\x4f\xff\x51") + 8
    # Right edge, left edge and the tile's left edge move by one pixel; the tile's width does not.
    for at in (
        0,
        8,
        16,
        24,
    ):
        if at != 16:
            stream[start + at : start + at + 4] = (
                int.from_bytes(stream[start + at : start + at + 4], "big") + 1
            ).to_bytes(4, "big")
    facts = codecs.find_syntax(J2K).inspect(bytes(stream))
    assert (facts.rows, facts.columns) == image.shape
    assert facts.levels == 0 and codecs.find_syntax(J2K).inspect(encode(image, J2K)).levels > 0


def test_a_tiled_stream_is_decoded_whole_so_that_no_seams_show() -> None:
    image, file = ramp(64, 64, "u1"), io.BytesIO()
    Image.fromarray(image).save(
        file, "JPEG2000", tile_size=(32, 32), irreversible=False, no_jp2=True
    )
    stream = file.getvalue()
    assert codecs.find_syntax(J2K).inspect(stream).tiles == 4
    coded = decode(items(stream), source(image, J2K), reduce=1)
    assert coded.reduced == 0 and np.array_equal(coded.samples, image)


def test_what_the_decoder_of_lower_resolutions_cannot_read_is_decoded_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Jpeg2KImagePlugin", None)
    image = ramp(64, 64)
    coded = decode(items(encode(image, J2K)), source(image, J2K), np.empty_like(image), reduce=1)
    assert coded.reduced == 0 and np.array_equal(coded.samples, image)


def test_several_threads_give_the_same_values() -> None:
    image = ramp(200, 300)
    stream = encode(image, J2K)
    assert np.array_equal(decode(items(stream), source(image, J2K), threads=4).samples, image)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", LOSSLESS)
def test_a_truncated_frame_is_never_an_array(uid: str) -> None:
    image = (ramp(64, 64) + np.random.default_rng(3).integers(0, 50, (64, 64))).astype("u2")
    stream = encode(image, uid)
    stream = stream.rstrip(b"\0") if uid == RLE else stream
    for length in np.unique(np.linspace(0, len(stream) - 1, 60).astype(int)):
        with pytest.raises((TruncatedPixels, DecodeError)):
            decode(items(stream[:length]), source(image, uid))  # the codestream is cut
        with pytest.raises((TruncatedPixels, DecodeError)):
            decode(items(stream)[: length + 8], source(image, uid))  # the item is cut


@pytest.mark.parametrize("uid", [JPEG_LL, JPEG_LS, J2K, HTJ2K])
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(
    uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ramp()
    data = items(encode(image, uid))
    monkeypatch.setattr(codecs, "_decode", None)
    for change in (
        {"rows": 25},
        {"columns": 65535},
        {"samples_per_pixel": 3},
        {"bits_allocated": 8},
    ):
        with pytest.raises(DecodeError) as caught:
            decode(data, source(image, uid, **change))
        assert hasattr(caught.value, "expected_shape") or caught.value.precision == 16


def test_a_codestream_of_more_tiles_than_it_has_bytes_for_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = ramp(64, 64)
    stream = bytearray(encode(image, J2K))
    start = stream.find(b"\xff\x4f\xff\x51") + 8
    stream[start + 16 : start + 24] = (1).to_bytes(4, "big") * 2  # tiles of 1 x 1 pixel
    monkeypatch.setattr(codecs, "_decode", None)
    with pytest.raises(DecodeError) as caught:
        decode(items(bytes(stream)), source(image, J2K))
    assert caught.value.tiles == 4096


def test_a_progressive_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = ramp(16, 16, "u1")
    stream = bytearray(imagecodecs.jpeg8_encode(image))
    stream[stream.find(b"\xff\xc0") + 1] = 0xC2
    scan = stream.find(b"\xff\xda")
    bomb = bytes(stream[:scan] + stream[scan:-2] * (codestreams_module.MAX_SCANS + 1)) + b"\xff\xd9"
    monkeypatch.setattr(codecs, "_decode", None)
    with pytest.raises(DecodeError) as caught:
        decode(items(bomb), source(image, "1.2.840.10008.1.2.4.55"))
    assert caught.value.limit == codestreams_module.MAX_SCANS


def test_a_progressive_jpeg_of_many_scans_and_blocks_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = progressive(4400, scans=490)
    monkeypatch.setattr(codecs, "_decode", None)
    image = np.broadcast_to(np.uint8(0), (4400, 4400))
    with pytest.raises(DecodeError, match="491 scans of 302500 blocks") as caught:
        decode(items(stream), source(image, "1.2.840.10008.1.2.4.55"))
    assert caught.value.blocks > caught.value.limit


def test_the_coefficients_of_a_jpeg_in_scans_count_as_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = progressive(8000, scans=9)
    image = np.broadcast_to(np.uint8(0), (8000, 8000))
    monkeypatch.setattr(codecs, "_decode", None)
    with pytest.raises(TooLarge) as caught:
        decode(items(stream), source(image, "1.2.840.10008.1.2.4.55"))
    assert caught.value.needed_bytes == 3 * 8000**2
    # With permission, the decoder is asked.
    with pytest.raises(TypeError):
        decode(items(stream), source(image, "1.2.840.10008.1.2.4.55"), max_bytes=2**28)


@pytest.mark.parametrize("samples", [1, 3])
def test_only_a_jpeg_in_scans_is_buffered(samples: int) -> None:
    image = ramp(16, 16 * samples, "u1").reshape(16, 16, samples).squeeze()
    facts = codestreams_module.inspect_jpeg(imagecodecs.jpeg8_encode(image))
    assert (facts.samples, facts.buffered_bytes) == (samples, 0)
    in_scans = io.BytesIO()
    Image.fromarray(image).save(in_scans, "JPEG", progressive=True)
    facts = codestreams_module.inspect_jpeg(in_scans.getvalue())
    assert facts.buffered_bytes == 2 * image.size


@pytest.mark.parametrize("uid", [JPEG_LL, JPEG_LS])
def test_a_jpeg_that_leaves_its_rows_open_is_refused_before_it_is_decoded(
    uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ramp()
    stream = bytearray(encode(image, uid))
    frame_header = stream.find(b"\xff\xf7" if uid == JPEG_LS else b"\xff\xc3")
    stream[frame_header + 5 : frame_header + 7] = b"\0\0"
    monkeypatch.setattr(codecs, "_decode", None)
    with pytest.raises(DecodeError, match="DNL"):
        decode(items(bytes(stream)), source(image, uid))


def test_a_coding_style_of_more_packets_than_the_stream_has_bits_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = np.zeros((2048, 2048), "u1")
    stream = bytearray(encode(image, J2K))
    style = stream.find(b"\xff\x52")
    levels = stream[style + 9]
    stream[style + 4] |= 1  # precincts of 2 x 2
    stream[style + 2 : style + 4] = (
        int.from_bytes(stream[style + 2 : style + 4], "big") + levels + 1
    ).to_bytes(2, "big")
    stream[style + 14 : style + 14] = b"\x11" * (levels + 1)
    monkeypatch.setattr(codecs, "_decode", None)
    with pytest.raises(DecodeError) as caught:
        decode(items(bytes(stream)), source(image, J2K))
    assert caught.value.packets > 1_000_000


def test_a_damaged_header_never_leaks_an_untyped_error() -> None:
    image = ramp()
    stream = encode(image, J2K)
    start = stream.find(b"\xff\x52")
    for length in range(start, len(stream), 7):
        with contextlib.suppress(PixelError):
            decode(items(stream[:length] + b"\xff\xd9"), source(image, J2K), reduce=1)


@pytest.mark.quick(9)
@pytest.mark.parametrize(
    "shape",
    [
        (24, 31),
        (1, 1),
        (256, 8),
        (8, 256),
        (300, 400),
        (512, 512),
        (1000, 1333),
        (2000, 100),
        (90, 160),
    ],
)
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_the_size_in_a_jpeg_xl_header_is_read_and_compared(
    shape: tuple[int, int], kind: str
) -> None:
    image = ramp(*shape, dtype=kind)
    stream = encode(image, JXL)
    facts = codecs.find_syntax(JXL).inspect(stream)
    assert (facts.rows, facts.columns) == shape
    with pytest.raises(DecodeError) as caught:
        decode(items(stream), source(image, JXL, rows=shape[0] + 1))
    assert caught.value.found_shape[:2] == shape


@pytest.mark.parametrize("kept", range(12))
def test_a_coding_style_that_is_cut_is_an_array_or_a_typed_error(kept: int) -> None:
    image = ramp()
    stream = encode(image, J2K)
    at = stream.index(b"\xff\x52") + 2
    length = int.from_bytes(stream[at : at + 2], "big")
    style = b"\1" + stream[at + 3 : at + 2 + kept]
    short = (2 + len(style)).to_bytes(2, "big") + style
    with contextlib.suppress(PixelError):
        decode(items(stream[:at] + short + stream[at + length :]), source(image, J2K))


@pytest.mark.parametrize("uid", [JPEG, JPEG_LL, JPEG_LS])
def test_a_scan_header_without_components_is_a_typed_error(uid: str) -> None:
    image = ramp(dtype="u1")
    stream = encode(image, uid)
    at = stream.index(b"\xff\xda")
    for cut in (b"\xff\xda\0\2", b"\xff\xda\0\2\xff\xd9", b"\xff\xda\0\0", b"\xff\xda\0\1"):
        with pytest.raises(PixelError):
            decode(items(stream[:at] + cut), source(image, uid))


def test_header_text_is_not_quoted_by_the_error_of_a_fallback_decoder() -> None:
    image = ramp()
    stream = encode(image, J2K)
    # More resolutions than there can be (T.800 A.6.1), which no decoder accepts.
    at = stream.index(b"\xff\x52") + 9
    data = items(stream[:at] + b"\xff" + stream[at + 1 :])
    with pytest.raises(DecodeError) as caught:
        decode(data, source(image, J2K, photometric_interpretation="DOE JANE 1950"))
    assert "pydicom" in str(caught.value) and "DOE" not in str(caught.value) + repr(
        caught.value.reasons
    )


def test_a_stream_that_undoes_the_transformation_of_rgb_is_rgb_whatever_the_header_says() -> None:
    image = colours()
    stream = imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k", reversible=True, mct=True)
    coded = decode(items(stream), source(image, J2K, photometric_interpretation="YBR_FULL"))
    assert coded.space == "RGB" and np.array_equal(coded.samples, image)


def test_colours_of_lossless_jpeg_are_left_to_the_caller() -> None:
    image = colours()
    coded = decode(
        items(encode(image, JPEG_LL)),
        source(image, JPEG_LL, photometric_interpretation="YBR_FULL"),
        rgb=True,
    )
    assert coded.space == "YBR_FULL" and np.array_equal(coded.samples, image)


def test_rle_of_another_size_is_refused() -> None:
    image = ramp()
    stream = encode(image, RLE)
    for change in (
        {"rows": 25},
        {"rows": 65535, "columns": 65535},
        {"samples_per_pixel": 3},
        {"bits_allocated": 8},
        {"bits_allocated": 1},
    ):
        with pytest.raises(PixelError):
            decode(items(stream), source(image, RLE, **change))
    with pytest.raises(DecodeError) as caught:
        decode(items(b"\0" * 4 + stream[4:]), source(image, RLE))
    assert (caught.value.expected_segments, caught.value.found_segments) == (2, 0)


# --- decoders that are absent or fail -------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "word"),
    [
        ("1.2.840.10008.1.2.4.102", "video"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
        ("1.2.3.4", "no decoder"),
    ],
)
def test_a_transfer_syntax_without_decoder_is_named(uid: str, word: str) -> None:
    with pytest.raises(UnsupportedSyntax, match=word) as caught:
        decode(items(b"\0\0"), source(ramp(), uid))
    assert caught.value.transfer_syntax_uid == uid


@pytest.mark.parametrize("uid", [J2K, JPEG_LS, RLE, HTJ2K])
def test_pydicoms_decoder_is_asked_when_imagecodecs_is_absent(
    uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({JPEG_LS: "jpeg_ls", RLE: "pydicom"}.get(uid, "openjpeg"))
    image = ramp(start=65500 - 200)
    data = items(encode(image, uid))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = decode(data, source(image, uid)).samples
    assert np.array_equal(samples, image)


def test_without_any_decoder_the_error_names_all_that_could(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = ramp()
    data = items(encode(image, JXL))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UnsupportedSyntax, match=r"imagecodecs\.jpegxl_decode is not installed"):
        decode(data, source(image, JXL))


class PanicException(BaseException):
    """As Rust decoders raise it."""


@pytest.mark.parametrize(
    "error", [PanicException("index out of range"), StopIteration(), RuntimeError("bad")]
)
def test_whatever_a_decoder_raises_becomes_a_decode_error_with_its_reason(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    image = ramp()
    data = items(encode(image, JXL))
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", fail)
    with pytest.raises(DecodeError, match=type(error).__name__):
        decode(data, source(image, JXL))


@pytest.mark.parametrize("decoded", [ramp(24, 30), ramp().astype("f4"), ramp().astype("u4")])
def test_an_array_of_another_shape_or_type_than_the_header_says_is_refused(
    decoded: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ramp()
    data = items(encode(image, JXL))
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", lambda *args, **options: decoded)
    with pytest.raises(DecodeError, match="decoded"):
        decode(data, source(image, JXL))


def test_an_interrupt_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    image = ramp()
    data = items(encode(image, JXL))
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(data, source(image, JXL))


def test_importing_codecs_loads_no_codec() -> None:
    code = (
        "import sys, dicomdl.pixels; heavy = 'imagecodecs', 'pydicom', 'torch', 'pyarrow', 'PIL'; "
        "print([m for m in heavy if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )

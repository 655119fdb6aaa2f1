"""Tests of decoding on a device: a kind of frame is trusted after it has proven correct."""

import dataclasses
import itertools
import os
import pickle
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from conftest import index_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from phantoms import encode_frame, write_secondary_capture, write_series

import dicomdl
from dicomdl.datasets.device import _kinds as kinds_module
from dicomdl.datasets.device import decoder as gpu
from dicomdl.datasets.device._kinds import Kind
from dicomdl.datasets.device._values import keep_coded_bits, to_device, to_modality
from dicomdl.datasets.device.decoder import DeviceDecoder
from dicomdl.datasets.device.intensity import window
from dicomdl.datasets.device.stack import read_stack_on_device
from dicomdl.errors import (
    DecodeError,
    IntensityError,
    IrregularStack,
    MissingExtra,
    TruncatedPixels,
    UsageError,
)
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels import _native as native_module
from dicomdl.pixels import decoders as codecs
from dicomdl.pixels.bits import CodedBits, coded_rule, keep_bits
from dicomdl.pixels.read import read_frame
from dicomdl.values.intensity import Intensity
from dicomdl.values.rescale import Rescale
from dicomdl.values.stack_intensity import stack_intensity
from dicomdl.values.windows import Identity, Limits, Percentile, Window

Array = NDArray[Any]
Answer = Callable[[bytes, Array], Array | None]

LITTLE, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
JPEG, JPEG_12, JPEG_LL, JPEG_LS, J2K, J2K_LOSSY, HTJ2K = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70, 80, 90, 91, 201)
)
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs CUDA (torch.cuda.is_available())"
)


# --- a fake decoder -------------------------------------------------------------------------------


class Image:
    """A decoded image in host memory, with the array interface of nvImageCodec's images."""

    def __init__(self, samples: Array) -> None:
        self.samples = samples if samples.ndim == 3 else samples[..., None]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.array(self.samples, dtype)

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.samples.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class FakeCodec(types.ModuleType):
    """The used part of `nvidia.nvimgcodec`: correct, unless `answer` changes the samples."""

    NVIMGCODEC_DEVICE_CPU_ONLY = -99999
    ColorSpec = types.SimpleNamespace(UNCHANGED=0, SRGB=1, SYCC=3)

    def __init__(self) -> None:
        super().__init__("nvidia.nvimgcodec")
        self.calls: list[list[bytes]] = []
        self.answer: Answer = lambda stream, samples: samples
        self.made: list[tuple[int, str]] = []
        fake = self

        class Decoder:
            def __init__(
                self,
                device_id: int = -1,
                max_num_cpu_threads: int = 0,
                backends: Any = None,
                options: str = "",
            ) -> None:
                fake.made.append((device_id, options))

            def decode(
                self,
                srcs: Sequence[Any],
                *,
                images: Any = None,
                params: Any = None,
                cuda_stream: int = 0,
            ) -> list[Any]:
                fake.calls.append([src.stream for src in srcs])
                samples = [right(src.stream, params) for src in srcs]
                answers = [
                    None if each is None else fake.answer(src.stream, each)
                    for src, each in zip(srcs, samples, strict=True)
                ]
                return [None if answer is None else Image(answer) for answer in answers]

        self.Decoder = Decoder

    class CodeStream:
        def __init__(self, stream: bytes) -> None:
            assert isinstance(stream, bytes)
            self.stream = stream

    class DecodeParams:
        def __init__(
            self,
            apply_exif_orientation: bool = True,
            color_spec: int = 1,
            allow_any_depth: bool = False,
        ) -> None:
            assert allow_any_depth and not apply_exif_orientation
            self.color_spec = color_spec

    @property
    def frames(self) -> int:
        """The number of frames that it was asked to decode."""
        return sum(map(len, self.calls))


def right(stream: bytes, params: Any) -> Array | None:
    """Decode a codestream correctly; return None if it cannot be decoded."""
    colours: dict[str, Any] = {}
    try:
        if not stream.startswith(b"\xff\xd8"):
            return np.asarray(imagecodecs.jpeg2k_decode(stream))
        if codecs.find_syntax(JPEG).inspect(stream).samples == 3:
            colours = {
                "colorspace": "YCBCR",
                "outcolorspace": "RGB" if params.color_spec == 1 else "YCBCR",
            }
        return np.asarray(imagecodecs.jpeg8_decode(stream, **colours))
    except (imagecodecs.Jpeg2kError, imagecodecs.Jpeg8Error):
        return None


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the distrusted kinds of a test from those of other tests."""
    monkeypatch.setattr(gpu, "_distrusted", {})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCodec:
    module = FakeCodec()
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", module)
    return module


@pytest.fixture
def decoder(fake: FakeCodec) -> DeviceDecoder:
    return DeviceDecoder("cpu")


def in_item(stream: bytes) -> bytes:
    stream += b"\0" * (len(stream) % 2)
    return b"\xfe\xff\x00\xe0" + len(stream).to_bytes(4, "little") + stream


numbers = itertools.count()


def write(folder: Path, data: bytes, image: Array, uid: str, **facts: Any) -> FrameSource:
    """Write a file that holds only a codestream, and return the source of its frame."""
    path = folder / f"{next(numbers)}.bin"
    path.write_bytes(data)
    samples, bits, status = (
        image.shape[2] if image.ndim == 3 else 1,
        8 * image.itemsize,
        path.stat(),
    )
    stored = facts.get("bits_stored", bits)
    place = {
        "path": str(path),
        "frame_number": 1,
        "byte_offset": 0,
        "byte_length": len(data),
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
        "bits_stored": stored,
        "high_bit": stored - 1,
        "pixel_representation": int(image.dtype.kind == "i"),
    }
    rest = {
        "file_bytes": status.st_size,
        "file_mtime_ns": status.st_mtime_ns,
        "transfer_syntax_uid": uid,
        "float_pixels": False,
    }
    space = {"photometric_interpretation": "RGB" if samples == 3 else "MONOCHROME2"}
    return FrameSource(**(place | shape | depth | rest | space | facts))


def images(
    count: int, bits: int = 12, signed: bool = False, rows: int = 16, columns: int = 21
) -> list[Array]:
    """Return different images that use all bits."""
    steps = np.arange(columns) * 2711 + np.arange(rows)[:, None] * 7919
    made = [
        (steps * (k + 1) + 11 * k) % (1 << bits) - (1 << bits - 1) * signed for k in range(count)
    ]
    width = 8 if bits <= 8 else 16
    return [image.astype(f"{'i' if signed else 'u'}{width // 8}") for image in made]


def frames(
    folder: Path, count: int, uid: str = JPEG_LL, bits: int = 12, signed: bool = False
) -> list[FrameSource]:
    return [
        write(folder, in_item(encode_frame(image, uid, bits)), image, uid, bits_stored=bits)
        for image in images(count, bits, signed)
    ]


def as_numpy(values: torch.Tensor) -> Array:
    return np.asarray(values.cpu().numpy())


def agree(decoder: DeviceDecoder, sources: Sequence[FrameSource]) -> None:
    """Assert that the decoder returns the stored values of the CPU."""
    for values, source in zip(decoder.read(sources), sources, strict=True):
        truth = read_frame(source)
        assert values.shape == truth.shape
        assert np.array_equal(as_numpy(values).astype(np.int64), truth.astype(np.int64))


# --- trust ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [JPEG_LL, "1.2.840.10008.1.2.4.57", J2K, J2K_LOSSY])
@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (8, True), (12, False), (12, True), (16, False), (16, True)]
)
def test_a_kind_that_agrees_is_decoded_on_the_device_from_then_on(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder, uid: str, bits: int, signed: bool
) -> None:
    sources = frames(tmp_path, 5, uid, bits, signed)
    agree(decoder, sources)
    assert list(decoder.kinds.values()) == ["trusted"]
    assert [len(call) for call in fake.calls] == [3, 2]
    (kind,) = decoder.kinds
    assert (
        kind.transfer_syntax_uid,
        kind.bits_stored,
        kind.precision,
        kind.pixel_representation,
    ) == (uid, bits, bits, int(signed))


def test_the_first_frames_come_from_the_cpu_and_later_ones_from_the_device(
    tmp_path: Path, decoder: DeviceDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, read = frames(tmp_path, 5), []
    monkeypatch.setattr(
        gpu, "read_frame", lambda source: (read.append(source.path), read_frame(source))[1]
    )
    agree(decoder, sources)
    assert sorted(read) == sorted(source.path for source in sources[:3])


# The zeros are nvJPEG's for JPEG lossless of 9 to 15 bits.
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            lambda stream, samples: samples * 0,
            "differs from the CPU by",
        ),
        (
            lambda stream, samples: samples + np.uint16(1),
            "differs from the CPU by 1, on average by 1, where 0 is allowed",
        ),
        (
            lambda stream, samples: np.where(samples == samples.max(), samples - 1, samples).astype(
                samples.dtype
            ),
            "differs from the CPU by 1",
        ),
        (lambda stream, samples: samples << 4, "differs"),  # scaled to 16 bits
        (lambda stream, samples: (samples >> 4).astype(np.uint8), "differs"),  # scaled to 8
        (lambda stream, samples: None, "gives no image"),
        (lambda stream, samples: samples.T.copy(), "gives uint16 of"),
        (lambda stream, samples: np.stack([samples] * 3, -1), "gives uint16 of"),
        (lambda stream, samples: samples.astype(np.float32), "gives float32 of"),
        (lambda stream, samples: samples.astype(np.int32), "gives int32 of"),
        (lambda stream, samples: 1 // 0, "failed with ZeroDivisionError"),
    ],
)
def test_a_kind_that_is_wrong_once_is_never_asked_for_again(
    tmp_path: Path, fake: FakeCodec, answer: Answer, reason: str
) -> None:
    sources = frames(tmp_path, 6)
    fake.answer = answer
    agree(DeviceDecoder("cpu"), sources)
    asked = fake.frames
    assert asked == 3
    # A correct answer comes too late.
    fake.answer = lambda stream, samples: samples
    again = DeviceDecoder("cpu")
    agree(again, sources)
    assert fake.frames == asked
    (told,) = again.kinds.values()
    assert reason in told


def test_one_wrong_frame_among_the_samples_is_enough(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    sources = frames(tmp_path, 4)
    seen: list[bytes] = []
    fake.answer = lambda stream, samples: (seen.append(stream), samples ^ (len(seen) == 2))[1]
    agree(decoder, sources)
    assert "differs" in next(iter(decoder.kinds.values()))


def test_a_wrong_kind_does_not_speak_for_the_others(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    sources = [
        *frames(tmp_path, 5, bits=12),
        *frames(tmp_path, 5, bits=16),
        *frames(tmp_path, 5, J2K, 12),
    ]
    fake.answer = lambda stream, samples: (
        samples * 0 if stream[:2] == b"\xff\xd8" and samples.max() < 4096 else samples
    )
    agree(decoder, sources)
    states = {
        (kind.transfer_syntax_uid, kind.precision): state for kind, state in decoder.kinds.items()
    }
    assert states[JPEG_LL, 16] == states[J2K, 12] == "trusted"
    assert "differs" in states[JPEG_LL, 12]


def test_a_frame_of_one_value_is_no_evidence(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    """A decoder that returns nothing but zeros is right about a black frame."""
    black = np.zeros((16, 21), np.uint16)
    sources = [
        write(tmp_path, in_item(encode_frame(black, JPEG_LL, 12)), black, JPEG_LL, bits_stored=12)
        for _ in range(5)
    ]
    fake.answer = lambda stream, samples: samples * 0
    agree(decoder, sources)
    assert list(decoder.kinds.values()) == ["proving"]
    agree(decoder, frames(tmp_path, 4))
    assert "differs" in next(iter(decoder.kinds.values()))


def test_a_trusted_kind_that_turns_to_nothing_is_found_out(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    sources = frames(tmp_path, 8)
    agree(decoder, sources[:4])
    assert list(decoder.kinds.values()) == ["trusted"]
    last = native_module._read_bytes(sources[7], 8, sources[7].byte_length - 8).rstrip(b"\0")
    fake.answer = lambda stream, samples: samples * 0 if stream.rstrip(b"\0") == last else samples
    agree(decoder, sources)
    assert "differs" in next(iter(decoder.kinds.values()))
    asked = fake.frames
    agree(decoder, sources)
    assert fake.frames == asked


def test_the_frames_beside_one_that_ends_the_trust_come_from_the_cpu(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    sources = frames(tmp_path, 8)
    agree(decoder, sources[:3])
    calls = itertools.count()
    fake.answer = lambda stream, samples: samples * 0 if next(calls) % 2 else samples + np.uint16(1)
    agree(decoder, sources)


def test_a_frame_that_a_trusted_kind_does_not_give_is_read_by_the_cpu(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    sources = frames(tmp_path, 6)
    agree(decoder, sources[:3])
    calls = itertools.count()
    fake.answer = lambda stream, samples: None if next(calls) == 1 else samples
    agree(decoder, sources)
    assert list(decoder.kinds.values()) == ["trusted"]


@pytest.mark.parametrize(
    "answer", [lambda stream, samples: 1 // 0, lambda stream, samples: samples[:3]]
)
def test_a_trusted_kind_that_fails_or_changes_its_shape_loses_its_trust(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder, answer: Answer
) -> None:
    sources = frames(tmp_path, 6)
    agree(decoder, sources[:3])
    fake.answer = answer
    agree(decoder, sources)
    asked = fake.frames
    agree(decoder, sources)
    assert fake.frames == asked
    assert list(decoder.kinds.values()) not in (["trusted"], ["proving"])


def test_fewer_images_than_codestreams_are_a_failure(
    tmp_path: Path, decoder: DeviceDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder._decoder, "decode", lambda srcs, **options: [None], raising=False)
    agree(decoder, frames(tmp_path, 4))
    assert "1 images for 3 codestreams" in next(iter(decoder.kinds.values()))


def test_coding_options_make_kinds(tmp_path: Path, decoder: DeviceDecoder) -> None:
    image = images(1)[0]
    streams = [
        imagecodecs.jpeg8_encode(image, lossless=True, predictor=predictor, bitspersample=12)
        for predictor in (1, 2, 1)
    ]
    sof = streams[0].index(b"\xff\xc3")
    dht = streams[0].index(b"\xff\xc4")
    size = 2 + int.from_bytes(streams[0][dht + 2 : dht + 4], "big")
    # The Huffman tables are moved before the frame header.
    moved = (
        streams[0][:sof]
        + streams[0][dht : dht + size]
        + streams[0][sof:dht]
        + streams[0][dht + size :]
    )
    for level in (1, 5):
        for reversible in (True, False):
            streams.append(
                imagecodecs.jpeg2k_encode(
                    image, level=0, codecformat="j2k", reversible=reversible, resolutions=level
                )
            )
    uids = [JPEG_LL] * 3 + [J2K] * 4 + [JPEG_LL]
    for stream, uid in zip([*streams, moved], uids, strict=True):
        source = write(tmp_path, in_item(stream), image, uid, bits_stored=12)
        agree(decoder, [source])
    for sampling in ("444", "420", "420"):
        colour = colours(1)[0]
        stream = imagecodecs.jpeg8_encode(colour, subsampling=sampling)
        decoder.read(
            [write(tmp_path, in_item(stream), colour, JPEG, photometric_interpretation="YBR_FULL")]
        )
    assert len(decoder.kinds) == 9
    assert sorted(decoder._agreed.values()) == [1, 1, 1, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("samples", [1, 4])
def test_how_many_frames_have_to_agree_is_the_users(
    tmp_path: Path, fake: FakeCodec, samples: int
) -> None:
    agree(DeviceDecoder("cpu", samples), frames(tmp_path, 6))
    assert [len(call) for call in fake.calls] == [samples, 6 - samples]


def test_the_report_and_the_print_say_what_is_left_to_the_cpu(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    agree(decoder, [*frames(tmp_path, 4), *frames(tmp_path, 2, J2K)])
    fake.answer = lambda stream, samples: None
    agree(decoder, frames(tmp_path, 2, bits=16))
    assert repr(decoder) == "DeviceDecoder(cpu: 1 kinds trusted, 1 proving, 1 left to the CPU)"
    assert str(tmp_path) not in repr(decoder.kinds)


# --- lossy frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "trusted"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_lossy_decoder_may_differ_by_what_rounding_explains(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder, change: int, trusted: bool
) -> None:
    sources = frames(tmp_path, 4, JPEG, 8)

    def off(stream: bytes, samples: Array) -> Array:
        samples = samples.copy()
        samples[0, 0] = samples[0, 0] + change if samples[0, 0] < 128 else samples[0, 0] - change
        return samples

    fake.answer = off
    truths = [read_frame(source) for source in sources]
    values = [as_numpy(value) for value in decoder.read(sources)]
    assert all(
        np.array_equal(value, truth) for value, truth in zip(values[:3], truths, strict=False)
    )
    assert (list(decoder.kinds.values()) == ["trusted"]) == trusted
    assert abs(int(values[3][0, 0]) - int(truths[3][0, 0])) == (change if trusted else 0)


def test_a_lossy_decoder_may_not_be_off_everywhere(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    fake.answer = lambda stream, samples: np.where(samples > 100, samples - 1, samples + 1).astype(
        samples.dtype
    )
    decoder.read(frames(tmp_path, 4, JPEG, 8))
    assert "on average by 1" in next(iter(decoder.kinds.values()))


def test_the_tolerance_is_none_for_lossless_and_small_for_lossy_kinds() -> None:
    def tolerance(uid: str, space: str = "") -> int:
        return Kind(uid, 8, 8, 7, 0, 8, 1, "", space, "").tolerance

    assert [tolerance(uid) for uid in (JPEG_LL, J2K, HTJ2K, J2K_LOSSY, JPEG, JPEG_12)] == [
        0,
        0,
        0,
        1,
        2,
        2,
    ]
    assert tolerance(JPEG, "YBR_FULL") == 6


# --- colour ---------------------------------------------------------------------------------------


def colours(count: int, rows: int = 16, columns: int = 24) -> list[Array]:
    rng = np.random.default_rng(3)
    corners = rng.integers(0, 256, (count, 2, 2, 3))
    return [
        np.kron(each, np.ones((rows // 2, columns // 2, 1))).astype(np.uint8) for each in corners
    ]


@pytest.mark.parametrize("sampling", ["444", "422", "420"])
def test_colour_jpeg_becomes_rgb_on_the_device(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder, sampling: str
) -> None:
    made = colours(5)
    facts = {"photometric_interpretation": "YBR_FULL_422"}
    sources = [
        write(
            tmp_path,
            in_item(imagecodecs.jpeg8_encode(i, level=95, subsampling=sampling)),
            i,
            JPEG,
            **facts,
        )
        for i in made
    ]
    for values, source in zip(decoder.read(sources), sources, strict=True):
        assert np.abs(as_numpy(values).astype(int) - read_frame(source)).max() <= 6
    assert list(decoder.kinds.values()) == ["trusted"]
    assert fake.frames == 5


def test_swapped_colours_are_found_out(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    fake.answer = lambda stream, samples: samples[..., ::-1].copy()
    sources = [
        write(
            tmp_path,
            in_item(imagecodecs.jpeg8_encode(i)),
            i,
            JPEG,
            photometric_interpretation="YBR_FULL",
        )
        for i in colours(4)
    ]
    agree(decoder, sources)
    assert "differs" in next(iter(decoder.kinds.values()))


def test_rgb_is_taken_as_it_is_coded(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    made = colours(4)
    named = [
        write(
            tmp_path,
            in_item(imagecodecs.jpeg8_encode(i, colorspace="RGB", outcolorspace="RGB")),
            i,
            JPEG,
        )
        for i in made
    ]
    wavelets = [write(tmp_path, in_item(encode_frame(i, J2K, 8)), i, J2K) for i in made]
    transformed = [
        write(
            tmp_path,
            in_item(imagecodecs.jpeg2k_encode(i, level=0, codecformat="j2k", mct=True)),
            i,
            J2K,
            photometric_interpretation="YBR_RCT",
        )
        for i in made
    ]
    agree(decoder, [*named, *wavelets, *transformed])
    assert set(decoder.kinds.values()) == {"trusted"}
    assert len(decoder.kinds) == 3


@pytest.mark.parametrize(("uid", "space"), [(J2K, "YBR_FULL"), (JPEG, "YBR_PARTIAL_422")])
def test_other_luminance_and_chrominance_is_left_to_the_cpu(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder, uid: str, space: str
) -> None:
    image = colours(1)[0]
    agree(
        decoder,
        [
            write(
                tmp_path,
                in_item(encode_frame(image, uid, 8)),
                image,
                uid,
                photometric_interpretation=space,
            )
        ],
    )
    assert fake.frames == 0


# --- what the CPU reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
def test_native_frames_keep_every_value(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder, dtype: str
) -> None:
    kind = np.dtype(dtype)
    info: Any = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    image = np.array([[info.min, 0, 1], [2, 3, info.max]], kind)
    source = write(tmp_path, image.tobytes(), image, LITTLE, float_pixels=kind.kind == "f")
    (values,) = decoder.read([source])
    wider = {"u2": torch.int32, "u4": torch.int64}
    assert values.dtype == wider.get(
        dtype,
        torch.from_numpy(image[:0].astype(kind.str.replace("u2", "i2").replace("u4", "i4"))).dtype,
    )
    assert values.tolist() == image.tolist()
    assert fake.frames == 0


def test_numbers_that_torch_has_not_are_refused() -> None:
    assert to_device(np.array([2**63 - 1], np.uint64), "cpu").tolist() == [2**63 - 1]
    with pytest.raises(DecodeError, match=r"2\*\*63"):
        to_device(np.array([2**63], np.uint64), "cpu")


def test_frames_of_all_kinds_come_in_the_order_asked_for(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    image = images(1)[0]
    rest = [
        write(tmp_path, image.tobytes(), image, LITTLE),
        write(tmp_path, in_item(encode_frame(image, RLE, 16)), image, RLE),
        write(tmp_path, in_item(encode_frame(image, JPEG_LS, 16)), image, JPEG_LS),
    ]
    mixed = [*frames(tmp_path, 20), *rest, *frames(tmp_path, 20, J2K)]
    order = np.random.default_rng(1).permutation(len(mixed))
    agree(decoder, [mixed[i] for i in order])
    assert fake.frames == 40
    assert decoder.read([]) == []


def test_tiles_of_a_mosaic_are_cut_by_the_cpu(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    (whole,) = frames(tmp_path, 1)
    tile = dataclasses.replace(
        whole, rows=8, columns=7, coded_rows=16, coded_columns=21, tile_top=8, tile_left=14
    )
    agree(decoder, [tile])
    assert fake.frames == 0


# --- damage ---------------------------------------------------------------------------------------


def test_a_stream_that_is_cut_or_contradicts_its_header_is_never_given_to_the_device(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    agree(decoder, frames(tmp_path, 3))
    asked = fake.frames
    image = images(1)[0]
    stream = encode_frame(image, JPEG_LL, 12)
    cut = write(tmp_path, in_item(stream[: len(stream) // 2]), image, JPEG_LL, bits_stored=12)
    with pytest.raises(TruncatedPixels) as caught:
        decoder.read([cut])
    assert "frame 1" in caught.value.__notes__[0]
    larger = write(tmp_path, in_item(stream), image, JPEG_LL, bits_stored=12, rows=4000)
    with pytest.raises(DecodeError, match="4000"):
        decoder.read([larger])
    assert fake.frames == asked


def test_what_both_refuse_is_the_cpus_error(
    tmp_path: Path, fake: FakeCodec, decoder: DeviceDecoder
) -> None:
    agree(decoder, frames(tmp_path, 3, J2K))
    image = images(1)[0]
    stream = encode_frame(image, J2K, 12)
    # A tile without data (T.800 A.4.2): SOT with the length of itself and SOD.
    at = stream.index(b"\xff\x90")
    tile = stream[at : at + 6] + (14).to_bytes(4, "big") + stream[at + 10 : at + 12] + b"\xff\x93"
    damaged = write(tmp_path, in_item(stream[:at] + tile + b"\xff\xd9"), image, J2K, bits_stored=12)
    with pytest.raises(DecodeError):
        decoder.read([damaged])
    assert fake.frames == 4


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("uid", [JPEG_LL, J2K])
def test_trust_in_right_aligned_frames_is_none_in_left_aligned_ones(
    tmp_path: Path, decoder: DeviceDecoder, uid: str, signed: bool
) -> None:
    """Both are coded with 16 bits; only HighBit distinguishes them."""
    right_aligned = [
        write(tmp_path, in_item(encode_frame(image, uid, 16)), image, uid, bits_stored=12)
        for image in images(4, 12, signed)
    ]
    left_aligned = [
        write(
            tmp_path,
            in_item(encode_frame(image << 4, uid, 16)),
            image << 4,
            uid,
            bits_stored=12,
            high_bit=15,
        )
        for image in images(5, 12, signed)
    ]
    agree(decoder, right_aligned)
    agree(decoder, left_aligned)
    assert [kind.high_bit for kind in decoder.kinds] == [11, 15]
    assert set(decoder.kinds.values()) == {"trusted"}


# --- the bits -------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    samples=st.sampled_from(["uint8", "int8", "uint16", "int16"]).flatmap(
        lambda name: npst.arrays(name, (2, 7))
    ),
    stored=st.integers(1, 16),
    left_aligned=st.booleans(),
    precision=st.one_of(st.none(), st.integers(0, 16)),
    representation=st.sampled_from([0, 1]),
    uid=st.sampled_from([JPEG_LL, J2K_LOSSY]),
)
def test_coded_bits_become_stored_values_as_pixels_makes_them(
    samples: Array,
    stored: int,
    left_aligned: bool,
    precision: int | None,
    representation: int,
    uid: str,
) -> None:
    for allocated in (8, 16):
        if 8 * samples.itemsize > allocated:
            continue
        bits = min(stored, allocated)
        high = (allocated if left_aligned else bits) - 1
        coded_bits = min(stored if precision is None else precision, allocated)
        header = (uid, allocated, bits, high, representation)
        kind = Kind(*header, coded_bits, 1, "MONOCHROME2", "", "")
        truth = samples.astype(f"{'ui'[representation]}{allocated // 8}")
        coded = CodedBits(coded_bits, samples.dtype.kind == "i", kind.lossy)
        keep_bits(truth, coded_rule(kind.header_bits, coded))
        found = keep_coded_bits(torch.from_numpy(samples), kind)
        assert found.tolist() == truth.tolist()
        assert found.dtype == to_device(truth, "cpu").dtype


# --- rescale and window ---------------------------------------------------------------------------

stored_arrays = st.sampled_from(
    ["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32"]
).flatmap(
    lambda name: npst.arrays(
        name,
        (2, 9),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
        if name == "float32"
        else None,
    )
)
finite = st.floats(-1e5, 1e5, allow_subnormal=False)
slopes = st.one_of(st.integers(-4, 4), finite).filter(bool)
centers = st.one_of(st.integers(-4096, 4096).map(float), finite)
widths = st.one_of(st.integers(1, 65536).map(float), st.floats(1, 1e5))
maps = st.one_of(
    st.builds(Window, centers, widths, st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"])),
    st.builds(
        lambda lower, width, clip: Limits(lower, lower + width, clip),
        centers,
        st.one_of(st.just(0.0), widths),
        st.booleans(),
    ),
    st.just(Identity()),
)


@pytest.mark.slow
@given(stored_arrays, slopes, st.one_of(st.integers(-4096, 4096), finite))
def test_a_rescale_gives_the_numbers_that_it_gives_for_arrays(
    stored: Array, slope: float, intercept: float
) -> None:
    rescale = Rescale(slope, intercept)
    truth = rescale(stored)
    found = to_modality(to_device(stored, "cpu"), rescale)
    assert found.is_floating_point() == (truth.dtype.kind == "f")
    assert np.array_equal(as_numpy(found), truth)


def test_a_range_that_the_caller_vouches_for_saves_a_look() -> None:
    stored = torch.tensor([0, 4095], dtype=torch.int32)
    assert to_modality(stored, Rescale(1, -1024), (0, 4095)).tolist() == [-1024, 3071]
    assert to_modality(stored, Rescale(2**20, 0)).dtype == torch.float32  # 2**32 does not fit
    assert to_modality(stored[:0], Rescale(2**20, 0)).dtype == torch.int32


def test_modality_values_beyond_float32_are_refused() -> None:
    with pytest.raises(IntensityError, match="float32"):
        to_modality(torch.tensor([5.0]), Rescale(1e38, 0))


@pytest.mark.slow
@given(stored_arrays, maps, st.booleans())
@settings(max_examples=300)
def test_a_recipe_maps_tensors_as_it_maps_arrays(values: Array, mapping: Any, invert: bool) -> None:
    recipe = Intensity(mapping, invert)
    truth = recipe(values)
    found = window(to_device(values, "cpu"), recipe)
    assert found.dtype == torch.float32
    # Each side is within 2 ulp of the exact value; 1 - x then keeps the absolute error.
    allowed = (
        2
        * np.spacing(
            np.maximum(
                np.abs(truth),
                np.abs(1 - truth.astype(np.float64)).astype(np.float32) if invert else 0,
            )
        )
        + 1e-38
    )
    assert (np.abs(as_numpy(found).astype(np.float64) - truth) <= allowed).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "mapping",
    [
        Window(0, 2),
        Window(0.5, 1, "LINEAR"),
        Window(0, 1, "SIGMOID"),
        Limits(1, 1),
        Limits(0, 1, False),
        Identity(),
    ],
)
def test_nan_stays_nan_and_nothing_is_written_to(mapping: Any, dtype: Any) -> None:
    values = torch.tensor([float("nan"), -3.0, 0.0, 3.0], dtype=dtype)
    before = values.clone()
    found = window(values, Intensity(mapping, invert=True))
    assert torch.isnan(found[0]) and not torch.isnan(found[1:]).any()
    assert torch.equal(values[1:], before[1:])
    assert window(values, mapping).data_ptr() != values.data_ptr()
    assert np.allclose(as_numpy(found)[1:], Intensity(mapping, invert=True)(before.numpy())[1:])


def test_a_map_is_taken_without_a_recipe_and_percentiles_need_their_limits() -> None:
    values = torch.arange(5, dtype=torch.int16)
    assert window(values, Limits(0, 4)).tolist() == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(UsageError, match="stack_intensity"):
        window(values, Percentile())


def test_a_function_of_the_users_gets_the_tensor_and_must_return_one() -> None:
    values = torch.arange(4, dtype=torch.int32)
    assert window(values, lambda x: x * 2).tolist() == [0, 2, 4, 6]
    assert window(values, Intensity(lambda x: x, invert=True)).tolist() == [1, 0, -1, -2]
    assert values.tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="does not take a tensor"):
        window(values, lambda x: x.astype(np.float32))
    with pytest.raises(UsageError, match="gave a ndarray"):
        window(values, lambda x: np.zeros(4))
    with pytest.raises(IntensityError, match="shape"):
        window(values, lambda x: x[:2])


# --- stacks ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("uid", [LITTLE, JPEG_LL, J2K])
@pytest.mark.parametrize(
    "intensity",
    [
        *("auto", "modality", (40, 400), Percentile(1, 99), dicomdl.ZScore()),
        (dicomdl.Clip(-900, 300), dicomdl.ZScore("foreground")),
    ],
    ids=repr,
)
def test_a_stack_is_what_read_volume_and_the_intensity_make_of_it(
    tmp_path: Path, decoder: DeviceDecoder, uid: str, intensity: Any
) -> None:
    write_series(
        tmp_path / "s",
        shape=(40, 10, 14),
        transfer_syntax=uid,
        slope=[1 + z % 2 for z in range(40)],
        intercept=-1000,
    )
    (stack,) = index_of(tmp_path / "s").stacks
    truth = stack_intensity(stack, intensity)(dicomdl.read_volume(stack).array)
    found = read_stack_on_device(stack, decoder, intensity)
    assert found.shape == (1, 40, 10, 14) and found.dtype == torch.float32
    assert np.allclose(as_numpy(found)[0], truth, rtol=3e-7, atol=0)
    assert set(decoder.kinds.values()) == ({"trusted"} if uid != LITTLE else set())


def test_monochrome1_projections_are_inverted_after_the_window(
    tmp_path: Path, decoder: DeviceDecoder
) -> None:
    write_series(tmp_path / "s", shape=(1, 10, 14), modality="DX", photometric="MONOCHROME1")
    (stack,) = index_of(tmp_path / "s").stacks
    recipe = stack_intensity(stack, "auto")
    assert recipe.invert
    found = read_stack_on_device(stack, decoder, irregular="accept")
    assert np.allclose(
        as_numpy(found)[0], recipe(dicomdl.read_volume(stack, irregular="accept").array), atol=2e-7
    )


def test_colour_is_channel_first(tmp_path: Path, decoder: DeviceDecoder) -> None:
    (tmp_path / "s").mkdir()
    write_secondary_capture(tmp_path / "s" / "a.dcm")
    stack = index_of(tmp_path / "s").stacks[0]
    array = dicomdl.read_volume(stack, irregular="accept").array
    found = read_stack_on_device(stack, decoder, irregular="accept")
    assert found.shape == (3, *array.shape[:3])
    assert np.allclose(
        as_numpy(found).transpose(1, 2, 3, 0), stack_intensity(stack, "auto")(array), rtol=3e-7
    )


def test_an_irregular_stack_is_refused_unless_it_is_accepted(
    tmp_path: Path, decoder: DeviceDecoder
) -> None:
    write_series(tmp_path / "s", shape=(8, 10, 14), drop=[3])
    (stack,) = index_of(tmp_path / "s").stacks
    with pytest.raises(IrregularStack) as caught:
        read_stack_on_device(stack, decoder)
    assert caught.value.verdict == "missing_slices" and caught.value.detail
    assert read_stack_on_device(stack, decoder, irregular="accept").shape == (1, 7, 10, 14)
    with pytest.raises(UsageError, match="irregular"):
        read_stack_on_device(stack, decoder, irregular="resample")  # type: ignore[arg-type]


# --- what is needed -------------------------------------------------------------------------------


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(MissingExtra, match=r"dicomdl\[gpu\]") as caught:
        DeviceDecoder("cpu")
    assert caught.value.extra == "gpu"


def test_without_cuda_a_sentence_says_so(fake: FakeCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingExtra, match="sees no CUDA") as caught:
        DeviceDecoder()
    assert caught.value.extra == "gpu"
    assert not fake.made


def test_without_a_driver_a_sentence_says_so(
    fake: FakeCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver(**options: Any) -> Any:
        raise RuntimeError("CUDA Runtime failure: '#35'")

    monkeypatch.setattr(fake, "Decoder", no_driver)
    with pytest.raises(MissingExtra, match="driver"):
        DeviceDecoder("cpu")


def test_wrong_use_is_a_usage_error(fake: FakeCodec) -> None:
    with pytest.raises(UsageError, match="samples"):
        DeviceDecoder("cpu", samples=0)
    with pytest.raises(UsageError, match="mps"):
        DeviceDecoder("mps")


def test_a_decoder_stays_in_its_process(
    tmp_path: Path, decoder: DeviceDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="main process"):
        pickle.dumps(decoder)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(UsageError, match="fork"):
        decoder.read(frames(tmp_path, 1))


# --- the real package -----------------------------------------------------------------------------


@pytest.fixture
def real() -> Any:
    return pytest.importorskip(
        "nvidia.nvimgcodec",
        reason="needs nvImageCodec (nvidia-nvimgcodec-cu12 or -cu13)",
        exc_type=ImportError,
    )


def test_the_real_package_has_what_is_used(real: Any) -> None:
    assert (
        int(getattr(real, "NVIMGCODEC_DEVICE_CPU_ONLY", kinds_module.CPU_ONLY))
        == kinds_module.CPU_ONLY
    )
    for name in ("UNCHANGED", "SRGB", "SYCC"):
        params = real.DecodeParams(
            apply_exif_orientation=False,
            color_spec=getattr(real.ColorSpec, name),
            allow_any_depth=True,
        )
        assert params.allow_any_depth and not params.apply_exif_orientation
    image = images(1)[0]
    for uid in (JPEG_LL, J2K):
        stream = real.CodeStream(encode_frame(image, uid, 12))
        assert (stream.height, stream.width, stream.dtype, stream.precision) == (
            16,
            21,
            np.uint16,
            12,
        )


@pytest.mark.parametrize("uid", [JPEG, JPEG_LL, J2K])
def test_the_real_package_on_the_cpu_gives_right_values_or_is_not_believed(
    real: Any, tmp_path: Path, uid: str
) -> None:
    decoder = DeviceDecoder("cpu")
    sources = frames(tmp_path, 5, uid, 8)
    for values, source in zip(decoder.read(sources), sources, strict=True):
        assert np.abs(as_numpy(values).astype(int) - read_frame(source)).max() <= 2 * (uid == JPEG)
    assert "proving" not in decoder.kinds.values()


@needs_cuda
@pytest.mark.parametrize("uid", [JPEG, JPEG_LL, J2K, J2K_LOSSY])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_gpu_gives_right_values_or_is_not_believed(
    real: Any, tmp_path: Path, uid: str, bits: int
) -> None:
    if uid == JPEG and bits > 8:
        pytest.skip("JPEG baseline has 8 bits")
    decoder = DeviceDecoder("cuda")
    sources = frames(tmp_path, 40, uid, bits)
    for values, source in zip(decoder.read(sources), sources, strict=True):
        assert values.device == decoder.device
        assert (
            np.abs(as_numpy(values).astype(int) - read_frame(source)).max()
            <= next(iter(decoder.kinds)).tolerance
        )
    assert "proving" not in decoder.kinds.values()


@needs_cuda
@given(stored_arrays, slopes, maps)
def test_a_gpu_rescales_and_windows_as_the_cpu_does(
    stored: Array, slope: float, mapping: Any
) -> None:
    rescale = Rescale(slope, -1024)
    on_cpu, on_gpu = (to_modality(to_device(stored, device), rescale) for device in ("cpu", "cuda"))
    assert torch.equal(on_gpu.cpu(), on_cpu)
    assert torch.allclose(
        window(on_gpu, mapping).cpu(), window(on_cpu, mapping), rtol=3e-7, atol=1e-38
    )


@needs_cuda
def test_a_real_stack_lands_on_a_gpu(real: Any, corpus: Path, tmp_path: Path) -> None:
    index = dicomdl.scan(corpus, tmp_path / "index", progress=False)
    decoder = DeviceDecoder("cuda")
    for stack in [stack for stack in index.stacks if stack.verdict == "regular"][:5]:
        truth = stack_intensity(stack, "auto")(dicomdl.read_volume(stack).array)
        found = as_numpy(read_stack_on_device(stack, decoder))
        assert np.allclose(
            found[0] if len(found) == 1 else found.transpose(1, 2, 3, 0), truth, atol=0.03
        )

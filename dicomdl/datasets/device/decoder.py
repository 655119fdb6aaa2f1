"""Frames as tensors on a device: nvImageCodec decodes the kinds of frames for which it was seen to be right; rescale and window run there.

The rule to know: trust is earned by each kind of frame (transfer syntax, bits, sign, colour, coding options). The first frames of
a kind are decoded by both sides and delivered from the CPU; a kind for which the device differs, fails or gives another shape is
never asked for again in this process, and `DeviceDecoder.kinds` says why. nvImageCodec 0.8 with nvJPEG of CUDA 12 returned
nothing but zeros for JPEG lossless of 9 to 15 bits, and for streams with their Huffman tables before the frame header, without
a word (its issue 50): hence the coding options are a part of the kind, and a frame of one value is no evidence and never believed.
What trust cannot give: a codestream that is damaged inside, behind sound headers, may come back as values where the CPU refuses it.

This module and `datasets` are the two doors to torch: this one for tensors on a device, used in the main process and never in
the workers of a DataLoader.

Verified without a GPU, on nvImageCodec 0.9.0 and 0.8.0: the calls used here exist and take these arguments, codestreams are
parsed, and a decoder that can decode nothing leads to the CPU's values. Not verified on hardware: which kinds earn trust, any
speed, and the hand-over of device memory by DLPack. Every decode, CPU-only ones too, needs NVIDIA's driver.
"""

import importlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from dicomdl.errors import DecodeError, GeometryError, IntensityError, IrregularStack, MissingExtra, UsageError, missing_extra
from dicomdl.index.index import Stack
from dicomdl.pixels import decoders as codecs
from dicomdl.pixels import read as pixels
from dicomdl.pixels.decoders import Source
from dicomdl.pixels.read import frame_shape, read_frame, stored_range
from dicomdl.storage.system import available_cores
from dicomdl.values.intensity import Identity, Intensity, IntensityMap, IntensityOption, Limits, Percentile, Rescale, VoiLut, Window
from dicomdl.values.reading import Conversion, conversions, is_colour, read_image
from dicomdl.volumes.volume import READABLE, stack_intensity

if TYPE_CHECKING:
    from torch import Tensor

Values = npt.NDArray[Any]
Given = TypeVar("Given")
Result = TypeVar("Result")

_DCT: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51))
_JPEG: Final = _DCT | {f"1.2.840.10008.1.2.4.{number}" for number in (57, 70)}
_JPEG_2000: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
_CPU_ONLY: Final = -99999  # NVIMGCODEC_DEVICE_CPU_ONLY, which Python sees from 0.9 on
_BATCH: Final = 32  # frames in flight: 64 MB of 512 x 512 in float64
_INT32: Final = np.iinfo(np.int32)
_TRUSTED: Final = "trusted"
_PROVING: Final = "proving"

_distrusted: dict["Kind", str] = {}  # of all decoders of this process: what one has found wrong, none tries again


@dataclass(frozen=True, slots=True)
class Kind:
    """What decoders treat alike: the frames for which one's being right speaks for the others.

    `bits_stored` and `pixel_representation` are the header's, `precision` the codestream's. `space` is the photometric
    interpretation of the decoded samples. `coding` lists the coding options that the codestream names (see `_coding`).
    """

    transfer_syntax_uid: str
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    precision: int
    samples_per_pixel: int
    photometric_interpretation: str
    space: str
    coding: str

    @property
    def lossy(self) -> bool:
        """Whether two right decoders may differ."""
        return codecs.find_syntax(self.transfer_syntax_uid).lossy

    @property
    def to_rgb(self) -> bool:
        """Whether luminance and chrominance become RGB, which the device does itself."""
        return self.space.startswith("YBR")

    @property
    def tolerance(self) -> int:
        """By how much the device may differ from the CPU in one sample.

        Lossless: not at all. JPEG 2000: 1, since its wavelets are computed in float32, whose error only shows where it changes
        a rounding. JPEG: 2, since an inverse DCT may be off by 1 (IEEE 1180), on either side. Where those become RGB, blue
        has 1 x luminance and 1.772 x chrominance: 2 + 3.5, rounded up.
        """
        if not self.lossy:
            return 0
        return 1 if self.transfer_syntax_uid in _JPEG_2000 else 6 if self.to_rgb else 2


class _Job(NamedTuple):
    """A frame for the device: its place in the batch, and its codestream."""

    place: int
    source: Source
    stream: bytes


# --- the decoder --------------------------------------------------------------------------------------------------


class DeviceDecoder:
    """Reads frames as tensors on a device, decoded there by nvImageCodec where that has proven itself.

    It holds CUDA state: make one in the main process and keep it. It cannot be pickled, and refuses to work in a fork. Threads
    may share it; they wait for each other.

    Parameters
    ----------
    device
        "cuda", "cuda:1", ...; "cpu" stands for nvImageCodec's own CPU decoders, for trying things out.
    samples
        How many frames of each kind have to agree with the CPU, at least 1.

    Raises
    ------
    MissingExtra
        nvImageCodec is not installed or finds no driver, or torch sees no CUDA; attribute `extra` is "gpu".
    UsageError
        Another kind of device, or no samples.
    """

    def __init__(self, device: Any = "cuda", samples: int = 3) -> None:
        if samples < 1:
            raise UsageError(f"samples is {samples}: trust needs at least 1 frame that agrees", samples=samples)
        self.samples = samples
        self.device: Any = _checked_device(device)
        self._codec = _nvimgcodec()
        number = _CPU_ONLY if self.device.type == "cpu" else self.device.index
        try:
            # libjpeg-turbo interpolates subsampled chrominance, which nvJPEG only does when asked to.
            self._decoder = self._codec.Decoder(device_id=number, options=":fancy_upsampling=1")
        except RuntimeError as error:
            raise MissingExtra(
                f"nvImageCodec cannot use {self.device}: check NVIDIA's driver with nvidia-smi", package="nvidia-nvimgcodec", extra="gpu"
            ) from error
        self._agreed: dict[Kind, int] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    @property
    def kinds(self) -> dict[Kind, str]:
        """Every kind met: "proving", "trusted", or the reason why the device does not decode it."""
        return {kind: self._state(kind) for kind in list(self._agreed)}

    def read(self, sources: Sequence[Source]) -> list["Tensor"]:
        """The stored values of frames, as `pixels.read_frame` means them, on the device.

        Parameters
        ----------
        sources
            Frames of any sizes and kinds.

        Returns
        -------
        list of Tensor
            One a frame, (rows, columns) or (rows, columns, samples), own memory. uint8, int8 and int16 as stored. uint16 becomes int32
            and uint32 int64, because torch computes with neither of them. Float pixels stay float32 or float64.

        Raises
        ------
        PixelError
            Of a frame that cannot be read: what `read_frame` raises.
        UsageError
            Called in another process than the one that made the decoder.
        """
        if os.getpid() != self._process:
            raise UsageError("a DeviceDecoder holds CUDA state, which a fork does not inherit: use it in the process that made it")
        with self._lock:
            values: list[Tensor] = []
            for start in range(0, len(sources), _BATCH):
                values += self._read_batch(sources[start : start + _BATCH])
            return values

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a DeviceDecoder holds CUDA state and cannot be pickled: use it in the main process, not in a DataLoader's workers"
        )

    def __repr__(self) -> str:
        states = list(self.kinds.values())
        trusted, proving = states.count(_TRUSTED), states.count(_PROVING)
        return (
            f"DeviceDecoder({self.device}: {trusted} kinds trusted, {proving} proving, {len(states) - trusted - proving} left to the CPU)"
        )

    def _state(self, kind: Kind) -> str:
        return _distrusted.get(kind) or (_TRUSTED if self._agreed.get(kind, 0) >= self.samples else _PROVING)

    def _read_batch(self, sources: Sequence[Source]) -> list["Tensor"]:
        jobs: dict[Kind, list[_Job]] = {}
        for place, examined in enumerate(_in_threads(_examine, sources)):
            if examined is not None:
                jobs.setdefault(examined[0], []).append(_Job(place, sources[place], examined[1]))
        found: dict[int, Tensor] = {}
        for kind, mine in jobs.items():
            found |= self._read_kind(kind, mine)
        rest = [place for place in range(len(sources)) if place not in found]
        found |= zip(rest, self._read_on_cpu([sources[place] for place in rest]), strict=True)
        return [found[place] for place in range(len(sources))]

    def _read_on_cpu(self, sources: Sequence[Source]) -> list["Tensor"]:
        return [to_device(values, self.device) for values in _in_threads(read_frame, sources)]

    def _read_kind(self, kind: Kind, jobs: list[_Job]) -> dict[int, "Tensor"]:
        """The frames of one kind by their places, but for those that are left to the CPU."""
        found: dict[int, Tensor] = {}
        self._agreed.setdefault(kind, 0)
        while jobs and self._state(kind) == _PROVING:
            needed = self.samples - self._agreed[kind]
            found |= self._prove(kind, jobs[:needed])
            jobs = jobs[needed:]
        if jobs and self._state(kind) == _TRUSTED:
            found |= self._read_trusted(kind, jobs)
        return found

    def _prove(self, kind: Kind, jobs: list[_Job]) -> dict[int, "Tensor"]:
        """The frames as the CPU reads them, after a look at what the device makes of them."""
        truths = self._read_on_cpu([job.source for job in jobs])  # first: what the CPU refuses is not given to the device
        for values, truth in zip(self._decode(kind, jobs), truths, strict=True):
            if values is None:
                self._distrust(kind, "nvImageCodec gives no image")
            elif difference := _difference(values, truth, kind):
                self._distrust(kind, difference)
            elif not _is_flat(truth):
                self._agreed[kind] += 1
        return {job.place: truth for job, truth in zip(jobs, truths, strict=True)}

    def _read_trusted(self, kind: Kind, jobs: list[_Job]) -> dict[int, "Tensor"]:
        """The frames that the device gave, without those that it did not; a frame of one value is read by the CPU as well."""
        values = self._decode(kind, jobs)
        flat = [job for job, value in zip(jobs, values, strict=True) if value is not None and _is_flat(value)]
        proven = self._prove(kind, flat) if flat else {}
        if self._state(kind) != _TRUSTED:
            return proven
        return {job.place: value for job, value in zip(jobs, values, strict=True) if value is not None} | proven

    def _decode(self, kind: Kind, jobs: list[_Job]) -> list["Tensor | None"]:
        """Stored values as the device decodes them, None where it does not; what no decoder may do ends the trust in the kind."""
        try:
            images = self._ask(kind, [job.stream for job in jobs])
        except Exception as error:  # whatever a foreign library raises; told in `kinds`, and the CPU has the last word
            self._distrust(kind, f"nvImageCodec failed with {type(error).__name__}: {str(error)[:200]}")
            return [None] * len(jobs)
        values: list[Tensor | None] = []
        for job, image in zip(jobs, images, strict=True):
            misfit = "" if image is None else _misfit(image, job.source)
            if misfit:
                self._distrust(kind, misfit)
            values.append(None if image is None or misfit else keep_coded_bits(image.reshape(frame_shape(job.source)), kind))
        return values

    def _ask(self, kind: Kind, streams: list[bytes]) -> list["Tensor | None"]:
        import torch

        codec = self._codec
        # Without this, an EXIF orientation would turn the frame and more than 8 bits would be scaled to 8.
        space = getattr(codec.ColorSpec, _color_spec(kind))
        params = codec.DecodeParams(apply_exif_orientation=False, color_spec=space, allow_any_depth=True)
        on_cpu = self.device.type == "cpu"
        queue = 0 if on_cpu else torch.cuda.current_stream(self.device).cuda_stream
        images = self._decoder.decode([codec.CodeStream(stream) for stream in streams], params=params, cuda_stream=queue)
        if len(images) != len(streams):
            raise RuntimeError(f"{len(images)} images for {len(streams)} codestreams")
        # DLPack of an image in host memory asks for CUDA as well, so that one goes by numpy.
        take: Callable[[Any], Tensor] = (lambda image: torch.from_numpy(np.array(image))) if on_cpu else torch.utils.dlpack.from_dlpack
        return [None if image is None else take(image) for image in images]

    def _distrust(self, kind: Kind, reason: str) -> None:
        _distrusted.setdefault(kind, reason)


def _checked_device(device: Any) -> Any:
    import torch

    found = torch.device(device)
    if found.type not in ("cuda", "cpu"):
        raise UsageError(f"device is {found}: nvImageCodec decodes for cuda devices", device=str(found))
    if found.type == "cpu":
        return found
    if not torch.cuda.is_available():
        raise MissingExtra(
            f"decoding on {found} needs a GPU, its driver and a torch built for CUDA; this torch ({torch.__version__}) sees no CUDA",
            package="torch",
            extra="gpu",
        )
    return torch.device("cuda", torch.cuda.current_device() if found.index is None else found.index)


def _nvimgcodec() -> Any:
    try:
        return importlib.import_module("nvidia.nvimgcodec")
    except ImportError as error:
        raise missing_extra("decoding on a GPU", "nvidia-nvimgcodec", "gpu") from error


def _in_threads(work: Callable[[Given], Result], items: Sequence[Given]) -> list[Result]:
    """work(item) of all, in order; the first error is raised."""
    workers = min(len(items), available_cores())
    if workers <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, items))


# --- kinds --------------------------------------------------------------------------------------------------------


def _examine(source: Source) -> tuple[Kind, bytes] | None:
    """The kind and the codestream of a frame, after the checks that come before every decoder; None for what the CPU reads anyway."""
    uid, samples = source.transfer_syntax_uid, source.samples_per_pixel
    small = source.bits_allocated in (8, 16) and samples in (1, 3) and source.rows * source.columns > 0
    if uid not in _JPEG | _JPEG_2000 or not small or source.coded_rows or source.float_pixels:
        return None
    with pixels.named(source):
        pixels.require_justified(math.prod(frame_shape(source)) * source.bits_allocated // 8, [source], pixels.FREE_FRAME_BYTES, None)
        stream = pixels.read_codestream(source)
        facts = codecs.find_syntax(uid).inspect(stream)
        codecs.check_facts(facts, source, len(stream))
    space, stored = codecs.coded_space(facts, source), pixels.stored_bits(source)[0]
    rgb_of_jpeg = uid in _DCT and facts.precision == 8 and space in ("YBR_FULL", "YBR_FULL_422")
    if samples == 3 and not (space == "RGB" or rgb_of_jpeg):
        return None  # no device has our formula for other luminance and chrominance
    header = (uid, source.bits_allocated, stored, source.pixel_representation, facts.precision, samples)
    coding = _coding(stream, uid)
    return Kind(*header, source.photometric_interpretation, space if samples == 3 else "", coding), stream


def _coding(stream: bytes, uid: str) -> str:
    """The options that a codestream's headers name, which choose a decoder's paths: one word each."""
    if uid in _JPEG:
        words = [marker + part for marker, part in _jpeg_options(stream)]
        return " ".join(word for word, before in zip(words, ["", *words], strict=False) if word != before)
    start = stream.find(b"\xff\x4f\xff\x51")
    size = stream[start + 4 : start + 4 + int.from_bytes(stream[start + 4 : start + 6], "big")]
    tiled = size[4:12] != size[20:28] or size[12:20] != size[28:36]
    words = ["jp2" if start else "j2k", *(["tiled"] if tiled else []), f"SIZ{size[36:].hex()}"]
    # CAP, COD, COC: wavelet, blocks, progression, component transform (ITU-T T.800 A.6).
    header = codecs.main_header(stream, start + 4 + len(size))
    return " ".join(words + [f"{marker:02X}{part.hex()}" for marker, part in header if marker in (0x50, 0x52, 0x53)])


def _jpeg_options(stream: bytes) -> Iterator[tuple[str, str]]:
    """Markers up to the first scan in their order, with sampling factors, predictor and point transform; ITU-T T.81 B.2."""
    for marker, segment in codecs.jpeg_segments(stream):
        if marker in (0xE0, 0xEE, 0xC4, 0xCC, 0xDB, 0xDD):
            yield f"{marker:02X}", ""
        elif 0xC0 <= marker <= 0xCF:
            yield f"{marker:02X}", segment[7::3].hex()
        elif marker == 0xDA:
            yield "DA", segment[:1].hex() + segment[-3:].hex()


def _color_spec(kind: Kind) -> str:
    """What to ask for so that no colour is converted but YBR to RGB; nvImageCodec takes every JPEG of three components for YCbCr."""
    if kind.samples_per_pixel == 3 and kind.transfer_syntax_uid in _JPEG:
        return "SRGB" if kind.to_rgb else "SYCC"
    return "UNCHANGED"


def _misfit(image: "Tensor", source: Source) -> str:
    """Why an image cannot hold the frame, "" when it can: (rows, columns, samples) of integers no wider than BitsAllocated."""
    expected = (source.rows, source.columns, source.samples_per_pixel)
    name = str(image.dtype).removeprefix("torch.")
    width = {"uint8": 8, "int8": 8, "uint16": 16, "int16": 16}.get(name, 64)
    if tuple(image.shape) in (expected, frame_shape(source)) and width <= source.bits_allocated:
        return ""
    return f"nvImageCodec gives {name} of {tuple(image.shape)} for {source.bits_allocated} bits of {expected}"


def _difference(values: "Tensor", truth: "Tensor", kind: Kind) -> str:
    """How the device differs from the CPU, "" where it is right; lossy ones may not be off all over the frame."""
    import torch

    apart = (values.to(torch.int32) - truth.to(torch.int32)).abs_()
    largest, average = int(apart.max()), float(apart.to(torch.float64).mean())
    if largest <= kind.tolerance and average <= 0.5:
        return ""
    return f"differs from the CPU by {largest}, on average by {average:.3g}, where {kind.tolerance} is allowed"


def _is_flat(values: "Tensor") -> bool:
    low, high = values.aminmax()
    return bool(low == high)


# --- stored values on a device ------------------------------------------------------------------------------------


def to_device(values: Values, device: Any) -> "Tensor":
    """An array of stored values on a device, in the dtypes of `DeviceDecoder.read`; through pinned memory where that is CUDA.

    DecodeError when uint64 values are beyond int64.
    """
    import torch

    if values.dtype == np.uint64 and values.size and int(values.max()) >= 1 << 63:
        raise DecodeError("stored values of 2**63 and more: torch has no integers for them")
    plain = values.view(f"i{values.itemsize}") if values.dtype.kind == "u" and values.itemsize > 1 else values
    tensor = torch.from_numpy(np.ascontiguousarray(plain))
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    tensor = tensor.to(device, non_blocking=True)
    return _unsigned(tensor, values.itemsize) if values.dtype.kind == "u" else tensor


def _unsigned(tensor: "Tensor", itemsize: int) -> "Tensor":
    """The numbers whose bits the signed tensor holds, in twice the width: torch has hardly any operation on uint16 and uint32."""
    import torch

    if itemsize == 2:
        return tensor.to(torch.int32).bitwise_and_(0xFFFF)
    return tensor.to(torch.int64).bitwise_and_(0xFFFFFFFF) if itemsize == 4 else tensor


def keep_coded_bits(samples: "Tensor", kind: Kind) -> "Tensor":
    """Decoded samples as stored values: the header's sign, no bits above BitsStored, overshoot clipped; as `pixels` does it.

    Parameters
    ----------
    samples
        uint8, int8, uint16 or int16 of any shape, as a decoder gave them; unchanged.

    Returns
    -------
    Tensor
        uint8, int8, int16, or int32 for unsigned values of 16 bits allocated; a new tensor.
    """
    import torch

    coded_signed = samples.dtype in (torch.int8, torch.int16)
    wide = samples.element_size() == 2 and not coded_signed
    values = _unsigned(samples.view(torch.int16), 2) if wide else samples.to(torch.int32, copy=True)
    signed, stored = kind.pixel_representation == 1, kind.bits_stored
    if signed and not coded_signed:
        # JPEG knows no sign, JPEG 2000 streams may be labelled wrongly: the header's counts.
        _extend_sign(values, min(stored, kind.precision or stored))
    elif kind.lossy and signed == coded_signed:
        if stored < kind.bits_allocated and kind.precision != stored:  # to wrap overshoot round would turn white into black
            values.clamp_(-(1 << stored - 1) if signed else 0, (1 << stored - signed) - 1)
    elif signed:
        _extend_sign(values, stored)
    else:
        values.bitwise_and_((1 << stored) - 1)
    dtypes = {(8, 0): torch.uint8, (8, 1): torch.int8, (16, 0): torch.int32, (16, 1): torch.int16}
    return values.to(dtypes[kind.bits_allocated, kind.pixel_representation])


def _extend_sign(values: "Tensor", bits: int) -> None:
    """Make two's complement numbers of the lowest `bits` of int32 values, in place."""
    values.bitwise_left_shift_(32 - bits).bitwise_right_shift_(32 - bits)


# --- stored -> modality -> network, on any device -----------------------------------------------------------------


def to_modality(stored: "Tensor", rescale: Rescale, stored_range: tuple[int, int] | None = None) -> "Tensor":
    """Modality values, the numbers that `Rescale` gives for an array: computed in float64 and rounded once.

    Parameters
    ----------
    stored
        Any shape and device, as `DeviceDecoder.read` gives them; integers up to 32 bits are exact.
    stored_range
        Bounds that the caller vouches for, such as (0, 4095); without them the values are looked at where their dtype leaves doubt.

    Returns
    -------
    Tensor
        int32 when slope, intercept and stored values are integers and fit, else float32; a new tensor.

    Raises
    ------
    IntensityError
        Values beyond the range of float32.
    """
    import torch

    values = stored.to(torch.float64, copy=True).mul_(rescale.slope).add_(rescale.intercept)
    integers = not stored.dtype.is_floating_point and rescale.is_integral
    if integers and (_fits_int32(_ends(stored, rescale, stored_range)) or _fits_int32(_extremes(values))):
        return values.to(torch.int32)
    result = values.to(torch.float32)
    if bool((result.isinf() & ~stored.isinf()).any()):
        message = f"slope {rescale.slope} and intercept {rescale.intercept} give values beyond the range of float32"
        raise IntensityError(message, slope=rescale.slope, intercept=rescale.intercept)
    return result


def _ends(stored: "Tensor", rescale: Rescale, stored_range: tuple[int, int] | None) -> tuple[float, float]:
    import torch

    limits = torch.iinfo(torch.uint8 if stored.dtype == torch.bool else stored.dtype)
    ends = [value * rescale.slope + rescale.intercept for value in stored_range or (limits.min, limits.max)]
    return min(ends), max(ends)


def _extremes(values: "Tensor") -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)


def _fits_int32(ends: tuple[float, float]) -> bool:
    return _INT32.min <= ends[0] and ends[1] <= _INT32.max


def window(values: "Tensor", intensity: Intensity | IntensityMap) -> "Tensor":
    """Network values of a tensor, on its device: what `Intensity` gives for an array, within 2 ulp of the exact formula.

    Parameters
    ----------
    values
        Modality values of any shape, dtype and device.
    intensity
        A resolved recipe (`volume.stack_intensity`), or a map: Window, Limits, Identity, or a function of the user's that takes a
        tensor and returns one of the same shape and device.

    Returns
    -------
    Tensor
        float32 of the shape of `values`, a new tensor; NaN stays NaN.

    Raises
    ------
    UsageError
        Percentiles without limits, or a function that does not take or give tensors.
    IntensityError
        A function that changes the shape.
    """
    recipe = intensity if isinstance(intensity, Intensity) else Intensity(intensity)
    result = _mapped(values, recipe.mapping)
    return 1 - result if recipe.invert else result


def _mapped(values: "Tensor", mapping: IntensityMap) -> "Tensor":
    import torch

    if isinstance(mapping, Percentile):
        raise UsageError("the percentiles have no limits yet: take the recipe that volume.stack_intensity gives for the stack")
    if isinstance(mapping, Identity):
        return values.to(torch.float32, copy=True)
    if isinstance(mapping, Limits):
        return _ramp(values, mapping.lower, mapping.upper - mapping.lower, mapping.clip)
    if isinstance(mapping, VoiLut):
        table = torch.tensor(mapping.table.entries.astype(np.float32) / np.float32(mapping.scale), device=values.device)
        places = torch.nan_to_num(values.to(torch.float64).round(), nan=mapping.table.first) - mapping.table.first
        return table[places.clamp_(0, len(table) - 1).to(torch.int64)]
    if not isinstance(mapping, Window):
        return _by_function(values, mapping)
    if mapping.function == "SIGMOID":  # PS3.3 C.11.2.1.3.1
        steepness = values.to(torch.float64, copy=True).sub_(mapping.center).mul_(-4 / mapping.width)
        return steepness.exp_().add_(1).reciprocal_().to(torch.float32)
    return _ramp(values, mapping.limits[0], mapping.width - 1 if mapping.function == "LINEAR" else mapping.width, True)


def _ramp(values: "Tensor", lower: float, width: float, clip: bool) -> "Tensor":
    """``(values - lower) / width``, in float32 where nothing but the result is rounded by it; a step at `lower` when `width` is 0."""
    import torch

    if width == 0:
        above = values.to(torch.float64, copy=True).sub_(lower)
        return torch.where(above.isnan(), above, (above > 0).to(torch.float64)).to(torch.float32)
    single = torch.float32
    exact = values.dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16, single)
    rounded_lower, rounded_width = torch.tensor((lower, width), dtype=single).tolist()
    work = single if exact and rounded_lower == lower and 0 < rounded_width < math.inf else torch.float64
    # CUDA multiplies by the reciprocal of a plain number, which costs a bit of precision; a tensor is divided by.
    divisor = torch.full((), width, dtype=work, device=values.device)
    result = values.to(work, copy=True).sub_(lower).div_(divisor)
    return (result.clamp_(0, 1) if clip else result).to(single)


def _by_function(values: "Tensor", function: IntensityMap) -> "Tensor":
    import torch

    on_tensors: Callable[[Any], Any] = function
    try:
        result = on_tensors(values)
    except (TypeError, AttributeError, RuntimeError) as error:
        message = (
            f"the intensity function does not take a tensor on {values.device} ({type(error).__name__}): write it with torch operations"
        )
        raise UsageError(message) from error
    if not isinstance(result, torch.Tensor) or result.device != values.device:
        raise UsageError(f"the intensity function gave a {type(result).__name__}: on a device it must return a tensor on {values.device}")
    if result.shape != values.shape:
        raise IntensityError(f"the intensity function made shape {tuple(result.shape)} of {tuple(values.shape)}: it must keep the shape")
    return result.to(torch.float32, copy=True)


# --- stacks -------------------------------------------------------------------------------------------------------


def read_stack(
    stack: Stack, decoder: DeviceDecoder, intensity: IntensityOption = "auto", *, irregular: Literal["raise", "accept"] = "raise"
) -> "Tensor":
    """A stack's network values on the device of a decoder: what `read_volume` and the intensity make of it.

    Frames are read, rescaled by their own rescales and windowed 32 at a time, so that beside the result only those are in memory.

    Parameters
    ----------
    stack
        One of ``index.stacks``.
    intensity
        As for `FrameDataset`; percentiles are those of the stack, read once by the CPU and kept.
    irregular
        "accept" takes slices that do not make a grid as they lie; only `read_volume` resamples.

    Returns
    -------
    Tensor
        float32, (channels, slices, rows, columns); 3 channels for colour, palettes among them.

    Raises
    ------
    IrregularStack
        The verdict does not allow a volume; attributes `verdict` and `detail`.
    GeometryError, PixelError, IntensityError, UsageError
        As for `read_volume`, `DeviceDecoder.read` and `window`.
    """
    import torch

    if irregular not in ("raise", "accept"):
        raise UsageError(f"irregular={irregular!r}: expected 'raise' or 'accept'")
    if irregular == "raise" and stack.verdict not in READABLE:
        message = f"the stack is {stack.verdict}: pass irregular='accept' to take it as it lies, or resample it by read_volume"
        raise IrregularStack(message, verdict=stack.verdict, detail=stack.detail)
    recipe, palettes = stack_intensity(stack, intensity), stack.content == "image"
    sources, own = stack.sources, conversions(stack, recipe.quantity)
    shapes = {frame_shape(source) for source in sources}
    if len(shapes) != 1:
        raise GeometryError(f"the frames have different sizes: {sorted(shapes)}", shapes=sorted(shapes))
    colour = is_colour(sources[0], palettes=palettes)
    channels = max(sources[0].samples_per_pixel, 3) if colour else 1
    result = torch.empty((channels, len(sources), *shapes.pop()[:2]), dtype=torch.float32, device=decoder.device)
    for start in range(0, len(sources), _BATCH):
        run = slice(start, start + _BATCH)
        for place, (values, padding) in enumerate(_read_converted(sources[run], own[run], decoder, palettes), start):
            if padding is not None and (lowest := recipe.floor(_numpy_dtype(values))) is not None:
                values = values.masked_fill(padding, lowest)
            mapped = window(values, recipe)
            result[:, place] = mapped.movedim(-1, 0) if colour else mapped
    return result


def _numpy_dtype(values: "Tensor") -> np.dtype[Any]:
    return np.dtype(str(values.dtype).removeprefix("torch."))


def _read_converted(
    sources: Sequence[Source], own: Sequence[Conversion], decoder: DeviceDecoder, palettes: bool
) -> "list[tuple[Tensor, Tensor | None]]":
    """Converted values of a few frames on the device and where they are padding; colour has none but its stored values (PS3.3 C.11.1).

    Tables, maps and palettes are applied by the CPU.
    """
    source = sources[0]
    if any(one.table is not None for one in own) or (palettes and source.photometric_interpretation == "PALETTE COLOR"):
        images = [read_image(source, one, palettes=palettes) for source, one in zip(sources, own, strict=True)]  # type: ignore[arg-type]
        put = decoder.device
        return [(to_device(array, put), None if padding is None else to_device(padding, put)) for array, padding in images]
    stored = decoder.read(sources)
    if source.samples_per_pixel > 1:
        return [(values, None) for values in stored]
    ranges = [None if source.float_pixels else stored_range(source) for source in sources]
    return [
        (to_modality(values, one.rescale, bounds), _padding(values, one.padding))
        for values, one, bounds in zip(stored, own, ranges, strict=True)
    ]


def _padding(stored: "Tensor", ends: tuple[int, int] | None) -> "Tensor | None":
    return None if ends is None else (stored >= ends[0]) & (stored <= ends[1])

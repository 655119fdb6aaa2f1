"""Frames as tensors on a device.

NvImageCodec decodes the kinds of frames for which it was seen to be right; rescale and window run
there.

The rule to know: trust is earned by each kind of frame (transfer syntax, bits, sign, colour, coding
options). The first frames of a kind are decoded by both sides and delivered from the CPU; a kind
for which the device differs, fails or gives another shape is never asked for again in this process,
and `DeviceDecoder.kinds` says why. nvImageCodec 0.8 with nvJPEG of CUDA 12 returned nothing but
zeros for JPEG lossless of 9 to 15 bits, and for streams with their Huffman tables before the frame
header, without a word (its issue 50): hence the coding options are a part of the kind, and a frame
of one value is no evidence and never believed. What trust cannot give: a codestream that is damaged
inside, behind sound headers, may come back as values where the CPU refuses it.

This module and `datasets` are the two doors to torch: this one for tensors on a device, used in the
main process and never in the workers of a DataLoader.

Verified without a GPU, on nvImageCodec 0.9.0 and 0.8.0: the calls used here exist and take these
arguments, codestreams are parsed, and a decoder that can decode nothing leads to the CPU's values.
Not verified on hardware: which kinds earn trust, any speed, and the hand-over of device memory by
DLPack. Every decode, CPU-only ones too, needs NVIDIA's driver.
"""

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar

import numpy as np

from dicomdl.errors import MissingExtra, UsageError, missing_extra
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.read import read_frame
from dicomdl.pixels.stored import frame_shape
from dicomdl.storage.memory import decisions
from dicomdl.storage.system import available_cores

if TYPE_CHECKING:
    from torch import Tensor
from dicomdl.datasets.device._kinds import (
    CPU_ONLY,
    Kind,
    color_spec,
    difference_of,
    examine,
    is_flat,
    misfit_of,
)
from dicomdl.datasets.device._values import keep_coded_bits, to_device

Given = TypeVar("Given")
Result = TypeVar("Result")
BATCH: Final = 32  # frames in flight: 64 MB of 512 x 512 in float64
_TRUSTED: Final = "trusted"
_PROVING: Final = "proving"
# Per kind of frame, why no decoder of this process uses the device for it: what one decoder has
# found wrong is the
# library's fault, so that it outlives the decoder and none tries again before
# `storage.memory.clear`.
_distrusted: Final[dict["Kind", str]] = decisions()


class _Job(NamedTuple):
    """A frame for the device: its place in the batch, and its codestream."""

    place: int
    source: FrameLike
    stream: bytes


# --- the decoder ----------------------------------------------------------------------------------


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
            raise UsageError(
                f"samples is {samples}: trust needs at least 1 frame that agrees", samples=samples
            )
        self.samples = samples
        self.device: Any = _checked_device(device)
        self._codec = _nvimgcodec()
        number = CPU_ONLY if self.device.type == "cpu" else self.device.index
        try:
            # libjpeg-turbo interpolates subsampled chrominance, which nvJPEG only
            # does when asked to.
            self._decoder = self._codec.Decoder(device_id=number, options=":fancy_upsampling=1")
        except RuntimeError as error:
            raise MissingExtra(
                f"nvImageCodec cannot use {self.device}: check NVIDIA's driver with nvidia-smi",
                package="nvidia-nvimgcodec",
                extra="gpu",
            ) from error
        self._agreed: dict[Kind, int] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    @property
    def kinds(self) -> dict[Kind, str]:
        """Every kind met: "proving", "trusted", or the reason why the device does not decode it."""
        return {kind: self._state(kind) for kind in list(self._agreed)}

    def read(self, sources: Sequence[FrameLike]) -> list["Tensor"]:
        """The stored values of frames, as `pixels.read_frame` means them, on the device.

        Parameters
        ----------
        sources
            Frames of any sizes and kinds.

        Returns
        -------
        list of Tensor
            One a frame, (rows, columns) or (rows, columns, samples), own memory. uint8, int8 and
            int16 as stored. uint16 becomes int32 and uint32 int64, because torch computes with
            neither of them. Float pixels stay float32 or float64.

        Raises
        ------
        PixelError
            Of a frame that cannot be read: what `read_frame` raises.
        UsageError
            Called in another process than the one that made the decoder.
        """
        if os.getpid() != self._process:
            raise UsageError(
                "a DeviceDecoder holds CUDA state, which a fork does not inherit: use it in the process that made it"
            )
        with self._lock:
            values: list[Tensor] = []
            for start in range(0, len(sources), BATCH):
                values += self._read_batch(sources[start : start + BATCH])
            return values

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a DeviceDecoder holds CUDA state and cannot be pickled: use it in the main process, not in a DataLoader's workers"
        )

    def __repr__(self) -> str:
        states = list(self.kinds.values())
        trusted, proving = states.count(_TRUSTED), states.count(_PROVING)
        return f"DeviceDecoder({self.device}: {trusted} kinds trusted, {proving} proving, {len(states) - trusted - proving} left to the CPU)"

    def _state(self, kind: Kind) -> str:
        return _distrusted.get(kind) or (
            _TRUSTED if self._agreed.get(kind, 0) >= self.samples else _PROVING
        )

    def _read_batch(self, sources: Sequence[FrameLike]) -> list["Tensor"]:
        jobs: dict[Kind, list[_Job]] = {}
        for place, examined in enumerate(_in_threads(examine, sources)):
            if examined is not None:
                jobs.setdefault(examined[0], []).append(_Job(place, sources[place], examined[1]))
        found: dict[int, Tensor] = {}
        for kind, mine in jobs.items():
            found |= self._read_kind(kind, mine)
        rest = [place for place in range(len(sources)) if place not in found]
        found |= zip(rest, self._read_on_cpu([sources[place] for place in rest]), strict=True)
        return [found[place] for place in range(len(sources))]

    def _read_on_cpu(self, sources: Sequence[FrameLike]) -> list["Tensor"]:
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
        # first: what the CPU refuses is not given to the device
        truths = self._read_on_cpu([job.source for job in jobs])
        for values, truth in zip(self._decode(kind, jobs), truths, strict=True):
            if values is None:
                self._distrust(kind, "nvImageCodec gives no image")
            elif difference := difference_of(values, truth, kind):
                self._distrust(kind, difference)
            elif not is_flat(truth):
                self._agreed[kind] += 1
        return {job.place: truth for job, truth in zip(jobs, truths, strict=True)}

    def _read_trusted(self, kind: Kind, jobs: list[_Job]) -> dict[int, "Tensor"]:
        """The frames that the device gave, without those that it did not.

        A frame of one value is read by the CPU as well.
        """
        values = self._decode(kind, jobs)
        flat = [
            job
            for job, value in zip(jobs, values, strict=True)
            if value is not None and is_flat(value)
        ]
        proven = self._prove(kind, flat) if flat else {}
        if self._state(kind) != _TRUSTED:
            return proven
        return {
            job.place: value for job, value in zip(jobs, values, strict=True) if value is not None
        } | proven

    def _decode(self, kind: Kind, jobs: list[_Job]) -> list["Tensor | None"]:
        """Stored values as the device decodes them, None where it does not.

        What no decoder may do ends the trust in the kind.
        """
        try:
            images = self._ask(kind, [job.stream for job in jobs])
        except Exception as error:
            # whatever a foreign library raises; told in `kinds`, and the CPU has the
            # last word
            self._distrust(
                kind, f"nvImageCodec failed with {type(error).__name__}: {str(error)[:200]}"
            )
            return [None] * len(jobs)
        values: list[Tensor | None] = []
        for job, image in zip(jobs, images, strict=True):
            misfit = "" if image is None else misfit_of(image, job.source)
            if misfit:
                self._distrust(kind, misfit)
            values.append(
                None
                if image is None or misfit
                else keep_coded_bits(image.reshape(frame_shape(job.source)), kind)
            )
        return values

    def _ask(self, kind: Kind, streams: list[bytes]) -> list["Tensor | None"]:
        import torch

        codec = self._codec
        # Without this, an EXIF orientation would turn the frame and more than 8 bits
        # would be scaled to 8.
        space = getattr(codec.ColorSpec, color_spec(kind))
        params = codec.DecodeParams(
            apply_exif_orientation=False, color_spec=space, allow_any_depth=True
        )
        on_cpu = self.device.type == "cpu"
        queue = 0 if on_cpu else torch.cuda.current_stream(self.device).cuda_stream
        images = self._decoder.decode(
            [codec.CodeStream(stream) for stream in streams], params=params, cuda_stream=queue
        )
        if len(images) != len(streams):
            raise RuntimeError(f"{len(images)} images for {len(streams)} codestreams")
        # DLPack of an image in host memory asks for CUDA as well, so that one goes by numpy.
        take: Callable[[Any], Tensor] = (
            (lambda image: torch.from_numpy(np.array(image)))
            if on_cpu
            else torch.utils.dlpack.from_dlpack
        )
        return [None if image is None else take(image) for image in images]

    def _distrust(self, kind: Kind, reason: str) -> None:
        _distrusted.setdefault(kind, reason)


def _checked_device(device: Any) -> Any:
    import torch

    found = torch.device(device)
    if found.type not in ("cuda", "cpu"):
        raise UsageError(
            f"device is {found}: nvImageCodec decodes for cuda devices", device=str(found)
        )
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

"""The decoder of frames on a device: nvImageCodec, for kinds of frames that it decodes correctly.

Each kind of frame (transfer syntax, bits, sign, colour, coding options) must earn trust. The first
frames of a kind are decoded by both the CPU and the device, and the CPU's values are delivered. If
the device differs, fails or returns another shape, it is not used for the kind again in this
process, and `DeviceDecoder.kinds` reports the reason.

nvImageCodec 0.8 with nvJPEG of CUDA 12 silently returned zeros for JPEG lossless of 9 to 15 bits,
and for streams with Huffman tables before the frame header (its issue 50). Hence the coding options
are part of the kind, and a frame with a single value is always decoded by the CPU too. Trust has a
limit: a codestream that is damaged behind valid headers may yield values that the CPU would refuse.

The decoder works in the main process and refuses to work in the workers of a DataLoader.

Verified without a GPU, on nvImageCodec 0.9.0 and 0.8.0: the calls used here exist and take these
arguments, codestreams are parsed, and a decoder that decodes no frame leads to the CPU's values.
Not verified on hardware: the kinds that earn trust, any speed, and the transfer of device memory by
DLPack. Every decode, even by nvImageCodec's CPU decoders, needs NVIDIA's driver.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar

import numpy as np

from dicomdl.errors import MissingExtra, UsageError
from dicomdl.extras import import_extra
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
# Frames decoded at a time: 64 MB for 512 x 512 in float64.
BATCH: Final = 32
_TRUSTED: Final = "trusted"
_PROVING: Final = "proving"
# The reason per kind of frame why no decoder of this process uses the device for it. A fault is the
# library's, so the decision outlives the decoder, until `storage.memory.clear`.
_distrusted: Final[dict["Kind", str]] = decisions()


class _Job(NamedTuple):
    """A frame for the device: its index in the batch, its source, and its codestream."""

    position: int
    source: FrameLike
    stream: bytes


# --- the decoder ----------------------------------------------------------------------------------


class DeviceDecoder:
    """A reader of frames as tensors on a device, decoded by nvImageCodec or by the CPU.

    nvImageCodec decodes the kinds of frames for which it has agreed with the CPU. The decoder holds
    CUDA state: create one in the main process and reuse it. It cannot be pickled, and refuses to
    work in a fork. Threads may share it; they wait for each other.

    Parameters
    ----------
    device
        "cuda", "cuda:1", ...; "cpu" means nvImageCodec's CPU decoders, for experiments.
    samples
        The number of frames of each kind that must agree with the CPU, at least 1.

    Attributes
    ----------
    kinds
        The state of each kind of frame so far.

    Raises
    ------
    MissingExtra
        nvImageCodec is not installed or finds no driver, or torch has no CUDA; the attribute
        `extra` is "gpu".
    UsageError
        The device is neither "cuda" nor "cpu", or `samples` is below 1.
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
            # libjpeg-turbo interpolates subsampled chrominance; nvJPEG does so with this option.
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
        """The state of each kind so far: "proving", "trusted", or a reason to use the CPU."""
        return {kind: self._state(kind) for kind in list(self._agreed)}

    def read(self, sources: Sequence[FrameLike]) -> list["Tensor"]:
        """Return the stored values of frames, as `read_frame` reads them, on the device.

        Parameters
        ----------
        sources
            Frames of any sizes and kinds.

        Returns
        -------
        list of Tensor
            One per frame, (rows, columns) or (rows, columns, samples), each in new memory. uint8,
            int8 and int16 are as stored. uint16 becomes int32 and uint32 becomes int64, since torch
            computes with neither of them. Float pixels are float32 or float64.

        Raises
        ------
        PixelError
            A frame cannot be read, as for `read_frame`.
        UsageError
            The process is not the one that created the decoder.
        """
        if os.getpid() != self._process:
            raise UsageError(
                "a DeviceDecoder holds CUDA state, which a fork does not inherit: use it in the "
                "process that made it"
            )
        with self._lock:
            values: list[Tensor] = []
            for start in range(0, len(sources), BATCH):
                values += self._read_batch(sources[start : start + BATCH])
            return values

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a DeviceDecoder holds CUDA state and cannot be pickled: use it in the main process, "
            "not in a DataLoader's workers"
        )

    def __repr__(self) -> str:
        states = list(self.kinds.values())
        trusted, proving = states.count(_TRUSTED), states.count(_PROVING)
        counts = f"{trusted} kinds trusted, {proving} proving"
        return (
            f"DeviceDecoder({self.device}: {counts}, {len(states) - trusted - proving} left to the "
            "CPU)"
        )

    def _state(self, kind: Kind) -> str:
        """Return the state of a kind (see `kinds`)."""
        return _distrusted.get(kind) or (
            _TRUSTED if self._agreed.get(kind, 0) >= self.samples else _PROVING
        )

    def _read_batch(self, sources: Sequence[FrameLike]) -> list["Tensor"]:
        """Return the stored values of at most `BATCH` frames."""
        jobs: dict[Kind, list[_Job]] = {}
        for position, examined in enumerate(_in_threads(examine, sources)):
            if examined is not None:
                kind, stream = examined
                jobs.setdefault(kind, []).append(_Job(position, sources[position], stream))
        values: dict[int, Tensor] = {}
        for kind, jobs_of_kind in jobs.items():
            values |= self._read_kind(kind, jobs_of_kind)
        rest = [position for position in range(len(sources)) if position not in values]
        values |= zip(rest, self._read_on_cpu([sources[number] for number in rest]), strict=True)
        return [values[position] for position in range(len(sources))]

    def _read_on_cpu(self, sources: Sequence[FrameLike]) -> list["Tensor"]:
        """Return stored values on the device, decoded by the CPU."""
        return [to_device(values, self.device) for values in _in_threads(read_frame, sources)]

    def _read_kind(self, kind: Kind, jobs: list[_Job]) -> dict[int, "Tensor"]:
        """Return {position: values} of one kind, without the frames that are left to the CPU."""
        values: dict[int, Tensor] = {}
        self._agreed.setdefault(kind, 0)
        while jobs and self._state(kind) == _PROVING:
            needed = self.samples - self._agreed[kind]
            values |= self._prove(kind, jobs[:needed])
            jobs = jobs[needed:]
        if jobs and self._state(kind) == _TRUSTED:
            values |= self._read_trusted(kind, jobs)
        return values

    def _prove(self, kind: Kind, jobs: list[_Job]) -> dict[int, "Tensor"]:
        """Return {position: values} as the CPU reads them, and compare those of the device."""
        # The CPU reads first, so that the device never gets a frame that the CPU refuses.
        truths = self._read_on_cpu([job.source for job in jobs])
        for values, truth in zip(self._decode(kind, jobs), truths, strict=True):
            if values is None:
                self._distrust(kind, "nvImageCodec gives no image")
            elif difference := difference_of(values, truth, kind):
                self._distrust(kind, difference)
            elif not is_flat(truth):
                self._agreed[kind] += 1
        return {job.position: truth for job, truth in zip(jobs, truths, strict=True)}

    def _read_trusted(self, kind: Kind, jobs: list[_Job]) -> dict[int, "Tensor"]:
        """Return {position: values} of the frames that the device decodes.

        A frame with a single value is read by the CPU as well.
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
        decoded = {
            job.position: value
            for job, value in zip(jobs, values, strict=True)
            if value is not None
        }
        return decoded | proven

    def _decode(self, kind: Kind, jobs: list[_Job]) -> list["Tensor | None"]:
        """Return stored values as the device decodes them, None for frames that it does not decode.

        An exception or a misfit ends the trust in the kind.
        """
        try:
            images = self._ask(kind, [job.stream for job in jobs])
        except Exception as error:
            # nvImageCodec may raise anything. `kinds` reports it, and the CPU reads the frames.
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
        """Return the images of nvImageCodec for codestreams, None for those it cannot decode."""
        import torch

        codec = self._codec
        # Without these options, an EXIF orientation would rotate the frame, and samples of more
        # than 8 bits would be scaled to 8.
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
        # DLPack of an image in host memory needs CUDA too, so such an image is taken by numpy.
        take: Callable[[Any], Tensor] = (
            (lambda image: torch.from_numpy(np.array(image)))
            if on_cpu
            else torch.utils.dlpack.from_dlpack
        )
        return [None if image is None else take(image) for image in images]

    def _distrust(self, kind: Kind, reason: str) -> None:
        """Leave a kind to the CPU, in all decoders of this process; the first reason counts."""
        _distrusted.setdefault(kind, reason)


def _checked_device(device: Any) -> Any:
    """Return a torch.device with its index; raise if torch cannot use it."""
    import torch

    given = torch.device(device)
    if given.type not in ("cuda", "cpu"):
        raise UsageError(
            f"device is {given}: nvImageCodec decodes for cuda devices", device=str(given)
        )
    if given.type == "cpu":
        return given
    if not torch.cuda.is_available():
        raise MissingExtra(
            f"decoding on {given} needs a GPU, its driver and a torch built for CUDA; this torch "
            f"({torch.__version__}) sees no CUDA",
            package="torch",
            extra="gpu",
        )
    return torch.device("cuda", torch.cuda.current_device() if given.index is None else given.index)


def _nvimgcodec() -> Any:
    """Import nvImageCodec; raise a MissingExtra without it."""
    return import_extra(
        "nvidia.nvimgcodec", "decoding on a GPU", "gpu", package="nvidia-nvimgcodec"
    )


def _in_threads(work: Callable[[Given], Result], items: Sequence[Given]) -> list[Result]:
    """Return work(item) of all items, in order; the first error is raised."""
    workers = min(len(items), available_cores())
    if workers <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, items))

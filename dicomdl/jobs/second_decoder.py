"""A second decoder in a process of its own: frames are asked for on this side, and read by pydicom, imagecodecs or GDCM on the other.

Decoders abort, hang and print, so death is an answer like any other and nothing that a library writes can get between the messages. What
comes back is not trusted: no pickles, and no array larger than the frame that was asked for.
"""

import contextlib
import functools
import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import StorageError
from dicomdl.headers import uids
from dicomdl.headers.frame import FrameSource
from dicomdl.pixels.options import Colour

TIMEOUT_S: Final = 60.0  # for one frame; the slowest of the corpus takes 3 s


class Second(NamedTuple):
    """A second decoder: how reports name it, whose code it is, and what the process is asked for.

    `colour` is what its values compare with: "stored" components, or "rgb" where it converts by itself.
    """

    name: str
    library: str
    reader: Literal["pydicom", "imagecodecs", "simpleitk"]
    how: str = ""  # pydicom's plugin, or the function of imagecodecs
    decode_as: str = ""  # the transfer syntax that its reader knows the codestream under
    colour: Colour = "stored"


class Refusal(NamedTuple):
    """Why a decoder gave no values; `ended` where its process died or had to be stopped."""

    why: str
    ended: bool = False


# --- the second process, from this side -------------------------------------------------------------------------------

# A message is the length of a JSON object, the object, and, where it has a "dtype", the bytes of the array that it describes.
_LENGTH: Final = struct.Struct("<I")
_LONGEST_HEAD: Final = 1 << 20
_NOT_INSTALLED: Final = "not installed"
_WORKER: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"  # before the import: it says where dicomdl is
    "from dicomdl.jobs.second_decoder import serve; serve()"
)


class SecondReader:
    """The process that decodes a second time: asked for one frame at a time, started again after it died or hung.

    A context manager; `missing` are the second decoders that turned out not to be installed. `program` is what the process runs instead
    of `serve()`, for oracles and tests.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, program: str = "") -> None:
        self.timeout_s = timeout_s
        self.program = program or _WORKER
        self.missing: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._samples = 0
        # Of this process, because one that dies cannot clear up what it wrote.
        self._scratch = tempfile.TemporaryDirectory(prefix="dicomdl-", ignore_cleanup_errors=True)

    def __enter__(self) -> "SecondReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        self._scratch.cleanup()

    def ask(self, source: FrameSource, second: Second) -> None:
        """Send a frame to be decoded; `answer` gives what comes of it."""
        whole = (
            (source.coded_rows, source.coded_columns)
            if source.coded_rows
            else (source.rows, source.columns)
        )
        self._samples = whole[0] * whole[1] * source.samples_per_pixel
        request: dict[str, Any] = second._asdict() | {
            "scratch": self._scratch.name,
            "samples": self._samples,
        }
        request |= {"path": source.path, "frame_number": source.frame_number}
        if source.coded_rows:
            request["tile"] = [source.tile_top, source.tile_left, source.rows, source.columns]
        message = json.dumps(request).encode()
        for _ in range(2):  # it may have died after its last answer
            process = self._process = self._process or _start_worker(self.program)
            assert process.stdin is not None
            try:
                process.stdin.write(_LENGTH.pack(len(message)) + message)
                process.stdin.flush()
                return
            except OSError:
                self._stop()

    def answer(self) -> Values | Refusal | None:
        """The values of the frame that was asked for, or why there are none; None when the decoder is not installed."""
        process = self._process
        if process is None:
            return Refusal("its process ends as soon as it starts", ended=True)
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.timeout_s, stop)
        timer.start()
        try:
            return self._received(process)
        except EOFError:
            code = self._stop()
            why = (
                f"gave no answer in {self.timeout_s:g} s and was stopped"
                if late.is_set()
                else _end_told(code)
            )
        except (OSError, ValueError, KeyError, TypeError):
            self._stop()
            why = "its process gave an answer that cannot be read"
        finally:
            timer.cancel()
        return Refusal(why, ended=True)

    def _received(self, process: "subprocess.Popen[bytes]") -> Values | Refusal | None:
        assert process.stdout is not None
        length = min(_LENGTH.unpack(_exactly(process.stdout, _LENGTH.size))[0], _LONGEST_HEAD)
        head = json.loads(_exactly(process.stdout, length))
        if "dtype" not in head:
            return None if head["refused"] == _NOT_INSTALLED else Refusal(str(head["refused"]))
        dtype, shape = np.dtype(head["dtype"]), tuple(map(int, head["shape"]))
        if (
            dtype.kind not in "iuf" or not 0 <= math.prod(shape) <= self._samples
        ):  # before anything is allocated
            raise ValueError("not the array that was asked for")
        return np.frombuffer(
            _exactly(process.stdout, math.prod(shape) * dtype.itemsize), dtype
        ).reshape(shape)

    def _stop(self) -> int:
        """End the process; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(
                    OSError
                ):  # what a dead process never read cannot be flushed
                    pipe.close()
        try:
            return process.wait(1)  # without its pipes it ends by itself, unless it hangs
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _exactly(pipe: Any, length: int) -> bytes:
    data: bytes = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _end_told(code: int) -> str:
    """How a process ended, in words: the signal where there was one."""
    with contextlib.suppress(ValueError):
        return f"its process died ({signal.Signals(-code).name})"
    return f"its process ended (exit code {code})"


def _start_worker(program: str) -> "subprocess.Popen[bytes]":
    places = json.dumps(
        [place for place in sys.path if isinstance(place, str)]
    )  # notebooks put other things there, too
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    try:
        return subprocess.Popen([sys.executable, "-P", "-c", program, places], **pipes)
    except OSError as error:
        raise StorageError(
            f"the process for the second decoder cannot be started ({error.strerror})"
        ) from error


# --- the second process, from its own side ----------------------------------------------------------------------------


def second_reading(request: Mapping[str, Any]) -> Values:
    """What the decoder that a request names makes of a frame; any exception means that it refuses."""
    readers: dict[str, Callable[[Mapping[str, Any]], Values]] = {
        "pydicom": _by_pydicom,
        "imagecodecs": _by_imagecodecs,
        "simpleitk": _by_simpleitk,
    }
    values = readers[request["reader"]](request)
    if values.size == request["samples"] and "tile" in request:
        top, left, rows, columns = request["tile"]
        values = values[top : top + rows, left : left + columns]
    return values


def serve(read: Callable[[Mapping[str, Any]], Values] = second_reading) -> None:
    """The second process: requests from standard input, values to standard output, until the input ends."""
    warnings.simplefilter("ignore")  # they quote values of headers
    source = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as sink:
        os.dup2(2, 1)  # nothing that a library prints may get between the messages
        try:
            while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
                for part in _answered(json.loads(source.read(_LENGTH.unpack(head)[0])), read):
                    sink.write(part)
                sink.flush()
        except (KeyboardInterrupt, BrokenPipeError):
            return


def _answered(
    request: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Values]
) -> tuple[Any, ...]:
    """The parts of the answer to one request. Of an error only its class is told: its text may quote the header."""
    try:
        values = read(request)
        if values.size > request["samples"]:
            return _message({"refused": f"gave an array of {values.shape}"})
        values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="), copy=False)
        return (
            *_message({"dtype": values.dtype.str, "shape": values.shape}),
            values.data.cast("B") if values.size else b"",
        )
    except ImportError:
        return _message({"refused": _NOT_INSTALLED})
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # Rust decoders panic with a BaseException
        return _message({"refused": type(error).__name__})


def _message(head: Mapping[str, Any]) -> tuple[bytes]:
    data = json.dumps(head).encode()
    return (_LENGTH.pack(len(data)) + data,)


def _by_pydicom(request: Mapping[str, Any]) -> Values:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID

    path, index = request["path"], request["frame_number"] - 1
    dataset = _header(path)
    uid = request["decode_as"] or _syntax(dataset)
    if request["how"] and request["how"] not in get_decoder(uid).available_plugins:
        raise ImportError(request["how"])
    if dataset.BitsAllocated == 1 and request["samples"] % 8:
        # Frames that start inside of a byte: asked for one, pydicom 3.0.2 may read a byte too few.
        return np.asarray(_all_bits(path).reshape(-1, dataset.Rows, dataset.Columns)[index])
    options: dict[str, Any] = {"index": index, "raw": True, "decoding_plugin": request["how"]}
    if uid == uids.DEFLATED:  # its reader of files does not inflate
        return np.asarray(pixel_array(_dataset(path), **options))
    return np.asarray(pixel_array(path, transfer_syntax_uid=UID(uid), **options))


@functools.lru_cache(maxsize=1)
def _all_bits(path: str) -> Values:
    from pydicom.pixels.utils import pixel_array

    return np.asarray(pixel_array(_dataset(path), raw=True))


def _by_imagecodecs(request: Mapping[str, Any]) -> Values:
    """pydicom finds the frame, a function of imagecodecs that dicomdl does not use decodes it."""
    import imagecodecs

    dataset = _dataset(request["path"])
    samples = getattr(imagecodecs, request["how"])(_codestream(dataset, request)).astype(np.int64)
    bits = int(dataset.BitsStored)
    samples &= (1 << bits) - 1
    if dataset.PixelRepresentation == 1:
        samples = (samples ^ (1 << bits - 1)) - (1 << bits - 1)
    return np.asarray(samples, f"{'ui'[dataset.PixelRepresentation]}{dataset.BitsAllocated // 8}")


def _by_simpleitk(request: Mapping[str, Any]) -> Values:
    """pydicom finds the frame, GDCM decodes it out of a file of nothing else.

    Of the file itself SimpleITK would apply the rescale, invert MONOCHROME1, and decode every frame for the one that is asked for.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    path = os.path.join(request["scratch"], "frame.dcm")
    _write_alone(path, _dataset(request["path"]), request)
    values: Values = sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO"))
    return np.asarray(values[0])


def _write_alone(path: str, dataset: Any, request: Mapping[str, Any]) -> None:
    """One frame as a secondary capture that says only how its samples are coded: nothing of a patient."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, SecondaryCaptureImageStorage

    alone = Dataset()
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = UID(_syntax(dataset))
    alone.SOPClassUID, alone.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.1"
    names = (
        "SamplesPerPixel",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
    )
    for name in names:
        setattr(alone, name, int(dataset[name].value))
    alone.PhotometricInterpretation = (
        "MONOCHROME2" if alone.SamplesPerPixel == 1 else dataset.PhotometricInterpretation
    )
    if alone.SamplesPerPixel > 1:
        alone.PlanarConfiguration = int(dataset.get("PlanarConfiguration") or 0)
    alone.PixelData = encapsulate([_codestream(dataset, request)])
    alone["PixelData"].VR = "OB"
    alone.save_as(path, enforce_file_format=True)


def _codestream(dataset: Any, request: Mapping[str, Any]) -> bytes:
    from pydicom.encaps import get_frame

    tables = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    offsets: dict[str, Any] = {"extended_offsets": tables} if None not in tables else {}
    frames = int(dataset.get("NumberOfFrames") or 1)
    return get_frame(
        dataset.PixelData, request["frame_number"] - 1, number_of_frames=frames, **offsets
    )


@functools.lru_cache(maxsize=1)
def _header(path: str) -> Any:
    import pydicom

    return pydicom.dcmread(path, force=True, stop_before_pixels=True)


@functools.lru_cache(maxsize=1)
def _dataset(path: str) -> Any:
    import pydicom

    return pydicom.dcmread(path, force=True)


def _syntax(dataset: Any) -> str:
    """The transfer syntax that a file says, or else the one that it was evidently written in."""
    if uid := dataset.file_meta.get("TransferSyntaxUID"):
        return str(uid)
    implicit, little = dataset.original_encoding
    return (
        uids.IMPLICIT_LITTLE if implicit else uids.EXPLICIT_LITTLE if little else uids.EXPLICIT_BIG
    )

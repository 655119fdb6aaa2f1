"""A second decoder in a separate process: pydicom, imagecodecs or GDCM decode frames on request.

Decoders abort, hang and print, so the death of the process is a valid answer. Answers are not
trusted (`storage.messages`).
"""

import contextlib
import functools
import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from dicomdl.arrays import Values
from dicomdl.headers import uids
from dicomdl.headers.data_set import source_of
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels.options import Colour
from dicomdl.storage.children import START_S, UNREADABLE, Answer, Child, Death
from dicomdl.storage.messages import (
    LONGEST_HEAD,
    LONGEST_SAMPLE,
    array_of,
    packed,
    packed_array,
    unpacked,
)
from dicomdl.storage.scratch import scratch_prefix
from dicomdl.storage.sources import as_stream, opened
from dicomdl.storage.system import physical_memory

# Limit per frame; the slowest frame of the corpus takes 3 s.
TIMEOUT_S: Final = 60.0


class Second(NamedTuple):
    """A second decoder.

    Attributes
    ----------
    name
        Name in reports.
    library
        Library that its code belongs to.
    reader
        Package that parses the file.
    how
        Plugin of pydicom, or function of imagecodecs.
    decode_as
        Transfer syntax that the reader knows the codestream by; "" for that of the file.
    colour
        Colour of its values: "stored" components, or "rgb" if it always converts.
    """

    name: str
    library: str
    reader: Literal["pydicom", "imagecodecs", "simpleitk"]
    how: str = ""
    decode_as: str = ""
    colour: Colour = "stored"


class Refusal(NamedTuple):
    """Reason why a decoder gave no values; `ended` if its process died or was stopped."""

    why: str
    ended: bool = False


# --- this process ---------------------------------------------------------------------------------

# A request is a JSON object. An answer is an array, or an object with the key "refused".
TARGET: Final = "dicomdl.jobs.second_decoder:answering"
_NOT_INSTALLED: Final = "not installed"


class SecondReader:
    """Context manager of the process that decodes a second time, one frame at a time.

    The process is restarted after its death.

    Parameters
    ----------
    timeout_s
        Limit per frame, after which the process is stopped.
    target
        "module:function" that the process answers by, instead of `answering`; for oracles and
        tests.

    Attributes
    ----------
    missing
        Names of second decoders that turned out not to be installed.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, target: str = "") -> None:
        self.timeout_s = timeout_s
        self.target = target or TARGET
        self.missing: set[str] = set()
        self._child: Child | None = None
        self._prepared: set[str] = set()
        self._samples, self._reader, self._unprepared = 0, "", False
        # The folder belongs to this process, because a process that dies cannot delete its files.
        self._scratch = tempfile.TemporaryDirectory(
            prefix=scratch_prefix("pixels"), ignore_cleanup_errors=True
        )

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
        """Send a request for a frame; `answer` returns the result."""
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
        if self._child is not None and not self._child.is_alive:
            # the process died after its last answer
            self._stop()
        self._child = self._child or Child(self.target, memory_bytes=physical_memory())
        self._reader, self._unprepared = second.reader, second.reader not in self._prepared
        if self._unprepared:
            self._child.send(json.dumps({"prepare": second.reader}).encode())
        self._child.send(json.dumps(request).encode())

    def answer(self) -> Values | Refusal | None:
        """Return the values of the requested frame, or the reason why there are none.

        None if the decoder is not installed. The time limit starts after the process has imported
        the packages of the decoder.
        """
        child = self._child
        assert child is not None, "ask first"
        if self._unprepared:
            child.receive(START_S)
            self._prepared.add(self._reader)
        answer = child.receive(self.timeout_s, LONGEST_HEAD + LONGEST_SAMPLE * self._samples)
        if isinstance(answer, Death):
            self._stop()
            return Refusal(str(answer), ended=True)
        try:
            return self._read(answer)
        except (ValueError, KeyError, TypeError):
            self._stop()
            return Refusal(UNREADABLE, ended=True)

    def _read(self, answer: bytes) -> Values | Refusal | None:
        head, data = unpacked(answer)
        if "dtype" not in head:
            return None if head["refused"] == _NOT_INSTALLED else Refusal(str(head["refused"]))
        return array_of(head, data, self._samples)

    def _stop(self) -> None:
        """End the process; the next request starts another one."""
        child, self._child = self._child, None
        self._prepared.clear()
        if child is not None:
            child.end()


# --- the second process ---------------------------------------------------------------------------


_Read: TypeAlias = Callable[[Mapping[str, Any]], Values]
# Modules that a reader imports for its first frame, which may take longer than decoding it.
_NEEDED: Final = {
    "pydicom": ("pydicom.encaps", "pydicom.pixels.decoders", "pydicom.pixels.utils"),
    "imagecodecs": ("pydicom.encaps", "imagecodecs"),
    "simpleitk": ("pydicom.encaps", "SimpleITK"),
}


def second_reading(request: Mapping[str, Any]) -> Values:
    """Decode the frame of a request with the decoder that it names.

    Any exception is a refusal.
    """
    readers: dict[str, _Read] = {
        "pydicom": _by_pydicom,
        "imagecodecs": _by_imagecodecs,
        "simpleitk": _by_simpleitk,
    }
    values = readers[request["reader"]](request)
    if values.size == request["samples"] and "tile" in request:
        top, left, rows, columns = request["tile"]
        values = values[top : top + rows, left : left + columns]
    return values


def answering(_: Any = None, read: _Read = second_reading) -> Answer:
    """Return the function by which the second process answers a request: values, or a refusal."""
    # warnings quote values of headers
    warnings.simplefilter("ignore")

    def answer(message: bytes) -> list[Any]:
        request = json.loads(message)
        if "prepare" in request:
            return _prepared(request["prepare"])
        return _answered(request, read)

    return answer


def _prepared(reader: str) -> list[Any]:
    """Import the modules of a reader; a missing one shows at the first request for a frame."""
    for name in _NEEDED.get(reader, ()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return []


def _answered(request: Mapping[str, Any], read: _Read) -> list[Any]:
    """Return the parts of the answer to one request.

    An error is reported by its class only, because its text may quote the header.
    """
    try:
        values = read(request)
        if values.size > request["samples"]:
            return packed({"refused": f"gave an array of {values.shape}"})
        return packed_array(values)
    except ImportError:
        return packed({"refused": _NOT_INSTALLED})
    except (KeyboardInterrupt, SystemExit):
        raise
    # decoders in Rust panic with a BaseException
    except BaseException as error:
        return packed({"refused": type(error).__name__})


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
        # A frame may start inside a byte: pydicom 3.0.2 may read a byte too few for a single frame.
        return np.asarray(_all_bits(path).reshape(-1, dataset.Rows, dataset.Columns)[index])
    options: dict[str, Any] = {"index": index, "raw": True, "decoding_plugin": request["how"]}
    # pydicom's reader of single frames does not inflate
    if uid == uids.DEFLATED:
        return np.asarray(pixel_array(_dataset(path), **options))
    with opened(source_of(path)) as handle:
        return np.asarray(pixel_array(as_stream(handle), transfer_syntax_uid=UID(uid), **options))


# In a process of its own: caches the last file only.
@functools.lru_cache(maxsize=1)
def _all_bits(path: str) -> Values:
    from pydicom.pixels.utils import pixel_array

    return np.asarray(pixel_array(_dataset(path), raw=True))


def _by_imagecodecs(request: Mapping[str, Any]) -> Values:
    """Locate the frame by pydicom, decode it by an imagecodecs function dicomdl does not use."""
    import imagecodecs

    dataset = _dataset(request["path"])
    samples = getattr(imagecodecs, request["how"])(_codestream(dataset, request)).astype(np.int64)
    bits = int(dataset.BitsStored)
    samples &= (1 << bits) - 1
    if dataset.PixelRepresentation == 1:
        samples = (samples ^ (1 << bits - 1)) - (1 << bits - 1)
    return np.asarray(samples, f"{'ui'[dataset.PixelRepresentation]}{dataset.BitsAllocated // 8}")


def _by_simpleitk(request: Mapping[str, Any]) -> Values:
    """Locate the frame by pydicom, decode it by GDCM from a new file with only this frame.

    From the original file, SimpleITK would apply the rescale, invert MONOCHROME1, and decode all
    frames for a single one.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    path = os.path.join(request["scratch"], "frame.dcm")
    _write_alone(path, _dataset(request["path"]), request)
    values: Values = sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO"))
    return np.asarray(values[0])


def _write_alone(path: str, dataset: Any, request: Mapping[str, Any]) -> None:
    """Write one frame as a secondary capture with the attributes of its coding only.

    The file has no attribute of a patient.
    """
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


# In a process of its own: caches the last file only.
@functools.lru_cache(maxsize=1)
def _header(path: str) -> Any:
    import pydicom

    with opened(source_of(path)) as handle:
        return pydicom.dcmread(as_stream(handle), force=True, stop_before_pixels=True)


# In a process of its own: caches the last file only.
@functools.lru_cache(maxsize=1)
def _dataset(path: str) -> Any:
    import pydicom

    with opened(source_of(path)) as handle:
        return pydicom.dcmread(as_stream(handle), force=True)


def _syntax(dataset: Any) -> str:
    """Return the transfer syntax that a file declares, or the one that pydicom detected."""
    if uid := dataset.file_meta.get("TransferSyntaxUID"):
        return str(uid)
    implicit, little = dataset.original_encoding
    return (
        uids.IMPLICIT_LITTLE if implicit else uids.EXPLICIT_LITTLE if little else uids.EXPLICIT_BIG
    )

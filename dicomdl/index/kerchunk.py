"""Virtual Zarr: stacks as reference files, which xarray and zarr open without a copy of a pixel.

A reference file of kerchunk (JSON, version 1) holds metadata of Zarr 2 and, per chunk, a path or
URL, an offset and a length. A slice is one chunk. Zarr has no codec that clears the bits outside of
BitsStored, so frames with such bits are compared with what `read_frame` returns before they are
written: a chunk is the stored values, or the stack is refused.
"""

import base64
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DicomdlError, UsageError
from dicomdl.headers.frame_source import FrameSource
from dicomdl.headers.uids import PLAIN_BIG
from dicomdl.index.views import Stack
from dicomdl.pixels.read import read_frame
from dicomdl.pixels.stored import is_native, stored_dtype
from dicomdl.storage import publishing as storage
from dicomdl.storage.sources import opened, place_of, read_range

_GROUP: Final = json.dumps({"zarr_format": 2})
# Refused stacks that a message lists.
_LISTED: Final = 5


def write_kerchunk(stacks: Iterable[Stack], path: str, *, skip: bool) -> list[int]:
    """Write a reference file of some stacks; see `Index.to_kerchunk`.

    Returns
    -------
    list of int
        The numbers of the stacks in the file.
    """
    references: dict[str, Any] = {".zgroup": _GROUP}
    written: list[int] = []
    refused: list[str] = []
    for stack in stacks:
        try:
            made = _references(stack)
        except DicomdlError as error:
            refused.append(f"stack {stack.number}: {error}")
            continue
        written.append(stack.number)
        references |= {f"stack-{stack.number}/{name}": value for name, value in made.items()}
    if (refused and not skip) or not written:
        raise _unreferable(refused)
    metadata = {
        name: json.loads(value)
        for name, value in references.items()
        if name.rpartition("/")[2] in (".zgroup", ".zarray", ".zattrs")
    }
    references[".zmetadata"] = json.dumps({"zarr_consolidated_format": 1, "metadata": metadata})
    document = {"version": 1, "refs": references}
    storage.write_whole(path, json.dumps(document, allow_nan=False).encode())
    return written


def _unreferable(refused: Sequence[str]) -> UsageError:
    if not refused:
        return UsageError("the index holds no complete stack: select whole stacks")
    listed = "; ".join(refused[:_LISTED])
    more = f" and {len(refused) - _LISTED} more" if len(refused) > _LISTED else ""
    return UsageError(
        f'{len(refused)} stacks cannot be referenced, on_unsupported="skip" leaves them out: '
        f"{listed}{more}",
        refused=len(refused),
    )


def _references(stack: Stack) -> dict[str, Any]:
    """Return the metadata and chunks of one stack, by their names in its group."""
    sources = stack.sources
    first = sources[0]
    dtype, shape = _file_dtype(first), _chunk_shape(first)
    length = math.prod(shape) * dtype.itemsize
    references: dict[str, Any] = {
        ".zgroup": _GROUP,
        ".zattrs": json.dumps(_facts(stack)),
        "pixels/.zarray": _array_metadata(dtype, (len(sources), *shape), (1, *shape)),
    }
    for number, source in enumerate(sources):
        _require_referable(source, first, length)
        name = ".".join([str(number), *"0" * len(shape)])
        path, offset = _place(source)
        references[f"pixels/{name}"] = [path, offset, length]
    axes = _axes(first)
    attributes: dict[str, Any] = {"_ARRAY_DIMENSIONS": axes}
    rescale = _rescale(stack)
    if rescale is not None and all((values == values[0]).all() for values in rescale.values()):
        # xarray applies both (CF 8.1), so that its values are modality values.
        names = {"rescale_slope": "scale_factor", "rescale_intercept": "add_offset"}
        attributes |= {names[name]: float(values[0]) for name, values in rescale.items()}
    elif rescale is not None:
        for name, values in rescale.items():
            references |= _inline(name, values)
    references["pixels/.zattrs"] = json.dumps(attributes)
    return references


def _facts(stack: Stack) -> dict[str, Any]:
    """Return the attributes of a group; numbers that are unknown are null."""
    return {
        "series_instance_uid": stack.series_instance_uid,
        "modality": stack.modality,
        "verdict": stack.verdict,
        "affine_lps_mm": _known(stack.affine),
        "spacing_mm": _known(np.array(stack.spacing)),
        "photometric_interpretation": stack.value("photometric_interpretation"),
    }


def _known(numbers: Values) -> Any:
    return numbers.tolist() if np.isfinite(numbers).all() else None


def _array_metadata(dtype: np.dtype[Any], shape: Sequence[int], chunks: Sequence[int]) -> str:
    metadata = {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": dtype.str,
        "compressor": None,
        "filters": None,
        "fill_value": None,
        "order": "C",
    }
    return json.dumps(metadata)


def _inline(name: str, values: Values) -> dict[str, Any]:
    """Return a column with one number per slice, whose bytes are in the reference file."""
    numbers = np.ascontiguousarray(values, "<f8")
    return {
        f"{name}/.zarray": _array_metadata(numbers.dtype, numbers.shape, numbers.shape),
        f"{name}/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["slice"]}),
        f"{name}/0": "base64:" + base64.b64encode(numbers.tobytes()).decode(),
    }


def _rescale(stack: Stack) -> dict[str, Values] | None:
    """Return slope and intercept per slice, float64; None unless all slices state both."""
    if any(stack.values("modality_lut_sequence")):
        return None
    columns = {}
    for name in ("rescale_slope", "rescale_intercept"):
        values = stack.values(name)
        if any(value is None for value in values):
            return None
        columns[name] = np.array(values, dtype=np.float64)
        if not np.isfinite(columns[name]).all():
            return None
    return columns


def _axes(source: FrameSource) -> list[str]:
    if source.samples_per_pixel == 1:
        return ["slice", "row", "column"]
    planes = source.planar_configuration == 1
    return ["slice", "sample", "row", "column"] if planes else ["slice", "row", "column", "sample"]


def _chunk_shape(source: FrameSource) -> tuple[int, ...]:
    sizes = {"row": source.rows, "column": source.columns, "sample": source.samples_per_pixel}
    return tuple(sizes[axis] for axis in _axes(source)[1:])


def _file_dtype(source: FrameSource) -> np.dtype[Any]:
    """Return the dtype of the samples in the byte order of the file."""
    return stored_dtype(source).newbyteorder(
        ">" if source.transfer_syntax_uid in PLAIN_BIG else "<"
    )


def _require_referable(source: FrameSource, first: FrameSource, length: int) -> None:
    """Raise UsageError unless the bytes of a frame are its stored values, as Zarr reads them."""
    if source.deflated or not is_native(source.transfer_syntax_uid):
        raise _no_chunk(source, "is compressed")
    if source.bits_allocated < 8 or source.byte_length < length:
        raise _no_chunk(source, "has no whole number of bytes per sample")
    if source.coded_rows:
        raise _no_chunk(source, "is a tile of a mosaic")
    if source.bits_allocated == 8 and source.transfer_syntax_uid in PLAIN_BIG:
        raise _no_chunk(source, "may have swapped bytes in words of 16 bits")
    if (_file_dtype(source), _axes(source)) != (_file_dtype(first), _axes(first)):
        raise _no_chunk(source, "has another dtype, byte order or planar configuration")
    if not _has_free_bits(source):
        return
    with opened(source.file) as handle:
        raw = np.frombuffer(read_range(handle, source.byte_offset, length), _file_dtype(source))
    values = read_frame(source, colour="stored")
    if _axes(source)[1] == "sample":
        values = np.moveaxis(values, -1, 0)
    if not np.array_equal(raw, values.ravel()):
        raise _no_chunk(source, "has bits outside of BitsStored, which a reader would see")


def _place(source: FrameSource) -> tuple[str, int]:
    """Return the file that has the bytes of a frame, and their offset in it."""
    place = place_of(source.file)
    if place is None:
        raise _no_chunk(source, "is in a compressed archive")
    return place[0], place[1] + source.byte_offset


def _has_free_bits(source: FrameSource) -> bool:
    """Whether the samples of a frame have bits outside of BitsStored."""
    return not source.float_pixels and (
        source.bits_stored < source.bits_allocated or source.high_bit != source.bits_allocated - 1
    )


def _no_chunk(source: FrameSource, why: str) -> UsageError:
    return UsageError(
        f"frame {source.frame_number} of {source.path!r} {why}, and cannot be read in place"
    )

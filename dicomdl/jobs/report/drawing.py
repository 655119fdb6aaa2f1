"""The pictures of one stack of a report, with its labels, in the form that the cache stores.

`answering` runs in a worker process, so that a decoder that dies costs one stack its picture.
"""

import json
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DicomdlError
from dicomdl.index.access import Access
from dicomdl.index.annotations import Annotation
from dicomdl.index.rows import generation_of
from dicomdl.index.views import Stack
from dicomdl.jobs.report.costs import slices_to_read
from dicomdl.labels.shown import shown_annotations, shown_labels
from dicomdl.printing import printable
from dicomdl.storage.children import Answer
from dicomdl.storage.messages import packed, unpacked
from dicomdl.volumes.thumbnails import Picture, ThumbnailOptions, thumbnail

TARGET: Final = "dicomdl.jobs.report.drawing:answering"
# Voxels of a label map that a report reads, which is in memory as a whole.
_MOST_VOXELS: Final = 1 << 28
_LONGEST_NAME: Final = 80


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is drawn of a stack: pixels of a plane, slices of the strip and their pixels, labels."""

    side: int
    strip: int = 0
    strip_side: int = 96
    labels: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """The pictures of one stack, and what was found in its values and labels.

    Attributes
    ----------
    names
        The planes; () where none could be drawn.
    planes, marks, strip, strip_marks, numbers
        As for `Thumbnail`; None without.
    percentiles, units, window
        As for `Thumbnail`.
    labels
        (name, millilitres or None) of each label; marks count them from 1.
    kind
        "SEG" or "RTSTRUCT"; "" without labels.
    error, label_error
        Why there is no picture, and why there are no labels.
    """

    names: tuple[str, ...] = ()
    percentiles: tuple[float, ...] = ()
    units: str = ""
    window: tuple[float, ...] = ()
    numbers: tuple[int, ...] = ()
    labels: tuple[tuple[str, float | None], ...] = ()
    kind: str = ""
    error: str = ""
    label_error: str = ""
    planes: Picture | None = field(default=None)
    marks: Picture | None = field(default=None)
    strip: Picture | None = field(default=None)
    strip_marks: Picture | None = field(default=None)

    def to_bytes(self) -> bytes:
        """Return the pictures as bytes that `from_bytes` reads."""
        head = {name: getattr(self, name) for name in _FACTS}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        head["shapes"] = {name: a.shape for name, a in arrays.items() if a is not None}
        data = b"".join(a.tobytes() for a in arrays.values() if a is not None)
        return b"".join(map(bytes, packed(head, zlib.compress(data, 1))))

    @classmethod
    def from_bytes(cls, message: bytes) -> "Drawn":
        """Return what `to_bytes` made bytes of; raise a ValueError for others."""
        try:
            head, data = unpacked(message)
            shapes = head.pop("shapes")
            sizes = {name: math.prod(shapes[name]) for name in _ARRAYS if name in shapes}
            unzip = zlib.decompressobj()
            held = unzip.decompress(bytes(data), sum(sizes.values()) + 1)
            if len(held) != sum(sizes.values()) or not unzip.eof:
                raise ValueError("pictures of another size")
            arrays: dict[str, Any] = {}
            at = 0
            for name, size in sizes.items():
                values = np.frombuffer(held, np.uint8, size, at)
                arrays[name], at = values.reshape(shapes[name]), at + size
            facts = {name: head[name] for name in _FACTS}
            for name in ("names", "percentiles", "window", "numbers"):
                facts[name] = tuple(facts[name])
            facts["labels"] = tuple((str(n), ml) for n, ml in facts["labels"])
            return cls(**facts, **arrays)
        except (KeyError, TypeError, zlib.error, UnicodeDecodeError) as error:
            raise ValueError("no pictures") from error


_FACTS: Final = (
    *("names", "percentiles", "units", "window", "numbers", "labels", "kind", "error"),
    "label_error",
)
_ARRAYS: Final = ("planes", "marks", "strip", "strip_marks")


def draw(stack: Stack, wanted: Wanted) -> Drawn:
    """Return the pictures of a stack; a reason in place of an error."""
    has_labels = wanted.labels and stack.content == "image"
    marks, labels, kind, label_error = _labels(stack) if has_labels else _NO_LABELS
    try:
        uid = str(stack.value("transfer_syntax_uid"))
        slices, reduce = slices_to_read(uid, stack.shape, max(wanted.side, 1))
        if wanted.strip and wanted.strip_side > wanted.side:
            _, reduce = slices_to_read(uid, stack.shape, wanted.strip_side)
        options = ThumbnailOptions(wanted.side, slices, reduce, wanted.strip, wanted.strip_side)
        made = thumbnail(stack, options, marks)
    except Exception as error:
        # Whatever the headers are wrong about, the other stacks have their pictures.
        return Drawn(labels=labels, kind=kind, error=_reason(error), label_error=label_error)
    return Drawn(
        names=made.names,
        percentiles=made.percentiles,
        units=made.units,
        window=made.window,
        numbers=made.numbers,
        labels=labels,
        kind=kind,
        label_error=label_error,
        planes=made.planes,
        marks=made.marks,
        strip=made.strip,
        strip_marks=made.strip_marks,
    )


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, DicomdlError) else ""
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


_Labels = tuple[Values | None, tuple[tuple[str, float | None], ...], str, str]
_NO_LABELS: Final[_Labels] = (None, (), "", "")


def _labels(stack: Stack) -> _Labels:
    """Return the newest labels of a stack: their numbers per voxel, names with volumes, and kind.

    Or nothing, with the reason of the first object if there is one.
    """
    first = _NO_LABELS
    for annotation in shown_annotations(stack):
        found = _labels_of(stack, annotation)
        if not found[-1]:
            return found
        first = first if first[-1] else found
    return first


def _labels_of(stack: Stack, annotation: Annotation) -> _Labels:
    """Return the labels of one object, or the reason."""
    if math.prod(stack.shape) > _MOST_VOXELS:
        return None, (), annotation.kind, "the stack has too many voxels for its labels to be drawn"
    try:
        volume = shown_labels(stack, annotation)
    except Exception as error:
        return None, (), annotation.kind, _reason(error)
    numbers = sorted(volume.names)
    counts = np.bincount(volume.array.reshape(-1), minlength=max(numbers, default=0) + 1)
    ml = abs(float(np.linalg.det(stack.affine[:3, :3]))) / 1000
    named = tuple(
        (
            printable(volume.names[number])[:_LONGEST_NAME] or f"label {number}",
            float(counts[number] * ml) if math.isfinite(ml) else None,
        )
        for number in numbers
    )
    if numbers == list(range(1, len(numbers) + 1)):
        return volume.array, named, annotation.kind, ""
    table = np.zeros(len(counts), np.uint16)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return table[volume.array], named, annotation.kind, ""


# --- in a worker process --------------------------------------------------------------------------


def setup_of(folder: str, generation: str, access: Access) -> dict[str, Any]:
    """Return what a worker process needs to know of an index, as values for JSON."""
    moves = [[os.fsdecode(old), os.fsdecode(new)] for old, new in access.moves]
    return {
        "folder": folder,
        "generation": generation,
        "access": {"moves": moves, "roots": access.roots, "is_own": access.is_own},
    }


def answering(setup: Mapping[str, Any]) -> Answer:
    """Return the function by which a worker process answers a request with pictures."""
    given = setup["access"]
    moves = tuple((os.fsencode(old), os.fsencode(new)) for old, new in given["moves"])
    roots = None if given["roots"] is None else tuple(given["roots"])
    generation = generation_of(
        setup["folder"], setup["generation"], Access(moves, roots, given["is_own"])
    )

    def answer(message: bytes) -> list[Any]:
        request = json.loads(message)
        stack = Stack(generation, request.pop("stack"))
        return [draw(stack, Wanted(**request)).to_bytes()]

    return answer


def request_of(number: int, wanted: Wanted) -> bytes:
    """Return the request for the pictures of a stack."""
    return json.dumps({"stack": number, **asdict(wanted)}).encode()

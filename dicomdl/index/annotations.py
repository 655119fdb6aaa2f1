"""Annotations of an index: the objects that describe its images, such as SEG and RTSTRUCT."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.headers.annotation import AnnotationFacts, Code, Segment
from dicomdl.index.file_sources import file_source
from dicomdl.index.rows import Generation
from dicomdl.index.text import Lines, counted
from dicomdl.printing import printable
from dicomdl.storage.sources import Source

# What a hash of PatientID begins with, in an index that does not store it.
HASHED: Final = "hash:"
_PLAIN: Final = (
    *("kind", "patient_id", "sop_instance_uid", "study_instance_uid", "series_instance_uid"),
    *("frame_of_reference_uid", "created", "label", "segmentation_type", "fractional_type"),
    "maximum_fractional_value",
)


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object that describes images of the index: a SEG, an RTSTRUCT, an RTDOSE, ...

    `Index.annotations` and `Stack.annotations` hold them, and `read_labels` takes one.

    Attributes
    ----------
    kind : str
        "SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "REG", "FID" or "RWV".
    label : str
        Content Label or Structure Set Label.
    segments : tuple of Segment
        Its segments or regions of interest: number, label, algorithm, category and type.
    status : str
        "ok"; "partial" if some of the referenced instances are not in the index; "images_absent";
        "other_reconstruction" if only other images of the frame of reference are in the index;
        "other_frame_of_reference" or "other_patient" if the images have another one;
        "no_reference"; "incomplete" if the object is a concatenation of which files are not in the
        index; "unreadable", with the reason as `detail`.
    stacks : tuple of int
        The numbers of the stacks that it describes.
    referenced, found : int
        How many instances it refers to, and how many of them are in the index.
    files : tuple of int
        The numbers of its files in the table `files`: one, or those of a concatenation in their
        order.
    sources : tuple of Source
        Its files, in the state of the scan.
    facts : AnnotationFacts
        Its UIDs, and what else it says; without the instances that it refers to.
    detail : str
        Why it cannot be read; "" if it can.
    remarks : tuple of str
        What deviates from the standard or from custom, and is read all the same.
    """

    files: tuple[int, ...]
    sources: tuple[Source, ...]
    facts: AnnotationFacts
    status: str
    stacks: tuple[int, ...]
    referenced: int
    found: int
    detail: str

    @property
    def kind(self) -> str:
        """The kind of object: "SEG", "RTSTRUCT", "RTDOSE", ..."""
        return self.facts.kind

    @property
    def label(self) -> str:
        """Content Label or Structure Set Label; "" without one."""
        return self.facts.label

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments or regions of interest."""
        return self.facts.segments

    @property
    def source(self) -> Source:
        """Its file, in the state of the scan; the first one of a concatenation."""
        return self.sources[0]

    @property
    def path(self) -> str:
        """The path of `source`."""
        return self.source.path

    @property
    def remarks(self) -> tuple[str, ...]:
        """What deviates from the standard or from custom, and is read all the same."""
        remarks, count = list(self.facts.remarks), len(self.stacks) if self.found else 0
        if count > 1:
            remarks.append(f"it describes {count} stacks")
        if self.status == "incomplete":
            remarks.append("files of its concatenation are not in the index")
        return tuple(remarks)

    def __repr__(self) -> str:
        kind = f"{self.kind} {self.facts.segmentation_type}".strip()
        status = self.status
        if self.status == "partial":
            status += f" {self.found}/{self.referenced}"
        facts = [kind, counted(len(self.segments), "segments"), status]
        if self.remarks:
            facts.append(counted(len(self.remarks), "remarks"))
        return printable(f"Annotation({', '.join(facts)}, {self.path})")


def hashes_of(uids: Iterable[str]) -> Ints:
    """Return sorted 64-bit hashes of distinct UIDs."""
    return np.unique(hash_of_each(uids))


def hash_of_each(uids: Iterable[str]) -> Ints:
    """Return the 64-bit hash of each UID, in order."""
    digests = (hashlib.blake2b(uid.encode(), digest_size=8).digest() for uid in uids)
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def as_columns(
    read: Sequence[tuple[int, AnnotationFacts, str]],
) -> dict[str, list[Any]]:
    """Return the columns of the table for (file, facts, detail) of each object."""
    facts = [each for _, each, _ in read]
    return {
        "file": [file for file, _, _ in read],
        **{name: [getattr(each, name) for each in facts] for name in _PLAIN},
        "segments": [json.dumps([asdict(part) for part in each.segments]) for each in facts],
        "referenced_series": [
            [series.series_instance_uid for series in each.references] for each in facts
        ],
        "referenced_instances": [
            hashes_of(uid for series in each.references for uid in series.sop_instance_uids)
            for each in facts
        ],
        "remarks": [each.remarks for each in facts],
        "detail": [detail for _, _, detail in read],
    }


def annotations_of(generation: Generation, stacks: Ints | None = None) -> list[Annotation]:
    """Return the annotations that describe some stacks, the newest first; None for all."""
    rows = generation.annotation_rows(stacks)
    every = [annotation_in(generation, row) for row in rows.tolist()]
    every.sort(key=lambda each: (each.facts.created, each.facts.sop_instance_uid), reverse=True)
    return Lines(every)


def annotation_in(generation: Generation, row: int) -> Annotation:
    """Return the annotation of a row of the table."""
    table = generation.annotations
    files = tuple(int(number) for number in table.value("files", row))
    segments = _segments(table.text("segments", row))
    facts = AnnotationFacts(
        **{name: table.value(name, row) for name in _PLAIN},
        segments=segments,
        references=(),
        remarks=tuple(table.value("remarks", row) or ()),
    )
    return Annotation(
        files,
        tuple(file_source(generation, file) for file in files),
        facts,
        table.text("status", row),
        tuple(int(number) for number in table.value("stacks", row) or ()),
        int(table.value("referenced", row)),
        int(table.value("found", row)),
        table.text("detail", row),
    )


# Small: many objects of one tool have the same segments, and reading 100 of them takes 0.5 ms.
@functools.lru_cache(maxsize=32)
def _segments(text: str) -> tuple[Segment, ...]:
    return tuple(_segment(each) for each in json.loads(text))


def _segment(values: Mapping[str, Any]) -> Segment:
    codes = {name: Code(**values[name]) if values[name] else None for name in ("category", "type")}
    return Segment(**{**values, **codes})

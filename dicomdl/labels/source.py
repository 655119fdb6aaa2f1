"""`LabelSource`: where the labels of stacks come from, as a frozen value."""

import contextlib
import dataclasses
import functools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values
from dicomdl.errors import AnnotationError, DicomdlError, UsageError
from dicomdl.geometry.linking import READABLE_STATUSES
from dicomdl.headers.annotation import ANNOTATION_KINDS, AnnotationFacts, read_annotation
from dicomdl.headers.data_set import source_of
from dicomdl.headers.structure_set import read_structure_set
from dicomdl.index.annotated import stacks_of
from dicomdl.index.annotations import HASHED, Annotation
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.labels._choice import Wish, chosen
from dicomdl.labels._coverage import Referred, referred_by_file, referred_by_index
from dicomdl.labels._fractions import Fractions
from dicomdl.labels._referenced import rois_of_stack
from dicomdl.labels._seg_frames import SegFrames
from dicomdl.labels.masks import MaskReader, is_mask, path_of
from dicomdl.labels.reader import (
    OVERLAP,
    LabelReader,
    LabelValues,
    OverlapWarning,
    fraction_block,
    label_block,
    smallest_dtype,
)
from dicomdl.labels.regions import RegionReport, report_on
from dicomdl.labels.rtstruct import ContourReader
from dicomdl.labels.seg import Align, SegObject, SegReader
from dicomdl.storage.memory import Share, share
from dicomdl.storage.sources import Source

# Kinds of annotations that are labels.
LABEL_KINDS: Final = ("SEG", "RTSTRUCT")
OnMissing = Literal["raise", "skip", "unlabelled"]
# The integers that torch computes with.
_TORCH_DTYPES: Final = ("uint8", "int8", "int16", "int32", "int64")
_readers: Final[Share[LabelReader]] = share("label readers", lambda reader: reader.nbytes)


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Where the labels of stacks come from, and how datasets deliver them.

    Datasets take one as `labels=`, or its first parameter alone. It is a function of a stack, too.

    Parameters
    ----------
    source
        "SEG" or "RTSTRUCT": the only readable annotation of this kind that each stack has. Or the
        path of a file or a pattern, such as "masks/{series_instance_uid}.nii.gz" (see
        `read_labels`). Or a function from a stack to its label map, integers (slices, rows,
        columns).
    segments, rois, threshold, align, values
        As for `read_labels`; not for functions.
    channels
        True delivers a mask per label, (k, D, H, W) instead of (D, H, W). The channels are those of
        a mapping of names, or else the names of all segments in the stacks of the dataset, in the
        order of their numbers and then of the alphabet; segments of one name share a channel. Files
        need a mapping, functions have no channels.
    label_dtype
        The integer type of `label` in samples: "uint8", "int8", "int16", "int32" or "int64". By
        default it is the smallest of uint8, int16 and int32 that holds the labels of all stacks of
        the dataset, so that samples collate. It is uint8 for channels and bits, and for files and
        functions, whose labels are not known before they are read. A label that it does not hold is
        a UsageError. Fractions are float32. Torch's ``cross_entropy`` wants ``label.long()``.
    unlabelled
        True adds the entry `unlabelled` to samples: bool (D, H, W), True where nobody annotated. An
        object annotates the slices of the instances that it refers to (of its Series, if it refers
        to no instances), those that its contours lie in, and the voxels that its frames, or the
        grid of its file, cover. Nothing beyond the stack is annotated. A function annotates the
        complete stack.
    on_missing
        What becomes of stacks without the annotation, the file, or one of the wanted segments, and
        of those with several readable annotations. "skip": datasets leave them out, with a
        `LeftOutWarning`. "raise": making the dataset raises an AnnotationError. "unlabelled": those
        without are taken, with the label 0, and samples have `unlabelled`; those with several are
        left out. Functions have to know themselves.

    Raises
    ------
    UsageError
        An option is none, or has no effect on such a source.

    Examples
    --------
    >>> from dicomdl import LabelSource
    >>> LabelSource("RTSTRUCT", rois={"lungs": "lung.*"})
    LabelSource('RTSTRUCT', rois={'lungs': 'lung.*'})
    """

    source: str | Callable[[Stack], Values]
    segments: Wish = field(default=None, compare=False)
    rois: Wish = field(default=None, compare=False)
    threshold: float | None = None
    align: Align = "nearest"
    values: LabelValues = "labels"
    channels: bool = False
    label_dtype: npt.DTypeLike | None = None
    unlabelled: bool = False
    on_missing: OnMissing = "skip"
    # The wishes as text, because lists and mappings have no hash.
    _wishes: str = field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        if self.align not in ("nearest", "exact"):
            raise UsageError(f"align={self.align!r}: expected 'nearest' or 'exact'")
        if self.on_missing not in ("raise", "skip", "unlabelled"):
            raise UsageError(
                f"on_missing={self.on_missing!r}: expected 'raise', 'skip' or 'unlabelled'"
            )
        _ = self._fractions
        if self.label_dtype is not None:
            object.__setattr__(self, "label_dtype", _checked_dtype(self.label_dtype))
        wishes = json.dumps([_plain(self.segments), _plain(self.rois)])
        object.__setattr__(self, "_wishes", wishes)
        if callable(self.source):
            self._check_function()
            return
        object.__setattr__(self, "source", os.fspath(self.source))
        if self.source.upper() in ANNOTATION_KINDS and self.source not in LABEL_KINDS:
            raise UsageError(
                f"labels={self.source!r}: expected one of {', '.join(LABEL_KINDS)}, or a file"
            )

    def _check_function(self) -> None:
        """Raise a UsageError for options that have no effect on a function."""
        neutral: dict[str, Any] = {
            "segments": None,
            "rois": None,
            "threshold": None,
            "align": "nearest",
        }
        neutral |= {"values": "labels", "channels": False}
        for name, value in neutral.items():
            if getattr(self, name) != value:
                raise UsageError(f"{name}= has no effect: the labels come from a function")

    @property
    def kind(self) -> str:
        """The kind of annotation that a stack must have; "" for files and functions."""
        return self.source if isinstance(self.source, str) and self.source in LABEL_KINDS else ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a mapping gives to the labels from 1 on; () without one."""
        wish = self.segments if self.rois is None else self.rois
        return tuple(wish) if isinstance(wish, Mapping) else ()

    @property
    def has_unlabelled(self) -> bool:
        """Whether samples tell what nobody annotated."""
        return self.unlabelled or self.on_missing == "unlabelled"

    @property
    def _fractions(self) -> Fractions:
        return Fractions(self.values, self.threshold)

    def labels_of(self, annotation: Annotation) -> dict[int, str]:
        """Return {label: name} of `annotation`; raise an AnnotationError if it lacks a segment."""
        option = "segments" if annotation.kind == "SEG" else "rois"
        choices = chosen(annotation.segments, self._wish(annotation.kind), option)
        return {choice.label: choice.name for choice in choices}

    def reader(self, stack: Stack) -> LabelReader:
        """Return the reader of the labels of `stack`, from memory if it was used before."""
        return _readers.of((stack, self), lambda: self._made(stack))

    def report(self, stack: Stack) -> RegionReport:
        """Return what becomes of each region of interest on a stack; it prints as a table.

        Regions that nothing of `rois` matches are there, too, and what matches no region is no
        error.

        Parameters
        ----------
        stack
            The stack of the image.

        Returns
        -------
        RegionReport
            One `Region` per region of interest, in the order of the file.

        Raises
        ------
        AnnotationError
            The stack has no readable RTSTRUCT, or several, or its positions are unknown.
        HeaderError, PixelError
            The file is no structure set, or it is damaged, or cannot be read.
        """
        (file,) = self.files(stack)
        with _named(file.path):
            rois = rois_of_stack(read_structure_set(file).rois, stack)
            return report_on(stack, rois, self._wish("RTSTRUCT"))

    def files(self, stack: Stack) -> tuple[Source, ...]:
        """Return the files that hold the labels of `stack`: one, or those of a concatenation."""
        if self.kind:
            return only_annotation(stack, self.kind).sources
        return (source_of(self.path(stack)),)

    def __call__(self, stack: Stack) -> Values:
        """Return the label map of a stack, (slices, rows, columns) integers; or fractions."""
        if callable(self.source):
            return self.source(stack)
        reader = self.reader(stack)
        if reader.values == "fractions":
            return fraction_block(reader, (0, 0, 0), reader.shape)
        labels, overlap = label_block(reader, (0, 0, 0), reader.shape, smallest_dtype(reader.names))
        if overlap:
            warnings.warn(OVERLAP, OverlapWarning, stacklevel=2)
        return labels

    def _made(self, stack: Stack) -> LabelReader:
        if self.kind:
            return self.of_annotation(stack, only_annotation(stack, self.kind))
        path = self.path(stack)
        with _named(path):
            if is_mask(path):
                return self._mask(stack, path)
            facts, file = read_annotation(source_of(path)), source_of(path)
            referred = functools.partial(referred_by_file, stack, facts)
            seg = functools.partial(_seg_of_file, stack, facts, path, referred)
            return self._of_facts(stack, facts, file, seg, referred)

    def path(self, stack: Stack) -> str:
        """Return the path of the file of `stack`."""
        if callable(self.source):
            raise UsageError("the labels come from a function, which has no file")
        return path_of(stack, self.source)

    def _mask(self, stack: Stack, path: str) -> MaskReader:
        if self.rois is not None or self.threshold is not None or self.values != "labels":
            raise UsageError(
                "rois=, threshold= and values= have no effect on a mask: segments= chooses labels"
            )
        return MaskReader(stack, path, self.segments)

    def of_annotation(self, stack: Stack, annotation: Annotation) -> LabelReader:
        """Return the reader of the labels of `annotation` on the grid of `stack`."""
        with _named(annotation.path):
            facts, referred = (
                annotation.facts,
                functools.partial(referred_by_index, stack, annotation),
            )

            def seg() -> SegObject:
                frames = SegFrames.of_index(stack, annotation)
                return SegObject(facts, frames, referred, len(annotation.stacks) > 1)

            return self._of_facts(stack, facts, annotation.source, seg, referred)

    def _of_facts(
        self,
        stack: Stack,
        facts: AnnotationFacts,
        file: Source,
        seg: Callable[[], SegObject],
        referred: Referred,
    ) -> LabelReader:
        wish = self._wish(facts.kind)
        if facts.kind == "SEG":
            choices = chosen(facts.segments, wish, "segments")
            reader = SegReader(stack, seg(), choices, fractions=self._fractions, align=self.align)
            reader.remarks = (*remarks_on(stack, facts), *reader.remarks)
            return reader
        if facts.kind == "RTSTRUCT":
            if self.threshold is not None or self.values != "labels":
                raise UsageError("threshold= and values= are no options for an RTSTRUCT")
            rois, stray = read_structure_set(file)
            choices = chosen([roi.facts for roi in rois], wish, "rois")
            contours = ContourReader(stack, rois_of_stack(rois, stack), choices, referred)
            contours.remarks = (*remarks_on(stack, facts), *contours.remarks)
            if stray:
                contours.remarks += (
                    f"{counted(stray, 'contours')} of a Referenced ROI Number (3006,0084) that no "
                    "region has, and are left out",
                )
            return contours
        remedy = (
            "scan it with its images, and read_labels(stack, 'RTDOSE') gives its doses"
            if facts.kind == "RTDOSE"
            else "expected a SEG or an RTSTRUCT"
        )
        raise AnnotationError(f"the file is an {facts.kind}: {remedy}", kind=facts.kind)

    def _wish(self, kind: str) -> Wish:
        """Return the wish for a kind of object."""
        taken, other = ("segments", "rois") if kind == "SEG" else ("rois", "segments")
        if getattr(self, other) is not None:
            raise UsageError(f"{other}= is no option for a {kind}")
        wish: Wish = getattr(self, taken)
        return wish

    def __repr__(self) -> str:
        given = [repr(self.source)]
        for each in dataclasses.fields(self)[1:-1]:
            value = getattr(self, each.name)
            if value != each.default:
                given.append(f"{each.name}={value!r}")
        return f"LabelSource({', '.join(given)})"


def _seg_of_file(stack: Stack, facts: AnnotationFacts, path: str, referred: Referred) -> SegObject:
    """Return the SEG of a file."""
    named = {uid for each in facts.references for uid in each.sop_instance_uids}
    is_shared = not named.issubset(map(str, stack.values("sop_instance_uid")))
    return SegObject(facts, SegFrames.of_file(path), referred, is_shared)


def only_annotation(stack: Stack, kind: str) -> Annotation:
    """Return the only readable annotation of a kind.

    Raises
    ------
    AnnotationError
        There is none, or there are several, which are never joined silently.
    """
    every = [each for each in stack.annotations if each.kind == kind]
    readable = [each for each in every if each.status in READABLE_STATUSES]
    if len(readable) == 1 or (kind == "RTDOSE" and _are_one_grid(stack, readable)):
        return readable[0]
    found = ", ".join(each.status for each in every)
    parts = sum("part of a plan" in remark for each in readable for remark in each.remarks)
    are_parts = f" ({parts} hold the dose of a part of a plan: see remarks)" if parts else ""
    message = (
        f"the stack has {len(readable)} readable annotations of the kind {kind}{are_parts}: pass "
        f"one of them, such as [a for a in stack.annotations if a.kind == {kind!r}][0], the newest"
        if readable
        else f"the stack has no readable {kind} (found: {found or 'none'}); a path or one of "
        "stack.annotations is read whatever its status"
    )
    error = AnnotationError(message, kind=kind, found=len(readable))
    error.add_note(f"series: {stack.series_instance_uid}")
    raise error


def _are_one_grid(stack: Stack, doses: Sequence[Annotation]) -> bool:
    """Whether some doses are the planes of one grid, in a file per plane."""
    grids = {tuple(stacks_of(stack, each).numbers.tolist()) for each in doses}
    return len(grids) == 1 and len(*grids) == 1


def remarks_on(stack: Stack, facts: AnnotationFacts) -> Iterator[str]:
    """Yield what is odd about an object, and whether it is of another patient than a stack."""
    yield from facts.remarks
    here, there = stack.patient_id, facts.patient_id
    are_hashes = [patient.startswith(HASHED) for patient in (here, there)]
    if here and there and here != there and are_hashes[0] == are_hashes[1]:
        yield "its PatientID is another one than that of the image"


def _checked_dtype(given: Any) -> str:
    """Return the name of an integer dtype of NumPy or torch; raise a UsageError for another."""
    name = str(given).removeprefix("torch.")
    with contextlib.suppress(TypeError):
        name = name if name in _TORCH_DTYPES else np.dtype(given).name
    if name not in _TORCH_DTYPES:
        raise UsageError(f"label_dtype={given!r}: expected one of {', '.join(_TORCH_DTYPES)}")
    return name


def _plain(wish: Wish) -> Any:
    """Return a wish as JSON holds it; the order of a mapping is that of its labels."""
    return [[name, items] for name, items in wish.items()] if isinstance(wish, dict) else wish


class _named:
    """Add the file to each error that leaves the block."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, DicomdlError) and not any(
            note.startswith("file: ") for note in getattr(error, "__notes__", ())
        ):
            error.add_note(f"file: {self._path}")

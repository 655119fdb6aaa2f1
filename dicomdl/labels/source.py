"""`LabelSource`: where the labels of stacks come from, as a frozen value."""

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dicomdl.arrays import Values
from dicomdl.errors import AnnotationError, DicomdlError, UsageError
from dicomdl.geometry.linking import READABLE_STATUSES
from dicomdl.headers.annotation import ANNOTATION_KINDS, AnnotationFacts, read_annotation
from dicomdl.headers.data_set import source_of
from dicomdl.headers.structure_set import read_structure_set
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stack
from dicomdl.labels._choice import Wish, chosen
from dicomdl.labels._seg_frames import SegFrames
from dicomdl.labels.masks import MaskReader, is_mask, path_of
from dicomdl.labels.reader import LabelReader, label_block, label_dtype
from dicomdl.labels.regions import RegionReport, report_on
from dicomdl.labels.rtstruct import ContourReader
from dicomdl.labels.seg import Align, SegReader
from dicomdl.storage.memory import Share, share
from dicomdl.storage.sources import Source

# Kinds of annotations that are labels.
LABEL_KINDS: Final = ("SEG", "RTSTRUCT")
_readers: Final[Share[LabelReader]] = share("label readers", lambda reader: reader.nbytes)


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Where the labels of stacks come from: annotations of the index, or files.

    Datasets take one as `labels=`, or its first parameter alone. It is a function of a stack, too.

    Parameters
    ----------
    source
        "SEG" or "RTSTRUCT": the only readable annotation of this kind that each stack has. Or the
        path of a file or a pattern, such as "masks/{series_instance_uid}.nii.gz" (see
        `read_labels`).
    segments, rois
        As for `read_labels`.
    threshold
        As for `read_labels`.
    align
        As for `read_labels`.

    Raises
    ------
    UsageError
        An option is none.

    Examples
    --------
    >>> from dicomdl import LabelSource
    >>> LabelSource("RTSTRUCT", rois={"lungs": "lung.*"})
    LabelSource('RTSTRUCT', rois={'lungs': 'lung.*'})
    """

    source: str
    segments: Wish = field(default=None, compare=False)
    rois: Wish = field(default=None, compare=False)
    threshold: float | None = None
    align: Align = "nearest"
    # The wishes as text, because lists and mappings have no hash.
    _wishes: str = field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        if self.align not in ("nearest", "exact"):
            raise UsageError(f"align={self.align!r}: expected 'nearest' or 'exact'")
        object.__setattr__(self, "source", os.fspath(self.source))
        if self.source.upper() in ANNOTATION_KINDS and self.source not in LABEL_KINDS:
            raise UsageError(
                f"labels={self.source!r}: expected one of {', '.join(LABEL_KINDS)}, or a file"
            )
        wishes = json.dumps([_plain(self.segments), _plain(self.rois)])
        object.__setattr__(self, "_wishes", wishes)

    @property
    def kind(self) -> str:
        """The kind of annotation that a stack must have; "" for files."""
        return self.source if self.source in LABEL_KINDS else ""

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
        file = self.file(stack)
        with _named(file.path):
            return report_on(stack, read_structure_set(file), self._wish("RTSTRUCT"))

    def file(self, stack: Stack) -> Source:
        """Return the file that holds the labels of `stack`."""
        if self.kind:
            return only_annotation(stack, self.kind).source
        return source_of(path_of(stack, self.source))

    def __call__(self, stack: Stack) -> Values:
        """Return the label map of a stack, (slices, rows, columns) integers."""
        reader = self.reader(stack)
        return label_block(reader, (0, 0, 0), reader.shape, label_dtype(reader.names))[0]

    def _made(self, stack: Stack) -> LabelReader:
        if self.kind:
            return self.of_annotation(stack, only_annotation(stack, self.kind))
        path = path_of(stack, self.source)
        with _named(path):
            if is_mask(path):
                return MaskReader(stack, path)
            facts = read_annotation(source_of(path))
            return self._of_facts(stack, facts, source_of(path), lambda: SegFrames.of_file(path))

    def of_annotation(self, stack: Stack, annotation: Annotation) -> LabelReader:
        """Return the reader of the labels of `annotation` on the grid of `stack`."""
        with _named(annotation.path):
            return self._of_facts(
                stack,
                annotation.facts,
                annotation.source,
                lambda: SegFrames.of_index(stack, annotation),
            )

    def _of_facts(
        self,
        stack: Stack,
        facts: AnnotationFacts,
        file: Source,
        frames: Callable[[], SegFrames],
    ) -> LabelReader:
        wish = self._wish(facts.kind)
        if facts.kind == "SEG":
            choices = chosen(facts.segments, wish, "segments")
            return SegReader(
                stack, facts, frames(), choices, threshold=self.threshold, align=self.align
            )
        if facts.kind == "RTSTRUCT":
            rois = read_structure_set(file)
            return ContourReader(stack, rois, chosen([roi.facts for roi in rois], wish, "rois"))
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


def kind_of(labels: Any) -> str:
    """Return the kind of annotation that labels come from; "" for functions and files."""
    return labels.kind if isinstance(labels, LabelSource) else ""


def only_annotation(stack: Stack, kind: str) -> Annotation:
    """Return the only readable annotation of a kind.

    Raises
    ------
    AnnotationError
        There is none, or there are several, which are never joined silently.
    """
    every = [each for each in stack.annotations if each.kind == kind]
    readable = [each for each in every if each.status in READABLE_STATUSES]
    if len(readable) == 1:
        return readable[0]
    found = ", ".join(each.status for each in every)
    message = (
        f"the stack has {len(readable)} readable annotations of the kind {kind}: pass one of them, "
        f"such as [a for a in stack.annotations if a.kind == {kind!r}][0], the newest"
        if readable
        else f"the stack has no readable {kind} (found: {found or 'none'}); a path or one of "
        "stack.annotations is read whatever its status"
    )
    error = AnnotationError(message, kind=kind, found=len(readable))
    error.add_note(f"series: {stack.series_instance_uid}")
    raise error


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

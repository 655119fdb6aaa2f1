"""Which stacks of a dataset have labels, and under which names: what is known before reading."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicomdl.arrays import Mask
from dicomdl.errors import AnnotationError, UsageError
from dicomdl.geometry.linking import READABLE_STATUSES
from dicomdl.index.annotated import annotations_on
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stacks
from dicomdl.labels._fractions import BITS
from dicomdl.labels.reader import smallest_dtype
from dicomdl.labels.source import LabelSource

_SEVERAL: Final = "several readable "


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What is known of the labels of some stacks.

    Attributes
    ----------
    reasons
        Why each stack has no labels that can be read; "" if it has.
    is_absent
        (stacks,) bool: the stacks that lack an annotation, a file or a segment; the others with a
        reason have several annotations.
    dtype
        The name of the dtype that holds the labels of all stacks.
    names
        The names of the channels, in order; () for label maps.
    """

    reasons: tuple[str, ...]
    is_absent: Mask
    dtype: str
    names: tuple[str, ...]


def survey(source: LabelSource, stacks: Stacks) -> Survey:
    """Return what is known of the labels of some stacks.

    Raises
    ------
    UsageError
        There shall be channels, and their names are not known.
    """
    if source.kind:
        return _of_annotations(source, stacks)
    reasons = [""] * len(stacks)
    if isinstance(source.source, str):
        is_there = (os.path.exists(source.path(stack)) for stack in stacks)
        reasons = ["" if there else "no file of labels" for there in is_there]
    labels = dict(enumerate(source.names, 1))
    return _survey(source, reasons, list(labels.items()))


def _of_annotations(source: LabelSource, stacks: Stacks) -> Survey:
    none = f"no readable {source.kind}"
    reasons = dict.fromkeys(stacks.numbers.tolist(), none)
    seen: set[int] = set()
    # (label, name) of all stacks.
    found: set[tuple[int, str]] = set()
    for each in annotations_on(stacks):
        if each.kind != source.kind:
            continue
        if each.status not in READABLE_STATUSES:
            unread = {number for number in each.stacks if reasons.get(number) == none}
            reasons |= dict.fromkeys(unread, f"{none} ({each.status})")
            continue
        labels, reason = _labels_of(source, each)
        found.update(labels.items())
        for number in each.stacks:
            if number in reasons:
                reasons[number] = _SEVERAL + source.kind if number in seen else reason
        seen.update(each.stacks)
    return _survey(source, [reasons[number] for number in stacks.numbers.tolist()], sorted(found))


def _labels_of(source: LabelSource, annotation: Annotation) -> tuple[dict[int, str], str]:
    """Return {label: name} of an annotation, and why it has not what is wanted."""
    try:
        return source.labels_of(annotation), ""
    except AnnotationError:
        if source.segments is None and source.rois is None:
            return {}, f"a label of the {source.kind} has the number 0"
        return {}, f"segments= or rois= name nothing in the {source.kind}"


def _survey(
    source: LabelSource, reasons: Sequence[str], labels: Sequence[tuple[int, str]]
) -> Survey:
    """Return the survey for (label, name) of all labels that are known, in order."""
    names = source.names or tuple(dict.fromkeys(name for _, name in labels))
    if source.values == "bits":
        names = tuple(BITS.values())
    if source.channels and not names and (not source.kind or source.on_missing == "unlabelled"):
        raise UsageError(
            "channels=True needs the names of the channels: segments={'liver': ...} gives them"
        )
    if source.values == "fractions":
        dtype = "float32"
    elif source.label_dtype is not None:
        dtype = str(source.label_dtype)
    elif labels and not source.channels and source.values == "labels":
        dtype = np.dtype(smallest_dtype(dict(labels))).name
    else:
        # Masks, bits, or labels that are not known before they are read.
        dtype = "uint8"
    is_absent = np.array([bool(each) and not each.startswith(_SEVERAL) for each in reasons], bool)
    return Survey(tuple(reasons), is_absent, dtype, names if source.channels else ())

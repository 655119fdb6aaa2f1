"""`read_labels`: the labels of an object on the grid of a stack, as a volume."""

import dataclasses
import os
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values, Voxel
from dicomdl.errors import DicomdlWarning, UsageError
from dicomdl.headers.annotation import ANNOTATION_KINDS
from dicomdl.index.annotations import Annotation
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.labels._choice import Wish
from dicomdl.labels.dose import dose_on
from dicomdl.labels.reader import (
    LabelReader,
    LabelValues,
    OverlapWarning,
    channel_block,
    fraction_block,
    is_held,
    label_block,
    smallest_dtype,
)
from dicomdl.labels.seg import Align
from dicomdl.labels.source import LabelSource, only_annotation, remarks_on
from dicomdl.volumes.volume import Volume


class RemarkWarning(DicomdlWarning):
    """Warning that labels were read although something lies beyond the stack, or is odd."""


def read_labels(
    stack: Stack,
    source: str | os.PathLike[str] | Annotation | LabelSource,
    *,
    segments: Wish = None,
    rois: Wish = None,
    channels: bool = False,
    threshold: float | None = None,
    align: Align = "nearest",
    values: LabelValues = "labels",
    label_dtype: npt.DTypeLike | None = None,
) -> Volume:
    """Read a segmentation, structure set, dose or mask on the grid of a stack.

    Frames and contours find their slices by position, also in tilted, uneven and incomplete stacks.
    Frames without any position lie on the images that they refer to (PS3.3 A.51.5.1).
    A contour belongs to the nearest slice within half the spacing. A pixel belongs to a contour if
    its centre does; contours of one plane are combined by exclusive or (PS3.3 C.8.8.6.1), so that a
    contour inside another one is a hole. A region that was drawn on every second to fourth slice
    has the contours of the nearest plane on those between; `LabelSource.report` counts them.

    Parameters
    ----------
    stack
        The stack of the image.
    source
        "SEG", "RTSTRUCT" or "RTDOSE": the only readable one of ``stack.annotations``. One of these,
        or the path of a SEG, an RTSTRUCT, or a mask in a file of NIfTI, NRRD or MetaImage. A path
        may be a pattern: "masks/{series_instance_uid}.nii.gz" (also `patient_id`,
        `study_instance_uid`, `series_number`, `sop_instance_uid`, `folder` and its last part,
        `name`). A mask lies where the affine of its file says, whatever the order of its axes. Or a
        `LabelSource` with options of its own, which take the place of those below.
    segments, rois
        The segments of a SEG, or the regions of interest of an RTSTRUCT, to read. None: all, with
        their own numbers and names. A list: by number, by a regular expression that matches the
        complete name (capitals do not count), or by the code of the type ("SCT:10200004"), labelled
        from 1 on. A mapping ``{"lungs": "lung.*", "tumour": ["gtv.*", "tumou?r"]}``: one label per
        name, from 1 on, for all that it names, which is one segment at least.
    channels
        True returns one mask per label instead of a label map; with "bits", one per bit.
    threshold
        The fraction from which on a voxel of a FRACTIONAL SEG has its label, above 0 to 1.
    align
        What to do about a SEG on another grid: "nearest" samples it at the nearest voxel, "exact"
        refuses it.
    values
        What a FRACTIONAL SEG gives: "labels" by a `threshold`; "fractions" (probabilities or
        occupancies, as its `fractional_type` says) of one segment, or of each as `channels`;
        "bits", the stored values of one segment, for bit masks that call themselves fractions
        (ISPY2, ACRIN-6698). The nearest voxel is taken where the grids differ.
    label_dtype
        The integer type of a label map. By default the smallest of uint8, int16 and int32 that
        holds the labels.

    Returns
    -------
    Volume
        (slice, row, column) integers, 0 for background, with ``names``: {label: name}, and
        ``unlabelled``: a mask of what the object does not annotate (see `LabelSource`). With
        `channels`, (label, slice, row, column) bool, with the names as its `dimension`. Fractions
        are float32 from 0 to 1. A dose is float32 Gy, linearly interpolated, and 0 beyond its grid.

    Warns
    -----
    OverlapWarning
        Voxels of the label map have several labels; each has the last one of ``names``.
    RemarkWarning
        Frames or contours lie beyond the stack, or a label has none on it; or the object has a
        remark (see `Annotation.remarks`), or another PatientID than the image.

    Raises
    ------
    AnnotationError
        The object does not fit the stack (another frame of reference, no frame or contour on it),
        has no such segment, cannot be read as labels, or has unusable contours or fractions above
        their maximum.
    HeaderError, PixelError, StorageError
        The file is damaged, or cannot be read.
    UsageError
        An option is none.

    Examples
    --------
    >>> from pathlib import Path
    >>> import tempfile
    >>> import dicomdl
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
    ...     index = dicomdl.scan("patient", folder)
    ...     labels = dicomdl.read_labels(index.stacks[0], "patient/seg.dcm")
    >>> labels.names  # doctest: +SKIP
    {1: 'Liver', 2: 'Spleen'}
    """
    options = LabelSource("", segments, rois, threshold, align, values)
    if isinstance(source, LabelSource):
        options, channels = source, channels or source.channels
        label_dtype = options.label_dtype if label_dtype is None else label_dtype
        if callable(options.source):
            return _given(stack, options(stack))
        source = options.source
    if not isinstance(source, Annotation) and os.fspath(source) in ANNOTATION_KINDS:
        source = only_annotation(stack, os.fspath(source))
    if isinstance(source, Annotation):
        if source.kind == "RTDOSE":
            dose = dose_on(stack, source)
            _warn((*source.remarks, *remarks_on(stack, source.facts)))
            return dose
        reader = options.of_annotation(stack, source)
    else:
        reader = dataclasses.replace(options, source=os.fspath(source)).reader(stack)
    known = source.remarks if isinstance(source, Annotation) else ()
    _warn((*known, *reader.remarks))
    volume = _volume(stack, reader, channels=channels, dtype=label_dtype)
    covered = reader.covered((0, 0, 0), reader.shape)
    return dataclasses.replace(volume, unlabelled=_complement(covered, reader.shape))


def _warn(remarks: Sequence[str]) -> None:
    """Warn of remarks, each once, at the line of the caller of `read_labels`."""
    if remarks:
        text = "; ".join(dict.fromkeys(remarks))
        warnings.warn(f"labels were read, but {text}", RemarkWarning, stacklevel=3)


def _given(stack: Stack, labels: Values) -> Volume:
    """Return the label map of a function as a volume; it annotates the complete stack."""
    return Volume(
        labels,
        stack.geometry,
        frame=stack.middle,
        stack=stack,
        quantity="derived",
        unlabelled=np.broadcast_to(np.False_, stack.shape),
    )


def _complement(covered: Mask | None, shape: Voxel) -> Mask:
    """Return what is not covered; a view without memory of its own where slices are uniform."""
    if covered is None:
        return np.broadcast_to(np.False_, shape)
    if not any(covered.strides[1:]):
        return np.broadcast_to(~covered[:, :1, :1], shape)
    return ~covered


def _volume(
    stack: Stack, reader: LabelReader, *, channels: bool, dtype: npt.DTypeLike | None
) -> Volume:
    """Read all blocks of a reader as one volume."""
    if reader.values == "fractions" and not channels:
        fractions = fraction_block(reader, (0, 0, 0), reader.shape)
        return Volume(
            fractions, stack.geometry, frame=stack.middle, stack=stack, quantity="derived"
        )
    if channels:
        masks = channel_block(reader, (0, 0, 0), reader.shape)
        names = tuple(reader.names.values())
        return Volume(
            masks,
            stack.geometry,
            frame=stack.middle,
            stack=stack,
            dimension=names,
            dimension_names=("label",),
        )
    kind = np.dtype(smallest_dtype(reader.names) if dtype is None else dtype)
    if kind.kind not in "ui" or not is_held(reader.names, kind):
        least, most = min(reader.names, default=0), max(reader.names, default=0)
        raise UsageError(
            f"label_dtype={kind}: expected integers that hold the labels {least} to {most}"
        )
    labels, overlap = label_block(reader, (0, 0, 0), reader.shape, kind)
    if overlap:
        warnings.warn(
            f"{counted(overlap, 'voxels')} have several labels, and each got the last one: "
            "channels=True keeps all",
            OverlapWarning,
            stacklevel=3,
        )
    return label_volume(stack, labels, reader)


def label_volume(stack: Stack, labels: Values, reader: LabelReader) -> Volume:
    """Return the label map of a reader on the grid of its stack as a volume, with the names."""
    return Volume(
        labels,
        stack.geometry,
        frame=stack.middle,
        stack=stack,
        quantity="derived",
        names=dict(reader.names),
    )

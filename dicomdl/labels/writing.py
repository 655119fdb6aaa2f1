"""`write_seg`: labels or probabilities on the grid of a stack as a DICOM segmentation.

highdicom makes the object. It sees each slice of the stack as an image of one frame, whatever file
the slice was cut out of; afterwards the references name the true instances and frames.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import AnnotationError, GeometryError, StorageError, UsageError
from dicomdl.extras import import_extra
from dicomdl.headers.annotation import Code, Segment
from dicomdl.headers.derivation import (
    Plane,
    read_source_header,
    slice_headers,
    slice_uid,
    use_unicode,
)
from dicomdl.headers.requirement import quiet
from dicomdl.index.views import Stack
from dicomdl.labels._planes import Planes
from dicomdl.labels._segments import MOST_SEGMENTS, TISSUE, Described, described_segments
from dicomdl.storage.publishing import put_together
from dicomdl.version import __version__
from dicomdl.volumes.fitting import as_values
from dicomdl.volumes.volume import Volume

SegKind = Literal["BINARY", "LABELMAP", "FRACTIONAL"]
AlgorithmType = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]

_KINDS: Final = ("BINARY", "LABELMAP", "FRACTIONAL")
# The largest value of a FRACTIONAL SEG, whose steps are 1/255.
_WHOLE: Final = 255


def write_seg(
    labels: Any,
    out: str | os.PathLike[str],
    *,
    segments: Mapping[int, Described] | None = None,
    stack: Stack | None = None,
    kind: SegKind | None = None,
    algorithm: str = "unspecified",
    algorithm_type: AlgorithmType = "AUTOMATIC",
    series_description: str = "Segmentation",
) -> str:
    """Write labels or probabilities on the grid of a stack as a DICOM SEG (extra `labels`).

    The SEG names the images of the stack as its source, and `read_labels` gives the same voxels
    again. It is a new Series of their study. Identity of patient and study (PatientName, PatientID,
    ...) comes from the header of the images, as the standard requires: also if the index holds
    hashes. Frames without a voxel of their segment are left out.

    Parameters
    ----------
    labels
        A volume of integers, 0 for background, such as ``read_volume(stack).like(prediction)`` or
        the result of `read_labels`; bool masks, (slice, row, column) or (segment, slice, row,
        column); or probabilities from 0 to 1 as floats of these shapes. An array or a tensor
        needs `stack`.
    out
        The file to write. An existing file is replaced, but never one of the stack.
    segments
        {label: name}; masks and probabilities count from 1. Instead of a name, an item of
        ``annotation.segments``, or a mapping with "name", and "category" and "type" as codes:
        ``{"name": "Liver", "type": ("10200004", "SCT", "Liver")}``. Their default is "Tissue". By
        default the names of the volume.
    stack
        The stack of the images; by default that of the volume.
    kind
        "BINARY", one bit per segment and voxel, which every reader knows; "LABELMAP", one label per
        voxel, smaller and faster with many segments, but new in 2024; "FRACTIONAL" for
        probabilities. By default FRACTIONAL for floats, and BINARY for others, or LABELMAP if
        labels are missing between 1 and the last one, which BINARY cannot number.
    algorithm
        Name of the algorithm or network.
    algorithm_type
        "AUTOMATIC", "SEMIAUTOMATIC" or "MANUAL". A segment may have its own, as "algorithm".
    series_description
        Series Description.

    Returns
    -------
    str
        The path of the file, which is complete or absent.

    Raises
    ------
    AnnotationError
        The labels lie on another grid than the stack; a label has no name; masks of a LABELMAP
        overlap; the stack has no positions, no frame of reference, or two slices in one place.
    UsageError
        The values are neither labels nor probabilities, or an option is none.
    StorageError
        The file cannot be written.
    MissingExtra
        highdicom is not installed.

    Examples
    --------
    >>> import dicomdl
    >>> stack = index.stacks[0]  # doctest: +SKIP
    >>> liver = dicomdl.read_volume(stack).like(prediction > 0.5)  # doctest: +SKIP
    >>> dicomdl.write_seg(liver, "liver.dcm", segments={1: "Liver"})  # doctest: +SKIP
    'liver.dcm'
    """
    stack, values, names = _on_stack(labels, stack)
    values = _as_labels(values, stack)
    described = described_segments(segments, names, algorithm_type)
    kind = _kind(kind, values, described)
    values = _checked(values, kind, described)
    path = _target(out, stack)
    highdicom = import_extra("highdicom", "write_seg()", "labels")
    planes = Planes.of(stack)
    _require_one_place_each(stack, planes)
    with quiet():
        seg = _segmentation(
            highdicom, stack, planes, values, kind, _descriptions(highdicom, described, algorithm)
        )
        seg.SeriesDescription = series_description
        use_unicode(seg)
        with put_together(path) as inside:
            seg.save_as(inside)
    return os.fspath(out)


def _on_stack(labels: Any, stack: Stack | None) -> tuple[Stack, Values, Mapping[int, str]]:
    """Return the stack, the values and their names, and check that they lie on the stack's grid."""
    if isinstance(labels, Volume):
        stack = labels.stack if stack is None else stack
        if stack is None:
            raise UsageError("the volume has no stack: stack= names that of its images")
        _require_grid(stack, labels)
        names = dict(labels.names)
        if not names and labels.dimension_names == ("label",):
            names = {number: str(name) for number, name in enumerate(labels.dimension, 1)}
        return stack, labels.array, names
    if stack is None:
        raise UsageError("an array has no stack: stack= names that of its images")
    return stack, as_values(labels), {}


def _require_grid(stack: Stack, volume: Volume) -> None:
    """Raise an AnnotationError for a volume on another grid than the stack."""
    grid, given = (
        Volume(np.broadcast_to(np.False_, each.shape), each)
        for each in (stack.geometry, volume.geometry)
    )
    try:
        grid.like(given)
    except GeometryError as error:
        reason = str(error).partition(":")[0]
        raise AnnotationError(
            f"the labels do not lie on the grid of their stack ({reason}): "
            "volume.resample_to(stack.geometry, interpolation='nearest') puts labels back",
            **vars(error),
        ) from None


def _as_labels(values: Values, stack: Stack) -> Values:
    """Return (slice, row, column) labels, or (segment, slice, row, column) masks or fractions."""
    if values.shape[-3:] != stack.shape or values.ndim not in (3, 4):
        raise AnnotationError(
            f"the labels have shape {values.shape}: expected {stack.shape}, or masks "
            f"(segments, {', '.join(map(str, stack.shape))})",
            shape=values.shape,
            expected=stack.shape,
        )
    if values.dtype.kind == "f":
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not (low >= 0 and high <= 1):
            raise UsageError(
                f"floats from {low:g} to {high:g}: probabilities are 0 to 1; for labels, pass "
                "integers (array.round().astype(int))"
            )
        # highdicom takes no other floats.
        values = values.astype(np.float32 if values.itemsize <= 4 else np.float64, copy=False)
    elif values.dtype.kind not in "bui" or (values.ndim == 4 and values.dtype.kind != "b"):
        raise UsageError(
            f"{values.dtype} with {values.ndim} axes: expected a label map of integers, "
            "bool masks, or float probabilities"
        )
    return values[None] if values.ndim == 3 and values.dtype.kind in "fb" else values


def _kind(kind: SegKind | None, values: Values, described: Sequence[Segment]) -> SegKind:
    is_float = values.dtype.kind == "f"
    is_counted = [each.number for each in described] == list(range(1, len(described) + 1))
    if kind is None:
        return "FRACTIONAL" if is_float else "BINARY" if is_counted else "LABELMAP"
    if kind not in _KINDS:
        raise UsageError(f"kind={kind!r}: expected one of {', '.join(_KINDS)}")
    if is_float != (kind == "FRACTIONAL"):
        raise UsageError(
            f"kind={kind!r} for {values.dtype}: FRACTIONAL takes floats, the others integers "
            "or bool"
        )
    if kind == "BINARY" and not is_counted:
        raise UsageError(
            f"the {len(described)} segments of a BINARY SEG are numbered from 1 without gaps "
            f"(PS3.3 C.8.20.2), these reach {described[-1].number}: kind='LABELMAP' keeps them"
        )
    return kind


def _checked(values: Values, kind: SegKind, described: Sequence[Segment]) -> Values:
    """Return the values as highdicom takes them; segments are the last axis."""
    numbers = [each.number for each in described]
    if values.ndim == 4:
        if len(values) != len(numbers) or numbers != list(range(1, len(numbers) + 1)):
            raise AnnotationError(
                f"{len(values)} masks and the segments {numbers[:20]}: expected one per mask, "
                "from 1 on",
                masks=len(values),
            )
        if kind == "LABELMAP":
            labels = np.zeros(values.shape[1:], np.uint8 if len(values) < 256 else np.uint16)
            for number, mask in enumerate(values, 1):
                both = int(np.count_nonzero(labels[mask]))
                if both:
                    raise AnnotationError(
                        f"{both} voxels of mask {number} have another label: a LABELMAP holds one "
                        "per voxel, kind='BINARY' holds all",
                        voxels=both,
                    )
                labels[mask] = number
            return labels
        return np.moveaxis(values, 0, -1)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > MOST_SEGMENTS:
        raise UsageError(f"labels from {low} to {high}: expected 0 to {MOST_SEGMENTS}")
    labels = values.astype(np.uint8 if high < 256 else np.uint16, copy=False)
    # By slices, because bincount takes eight bytes per voxel.
    found = np.zeros(high + 1, np.bool_)
    for plane in labels:
        counts = np.bincount(plane.reshape(-1), minlength=high + 1)
        found |= counts > 0
    unnamed = sorted(set(np.flatnonzero(found).tolist()) - {0, *numbers})
    if unnamed:
        raise AnnotationError(
            f"labels without a name: {', '.join(map(str, unnamed[:20]))}; segments={{label: name}} "
            "names all of them",
            labels=unnamed,
        )
    return labels


def _target(out: str | os.PathLike[str], stack: Stack) -> str:
    """Return the path to write to."""
    path = os.path.abspath(os.fspath(out))
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path)):
        what = "it is a folder" if os.path.isdir(path) else "no such folder"
        raise StorageError(f"{path!r} cannot be written: {what}")
    real = os.path.realpath(path)
    if any(os.path.realpath(each) == real for each in stack.paths):
        raise UsageError(f"{path!r} is an image of the stack: out= names another file")
    return path


def _require_one_place_each(stack: Stack, planes: Planes) -> None:
    if not stack.value("frame_of_reference_uid"):
        raise AnnotationError("the stack has no frame of reference, which its SEG must name")
    repeated = int((np.diff(planes.heights) <= 0).sum())
    if repeated:
        raise AnnotationError(
            f"{repeated} slices lie in the place of another one (verdict {stack.verdict})",
            slices=repeated,
        )


def _descriptions(highdicom: Any, described: Sequence[Segment], algorithm: str) -> list[Any]:
    """Return the segments as highdicom describes them."""
    concept = highdicom.sr.CodedConcept
    # highdicom wants a family of algorithms, which nobody may know: `_segmentation` drops it.
    family = concept("123109", "DCM", "Manual Processing")
    identification = highdicom.AlgorithmIdentificationSequence(algorithm, family, __version__)
    return [
        highdicom.seg.SegmentDescription(
            segment_number=each.number,
            segment_label=each.label,
            segmented_property_category=_concept(concept, each.category),
            segmented_property_type=_concept(concept, each.type),
            algorithm_type=each.algorithm,
            algorithm_identification=None if each.algorithm == "MANUAL" else identification,
        )
        for each in described
    ]


def _concept(concept: Any, code: Code | None) -> Any:
    code = code or TISSUE
    return concept(code.value, code.scheme, code.meaning)


def _segmentation(
    highdicom: Any,
    stack: Stack,
    planes: Planes,
    values: Values,
    kind: SegKind,
    descriptions: Sequence[Any],
) -> Any:
    """Return the object, with references to the true instances and frames."""
    header = read_source_header(stack.source(0).file)
    seg = highdicom.seg.Segmentation(
        source_images=slice_headers(header, _planes(stack, planes), *stack.shape[1:]),
        pixel_array=values,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=1000 + max(0, stack.value("series_number") or 0),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="dicomdl",
        manufacturer_model_name="dicomdl",
        software_versions=__version__,
        device_serial_number="none",
        max_fractional_value=_WHOLE,
    )
    for segment in seg.SegmentSequence:
        segment.pop("SegmentationAlgorithmIdentificationSequence", None)
    _refer(seg, stack, int(header.get("NumberOfFrames") or 1) > 1)
    return seg


def _planes(stack: Stack, planes: Planes) -> list[Plane]:
    down, right = np.linalg.norm(planes.down), np.linalg.norm(planes.right)
    orientation = np.concatenate([planes.right / right, planes.down / down]).tolist()
    thickness = stack.value("slice_thickness")
    spacing = (float(down), float(right))
    return [Plane(each, orientation, spacing, thickness) for each in planes.origins.tolist()]


def _refer(seg: Any, stack: Stack, is_multi: bool) -> None:
    """Put the true instances and frames in the place of the slices that highdicom saw."""
    instances = stack.values("sop_instance_uid")
    classes, frames = stack.values("sop_class_uid"), stack.values("frame_number")
    of_instance = defaultdict[str, list[int]](list)
    for instance, frame in zip(instances, frames, strict=True):
        of_instance[instance].append(int(frame))

    numbers = {slice_uid(number): number for number in range(stack.slices)}

    def name(item: Any, number: int) -> None:
        item.ReferencedSOPClassUID = classes[number]
        item.ReferencedSOPInstanceUID = instances[number]

    for group in seg.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", ()):
            for item in derivation.SourceImageSequence:
                # Frames of one slice share an item, which may have its true name already.
                number = numbers.get(str(item.ReferencedSOPInstanceUID), -1)
                if number < 0:
                    continue
                name(item, number)
                if is_multi:
                    item.ReferencedFrameNumber = int(frames[number])
    first = {instance: number for number, instance in reversed(list(enumerate(instances)))}
    kept = []
    for number in sorted(first.values()):
        item = seg.SourceImageSequence[number]
        name(item, number)
        if is_multi:
            item.ReferencedFrameNumber = sorted(of_instance[instances[number]])
        kept.append(item)
    seg.SourceImageSequence = kept
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = kept

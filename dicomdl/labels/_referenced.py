"""Frames of a SEG, and contours, by the images that they refer to.

A SEG of radiographs, ultrasound or photographs has no frame of reference. Each pixel of its frames
is that of a source image, which has as many rows and columns (PS3.3 A.51.5.1). Tiles of a slide
have a frame of reference, and need not be those of the image. An object of several time points has
frames of one segment, or contours of one region, at one place, each for its own images.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from dicomdl.arrays import Ints, Mask
from dicomdl.errors import AnnotationError
from dicomdl.headers.frame_references import FrameReference, frame_references
from dicomdl.headers.structure_set import Roi
from dicomdl.index.views import Stack
from dicomdl.labels._planes import Planes
from dicomdl.labels._seg_frames import SegFrames, require_equal_counts

# Positions are equal up to a thousandth of a mm.
_PER_MM: Final = 1000


def on_references(frames: SegFrames, stack: Stack) -> tuple[SegFrames, Planes]:
    """Return frames without positions, and the slices of a stack, in steps of one pixel.

    A frame that refers to several slices is there once for each, and one that refers to no slice of
    the stack lies beyond it.

    Raises
    ------
    AnnotationError
        The rows or columns are others than those of the stack, a frame names no source image, none
        is on the stack, or several frames of a segment are on one slice.
    """
    if frames.size != stack.shape[1:]:
        raise AnnotationError(
            f"the frames of the SEG have no position, and {frames.size[0]} x {frames.size[1]} "
            f"pixels: expected the {stack.shape[1]} x {stack.shape[2]} of the images that they "
            "refer to",
            expected=stack.shape[1:],
            found=frames.size,
        )
    numbers, slices = _slices_of(_references_of(frames), stack)
    placed = np.stack([frames.segments[numbers], slices], axis=1)[slices >= 0]
    if not len(placed):
        raise AnnotationError(
            f"none of {len(frames)} frames of the SEG, which have no position, refers to an image "
            "of the stack",
            frames=len(frames),
        )
    if len(np.unique(placed, axis=0)) < len(placed):
        raise AnnotationError(
            "the frames of the SEG have no position, and several of a segment refer to one image: "
            "Referenced Frame Number (0008,1160) is absent or repeated, so they cannot be told "
            "apart"
        )
    steps = np.ones((len(numbers), 1))
    pixels = dataclasses.replace(
        frames.taken(numbers),
        # The slice below the first is beyond the stack.
        origins=np.where(slices < 0, -2, slices)[:, None] * np.array([0.0, 0, 1]),
        down=steps * [0.0, 1, 0],
        right=steps * [1.0, 0, 0],
    )
    origins = np.arange(stack.slices)[:, None] * np.array([0.0, 0, 1])
    return pixels, Planes.at(origins, np.array([0.0, 1, 0]), np.array([1.0, 0, 0]), 1.0)


def of_stack(frames: SegFrames, stack: Stack, *, is_shared: bool) -> tuple[SegFrames, int]:
    """Return the frames for a stack, and how many of them share their segment and place.

    Frames for other images, such as other time points, are left out (see `_are_for_others`).
    `is_shared` says whether the SEG refers to images of several stacks; several frames of a segment
    at one place tell that, too.
    """
    places = np.column_stack([frames.segments, np.rint(frames.origins * _PER_MM)])
    _, which, counts = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    if counts.max() == 1 and not is_shared:
        return frames, 0
    taken = np.flatnonzero(~_are_for_others(_images_of(frames), stack))
    shared = np.bincount(which.reshape(-1)[taken])
    return frames.taken(taken), int(shared[shared > 1].sum())


def rois_of_stack(rois: Sequence[Roi], stack: Stack) -> tuple[Roi, ...]:
    """Return regions of interest without the contours for other images than those of a stack."""
    images = [each for roi in rois for each in roi.contours.images]
    are_for_others = _are_for_others(images, stack)
    if not are_for_others.any():
        return tuple(rois)
    ends = np.cumsum([len(roi.contours) for roi in rois])[:-1]
    return tuple(
        dataclasses.replace(roi, contours=roi.contours.taken(np.flatnonzero(~others)))
        for roi, others in zip(rois, np.split(are_for_others, ends), strict=True)
    )


def _are_for_others(images: Sequence[Sequence[FrameReference]], stack: Stack) -> Mask:
    """Return which frames or contours describe other images than those of a stack.

    These name images of its Series that are in other stacks, such as those of another time point,
    while others name images of the stack. References to images that are not known say nothing.
    """
    numbers, slices = _slices_of(images, stack)
    are_here = np.zeros(len(images), np.bool_)
    are_here[numbers[slices >= 0]] = True
    if are_here.all() or not are_here.any():
        return np.zeros(len(images), np.bool_)
    series = {str(uid) for other in stack.series for uid in other.values("sop_instance_uid")}
    are_of_series = [any(each.sop_instance_uid in series for each in every) for every in images]
    return np.array(are_of_series) & ~are_here


def _images_of(frames: SegFrames) -> list[tuple[FrameReference, ...]]:
    """Return the source images of each frame; none where frames have no groups of their own."""
    files = dict.fromkeys(frames.source_of(number).file for number in range(len(frames)))
    found = [images for file in files for images in frame_references(file).images]
    return found if len(found) == len(frames) else [()] * len(frames)


def _references_of(frames: SegFrames) -> list[tuple[FrameReference, ...]]:
    """Return the source images of each frame; frames lie in one or several files, in order."""
    files = dict.fromkeys(frames.source_of(number).file for number in range(len(frames)))
    for file in files:
        require_equal_counts(file)
    found = [frame_references(file) for file in files]
    if any(each.are_on_slide for each in found):
        raise AnnotationError(
            "the frames of the SEG have no image_position_patient: they lie on a microscope slide, "
            "on a grid of its own, which is not read as labels",
            column="image_position_patient",
        )
    references = [images for each in found for images in each.images]
    unnamed = sum(not each for each in references)
    if unnamed:
        raise AnnotationError(
            f"{unnamed} of {len(frames)} frames have no image_position_patient, and no Source "
            "Image Sequence (0008,2112) that says which image they mark",
            column="image_position_patient",
        )
    if any(each.is_moved for images in references for each in images):
        raise AnnotationError(
            "the frames of the SEG have no position, and lie elsewhere than their source images: "
            "Spatial Locations Preserved (0028,135A) is NO or REORIENTED_ONLY"
        )
    return references


def _slices_of(references: Sequence[Sequence[FrameReference]], stack: Stack) -> tuple[Ints, Ints]:
    """Return a frame and its slice per reference, -1 for frames that refer to no slice."""
    uids, numbers = stack.values("sop_instance_uid"), stack.values("frame_number")
    slices: dict[str, dict[int, int]] = {}
    for z, (uid, number) in enumerate(zip(uids, numbers, strict=True)):
        slices.setdefault(str(uid), {})[int(number)] = z
    pairs: list[tuple[int, int]] = []
    for frame, images in enumerate(references):
        found: dict[int, None] = {}
        for uid, chosen, _ in images:
            known = slices.get(uid, {})
            # Without frame numbers, a reference is to all of them (PS3.3 10.3.1).
            found |= {known[each]: None for each in chosen or known if each in known}
        pairs += [(frame, z) for z in found or (-1,)]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]

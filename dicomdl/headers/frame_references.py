"""The images that frames of a segmentation, or contours, were derived from."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from dicomdl.headers.annotation import head_of
from dicomdl.headers.data_set import SPECIFIC_CHARACTER_SET, Item, Value
from dicomdl.storage.sources import Source

_DERIVATION_IMAGE_SEQUENCE: Final = 0x00089124
_SOURCE_IMAGE_SEQUENCE: Final = 0x00082112
_REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155
_REFERENCED_FRAME_NUMBER: Final = 0x00081160
_DIMENSION_ORGANIZATION_TYPE: Final = 0x00209311
_SPATIAL_LOCATIONS_PRESERVED: Final = 0x0028135A
_NUMBER_OF_FRAMES: Final = 0x00280008
_PLANE_POSITION_SLIDE_SEQUENCE: Final = 0x0048021A
_SHARED_FUNCTIONAL_GROUPS: Final = 0x52009229
_PER_FRAME_FUNCTIONAL_GROUPS: Final = 0x52009230
_TAGS: Final = (
    SPECIFIC_CHARACTER_SET,
    _DIMENSION_ORGANIZATION_TYPE,
    _NUMBER_OF_FRAMES,
    _SHARED_FUNCTIONAL_GROUPS,
    _PER_FRAME_FUNCTIONAL_GROUPS,
)


class FrameReference(NamedTuple):
    """An image that is referred to, and its frames, from 1; () for all of them.

    `is_moved` says that pixels lie elsewhere than in the image: Spatial Locations Preserved is NO
    or REORIENTED_ONLY (PS3.3 C.7.6.16.2.6).
    """

    sop_instance_uid: str
    frame_numbers: tuple[int, ...]
    is_moved: bool = False


class FrameReferences(NamedTuple):
    """The source images of each frame of a file, and whether frames lie on a microscope slide."""

    images: list[tuple[FrameReference, ...]]
    are_on_slide: bool


def frame_references(source: Source) -> FrameReferences:
    """Return the source images of each frame of a file (PS3.3 C.7.6.16.2.6).

    Those of the per-frame functional groups go before the shared ones.

    Raises
    ------
    HeaderError
        The file is damaged.
    PixelError
        The file cannot be opened or read, or has changed since the scan.
    """
    head = head_of(source, _TAGS)
    shared = tuple(
        each for group in head[_SHARED_FUNCTIONAL_GROUPS].items() for each in _derived_from(group)
    )
    groups = list(head[_PER_FRAME_FUNCTIONAL_GROUPS].items())
    are_tiles = head[_DIMENSION_ORGANIZATION_TYPE].text.upper() == "TILED_FULL"
    return FrameReferences(
        [tuple(_derived_from(group)) or shared for group in groups]
        or [shared] * (head[_NUMBER_OF_FRAMES].integer or 1),
        are_tiles or any(_PLANE_POSITION_SLIDE_SEQUENCE in group for group in groups),
    )


def _derived_from(group: Item) -> Iterator[FrameReference]:
    for derivation in group[_DERIVATION_IMAGE_SEQUENCE].items():
        yield from references_in(derivation[_SOURCE_IMAGE_SEQUENCE])


def references_in(images: Value) -> Iterator[FrameReference]:
    """Yield the images that the items of a sequence refer to (PS3.3 10.3.1)."""
    for image in images.items():
        numbers = map(str.strip, image[_REFERENCED_FRAME_NUMBER].text.split("\\"))
        yield FrameReference(
            image[_REFERENCED_SOP_INSTANCE_UID].text,
            # An IS has 12 digits at most (PS3.5 6.2); Python refuses thousands of them.
            tuple(int(each) for each in numbers if each.isdecimal() and len(each) <= 12),
            image[_SPATIAL_LOCATIONS_PRESERVED].text.upper() in ("NO", "REORIENTED_ONLY"),
        )

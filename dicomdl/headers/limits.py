"""`ReadLimits`, the limits on what one file may cost a scan."""

from dataclasses import dataclass, fields
from typing import Final

from dicomdl.errors import HeaderError, UsageError


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Limits on what one file may cost a scan; a file beyond one is a problem.

    A hostile file is small and claims much: 125 kB can claim a million frames of one bit, 62 kB can
    inflate to 60 MiB. The defaults are far above those of real files: a header has had 291 kB,
    1,246 elements, and a whole slide image 100,000 frames.

    Parameters
    ----------
    frames
        Frames of a file.
    free_frames, bytes_per_frame
        A file of more than `free_frames` frames, or fragments, needs this number of bytes in the
        file for each.
    fragments
        Fragments of encapsulated pixel data.
    header_bytes
        Bytes before the pixel data, inflated.
    elements
        Elements and items before the pixel data.
    inflated_bytes
        Bytes of a deflated data set, up to the end of its pixel data; of a compressed member of an
        archive; and, if that is more than 50 times its size, of a compressed archive.
    members
        Members of an archive.

    Raises
    ------
    UsageError
        A limit is no integer of at least 1.

    Examples
    --------
    >>> import dicomdl
    >>> dicomdl.ReadLimits().frames
    1000000
    >>> generous = dicomdl.ReadLimits(inflated_bytes=8 * 2**30)  # for scan(limits=generous)
    """

    frames: int = 1_000_000
    free_frames: int = 10_000
    bytes_per_frame: int = 64
    fragments: int = 1_000_000
    header_bytes: int = 64 * 2**20
    # About 2 s. An enhanced multi-frame file of 10,000 frames has about 500,000 elements, item
    # headers included.
    elements: int = 3_000_000
    inflated_bytes: int = 512 * 2**20
    members: int = 2_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(
                    f"{field.name}={value!r}: expected an integer of at least 1", name=field.name
                )


DEFAULT_LIMITS: Final = ReadLimits()


def require_frames(limits: ReadLimits, frames: int, file_bytes: int) -> None:
    """Raise HeaderError if a file of `file_bytes` has more frames than it may."""
    most = min(limits.frames, _justified(limits, file_bytes))
    if frames > most:
        raise HeaderError(
            f"NumberOfFrames is {frames} in a file of {file_bytes} bytes, up to {most} are read: "
            "if the file is sound, scan(limits=ReadLimits(...)) reads more",
            reason="too_many_frames",
            number_of_frames=frames,
            limit=most,
        )


def most_fragments(limits: ReadLimits, file_bytes: int) -> int:
    """Return how many fragments a file of `file_bytes` may have."""
    return min(limits.fragments, _justified(limits, file_bytes))


def _justified(limits: ReadLimits, file_bytes: int) -> int:
    return max(limits.free_frames, file_bytes // limits.bytes_per_frame)

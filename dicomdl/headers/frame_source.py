"""`FrameSource`: the byte range of one frame in its file and the coding of its samples."""

import dataclasses
from dataclasses import dataclass
from typing import Final

from dicomdl.storage.sources import UNKNOWN, Source


@dataclass(frozen=True, slots=True)
class FrameSource:
    """The byte range of one frame and the coding of its samples: all that reading it needs.

    A native frame has `byte_length` bytes at `byte_offset`, and its first sample begins after
    `bit_offset` bits (BitsAllocated 1 only). The byte range of an encapsulated frame extends from
    the item tag of the first fragment to the end of the last fragment, item headers included. If
    `deflated` is True, the offset counts in the inflated data set.

    `file_bytes`, `file_mtime_ns`, `file_ctime_ns`, `file_inode` and `file_etag` are the state of
    the file during the scan (see `storage.sources.Source`). A tile of a mosaic has `rows` x
    `columns` pixels, and begins at (`tile_top`, `tile_left`) of a coded frame of `coded_rows` x
    `coded_columns`. Both sizes are 0 for a frame that is no tile.
    """

    path: str
    frame_number: int
    byte_offset: int
    byte_length: int
    bit_offset: int
    deflated: bool
    file_bytes: int
    file_mtime_ns: int
    transfer_syntax_uid: str
    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    planar_configuration: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    float_pixels: bool
    coded_rows: int = 0
    coded_columns: int = 0
    tile_top: int = 0
    tile_left: int = 0
    # Tells images from segmentations, whose samples are labels and must not be averaged.
    sop_class_uid: str = ""
    file_ctime_ns: int = UNKNOWN
    file_inode: int = 0
    file_etag: str = ""

    def __repr__(self) -> str:
        end = self.byte_offset + self.byte_length
        return (
            f"FrameSource({self.path!r}, frame {self.frame_number}, bytes {self.byte_offset} to "
            f"{end}, {self.rows} x {self.columns}, {self.bits_stored} bits)"
        )

    @property
    def file(self) -> Source:
        """The file, in the state of the scan."""
        return Source(
            self.path,
            self.file_bytes,
            self.file_mtime_ns,
            self.file_ctime_ns,
            self.file_inode,
            self.file_etag,
        )


# The fields of a frame that form its `Source`, in order. They are columns of the table `files`.
FILE_FIELDS: Final = (
    "path",
    "file_bytes",
    "file_mtime_ns",
    "file_ctime_ns",
    "file_inode",
    "file_etag",
)
SOURCE_FIELDS: Final = tuple(field.name for field in dataclasses.fields(FrameSource))

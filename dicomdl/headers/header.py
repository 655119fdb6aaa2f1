"""What the reader says of one file."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from dicomdl.headers._pixel_data import Place
from dicomdl.headers._rows import Row
from dicomdl.storage.sources import Source

FileKind = Literal["image", "no_image", "not_dicom", "problem"]


class CodedTile(NamedTuple):
    """Where in its mosaic a tile is; see `FrameSource`."""

    coded_rows: int
    coded_columns: int
    tile_top: int
    tile_left: int


NO_TILE: Final = CodedTile(0, 0, 0, 0)
UNREAD: Final = Source("", 0, 0, 0)


class Header(NamedTuple):
    """What one file is.

    `rows` has one tuple of raw values a frame, in the order of the reader's `columns`.

    `tiles` has one item a row where the rows are the tiles of the file's one frame.
    """

    kind: FileKind
    reason: str = ""
    detail: str = ""
    sop_class_uid: str = ""
    source: Source = UNREAD
    rows: Sequence[Row] = ()
    places: Sequence[Place] = ()
    deflated: bool = False
    float_pixels: bool = False
    tiles: Sequence[CodedTile] = ()

    @property
    def frame_numbers(self) -> Sequence[int]:
        """The frame of each row, from 1."""
        return [1] * len(self.tiles) or range(1, len(self.rows) + 1)

"""`Header`, the result of reading the header of one file."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from dicomdl.headers._pixel_data import Place
from dicomdl.headers._rows import Row
from dicomdl.storage.sources import Source

FileKind = Literal["image", "no_image", "not_dicom", "problem"]


class CodedTile(NamedTuple):
    """The size of a mosaic and the position of a tile in it; see `FrameSource`."""

    coded_rows: int
    coded_columns: int
    tile_top: int
    tile_left: int


NO_TILE: Final = CodedTile(0, 0, 0, 0)
UNREAD: Final = Source("", 0, 0, 0)


class Header(NamedTuple):
    """The result of reading one file: its kind, and the facts and byte ranges of its frames.

    Attributes
    ----------
    kind : {"image", "no_image", "not_dicom", "problem"}
        The kind of the file.
    reason, detail : str
        Reason and detail of a problem; "" for other kinds.
    sop_class_uid : str
        The SOP class.
    source : Source
        The file and its state.
    rows : sequence of tuple of bytes
        One tuple of raw values per frame, in the order of the reader's `columns`.
    places : sequence of Place
        One byte range per row.
    deflated : bool
        Whether the byte ranges count in the inflated data set.
    float_pixels : bool
        Whether the pixels are Float or Double Float Pixel Data.
    tiles : sequence of CodedTile
        One item per row if the rows are the tiles of a mosaic; empty otherwise.
    flags : str
        What is odd about the file of an image; see `_flags.MEANINGS`.
    study_instance_uid, series_instance_uid : str
        The UIDs of DICOM without an image; "" for other kinds.
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
    flags: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""

    @property
    def frame_numbers(self) -> Sequence[int]:
        """The frame number per row, from 1."""
        return [1] * len(self.tiles) or range(1, len(self.rows) + 1)

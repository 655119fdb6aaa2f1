"""Tiles of mosaics, cut out of decoded bands that are cached for the next tiles.

A band is the rows of one row of tiles for native mosaics, and the complete mosaic for compressed
ones. Bands are shared by all readers of a process and count in its memory budget.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DecodeError
from dicomdl.pixels._whole import mosaic_of, read_plain, read_whole
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.options import WHOLE, Decoding
from dicomdl.pixels.stored import is_plain, named, result_array
from dicomdl.storage.memory import Share, share
from dicomdl.storage.sources import look_up


class _Band(NamedTuple):
    """Decoded rows of a coded mosaic from `top` on."""

    top: int
    values: Values


_bands: Final[Share[_Band]] = share("mosaic bands", lambda band: band.values.nbytes)


def read_tile(
    source: FrameLike, row_start: int, row_stop: int, out: Values | None, how: Decoding
) -> Values:
    """Copy rows of a tile out of its band of the mosaic.

    Tiles are read one after the other, and 8 tiles of a mosaic of 64 share their rows: reading the
    rows per tile would read the file eight times, and decoding a compressed mosaic per tile would
    take 64 times as long.
    """
    values = result_array(out, source, row_stop - row_start)
    band = _band_of(source, how)
    top, left = source.tile_top - band.top + row_start, source.tile_left
    np.copyto(values, band.values[top : top + row_stop - row_start, left : left + source.columns])
    return values


def read_tiles(sources: Sequence[FrameLike], out: Values, how: Decoding = WHOLE) -> Values:
    """Read the stored values of tiles of one mosaic, which is read once for all of them.

    Parameters
    ----------
    sources
        Tiles of the same frame of the same file, in any order: see `same_mosaic`.
    out
        C-contiguous array of shape (tiles, rows, columns[, samples]) to fill: ``out[k]`` is the
        tile ``sources[k]``.
    how
        The options of `read_frame`, except `reduce`.

    Returns
    -------
    ndarray
        `out`. Errors are those of `read_frame`.
    """
    first = sources[0]
    with named(first):
        whole = read_whole(mosaic_of(first), None, how)
        rows, columns = first.rows, first.columns
        result_array(out[0], first, rows)
        for number, source in enumerate(sources):
            _check_inside(source)
            top, left = source.tile_top, source.tile_left
            out[number] = whole[top : top + rows, left : left + columns]
    return out


def same_mosaic(one: FrameLike, other: FrameLike) -> bool:
    """Whether two frames are tiles of one coded frame, for `read_tiles`."""
    coded = (one.coded_rows, one.coded_columns, one.byte_offset)
    return (
        one.coded_rows > 0
        and one.path == other.path
        and coded == (other.coded_rows, other.coded_columns, other.byte_offset)
    )


def _band_of(source: FrameLike, how: Decoding) -> _Band:
    """Return the band of a tile, from the cache or the file."""
    coded = (source.byte_offset, source.coded_rows, source.coded_columns)
    whole = (look_up(source.file), *coded, how.colour)
    part = (*whole, source.tile_top, source.rows)
    if (known := _bands.find(whole) or _bands.find(part)) is not None:
        return known
    band = _read_band(source, how)
    return _bands.keep(whole if len(band.values) == source.coded_rows else part, band)


def _read_band(source: FrameLike, how: Decoding) -> _Band:
    """Read the band of a tile from the file."""
    _check_inside(source)
    whole, top = mosaic_of(source), source.tile_top
    if not is_plain(whole):
        return _Band(0, read_whole(whole, None, how))
    return _Band(top, read_plain(whole, top, top + source.rows, None, how))


def _check_inside(tile: FrameLike) -> None:
    """Require that a tile lies inside its mosaic."""
    top, left = tile.tile_top, tile.tile_left
    if not (
        0 <= top <= tile.coded_rows - tile.rows and 0 <= left <= tile.coded_columns - tile.columns
    ):
        raise DecodeError(
            f"a tile of {tile.rows} x {tile.columns} at ({top}, {left}) is not inside of "
            f"{tile.coded_rows} x {tile.coded_columns}"
        )

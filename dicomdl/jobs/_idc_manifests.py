"""Manifests of downloads: lists of series by TCIA's retriever, by tables, and by s5cmd."""

import csv
import io
import os
import re
from dataclasses import dataclass
from typing import Final

from dicomdl.errors import PixelError, UsageError
from dicomdl.storage.sources import Source, opened, read_range

# No match begins within digits: a number of a million digits would be searched from each of them.
_UID: Final = re.compile(r"(?<![0-9])[0-9]+(?:\.[0-9]+)+")
_LIST: Final = "ListOfSeriesToDownload="
# A line of s5cmd: cp s3://bucket/uuid/* folder
_COPY: Final = re.compile(
    r"^[ \t]*cp\s.*s3://[^/\s]+/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/", re.M
)
_UID_COLUMNS: Final = ("seriesinstanceuid", "seriesuid")
# A manifest of 10 million series has less.
_MOST_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class Listed:
    """What a manifest lists, each name once: Series Instance UIDs, or prefixes in a bucket."""

    names: tuple[str, ...]
    are_prefixes: bool = False


def read_manifest_of_series(path: str | os.PathLike[str]) -> Listed:
    """Read a ``.tcia`` file, a table with a column of Series Instance UIDs, or lines of s5cmd.

    The content decides, not the name.

    Raises
    ------
    UsageError
        The file is none of these, lists no series, or cannot be read.
    """
    path = os.fspath(path)
    try:
        with opened(Source(path)) as handle:
            data = read_range(handle, 0, min(handle.size, _MOST_BYTES))
    except PixelError as error:
        raise UsageError(f"the manifest {path!r} cannot be read: {error}") from error
    text = data.decode("utf-8-sig", errors="replace")
    if (start := text.find(_LIST)) >= 0:
        names = _UID.findall(text, start + len(_LIST))
    elif copies := _COPY.findall(text):
        return Listed(tuple(dict.fromkeys(copies)), are_prefixes=True)
    else:
        names = _column_of_uids(text)
    if not names:
        raise UsageError(
            f"{path!r} lists no series: expected a .tcia file, a table with a column "
            "SeriesInstanceUID or Series UID, or a manifest of s5cmd"
        )
    return Listed(tuple(dict.fromkeys(names)))


def _column_of_uids(text: str) -> list[str]:
    """Return the Series Instance UIDs of a table with comma, semicolon or tab; [] without any."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        rows = csv.reader(io.StringIO(text), delimiter=delimiter)
        names = ["".join(filter(str.isalpha, name)).lower() for name in next(rows, [])]
        number = next((names.index(name) for name in _UID_COLUMNS if name in names), None)
        if number is None:
            return []
        cells = [row[number].strip() for row in rows if len(row) > number]
    except csv.Error:
        return []
    return [cell for cell in cells if _UID.fullmatch(cell)]

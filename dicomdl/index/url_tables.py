"""Tables of URLs: a column of a CSV or Parquet file, or the lines of a text."""

import os
import re
from typing import Final

from dicomdl.errors import UsageError
from dicomdl.index._table_reading import GivenTable, given_table
from dicomdl.storage.locations import is_url
from dicomdl.storage.sources import Source, opened, read_range

TABLE_ENDINGS: Final = (".csv", ".tsv", ".parquet", ".txt", ".s5cmd")
_TEXTS: Final = (".txt", ".s5cmd")
# Cells of a column that tell whether it holds URLs, and bytes of a file that do.
_FIRST_CELLS: Final = 100
_FIRST_BYTES: Final = 64 * 2**10
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://\S+")


def holds_urls(path: str) -> bool:
    """Whether a file on disk may be a table of URLs."""
    with opened(Source(path)) as handle:
        head = handle.read_at(0, _FIRST_BYTES)
    return head.startswith(b"PAR1") or _URL.search(head.decode("latin-1")) is not None


def urls_in(path: str) -> list[str]:
    """Return the URLs of a table, in order.

    Of a table, they are the first column whose cells are URLs. Of a text, each line has one, or a
    path relative to the text; a line that begins with "#" is a comment, and one of s5cmd has the
    URL among its words.

    Raises
    ------
    UsageError
        The table cannot be read, or has no such column.
    """
    if path.lower().endswith(_TEXTS):
        return _in_text(path)
    table = given_table(path)
    for name in table.names:
        cells = _cells(table, name)
        if cells and all(is_url(cell) for cell in cells[:_FIRST_CELLS]):
            return cells
    raise UsageError(
        f"{os.path.basename(path)} has no column of URLs: its columns are "
        f"{', '.join(map(repr, table.names))}"
    )


def _cells(table: GivenTable, name: str) -> list[str]:
    values = table.read([name]).column(name).to_pylist()
    return [value.strip() for value in values if isinstance(value, str) and value.strip()]


def _in_text(path: str) -> list[str]:
    with opened(Source(path)) as handle:
        data = read_range(handle, 0, handle.size)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{os.path.basename(path)} is no text in UTF-8") from error
    found = []
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            match = _URL.search(line)
            found.append(match[0] if match else line)
    return found

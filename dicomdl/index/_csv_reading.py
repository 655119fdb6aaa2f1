"""CSV files as text: nothing is guessed, and what is wrong is told with its line.

Arrow parses the cells, each as text. The header, the delimiter and the places of errors are found
here.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from dicomdl.errors import UsageError

_HEAD_BYTES: Final = 2**20
# More columns than any table of labels has.
MOST_COLUMNS: Final = 10_000
_DELIMITERS: Final = (",", ";", "\t")
# Bytes of a file that are searched at a time.
_BLOCK: Final = 2**24
# A cell and the delimiter after it, with the closing quote.
_CELL: Final = rb'(?:"(?:[^"]+|"")*+("?)[^,\r\n]*|[^,\r\n]*)(?:,|\r\n|\r|\n|\Z)'
# First bytes of files that are no text, and what they are.
_MAGIC: Final = (
    (b"PK\x03\x04", "a ZIP archive or a workbook: unpack it, or save the sheet as CSV"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old workbook: save the sheet as CSV"),
    (b"ARROW1", "a Feather file: read it with pyarrow.feather.read_table and pass the table"),
)
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_LINE: Final = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A CSV file whose header is read.

    Attributes
    ----------
    path, title
        The path, and the name for messages.
    encoding
        "utf-8" or "utf-16".
    delimiter
        One of comma, semicolon and tab.
    names
        The columns.
    keys
        The columns with keys, most of whose cells differ.
    """

    path: str
    title: str
    encoding: str
    delimiter: str
    names: tuple[str, ...]
    keys: tuple[str, ...]

    def read(self, wanted: Sequence[str]) -> pa.Table:
        """Return some columns as text; those without keys are dictionary-encoded."""
        labels = pa.dictionary(pa.int32(), pa.string())
        kinds = {name: pa.string() if name in self.keys else labels for name in wanted}
        try:
            with pa.memory_map(self.path) as file:
                source = (
                    file
                    if self.encoding == "utf-8"
                    else pa.transcoding_input_stream(file, self.encoding, "utf-8")
                )
                table = pcsv.read_csv(
                    source,
                    pcsv.ReadOptions(block_size=2**24),
                    pcsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                    pcsv.ConvertOptions(
                        column_types=kinds,
                        include_columns=list(wanted),
                        null_values=[],
                    ),
                )
        except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError):
            raise self._explained() from None
        self._require_closed_quotes()
        return table

    def places(self, rows: Sequence[int]) -> list[str]:
        """Return the places of rows in words, such as "line 5"."""
        wanted = {row + 1 for row in rows}
        line_of = {}
        for number, (line, _) in enumerate(self._records() if rows else ()):
            if number in wanted:
                line_of[number] = line
            if len(line_of) == len(wanted):
                break
        return [f"line {line_of.get(row + 1, row + 2)}" for row in rows]

    def _explained(self) -> UsageError:
        """Return the error of a file that Arrow does not parse, with its line."""
        expected = len(self.names)
        for line, record in self._records():
            if b"\xff" in record or _is_undecodable(record, self.encoding):
                return UsageError(
                    f"{self.title}, line {line}: the bytes are not {self.encoding.upper()}: save "
                    "the file as UTF-8",
                    line=line,
                )
            cells = _cells_of(record, self.delimiter)
            if cells != expected:
                return UsageError(
                    f"{self.title}, line {line}: {cells} cells, expected {expected} as in the "
                    "header",
                    line=line,
                    cells=cells,
                    expected=expected,
                )
        # Arrow's words quote cells, which may identify a patient.
        return UsageError(f"{self.title} is no CSV file with {expected} columns: save it again")

    def _data(self) -> Any:
        """Return the bytes of the file in UTF-8; those of a file in UTF-8 are mapped."""
        with pa.memory_map(self.path) as file:
            data = memoryview(file.read_buffer())
        return (
            data
            if self.encoding == "utf-8"
            else bytes(data).decode(self.encoding, "replace").encode()
        )

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """Yield (line from 1, bytes in UTF-8) of each record that is not empty."""
        begun, held, quotes = 1, list[bytes](), 0
        for number, match in enumerate(_LINE.finditer(self._data()), 1):
            held.append(match[0])
            quotes += match[0].count(b'"')
            if quotes % 2:
                continue
            if record := b"".join(held).rstrip(b"\r\n"):
                yield begun, record
            begun, held, quotes = number + 1, [], 0
        if held:
            yield begun, b"".join(held)

    def _require_closed_quotes(self) -> None:
        """Raise UsageError for a quote that is not closed.

        Arrow takes the rest of the file for its cell, and reports nothing.
        """
        data = self._data()
        bytes_of = np.frombuffer(data, dtype=np.uint8)
        counts = (
            np.count_nonzero(bytes_of[start : start + _BLOCK] == ord('"'))
            for start in range(0, len(bytes_of), _BLOCK)
        )
        if sum(counts) % 2 == 0:
            return
        cell, end = re.compile(_CELL.replace(b",", self.delimiter.encode())), 0
        while end < len(data) and (match := cell.match(data, end)) is not None:
            if data[end] == ord('"') and not match[1]:
                line = len(_LINE.findall(data[:end])) + (end == 0 or data[end - 1] in b"\r\n")
                raise UsageError(
                    f"{self.title}, line {line}: a quote is not closed before the end of the file",
                    line=line,
                )
            end = match.end()


def open_csv(path: str, title: str, keys: Sequence[str]) -> CsvFile:
    """Read the header of a CSV file.

    Parameters
    ----------
    path, title
        The path, and the name for messages.
    keys
        Names that are columns of the table, in Unicode's composed form, NFC. The delimiter is that
        which makes columns of them; comma, semicolon and tab are tried.

    Raises
    ------
    UsageError
        The file is empty, has no rows, or is no text.
    """
    with pa.memory_map(path) as file:
        size, head = file.size(), file.read(_HEAD_BYTES)
    if not size:
        raise UsageError(f"{title} is empty", path=path)
    for magic, words in _MAGIC:
        if head.startswith(magic):
            raise UsageError(f"{title} is {words}", path=path)
    encoding = "utf-16" if head[:2] in _UTF16 else "utf-8"
    if encoding == "utf-8" and b"\0" in head:
        raise UsageError(
            f"{title} is no text, or UTF-16 without a byte order mark: save it as UTF-8", path=path
        )
    text = head.decode(encoding, "replace").removeprefix("\ufeff")
    header = _header(text, title, is_complete=size <= _HEAD_BYTES)
    names, delimiter = _names(header, title, keys)
    return CsvFile(path, title, encoding, delimiter, names, tuple(_among(names, keys)))


def _header(text: str, title: str, *, is_complete: bool) -> str:
    """Return the first record that is not empty."""
    text = text.lstrip("\r\n")
    held = ""
    for line in io.StringIO(text, newline=""):
        held += line
        if held.count('"') % 2 == 0 and (is_complete or len(held) < len(text)):
            _require_few(held, title)
            if len(held) == len(text):
                raise UsageError(f"{title} has a header and no rows")
            return held.rstrip("\r\n")
    if not held.strip():
        raise UsageError(f"{title} is empty")
    _require_few(held, title)
    raise UsageError(
        f"{title}: the first line is no header: a quote is not closed, or it is longer than "
        f"{_HEAD_BYTES:,} bytes",
        line=1,
    )


def _names(header: str, title: str, keys: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the columns and the delimiter, which makes columns of the most keys."""
    try:
        choices = {
            delimiter: tuple(next(csv.reader(io.StringIO(header), delimiter=delimiter), ()))
            for delimiter in _DELIMITERS
        }
    except csv.Error as error:
        raise UsageError(f"{title}, line 1: the header cannot be read: {error}", line=1) from None
    best = max(choices, key=lambda delimiter: len(_among(choices[delimiter], keys)))
    return choices[best], best


def _among(names: Sequence[str], keys: Sequence[str]) -> set[str]:
    """Return the names that are keys, whatever the Unicode form of their letters."""
    return {name for name in names if unicodedata.normalize("NFC", name) in keys}


def _require_few(header: str, title: str) -> None:
    """Raise UsageError for a header of more columns than a table of labels has."""
    most = max(map(header.count, _DELIMITERS))
    if most >= MOST_COLUMNS:
        raise too_many_columns(title, most + 1)


def too_many_columns(title: str, count: int) -> UsageError:
    """Return the error of a table with more than `MOST_COLUMNS` columns."""
    return UsageError(
        f"{title} has {count:,} columns or more, at most {MOST_COLUMNS:,} are read: does it have "
        "one column per image? Transpose it",
        columns=count,
    )


def _cells_of(record: bytes, delimiter: str) -> int:
    """Return the number of cells of a record."""
    return re.sub(rb'"[^"]*"', b"", record).count(delimiter.encode()) + 1


def _is_undecodable(record: bytes, encoding: str) -> bool:
    if encoding != "utf-8":
        return "\N{REPLACEMENT CHARACTER}".encode() in record
    try:
        record.decode()
    except UnicodeDecodeError:
        return True
    return False

"""CSV files as text: nothing is guessed, and what is wrong is told with its line.

Arrow parses the cells, each as text. The header, the delimiter and the places of errors are found
here.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pcsv

from dicomdl.errors import UsageError

_HEAD_BYTES: Final = 2**20
_DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
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
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise self._explained(error) from None
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

    def _explained(self, error: Exception) -> UsageError:
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
        return UsageError(f"{self.title} cannot be read: {error}")

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """Yield (line from 1, bytes in UTF-8) of each record that is not empty."""
        with pa.memory_map(self.path) as file:
            data: Any = memoryview(file.read_buffer())
        if self.encoding != "utf-8":
            data = bytes(data).decode(self.encoding, "replace").encode()
        begun, held = 1, b""
        for number, match in enumerate(_LINE.finditer(data), 1):
            held += match[0]
            if held.count(b'"') % 2:
                continue
            if held.strip(b"\r\n"):
                yield begun, held.rstrip(b"\r\n")
            begun, held = number + 1, b""
        if held:
            yield begun, held


def open_csv(path: str, title: str, keys: Sequence[str]) -> CsvFile:
    """Read the header of a CSV file.

    Parameters
    ----------
    path, title
        The path, and the name for messages.
    keys
        Names that are columns of the table. The delimiter is that which makes columns of them;
        comma, semicolon and tab are tried.

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
    names, delimiter = _names(header, keys)
    return CsvFile(path, title, encoding, delimiter, names, tuple(keys))


def _header(text: str, title: str, *, is_complete: bool) -> str:
    """Return the first record that is not empty."""
    text = text.lstrip("\r\n")
    held = ""
    for line in io.StringIO(text):
        held += line
        if held.count('"') % 2 == 0 and (is_complete or len(held) < len(text)):
            if len(held) == len(text):
                raise UsageError(f"{title} has a header and no rows")
            return held.rstrip("\r\n")
    if not held.strip():
        raise UsageError(f"{title} is empty")
    raise UsageError(
        f"{title}: the first line is no header: a quote is not closed, or it is longer than "
        f"{_HEAD_BYTES:,} bytes",
        line=1,
    )


def _names(header: str, keys: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the columns and the delimiter, which makes columns of the most keys."""
    choices = {
        delimiter: tuple(next(csv.reader([header], delimiter=delimiter), ()))
        for delimiter in _DELIMITERS
    }
    best = max(choices, key=lambda delimiter: len(set(keys) & set(choices[delimiter])))
    return choices[best], best


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

"""The data set of one file without an image: its elements, read into memory as a whole.

Objects that describe an image, such as structure sets, consist of sequences. They have no pixel
data whose bytes could stay in the file.
"""

import functools
import os
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from dicomdl.errors import HeaderError
from dicomdl.headers._coding import first_element, syntax_of
from dicomdl.headers._elements import Wanted, skim_explicit, walk_meta
from dicomdl.headers._heads import (
    EXPLICIT,
    PIXEL_TAGS,
    TRANSFER_SYNTAX,
    Syntax,
    inner_syntax,
    raw_tag,
)
from dicomdl.headers._nested import items, iterate
from dicomdl.headers._text import to_utf8
from dicomdl.headers._window import Window
from dicomdl.headers.columns import as_text
from dicomdl.headers.inflate import inflate
from dicomdl.headers.uids import DEFLATED, TRANSFER_SYNTAXES
from dicomdl.headers.web import opened
from dicomdl.storage.locations import absolute
from dicomdl.storage.sources import Source, read_range

# The largest structure set that is read: 10 million points of 50 bytes.
MAX_DATA_SET_BYTES: Final = 512 * 2**20
SPECIFIC_CHARACTER_SET: Final = 0x00080005
_META_BYTES: Final = 1 << 16
# Elements before the UIDs of study and series, unless one of them is long.
_LEADING_BYTES: Final = 1 << 16


class Value(NamedTuple):
    """The raw value of one element, and the coding of what is nested in it."""

    raw: bytes
    syntax: Syntax
    charset: bytes

    @property
    def text(self) -> str:
        """The text of the value, without padding; "" if the element is absent."""
        raw = self.raw
        if self.charset and (not raw.isascii() or b"\x1b" in raw):
            raw = to_utf8(raw, self.charset)
        return as_text(raw)

    @property
    def integer(self) -> int | None:
        """The number of an IS (PS3.5 6.2); None if it is absent or is none."""
        try:
            return int(self.raw.strip(b"\0 "))
        except ValueError:
            return None

    @property
    def binary(self) -> int | None:
        """The number of a US or UL; None if it is absent or longer."""
        if len(self.raw) not in (2, 4):
            return None
        return int.from_bytes(self.raw, "little" if self.syntax.little else "big")

    def items(self) -> "Iterator[Item]":
        """Yield the items of a sequence."""
        for raw in items(self.raw, self.syntax):
            yield Item(raw, self.syntax, self.charset)


class Item:
    """The elements of one item of a sequence, or of a data set, by tag."""

    __slots__ = ("_charset", "_syntax", "_values")

    def __init__(self, raw: bytes, syntax: Syntax, charset: bytes = b"") -> None:
        self._syntax = syntax
        self._values = {tag: (vr, value) for tag, vr, value in _elements(raw, syntax)}
        # An item may have a character set of its own (PS3.3 C.12.1.1.2).
        self._charset = self._values.get(SPECIFIC_CHARACTER_SET, (b"", charset))[1]

    def __contains__(self, tag: int) -> bool:
        return tag in self._values

    def __getitem__(self, tag: int) -> Value:
        """Return the value of a tag; an empty one if the element is absent."""
        vr, raw = self._values.get(tag, (b"", b""))
        return Value(raw, inner_syntax(vr, self._syntax), self._charset)


def _elements(raw: bytes, syntax: Syntax) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (tag, VR, value) of the elements before pixel data."""
    for tag, vr, value in iterate(raw, syntax):
        if tag in PIXEL_TAGS:
            return
        yield tag, vr, value


def read_data_set(source: Source) -> Item:
    """Read the data set of a file as a whole.

    Raises
    ------
    HeaderError
        The file is not DICOM, is damaged, or is longer than `MAX_DATA_SET_BYTES`. Attribute
        `reason` is a word for the reason.
    PixelError
        The file cannot be opened or read, or has changed since the scan.
    """
    with opened(source) as handle:
        size = handle.size
        if size > MAX_DATA_SET_BYTES:
            raise _too_long(size)
        whole = read_range(handle, 0, size)
    start = first_element(whole[: 1 << 16])
    if start is None:
        raise HeaderError("this is not a DICOM file", reason="not_dicom")
    window = Window.on(whole)
    raw_syntax, position = walk_meta(window, start, None, -1)
    name = as_text(raw_syntax)
    if name == DEFLATED:
        whole, position = inflate([whole[position:]], MAX_DATA_SET_BYTES + 1), 0
        if len(whole) > MAX_DATA_SET_BYTES:
            raise _too_long(len(whole))
        window = Window.on(whole)
    syntax, _ = syntax_of(window, position, name)
    return Item(whole[position:], syntax)


def leading_texts(data: bytes, tags: Collection[int]) -> dict[int, str]:
    """Return the texts of wanted elements of a file in memory, by tag.

    Elements are in the order of their tags (PS3.5 7.1), so nothing behind the last wanted tag is
    looked at. Elements that are absent, out of order or in a deflated data set are left out.

    Raises
    ------
    HeaderError
        The file is not DICOM, or is damaged before the last wanted tag.
    """
    start = first_element(data[:_META_BYTES])
    if start is None:
        raise HeaderError("this is not a DICOM file", reason="not_dicom")
    plain = _plain_texts(data[:_LEADING_BYTES], start, tuple(tags))
    if plain is not None:
        return plain
    window = Window.on(data)
    raw_syntax, position = walk_meta(window, start, None, -1)
    name = as_text(raw_syntax)
    if name == DEFLATED:
        return {}
    syntax, _ = syntax_of(window, position, name)
    found, last = dict[int, str](), max(tags)
    for tag, _, value in iterate(data[position : position + _LEADING_BYTES], syntax):
        if tag > last:
            break
        if tag in tags:
            found[tag] = as_text(value)
    return found


def _plain_texts(first: bytes, start: int, tags: tuple[int, ...]) -> dict[int, str] | None:
    """Return the texts of wanted elements where all elements up to them are ordinary; else None.

    This takes an eighth of the time of the walk over items. File meta information and data set are
    one run of explicit little-endian elements.
    """
    # Nothing behind the last of them is of interest; a match within a value ends the run early.
    last = first.find(raw_tag(max(tags)).to_bytes(4, "little") + b"UI")
    raw_syntax, *values = skim_explicit(first[: last + 128], start, _wanted(tags))
    known = TRANSFER_SYNTAXES.get(as_text(raw_syntax))
    is_plain = known and known.little_endian and not (known.implicit_vr or known.deflated)
    if not (is_plain and all(values)):
        return None
    return {tag: as_text(value) for tag, value in zip(tags, values, strict=True)}


# Small: a few sets of tags.
@functools.lru_cache(maxsize=8)
def _wanted(tags: tuple[int, ...]) -> Wanted:
    return Wanted([(each, "") for each in (TRANSFER_SYNTAX, *tags)])


def read_file_meta(source: Source) -> tuple[Item, int]:
    """Read the file meta information of a file (PS3.10 7.1), and where the data set begins.

    Raises
    ------
    HeaderError
        The file is not DICOM, or is damaged.
    PixelError
        The file cannot be opened or read, or has changed since the scan.
    """
    with opened(source) as handle:
        first = read_range(handle, 0, min(handle.size, _META_BYTES))
    start = first_element(first)
    if start is None:
        raise HeaderError("this is not a DICOM file", reason="not_dicom")
    _, end = walk_meta(Window.on(first), start, None, -1)
    return Item(first[start:end], EXPLICIT), end


def _too_long(size: int) -> HeaderError:
    return HeaderError(
        f"the data set has {size} bytes or more, the limit is {MAX_DATA_SET_BYTES}",
        reason="header_too_large",
        found_bytes=size,
        limit_bytes=MAX_DATA_SET_BYTES,
    )


def source_of(path: str | os.PathLike[str]) -> Source:
    """Return the source of a file that no scan has seen, accepted in any state."""
    return Source(absolute(os.fspath(path)))

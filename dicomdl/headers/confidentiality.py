"""Attributes of the basic confidentiality profile that a file carries (PS3.15 Table E.1-1).

The table comes from the package dicom-anonymizer, which follows the editions of the standard.
Values leave this module as keyed hashes alone, by which distinct ones are counted.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Final, NamedTuple

from dicomdl.errors import HeaderError
from dicomdl.extras import import_extra
from dicomdl.headers.parsed import parsed_header
from dicomdl.headers.requirement import quiet
from dicomdl.headers.uids import shows_text
from dicomdl.storage.sources import Source

EDITION: Final = "2026c"
_TABLE: Final = f"dicomanonymizer.dicom_anonymization_databases.dicomfields_{EDITION}"
# Lists of the table, and the action of the standard for each (PS3.15 Table E.1-1a).
_LISTS: Final = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D",
    "X_Z_U_STAR_TAGS": "X/Z/U*",
}
_DATES: Final = frozenset({"DA", "DT", "TM"})
_HASH_BYTES: Final = 8
_DEEPEST: Final = 16
_IDENTITY_REMOVED: Final = 0x00120062
_BURNED_IN: Final = 0x00280301
_RECOGNIZABLE: Final = 0x00280302
_ULTRASOUND_REGIONS: Final = 0x00186011


class Carried(NamedTuple):
    """What a file carries.

    Attributes
    ----------
    values
        {tag: hashes of its values, anywhere in the data set}.
    private
        The number of private elements with a value, without private creators.
    identity_removed
        Patient Identity Removed (0012,0062): "YES", "NO", or "" without it.
    pixels
        Why its pixels may show text or a face: keys of `PIXEL_REASONS`.
    """

    values: Mapping[int, tuple[str, ...]]
    private: int
    identity_removed: str
    pixels: tuple[str, ...]


# Reasons why pixels may identify a person, in the order of reports.
PIXEL_REASONS: Final = {
    "burned_in_annotation": "Burned In Annotation (0028,0301) is YES",
    "recognizable": "Recognizable Visual Features (0028,0302) is YES",
    "text_as_a_rule": "a SOP class whose pixels have text as a rule, such as secondary capture",
    "ultrasound_regions": "ultrasound regions; text is outside of them as a rule",
    "screen": "Image Type names a screen capture",
}
_SCREENS: Final = frozenset({"SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE", "SCREEN"})


class Profile:
    """The basic profile: the action per tag.

    Raises
    ------
    MissingExtra
        The package with the table is not installed.
    """

    def __init__(self) -> None:
        table = _table()
        self._exact: dict[int, str] = {}
        self._repeating: list[tuple[int, int, str]] = []
        for name, action in _LISTS.items():
            for entry in getattr(table, name):
                tag = entry[0] << 16 | entry[1]
                if len(entry) == 2:
                    self._exact[tag] = action
                else:
                    self._repeating.append((tag, entry[2] << 16 | entry[3], action))

    def __len__(self) -> int:
        return len(self._exact) + len(self._repeating)

    def action(self, tag: int) -> str:
        """Return the action for a tag, such as "X" (remove); "" if the profile has none."""
        found = self._exact.get(tag, "")
        if found or tag >> 24 not in (0x50, 0x60):
            return found
        for value, mask, action in self._repeating:
            if tag & mask == value & mask:
                return action
        return ""


def carried(source: Source, profile: Profile, key: bytes) -> Carried:
    """Return what a file carries of a profile.

    Parameters
    ----------
    source
        The file.
    profile
        The profile.
    key
        The key of the hashes of values.

    Raises
    ------
    HeaderError
        The header cannot be parsed.
    PixelError
        The file cannot be opened, or has changed since the scan.
    """
    values: dict[int, set[str]] = {}
    private = 0
    with quiet():
        try:
            header = parsed_header(source)
            for data_set in (header.file_meta, header):
                for tag, raw in _elements(data_set, _DEEPEST):
                    if tag >> 16 & 1:
                        private += tag & 0xFFFF > 0xFF
                    elif profile.action(tag):
                        values.setdefault(tag, set()).add(_hash(raw, key))
            return Carried(
                {tag: tuple(sorted(hashes)) for tag, hashes in values.items()},
                private,
                _text(header, _IDENTITY_REMOVED),
                tuple(_pixel_reasons(header)),
            )
        except (OSError, HeaderError):
            raise
        except Exception as error:
            # The message of a parser may quote a value.
            raise HeaderError(
                f"the header cannot be parsed ({type(error).__name__})", reason="malformed"
            ) from None


def keyword_of(tag: int) -> str:
    """Return the keyword of a tag, or its number where it has none, as in "(6000,3000)"."""
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def is_date(tag: int) -> bool:
    """Whether the values of a tag are dates or times."""
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag) in _DATES
    except KeyError:
        return False


@functools.cache
def _table() -> ModuleType:
    table: ModuleType = import_extra(_TABLE, "check_phi", "phi", "dicom-anonymizer")
    return table


def _elements(data_set: Any, depth: int) -> Iterator[tuple[int, bytes]]:
    """Yield (tag, raw value) of every element with a value, those of items included."""
    for tag in list(data_set.keys()):
        element = data_set.get_item(tag)
        if _is_sequence(tag, element):
            items = data_set[tag].value or ()
            if len(items):
                yield int(tag), b""
            for item in items if depth else ():
                yield from _elements(item, depth - 1)
            continue
        raw = element.value
        if not isinstance(raw, bytes):
            raw = str("" if raw is None else raw).encode("utf-8", "replace")
        raw = raw.strip(b"\0 ")
        if raw:
            yield int(tag), raw


def _is_sequence(tag: Any, element: Any) -> bool:
    from pydicom.datadict import dictionary_VR

    if element.VR is not None and element.VR != "UN":
        return bool(element.VR == "SQ")
    try:
        return bool(dictionary_VR(tag) == "SQ")
    except KeyError:
        return False


def _hash(raw: bytes, key: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=_HASH_BYTES, key=key).hexdigest()


def _text(header: Any, tag: int) -> str:
    if tag not in header:
        return ""
    return str(header[tag].value or "").strip().upper()


def _pixel_reasons(header: Any) -> Iterator[str]:
    if _text(header, _BURNED_IN) == "YES":
        yield "burned_in_annotation"
    if _text(header, _RECOGNIZABLE) == "YES":
        yield "recognizable"
    if shows_text(str(header.get("SOPClassUID", ""))) and _text(header, _BURNED_IN) != "NO":
        yield "text_as_a_rule"
    if _ULTRASOUND_REGIONS in header:
        yield "ultrasound_regions"
    words = header.get("ImageType") or ()
    words = [words] if isinstance(words, str) else words
    if _SCREENS & {str(word).strip().upper() for word in words}:
        yield "screen"

"""The header reader: from one file to its kind, the facts of its frames and their byte ranges.

Only the first bytes of a file are read; pixel data are measured. The walk over the elements is part
of this package (`_elements`). pydicom serves as the data dictionary (names of extra columns) and
for character sets beyond ASCII, and is imported only then. A file that cannot be used becomes a
`Header` of kind "problem" with a reason; no error is raised.
"""

import functools
import os
import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

from dicomdl.errors import FileChanged, HeaderError, PixelError
from dicomdl.headers._attribute_items import (
    filled,
    found_philips_facts,
    may_have_philips_item,
    plain_row,
)
from dicomdl.headers._breast import may_lack_view, with_view
from dicomdl.headers._coding import BEHIND_PREFIX, PREAMBLE, first_element, syntax_of
from dicomdl.headers._elements import Walked, media_storage_class, walk, walk_meta
from dicomdl.headers._flags import flags_of_image, flags_of_start
from dicomdl.headers._functional_groups import frame_rows
from dicomdl.headers._ge import facts_without_creator, may_lack_creators
from dicomdl.headers._heads import PIXEL_DATA, Step
from dicomdl.headers._layouts import Layouts
from dicomdl.headers._mosaic import unpacked_rows
from dicomdl.headers._nuclear_medicine import placed_rows
from dicomdl.headers._ordinary import Ordinary, OrdinaryFiles
from dicomdl.headers._pixel_data import PixelLayout, locate_frames, pixel_layout
from dicomdl.headers._rows import Context, Row, Schema, override
from dicomdl.headers._window import Window
from dicomdl.headers.attribute import Attribute
from dicomdl.headers.columns import (
    LONGEST_CACHED,
    Column,
    are_real,
    as_text,
    complete,
    converted,
    each_row,
    require_real,
)
from dicomdl.headers.frame import Frame, attributes
from dicomdl.headers.frame_source import FILE_FIELDS
from dicomdl.headers.header import NO_TILE, UNREAD, CodedTile, Header
from dicomdl.headers.inflate import Inflated
from dicomdl.headers.limits import DEFAULT_LIMITS, ReadLimits, require_frames
from dicomdl.headers.uids import (
    DEFLATED,
    JPIP_ADVICE,
    NM_IMAGE,
    RT_DOSE,
    STANDARD,
    VIDEO_ADVICE,
    family_of,
    image_name,
    is_uid,
    may_lack_pixels,
)
from dicomdl.headers.web import scanned_handle
from dicomdl.storage.dicomweb import is_web
from dicomdl.storage.given import GivenBytes
from dicomdl.storage.locations import absolute
from dicomdl.storage.sources import Handle, NotFetched, Source, open_path

# Small: the few UIDs that all files contain.
_known_uid = functools.lru_cache(maxsize=256)(as_text)


def _uid(raw: bytes) -> str:
    # Written out: one call per file.
    return _known_uid(raw) if len(raw) <= LONGEST_CACHED else as_text(raw)


CHARACTER_SET: Final = 0x00080005
SHARED_GROUPS: Final = 0x52009229
PER_FRAME_GROUPS: Final = 0x52009230
EXTENDED_OFFSETS: Final = 0x7FE00001
DETECTOR_INFORMATION: Final = 0x00540022
_SPECIALS: Final = (
    CHARACTER_SET,
    SHARED_GROUPS,
    PER_FRAME_GROUPS,
    EXTENDED_OFFSETS,
    DETECTOR_INFORMATION,
)
# Bytes of the first read. Most headers are shorter, so that one read suffices.
FIRST_READ: Final = 16 * 2**10


# Small: the columns of a few scans. A schema takes 1 ms.
@functools.lru_cache(maxsize=8)
def _schema(extra: tuple[Attribute, ...]) -> Schema:
    return Schema((*attributes(), *extra), _SPECIALS)


class HeaderReader:
    """A reader of headers, which learns the layouts of files to read similar ones faster.

    The result for a file never depends on the files read before.

    Parameters
    ----------
    extra
        Columns in addition to those of `Frame`, from `extra_attributes`.
    limits
        Limits on what one file may cost.
    threads
        Threads of `read_ordinary`.
    """

    def __init__(
        self,
        extra: Sequence[Attribute] = (),
        limits: ReadLimits = DEFAULT_LIMITS,
        threads: int = 1,
    ) -> None:
        self.extra = tuple(extra)
        self.limits = limits
        self._schema = _schema(self.extra)
        self.columns = self._schema.columns
        self._layouts = Layouts(self._schema.wanted)
        self._first_read = FIRST_READ
        self._ordinary = OrdinaryFiles(self._schema, limits, FIRST_READ, threads)
        # The file that is being read.
        self._source, self._size = UNREAD, 0

    def read(self, path: str) -> Header:
        """Read the header of the file at `path`.

        No content of a file raises an error. A missing file is a `Header` of kind "problem".
        """
        try:
            handle = scanned_handle(path) if is_web(path) else open_path(path)
        except OSError as error:
            return unopened(error)
        except HeaderError as error:
            return Header("problem", error.reason, str(error))
        except PixelError as error:
            return _of_member(error)
        return self.read_opened(handle)

    def read_ordinary(self, paths: Sequence[bytes]) -> Ordinary | None:
        """Read many ordinary files at once, if this installation can; None without any.

        The paths are those of local files. `read` would give the same columns for these files, and
        reads the others.
        """
        return self._ordinary.read(paths)

    def read_opened(self, handle: Handle, first: bytes | None = None) -> Header:
        """Read a header as `read` does, from a handle, and close that.

        `first` has first bytes that are known. NotFetched is passed on.
        """
        source, size = handle.source, handle.size
        try:
            if size == 0:
                header = _of_empty_file(source.path)
            else:
                if first is None:
                    first = handle.read_at(0, self._first_read)
                header = self.parse(first, size, handle.read_at, source)
        except NotFetched:
            raise
        except FileChanged as error:
            return Header("problem", "unreadable", str(error))
        except OSError as error:
            return Header("problem", "unreadable", f"cannot be read: {error.strerror}")
        except PixelError as error:
            return _of_member(error)._replace(source=source)
        finally:
            handle.close()
        # A call of _replace takes 2 us: headers of images have their source from the start.
        return header if header.source is source else header._replace(source=source)

    def parse(
        self,
        first: bytes,
        size: int,
        read: Callable[[int, int], bytes],
        source: Source = UNREAD,
    ) -> Header:
        """Read the header of a file of `size` bytes.

        `first` has its first bytes, and `read(offset, length)` returns more of them. `source` is
        the file.
        """
        self._source, self._size = source, size
        try:
            return self._parsed(first, size, read)
        except (OSError, PixelError):
            raise
        except Exception:
            # The result must not depend on a layout that an earlier file has left.
            self._layouts = Layouts(self._schema.wanted)
        try:
            return self._parsed(first, size, read)
        except (OSError, PixelError):
            raise
        except Exception as error:
            return unforeseen(error)

    def _parsed(self, first: bytes, size: int, read: Callable[[int, int], bytes]) -> Header:
        start = first_element(first)
        if start is None:
            return Header("not_dicom")
        try:
            return self._parse(first, size, read, start)
        except HeaderError as error:
            # A file without the prefix "DICM" is DICOM if it can be read, or if it has a UID of the
            # standard. The length of `first` depends on the files before.
            if start in (0, PREAMBLE) and STANDARD.encode() not in first[:FIRST_READ]:
                return Header("not_dicom")
            return Header("problem", error.reason, str(error))

    def _parse(
        self, first: bytes, size: int, read: Callable[[int, int], bytes], start: int
    ) -> Header:
        window = Window(read, size, first, self.limits)
        # Most preambles are zeros.
        is_plain = start == BEHIND_PREFIX and not first[0]
        flags = "" if is_plain else flags_of_start(first, start)
        matched = self._layouts.match(first, start)
        if matched is not None:
            walked, raw_syntax, syntax = matched
            return self._conclude(
                walked, Context(self._schema, _uid(raw_syntax), syntax, window, start, False, flags)
            )
        learn = self._layouts.worth_learning()
        meta: list[Step] = []
        raw_syntax, position = walk_meta(
            window, start, meta if learn else None, self._schema.at.transfer_syntax_uid
        )
        transfer_syntax = as_text(raw_syntax)
        # A blank transfer syntax is an absent one.
        raw_syntax = raw_syntax if transfer_syntax else b""
        if family_of(transfer_syntax) == "jpip":
            raise HeaderError(JPIP_ADVICE, reason="jpip")
        inflated = (
            Inflated(read, size, position, self.limits) if transfer_syntax == DEFLATED else None
        )
        if inflated is not None:
            window, position = inflated.window(), 0
        syntax, transfer_syntax = syntax_of(window, position, transfer_syntax)
        learn = learn and inflated is None and raw_syntax != b""
        steps: list[Step] = []
        walked = walk(window, position, syntax, self._schema.wanted, steps if learn else None)
        if walked.pixel_data is not None:
            if learn and not walked.stray:
                self._layouts.learn(first, start, syntax, meta, steps)
            if walked.pixel_data.value > self._first_read:
                self._first_read = min(2**18, 1 << walked.pixel_data.value.bit_length())
            if inflated is not None:
                window.size = inflated.measure(walked.pixel_data)
        at = self._schema.at
        changes = {at.transfer_syntax_uid: raw_syntax or transfer_syntax.encode()}
        if walked.pixel_data is None and not walked.values[at.sop_class_uid]:
            # A directory has its class there only, and so has a file that was cut before it.
            changes[at.sop_class_uid] = media_storage_class(Window(read, size, first), start)
        values = override(walked.values, changes)
        deflated = inflated is not None
        if not raw_syntax:
            flags = f"{flags} no_transfer_syntax".strip()
        if walked.stray:
            flags = f"{flags} stray_delimiter".strip()
        return self._conclude(
            walked._replace(values=values),
            Context(self._schema, transfer_syntax, syntax, window, start, deflated, flags),
        )

    def _conclude(self, walked: Walked, context: Context) -> Header:
        """Convert raw values to rows, one per frame or tile, and add the byte ranges of frames."""
        schema, pixel_data = context.schema, walked.pixel_data
        row, specials, sequences = schema.parts(walked.values)
        charset, shared, per_frame, extended_offsets, detectors = specials
        row = plain_row(row, sequences, charset, context)
        if charset and (shared or per_frame):
            # A call of _replace takes 2 us.
            context = context._replace(charset=charset)
        sop_class = _uid(row[schema.at.sop_class_uid])
        if pixel_data is None or (not _has_size(row, schema) and may_lack_pixels(sop_class)):
            return _without_pixels(row, sop_class, schema)
        layout = _usable_layout(row, context)
        if may_lack_view(sop_class, row[schema.at.view_position]):
            row = with_view(row, context)
        if layout.frames > 1:
            require_frames(self.limits, layout.frames, self._size)
        located = places, _ = locate_frames(
            pixel_data,
            layout,
            context.window,
            transfer_syntax=context.transfer_syntax,
            extended_offsets=extended_offsets,
        )
        flags = flags_of_image(row, sop_class, pixel_data, located, context)
        if layout.flags:
            flags = f"{flags} {layout.flags}".strip()
        rows = frame_rows(row, layout.frames, shared, per_frame, context)
        tiles: Sequence[CodedTile] = ()
        if sop_class == NM_IMAGE:
            rows = placed_rows(rows, detectors, context)
        elif not (shared or per_frame):
            if row[schema.at.manufacturer][:2] in _WITH_FACTS_APART:
                rows = _with_facts_apart(rows, row, context)
            # Enhanced objects contain unpacked mosaics, but their image type may say MOSAIC still.
            rows, tiles = unpacked_rows(rows, context)
            places *= len(tiles) or 1
        is_float = pixel_data.tag != PIXEL_DATA
        return Header(
            "image",
            "",
            "",
            sop_class,
            self._source,
            rows,
            places,
            context.deflated,
            is_float,
            tiles,
            flags,
        )

    def convert(self, rows: Sequence[tuple[bytes, ...]]) -> dict[str, Column]:
        """Convert raw rows to typed columns: stripped str, int, float, or None if absent."""
        result = {
            column.name: converted(raws, convert)
            for column, convert, raws in zip(
                self.columns, self._schema.converters, zip(*rows, strict=True), strict=True
            )
        }
        complete(result)
        return result


# Names of DICOM files: by extension, or a number or UID after a short word (IM_0001, MR.1.2).
_DICOM_NAME: Final = re.compile(
    r".*\.(dcm|dicom|dic|ima)|DICOMDIR|[A-Z]{0,4}[-_. ]?[0-9][0-9._-]*", re.IGNORECASE
)


def _of_member(error: PixelError) -> Header:
    """Return the problem of a member whose archive cannot give it."""
    return Header("problem", error.reason, str(error))


def _of_empty_file(path: str) -> Header:
    """Return a problem for an empty file that is named as DICOM; others are not DICOM."""
    if _DICOM_NAME.fullmatch(os.path.basename(path)):
        return Header("problem", "empty", "the file has 0 bytes")
    return Header("not_dicom")


def unopened(error: OSError | FileChanged) -> Header:
    """Return the problem of a file that cannot be opened."""
    return Header("problem", "unreadable", f"cannot be opened: {_words(error)}")


def unread(error: OSError | PixelError) -> Header:
    """Return the problem of a file, or of a member of an archive, that was not read."""
    if isinstance(error, OSError | FileChanged):
        return unopened(error)
    return _of_member(error)


def _words(error: OSError | FileChanged) -> str:
    return str(error.strerror) if isinstance(error, OSError) else str(error)


def unforeseen(error: Exception) -> Header:
    """Return the problem of a file that ended its reader by an error of Python.

    The detail has the class of the error and the line that raised it. The message of the error is
    omitted, because it may quote a value, and values may identify a person.
    """
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    *_, last = traceback.extract_tb(error.__traceback__)
    detail = (
        f"the header reader failed with {name} in {os.path.basename(last.filename)}, line "
        f"{last.lineno}: this is a fault of dicomdl, please report it"
    )
    return Header("problem", "reader_error", detail)


def _usable_layout(row: Row, context: Context) -> PixelLayout:
    """Return the layout of the pixels; raise HeaderError for a video or an unusable header."""
    if family_of(context.transfer_syntax) == "video":
        raise HeaderError(VIDEO_ADVICE, reason="video")
    schema = context.schema
    raws = row[schema.pixel_format]
    # A cache of long values would hold more than the files that have them.
    is_short = len(b"".join(raws)) <= LONGEST_CACHED
    layout = (pixel_layout if is_short else pixel_layout.__wrapped__)(raws)
    if isinstance(layout, HeaderError):
        # The cached error is copied: a raised one keeps its traceback, and so the file's bytes.
        raise HeaderError(str(layout), **vars(layout))
    reals = schema.reals_of(row)
    if len(b"".join(reals)) > LONGEST_CACHED or not are_real(reals):
        for number in schema.required_reals:
            require_real(row[number], schema.columns[number])
    return layout


_NO_NUMBER: Final = frozenset({b"", b"\0\0", b"\0\0\0\0"})


# Makers, by two letters, whose classic images may hold facts that the walk of a file passes.
_WITH_FACTS_APART: Final = frozenset({b"GE", b"PH", b"Ph", b"ph"})


def _with_facts_apart(rows: Sequence[Row], row: Row, context: Context) -> Sequence[Row]:
    """Return the rows of a classic image with facts of private elements that need another walk."""
    facts: dict[int, bytes] = {}
    if may_have_philips_item(row, context):
        facts = found_philips_facts(context)
    elif may_lack_creators(row, context):
        facts = facts_without_creator(context)
    return [filled(each, facts) for each in rows] if facts else rows


def _has_size(row: Row, schema: Schema) -> bool:
    at = schema.at
    return row[at.rows] not in _NO_NUMBER and row[at.columns] not in _NO_NUMBER


def _without_pixels(row: Row, sop_class: str, schema: Schema) -> Header:
    """Return the header of an object without an image; raise HeaderError if it has lost one.

    A file that was cut between two elements is sound up to its end. Only its SOP class tells that
    an image is missing.
    """
    at = schema.at
    without_image = Header(
        "no_image",
        sop_class_uid=sop_class,
        study_instance_uid=_uid(row[at.study_instance_uid]),
        series_instance_uid=_uid(row[at.series_instance_uid]),
    )
    if may_lack_pixels(sop_class):
        return without_image
    if _has_size(row, schema):
        raise HeaderError(
            "the header describes an image, but there are no pixel data", reason="no_pixel_data"
        )
    # A dose object may have histograms instead of a grid (PS3.3 A.18.3). DoseUnits, which all
    # have, follows the size of a grid.
    is_histogram = sop_class == RT_DOSE and row[schema.at.dose_units]
    if (name := image_name(sop_class)) and not is_histogram:
        raise HeaderError(
            f"an object of {name} has neither Rows (0028,0010) nor pixel data: the file was cut, "
            "or its image was removed",
            reason="no_pixel_data",
        )
    if not is_uid(sop_class):
        raise HeaderError(
            "the file has neither SOPClassUID (0008,0016) nor pixel data: it was cut, or is no "
            "DICOM object",
            reason="malformed",
        )
    return without_image


def read_frames(path: str | os.PathLike[str], extra: Sequence[Attribute] = ()) -> list[Frame]:
    """Read the header of one DICOM file, and return its frames in file order.

    Parameters
    ----------
    path
        The file.
    extra
        Columns in addition to those of `Frame`, from `extra_attributes`.

    Returns
    -------
    list of Frame
        One per frame, or per tile of a mosaic. Empty for DICOM without an image (SR, RTPLAN,
        DICOMDIR, ...).

    Raises
    ------
    HeaderError
        The file is not DICOM or cannot be used. Attribute `reason` is a word for the reason.

    Examples
    --------
    >>> from pydicom.data import get_testdata_file
    >>> from dicomdl.headers.reader import read_frames
    >>> (frame,) = read_frames(get_testdata_file("CT_small.dcm"))
    >>> frame.modality, frame.rows, frame.columns, frame.byte_length
    ('CT', 128, 128, 32768)
    """
    reader = HeaderReader(extra)
    name = path if isinstance(path, GivenBytes) else absolute(os.fspath(path))
    header = reader.read(name)
    if header.kind in ("problem", "not_dicom"):
        error = HeaderError(
            header.detail or "this is not a DICOM file", reason=header.reason or "not_dicom"
        )
        error.add_note(f"file: {name}")
        raise error
    if not header.rows:
        return []
    columns = reader.convert(header.rows)
    values = {name: each_row(column) for name, column in columns.items()}
    standard = [a.name for a in attributes()]
    added = [a.name for a in extra]
    state: dict[str, Any] = dict(zip(FILE_FIELDS, header.source, strict=True))
    return [
        Frame(
            frame_number=header.frame_numbers[number],
            byte_offset=place.byte_offset,
            byte_length=place.byte_length,
            bit_offset=place.bit_offset,
            deflated=header.deflated,
            float_pixels=header.float_pixels,
            flags=header.flags,
            **state,
            **(header.tiles[number] if header.tiles else NO_TILE)._asdict(),
            extra=tuple((column, values[column][number]) for column in added),
            **{column: values[column][number] for column in standard},
        )
        for number, place in enumerate(header.places)
    ]

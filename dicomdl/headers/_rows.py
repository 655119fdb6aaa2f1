"""Raw rows, one per frame: tuples with the raw bytes of every column, and the schema of columns."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

from dicomdl.headers._elements import Wanted
from dicomdl.headers._heads import TRANSFER_SYNTAX, Syntax
from dicomdl.headers._window import Window
from dicomdl.headers.attribute import Attribute
from dicomdl.headers.columns import BINARY, converter, swap_bytes

Row: TypeAlias = tuple[bytes, ...]
# VRs whose length has 16 bits (PS3.5 7.1.2), as far as columns have them.
_SHORT_VRS: Final = frozenset(
    {"AS", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "SH", "SL", "SS", "TM", "UI", "UL", "US"}
)
_FREE_TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})


# Facts of Philips' private item (`_attribute_items`) that no public attribute states, or that some
# files state nowhere else. Its other attributes describe the classic image: its UID, number, time.
_PHILIPS_FACTS: Final = frozenset(
    {
        "diffusion_b_value",
        "diffusion_gradient_orientation",
        "philips_b_value",
        "philips_b_value_number",
        "philips_gradient_direction_number",
        "philips_diffusion_direction_x",
        "philips_diffusion_direction_y",
        "philips_diffusion_direction_z",
        "philips_scale_slope",
        "philips_scale_intercept",
        "philips_phase_number",
        "philips_dynamic_scan_begin_time",
        "philips_label_type",
    }
)


class Numbers(NamedTuple):
    """The numbers of the columns that the header reader uses by name."""

    transfer_syntax_uid: int
    sop_class_uid: int
    sop_instance_uid: int
    study_instance_uid: int
    series_instance_uid: int
    image_type: int
    sequence_name: int
    scanning_sequence: int
    view_position: int
    rows: int
    columns: int
    number_of_frames: int
    dose_units: int
    image_position_patient: int
    image_orientation_patient: int
    pixel_spacing: int
    spacing_between_slices: int
    slice_vector: int
    manufacturer: int
    philips_gradient_direction_number: int
    siemens_images_in_mosaic: int
    siemens_b_value: int
    siemens_diffusion_direction: int
    ge_b_value: int
    ge_diffusion_direction_x: int
    ge_diffusion_direction_y: int
    ge_diffusion_direction_z: int
    ge_pulse_sequence_name: int
    ge_user_data_12: int


class Schema:
    """The columns of a reader's rows, grouped by the way they are read.

    Parameters
    ----------
    columns
        The columns.
    specials
        Tags of further elements of the top level that the reader uses.

    Attributes
    ----------
    at
        The numbers of some columns, by name.
    wanted
        The elements of a data set: those of the columns, then `specials`, then the sequences of
        `inside`.
    philips, philips_wanted
        Numbers of the columns that Philips' private item has, and their elements.
    inside
        sequence -> tag -> number, for columns in the first item of a top-level sequence.
    counts
        sequence -> number of the column that counts its different items. Columns inside of it have
        the values on which all items agree.
    groups, macros
        (functional group macro, tag) -> number, and the set of all macros.
    pixel_format
        The columns that describe the coding of pixels.
    free_texts
        Numbers of the columns that SpecificCharacterSet applies to (PS3.5 6.1.2.3).
    required_reals
        Numbers of the columns whose text must be a number; otherwise the file is a problem.
    per_frame
        Numbers of the vectors with one value per frame.
    """

    def __init__(self, columns: Sequence[Attribute], specials: Sequence[int] = ()) -> None:
        self.columns = tuple(columns)
        self.count = len(self.columns)
        numbered = list(enumerate(self.columns))
        index = {column.name: number for number, column in numbered}
        self.at = Numbers(*map(index.__getitem__, Numbers._fields))
        self.pixel_format = slice(self.at.rows, self.at.number_of_frames + 1)
        self.inside: dict[int, dict[int, int]] = {}
        for number, column in numbered:
            if column.inside and not column.counts:
                self.inside.setdefault(column.inside, {})[column.tag] = number
        # Tag 0 leaves a slot empty: the transfer syntax is that of the file meta information, even
        # if the data set contains the element, too.
        entries = [
            (0 if column.inside or column.tag == TRANSFER_SYNTAX else column.tag, column.creator)
            for column in self.columns
        ]
        short = frozenset(
            number
            for number, column in numbered
            if column.vr in _SHORT_VRS and not (column.inside or column.per_frame)
        )
        self.wanted = Wanted([*entries, *((tag, "") for tag in (*specials, *self.inside))], short)
        self.philips = [n for n, column in numbered if column.name in _PHILIPS_FACTS]
        self.philips_wanted = Wanted([entries[number] for number in self.philips])
        self._first_sequence = self.count + len(specials)
        self.counts = {column.inside: number for number, column in numbered if column.counts}
        self.groups = {
            (group, column.group_tag or column.tag): number
            for number, column in numbered
            for group in column.groups
        }
        self.macros = frozenset(group for group, _ in self.groups)
        self.free_texts = [number for number, column in numbered if column.vr in _FREE_TEXT_VRS]
        self.required_reals = [
            number for number, column in numbered if column.required and column.kind == "real"
        ]
        self.per_frame = [number for number, column in numbered if column.per_frame]
        self.converters = [converter(column) for column in self.columns]
        self.texts_of = itemgetter(*self.free_texts)
        self.vectors_of = itemgetter(*self.per_frame)
        self.reals_of = itemgetter(*self.required_reals)
        at = self.at
        self.identity_of = itemgetter(
            at.sop_instance_uid, at.study_instance_uid, at.series_instance_uid
        )

    def parts(self, values: Row) -> tuple[Row, Row, Row]:
        """Divide the values of `wanted` into those of columns, specials and `inside` sequences."""
        first, sequence = self.count, self._first_sequence
        return values[:first], values[first:sequence], values[sequence:]

    def value(self, row: Row, number: int) -> Any:
        """Return the typed value of one column of a raw row."""
        return self.converters[number](row[number])

    def swapped(self, values: Mapping[int, bytes]) -> dict[int, bytes]:
        """Convert big-endian values by number to little-endian ones."""
        return {number: swap_bytes(value, self.columns[number]) for number, value in values.items()}

    def swapped_row(self, row: Row) -> Row:
        """Convert a row of big-endian values to little endian."""
        binary = {
            number: value
            for number, value in enumerate(row)
            if value and self.columns[number].vr in BINARY
        }
        return override(row, self.swapped(binary))


class Context(NamedTuple):
    """The file that is being read: its columns and its coding. Its first element is at `start`.

    `flags` are those of its start (see `_flags`), and `charset` is the raw Specific Character Set
    of a file with functional groups.
    """

    schema: Schema
    transfer_syntax: str
    syntax: Syntax
    window: Window
    start: int
    deflated: bool
    flags: str = ""
    charset: bytes = b""


def override(row: Row, changes: Mapping[int, bytes]) -> Row:
    """Return a row with changed values in some columns."""
    if not changes:
        return row
    values = list(row)
    for number, value in changes.items():
        values[number] = value
    return tuple(values)


def decimals(numbers: Sequence[float]) -> bytes:
    """Return numbers as a raw value of DS."""
    return "\\".join(map(repr, numbers)).encode()

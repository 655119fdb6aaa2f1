"""The PET header: facts on which all frames of a stack agree, and the errors about them.

Messages name attributes by keyword and tag, and never quote a value of the header, which may be a
date.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from dicomdl.errors import SUVError, UsageError
from dicomdl.headers.frame import attributes

Columns: TypeAlias = Mapping[str, Sequence[Any]]
SERIES_COLUMNS: Final[tuple[str, ...]] = (
    "acquisition_date",
    "acquisition_time",
    "acquisition_date_time",
)
# The same of a frame of a multi-frame object; optional among the columns of a Series.
FRAME_TIME: Final = "frame_acquisition_date_time"
SUV_COLUMNS: Final[tuple[str, ...]] = (
    *(
        "modality",
        "units",
        "suv_type",
        "rescale_type",
        "counts_source",
        "series_type",
        "corrected_image",
        "decay_correction",
    ),
    *(
        "decay_factor",
        "frame_reference_time",
        "actual_frame_duration",
        "frame_acquisition_duration",
        "series_date",
        "series_time",
        *SERIES_COLUMNS,
        FRAME_TIME,
    ),
    *(
        "patient_weight",
        "patient_size",
        "patient_sex",
        "radiopharmaceuticals",
        "radiopharmaceutical_start_time",
        "radiopharmaceutical_start_date_time",
    ),
    *(
        "radionuclide_total_dose",
        "radionuclide_half_life",
        "ge_scan_date_time",
        "philips_suv_factor",
        "philips_activity_factor",
    ),
)
# Names of attributes whose column is not their keyword in snake case.
_NAMES: Final = {
    "suv_type": "SUVType",
    "radiopharmaceuticals": "RadiopharmaceuticalInformationSequence",
    "ge_scan_date_time": "GE's scan date and time",
    "philips_suv_factor": "Philips' SUV scale factor",
    "philips_activity_factor": "Philips' activity concentration scale factor",
}
_INSTEAD: Final = (
    'read the modality values (intensity="modality"), or correct the header and scan again'
)


def check_columns(columns: Columns, needed: Sequence[str]) -> None:
    """Require columns of one length above 0; UsageError otherwise."""
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UsageError(f"columns are missing: {', '.join(missing)}", missing=missing)
    lengths = {len(columns[name]) for name in needed}
    if len(lengths) != 1 or 0 in lengths:
        raise UsageError(
            f"the columns have lengths {sorted(lengths)}: "
            "expected one value per frame and at least one frame"
        )


class PetHeader:
    """The facts of one stack that must be the same in all its frames."""

    def __init__(self, facts: Columns) -> None:
        self.facts = facts

    def text(self, column: str) -> str:
        """Return the text of a column, upper case without padding; "" when absent."""
        return str(self._only(column, {text_of(value).upper() for value in self.facts[column]}))

    def number(self, column: str) -> float | None:
        """Return the number of a column; None when absent."""
        number: float | None = self._only(
            column, {number_of(value) for value in self.facts[column]}
        )
        if number is not None and math.isinf(number):
            raise refusal([column], "infinite", "a number")
        return number

    def positive(self, column: str, unit: str) -> float:
        """Return the number of a column that must be present and above 0."""
        number = self.number(column)
        if number is None:
            raise refusal([column], "", f"a number above 0 in {unit}")
        if number <= 0:
            raise refusal([column], "not above 0", f"a number above 0 in {unit}")
        return number

    def _only(self, column: str, values: set[Any]) -> Any:
        """Return the only value of a set; SUVError for several."""
        if len(values) != 1:
            problem = (
                f"contradictory: {len(values)} different values in one stack, absent counted as one"
            )
            raise refusal([column], problem, "the same in all frames")
        return values.pop()


def text_of(value: Any) -> str:
    """Return a value as text without padding; "" for None."""
    return "" if value is None else str(value).strip(" \0")


def number_of(value: Any) -> float | None:
    """Return a value as float; None for None and NaN."""
    return None if value is None or math.isnan(value) else float(value)


def refusal(columns: Sequence[str], problem: str, expected: str) -> SUVError:
    """Build the error about some columns.

    `problem` is "" when they are absent, and never quotes the header.
    """
    names = " and ".join(_attribute(column) for column in columns)
    verb = "are" if len(columns) > 1 else "is"
    return SUVError(
        f"no SUV: {names} {verb} {problem or 'absent'}; expected {expected}: {_INSTEAD}",
        attribute=names,
    )


# Small: one name per column of the index.
@functools.cache
def _attribute(column: str) -> str:
    """Return the attribute of a column: ``patient_weight`` -> ``PatientWeight (0010,1030)``."""
    attribute = next(attribute for attribute in attributes() if attribute.name == column)
    tag = attribute.tag | (0x1000 if attribute.creator else 0)
    keyword = _NAMES.get(column) or "".join(word.capitalize() for word in column.split("_"))
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"

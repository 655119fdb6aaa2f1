"""Verdicts on sets of frames, with the remarks that apply to any stack."""

from typing import Any, Final

from dicomdl.arrays import Ints
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry.verdict import Assessment, assess, idc_checks

# Attributes that the slices of a volume share as a rule, beside the contrasts. The detail of a
# stack reports where they vary.
_USUALLY_SHARED: Final = ("slice_thickness", "reconstruction_diameter")


class Judge:
    """Assessment of the rows of stacks.

    The last result is cached, because time points usually have the positions of their neighbours.
    """

    def __init__(self, columns: FrameColumns) -> None:
        self._columns = columns
        self._last: tuple[tuple[Any, ...], tuple[Assessment, dict[str, Any]]] | None = None

    def assess(self, rows: Ints, remarks: dict[str, Any] | None = None) -> tuple[Assessment, Ints]:
        """Return the assessment of a stack, remarks included, and its rows in slice order."""
        assessment, _ = self._judged(rows)
        detail = assessment.detail | (remarks or {}) | self._remarks(rows)
        return Assessment(assessment.order, assessment.affine, assessment.verdict, detail), rows[
            assessment.order
        ]

    def measured(self, rows: Ints) -> Assessment:
        """Return the assessment of some rows without remarks."""
        return self._judged(rows)[0]

    def idc(self, rows: Ints) -> dict[str, Any]:
        """Return IDC's checks of the rows of a stack."""
        return self._judged(rows)[1]

    def _remarks(self, rows: Ints) -> dict[str, Any]:
        """Return the remarks that apply to any stack."""
        first, columns = rows[0], self._columns
        remarks: dict[str, Any] = {
            name: "blank"
            for name, blank in columns.blanks.items()
            if blank[first] and blank[rows].all()
        }
        remarks |= columns.identities.remarks(rows)
        if columns.by_transducer[first]:
            remarks["coordinates"] = "of the transducer"
        contrast = columns.contrasts.among(rows)
        varies = columns.candidates.varying(rows, _USUALLY_SHARED)
        if contrast is not None:
            varies = contrast.names + varies
            if columns.placed[first]:
                remarks["mixed"] = columns.contrasts.named(contrast, rows)
        if varies:
            remarks["varies"] = varies
        return remarks

    def _judged(self, rows: Ints) -> tuple[Assessment, dict[str, Any]]:
        """Return the assessment and IDC's checks of some rows, cached while these are equal."""
        columns, first = self._columns, rows[0]
        positions = columns.positions[rows]
        orientation, spacing = columns.orientations[first], columns.pixel_spacings[first]
        thickness = float(columns.thickness[first])
        key = (positions.tobytes(), orientation.tobytes(), spacing.tobytes(), thickness)
        if self._last is None or self._last[0] != key:
            assessment = assess(positions, orientation, spacing, columns.tolerances, thickness)
            self._last = (key, (assessment, idc_checks(positions, orientation)))
        return self._last[1]

"""The verdict on some frames, and what else is to be said of any stack."""

from typing import Any, Final

from dicomdl.arrays import Ints
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry.verdict import Assessment, assess, idc_checks

# What should not change from slice to slice of one volume; where it does, positions do not repeat
# and the stack says so.
_CONTRAST: Final = (
    *(
        "echo_time",
        "effective_echo_time",
        "inversion_time",
        "diffusion_b_value",
        "complex_image_component",
    ),
    *(
        "convolution_kernel",
        "kvp",
        "monoenergetic_energy_equivalent",
        "slice_thickness",
        "reconstruction_diameter",
    ),
)


class Judge:
    """Assesses rows.

    The last answer is kept for the next call, because time points lie where their neighbours
    do.
    """

    def __init__(self, columns: FrameColumns) -> None:
        self._columns = columns
        self._kept: tuple[tuple[Any, ...], tuple[Assessment, dict[str, Any]]] | None = None

    def assess(self, rows: Ints, remarks: dict[str, Any] | None = None) -> tuple[Assessment, Ints]:
        """The verdict on the rows of a stack, with its remarks in the detail, and the rows in slice order."""
        found, _ = self._judged(rows)
        detail = found.detail | (remarks or {}) | self._remarks(rows)
        return Assessment(found.order, found.affine, found.verdict, detail), rows[found.order]

    def idc(self, rows: Ints) -> dict[str, Any]:
        """IDC's checks of the rows of a stack."""
        return self._judged(rows)[1]

    def _remarks(self, rows: Ints) -> dict[str, Any]:
        """What is to be said of any stack."""
        first, columns = rows[0], self._columns
        remarks: dict[str, Any] = {
            name: "blank" for name, blank in columns.blanks.items() if blank[first]
        }
        if columns.by_transducer[first]:
            remarks["coordinates"] = "of the transducer"
        if varies := columns.candidates.varying(rows, _CONTRAST):
            remarks["varies"] = varies
        return remarks

    def _judged(self, rows: Ints) -> tuple[Assessment, dict[str, Any]]:
        columns, first = self._columns, rows[0]
        positions = columns.positions[rows]
        orientation, spacing = columns.orientations[first], columns.pixel_spacings[first]
        thickness = float(columns.thickness[first])
        key = (positions.tobytes(), orientation.tobytes(), spacing.tobytes(), thickness)
        if self._kept is None or self._kept[0] != key:
            found = assess(positions, orientation, spacing, columns.tolerances, thickness)
            self._kept = (key, (found, idc_checks(positions, orientation)))
        return self._kept[1]

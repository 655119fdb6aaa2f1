"""Parts of a group: the quantity of a stack, and what a choice of its stacks has in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

# Facts that decide the units of modality values (`dicomdl.values.auto.units_of`).
_UNITS: Final = ("units", "dose_units", "modality_lut_sequence")
# Values of GE's (0043,102F).
_GE_COMPONENTS: Final = {0: "M", 1: "P", 2: "R", 3: "I"}
# Complex Image Component (0008,9208), PS3.3 C.8.13.3.1.1; MIXED says nothing of one image.
_COMPONENTS: Final = {"MAGNITUDE": "M", "PHASE": "P", "REAL": "R", "IMAGINARY": "I"}


def quantity_of(value: Callable[[str], Any]) -> tuple[Any, ...]:
    """Return a key that is equal for stacks of one quantity.

    `value` gives a fact of the stack's middle frame by the name of its column.
    """
    kind = str(value("rescale_type") or "").strip()
    return (*map(value, _UNITS), "" if kind == "US" else kind, component_of(value))


def component_of(value: Callable[[str], Any]) -> str:
    """Return M, P, R or I for magnitude, phase, real or imaginary part, "" where unknown.

    Image Type has them as a value of their own (Siemens "P"), or as its beginning (Philips "P_FFE",
    "PHASE MAP").
    """
    coded = _COMPONENTS.get(str(value("complex_image_component") or ""))
    if coded or (coded := _GE_COMPONENTS.get(value("ge_raw_data_type"))):
        return coded
    for word in str(value("image_type") or "").upper().split("\\")[2:]:
        name = _COMPONENTS.get(word.split(" ")[0])
        if name or (word and word[0] in "MPRI" and word[1:2] in ("", "_")):
            return name or word[0]
    return ""


def names_that_differ(dimensions: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names whose values differ among the dimensions of stacks; all if none does."""
    names = tuple(dimensions[0]) if dimensions else ()
    differ = (n for n in names if any(each[n] != dimensions[0][n] for each in dimensions))
    return tuple(differ) or names


def gaps_of(details: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """Return the slices that each stack lacks, numbered on the grid of these stacks.

    Slices that all of them lack are not on their grid.
    """
    gaps = [set(detail.get("missing_in_group", ())) for detail in details]
    absent = set.intersection(*gaps) if gaps else set()
    return [
        [number - sum(other < number for other in absent) for number in sorted(gap - absent)]
        for gap in gaps
    ]

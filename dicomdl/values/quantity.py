"""Quantities: modality, Philips', SUV or real-world values, the input of every window.

A quantity is requested by ``values=`` and is part of the key of a cached stack.
"""

import operator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from dicomdl.errors import UsageError
from dicomdl.values.suv import SUV


@dataclass(frozen=True, slots=True)
class RealWorld:
    """Request for real-world values, by the file's Real World Value Mapping.

    Parameters
    ----------
    which
        The map: a number from 0, units ("mm2/s"), or a label when no map has such units. Several
        maps to the same units are used together when their ranges of stored values do not overlap.

    Raises
    ------
    UsageError
        `which` is neither text nor an integer from 0.

    References
    ----------
    PS3.3 C.7.6.16.2.11.
    """

    which: int | str = 0

    def __post_init__(self) -> None:
        if isinstance(self.which, str):
            return
        try:
            number = -1 if isinstance(self.which, bool) else operator.index(self.which)
        except TypeError:
            number = -1
        if number < 0:
            message = f"RealWorld({self.which!r}): expected a number from 0, units or a label"
            raise UsageError(message, which=self.which)
        object.__setattr__(self, "which", number)


Quantity: TypeAlias = Literal["modality", "philips", "network", "derived"] | SUV | RealWorld
"""Meaning of values: modality values (by rescale or Modality LUT), Philips' floating point values
(by their private scaling), SUV, or real-world values.

"network" values are the result of a window on any of these; "derived" values were computed by the
caller, such as a prediction.
"""

# Defined terms of Units (0054,1001), PS3.3 C.8.9.1.1.3, Dose Units (3004,0002) and the UCUM unity.
_PRINTED: Final = MappingProxyType(
    {
        "1": "",
        "NONE": "",
        "GML": "g/ml",
        "CM2ML": "cm2/ml",
        "BQML": "Bq/ml",
        "CNTS": "counts",
        "CPS": "counts/s",
        "GY": "Gy",
    }
)


def printed_units(units: str) -> str:
    """Return units for people: "HU", "g/ml"; "" for values without units."""
    return _PRINTED.get(units, units)


def as_quantity(option: str | SUV | RealWorld) -> Quantity:
    """Parse ``values=``: "modality", "philips", "suv", "real_world", an SUV or a RealWorld.

    Raises
    ------
    UsageError
        Any other value.
    """
    if isinstance(option, RealWorld):
        return option
    if isinstance(option, SUV):
        return SUV(option.kind)
    named: dict[str, Quantity] = {
        "modality": "modality",
        "philips": "philips",
        "suv": SUV(),
        "real_world": RealWorld(),
    }
    if not isinstance(option, str) or option not in named:
        expected = ", ".join(map(repr, named))
        raise UsageError(f"values={option!r}: expected {expected}, an SUV(...) or a RealWorld(...)")
    return named[option]

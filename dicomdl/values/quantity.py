"""What numbers are before anything maps them: modality values, SUV or real-world values."""

import operator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dicomdl.errors import UsageError
from dicomdl.values.suv import SUV


@dataclass(frozen=True, slots=True)
class RealWorld:
    """The wish for real-world values.

    Stored values by the file's own Real World Value Mapping (PS3.3 C.7.6.16.2.11).

    Parameters
    ----------
    which
        A number from 0, units ("mm2/s"), or a label, as for `lookup_reading.select_real_world_map`.

    Raises
    ------
    UsageError
        Neither text nor a whole number from 0.
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


Quantity: TypeAlias = Literal["modality", "network"] | SUV | RealWorld
"""What values are: modality values by rescale or Modality LUT, SUV, or real-world values.

"network" values are what a window has made of any of these.
"""


def as_quantity(option: str | SUV | RealWorld) -> Quantity:
    """The quantity of ``values=``: "modality", "suv", "real_world", an SUV or a RealWorld.

    UsageError otherwise.
    """
    if isinstance(option, RealWorld):
        return option
    if isinstance(option, SUV):
        return SUV(option.kind)
    named: dict[str, Quantity] = {"modality": "modality", "suv": SUV(), "real_world": RealWorld()}
    if not isinstance(option, str) or option not in named:
        expected = ", ".join(map(repr, named))
        raise UsageError(f"values={option!r}: expected {expected}, an SUV(...) or a RealWorld(...)")
    return named[option]

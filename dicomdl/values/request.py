"""The option ``intensity=``, parsed once where a user passes it.

The rule to know: every public function and constructor that takes ``intensity=`` parses it before
it does anything else, so a misspelt option is refused at the call and not by the first sample in
a worker. What is left to decide needs a frame, and `auto.resolve` decides it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Final, Literal, TypeAlias

from dicomdl.errors import UsageError
from dicomdl.values.intensity import Intensity
from dicomdl.values.maps import Identity, IntensityMap, Limits, Percentile, VoiLut, Window
from dicomdl.values.presets import preset
from dicomdl.values.quantity import RealWorld
from dicomdl.values.suv import SUV

_VALUES: Final = (Identity, Intensity, Limits, Percentile, RealWorld, SUV, VoiLut, Window)
_EXPECTED: Final = (
    '"auto", "modality", "file", "voi_lut", a preset, (center, width), a Window, Limits, '
    "Percentile, SUV or RealWorld, or a callable"
)


@dataclass(frozen=True, slots=True)
class IntensityRequest:
    """What a user asked for as ``intensity=``, checked; `auto.resolve` makes the recipe of a stack.

    Two requests are equal where they ask for the same, however that was written. They pickle, and
    hash unless they hold a callable that does not.

    Parameters
    ----------
    source
        Who decides: the rules of "auto", nobody for "modality", the file's own "file" window or
        "voi_lut", or the user, who has "given" a recipe.
    which
        The number of the file's window or table, from 0; None where the user named none.
    given
        The recipe, where the user gave one.
    option
        The option, for `repr`.
    """

    source: Literal["auto", "modality", "file", "voi_lut", "given"]
    which: int | None = None
    given: Intensity | None = None
    option: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        return repr(self.option)

    @property
    def needs_file(self) -> bool:
        """Whether the facts of a file decide what becomes of modality values."""
        return self.source in ("auto", "file", "voi_lut")

    @classmethod
    def parse(cls, option: "IntensityOption") -> "IntensityRequest":
        """The request that an option states; a request is itself.

        Parameters
        ----------
        option
            What `auto.resolve` takes.

        Raises
        ------
        UsageError
            An unknown name, or something that is no option.
        IntensityError
            A center or width that no window has.
        """
        if isinstance(option, IntensityRequest):
            return option
        if option is None or isinstance(option, Identity):
            return cls("modality", option="modality")
        if isinstance(option, str):
            return _by_name(option)
        if isinstance(option, tuple | list):
            center, width = _pair(option)
            return cls("given", given=Intensity(Window(center, width)), option=(center, width))
        return cls("given", given=_recipe(option), option=option)


IntensityOption: TypeAlias = (
    str | Sequence[float] | Intensity | IntensityMap | SUV | RealWorld | IntensityRequest | None
)


def _by_name(name: str) -> IntensityRequest:
    if name in ("auto", "modality"):
        return IntensityRequest(name, option=name)  # type: ignore[arg-type]
    source, colon, number = name.partition(":")
    if source in ("file", "voi_lut") and (number.isdecimal() or not colon):
        which = int(number) if number else None
        return IntensityRequest(source, which, option=name)  # type: ignore[arg-type]
    try:
        return IntensityRequest("given", given=Intensity(preset(name)), option=name)
    except UsageError as error:
        error.add_note(f"intensity={name!r}: expected {_EXPECTED}")
        raise


def _pair(numbers: Sequence[Any]) -> tuple[float, float]:
    """The (center, width) of a tuple or list; `Window` checks what they may be."""
    are_numbers = all(isinstance(one, Real) and not isinstance(one, bool) for one in numbers)
    if len(numbers) != 2 or not are_numbers or any(math.isnan(one) for one in numbers):
        raise UsageError(f"intensity={numbers!r}: expected (center, width), two numbers")
    return float(numbers[0]), float(numbers[1])


def _recipe(option: Any) -> Intensity:
    """The recipe that a value or a callable stands for."""
    if isinstance(option, Intensity):
        return option
    if isinstance(option, SUV):
        as_it_is = option.upper is None
        mapping = Identity() if option.upper is None else Limits(0.0, option.upper)
        units = option.units if as_it_is else "1"
        return Intensity(mapping, units=units, quantity=SUV(option.kind))
    if isinstance(option, RealWorld):
        return Intensity(Identity(), units="", quantity=option)
    if isinstance(option, Window | Limits | Percentile | VoiLut):
        return Intensity(option)
    if isinstance(option, type) and issubclass(option, _VALUES):
        raise UsageError(f"intensity is the class {option.__name__}: expected one of its values")
    if callable(option):
        return Intensity(option, units="")
    raise UsageError(f"intensity is a {type(option).__name__}: expected {_EXPECTED}")

"""IntensityRequest: the option ``intensity=``, parsed once at the call of the user.

Every public function and constructor that takes ``intensity=`` parses it first, so a misspelt
option raises at the call and not at the first sample in a worker. `auto.resolve` then needs a frame
to make the recipe of a stack.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Final, Literal, TypeAlias

from dicomdl.errors import UsageError
from dicomdl.values.intensity import Intensity
from dicomdl.values.presets import preset
from dicomdl.values.quantity import RealWorld
from dicomdl.values.suv import SUV
from dicomdl.values.windows import Identity, IntensityMap, Limits, Percentile, VoiLut, Window

_VALUES: Final = (Identity, Intensity, Limits, Percentile, RealWorld, SUV, VoiLut, Window)
_EXPECTED: Final = (
    '"auto", "modality", "philips", "file", "voi_lut", a preset, (center, width), a Window, '
    "Limits, Percentile, SUV or RealWorld, or a callable"
)


@dataclass(frozen=True, slots=True)
class IntensityRequest:
    """The checked option ``intensity=``; `auto.resolve` makes the recipe of a stack from it.

    Requests for the same recipe are equal, whatever their spelling. They pickle, and hash unless
    they hold a callable that does not.

    Parameters
    ----------
    source
        The source of the recipe: the rules of "auto", "modality" values as they are, a window of
        the "file", a "voi_lut" of the file, or "given" by the user.
    which
        The number of the file's window or table, from 0; None when the user named none.
    given
        The recipe, when the user gave one.
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
        """Whether the recipe depends on the facts of a file."""
        return self.source in ("auto", "file", "voi_lut")

    @classmethod
    def parse(cls, option: "IntensityOption") -> "IntensityRequest":
        """Parse an option; a request is returned as it is.

        Parameters
        ----------
        option
            Any option of `auto.resolve`.

        Raises
        ------
        UsageError
            An unknown name, or a value that is not an option.
        IntensityError
            An impossible center or width.
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
    if name == "philips":
        recipe = Intensity(Identity(), units="", quantity="philips")
        return IntensityRequest("given", given=recipe, option=name)
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
    """Return the (center, width) of a tuple or list; `Window` checks their range."""
    pair: list[float] = []
    if all(isinstance(n, Real) and not isinstance(n, bool) for n in numbers):
        # An integer may be larger than any float.
        with contextlib.suppress(OverflowError):
            pair = [float(n) for n in numbers]
    if len(pair) != 2 or any(map(math.isnan, pair)):
        raise UsageError(f"intensity={numbers!r}: expected (center, width), two numbers")
    return pair[0], pair[1]


def _recipe(option: Any) -> Intensity:
    """Return the recipe of a value or a callable."""
    if isinstance(option, Intensity):
        return option
    if isinstance(option, SUV):
        is_unchanged = option.upper is None
        mapping = Identity() if option.upper is None else Limits(0.0, option.upper)
        units = option.units if is_unchanged else "1"
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

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
from dicomdl.values.fingerprint import Fingerprint
from dicomdl.values.intensity import Intensity
from dicomdl.values.normalisation import Clip, MinMax, ZScore, chained
from dicomdl.values.presets import preset
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.suv import SUV
from dicomdl.values.windows import Identity, IntensityMap, Limits, Percentile, VoiLut, Window

_MAPS: Final = (Clip, Limits, MinMax, Percentile, VoiLut, Window, ZScore)
_VALUES: Final = (*_MAPS, Fingerprint, Identity, Intensity, RealWorld, SUV)
_EXPECTED: Final = (
    '"auto", "modality", "philips", "file", "voi_lut", a preset, (center, width), a Window, '
    "Limits, Percentile, ZScore, MinMax, Clip, Fingerprint, SUV or RealWorld, a tuple of these, or "
    "a callable"
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
        the "file", a "voi_lut" of the file, "given" by the user, or a "chain" of requests.
    which
        The number of the file's window or table, from 0; None when the user named none.
    given
        The recipe, when the user gave one.
    option
        The option, for `repr`.
    parts
        The requests of a chain.
    only_for
        The modality and units of the stacks that a fingerprint applies to.
    """

    source: Literal["auto", "modality", "file", "voi_lut", "given", "chain"]
    which: int | None = None
    given: Intensity | None = None
    option: Any = field(default=None, compare=False)
    parts: tuple["IntensityRequest", ...] = ()
    only_for: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return repr(self.option)

    @property
    def needs_file(self) -> bool:
        """Whether the recipe depends on the facts of a file."""
        if self.source == "chain":
            return any(part.needs_file for part in self.parts)
        return self.source in ("auto", "file", "voi_lut")

    @property
    def quantity(self) -> Quantity:
        """The quantity of the values that the recipe is given for; modality values by default."""
        return "modality" if self.given is None else self.given.quantity

    @property
    def names_units(self) -> bool:
        """Whether the recipe is for values of one kind alone: that of a fingerprint."""
        return self.only_for is not None or any(part.names_units for part in self.parts)

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
        if isinstance(option, Fingerprint):
            only_for = (option.modality, option.units)
            recipe = Intensity(chained(option.maps), quantity=option.quantity)
            return cls("given", given=recipe, option=option, only_for=only_for)
        if isinstance(option, tuple | list):
            if _is_chain(option):
                return _chain(option)
            center, width = _pair(option)
            return cls("given", given=Intensity(Window(center, width)), option=(center, width))
        return cls("given", given=_recipe(option), option=option)


IntensityOption: TypeAlias = (
    str
    | Sequence[Any]
    | Intensity
    | IntensityMap
    | SUV
    | RealWorld
    | Fingerprint
    | IntensityRequest
    | None
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


def _is_chain(items: Sequence[Any]) -> bool:
    """Whether a tuple or list is a chain: of names, windows and maps, without a number or None."""
    return bool(items) and not any(item is None or isinstance(item, Real) for item in items)


def _chain(items: Sequence[Any]) -> IntensityRequest:
    """Parse a chain, and refuse one that cannot become a formula for any stack."""
    parts: list[IntensityRequest] = []
    for item in items:
        part = IntensityRequest.parse(item)
        parts += part.parts if part.source == "chain" else (part,)
    if len(parts) == 1:
        return parts[0]
    if any(part.source == "auto" for part in parts):
        raise UsageError('"auto" is a recipe by itself: expected other maps in a tuple')
    later = [part.given.quantity for part in parts[1:] if part.given is not None]
    if any(quantity != "modality" for quantity in later):
        raise UsageError(
            "SUV, real-world and Philips' values are read, not computed from the maps before "
            "them: expected the first place in the tuple"
        )
    if any(part.given is not None and part.given.invert for part in parts):
        raise UsageError("an inverted Intensity does not chain: expected other maps in a tuple")
    known = [part.given.mapping for part in parts if part.given is not None]
    try:
        chained(known)
    except UsageError as error:
        error.add_note(f"intensity is a tuple: expected {_EXPECTED}")
        raise
    option = tuple(items)
    return IntensityRequest("chain", option=option, parts=tuple(parts))


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
    if isinstance(option, _MAPS):
        return Intensity(option)
    if isinstance(option, type) and issubclass(option, _VALUES):
        raise UsageError(f"intensity is the class {option.__name__}: expected one of its values")
    if callable(option):
        return Intensity(option, units="")
    raise UsageError(f"intensity is a {type(option).__name__}: expected {_EXPECTED}")

"""What is done to the stored values of each slice.

Its own rescale, table, map or SUV factor, and its padding.
"""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dicomdl.arrays import Mask, Values
from dicomdl.errors import IntensityError, SUVError
from dicomdl.headers.frame import FrameSource
from dicomdl.index.views import Stack
from dicomdl.pixels.stored import add_frame_note
from dicomdl.storage.memory import remembered
from dicomdl.values._lookup import LookupTable, RealWorldMap, RealWorldMaps
from dicomdl.values._lookup_reading import modality_lut, real_world_maps, select_real_world_map
from dicomdl.values._suv_header import SERIES_COLUMNS, SUV_COLUMNS
from dicomdl.values.auto import units_of
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.rescale import Rescale, has_modality_lut
from dicomdl.values.suv import SUV, suv_factor


class ConversionFacts(NamedTuple):
    """What the index tells of a frame's conversion: each a fact of `Frame`."""

    rescale_slope: float | None
    rescale_intercept: float | None
    dose_grid_scaling: float | None
    modality_lut_sequence: bool
    pixel_padding_value: int | None
    pixel_padding_range_limit: int | None
    photometric_interpretation: str

    @property
    def padding(self) -> tuple[int, int] | None:
        """The lowest and the highest stored value that stand for no image, both included, or None."""
        value, limit = self.pixel_padding_value, self.pixel_padding_range_limit
        if value is None or self.photometric_interpretation not in _GREY:
            return None
        other = value if limit is None else limit
        return min(value, other), max(value, other)


CONVERSION_COLUMNS: Final = ConversionFacts._fields
_IDENTITY: Final = Rescale()
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What turns the stored values of one frame into others.

    A table where there is one, else the rescale.

    `padding` are the lowest and the highest stored value that stand for no image, both included
    (PS3.3 C.7.5.1.1.2), or None. Float pixels have values of their own for that (0028,0122),
    (0028,0123), which are not in the index: their padding is not known. `expands_palette` says
    whether PALETTE COLOR becomes RGB.
    """

    rescale: Rescale = _IDENTITY
    table: LookupTable | RealWorldMap | RealWorldMaps | None = None
    padding: tuple[int, int] | None = None
    expands_palette: bool = True

    @property
    def is_integral(self) -> bool:
        """Whether integers stay integers."""
        return (
            self.rescale.is_integral if self.table is None else isinstance(self.table, LookupTable)
        )

    def is_colour(self, source: FrameSource) -> bool:
        """Whether a frame is read as colour.

        It has several samples, or a palette that is expanded.
        """
        return _is_colour(source, expands_palette=self.expands_palette)

    def padding_of(self, stored: Values) -> Mask | None:
        """Where stored values are padding; None where nowhere."""
        if self.padding is None:
            return None
        low, high = self.padding
        found = stored == low if low == high else (stored >= low) & (stored <= high)
        return found if found.any() else None

    def __call__(self, stored: Values, out: Values, stored_range: tuple[int, int] | None) -> None:
        """Fill `out` (int16, int32, float32) with the values of `stored`.

        DoesNotFit where they do not fit.
        """
        if self.table is None:
            self.rescale.fill(stored, out, stored_range)
        elif isinstance(self.table, LookupTable):
            _IDENTITY.fill(self.table(stored), out, (0, self.table.maximum))
        else:
            self.table(stored, out)


def conversions(stack: Stack, quantity: Quantity = "modality") -> list[Conversion]:
    """What is done to each slice, by its own header, never by the first one's for all.

    Raises
    ------
    SUVError
        SUV are asked for and the header does not give them.
    IntensityError
        A slice has a rescale, table or map that cannot be used, or no real-world map as asked for.
    """
    if not isinstance(quantity, RealWorld) and all(
        stack.is_constant(name) for name in CONVERSION_COLUMNS
    ):
        facts = tuple(stack.value(name) for name in CONVERSION_COLUMNS)
        if not has_modality_lut(ConversionFacts(*facts)):
            return [conversion(stack, 0, facts, quantity)] * stack.slices
    found = [
        conversion(stack, place, facts, quantity) for place, facts in enumerate(_facts_of(stack))
    ]
    if isinstance(quantity, RealWorld):
        units = {
            one.table.units for one in found if isinstance(one.table, RealWorldMap | RealWorldMaps)
        }
        if len(units) > 1:
            message = f"the real-world maps of the slices have {len(units)} units: ask for one by its units"
            raise IntensityError(message, units=sorted(units))
    return found


def conversion(
    stack: Stack, place: int, facts: tuple[Any, ...], quantity: Quantity = "modality"
) -> Conversion:
    """What is done to one slice of a stack, whose `CONVERSION_COLUMNS` are at hand.

    Raises as `conversions` does.
    """
    try:
        return _finished(_by_index(facts, _expands_palette(stack)), stack, place, quantity)
    except SUVError:
        raise
    except IntensityError as error:
        add_frame_note(error, stack.source(place))
        raise


def _facts_of(stack: Stack) -> Iterator[tuple[Any, ...]]:
    """The `CONVERSION_COLUMNS` of each slice."""
    return zip(*(stack.values(name) for name in CONVERSION_COLUMNS), strict=True)


class _Plain(NamedTuple):
    """What the index alone tells of a conversion, and whether a Modality LUT takes the place of its rescale."""

    conversion: Conversion
    has_table: bool


# Small: a rescale and two numbers per combination of facts that occurs.
@functools.lru_cache(maxsize=4096)
def _by_index(facts: tuple[Any, ...], expands_palette: bool) -> _Plain:
    """What frames with these values of `CONVERSION_COLUMNS` have in common."""
    said = ConversionFacts(*facts)
    has_table = has_modality_lut(said)
    rescale = _IDENTITY if has_table else Rescale.from_frame(said)
    conversion = Conversion(rescale, None, said.padding, expands_palette)
    return _Plain(conversion, has_table)


def _finished(plain: _Plain, stack: Stack, place: int, quantity: Quantity) -> Conversion:
    """The conversion of one slice, with what the index does not hold.

    Tables and maps of its file, the factor of its stack.
    """
    conversion = plain.conversion
    if isinstance(quantity, RealWorld):
        frame = stack.frame(place)
        maps = real_world_maps(frame.file, frame.frame_number)
        return dataclasses.replace(conversion, table=select_real_world_map(maps, quantity.which))
    if isinstance(quantity, SUV):
        factor = suv_factor_of(stack, quantity)
        rescale = Rescale(conversion.rescale.slope * factor, conversion.rescale.intercept * factor)
        return dataclasses.replace(conversion, rescale=rescale)
    if plain.has_table:
        return dataclasses.replace(conversion, table=modality_lut(stack.source(place).file))
    return conversion


@remembered("SUV factors")
def suv_factor_of(stack: Stack, suv: SUV) -> float:
    """What the modality values of a PET stack are multiplied by.

    See `suv.suv_factor`, whose errors it raises.
    """
    own = stack.value("sop_class_uid")
    series = [
        other
        for other in stack.series
        if other.number == stack.number
        or (other.modality, other.value("sop_class_uid")) == ("PT", own)
    ]
    everywhere = {
        name: [value for other in series for value in other.values(name)] for name in SERIES_COLUMNS
    }
    try:
        if stack.modality == "PT" and any(
            has_modality_lut(ConversionFacts(*facts)) for facts in _facts_of(stack)
        ):
            attribute = "ModalityLUTSequence (0028,3000)"
            raise SUVError(
                f"{attribute} makes the modality values: no activity that SUV could be computed from",
                attribute=attribute,
            )
        return suv_factor(
            {name: stack.values(name) for name in SUV_COLUMNS}, suv.kind, series=everywhere
        )
    except SUVError as error:
        error.add_note(f"series: {stack.series_instance_uid}")
        raise


def quantity_units(stack: Stack, quantity: Quantity, place: int | None = None) -> str:
    """Units of a stack's values.

    Of modality values as `intensity.units_of` says, "GML" or "CM2ML" of SUV, those of the
    real-world map.

    Of slice `place`, by default the middle one, which stands for all.
    """
    if isinstance(quantity, SUV):
        return quantity.units
    frame = stack.middle if place is None else stack.frame(place)
    if isinstance(quantity, RealWorld):
        return select_real_world_map(
            real_world_maps(frame.file, frame.frame_number), quantity.which
        ).units
    return units_of(frame)


def is_colour(stack: Stack) -> bool:
    """Whether the frames of a stack are read as colour."""
    return _is_colour(stack.source(0), expands_palette=_expands_palette(stack))


def _expands_palette(stack: Stack) -> bool:
    """Whether PALETTE COLOR becomes RGB.

    To label maps a palette only suggests colours for display.
    """
    return stack.content == "image"


def _is_colour(source: FrameSource, *, expands_palette: bool) -> bool:
    has_palette = source.photometric_interpretation == "PALETTE COLOR"
    return source.samples_per_pixel > 1 or (expands_palette and has_palette)

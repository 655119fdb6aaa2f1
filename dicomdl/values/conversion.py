"""Conversions: stored values of a slice to modality, Philips', SUV or real-world values.

Each slice has its own rescale, table, map or SUV factor, and its own padding, from its own header.
Slices whose facts are all equal share one `Conversion`.
"""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from dicomdl.arrays import Mask, Values
from dicomdl.errors import IntensityError, SUVError
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import FrameSource
from dicomdl.headers.uids import content_of
from dicomdl.index.views import Stack
from dicomdl.pixels.stored import add_frame_note
from dicomdl.storage.memory import remembered
from dicomdl.values._lookup import LookupTable, RealWorldMap, RealWorldMaps
from dicomdl.values._lookup_reading import modality_lut, real_world_maps, select_real_world_map
from dicomdl.values._philips import PHILIPS_COLUMNS, philips_rescale
from dicomdl.values._suv_header import FRAME_TIME, SERIES_COLUMNS, SUV_COLUMNS
from dicomdl.values.auto import units_of
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.rescale import Rescale, has_modality_lut
from dicomdl.values.suv import SUV, suv_factor

# Two integers, or two floats of float pixels.
Padding: TypeAlias = tuple[Any, Any]


class ConversionFacts(NamedTuple):
    """The facts of a `Frame` that the index holds and a conversion needs."""

    rescale_slope: float | None
    rescale_intercept: float | None
    dose_grid_scaling: float | None
    modality_lut_sequence: bool
    pixel_padding_value: int | None
    pixel_padding_range_limit: int | None
    float_pixel_padding_value: float | None
    float_pixel_padding_range_limit: float | None
    double_float_pixel_padding_value: float | None
    double_float_pixel_padding_range_limit: float | None
    photometric_interpretation: str
    sop_class_uid: str

    @property
    def padding(self) -> Padding | None:
        """The lowest and the highest stored value that mean padding, both included, or None."""
        if self.photometric_interpretation not in _GREY:
            return None
        for value, limit in (
            (self.pixel_padding_value, self.pixel_padding_range_limit),
            (self.float_pixel_padding_value, self.float_pixel_padding_range_limit),
            (self.double_float_pixel_padding_value, self.double_float_pixel_padding_range_limit),
        ):
            if value is not None:
                other = value if limit is None else limit
                return min(value, other), max(value, other)
        return None


CONVERSION_COLUMNS: Final = ConversionFacts._fields
_IDENTITY: Final = Rescale()
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True, slots=True)
class Conversion:
    """The map from the stored values of one frame to its values.

    Attributes
    ----------
    rescale
        Applied when there is no table.
    table
        A Modality LUT or a real-world map.
    padding
        The lowest and the highest stored value that mean padding, both included (PS3.3
        C.7.5.1.1.2; C.7.6.24 and C.7.6.25 for float pixels), or None.
    expands_palette
        Whether PALETTE COLOR becomes RGB.
    """

    rescale: Rescale = _IDENTITY
    table: LookupTable | RealWorldMap | RealWorldMaps | None = None
    padding: Padding | None = None
    expands_palette: bool = True

    @property
    def is_integral(self) -> bool:
        """Whether integers stay integers."""
        return (
            self.rescale.is_integral if self.table is None else isinstance(self.table, LookupTable)
        )

    def is_colour(self, source: FrameSource) -> bool:
        """Whether a frame is read as colour: with several samples, or an expanded palette."""
        return _is_colour(source, expands_palette=self.expands_palette)

    def padding_of(self, stored: Values) -> Mask | None:
        """Return the mask of padding, or None when no stored value is padding."""
        if self.padding is None:
            return None
        low, high = self.padding
        mask = stored == low if low == high else (stored >= low) & (stored <= high)
        return mask if mask.any() else None

    def __call__(self, stored: Values, out: Values, stored_range: tuple[int, int] | None) -> None:
        """Fill `out` (int16, int32 or float32) with the values of `stored`.

        Raises
        ------
        DoesNotFit
            A value does not fit `out`.
        """
        if self.table is None:
            self.rescale.fill(stored, out, stored_range)
        elif isinstance(self.table, LookupTable):
            _IDENTITY.fill(self.table(stored), out, (0, self.table.maximum))
        else:
            self.table(stored, out)


def conversions(stack: Stack, quantity: Quantity = "modality") -> list[Conversion]:
    """Return the conversion of each slice, by its own header.

    Raises
    ------
    SUVError
        SUV are requested and the header does not give them.
    IntensityError
        A slice has an unusable rescale, table or map, or not the requested real-world map or
        private scaling; or the slices have several units.
    """
    if quantity in ("modality", "philips") and not stack.is_constant("rescale_type"):
        _require_one_unit(stack)
    columns = (*CONVERSION_COLUMNS, *(PHILIPS_COLUMNS if quantity == "philips" else ()))
    if not isinstance(quantity, RealWorld) and all(map(stack.is_constant, columns)):
        facts = tuple(stack.value(name) for name in CONVERSION_COLUMNS)
        if not has_modality_lut(ConversionFacts(*facts)):
            return [conversion(stack, 0, facts, quantity)] * stack.slices
    result = [
        conversion(stack, number, facts, quantity) for number, facts in enumerate(_facts_of(stack))
    ]
    if isinstance(quantity, RealWorld):
        tables = [each.table for each in result]
        units = {table.units for table in tables if isinstance(table, RealWorldMap | RealWorldMaps)}
        if len(units) > 1:
            message = f"the real-world maps of the slices have {len(units)} units"
            raise IntensityError(f"{message}: ask for one by its units", units=sorted(units))
    return result


def _require_one_unit(stack: Stack) -> None:
    """Refuse a stack whose slices state several units of modality values; blanks state none."""
    units = {units_of(stack.frame(number)) for number in range(stack.slices)} - {""}
    if len(units) > 1:
        raise IntensityError(
            f"the slices of the stack have {len(units)} units ({', '.join(sorted(units))}): "
            "read its frames one by one",
            units=sorted(units),
        )


def conversion(
    stack: Stack, number: int, facts: tuple[Any, ...], quantity: Quantity = "modality"
) -> Conversion:
    """Return the conversion of slice `number`, from the values of its `CONVERSION_COLUMNS`.

    Raises the errors of `conversions`.
    """
    try:
        return _completed(_by_index(facts, _expands_palette(stack)), stack, number, quantity)
    except SUVError:
        raise
    except IntensityError as error:
        add_frame_note(error, stack.source(number))
        raise


def frame_conversion(frame: Frame, quantity: Quantity = "modality") -> Conversion:
    """Return the conversion of a frame by its own facts, without those of its stack.

    SUV need the Series: see `conversion`. Raises its errors.
    """
    facts = tuple(getattr(frame, name) for name in CONVERSION_COLUMNS)
    try:
        made, has_table = _by_index(facts, content_of(frame.sop_class_uid) == "image")
        if quantity == "philips":
            return dataclasses.replace(made, rescale=philips_rescale(frame))
        if isinstance(quantity, RealWorld):
            maps = real_world_maps(frame.file, frame.frame_number)
            return dataclasses.replace(made, table=select_real_world_map(maps, quantity.which))
        return dataclasses.replace(made, table=modality_lut(frame.file)) if has_table else made
    except IntensityError as error:
        add_frame_note(error, frame)
        raise


def _facts_of(stack: Stack) -> Iterator[tuple[Any, ...]]:
    """Return the values of `CONVERSION_COLUMNS` per slice."""
    return zip(*(stack.values(name) for name in CONVERSION_COLUMNS), strict=True)


class _FromIndex(NamedTuple):
    """The part of a conversion that the index gives, and whether a Modality LUT replaces it."""

    conversion: Conversion
    has_table: bool


# Small: a rescale and two numbers per combination of facts.
@functools.lru_cache(maxsize=4096)
def _by_index(facts: tuple[Any, ...], expands_palette: bool) -> _FromIndex:
    """Return the conversion of frames with these values of `CONVERSION_COLUMNS`."""
    named = ConversionFacts(*facts)
    has_table = has_modality_lut(named)
    rescale = _IDENTITY if has_table else Rescale.from_frame(named)
    conversion = Conversion(rescale, None, named.padding, expands_palette)
    return _FromIndex(conversion, has_table)


def _completed(from_index: _FromIndex, stack: Stack, number: int, quantity: Quantity) -> Conversion:
    """Complete the conversion of a slice: tables and maps of its file, SUV factor of its stack."""
    conversion = from_index.conversion
    if quantity == "philips":
        return dataclasses.replace(conversion, rescale=philips_rescale(stack.frame(number)))
    if isinstance(quantity, RealWorld):
        frame = stack.frame(number)
        maps = real_world_maps(frame.file, frame.frame_number)
        return dataclasses.replace(conversion, table=select_real_world_map(maps, quantity.which))
    if isinstance(quantity, SUV):
        factor = suv_factor_of(stack, quantity)
        rescale = Rescale(conversion.rescale.slope * factor, conversion.rescale.intercept * factor)
        return dataclasses.replace(conversion, rescale=rescale)
    if from_index.has_table:
        return dataclasses.replace(conversion, table=modality_lut(stack.source(number).file))
    return conversion


@remembered("SUV factors")
def suv_factor_of(stack: Stack, suv: SUV) -> float:
    """Return the factor from the modality values of a PET stack to SUV (see `suv.suv_factor`).

    The start of the scan is taken from all PET stacks of the Series with the same SOP class. Raises
    the errors of `suv_factor`.
    """
    sop_class = stack.value("sop_class_uid")
    series = [
        other
        for other in stack.series
        if other.number == stack.number
        or (other.modality, other.value("sop_class_uid")) == ("PT", sop_class)
    ]
    series_facts = {
        name: [value for other in series for value in other.values(name)]
        for name in (*SERIES_COLUMNS, FRAME_TIME)
    }
    try:
        if stack.modality == "PT" and any(
            has_modality_lut(ConversionFacts(*facts)) for facts in _facts_of(stack)
        ):
            attribute = "ModalityLUTSequence (0028,3000)"
            raise SUVError(
                f"{attribute} makes the modality values: "
                "no activity that SUV could be computed from",
                attribute=attribute,
            )
        return suv_factor(
            {name: stack.values(name) for name in SUV_COLUMNS}, suv.kind, series=series_facts
        )
    except SUVError as error:
        error.add_note(f"series: {stack.series_instance_uid}")
        raise


def quantity_units(stack: Stack, quantity: Quantity, number: int | None = None) -> str:
    """Return the units of slice `number`, by default the middle one, which represents the stack.

    Modality values have the units of `auto.units_of`, SUV "GML" or "CM2ML", and real-world values
    those of their map. No header states the units of Philips' values: "".
    """
    if quantity == "philips":
        return ""
    if isinstance(quantity, SUV):
        return quantity.units
    frame = stack.middle if number is None else stack.frame(number)
    if isinstance(quantity, RealWorld):
        return select_real_world_map(
            real_world_maps(frame.file, frame.frame_number), quantity.which
        ).units
    return units_of(frame)


def is_colour(stack: Stack) -> bool:
    """Whether the frames of a stack are read as colour."""
    return _is_colour(stack.source(0), expands_palette=_expands_palette(stack))


def _expands_palette(stack: Stack) -> bool:
    """Whether PALETTE COLOR becomes RGB; the palette of a label map is only for display."""
    return stack.content == "image"


def _is_colour(source: FrameSource, *, expands_palette: bool) -> bool:
    has_palette = source.photometric_interpretation == "PALETTE COLOR"
    return source.samples_per_pixel > 1 or (expands_palette and has_palette)

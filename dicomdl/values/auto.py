"""Recipes from options and a frame: "auto" by modality, the file's windows, and units.

A recipe is resolved once per stack, from its middle frame, so that frame, volume and patch of the
stack map a value identically.
"""

import contextlib
import dataclasses
from types import MappingProxyType
from typing import Any, Final, Literal

from dicomdl.errors import IntensityError, UsageError
from dicomdl.geometry.in_plane import PROJECTION
from dicomdl.headers.frame import Frame
from dicomdl.headers.uids import content_of, is_secondary_capture
from dicomdl.pixels.stored import stored_range
from dicomdl.values._lookup_reading import modality_lut
from dicomdl.values.foreground import BODY_HU
from dicomdl.values.intensity import Intensity
from dicomdl.values.normalisation import Chain, Clip, MinMax, ZScore, chained
from dicomdl.values.presets import preset
from dicomdl.values.quantity import Quantity
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.rescale import Rescale, has_modality_lut
from dicomdl.values.suv import SUV
from dicomdl.values.windows import Identity, Limits, Percentile, VoiLut, Window

SUV_UPPER: Final = 20.0  # g/ml
Rule = Literal["ct", "percentile", "pet", "counts", "projection", "picture", "values"]
AUTO_RULES: Final = MappingProxyType[str, Rule](
    {
        "CT": "ct",
        "MR": "percentile",
        "PT": "pet",
        "NM": "counts",
        **dict.fromkeys(sorted(PROJECTION), "projection"),
        **dict.fromkeys(
            ("US", "IVUS", "OT", "SC", "ES", "GM", "SM", "XC", "OP", "OPT", "IVOCT", "DG"),
            "picture",
        ),
        **dict.fromkeys(("SEG", "RTDOSE"), "values"),
    }
)
"""Rule of "auto" per Modality (0008,0060); others are "picture". `by_modality` explains them."""


def by_modality(frame: Frame) -> Intensity:
    """Return the recipe of ``intensity="auto"`` for a stack, from its representative frame.

    =========================  =================================================================
    frame                      modality values -> network values
    =========================  =================================================================
    CT in HU                   [-1024, 3071] onto [0, 1], the full scale (preset ct.full)
    MR                         percentiles 0.5 and 99.5 of the stack onto [0, 1], because MR has
                               no absolute scale
    PT                         SUVbw (`SUV`), [0, 20] g/ml onto [0, 1]; percentiles 0 and 99.9
                               without SUV, under ``suv="if_possible"``
    NM                         percentiles 0 and 100 of the stack onto [0, 1]
    CR DX MG RG RF XA IO PX    the file's window or VOI LUT when it has a usable one, else
                               percentiles 0.5 and 99.5; then 1 - x for MONOCHROME1
    colour of any modality     the range of Bits Stored onto [0, 1], so 8 bits / 255; palettes
                               as well
    US, OT, SC, ES, ...,       up to 8 bits stored: the range of Bits Stored onto [0, 1];
    others, CT not in HU       more bits: the file's window or VOI LUT, else percentiles 0.5 and
                               99.5
    SEG, RTDOSE                unchanged (`Identity`): labels, fractions, doses
    =========================  =================================================================

    The SOP class outranks Modality for segmentations, and for secondary captures of up to 8 bits.
    Only "auto" inverts.

    Parameters
    ----------
    frame
        The representative frame of the stack.

    Returns
    -------
    Intensity
        The recipe. A `Percentile` in it still needs the sample of the stack.
    """
    rule = _rule(frame)
    if rule == "ct":
        return Intensity(preset("ct.full"))
    if rule == "percentile":
        return Intensity(Percentile(0.5, 99.5))
    if rule == "pet":
        return Intensity(Limits(0.0, SUV_UPPER), quantity=SUV())
    if rule == "counts":
        return Intensity(Percentile(0.0, 100.0))
    if rule == "projection":
        return Intensity(
            _own_voi(frame) or Percentile(0.5, 99.5),
            invert=frame.photometric_interpretation == "MONOCHROME1",
        )
    if rule == "values":
        return Intensity(Identity(), units=units_of(frame))
    return Intensity(_stored_limits(frame) or _own_voi(frame) or Percentile(0.5, 99.5))


def _rule(frame: Frame) -> Rule:
    if content_of(frame.sop_class_uid) == "segmentation":
        return "values"
    few_bits = frame.bits_stored is not None and frame.bits_stored <= 8
    if (
        (frame.samples_per_pixel or 1) > 1
        or _has_palette(frame)
        or (few_bits and _is_secondary_capture(frame))
    ):
        return "picture"
    rule = AUTO_RULES.get(frame.modality, "picture")
    return "picture" if rule == "ct" and units_of(frame) != "HU" else rule


def _has_palette(frame: Frame) -> bool:
    return frame.photometric_interpretation == "PALETTE COLOR"


def _is_secondary_capture(frame: Frame) -> bool:
    # By SOP class, because Modality can be wrong: 600 "CT" series of IDC are screenshots.
    return is_secondary_capture(frame.sop_class_uid)


def pet_without_suv() -> Intensity:
    """Return the recipe of "auto" for PET without SUV: percentiles 0 and 99.9 of the stack.

    It applies under ``suv="if_possible"`` when the header does not give SUV.
    """
    return Intensity(Percentile(0.0, 99.9))


def _own_voi(frame: Frame) -> Window | VoiLut | None:
    """Return the file's first usable window, else its first usable VOI LUT, else None.

    Several are alternative views, of which any may be shown (PS3.3 C.11.2.1.1, C.11.2.1.2). An
    unusable one counts as absent: a width of 0, a table that contradicts its descriptor.
    """
    for source in (Window, VoiLut):
        with contextlib.suppress(IntensityError):
            for which in range(source.count(frame)):
                with contextlib.suppress(IntensityError):
                    return source.from_frame(frame, which)
    return None


def _stored_limits(frame: Frame) -> Limits | None:
    """Return the modality values of the range of Bits Stored, for colour and for up to 8 bits."""
    if _has_palette(frame):
        # Palette indices become RGB of 8 bits before the map.
        return Limits(0, 255)
    if frame.float_pixels or not frame.bits_allocated:
        return None
    low, high = stored_range(frame)
    colour = (frame.samples_per_pixel or 1) > 1
    if high - low > 255 and not colour:
        return None
    if colour:
        # No rescale applies to colour (PS3.3 C.11.1).
        return Limits(low, high)
    if has_modality_lut(frame):
        return Limits(0, (1 << modality_lut(frame.file).bits) - 1)
    rescale = Rescale.from_frame(frame)
    ends = [value * rescale.slope + rescale.intercept for value in (low, high)]
    return Limits(min(ends), max(ends))


def resolve(
    option: IntensityOption, frame: Frame | None, quantity: Quantity = "modality"
) -> Intensity:
    """Resolve the option ``intensity=`` to the recipe of a stack.

    Called once per stack, with its middle frame (slice ``n // 2``). Windows may differ from slice
    to slice; the middle frame's applies to all, because frame, volume and patch of a stack must map
    a value identically.

    Parameters
    ----------
    option
        ``"auto"`` (`by_modality`); ``"modality"`` or None (modality values as float32);
        ``"philips"`` (Philips' floating point values, by their private scaling); ``"file"``
        (the file's first window, or its first VOI LUT when it has no window), ``"file:1"`` (its
        second window, ...), ``"voi_lut"``, ``"voi_lut:1"``; the name of a preset; (center, width);
        a Window, Limits, Percentile, ZScore, MinMax, Clip, VoiLut or Intensity; a Fingerprint; an
        SUV (unchanged, or [0, upper] onto [0, 1]) or a RealWorld; any callable; a tuple of maps and
        names, a chain; or any of these as an `IntensityRequest`.
    frame
        The representative frame of the stack; None when no DICOM facts are known.
    quantity
        The values that the recipe is for. Only modality values have the units of the frame.

    Raises
    ------
    UsageError
        An unknown name, a value that is not an option, or an option that needs a frame without one.
    IntensityError
        ``"file"`` or ``"voi_lut"`` for a frame without a usable one; an impossible center or width;
        statistics of colour; a fingerprint of another modality or units.
    """
    request = IntensityRequest.parse(option)
    recipe = _resolved(request, frame)
    units = "" if frame is None or recipe.quantity != "modality" else units_of(frame)
    if frame is not None and _needs_grey(recipe) and _is_colour(frame):
        raise IntensityError(
            "ZScore and MinMax are for grey values, and these are colour: expected 'auto', Clip "
            "or Percentile"
        )
    is_body = units == "HU" and quantity == "modality"
    mapping = _with_threshold(recipe.mapping) if is_body else recipe.mapping
    return recipe if mapping is recipe.mapping else dataclasses.replace(recipe, mapping=mapping)


def _resolved(request: IntensityRequest, frame: Frame | None) -> Intensity:
    """Resolve a request; its masks have no threshold yet."""
    if request.source == "chain":
        return _chain(request, frame)
    if request.given is not None:
        if frame is not None and request.only_for is not None:
            _require_same(request.only_for, request.given, frame)
        if isinstance(request.given.mapping, Clip):
            return dataclasses.replace(request.given, units=_input_units(request.given, frame))
        return request.given
    if request.source == "modality":
        return Intensity(Identity(), units="" if frame is None else units_of(frame))
    if frame is None:
        message = f"values without DICOM facts have no {request} window"
        raise UsageError(f"{message}: name a preset or a (center, width)")
    return by_modality(frame) if request.source == "auto" else Intensity(_of_file(frame, request))


def _chain(request: IntensityRequest, frame: Frame | None) -> Intensity:
    """Return the one recipe of a chain. Its units stay while all of its maps clip."""
    parts = [_resolved(part, frame) for part in request.parts]
    first = parts[0]
    keeps = all(isinstance(part.mapping, Clip | Identity) for part in parts)
    units = first.units if keeps else "1"
    mapping = chained([part.mapping for part in parts])
    return Intensity(mapping, units=units, quantity=first.quantity)


def _input_units(recipe: Intensity, frame: Frame | None) -> str:
    if recipe.quantity == "modality":
        return "" if frame is None else units_of(frame)
    return recipe.quantity.units if isinstance(recipe.quantity, SUV) else ""


def _require_same(only_for: tuple[str, str], recipe: Intensity, frame: Frame) -> None:
    """Refuse a frame of another modality or units than those of a fingerprint."""
    modality, units = only_for
    found = units_of(frame) if recipe.quantity == "modality" else units
    if (frame.modality, found) != only_for:
        raise IntensityError(
            f"the fingerprint is of {modality} in {units or 'no'} units, and the stack is "
            f"{frame.modality} in {found or 'no'} units: expected one of its own kind",
            modality=frame.modality,
            expected=modality,
        )


def _needs_grey(recipe: Intensity) -> bool:
    """Whether a recipe has statistics that colour does not have."""
    parts = recipe.mapping.parts if isinstance(recipe.mapping, Chain) else (recipe.mapping,)
    return any(isinstance(part, ZScore | MinMax) for part in parts)


def _is_colour(frame: Frame) -> bool:
    return (frame.samples_per_pixel or 1) > 1 or _has_palette(frame)


def _with_threshold(mapping: Any) -> Any:
    """Return a map whose mask of the foreground has the threshold of values in HU."""
    if isinstance(mapping, Chain):
        parts = tuple(_with_threshold(part) for part in mapping.parts)
        return mapping if parts == mapping.parts else Chain(parts)
    if isinstance(mapping, ZScore) and mapping.mask is not None and mapping.above is None:
        return ZScore(mapping.mask, BODY_HU)
    return mapping


def _of_file(frame: Frame, request: IntensityRequest) -> Window | VoiLut:
    """Return a window or table of the file.

    "file" prefers the window, because that is the view that people use (PS3.3 C.11.2).
    """
    if request.source == "voi_lut":
        return VoiLut.from_frame(frame, request.which or 0)
    if request.which is None and frame.voi_lut_sequence and not frame.window_center:
        return VoiLut.from_frame(frame)
    return Window.from_frame(frame, request.which or 0)


def units_of(frame: Frame) -> str:
    """Return the units of a frame's modality values, "" when unknown.

    =================  =========================================================================
    frame              units
    =================  =========================================================================
    CT                 "HU" when Rescale Type (0028,1054) is HU or absent, because the CT image
                       module requires it for other units (PS3.3 C.8.2.1). "HU" also for US
                       (unspecified, C.11.1.1.2) where that module demands HU: ORIGINAL, not
                       LOCALIZER. A frame without a rescale has no units, and a secondary capture
                       only when its Rescale Type is HU.
    PT, NM             Units (0054,1001), such as "BQML"
    RTDOSE             Dose Units (3004,0002), such as "GY"
    with Modality LUT  Modality LUT Type, "" for US
    others             Rescale Type, "" for US
    =================  =========================================================================
    """
    if frame.modality == "RTDOSE":
        return frame.dose_units
    if frame.modality in ("PT", "NM") and frame.units:
        return frame.units
    if has_modality_lut(frame):
        kind = modality_lut(frame.file).kind
        return "" if kind == "US" else kind
    kind = frame.rescale_type.strip()
    if frame.modality == "CT" and kind in ("", "US"):
        return "HU" if _is_hounsfield(frame, kind) else ""
    return "" if kind == "US" else kind


def _is_hounsfield(frame: Frame, kind: str) -> bool:
    if _is_secondary_capture(frame) or (
        frame.rescale_slope is None and frame.rescale_intercept is None
    ):
        return False
    # Enhanced CT has a Frame Type per frame (PS3.3 C.8.15.3.10).
    image_type = (frame.frame_type or frame.image_type).split("\\")
    return kind == "" or (image_type[0] == "ORIGINAL" and "LOCALIZER" not in image_type[2:3])

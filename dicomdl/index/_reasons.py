"""The reason of a verdict: one line of phrases, made from the numbers in the detail of a stack."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.geometry.identities import COUNTED, SHARED
from dicomdl.index.overview import IDC_COLUMNS, SHOWN_VALUES


def reason(verdict: str, detail: Mapping[str, Any], slices: int, members: int) -> str:
    """Format the numbers behind a verdict as one line.

    Parameters
    ----------
    verdict, detail
        As for `Stack`.
    slices
        The number of slices of the stack.
    members
        The number of stacks of its group, itself included.
    """
    facts = _Facts(verdict, detail, slices, members)
    phrases = [phrase(facts) for key, phrase in _PHRASES.items() if key in detail]
    others = {
        key: value for key, value in detail.items() if key not in _PHRASES and key not in _NO_PHRASE
    }
    # Keys without a phrase are shown as they are, rather than lost.
    phrases += [f"{key.replace('_', ' ')} {format_value(value)}" for key, value in others.items()]
    return "; ".join(phrase for phrase in phrases if phrase)


@dataclass(frozen=True, slots=True)
class _Facts:
    """Input of the phrases of a reason."""

    verdict: str
    detail: Mapping[str, Any]
    slices: int
    members: int


def _describe_holes(facts: _Facts) -> str:
    detail = facts.detail
    expected = facts.slices - detail.get("repeated_positions", 0) + detail["missing"]
    slices = detail.get("missing_after", [])
    after = f" after slice{'s' if len(slices) > 1 else ''} {format_value(slices)}" if slices else ""
    spacing = format_value(detail.get("spacing"))
    return f"{detail['missing']} of {expected} slices missing{after}; true spacing {spacing} mm"


def _describe_gaps(facts: _Facts) -> str:
    if "missing" in facts.detail:
        # The phrase of the missing slices is more precise.
        return ""
    smallest, median, largest = (
        format_value(facts.detail.get(f"{which}_gap"))
        for which in ("smallest", "median", "largest")
    )
    return f"spacing between {smallest} and {largest} mm, median {median}"


def _describe_error(facts: _Facts) -> str:
    error = facts.detail["position_error"]
    # Two slices always lie on the line through them.
    if facts.verdict not in ("regular", "tilted") or facts.slices <= 2:
        return ""
    return (
        "positions on an even grid"
        if error < 1e-3
        else f"positions within {format_value(error)} mm of an even grid"
    )


def _describe_step(facts: _Facts) -> str:
    step = facts.detail["step"]
    return (
        "one slice, as thick as SliceThickness says"
        if step == "SliceThickness"
        else f"one slice, its thickness {format_value(step)}"
    )


def _describe_group_gaps(facts: _Facts) -> str:
    lacking = facts.detail["missing_in_group"]
    slices = "1 slice" if len(lacking) == 1 else f"{len(lacking)} slices"
    return (
        f"lacks {slices} that others of its group of {facts.members} stacks have: "
        f"{format_value(lacking)}"
        if lacking
        else ""
    )


def _describe_assumption(facts: _Facts) -> str:
    spacing = format_value(facts.detail["assumed_spacing"])
    source = facts.detail.get("assumed_from", "the header")
    return f"{source} suggests {spacing} mm between frames, which nothing confirms"


def _describe_movement(facts: _Facts) -> str:
    detail = facts.detail
    if not detail["movement_mm"]:
        return ""
    angle = detail.get("rotation_deg")
    turned = f", rotated by {format_value(angle)} degrees" if angle else ""
    distance = format_value(detail["movement_mm"])
    return f"moved by {distance} mm against the first stack of its group{turned}"


def _describe_copies(facts: _Facts) -> str:
    detail = facts.detail
    phrases = [
        f"{detail['repeated_positions']} of {facts.slices} slices at the position of another one"
    ]
    if "pixels" in detail:
        phrases.append(
            "pixels not compared"
            if detail["pixels"] == "unchecked"
            else f"pixels {format_value(detail['pixels'])}"
        )
    if ties := detail.get("told_apart_by"):
        phrases.append(f"{' or '.join(map(str, ties))} would tell them apart, but differently")
    else:
        phrases.append("nothing in the headers tells them apart")
    return "; ".join(phrases)


def _describe_instances(facts: _Facts) -> str:
    # UIDs have up to 64 characters: two identify the position, `detail` holds the others.
    instances = facts.detail["instances"]
    return f"instances {format_value(instances[:2])}{', ...' if len(instances) > 2 else ''}"


def _describe_mixed(facts: _Facts) -> str:
    counts = [
        f"{name} " + ", ".join(f"{value} in {count}" for value, count in values.items())
        for name, values in facts.detail["mixed"].items()
    ]
    return f"slices of several contrasts: {'; '.join(counts)}"


def _describe_values_apart(facts: _Facts) -> str:
    counts = [
        f"{_TITLES[name]} " + ", ".join(f"{value} in {count:,}" for value, count in values.items())
        for name, values in facts.detail["values_apart"].items()
    ]
    return f"slices of its Series are in several stacks by {'; '.join(counts)}"


def _describe_varying(facts: _Facts) -> str:
    # The phrase of contrasts counts the values of those attributes.
    names = [name for name in facts.detail["varies"] if name not in facts.detail.get("mixed", ())]
    return f"{', '.join(names)} not the same in all slices" if names else ""


def _describe_place(facts: _Facts) -> str:
    place, factor = facts.detail["spacing_at"], facts.detail.get("magnification")
    if place == "patient":
        return ""
    if place == "unknown":
        return "Pixel Spacing without a calibration: in the patient or at the detector"
    if place != "detector":
        return f"pixel spacing at different places ({format_value(place)})"
    if factor is None:
        return "pixel spacing at the detector, of unknown magnification"
    times = " to ".join(map(format_value, factor if isinstance(factor, list) else [factor]))
    source = format_value(facts.detail.get("magnification_from", ""))
    return f"pixel spacing at the detector, {times} times that in the patient by {source}"


def _describe_reversed(facts: _Facts) -> str:
    if facts.detail["reversed_rows"] == "all":
        return (
            "GE's epi_pepolar stores its rows in reverse, which orientation and position do not "
            "state; read_volume(..., reversed_rows='turn') turns them"
        )
    return (
        "GE's epi_pepolar may store its rows in reverse, and the header does not tell at which "
        "time points"
    )


def _describe_uids(name: str) -> dict[str, Callable[[_Facts], str]]:
    """Return the phrases of an identifier that differs within a stack or a Series, by their key."""
    values, blank, apart = COUNTED[name]
    title = _TITLES[name]
    return {
        values: lambda facts: (
            f"its slices have {facts.detail[values]:,} {title}s, which tell nothing apart"
        ),
        blank: lambda facts: f"{title} blank in {facts.detail[blank]:,} of {facts.slices:,} slices",
        apart: lambda facts: (
            f"one of {facts.detail[apart]:,} {title}s of its Series that hold grids of their own"
        ),
    }


def _describe_sharing(name: str, key: str) -> Callable[[_Facts], str]:
    """Return the phrase of an identifier that several patients share."""
    return lambda facts: f"{facts.detail[key]:,} patients, by PatientID, share its {_TITLES[name]}"


_TITLES: Final = {
    "patient_id": "PatientID",
    "study_instance_uid": "Study Instance UID",
    "frame_of_reference_uid": "Frame of Reference UID",
    "volume_frame_of_reference_uid": "Volume Frame of Reference UID",
    "series_instance_uid": "Series Instance UID",
    "units": "Units",
    "photometric_interpretation": "Photometric Interpretation",
    "rescale_slope": "Rescale Slope",
    "rescale_type": "Rescale Type",
}


# Phrases of a reason, in their order, by the key of `detail` that calls for them.
_PHRASES: Final[Mapping[str, Callable[[_Facts], str]]] = {
    "why": lambda facts: format_value(facts.detail["why"]),
    "absent_parts": lambda facts: (
        f"{facts.detail['absent_parts']} of {facts.detail['parts']} files of the concatenation are "
        "not in the index"
    ),
    "assumed_spacing": _describe_assumption,
    "missing_in_group": _describe_group_gaps,
    "movement_mm": _describe_movement,
    "reversed_rows": _describe_reversed,
    "repeated_positions": _describe_copies,
    "mixed": _describe_mixed,
    "values_apart": _describe_values_apart,
    "missing": _describe_holes,
    "smallest_gap": _describe_gaps,
    "in_plane_error": lambda facts: (
        "positions leave a straight line by up to "
        f"{format_value(facts.detail['in_plane_error'])} mm"
    ),
    "tilt_deg": lambda facts: f"tilted by {format_value(facts.detail['tilt_deg'])} degrees",
    "position_error": _describe_error,
    "off_axis": lambda facts: (
        f"positions up to {format_value(facts.detail['off_axis'])} mm beside the slice axis"
    ),
    "unconfirmed": lambda facts: (
        "two slices: nothing confirms the spacing" if facts.slices == 2 else ""
    ),
    "varies": _describe_varying,
    "coordinates": lambda facts: (
        f"coordinates {format_value(facts.detail['coordinates'])}, not of the patient"
    ),
    "step": _describe_step,
    "in_plane_spacings": lambda facts: (
        f"frames of different pixel spacings ({facts.detail['in_plane_spacings']} known)"
    ),
    "spacing_at": _describe_place,
    "series_instance_uid": lambda facts: (
        f"Series Instance UID is {format_value(facts.detail['series_instance_uid'])}"
    ),
    "study_instance_uid": lambda facts: (
        f"Study Instance UID is {format_value(facts.detail['study_instance_uid'])}"
    ),
    "slices_apart": lambda facts: (
        f"one of {facts.detail['slices_apart']:,} slices of one orientation in its Series that "
        "make no stack together"
    ),
    "series_apart": lambda facts: (
        f"one of {facts.detail['series_apart']:,} slices of one orientation and Series Number in "
        "its Study that have a Series Instance UID each"
    ),
    "unassigned": lambda facts: (
        f"{_TITLES[facts.detail['unassigned']]} is blank, and the positions fit none or several of "
        "the others in its Series"
    ),
    **{key: phrase for name in COUNTED for key, phrase in _describe_uids(name).items()},
    **{key: _describe_sharing(name, key) for name, key in SHARED.items()},
    "one_grid": lambda _: "all of them together make one even grid",
    "instances": _describe_instances,
}
# Keys of `detail` that other phrases include, or that have columns of their own.
_NO_PHRASE: Final = frozenset(
    {
        "spacing",
        "median_gap",
        "largest_gap",
        "missing_after",
        "rotation_deg",
        "frames_at_one_position",
        "parts",
        "assumed_from",
        "pixels",
        "told_apart_by",
        "magnification",
        "magnification_from",
        *IDC_COLUMNS,
    }
)


def format_value(value: Any) -> str:
    """Format a value of `detail` for a sentence: floats to 4 digits, long lists shortened."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        more = f", ... ({len(value)} in all)" if len(value) > SHOWN_VALUES else ""
        return ", ".join(map(format_value, value[:SHOWN_VALUES])) + more
    return "none" if value is None else str(value)

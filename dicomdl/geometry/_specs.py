"""Table of the attributes that may distinguish frames at one position.

A vendor's private copy of a public attribute is listed under the public name.
"""

from dataclasses import dataclass
from typing import Any, Final

from dicomdl.geometry._dimensions import Kind, Tier


@dataclass(frozen=True, slots=True)
class Spec:
    """One attribute of a dimension: its name, its columns, and what its order may prove.

    Attributes
    ----------
    ordered
        False: the values follow one another in the order of their acquisition.
    natural
        Text is ordered by the numbers in it: "b500" before "b1000".
    noisy
        Values are compared to five digits, because scanners compute them anew for each slice.
    """

    name: str
    columns: tuple[str, ...]
    kind: Kind = "value"
    tier: Tier = Tier.MEANING
    slow: bool = False
    ordered: bool = True
    natural: bool = False
    noisy: bool = False


def _same(*names: str, **more: Any) -> list[Spec]:
    """Return specs of attributes with one column each."""
    return [Spec(name, (name,), **more) for name in names]


# The order is the preference among attributes that make the same volumes, and the order in which
# the attributes of a combination vary, slowest first.
SPECS: Final[tuple[Spec, ...]] = (
    *_same(
        "temporal_position_index",
        "temporal_position_identifier",
        "temporal_position_time_offset",
        "frame_reference_time",
        slow=True,
    ),
    *_same(
        "time_slot_vector", "time_slice_vector", "rr_interval_vector", "phase_vector", slow=True
    ),
    *_same("philips_phase_number", slow=True),
    *_same(
        "nominal_percentage_of_cardiac_phase",
        "nominal_cardiac_trigger_delay_time",
        kind="phase",
        slow=True,
    ),
    *_same("actual_cardiac_trigger_delay_time", "trigger_time", kind="phase", slow=True),
    *_same(
        "nominal_percentage_of_respiratory_phase",
        "nominal_respiratory_trigger_delay_time",
        kind="phase",
        slow=True,
    ),
    Spec(
        "diffusion_b_value",
        ("diffusion_b_value", "siemens_b_value", "ge_b_value", "philips_b_value", "uih_b_value"),
    ),
    Spec(
        "diffusion_gradient_orientation",
        (
            *(
                "diffusion_gradient_orientation",
                "siemens_diffusion_direction",
                "uih_diffusion_direction",
            ),
            *(
                f"{vendor}_diffusion_direction_{axis}"
                for vendor in ("ge", "philips")
                for axis in "xyz"
            ),
        ),
        ordered=False,
    ),
    *_same(
        "philips_b_value_number",
        "philips_gradient_direction_number",
        "velocity_encoding_maximum_value",
    ),
    *_same("velocity_encoding_direction", ordered=False),
    *_same("echo_time", "effective_echo_time", noisy=True),
    *_same("echo_numbers", "inversion_times"),
    *_same("inversion_time", "flip_angle", noisy=True),
    *_same("repetition_time", ordered=False, noisy=True),
    *_same(
        "complex_image_component",
        "ge_raw_data_type",
        "philips_label_type",
        "image_type",
        "frame_type",
    ),
    *_same("siemens_coil", "sequence_name", natural=True),
    *_same("scanning_sequence", "contrast_bolus_agent"),
    *_same("energy_window_vector", "detector_vector", "rotation_vector"),
    *_same("kvp", "monoenergetic_energy_equivalent", "slice_thickness", noisy=True),
    *_same("convolution_kernel", "reconstruction_algorithm", "counts_source", "corrected_image"),
    *_same("reconstruction_diameter", ordered=False, noisy=True),
    *_same("rescale_type"),
    *_same("acquisition_number", "frame_acquisition_number", tier=Tier.BOOKKEEPING, slow=True),
    *_same("stack_id", tier=Tier.BOOKKEEPING, natural=True),
    *_same("protocol_name", "series_description", tier=Tier.BOOKKEEPING, natural=True),
    *_same("rescale_slope", "rescale_intercept", tier=Tier.BOOKKEEPING, ordered=False),
    # A date-time, then the date, then the time.
    Spec(
        "acquisition_time",
        ("acquisition_date_time", "acquisition_date", "acquisition_time"),
        "time",
        Tier.ACQUISITION_TIME,
        slow=True,
    ),
    Spec(
        "frame_acquisition_time",
        ("frame_acquisition_date_time",),
        "time",
        Tier.ACQUISITION_TIME,
        slow=True,
    ),
    Spec(
        "frame_reference_date_time",
        ("frame_reference_date_time",),
        "time",
        Tier.ACQUISITION_TIME,
        slow=True,
    ),
    Spec("content_time", ("content_date", "content_time"), "time", Tier.CONTENT_TIME, slow=True),
    *_same("image_index", "instance_number", kind="count", tier=Tier.NUMBER, slow=True),
    *_same("lossy_image_compression", tier=Tier.NUMBER),
)
# Columns of lists of any length. Arrow does not order lists, so they are compared as tuples.
LISTS: Final = frozenset({"ge_b_value", "echo_numbers", "inversion_times"})
VECTORS: Final = frozenset(
    {
        "diffusion_gradient_orientation",
        "siemens_diffusion_direction",
        "uih_diffusion_direction",
        "velocity_encoding_direction",
    }
)

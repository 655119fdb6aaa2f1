"""The JSON beside a converted image: facts of its header in the keys and units of BIDS.

Names, dates and times of patients are not in it. What is not of BIDS lies under the key "dicomdl".
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from dicomdl.index.views import Stack
from dicomdl.version import __version__
from dicomdl.volumes.volume import Volume

# {key of BIDS: (column, factor)}; milliseconds become seconds, Gauss do not occur.
_NUMBERS: Final[Mapping[str, tuple[str, float]]] = {
    "SeriesNumber": ("series_number", 1),
    "AcquisitionNumber": ("acquisition_number", 1),
    "MagneticFieldStrength": ("magnetic_field_strength", 1),
    "RepetitionTime": ("repetition_time", 1e-3),
    "EchoTime": ("echo_time", 1e-3),
    "InversionTime": ("inversion_time", 1e-3),
    "FlipAngle": ("flip_angle", 1),
    "SliceThickness": ("slice_thickness", 1),
    "SpacingBetweenSlices": ("spacing_between_slices", 1),
    "KVP": ("kvp", 1),
}
_TEXTS: Final[Mapping[str, str]] = {
    "Modality": "modality",
    "Manufacturer": "manufacturer",
    "ManufacturersModelName": "manufacturer_model_name",
    "BodyPartExamined": "body_part_examined",
    "PatientPosition": "patient_position",
    "SeriesDescription": "series_description",
    "ProtocolName": "protocol_name",
    "ScanningSequence": "scanning_sequence",
    "SequenceName": "sequence_name",
    "MRAcquisitionType": "mr_acquisition_type",
    "ConvolutionKernel": "convolution_kernel",
}


def sidecar(volume: Volume, stacks: tuple[int, ...], made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the JSON of an image.

    Parameters
    ----------
    volume
        The image as it was saved.
    stacks
        The numbers of its stacks in the index.
    made
        What the conversion adds under "dicomdl": files, options, labels.
    """
    stack = volume.stack
    assert stack is not None
    facts = _facts(stack)
    # A volume of a group has one value per time point; BIDS states the step of time.
    if volume.dimension and not math.isnan(volume.time_step_s):
        facts["RepetitionTime"] = volume.time_step_s
    own = {
        "series_instance_uid": stack.series_instance_uid,
        "stacks": list(stacks),
        "verdict": stack.verdict,
        "detail": stack.detail,
        "units": volume.units,
        "shape": list(volume.array.shape),
        "affine_lps_mm": volume.affine.tolist(),
        "dimension_names": list(volume.dimension_names),
        "dimension": list(volume.dimension),
        "filled_slices": [int(n) for n in volume.filled.nonzero()[0]]
        if volume.filled is not None
        else [],
        **made,
    }
    software = {"ConversionSoftware": "dicomdl", "ConversionSoftwareVersion": __version__}
    return dict(_known({**facts, **software, "dicomdl": own}))


def _facts(stack: Stack) -> dict[str, Any]:
    """Return what the header of the first slice says, without what it leaves out."""
    value: Callable[[str], Any] = stack.value
    facts: dict[str, Any] = {key: text for key, name in _TEXTS.items() if (text := value(name))}
    if image_type := value("image_type"):
        facts["ImageType"] = str(image_type).split("\\")
    for key, (name, factor) in _NUMBERS.items():
        number = value(name)
        if number is None and key == "EchoTime":
            number = value("effective_echo_time")
        if number is not None and math.isfinite(number):
            # The decimal that the header states: 0.0049 s and not 0.004900000000000001.
            facts[key] = round(number * factor, 12) if factor != 1 else number
    orientation = value("image_orientation_patient")
    if orientation is not None and all(map(math.isfinite, orientation)):
        facts["ImageOrientationPatientDICOM"] = list(orientation)
    return facts


def _known(value: Any) -> Any:
    """Return a value of JSON, with null in place of what is no finite number."""
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_known(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

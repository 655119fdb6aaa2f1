"""`Frame`, whose fields are the columns of the table `frames` and all that an index stores.

Every field declares its DICOM tag, its value representation, its purpose and, for enhanced
multi-frame objects, its functional group. The table `frames` has these columns and those that
`scan(attributes=...)` adds. It is an allow-list: other attributes are never stored. Absent text is
"", absent numbers are None.

The tags, VRs and functional group macros are those of PS3.6 and PS3.3 C.7.6.16. Private attributes
name their creator.
"""

import dataclasses
import functools
import os
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.headers._listed import Listed
from dicomdl.headers.attribute import TEXT_VRS, Attribute, Need
from dicomdl.headers.frame_source import SOURCE_FIELDS, FrameSource
from dicomdl.printing import printable
from dicomdl.storage.sources import UNKNOWN, Source

# Functional group macros (PS3.3 C.7.6.16.2 and the modality-specific ones of C.8).
PIXEL_MEASURES: Final = 0x00289110
PLANE_POSITION: Final = 0x00209113
PLANE_ORIENTATION: Final = 0x00209116
# Enhanced ultrasound (PS3.3 C.8.24.6.1, C.8.24.6.2).
PLANE_POSITION_VOLUME: Final = 0x0020930E
PLANE_ORIENTATION_VOLUME: Final = 0x0020930F
FRAME_CONTENT: Final = 0x00209111
TEMPORAL_POSITION: Final = 0x00209310
FRAME_VOI_LUT: Final = 0x00289132
FRAME_ANATOMY: Final = 0x00209071
PIXEL_VALUE_TRANSFORMATION: Final = 0x00289145
CARDIAC: Final = 0x00189118
RESPIRATORY: Final = 0x00209253
MR_ECHO: Final = 0x00189114
MR_MODIFIER: Final = 0x00189115
MR_TIMING: Final = 0x00189112
MR_DIFFUSION: Final = 0x00189117
# Nested in MR_DIFFUSION.
DIFFUSION_DIRECTION: Final = 0x00189076
MR_VELOCITY_ENCODING: Final = 0x00189197
CT_RECONSTRUCTION: Final = 0x00189314
CT_XRAY_DETAILS: Final = 0x00189325
# Enhanced XA and XRF (PS3.3 C.8.19.6).
FRAME_PIXEL_DATA_PROPERTIES: Final = 0x00289443
PROJECTION_PIXEL_CALIBRATION: Final = 0x00189401
XRAY_GEOMETRY: Final = 0x00189476
# A functional group, and a sequence of the classic CT image.
MULTI_ENERGY_CT: Final = 0x00189364
SEGMENT_IDENTIFICATION: Final = 0x0062000A
# MR, CT, PET and X-Ray 3D image frame type.
FRAME_TYPES: Final = (
    0x00189226,
    0x00189329,
    0x00189751,
    0x00189504,
)
RADIOPHARMACEUTICAL: Final = 0x00540016
ULTRASOUND_REGIONS: Final = 0x00186011


def _fact(tag: int, vr: str, need: Need, size: int = 1, **more: Any) -> Any:
    """Declare a field of `Frame` whose value is a fact of the header."""
    is_flag = vr == "SQ" and not more.get("counts")
    default: Any = "" if vr in TEXT_VRS else False if is_flag else None
    return dataclasses.field(default=default, metadata={"attribute": (tag, vr, need, size, more)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(metaclass=Listed):
    """The facts of one frame: a row of the table `frames`, frozen.

    The fields from `transfer_syntax_uid` on are named after DICOM keywords (`pixel_spacing` for
    PixelSpacing) and have the units of DICOM (mm, ms, degrees, kV, s, Bq). Positions are in the
    patient coordinate system (LPS, mm). Absent text is "", absent numbers are None.

    Attributes
    ----------
    path : str
        The file.
    frame_number : int
        The number of the frame in the file, from 1.
    byte_offset, byte_length, bit_offset : int
        The byte range of the frame in the file; see `source`.
    deflated : bool
        Whether the byte range counts in the inflated data set.
    float_pixels : bool
        Whether the pixels are Float or Double Float Pixel Data (PS3.3 C.7.6.24, C.7.6.25).
    flags : str
        What is odd about the file, in words with spaces between; "" for most files.
    file_bytes, file_mtime_ns, file_ctime_ns, file_inode, file_etag : int or str
        The state of the file during the scan: bytes, times in ns, inode; the ETag of an object.
    coded_rows, coded_columns : int
        The size of the mosaic that contains the frame as a tile; 0 for a frame that is no tile.
    tile_top, tile_left : int
        The first row and column of the tile in the mosaic.
    position_in_stack : int
        The slice index in the stack of the frame; -1 for a frame without a stack.
    duplicate_of : int
        The row of the frame of which this is an equal copy; -1 for other frames.
    pixel_hash : str
        The XXH3 hash of the stored values, 32 hexadecimal digits, of an index of
        ``scan(..., pixel_hash=True)``. It is "" for images of one value, segmentations, and frames
        that cannot be decoded.
    extra : tuple of (str, object)
        The columns that `scan(attributes=...)` added, by name.
    """

    # Byte range and file, from the walk of the file.
    path: str
    frame_number: int
    byte_offset: int
    byte_length: int
    bit_offset: int = 0
    deflated: bool = False
    float_pixels: bool = False
    flags: str = ""
    file_bytes: int
    file_mtime_ns: int
    file_ctime_ns: int = UNKNOWN
    file_inode: int = 0
    file_etag: str = ""
    coded_rows: int = 0
    coded_columns: int = 0
    tile_top: int = 0
    tile_left: int = 0
    position_in_stack: int = -1
    duplicate_of: int = -1
    pixel_hash: str = ""

    # Identity.
    transfer_syntax_uid: str = _fact(0x00020010, "UI", "identity")
    sop_class_uid: str = _fact(0x00080016, "UI", "identity")
    sop_instance_uid: str = _fact(0x00080018, "UI", "identity")
    patient_id: str = _fact(0x00100020, "LO", "identity")
    study_instance_uid: str = _fact(0x0020000D, "UI", "identity")
    series_instance_uid: str = _fact(0x0020000E, "UI", "identity")
    frame_of_reference_uid: str = _fact(0x00200052, "UI", "identity")
    # Enhanced ultrasound: a frame of reference bound to the transducer.
    volume_frame_of_reference_uid: str = _fact(0x00209312, "UI", "identity")

    # Parts of an instance that was divided into several files (PS3.3 C.7.6.16.2.2.4).
    concatenation_uid: str = _fact(0x00209161, "UI", "identity")
    in_concatenation_number: int | None = _fact(0x00209162, "US", "identity")
    in_concatenation_total_number: int | None = _fact(0x00209163, "US", "identity")

    # Attributes for selection.
    modality: str = _fact(0x00080060, "CS", "select")
    series_number: int | None = _fact(0x00200011, "IS", "select")
    instance_number: int | None = _fact(0x00200013, "IS", "select")
    image_type: str = _fact(0x00080008, "CS", "split", 0)
    study_date: str = _fact(0x00080020, "DA", "select")
    study_description: str = _fact(0x00081030, "LO", "select")
    series_description: str = _fact(0x0008103E, "LO", "select")
    protocol_name: str = _fact(0x00181030, "LO", "select")
    manufacturer: str = _fact(0x00080070, "LO", "select")
    manufacturer_model_name: str = _fact(0x00081090, "LO", "select")
    body_part_examined: str = _fact(0x00180015, "CS", "select")
    laterality: str = _fact(0x00200060, "CS", "select")
    # Frame Laterality of enhanced objects, such as tomosyntheses of the breast.
    image_laterality: str = _fact(
        0x00200062, "CS", "select", groups=(FRAME_ANATOMY,), group_tag=0x00209072
    )
    # Of a breast also by View Code Sequence (see `_breast`).
    view_position: str = _fact(0x00185101, "CS", "select")
    patient_position: str = _fact(0x00185100, "CS", "select")
    presentation_intent_type: str = _fact(0x00080068, "CS", "select")
    patient_sex: str = _fact(0x00100040, "CS", "suv")
    patient_age: str = _fact(0x00101010, "AS", "select")
    burned_in_annotation: str = _fact(0x00280301, "CS", "select")
    lossy_image_compression: str = _fact(0x00282110, "CS", "select")
    magnetic_field_strength: float | None = _fact(0x00180087, "DS", "select")
    mr_acquisition_type: str = _fact(0x00180023, "CS", "select")
    scanning_sequence: str = _fact(0x00180020, "CS", "select", 0)
    in_plane_phase_encoding_direction: str = _fact(0x00181312, "CS", "select")
    segmentation_type: str = _fact(0x00620001, "CS", "select")

    # Coding of the samples.
    rows: int = _fact(0x00280010, "US", "pixels", required=True)
    columns: int = _fact(0x00280011, "US", "pixels", required=True)
    samples_per_pixel: int = _fact(0x00280002, "US", "pixels", required=True)
    photometric_interpretation: str = _fact(0x00280004, "CS", "pixels")
    planar_configuration: int = _fact(0x00280006, "US", "pixels")
    bits_allocated: int = _fact(0x00280100, "US", "pixels", required=True)
    bits_stored: int = _fact(0x00280101, "US", "pixels")
    high_bit: int = _fact(0x00280102, "US", "pixels")
    pixel_representation: int = _fact(0x00280103, "US", "pixels")
    number_of_frames: int = _fact(0x00280008, "IS", "pixels", required=True)

    # The grid.
    image_position_patient: tuple[float, ...] | None = _fact(
        0x00200032, "DS", "grid", 3, groups=(PLANE_POSITION,)
    )
    image_orientation_patient: tuple[float, ...] | None = _fact(
        0x00200037, "DS", "grid", 6, groups=(PLANE_ORIENTATION,)
    )
    image_position_volume: tuple[float, ...] | None = _fact(
        0x00209301, "FD", "grid", 3, groups=(PLANE_POSITION_VOLUME,)
    )
    image_orientation_volume: tuple[float, ...] | None = _fact(
        0x00209302, "FD", "grid", 6, groups=(PLANE_ORIENTATION_VOLUME,)
    )
    pixel_spacing: tuple[float, ...] | None = _fact(
        0x00280030, "DS", "grid", 2, groups=(PIXEL_MEASURES,)
    )
    pixel_spacing_calibration_type: str = _fact(0x00280A02, "CS", "grid")
    imager_pixel_spacing: tuple[float, ...] | None = _fact(
        0x00181164, "DS", "grid", 2, groups=(FRAME_PIXEL_DATA_PROPERTIES,)
    )
    # Of a scanned film.
    nominal_scanned_pixel_spacing: tuple[float, ...] | None = _fact(0x00182010, "DS", "grid", 2)
    object_pixel_spacing_in_center_of_beam: tuple[float, ...] | None = _fact(
        0x00189404, "FL", "grid", 2, groups=(PROJECTION_PIXEL_CALIBRATION,)
    )
    estimated_radiographic_magnification_factor: float | None = _fact(0x00181114, "DS", "grid")
    distance_source_to_detector: float | None = _fact(
        0x00181110, "DS", "grid", groups=(XRAY_GEOMETRY,)
    )
    distance_source_to_patient: float | None = _fact(0x00181111, "DS", "grid")
    distance_source_to_isocenter: float | None = _fact(
        0x00189402, "FL", "grid", groups=(XRAY_GEOMETRY,)
    )
    # Of ultrasound (PS3.3 C.8.5.5): what all regions of an image have in common.
    ultrasound_regions: int | None = _fact(
        ULTRASOUND_REGIONS, "SQ", "grid", inside=ULTRASOUND_REGIONS, counts=True
    )
    region_spatial_format: int | None = _fact(0x00186012, "US", "grid", inside=ULTRASOUND_REGIONS)
    physical_units_x_direction: int | None = _fact(
        0x00186024, "US", "grid", inside=ULTRASOUND_REGIONS
    )
    physical_units_y_direction: int | None = _fact(
        0x00186026, "US", "grid", inside=ULTRASOUND_REGIONS
    )
    physical_delta_x: float | None = _fact(0x0018602C, "FD", "grid", inside=ULTRASOUND_REGIONS)
    physical_delta_y: float | None = _fact(0x0018602E, "FD", "grid", inside=ULTRASOUND_REGIONS)
    slice_thickness: float | None = _fact(0x00180050, "DS", "split", groups=(PIXEL_MEASURES,))
    spacing_between_slices: float | None = _fact(0x00180088, "DS", "grid", groups=(PIXEL_MEASURES,))
    slice_location: float | None = _fact(0x00201041, "DS", "grid")
    gantry_detector_tilt: float | None = _fact(0x00181120, "DS", "grid")
    # RTDOSE (PS3.3 C.8.8.3.2).
    grid_frame_offset: float | None = _fact(0x3004000C, "DS", "grid", 0, per_frame=True)

    # Conversion of stored to modality and windowed values.
    rescale_slope: float | None = _fact(
        0x00281053, "DS", "intensity", groups=(PIXEL_VALUE_TRANSFORMATION,), required=True
    )
    rescale_intercept: float | None = _fact(
        0x00281052, "DS", "intensity", groups=(PIXEL_VALUE_TRANSFORMATION,), required=True
    )
    rescale_type: str = _fact(0x00281054, "LO", "intensity", groups=(PIXEL_VALUE_TRANSFORMATION,))
    modality_lut_sequence: bool = _fact(0x00283000, "SQ", "intensity")
    window_center: tuple[float, ...] | None = _fact(
        0x00281050, "DS", "intensity", 0, groups=(FRAME_VOI_LUT,)
    )
    window_width: tuple[float, ...] | None = _fact(
        0x00281051, "DS", "intensity", 0, groups=(FRAME_VOI_LUT,)
    )
    voi_lut_function: str = _fact(0x00281056, "CS", "intensity", groups=(FRAME_VOI_LUT,))
    voi_lut_sequence: bool = _fact(0x00283010, "SQ", "intensity", groups=(FRAME_VOI_LUT,))
    presentation_lut_shape: str = _fact(0x20500020, "CS", "intensity")
    pixel_padding_value: int | None = _fact(0x00280120, "XS", "intensity")
    pixel_padding_range_limit: int | None = _fact(0x00280121, "XS", "intensity")
    # Of float pixels (PS3.3 C.7.6.24, C.7.6.25).
    float_pixel_padding_value: float | None = _fact(0x00280122, "FL", "intensity")
    float_pixel_padding_range_limit: float | None = _fact(0x00280124, "FL", "intensity")
    double_float_pixel_padding_value: float | None = _fact(0x00280123, "FD", "intensity")
    double_float_pixel_padding_range_limit: float | None = _fact(0x00280125, "FD", "intensity")
    philips_scale_slope: float | None = _fact(
        0x2005000E, "FL", "intensity", creator="Philips MR Imaging DD 001"
    )
    philips_scale_intercept: float | None = _fact(
        0x2005000D, "FL", "intensity", creator="Philips MR Imaging DD 001"
    )
    dose_grid_scaling: float | None = _fact(0x3004000E, "DS", "intensity", required=True)
    dose_units: str = _fact(0x30040002, "CS", "intensity")

    # Attributes that may distinguish frames at one position.
    acquisition_number: int | None = _fact(0x00200012, "IS", "split")
    acquisition_date: str = _fact(0x00080022, "DA", "split")
    acquisition_time: str = _fact(0x00080032, "TM", "split")
    acquisition_date_time: str = _fact(0x0008002A, "DT", "split")
    content_date: str = _fact(0x00080023, "DA", "split")
    content_time: str = _fact(0x00080033, "TM", "split")
    temporal_position_identifier: int | None = _fact(0x00200100, "IS", "split")
    temporal_resolution: float | None = _fact(0x00200110, "DS", "select")
    temporal_position_index: int | None = _fact(0x00209128, "UL", "split", groups=(FRAME_CONTENT,))
    temporal_position_time_offset: float | None = _fact(
        0x0020930D, "FD", "split", groups=(TEMPORAL_POSITION,)
    )
    frame_acquisition_date_time: str = _fact(0x00189074, "DT", "split", groups=(FRAME_CONTENT,))
    frame_reference_date_time: str = _fact(0x00189151, "DT", "split", groups=(FRAME_CONTENT,))
    frame_acquisition_number: int | None = _fact(0x00209156, "US", "split", groups=(FRAME_CONTENT,))
    stack_id: str = _fact(0x00209056, "SH", "split", groups=(FRAME_CONTENT,))
    in_stack_position_number: int | None = _fact(0x00209057, "UL", "split", groups=(FRAME_CONTENT,))
    dimension_index_values: tuple[float, ...] | None = _fact(
        0x00209157, "UL", "split", 0, groups=(FRAME_CONTENT,)
    )
    frame_type: str = _fact(0x00089007, "CS", "split", 0, groups=FRAME_TYPES)
    complex_image_component: str = _fact(0x00089208, "CS", "split", groups=FRAME_TYPES)
    trigger_time: float | None = _fact(0x00181060, "DS", "split")
    nominal_cardiac_trigger_delay_time: float | None = _fact(
        0x00209153, "FD", "split", groups=(CARDIAC,)
    )
    actual_cardiac_trigger_delay_time: float | None = _fact(
        0x00209252, "FD", "split", groups=(CARDIAC,)
    )
    nominal_percentage_of_cardiac_phase: float | None = _fact(
        0x00209241, "FL", "split", groups=(CARDIAC,)
    )
    nominal_percentage_of_respiratory_phase: float | None = _fact(
        0x00209245, "FL", "split", groups=(RESPIRATORY,)
    )
    nominal_respiratory_trigger_delay_time: float | None = _fact(
        0x00209255, "FD", "split", groups=(RESPIRATORY,)
    )
    echo_time: float | None = _fact(0x00180081, "DS", "split")
    effective_echo_time: float | None = _fact(0x00189082, "FD", "split", groups=(MR_ECHO,))
    echo_numbers: tuple[float, ...] | None = _fact(0x00180086, "IS", "split", 0)
    repetition_time: float | None = _fact(0x00180080, "DS", "split", groups=(MR_TIMING,))
    inversion_time: float | None = _fact(0x00180082, "DS", "split")
    inversion_times: tuple[float, ...] | None = _fact(
        0x00189079, "FD", "split", 0, groups=(MR_MODIFIER,)
    )
    flip_angle: float | None = _fact(0x00181314, "DS", "split", groups=(MR_TIMING,))
    sequence_name: str = _fact(0x00180024, "SH", "split")
    contrast_bolus_agent: str = _fact(0x00180010, "LO", "split")
    diffusion_b_value: float | None = _fact(0x00189087, "FD", "split", groups=(MR_DIFFUSION,))
    diffusion_gradient_orientation: tuple[float, ...] | None = _fact(
        0x00189089, "FD", "split", 3, groups=(MR_DIFFUSION, DIFFUSION_DIRECTION)
    )
    velocity_encoding_direction: tuple[float, ...] | None = _fact(
        0x00189090, "FD", "split", 3, groups=(MR_VELOCITY_ENCODING,)
    )
    velocity_encoding_maximum_value: float | None = _fact(
        0x00189217, "FD", "split", groups=(MR_VELOCITY_ENCODING,)
    )
    siemens_b_value: int | None = _fact(0x0019000C, "IS", "split", creator="SIEMENS MR HEADER")
    siemens_diffusion_direction: tuple[float, ...] | None = _fact(
        0x0019000E, "FD", "split", 3, creator="SIEMENS MR HEADER"
    )
    siemens_images_in_mosaic: int | None = _fact(
        0x0019000A, "US", "split", creator="SIEMENS MR HEADER"
    )
    # One image per coil, in series without combined images.
    siemens_coil: str = _fact(0x0051000F, "LO", "split", creator="SIEMENS MR HEADER")
    # Magnitude, phase, real, imaginary.
    ge_raw_data_type: int | None = _fact(0x0043002F, "SS", "split", creator="GEMS_PARM_01")
    ge_b_value: tuple[float, ...] | None = _fact(
        0x00430039, "IS", "split", 0, creator="GEMS_PARM_01"
    )
    ge_diffusion_direction_x: float | None = _fact(
        0x001900BB, "DS", "split", creator="GEMS_ACQU_01"
    )
    ge_diffusion_direction_y: float | None = _fact(
        0x001900BC, "DS", "split", creator="GEMS_ACQU_01"
    )
    ge_diffusion_direction_z: float | None = _fact(
        0x001900BD, "DS", "split", creator="GEMS_ACQU_01"
    )
    # The sequence epi_pepolar, and its scheme of reversed volumes.
    ge_pulse_sequence_name: str = _fact(0x0019009C, "LO", "grid", creator="GEMS_ACQU_01")
    ge_user_data_12: float | None = _fact(0x001900B3, "DS", "grid", creator="GEMS_ACQU_01")
    # The cardiac phase, or that of ASL.
    philips_phase_number: int | None = _fact(
        0x20010008, "IS", "split", creator="Philips Imaging DD 001"
    )
    # Seconds from the first volume.
    philips_dynamic_scan_begin_time: float | None = _fact(
        0x200500A0, "FL", "select", creator="Philips MR Imaging DD 001"
    )
    # ASL: label or control.
    philips_label_type: str = _fact(0x20050029, "CS", "split", creator="Philips MR Imaging DD 005")
    philips_gradient_direction_number: int | None = _fact(
        0x20050013, "IS", "split", creator="Philips MR Imaging DD 005"
    )
    philips_b_value_number: int | None = _fact(
        0x20050012, "IS", "split", creator="Philips MR Imaging DD 005"
    )
    philips_b_value: float | None = _fact(
        0x20010003, "FL", "split", creator="Philips Imaging DD 001"
    )
    philips_diffusion_direction_x: float | None = _fact(
        0x200500B0, "FL", "split", creator="Philips MR Imaging DD 001"
    )
    philips_diffusion_direction_y: float | None = _fact(
        0x200500B1, "FL", "split", creator="Philips MR Imaging DD 001"
    )
    philips_diffusion_direction_z: float | None = _fact(
        0x200500B2, "FL", "split", creator="Philips MR Imaging DD 001"
    )
    uih_b_value: float | None = _fact(0x00650009, "FD", "split", creator="Image Private Header")
    uih_diffusion_direction: tuple[float, ...] | None = _fact(
        0x00650037, "FD", "split", 3, creator="Image Private Header"
    )
    convolution_kernel: str = _fact(0x00181210, "SH", "split", 0, groups=(CT_RECONSTRUCTION,))
    kvp: float | None = _fact(0x00180060, "DS", "split", groups=(CT_XRAY_DETAILS,))
    # keV (PS3.3 C.8.15.3.12).
    monoenergetic_energy_equivalent: float | None = _fact(
        0x0018937C, "FD", "split", inside=MULTI_ENERGY_CT, groups=(MULTI_ENERGY_CT,)
    )
    reconstruction_diameter: float | None = _fact(
        0x00181100, "DS", "split", groups=(CT_RECONSTRUCTION,)
    )
    reconstruction_algorithm: str = _fact(0x00189315, "CS", "split", groups=(CT_RECONSTRUCTION,))
    image_index: int | None = _fact(0x00541330, "US", "split")
    # NM (PS3.3 C.8.4.8).
    energy_window_vector: int | None = _fact(0x00540010, "US", "split", 0, per_frame=True)
    detector_vector: int | None = _fact(0x00540020, "US", "split", 0, per_frame=True)
    phase_vector: int | None = _fact(0x00540030, "US", "split", 0, per_frame=True)
    rotation_vector: int | None = _fact(0x00540050, "US", "split", 0, per_frame=True)
    rr_interval_vector: int | None = _fact(0x00540060, "US", "split", 0, per_frame=True)
    time_slot_vector: int | None = _fact(0x00540070, "US", "split", 0, per_frame=True)
    slice_vector: int | None = _fact(0x00540080, "US", "split", 0, per_frame=True)
    time_slice_vector: int | None = _fact(0x00540100, "US", "split", 0, per_frame=True)
    referenced_segment_number: int | None = _fact(
        0x0062000B, "US", "split", groups=(SEGMENT_IDENTIFICATION,)
    )

    # SUV.
    units: str = _fact(0x00541001, "CS", "suv")
    suv_type: str = _fact(0x00541006, "CS", "suv")
    counts_source: str = _fact(0x00541002, "CS", "suv")
    series_type: str = _fact(0x00541000, "CS", "suv", 0)
    corrected_image: str = _fact(0x00280051, "CS", "suv", 0)
    decay_correction: str = _fact(0x00541102, "CS", "suv")
    decay_factor: float | None = _fact(0x00541321, "DS", "suv")
    dose_calibration_factor: float | None = _fact(0x00541322, "DS", "suv")
    frame_reference_time: float | None = _fact(0x00541300, "DS", "suv")
    actual_frame_duration: int | None = _fact(0x00181242, "IS", "suv")
    frame_acquisition_duration: float | None = _fact(
        0x00189220, "FD", "suv", groups=(FRAME_CONTENT,)
    )
    series_date: str = _fact(0x00080021, "DA", "suv")
    series_time: str = _fact(0x00080031, "TM", "suv")
    patient_weight: float | None = _fact(0x00101030, "DS", "suv")
    patient_size: float | None = _fact(0x00101020, "DS", "suv")
    # Different items: any number is allowed (PS3.3 C.8.9.2).
    radiopharmaceuticals: int | None = _fact(
        RADIOPHARMACEUTICAL, "SQ", "suv", inside=RADIOPHARMACEUTICAL, counts=True
    )
    radiopharmaceutical_start_time: str = _fact(0x00181072, "TM", "suv", inside=RADIOPHARMACEUTICAL)
    radiopharmaceutical_start_date_time: str = _fact(
        0x00181078, "DT", "suv", inside=RADIOPHARMACEUTICAL
    )
    radionuclide_total_dose: float | None = _fact(
        0x00181074, "DS", "suv", inside=RADIOPHARMACEUTICAL
    )
    radionuclide_half_life: float | None = _fact(
        0x00181075, "DS", "suv", inside=RADIOPHARMACEUTICAL
    )
    ge_scan_date_time: str = _fact(0x0009000D, "DT", "suv", creator="GEMS_PETD_01")
    philips_suv_factor: float | None = _fact(
        0x70530000, "DS", "suv", creator="Philips PET Private Group"
    )
    philips_activity_factor: float | None = _fact(
        0x70530009, "DS", "suv", creator="Philips PET Private Group"
    )

    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def file(self) -> Source:
        """The file, in the state of the scan."""
        return Source(
            self.path,
            self.file_bytes,
            self.file_mtime_ns,
            self.file_ctime_ns,
            self.file_inode,
            self.file_etag,
        )

    @property
    def source(self) -> FrameSource:
        """The byte range of this frame and the coding of its samples."""
        return FrameSource(*(getattr(self, name) for name in SOURCE_FIELDS))

    def __repr__(self) -> str:
        shown = (
            f"{self.modality or '?'} {self.rows} x {self.columns}",
            f"frame {self.frame_number} of {os.fspath(self.path)!r}",
            f"SOPInstanceUID {self.sop_instance_uid or '(none)'}",
        )
        return printable(f"Frame({', '.join(shown)})")


@functools.cache
def attributes() -> tuple[Attribute, ...]:
    """Return the header attributes of the index, in the order of the fields of `Frame`."""
    result = []
    for field in dataclasses.fields(Frame):
        if "attribute" in field.metadata:
            tag, vr, need, size, more = field.metadata["attribute"]
            result.append(Attribute(field.name, tag, vr, need, size, **more))
    return tuple(result)

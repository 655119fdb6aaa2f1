"""Write the page of the columns from the schemas of the tables: python tests/columns_page.py."""

from pathlib import Path
from typing import Final

from pydicom.datadict import keyword_for_tag

from dicomdl.headers.attribute import Attribute
from dicomdl.headers.frame import attributes

PAGE: Final = Path(__file__).parent.parent / "docs" / "reference" / "columns.md"
HEAD: Final = """# Columns of the index

The names that `Index.select`, `Index.value`, `Stack.value` and `Index.to_pandas` take. A column of
`frames` is also a field of [`Frame`](frame.md). `select` takes DICOM keywords, too:
`select(EchoTime=4.9)`. Further attributes get columns by `scan(attributes=["EchoTrainLength"])`.

Absent text is `""`, absent numbers are None (NaN in pandas). Text of several values keeps the
backslash of DICOM. Identities are those of the file, or of its first item.
"""
STACKS: Final = {
    "frame_start": ("integer", "first row of the stack in `frames`"),
    "slices": ("integer", "number of frames"),
    "series": ("integer", "number of the Series"),
    "content": ("text", "`image`, `segmentation`, `dose` or `parametric_map`"),
    "verdict": (
        "text",
        "`regular`, `tilted`, `single`, `missing_slices`, `uneven_spacing`, "
        "`duplicates` or `no_geometry`",
    ),
    "mixed": ("flag", "slices of several contrasts"),
    "detail": ("text", "JSON: the numbers behind the verdict, mm"),
    "affine": ("16 numbers", "(slice, row, column, 1) to LPS, mm; row by row"),
    "spacing": ("3 numbers", "along slices, rows and columns, mm"),
    "slice_spacing": ("number", "along slices, mm"),
    "dimension": ("text", "JSON: what distinguishes the stack in its group"),
    "group": ("integer", "number of the group"),
    "group_index": ("integer", "position in the group, from 0"),
    "orthogonal_orientation": (
        "flag",
        "IDC: unit vectors at 90 degrees",
    ),
    "unique_slice_positions": ("flag", "IDC: no position twice"),
    "consistent_in_plane_row": ("flag", "IDC: slices lie above one another along the rows, 0.1 mm"),
    "consistent_in_plane_col": ("flag", "IDC: as above, along the columns"),
    "uniform_slice_spacing": ("flag", "IDC: every gap within 1 % of their mean"),
    "regularly_spaced_3d_volume": ("flag", "IDC: all of these"),
    "obliquity_degrees": (
        "number",
        "of the normal to the nearest axis of the patient, degrees",
    ),
    "annotations": ("text", "kinds of the readable annotations of the stack, with spaces between"),
    "folder": ("text", "folder of the files; a condition of `select`, computed on demand"),
}
LOCATION: Final = {
    "path": ("text", "the file"),
    "frame_number": ("integer", "number of the frame in the file, from 1"),
    "byte_offset": ("integer", "first byte of the frame"),
    "byte_length": ("integer", "bytes of the frame"),
    "bit_offset": ("integer", "first bit within that byte"),
    "deflated": ("flag", "the byte range counts in the inflated data set"),
    "float_pixels": ("flag", "Float or Double Float Pixel Data"),
    "flags": ("text", 'what is odd about the file, with spaces between; "" for most files'),
    "coded_rows": ("integer", "rows of the mosaic that holds the frame as a tile, else 0"),
    "coded_columns": ("integer", "columns of that mosaic"),
    "tile_top": ("integer", "first row of the tile"),
    "tile_left": ("integer", "first column of the tile"),
    "position_in_stack": ("integer", "slice number in the stack, -1 without one"),
    "duplicate_of": ("integer", "row of the equal frame that is in the stack instead, else -1"),
    "pixel_hash": ("text", "hash of the stored values, of `scan(..., pixel_hash=True)`"),
}
# The units of numbers (PS3.3); counts, factors and unit vectors have none.
UNITS_BY_NAME: Final = """
mm: image_position_patient image_position_volume pixel_spacing imager_pixel_spacing
mm: nominal_scanned_pixel_spacing object_pixel_spacing_in_center_of_beam slice_thickness
mm: distance_source_to_detector distance_source_to_patient distance_source_to_isocenter
mm: spacing_between_slices slice_location grid_frame_offset reconstruction_diameter
ms: trigger_time nominal_cardiac_trigger_delay_time actual_cardiac_trigger_delay_time
ms: nominal_respiratory_trigger_delay_time echo_time effective_echo_time repetition_time
ms: inversion_time inversion_times frame_reference_time frame_acquisition_duration
ms: actual_frame_duration
s: temporal_position_time_offset radionuclide_half_life philips_dynamic_scan_begin_time
s: temporal_resolution
s/mm2: diffusion_b_value siemens_b_value ge_b_value philips_b_value uih_b_value
degrees: gantry_detector_tilt flip_angle
modality units: window_center window_width
by `physical_units_*_direction`: physical_delta_x physical_delta_y
T: magnetic_field_strength
kV: kvp
keV: monoenergetic_energy_equivalent
%: nominal_percentage_of_cardiac_phase nominal_percentage_of_respiratory_phase
cm/s: velocity_encoding_maximum_value
kg: patient_weight
m: patient_size
Bq: radionuclide_total_dose
"""
UNITS: Final = {
    name: unit
    for unit, _, names in (line.partition(": ") for line in UNITS_BY_NAME.strip().splitlines())
    for name in names.split()
}
NEEDS: Final = {
    "identity": "Identity",
    "select": "Selection",
    "pixels": "Coding of the pixels",
    "grid": "Grid",
    "intensity": "Values",
    "split": "Time points, echoes, b-values and other dimensions",
    "suv": "SUV",
}
KINDS: Final = {"text": "text", "integer": "integer", "real": "number", "flag": "flag"}


def kind_of(attribute: Attribute) -> str:
    if attribute.kind == "reals":
        return f"{attribute.size or 'several'} numbers"
    return KINDS[attribute.kind]


def dicom_of(attribute: Attribute) -> str:
    """The keyword or the private creator, with the tag."""
    tag = f"({attribute.tag >> 16:04X},{attribute.tag & 0xFFFF:04X})"
    return f"{attribute.creator or keyword_for_tag(attribute.tag)} {tag}"


def table(heading: str, names: str, rows: list[tuple[str, ...]]) -> str:
    lines = [names, "|" + "---|" * (names.count("|") - 1)]
    lines += ["| " + " | ".join((f"`{row[0]}`", *row[1:])) + " |" for row in rows]
    return f"\n## {heading}\n\n" + "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for heading, columns in (
        ("Stacks", STACKS),
        ("Frames: file and byte range", LOCATION),
    ):
        rows = [(name, *told) for name, told in columns.items()]
        parts.append(table(heading, "| column | type | meaning |", rows))
    for need, heading in NEEDS.items():
        rows = [
            (each.name, kind_of(each), dicom_of(each), UNITS.get(each.name, ""))
            for each in attributes()
            if each.need == need
        ]
        parts.append(table(f"Frames: {heading}", "| column | type | DICOM | unit |", rows))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())

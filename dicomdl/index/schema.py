"""Schemas of the five tables of an index, and the number of their format.

``FORMAT`` rises with every change of a table, of the manifest or of the folder. An index of another
format is refused, and the next scan rebuilds it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from dicomdl.geometry.verdict import IDC_CHECKS
from dicomdl.headers.attribute import Attribute
from dicomdl.headers.frame import attributes
from dicomdl.headers.frame_source import FILE_FIELDS

FORMAT: Final = 13
TABLES: Final = ("files", "frames", "stacks", "problems", "annotations")
TEXT: Final = pa.large_string()
_ARROW: Final[Mapping[str, pa.DataType]] = {
    "text": TEXT,
    "integer": pa.int64(),
    "real": pa.float64(),
    "flag": pa.bool_(),
}
# Columns of `frames` that describe a byte range or a tile; the others hold DICOM attributes.
_LOCATION_FIELDS: Final = (
    ("file", pa.int32()),
    ("frame_number", pa.int32()),
    ("byte_offset", pa.int64()),
    ("byte_length", pa.int64()),
    ("bit_offset", pa.int8()),
    ("deflated", pa.bool_()),
    ("float_pixels", pa.bool_()),
    # What is odd about the file (`headers._flags`).
    ("flags", TEXT),
    ("coded_rows", pa.int32()),
    ("coded_columns", pa.int32()),
    ("tile_top", pa.int32()),
    ("tile_left", pa.int32()),
)
# Values of most frames: not a tile of a mosaic; -1 until the scan fills it in.
DEFAULTS: Final = {
    **{"coded_rows": 0, "coded_columns": 0, "tile_top": 0, "tile_left": 0},
    "flags": "",
    **{"position_in_stack": -1, "duplicate_of": -1, "pixel_digest": "", "pixel_hash": ""},
}
# Columns that the scan fills in last. `pixel_digest` is set for frames whose pixels were compared,
# so that the next scan does not read them again. `pixel_hash` is set by `scan(pixel_hash=True)`.
_CONCLUDED: Final = (
    ("position_in_stack", pa.int32()),
    ("duplicate_of", pa.int64()),
    ("pixel_digest", TEXT),
    ("pixel_hash", TEXT),
)
# State of a file when it was scanned, as `storage.sources.state_of` returns it.
STATE_COLUMNS: Final = FILE_FIELDS[1:]
# Of text: the last one.
ETAG: Final = "file_etag"
FILES_SCHEMA: Final = pa.schema(
    [
        # Bytes of the operating system: a file name need not be UTF-8.
        ("path", pa.large_binary()),
        *((name, TEXT if name == ETAG else pa.int64()) for name in STATE_COLUMNS),
        ("kind", TEXT),
        ("sop_class_uid", TEXT),
        # Of DICOM without an image; the table of frames has those of images.
        ("study_instance_uid", TEXT),
        ("series_instance_uid", TEXT),
    ]
)
# Table that workers send: with the number of each file.
READ_FILES_SCHEMA: Final = FILES_SCHEMA.append(pa.field("file", pa.int32()))
PROBLEMS_SCHEMA: Final = pa.schema([("file", pa.int32()), ("reason", TEXT), ("detail", TEXT)])
STACKS_SCHEMA: Final = pa.schema(
    [
        ("frame_start", pa.int64()),
        ("slices", pa.int64()),
        ("series", pa.int64()),
        ("content", TEXT),
        ("verdict", TEXT),
        # Whether slices of several contrasts are in the stack; `detail` counts them.
        ("mixed", pa.bool_()),
        ("detail", TEXT),
        ("affine", pa.list_(pa.float64(), 16)),
        ("spacing", pa.list_(pa.float64(), 3)),
        # First item of `spacing`, for `select`.
        ("slice_spacing", pa.float64()),
        # JSON object: the values that distinguish this stack from the others of its group.
        ("dimension", TEXT),
        ("group", pa.int64()),
        ("group_index", pa.int64()),
        *((name, pa.bool_()) for name in IDC_CHECKS),
        ("obliquity_degrees", pa.float64()),
        # Kinds of the readable annotations of the stack, with spaces between them.
        ("annotations", TEXT),
    ]
)
# What objects such as SEG and RTSTRUCT say about images, as workers send it.
READ_ANNOTATIONS_SCHEMA: Final = pa.schema(
    [
        ("file", pa.int32()),
        *((name, TEXT) for name in ("kind", "patient_id", "sop_instance_uid")),
        *((name, TEXT) for name in ("study_instance_uid", "series_instance_uid")),
        *((name, TEXT) for name in ("frame_of_reference_uid", "created", "label")),
        *((name, TEXT) for name in ("segmentation_type", "fractional_type")),
        ("maximum_fractional_value", pa.int64()),
        # JSON: segments or regions of interest.
        ("segments", TEXT),
        ("referenced_series", pa.list_(pa.large_string())),
        # Hashes of the SOP Instance UIDs that are referenced.
        ("referenced_instances", pa.list_(pa.int64())),
        # Sentences on what deviates from the standard or from custom, and is read all the same.
        ("remarks", pa.list_(pa.large_string())),
        # Why the object cannot be read; "" if it can.
        ("detail", TEXT),
    ]
)
# The scan adds what it concludes of them: a status, the stacks, how many of the referenced
# instances are in the index, and the files of the object.
_LINKS: Final = (
    ("status", TEXT),
    ("stacks", pa.list_(pa.int64())),
    ("referenced", pa.int64()),
    ("found", pa.int64()),
    ("files", pa.list_(pa.int64())),
)
ANNOTATIONS_SCHEMA: Final = pa.schema(
    [*READ_ANNOTATIONS_SCHEMA, *(pa.field(name, kind) for name, kind in _LINKS)]
)


def frames_schema(extra: Sequence[Attribute] = ()) -> pa.Schema:
    """Return the schema of `frames`.

    Its columns are the byte range of a frame, the attributes, those of `extra`, and the
    conclusions of the scan.
    """
    return _frames_schema(tuple(extra))


# Small: the schemas of a few scans.
@functools.lru_cache(maxsize=8)
def _frames_schema(extra: tuple[Attribute, ...]) -> pa.Schema:
    fields = [
        *_LOCATION_FIELDS,
        *((a.name, _arrow_type(a)) for a in (*attributes(), *extra)),
        *_CONCLUDED,
    ]
    return pa.schema(fields)


def _arrow_type(attribute: Attribute) -> pa.DataType:
    if attribute.kind == "reals":
        return pa.list_(pa.float64(), attribute.size) if attribute.size else pa.list_(pa.float64())
    return _ARROW[attribute.kind]

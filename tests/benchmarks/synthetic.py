"""An index of any size without files behind it, built by the functions that a scan uses.

    python tests/benchmarks/synthetic.py FOLDER --frames 1000000 --series 10000

Odd series are CT, even ones MR. A patient has three series, a study two. Slices are 2.5 mm apart.
"""

import argparse
import os
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.stacks import build_stacks
from dicomdl.headers.columns import Constant
from dicomdl.headers.frame import attributes
from dicomdl.index.building import encoded, frames_table, table_of
from dicomdl.index.generations import publish
from dicomdl.index.own_scans import record
from dicomdl.index.schema import ANNOTATIONS_SCHEMA, FILES_SCHEMA, PROBLEMS_SCHEMA
from dicomdl.index.table import Table
from dicomdl.jobs.scan import stacks_table

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
FRAME_BYTES = 512 * 512 * 2


def synthetic_index(
    folder: str | os.PathLike[str], frames: int = 1_000_000, series: int = 10_000
) -> str:
    """Write an index of `series` series of ``frames // series`` slices each into `folder`.

    Returns the folder.
    """
    of_series, slices = _places(frames, series)
    rows = synthetic_frames(of_series, slices)
    stacking = build_stacks(encoded(rows), Tolerances())
    paths = [
        b"/data/archive/%05d/%06x.dcm" % (one, number)
        for number, one in enumerate(of_series.tolist())
    ]
    files = {
        "path": paths,
        "file_bytes": np.full(len(paths), FRAME_BYTES + 9100),
        "file_mtime_ns": 10**18 + np.arange(len(paths)),
        "file_ctime_ns": 10**18 + np.arange(len(paths)),
        "file_inode": 1 + np.arange(len(paths)),
        "file_etag": [""] * len(paths),
        "kind": ["image"] * len(paths),
        "sop_class_uid": [CT] * len(paths),
        "study_instance_uid": [""] * len(paths),
        "series_instance_uid": [""] * len(paths),
    }
    tables = {
        "files": table_of(FILES_SCHEMA, files),
        "frames": rows.take(stacking.order).with_column(
            "position_in_stack", slices[stacking.order]
        ),
        "stacks": stacks_table(stacking),
        "problems": Table(PROBLEMS_SCHEMA.empty_table()),
        "annotations": Table(ANNOTATIONS_SCHEMA.empty_table()),
    }
    options = {"tolerances": asdict(Tolerances())}
    facts = {"options": options, "passed_over": {}}
    record(os.fspath(folder), publish(os.fspath(folder), tables, facts))
    return os.fspath(folder)


def _places(frames: int, series: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (series, slice) numbers of every frame."""
    slices = frames // series
    return np.repeat(np.arange(series), slices), np.tile(np.arange(slices), series)


def synthetic_frames(of_series: NDArray[np.int64], slices: NDArray[np.int64]) -> Table:
    """Return the rows of `frames`, one file per row, before stacks are built."""
    count = len(of_series)
    columns: dict[str, Any] = {
        a.name: Constant("" if a.kind == "text" else False if a.kind == "flag" else None, count)
        for a in attributes()
    }
    per_series = {
        "patient_id": lambda one: f"BENCH-{one // 3:06d}",
        "study_instance_uid": lambda one: f"2.25.2.{one // 2}",
        "series_instance_uid": lambda one: f"2.25.3.{one}",
        "frame_of_reference_uid": lambda one: f"2.25.4.{one // 2}",
        "modality": lambda one: "CT" if one % 2 else "MR",
    }
    numbers = of_series.tolist()
    columns |= {name: [value(one) for one in numbers] for name, value in per_series.items()}
    columns["sop_instance_uid"] = [
        f"2.25.5.{one}.{place}" for one, place in zip(numbers, slices.tolist(), strict=True)
    ]
    columns["instance_number"] = slices + 1
    shift = (
        np.random.default_rng(0)
        .uniform(-300, 300, (int(of_series.max(initial=-1)) + 1, 3))
        .round(3)
    )
    positions = shift[of_series] + np.outer(slices * 2.5, [0, 0, 1])
    columns["image_position_patient"] = pa.FixedSizeListArray.from_arrays(
        pa.array(positions.ravel()), 3
    )
    constants: dict[str, Any] = {
        "sop_class_uid": CT,
        "transfer_syntax_uid": EXPLICIT_LITTLE,
        "photometric_interpretation": "MONOCHROME2",
        **{
            "rows": 512,
            "columns": 512,
            "samples_per_pixel": 1,
            "planar_configuration": 0,
            "number_of_frames": 1,
        },
        **{"bits_allocated": 16, "bits_stored": 12, "high_bit": 11, "pixel_representation": 0},
        **{"rescale_slope": 1.0, "rescale_intercept": -1024.0, "slice_thickness": 2.5},
        **{
            "image_orientation_patient": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            "pixel_spacing": (0.7, 0.7),
        },
    }
    columns |= {name: Constant(value, count) for name, value in constants.items()}
    places: dict[str, Any] = {
        "file": np.arange(count),
        "frame_number": np.ones(count, dtype=np.int32),
        "byte_offset": 9000 + np.arange(count) % 97,
        "byte_length": np.full(count, FRAME_BYTES),
        "bit_offset": np.zeros(count, dtype=np.int8),
        "deflated": np.zeros(count, dtype=bool),
        "float_pixels": np.zeros(count, dtype=bool),
    }
    return frames_table(places, columns, ())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--series", type=int, default=10_000)
    given = parser.parse_args()
    start = time.perf_counter()
    synthetic_index(given.folder, given.frames, given.series)
    print(
        f"{given.folder}: {given.frames} frames in {given.series} series, "
        f"{time.perf_counter() - start:.1f} s"
    )


if __name__ == "__main__":
    main()

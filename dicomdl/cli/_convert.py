"""`dicomdl convert`: write every stack or group as NIfTI, NRRD, MetaImage or NumPy."""

import argparse
import json
import os
from typing import Any

from dicomdl.cli._output import FINE, PROBLEMS, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    convert = commands.add_parser(
        "convert",
        help="write every stack or group as NIfTI, NRRD, MetaImage or NumPy, with labels and JSON",
        description="Convert every stack or group, with SEG and RTSTRUCT as label maps and a JSON "
        "of its facts. What is complete from an earlier run is left as it is; what was not "
        "converted is listed with the reason, and the exit code is 1.",
    )
    convert.add_argument(
        "source",
        metavar="SOURCE",
        help="index folder, or a folder of DICOM, which is scanned first (its index is kept in the "
        "user's cache folder)",
    )
    convert.add_argument("-o", "--out", required=True, metavar="OUT", help="output folder")
    convert.add_argument(
        "--suffix",
        default=".nii.gz",
        metavar="SUFFIX",
        help=".nii.gz (default), .nii, .nrrd, .nhdr, .mha, .mhd or .npy",
    )
    convert.add_argument(
        "--names",
        metavar="TEMPLATE",
        help="paths below OUT, with columns of the index, {stack}, {group} and {suffix} as fields "
        "(default: {patient_id}/{series_number:03}_{series_description}{suffix})",
    )
    convert.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only frames that meet a condition, as for show; may be repeated",
    )
    convert.add_argument(
        "--values",
        default="modality",
        choices=("modality", "suv", "philips", "real_world"),
        help="what the values mean (default: modality, HU for CT)",
    )
    convert.add_argument(
        "--irregular",
        default="raise",
        choices=("raise", "accept", "resample"),
        help="stacks with missing or uneven slices: refuse (default), take as they lie, or put on "
        "a regular grid",
    )
    convert.add_argument(
        "--tilt",
        default="sform",
        choices=("sform", "resample"),
        help="tilted stacks: keep the slices, with the shear in the sform of NIfTI (default), or "
        "put them on an orthogonal grid",
    )
    convert.add_argument("--no-labels", action="store_true", help="leave out SEG and RTSTRUCT")
    convert.add_argument(
        "--overwrite", action="store_true", help="replace files of other data or options"
    )
    convert.add_argument(
        "--workers", type=int, metavar="N", help="images at once (default: one per core)"
    )
    convert.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    convert.add_argument("--json", action="store_true", help="print everything as JSON")
    convert.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Convert, and print what became of each image."""
    from dicomdl.index import filtering
    from dicomdl.index.opening import open_index
    from dicomdl.jobs.convert import convert
    from dicomdl.jobs.scan import scan

    shows = not (given.quiet or given.json)
    is_index = os.path.isdir(os.path.join(given.source, "generations"))
    index = open_index(given.source) if is_index else scan(given.source, progress=shows)
    done = convert(
        filtering.selected(index, given.where),
        given.out,
        suffix=given.suffix,
        names=given.names,
        values=given.values,
        irregular=given.irregular,
        tilt=given.tilt,
        labels=not given.no_labels,
        overwrite=given.overwrite,
        workers=given.workers,
        progress=shows,
    )
    if given.json:
        print(json.dumps(done.to_dict(), indent=1, allow_nan=False))
    else:
        print_text(repr(done))
    return FINE if done.ok else PROBLEMS

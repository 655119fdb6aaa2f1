"""`dicomdl export`: write the samples of an index for nnU-Net, WebDataset, MONAI and others."""

import argparse
import json
import warnings
from typing import Any, Final

from dicomdl.cli import _joining
from dicomdl.cli._output import FINE, PROBLEMS, print_text
from dicomdl.errors import UsageError

# Those of `jobs.exports.options`, which would take a second to import for each `--help`.
FORMATS: Final = ("nnunet", "webdataset", "datalist", "png", "hf", "yolo")
DTYPES: Final = ("auto", "int16", "float16", "float32")
PICTURES: Final = ("png", "png16", "jpeg")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    export = commands.add_parser(
        "export",
        help="write the samples for nnU-Net, WebDataset, MONAI, Hugging Face or YOLO",
        description="Export the samples of an index. A run that was interrupted continues when it "
        "is called again. What was refused is listed with the reason, and the exit code is 1.",
    )
    export.add_argument("index", metavar="INDEX", help="index folder, or the folder it was made of")
    export.add_argument("--to", required=True, choices=FORMATS, help="the format")
    export.add_argument("-o", "--out", required=True, metavar="OUT", help="output folder")
    export.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only frames that meet a condition, as for show; may be repeated",
    )
    export.add_argument(
        "--intensity",
        metavar="NAME",
        help="auto, modality or a preset such as ct.lung (default: modality for volumes, auto for "
        "frames)",
    )
    export.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        metavar="MM",
        help="resample to a spacing: one number, or one per axis (slice, row, column)",
    )
    export.add_argument(
        "--size", type=int, nargs="+", metavar="N", help="resample, crop or pad to a size"
    )
    export.add_argument("--orientation", metavar="AXES", help="directions of the axes: RAS")
    export.add_argument(
        "--irregular",
        default="raise",
        choices=("raise", "accept", "resample"),
        help="stacks with missing or uneven slices: leave out (default), take as they lie, or put "
        "on a regular grid",
    )
    export.add_argument("--labels", metavar="SOURCE", help="SEG, RTSTRUCT or a pattern of files")
    _joining.add(export, "targets or boxes", "columns of the table that are the target")
    export.add_argument(
        "--boxes",
        metavar="X,Y,WIDTH,HEIGHT[,LABEL]",
        help="columns of the table with a box per row; other rows of frames have none",
    )
    export.add_argument(
        "--dtype",
        default="auto",
        choices=DTYPES,
        help="values of volumes (default: int16 where it holds all exactly, else float32)",
    )
    division = export.add_mutually_exclusive_group()
    division.add_argument("--split", metavar="FILE", help="the split that Split.save wrote")
    division.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="divide patients into train, val and test: 0.8 0.1 0.1",
    )
    division.add_argument("--folds", type=int, metavar="K", help="divide patients into K folds")
    export.add_argument("--name", default="", metavar="NAME", help="data set: Dataset501_Lung")
    export.add_argument(
        "--names",
        metavar="TEMPLATE",
        help="names of samples, with columns of the index as fields (default: a hash)",
    )
    export.add_argument(
        "--suffix", default=".nii.gz", metavar="SUFFIX", help="of images: .nii.gz (default), .mha"
    )
    export.add_argument(
        "--picture", default="png", choices=PICTURES, help="the format of frames (default: png)"
    )
    export.add_argument(
        "--shard-mb", type=int, default=256, metavar="MB", help="the most of a shard (default: 256)"
    )
    export.add_argument(
        "--overwrite", action="store_true", help="write into a folder with other files"
    )
    export.add_argument(
        "--workers", type=int, metavar="N", help="samples at once (default: one per core)"
    )
    export.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    export.add_argument("--json", action="store_true", help="print everything as JSON")
    export.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Export, and print what became of the samples."""
    from dicomdl.index import filtering
    from dicomdl.index.opening import open_index
    from dicomdl.jobs.exports.export import export
    from dicomdl.jobs.exports.exported import ExportWarning

    index = filtering.selected(open_index(given.index), given.where)
    boxes = _boxes(given.boxes)
    names = [] if boxes is None else [*boxes.names, *([boxes.label] if boxes.label else [])]
    with warnings.catch_warnings():
        # The summary says it.
        warnings.simplefilter("ignore", ExportWarning)
        done = export(
            _joining.joined(index, given, names),
            given.to,
            given.out,
            intensity=given.intensity,
            spacing=_one_or_all(given.spacing),
            size=_one_or_all(given.size),
            orientation=given.orientation,
            irregular=given.irregular,
            labels=given.labels,
            target=given.target,
            boxes=boxes,
            dtype=given.dtype,
            split=given.split or given.fractions or given.folds,
            name=given.name,
            names=given.names,
            suffix=given.suffix,
            picture=given.picture,
            shard_bytes=given.shard_mb * 2**20,
            overwrite=given.overwrite,
            workers=given.workers,
            progress=not (given.quiet or given.json),
        )
    if given.json:
        print(json.dumps(done.to_dict(), indent=1, allow_nan=False))
    else:
        print_text(repr(done))
    return FINE if done.ok else PROBLEMS


def _boxes(columns: str | None) -> Any:
    """Return the boxes of an option such as ``"x,y,width,height,label"``."""
    from dicomdl.datasets.marks import Boxes

    if columns is None:
        return None
    names = columns.split(",")
    if not 4 <= len(names) <= 5:
        raise UsageError(f"--boxes {columns}: expected four columns, or five with the classes")
    x, y, width, height, *label = names
    return Boxes(x, y, width, height, label[0] if label else None)


def _one_or_all(numbers: list[Any] | None) -> Any:
    """Return one number for all axes, or those of all axes."""
    return numbers[0] if numbers is not None and len(numbers) == 1 else numbers

"""The public `export`: all samples of an index in one format, by one process."""

import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from dicomdl.index.given import Indexed, as_index
from dicomdl.index.text import counted
from dicomdl.jobs._file_names import output_folder
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.exports._records import alone, begin, remove_stale, require_usable
from dicomdl.jobs.exports.exported import Exported, ExportWarning
from dicomdl.jobs.exports.formats import exporter_of
from dicomdl.jobs.exports.options import (
    Dtype,
    ExportOptions,
    Format,
    Picture,
    SplitOption,
    saved_split,
)
from dicomdl.values.stack_intensity import SuvPolicy


def export(
    source: Indexed,
    to: Format,
    out: str | os.PathLike[str],
    *,
    intensity: Any = None,
    size: Sequence[int] | int | None = None,
    spacing: Any = None,
    orientation: str | None = None,
    interpolation: Literal["linear", "thick_slices"] = "linear",
    irregular: Literal["raise", "accept", "resample"] = "raise",
    channels: Any = None,
    suv: SuvPolicy = "required",
    labels: Any = None,
    target: Any = None,
    boxes: Any = None,
    points: Any = None,
    dtype: Dtype = "auto",
    split: SplitOption | None = None,
    parts: Sequence[str] = (),
    name: str = "",
    names: str | None = None,
    suffix: str = ".nii.gz",
    picture: Picture = "png",
    shard_bytes: int = 256 * 2**20,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Exported:
    """Export the samples of an index for nnU-Net, WebDataset, MONAI, Hugging Face or YOLO.

    The samples are those of a dataset with the same options: of `VolumeDataset` for "nnunet",
    "webdataset" and "datalist", of `FrameDataset` for "png", "hf" and "yolo". A run that was
    interrupted continues when it is called again: complete samples are left as they are.

    Parameters
    ----------
    source
        What datasets take: an Index, its path, stacks, Series.
    to
        "nnunet": the raw data set of nnU-Net v2, with ``splits_final.json`` by our split.
        "webdataset": tar shards and a manifest, which `ShardDataset` and the package webdataset
        read. "datalist": images and the JSON of MONAI's `load_decathlon_datalist`. "png": frames as
        pictures with a table. "hf": pictures in the layout that the package datasets loads. "yolo":
        pictures with boxes.
    out
        The output folder, which is created if it is absent.
    intensity
        As for datasets. The default is "modality" (HU for CT) for volumes and "auto" for frames.
    size, spacing, orientation, interpolation, irregular, channels, suv
        As for `VolumeDataset`; exports of frames take `size`, `spacing`, `channels` and `suv`.
    labels
        As for `VolumeDataset`: "SEG", "RTSTRUCT", a `LabelSource`, a pattern of files or a
        function.
    target, boxes, points
        Joined columns, as for datasets.
    dtype
        The values of volumes on disk: "int16" (rounded), "float16", "float32", or "auto": int16
        where it holds every value of a volume exactly, else float32.
    split
        What `Index.split` or `load_split` returns, the path of its file, fractions, or the number
        of folds. None is one part, and for "nnunet" five folds by patient: folds that nnU-Net makes
        divide patients.
    parts
        The name of each part of a split by fractions. The default is train, val, test by their
        number.
    name
        The name of the data set; "nnunet" needs one such as "Dataset501_Lung".
    names
        The template of the names of samples, as for `convert`. By default each has a hash, which
        names no patient.
    suffix
        The format of images of "nnunet" and "datalist": ".nii.gz", ".nii", ".mha" or ".nrrd".
    picture
        The format of frames: "png", "png16" (16 bits) or "jpeg".
    shard_bytes
        The most bytes of a shard; a sample that is larger has one of its own.
    overwrite
        Whether a folder with other files, or of an export with other options, is written to.
    workers
        The number of samples that are made at once; one per core by default. Each holds about two
        volumes in memory.
    progress
        Show a progress bar.

    Returns
    -------
    Exported
        What became of each sample, with the reason where it was refused.

    Warns
    -----
    ExportWarning
        Samples were written that lost something (`Exported.remarks`): labels that overlap, or
        fractions of modality values in pictures.

    Raises
    ------
    UsageError
        An option is none or does not fit the format, the folder has other files, or a template
        gives two samples one name. An EmptySelection, if no sample is left.
    StorageError
        The folder cannot be written to, another export writes to it, or the disk is full. Complete
        samples stay.

    Examples
    --------
    >>> import os, tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = os.path.join(folder, "index")
    ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), index, progress=False)
    ...     out = os.path.join(folder, "shards")
    ...     done = dicomdl.export(index, "webdataset", out, progress=False)
    ...     print(done.counts, done.published)
    {'train': 1} ('manifest.parquet',)
    """
    index = as_index(source, "export")
    options = ExportOptions(
        to,
        intensity=intensity,
        size=size,
        spacing=spacing,
        orientation=orientation,
        interpolation=interpolation,
        irregular=irregular,
        channels=channels,
        suv=suv,
        labels=labels,
        target=target,
        boxes=boxes,
        points=points,
        dtype=dtype,
        split=saved_split(split, index, to),
        parts=tuple(parts),
        name=name,
        names=names,
        suffix=suffix,
        picture=picture,
        shard_bytes=shard_bytes,
    )
    folder = output_folder(out)
    exporter = exporter_of(index, options, workers=workers)
    require_usable(folder, options, overwrite=overwrite)
    with alone(folder):
        begin(folder, options, overwrite=overwrite)
        with progress_bar(
            total=len(exporter), unit="sample", desc=f"exporting to {to}", shown=progress
        ) as bar:
            entries = exporter.write(None, folder, done=bar.update)
        remove_stale(folder, entries)
        published = exporter.publish(entries, folder)
    done = Exported(folder, to, tuple(entries), tuple(published), exporter.left_out)
    if lost := [f"{counted(n, 'samples')}: {words}" for words, n in done.remarks.items()]:
        warnings.warn(f"export to {to}: {'; '.join(lost)}", ExportWarning, stacklevel=2)
    return done

"""Files of a volume, which appear complete and together, or not at all."""

import gzip
import os
import shutil
from collections.abc import Mapping
from typing import Any

from dicomdl.errors import StorageError
from dicomdl.storage.publishing import put_together
from dicomdl.volumes.nifti import HEADER_BYTES, stem_of, without_time_step
from dicomdl.volumes.resampling import write_image


def save_image(image: Any, path: str, *, has_step: bool, beside: Mapping[str, str]) -> None:
    """Write an image, and texts beside it under its name with other suffixes.

    Existing files of these names are replaced.

    Parameters
    ----------
    image
        A SimpleITK image.
    path
        Its file name, with the suffix of a format that stores a grid.
    has_step
        Whether the fourth spacing of the image is a time in s. A NIfTI file that has none states 0
        and the unit "unknown".
    beside
        {suffix: text}, for a NIfTI file.

    Raises
    ------
    StorageError
        The folder is absent, or cannot be written to.
    """
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise StorageError(f"{path!r} cannot be written: no such folder")
    with put_together(path) as inside:
        stem = stem_of(inside)
        if stem is None or has_step:
            write_image(image, inside)
        else:
            write_image(image, f"{stem}.open.nii")
            _rewrite(f"{stem}.open.nii", inside)
        for suffix, text in beside.items():
            with open(f"{stem}{suffix}", "w", encoding="ascii", newline="\n") as file:
                file.write(text)


def _rewrite(source: str, target: str) -> None:
    """Rewrite an uncompressed NIfTI file without a time step; compressed if the name says so."""
    with open(source, "r+b") as file:
        header = without_time_step(file.read(HEADER_BYTES))
        file.seek(0)
        file.write(header)
    if not target.lower().endswith(".gz"):
        os.replace(source, target)
        return
    with open(source, "rb") as raw, gzip.GzipFile(target, "wb", compresslevel=6, mtime=0) as packed:
        shutil.copyfileobj(raw, packed, 1 << 20)
    os.unlink(source)

"""The public `read_volume`: of a stack or a group, or of whatever holds only one."""

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.geometry.verdict import Irregular
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.index import Index
from dicomdl.index.text import format_ledger
from dicomdl.index.views import Group, Stack
from dicomdl.jobs.scan import scan
from dicomdl.pixels.isolation import IsolationOption
from dicomdl.values.quantity import RealWorld
from dicomdl.values.suv import SUV
from dicomdl.volumes.read import ReversedRows
from dicomdl.volumes.read import read_volume as read_stacks
from dicomdl.volumes.volume import Volume

# Volumes that the message about several lists.
_LISTED: Final = 20


def read_volume(
    source: Indexed,
    *,
    values: str | SUV | RealWorld = "modality",
    irregular: Irregular = "raise",
    reversed_rows: ReversedRows = "accept",
    dtype: npt.DTypeLike | None = None,
    reduce: int = 0,
    threads: int | None = None,
    max_bytes: int | None = None,
    isolation: IsolationOption = "auto",
) -> Volume:
    """Read a stack or a group as a volume of modality values (HU for CT) on its grid.

    Parameters
    ----------
    source
        A stack of ``index.stacks``, or a group of ``index.groups``, whose stacks become one array
        with a leading axis. Or something that holds only one of these, segmentations aside: a
        folder of DICOM or one file (its index in the user's cache folder is made or updated, as by
        `scan` without `out`; nothing is written beside the data), the folder of an index, an Index,
        a Series.

        No stack of a group is left out: one that cannot be read refuses the group, and the error
        names it. ``group.readable`` is the group without such stacks, and ``group.parts`` are its
        quantities (magnitude and phase) one by one.
    values
        "modality": rescale or Modality LUT, per slice. "philips": floating point values by Philips'
        private Scale Slope SS, ``(stored * RS + RI) / (RS * SS)`` with the rescale RS, RI of each
        frame, as dcm2niix; they compare between series, and no header states their units. "suv" or
        an `SUV`: PET as standardized uptake values. "real_world" or a `RealWorld`: stored values
        through the Real World Value Mapping of the file, NaN for values that it does not map.
    irregular
        Policy for a stack whose slices do not make a regular grid. "raise": an IrregularStack with
        the numbers. "accept": the slices as stored; the affine holds only on average, or is NaN
        without geometry. A file with one position for all its frames gets the grid of its
        SpacingBetweenSlices (for CT else SliceThickness) along the normal, which
        ``stack.detail["assumed_spacing"]`` states. "resample": a regular, orthogonal grid, with
        interpolated slices marked in `Volume.filled`:

        - Missing slices are interpolated between their neighbours. All others stay as they are.
        - Uneven spacing becomes the median gap, starting at the first slice (see
          `dicomdl.geometry.regular.regular_slices`). A slice is interpolated between its two
          neighbours unless a file holds it.
        - A tilt, alone or in addition, is resampled away (`Volume.resample`). Voxels outside the
          old grid get the smallest value.

        Interpolation is linear and stays inside the slices; within half a pixel of the edge of a
        tilted slice, the edge is repeated. Segmentations take the nearest slice, or background if
        none is within half a slice, because empty frames may be omitted from them. Four cases
        still raise: slices that deviate from their line by more than 0.1 mm in plane, gaps so
        wide that most slices would be interpolated, repeated positions, and missing geometry.
    reversed_rows
        "turn": the rows of volumes of GE's epi_pepolar that are stored in reverse (`check` names
        them) are turned, so that the affine holds. "accept": the rows as the header has them.
    dtype
        int16, int32 or float32. The default is int16 if all values fit exactly, else int32, else
        float32; a fractional slope or intercept gives float32. Interpolated integers are rounded.
        Colour stays uint8 or uint16.
    reduce
        Number of times that rows and columns are halved, as in `read_frame`, for overviews and
        training at low resolution. The centre of the first voxel and the slices stay the same.
        Pixels next to padding are means of image and padding.
    threads
        Threads that read and decode. The default is one per core.
    max_bytes
        Limit for the decoded bytes of compressed frames. The default is 1 GiB, or a thousand times
        their bytes in the files if that is more.
    isolation
        Which decoders run in a helper process, as in `read_frame`: "auto", "process", "none", or an
        `Isolation`.

    Returns
    -------
    Volume
        array (slice, row, column[, sample]); for a group, (t, slice, row, column[, sample]) in one
        dtype. The array is new and belongs to the caller.

    Raises
    ------
    IrregularStack
        The policy does not allow the verdict of the stack, or of a stack of the group. Attributes
        `verdict` and `detail`.
    IncompleteGroup
        Some stacks of the group lack slices, under any policy. Attribute `missing`.
    GeometryError
        The stacks of the group are not on one grid, as in a run that follows a moving head: some
        are more than 0.1 mm off the first. Attributes `t`, `error_mm` and `rotation_deg`.
        ``[read_volume(stack).resample_to(group[0].geometry) for stack in group]`` are volumes on
        the grid of the first.
        With `reversed_rows`: the header does not tell which rows to turn.
    PixelError
        A frame cannot be read. Notes name the file and the frame number.
    TooLarge
        The values would take more memory than `max_bytes`.
    IntensityError
        A rescale is not a number, a table, map or private scaling is missing or cannot be used, or
        values do not fit the requested `dtype`.
    SUVError
        The header does not give the requested SUV. Attribute `attribute`.
    UsageError
        `source` holds no volume, or several, which the message lists; or `irregular` or
        `reversed_rows` is not a policy.

    Examples
    --------
    >>> import dicomdl, tempfile
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), folder, progress=False)
    ...     volume = dicomdl.read_volume(index.stacks[0])
    >>> volume.array.shape, volume.array.dtype, volume.units
    ((1, 128, 128), dtype('int16'), 'HU')
    >>> dicomdl.read_volume(get_testdata_file("CT_small.dcm")).shape
    (1, 128, 128)
    """
    return read_stacks(
        source if isinstance(source, Stack | Group) else _only_volume(source),
        values=values,
        irregular=irregular,
        reversed_rows=reversed_rows,
        dtype=dtype,
        reduce=reduce,
        threads=threads,
        max_bytes=max_bytes,
        isolation=isolation,
    )


def _only_volume(source: Any) -> Stack | Group:
    """Return the only stack or group of what a user passes; raise a UsageError for others."""
    index = _index_of(source)
    # A folder of images with their segmentation holds one volume, and labels of it.
    images = [stack for stack in index.stacks if stack.content == "image"]
    members: dict[int, list[Stack]] = {}
    for stack in images or index.stacks:
        members.setdefault(stack.group.number, []).append(stack)
    volumes = [
        stacks[0] if len(stacks) == 1 else stacks[0].group.only(stacks)
        for stacks in members.values()
    ]
    if not volumes:
        words = (
            f"there is no volume to read: {format_ledger(index.ledger)}"
            if isinstance(source, str | os.PathLike)
            else "there is no volume to read: no complete stack is selected"
        )
        raise UsageError(words)
    if len(volumes) > 1:
        raise _several(volumes, source)
    return volumes[0]


def _index_of(source: Any) -> Index:
    """Return the index of what a user passes; scan a folder or file that is not an index."""
    if not isinstance(source, str | os.PathLike):
        return as_index(source, "read_volume")
    folder = os.path.expanduser(os.fspath(source))
    if os.path.isdir(os.path.join(folder, "generations")):
        return as_index(source, "read_volume")
    return scan(source)


def _several(volumes: Sequence[Stack | Group], source: Any) -> UsageError:
    """Return the error that lists several volumes, and says how to read one."""
    first = [each if isinstance(each, Stack) else each[0] for each in volumes]
    lines = [
        f"  {stack.number:>5}  {each!r}"
        for stack, each in zip(first[:_LISTED], volumes, strict=False)
    ]
    if len(volumes) > _LISTED:
        lines.append(f"  ... and {len(volumes) - _LISTED:,} more")
    is_path = isinstance(source, str | os.PathLike)
    index = f"index = dicomdl.open_index({os.fspath(source)!r}); " if is_path else ""
    is_group = any(isinstance(each, Group) for each in volumes)
    stack = "index.stack(number)"
    read = f"read_volume({stack})" + (f" or read_volume({stack}.group)" if is_group else "")
    text = "\n".join([f"there are {len(volumes):,} volumes, of these numbers:", *lines])
    return UsageError(f"{text}\nread one: {index}{read}", stacks=[s.number for s in first])

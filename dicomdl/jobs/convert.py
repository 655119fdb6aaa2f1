"""Conversion of an index into files of volumes: NIfTI, NRRD, MetaImage or NumPy."""

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from dicomdl.errors import EmptySelection, UsageError
from dicomdl.geometry.verdict import Irregular
from dicomdl.index.given import Indexed, as_index, require_frames
from dicomdl.index.index import Index
from dicomdl.index.text import counted
from dicomdl.jobs._conversion import ConversionOptions, convert_image
from dicomdl.jobs._conversion_plan import Planned, plan
from dicomdl.jobs._file_names import output_folder
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.conversions import Conversion, ConvertedImage
from dicomdl.storage import publishing as storage
from dicomdl.storage.system import available_cores
from dicomdl.values.quantity import RealWorld
from dicomdl.values.suv import SUV

# What a killed conversion leaves: files and folders that were not put in place.
_TEMPORARY: Final = r".*\.[0-9a-f]{12}\.tmp"
_DAY_S: Final = 86400.0


def convert(
    source: Indexed,
    out: str | os.PathLike[str],
    *,
    suffix: str = ".nii.gz",
    names: str | None = None,
    values: str | SUV | RealWorld = "modality",
    irregular: Irregular = "raise",
    tilt: Literal["sform", "resample"] = "sform",
    labels: bool = True,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Conversion:
    """Convert every stack or group of an index into a file of its volume.

    Time points, phases and diffusion directions of a group become one image of four dimensions,
    with ``.bval`` and ``.bvec`` for diffusion. Echoes, kernels, coils, and magnitude and phase
    become files with a suffix. SEG and RTSTRUCT become label maps on the grid of their image, with
    a table of names. A JSON beside each image has facts of its header in the keys of BIDS.

    Parameters
    ----------
    source
        What `as_index` of datasets takes: an Index, its path, stacks, Series.
    out
        The output folder, which is created if it is absent. Images that an earlier conversion of
        the same data with the same options completed there are left as they are.
    suffix
        ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", or ".npy" for the array alone.
    names
        The template of paths below `out`, with the columns of the index, joined ones among them,
        and ``{stack}``, ``{group}`` and ``{suffix}`` (of echoes and the like; at the end if the
        template lacks it) as fields: ``"{series_instance_uid}/{modality}_{stack:04}"``. The default
        is ``"{patient_id}/{series_number:03}_{series_description}{suffix}"``, with the number of
        the stack where names are equal. Other characters than letters, digits and ``._+=-`` become
        ``_``.
    values
        As for `read_volume`.
    irregular
        As for `read_volume`: "raise" refuses stacks with missing or uneven slices, "resample" puts
        them on a regular grid, "accept" takes them as they lie.
    tilt
        "sform" keeps the slices of a tilted stack, whose shear only NIfTI can state; "resample"
        puts them on an orthogonal grid.
    labels
        Whether SEG and RTSTRUCT are converted.
    overwrite
        Whether files of other data or options are replaced.
    workers
        The number of images that are converted at once; one per core by default. Each holds about
        two volumes in memory.
    progress
        Show a progress bar.

    Returns
    -------
    Conversion
        What became of each stack, with the reason where it was refused.

    Raises
    ------
    UsageError
        An option is none, the template is wrong, or it gives two images one name. An
        EmptySelection, if there is no image.
    StorageError
        The output folder cannot be written to, or the disk is full. Images that are complete stay.

    Examples
    --------
    >>> import os, tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = os.path.join(folder, "index")
    ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), out, progress=False)
    ...     done = dicomdl.convert(index, folder, names="{modality}_{stack}", progress=False)
    ...     print(done.images[0].files)
    ('CT_0.nii.gz', 'CT_0.json')
    """
    index = as_index(source, "convert")
    index.require_readable()
    require_frames(index, "convert")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, expected at least 1", workers=workers)
    workers = workers or available_cores()
    target = output_folder(out)
    options = ConversionOptions(
        target,
        suffix,
        values,
        irregular,
        tilt,
        labels,
        overwrite,
        threads=max(1, available_cores() // workers),
    )
    segmentations = _segmentations(index)
    images = plan(index.of_stacks(_others(index, segmentations)), names, irregular)
    if not images:
        stacks = counted(len(segmentations), "stacks")
        others = f" but {stacks} of segmentations, labels of images" if segmentations else ""
        raise EmptySelection(
            f"convert: no complete stack of an image is selected{others}", left_out=[]
        )
    storage.make_folder(target)
    for folder in {os.path.dirname(os.path.join(target, image.name)) for image in images}:
        storage.remove_old(folder, _DAY_S, time.time(), pattern=_TEMPORARY)
    done: list[ConvertedImage | None] = [None] * len(images)
    for number, image in _converted(images, options, workers, progress=progress):
        done[number] = image
    return Conversion(target, tuple(image for image in done if image is not None), segmentations)


def _segmentations(index: Index) -> tuple[int, ...]:
    return tuple(s.number for s in index.stacks if s.content == "segmentation")


def _others(index: Index, left_out: Sequence[int]) -> list[int]:
    passed = set(left_out)
    return [number for number in index.stacks.numbers.tolist() if number not in passed]


def _converted(
    images: Sequence[Planned], options: ConversionOptions, workers: int, *, progress: bool
) -> Iterator[tuple[int, ConvertedImage]]:
    """Convert images in threads: yield (number, result), in any order.

    Compression and decoding, which take nearly all of the time, run outside of the interpreter
    lock. After a failure of the disk no further image is begun.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(images)):
        waiting.put(number)
    results: queue.SimpleQueue[tuple[int, ConvertedImage | BaseException]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results.put((number, convert_image(images[number], options)))
            except BaseException as error:
                stopped.set()
                results.put((number, error))

    team = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(images)))]
    for thread in team:
        thread.start()
    try:
        with progress_bar(
            total=len(images),
            unit="image",
            desc="converting",
            shown=progress,
        ) as bar:
            for _ in images:
                number, result = results.get()
                if isinstance(result, BaseException):
                    raise result
                bar.update()
                yield number, result
    finally:
        stopped.set()
        for thread in team:
            thread.join()

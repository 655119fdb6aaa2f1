"""Opening of the index folder that a scan wrote."""

import os

from dicomdl.errors import GenerationGone, UsageError
from dicomdl.index.access import Access, access_to
from dicomdl.index.defaults import find_default
from dicomdl.index.index import Index
from dicomdl.index.moves import Roots
from dicomdl.index.rows import generation_of
from dicomdl.index.stored_generation import read_manifest
from dicomdl.storage.folders import require_no_url


def open_index(
    path: str | os.PathLike[str],
    *,
    root: Roots | None = None,
    strict_files: bool = True,
    trust: bool = False,
) -> Index:
    """Open the index folder that `dicomdl.scan` wrote.

    Opening takes milliseconds: the tables are memory-mapped.

    An index holds the paths of its files. They are read if a scan of this user wrote the index, or
    if they are below a `root` that this call gives. An index of somebody else opens without that,
    too: it prints, selects, splits and exports its tables, and reading pixels or making a dataset
    raises `UntrustedRoot`. The tables of such an index are checked when it is opened, 0.4 s per
    million frames.

    Parameters
    ----------
    path
        The index folder, the `out` of the scan; or a folder that was scanned without `out`.
    root
        Where the data are now, if they were moved or are mounted elsewhere: the new folder in place
        of the only root of the scan, or {old root: new root}. The default is ``$DICOMDL_ROOT``, as
        a folder or as OLD=NEW pairs that ":" divides (";" on Windows). Files are the same if size
        and modification time are; rows, splits and cache keys stay. ``dicomdl scan --move`` makes
        the move permanent. Of an index of somebody else, the files below the given roots are read,
        unless links lead out of them. Name the folder also where it did not move.
    strict_files
        Whether the change time of a file must be that of the scan, too. A program can set the
        modification time of a file back, but not its change time. False serves file systems on
        which the change time is not stable, such as container images and some network mounts.
    trust
        Whether to read any file that an index of somebody else names, also through links.

    Returns
    -------
    Index
        The current generation of the index.

    Raises
    ------
    IndexFolderError
        There is no index, or it has another format; `IndexDamaged` if a file is not as the scan
        wrote it.
    UsageError
        `path` is a URL or no path, or `root` does not fit the roots of the index.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as out:
    ...     _ = dicomdl.scan(get_testdata_file("CT_small.dcm"), out, progress=False)
    ...     print(dicomdl.open_index(out))  # doctest: +ELLIPSIS
    Index: 1 patient, 1 study, 1 series, 1 stack, 1 frame
      modality   stacks     frames  verdicts
      CT              1          1  1 single
      1 file = 1 with images + 0 DICOM without an image + 0 not DICOM + 0 problems
      flagged files: 1 also_tiff
      in ...
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"open_index takes the path of an index folder, not {type(path).__name__}")
    require_no_url(os.fspath(path))
    folder = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if not os.path.isdir(os.path.join(folder, "generations")):
        folder = find_default(folder) or folder
    while True:
        name = read_manifest(folder)["generation"]
        try:
            access = access_to(folder, name, root, strict_files=strict_files, trust=trust)
            return opened(folder, name, access)
        except GenerationGone:
            # A scan that stores less of patients removes the generation before its own at once, so
            # the manifest names another one now.
            continue


def opened(folder: str, name: str, access: Access) -> Index:
    """Return the index of a generation, whose tables are opened now.

    A damaged index is reported here and not in mid-training.
    """
    generation = generation_of(folder, name, access)
    _ = generation.tolerances, generation.files, generation.stacks
    return Index(generation)

"""Where a received file lies, and how it comes there: whole or not at all.

The layout is ``folder/StudyInstanceUID/SeriesInstanceUID/SOPInstanceUID.dcm``, with the names of
`jobs.received_names`. An instance that is there with the same bytes is kept once. One with other
bytes is kept beside it, under a name with a hash of its bytes. A file is written in a hidden
folder, which no scan reads, and gets its name in one step.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

import xxhash

from dicomdl.errors import HeaderError, StorageError
from dicomdl.headers.data_set import leading_texts
from dicomdl.headers.parsed import parsed_header
from dicomdl.jobs.received_names import SUFFIX, file_name, name_of
from dicomdl.storage import publishing as storage
from dicomdl.storage.given import GivenBytes
from dicomdl.storage.handles import UNKNOWN, Source

Outcome = Literal["new", "present", "differs"]
_SCRATCH: Final = r"\.part\..*\.tmp"
_HOUR_S: Final = 3600.0
# Systems and file systems without hard links, such as exFAT.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_STUDY, _SERIES = 0x0020000D, 0x0020000E


class Identity(NamedTuple):
    """The UIDs of a file; "" for those that it lacks."""

    sop_class: str
    study: str
    series: str
    instance: str


class Placed(NamedTuple):
    """A file that lies in the folder.

    Attributes
    ----------
    path
        Its path below the folder, with ``/``.
    outcome
        "new"; "present" if the same bytes were there; "differs" if the instance was there with
        other bytes, and now lies there twice.
    """

    path: str
    outcome: Outcome


def identity_of(data: bytes) -> Identity:
    """Return the UIDs in the data set of a file.

    Raises
    ------
    HeaderError
        The data set cannot be read.
    """
    tags = (_SOP_CLASS, _STUDY, _SERIES, _SOP_INSTANCE)
    with contextlib.suppress(HeaderError):
        found = leading_texts(data, tags)
        if len(found) == len(tags):
            return Identity(*(found[tag] for tag in tags))
    return _parsed_identity(data, tags)


def _parsed_identity(data: bytes, tags: Sequence[int]) -> Identity:
    """Return the UIDs as pydicom reads them, which takes ten times as long."""
    source = Source(GivenBytes(data), len(data), UNKNOWN)
    try:
        header = parsed_header(source, tags)
        found = {tag: str(header[tag].value or "") for tag in tags if tag in header}
    except HeaderError:
        raise
    except Exception as error:
        # pydicom raises many kinds of errors for damaged data sets.
        raise HeaderError(
            f"the data set cannot be read: {type(error).__name__}", reason="unreadable"
        ) from None
    return Identity(*(found.get(tag, "") for tag in tags))


def path_of(identity: Identity) -> str:
    """Return the path of an instance below a folder, with ``/``."""
    folders = name_of("study", identity.study), name_of("series", identity.series)
    return "/".join((*folders, file_name(identity.instance)))


class Placing:
    """A folder that files are put into, by several threads or processes at once.

    Parameters
    ----------
    folder
        The folder, which is created if it is absent.
    """

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(os.path.expanduser(folder))
        self._lock = threading.Lock()
        self._count = 0
        self._scratch = ""

    @contextlib.contextmanager
    def open(self) -> Iterator["Placing"]:
        """Make the folder ready; what a killed process left half-written is removed.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        storage.make_folder(self.folder)
        storage.remove_old(self.folder, _HOUR_S, time.time(), pattern=_SCRATCH)
        with storage.scratch_folder(self.folder) as self._scratch:
            yield self

    def put(self, data: bytes, identity: Identity | None = None) -> Placed:
        """Put the bytes of a file into the folder.

        Parameters
        ----------
        data
            The whole file.
        identity
            Its UIDs; they are read if they are not given.

        Returns
        -------
        Placed
            Where it lies, and whether it is new.

        Raises
        ------
        HeaderError
            The data set cannot be read.
        StorageError
            The disk is full, or the folder cannot be written. Nothing is left of the file.
        """
        path = path_of(identity or identity_of(data))
        if self._write(path, data):
            return Placed(path, "new")
        digest = xxhash.xxh3_128_hexdigest(data)
        if self._has(path, data, digest):
            return Placed(path, "present")
        path = f"{path.removesuffix(SUFFIX)}-{digest}{SUFFIX}"
        return Placed(path, "differs" if self._write(path, data) else "present")

    def has(self, identity: Identity) -> bool:
        """Whether an instance lies in the folder."""
        return os.path.lexists(self._absolute(path_of(identity)))

    def _write(self, path: str, data: bytes) -> bool:
        """Write a file, unless one of the name is there; return whether it was written."""
        target = self._absolute(path)
        if os.path.lexists(target):
            return False
        with self._lock:
            self._count += 1
            written = os.path.join(self._scratch, f"{self._count}{SUFFIX}")
        storage.write_new(written, data)
        try:
            return _moved(written, target)
        finally:
            storage.remove_files([written])

    def _has(self, path: str, data: bytes, digest: str) -> bool:
        target = self._absolute(path)
        with storage.explained(f"{target!r} cannot be read"):
            return storage.size_of(target) == len(data) and storage.digest_of(target) == digest

    def _absolute(self, path: str) -> str:
        return os.path.join(self.folder, *path.split("/"))


def _moved(source: str, target: str) -> bool:
    """Give a file its name, unless another file has it; return whether it got it."""
    with storage.explained(f"{target!r} cannot be written"):
        # Most files come into a folder that is there.
        with contextlib.suppress(FileNotFoundError):
            return _linked(source, target)
        storage.make_folder(os.path.dirname(target))
        return _linked(source, target)


def _linked(source: str, target: str) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.replace(source, target)
    return True


def is_full(error: StorageError) -> bool:
    """Whether an error says that the disk, or the user's share of it, is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

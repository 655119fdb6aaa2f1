"""storage.cache.keys"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dicomdl.errors import FileChanged, PixelError, UsageError
from dicomdl.storage.cache.layout import FORMAT_VERSION
from dicomdl.version import __version__

VALUES_VERSION: Final = (
    1  # part of every key: raise it when the same files and options come to give other values
)


@dataclass(frozen=True, slots=True)
class FileState:
    """One source file as it is now, and which of its frames are meant: all that a key knows of it.

    Made by `FileState.of`. `path` only serves to read the contents for a strict key; it is no part of any key, so that a data set
    that is mounted elsewhere keeps its entries.
    """

    path: str
    instance_uid: str
    frames: tuple[int, ...]
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(
        cls, path: str | os.PathLike[str], instance_uid: str = "", frames: Sequence[int] = (1,)
    ) -> "FileState":
        """Ask the file system now, about 2 us a file.

        Raises
        ------
        FileChanged
            The file is gone.
        PixelError
            It cannot be looked up. Attribute `errno`.
        """
        try:
            status = os.stat(path)
        except FileNotFoundError:
            raise FileChanged("the file that was scanned is gone: scan again") from None
        except OSError as error:
            raise PixelError(
                f"the file cannot be opened: {error.strerror}", errno=error.errno
            ) from error
        times = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return cls(os.fsdecode(path), instance_uid, tuple(map(int, frames)), *times)


@dataclass(frozen=True, slots=True)
class Key:
    """The name of an entry: 64 hexadecimal digits that tell nothing about a patient."""

    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise UsageError("a key is 64 hexadecimal digits, as stack_key makes it")


def stack_key(files: Sequence[FileState], options: Mapping[str, str], strict: bool = False) -> Key:
    """The key of values that are made of these files, in this order, with these options.

    Parameters
    ----------
    files
        In slice order. A file's size, modification and change time and inode stand for its contents: every rewriting changes one of
        them, even when the modification time is set back.
    options
        Everything else that the values depend on, by name: the reprs of frozen options. Tiles of one frame need their origin here.
    strict
        A hash of each file's contents takes the place of times and inode: for file systems whose inodes or times cannot be relied on, and
        for data that moves between them. It reads every file whole (0.8 GB/s).

    Returns
    -------
    Key
        BLAKE2b of canonical JSON; the versions of dicomdl, its values and its format are part of it.

    Raises
    ------
    PixelError
        A strict key of a file that cannot be read.
    """
    sources = [
        [
            file.instance_uid,
            list(file.frames),
            _content(file.path)
            if strict
            else [file.size, file.mtime_ns, file.ctime_ns, file.inode],
        ]
        for file in files
    ]
    versions = {"dicomdl": __version__, "values": VALUES_VERSION, "format": FORMAT_VERSION}
    told = {"versions": versions, "strict": strict, "files": sources, "options": dict(options)}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return Key(hashlib.blake2b(text.encode(), digest_size=32).hexdigest())


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(
                file, functools.partial(hashlib.blake2b, digest_size=32)
            ).hexdigest()
    except OSError as error:
        raise PixelError(f"the file cannot be read: {error.strerror}", errno=error.errno) from error

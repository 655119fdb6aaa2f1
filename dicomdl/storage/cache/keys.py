"""Keys of cache entries: digests of the states of files and of the options of the values.

A key holds everything that the values depend on, so that a stale entry is never found. The state of
a file is cheap to read but depends on the file system; a strict key reads the contents instead, at
0.8 GB/s.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dicomdl.errors import UsageError
from dicomdl.storage.cache._layout import FORMAT_VERSION
from dicomdl.storage.locations import inside
from dicomdl.storage.sources import Source, as_stream, opened
from dicomdl.version import __version__

# Part of every key. Raise it when the same files and options result in other values.
VALUES_VERSION: Final = 3


class KeyFile(NamedTuple):
    """A file that goes into a key, in the state that `look_up` returned, and the frames in use.

    The path serves to read the contents for a strict key. It is not a part of any key, so a data
    set that is mounted elsewhere keeps its entries. The name of a member of an archive is: members
    share the times and the inode of their archive.
    """

    file: Source
    instance_uid: str = ""
    frames: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class Key:
    """The name of an entry: 64 hexadecimal digits, which reveal nothing about a patient."""

    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise UsageError("a key is 64 hexadecimal digits, as stack_key makes it")


def stack_key(files: Sequence[KeyFile], options: Mapping[str, str], strict: bool = False) -> Key:
    """Return the key of values that are computed from these files, in this order, with options.

    Parameters
    ----------
    files
        The files in slice order. Size, modification time, change time and inode stand for the
        contents of a file: every rewrite changes one of them, even when the modification time is
        set back.
    options
        Everything else that the values depend on, by name: the reprs of frozen options. Tiles of
        one frame need their origin here.
    strict
        Whether a hash of the contents replaces times and inode. It serves file systems with
        unreliable inodes or times, and data that moves between file systems. It reads every file
        completely (0.8 GB/s).

    Returns
    -------
    Key
        BLAKE2b of canonical JSON, which includes the versions of dicomdl, its values and its
        format.

    Raises
    ------
    PixelError
        `strict` is True, and a file cannot be read.
    """
    sources = [
        [file.instance_uid, list(file.frames), _content(file.file) if strict else _state(file.file)]
        for file in files
    ]
    versions = {"dicomdl": __version__, "values": VALUES_VERSION, "format": FORMAT_VERSION}
    parts = {"versions": versions, "strict": strict, "files": sources, "options": dict(options)}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return Key(hashlib.blake2b(text.encode(), digest_size=32).hexdigest())


def _state(file: Source) -> list[int | str]:
    # The ETag of a file is "", and it has no member: keys of files stay those of older versions.
    return [part for part in (*file[1:], inside(file.path)) if part != ""]


def _content(file: Source) -> str:
    digest = functools.partial(hashlib.blake2b, digest_size=32)
    with opened(file) as handle:
        return hashlib.file_digest(as_stream(handle), digest).hexdigest()

"""storage.cache.keys"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dicomdl.errors import UsageError
from dicomdl.storage.cache._layout import FORMAT_VERSION
from dicomdl.storage.sources import Source, as_stream, opened
from dicomdl.version import __version__

VALUES_VERSION: Final = (
    1  # part of every key: raise it when the same files and options come to give other values
)


class KeyFile(NamedTuple):
    """One file that goes into a key, in the state that `look_up` found, and which of its frames are meant.

    Its path only serves to read the contents for a strict key; it is no part of any key, so that a
    data set that is mounted elsewhere keeps its entries.
    """

    file: Source
    instance_uid: str = ""
    frames: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class Key:
    """The name of an entry: 64 hexadecimal digits that tell nothing about a patient."""

    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise UsageError("a key is 64 hexadecimal digits, as stack_key makes it")


def stack_key(files: Sequence[KeyFile], options: Mapping[str, str], strict: bool = False) -> Key:
    """The key of values that are made of these files, in this order, with these options.

    Parameters
    ----------
    files
        In slice order. A file's size, modification and change time and inode stand for its
        contents: every rewriting changes one of them, even when the modification time is set back.
    options
        Everything else that the values depend on, by name: the reprs of frozen options. Tiles of
        one frame need their origin here.
    strict
        A hash of each file's contents takes the place of times and inode: for file systems whose
        inodes or times cannot be relied on, and for data that moves between them. It reads every
        file whole (0.8 GB/s).

    Returns
    -------
    Key
        BLAKE2b of canonical JSON; the versions of dicomdl, its values and its format are part of
        it.

    Raises
    ------
    PixelError
        A strict key of a file that cannot be read.
    """
    sources = [
        [one.instance_uid, list(one.frames), _content(one.file) if strict else list(one.file[1:])]
        for one in files
    ]
    versions = {"dicomdl": __version__, "values": VALUES_VERSION, "format": FORMAT_VERSION}
    told = {"versions": versions, "strict": strict, "files": sources, "options": dict(options)}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return Key(hashlib.blake2b(text.encode(), digest_size=32).hexdigest())


def _content(file: Source) -> str:
    digest = functools.partial(hashlib.blake2b, digest_size=32)
    with opened(file) as handle:
        return hashlib.file_digest(as_stream(handle), digest).hexdigest()

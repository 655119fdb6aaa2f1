"""Locations: how the column `path` names a file, a member of an archive, or an object of a store.

    /abs/file.dcm                     a file on a mounted file system
    /abs/case.zip//name/in/archive    a member of an archive
    /abs/a.zip//b.zip//c.dcm          a member of an archive in an archive
    s3://bucket/key, https://host/x   an object of a store
    s3://bucket/case.zip//name        a member of an archive in a store

A normalised path has no "//" behind its first character, so "//" tells all others from a file, and
a file costs one search for it. Names of members are normalised by `member_name`. `os.path.dirname`
of a location is the location of the folder; `os.path.abspath` and `os.path.commonpath` would merge
the "//", and `absolute` and `common_folder` stand for them.
"""

import itertools
import os
import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

SEPARATOR: Final = "//"
Kind = Literal["file", "member", "object"]
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Location(NamedTuple):
    """A file or object, and the names of the members that lead from it to a member of an archive.

    `members` is empty for a file and for an object.
    """

    whole: str
    members: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What is at the location."""
        if self.members:
            return "member"
        return "object" if is_url(self.whole) else "file"


def is_url(path: str) -> bool:
    """Whether a location begins with a scheme, as objects of a store do."""
    return _URL.match(path) is not None


def split(path: str) -> Location:
    """Return the parts of a location."""
    if SEPARATOR not in path:
        return Location(path)
    url = _URL.match(path)
    # POSIX keeps two slashes at the start of a path apart from one.
    start = url.end() if url else 1
    whole, *members = path[start:].split(SEPARATOR)
    return Location(path[:start] + whole, tuple(members))


def joined(archive: str, member: str) -> str:
    """Return the location of a member of an archive."""
    return f"{archive}{SEPARATOR}{member}"


def inside(path: str) -> str:
    """Return what a location adds to the state of its file, for keys that leave out the path.

    "" for a file, whose inode tells it from others; the names of a member; the location of an
    object.
    """
    if SEPARATOR not in path:
        return ""
    location = split(path)
    return path if is_url(path) else SEPARATOR.join(location.members)


def member_name(name: str) -> str | None:
    """Normalise the name of a member; None for a name that leads out of its archive.

    Such are absolute names, drives, and ".." in any part. Both slashes separate parts. "./" and
    repeated slashes vanish. A NUL and a lone surrogate beyond those of file names are refused, too.
    """
    if "\0" in name:
        return None
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    within = [part for each in parts for part in each.split("\\")]
    is_absolute = name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) is not None
    return None if is_absolute or not parts or ".." in within else "/".join(parts)


def absolute(path: str) -> str:
    """Return the location that a user's path means, as `os.path.abspath` does for files."""
    if is_url(path):
        return path
    path = os.path.expanduser(path)
    location = split(path)
    if location.members and os.path.isfile(location.whole):
        return SEPARATOR.join((_plain(location.whole), *location.members))
    return _plain(path)


def _plain(path: str) -> str:
    """Return the absolute path of a file, with one slash at its start where POSIX keeps two."""
    whole = os.path.abspath(path)
    return whole[1:] if whole.startswith("//") else whole


def common_folder(paths: Sequence[str]) -> str:
    """Return the location of the folder that holds all of some files or members."""
    folders = {os.path.dirname(path) for path in paths}
    if len(folders) == 1 or not any(SEPARATOR in path for path in paths):
        return folders.pop() if len(folders) == 1 else os.path.commonpath(folders)
    parts = [folder.split("/") for folder in folders]
    # The parts of "a//b" are "a", "" and "b".
    same = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(min(parts), max(parts), strict=False)
    )
    return "/".join(part for part, _ in same).rstrip("/")

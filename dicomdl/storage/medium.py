r"""Files of a medium, such as a CD, by the names that its directory has: ``IMAGES\IM1``.

A directory is not trusted: no name leads out of its folder, also not through a link. Systems show
the names of a CD in upper or lower case, and some with the version of ISO 9660 (``IM1;1``).
"""

import os
import stat
from typing import Final, NamedTuple

from dicomdl.storage.handles import State, state_of

_FORBIDDEN: Final = ("\0", ":")
_SEPARATOR: Final = os.sep


# The name of a directory (PS3.10 8.6); a CD may show it in lower case.
_DIRECTORY: Final = "DICOMDIR"


def is_dicomdir(path: str) -> bool:
    """Whether a path is named as the directory of a medium."""
    return os.path.basename(path).upper() == _DIRECTORY


class Found(NamedTuple):
    """A file, its state and identity; or the reason, in a word and a sentence, why it is not read.

    `path` is "" where the name leads out of the folder.
    """

    path: str
    state: State = (0, 0, 0, 0, "")
    key: tuple[int, int] = (0, 0)
    reason: str = ""
    detail: str = ""


class Medium:
    """The folder of a directory, in which names are looked up regardless of case."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._real = os.path.realpath(folder)
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, file_id: str) -> Found:
        """Return the file of a name whose parts either slash divides."""
        parts = [part.strip(" ") for part in file_id.replace("/", "\\").split("\\")]
        if any(part in ("", ".", "..") or _is_forbidden(part) for part in parts):
            return _refused("", "unsafe_name", "the name leads out of the folder of its directory")
        path = self.folder
        for number, part in enumerate(parts):
            name = self._names(path).get(part) or self._names(path).get(part.lower())
            if name is None:
                missing = os.path.join(path, *parts[number:])
                return _refused(missing, "missing", "the directory references it, and it is absent")
            path = os.path.join(path, name)
        return self._checked(path)

    def _checked(self, path: str) -> Found:
        real = os.path.realpath(path)
        if not real.startswith(self._real.rstrip(_SEPARATOR) + _SEPARATOR):
            detail = "the file is a link out of the folder of its directory"
            return _refused(path, "outside_link", detail)
        try:
            status = os.stat(path)
        except OSError as error:
            return _refused(path, "unreadable", f"cannot be opened: {error.strerror}")
        if not stat.S_ISREG(status.st_mode):
            return _refused(path, "special_file", "the directory references what is no file")
        return Found(path, state_of(status), (status.st_dev, status.st_ino))

    def _names(self, folder: str) -> dict[str, str]:
        """Return the names in a folder: by themselves, and in lower case without a version."""
        if (found := self._listed.get(folder)) is not None:
            return found
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            names = []
        plain = {name.lower().partition(";")[0].rstrip("."): name for name in reversed(names)}
        self._listed[folder] = plain | {name: name for name in names}
        return self._listed[folder]


def _is_forbidden(part: str) -> bool:
    return any(character in part for character in _FORBIDDEN)


def _refused(path: str, reason: str, detail: str) -> Found:
    return Found(path, reason=reason, detail=detail)

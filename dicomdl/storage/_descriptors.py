"""Descriptors of pieces that stay open.

The rule: at most `most_open` of them in a process, of the pieces that were used last. They are
closed with the object that holds them, and one thread uses it. A child process inherits them, and
reads at positions that it gives, so it disturbs no other process.
"""

import contextlib
import os
from collections.abc import Sized
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.storage.memory import decisions

Descriptors = npt.NDArray[np.int32]
_MOST: Final = 512
# How many the objects of this process hold, by their identity. Each changes its own number.
_held: Final[dict[int, int]] = decisions()


def most_open() -> int:
    """Return the bound: an eighth of what the system allows to this process, and at most 512."""
    try:
        import resource
    except ImportError:
        return 64
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if allowed == resource.RLIM_INFINITY else min(_MOST, allowed // 8)


class OpenPieces:
    """Descriptors that stay open, per `Pieces`."""

    def __init__(self) -> None:
        self._most = most_open()
        self._of: dict[Sized, Descriptors] = {}
        self._open = 0

    def of(self, pieces: Sized, first: int, count: int) -> Descriptors | None:
        """Return (pieces,) int32, -1 where none is open, for a loop that opens `count` from first.

        None where they are too many to stay open, together with those of other objects.
        """
        room = self._most - sum(list(_held.values())) + _held.get(id(self), 0)
        if count > room:
            return None
        # The pieces used last are the last of the dictionary.
        kept = self._of.pop(pieces, None)
        if kept is None:
            kept = np.full(len(pieces), -1, np.int32)
        self._of[pieces] = kept
        self._open += int(np.count_nonzero(kept[first : first + count] < 0))
        while self._open > room:
            oldest = next(iter(self._of))
            is_own = oldest is pieces
            _close(self._of.pop(oldest))
            if is_own:
                kept = self._of[pieces] = np.full(len(pieces), -1, np.int32)
            self._open = count + sum(int(np.count_nonzero(each >= 0)) for each in self._of.values())
        _held[id(self)] = self._open
        return kept

    def close(self) -> None:
        """Close them all."""
        while self._of:
            _close(self._of.popitem()[1])
        self._open = 0
        _held.pop(id(self), None)

    def __del__(self) -> None:
        self.close()


def _close(descriptors: Descriptors) -> None:
    for descriptor in descriptors[descriptors >= 0].tolist():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    descriptors[...] = -1
